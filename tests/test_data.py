import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from compactbert.data import TASKS, compute_metrics, encode_task, encode_texts, load_task, load_texts, score_logits
from compactbert.data.docstrings import AREA_NAMES, read_docstrings
from compactbert.data.metrics import METRICS
from compactbert.data.tasks import METRICS_OF_PROBLEM


DATA = os.environ.get("COMPACTBERT_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="COMPACTBERT_DATA does not name a folder of datasets")


def write(path: Path, **columns) -> str:
    frame = pd.DataFrame(columns)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    return str(path)


def test_docstrings_are_deterministic_and_disjoint():
    splits = read_docstrings()
    assert splits == read_docstrings.__wrapped__()
    assert len(splits["train"]["text"]) > 4000
    assert not set(splits["train"]["text"]) & set(splits["validation"]["text"])
    assert set(splits["validation"]["label"]) == set(range(len(AREA_NAMES)))


def test_docstrings_as_a_task():
    task = load_task("docstrings", max_train_rows=50, max_evaluation_rows=20)
    assert (len(task.train), len(task.evaluation), task.evaluation_split) == (50, 20, "validation")
    assert task.label_names == AREA_NAMES
    assert task.head == "ForSequenceClassification"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_local_files_of_every_kind(tmp_path, suffix):
    path = write(tmp_path / f"data.{suffix}", text=[f"row {i}" for i in range(50)], label=["b", "a"] * 25)
    task = load_task(path)
    assert (task.problem, task.label_names) == ("single_label_classification", ["a", "b"])
    assert (len(task.train), len(task.evaluation), task.evaluation_split) == (45, 5, "held_out")
    assert task.evaluation["text"] == load_task(path).evaluation["text"]


def test_the_text_na_is_text(tmp_path):
    path = write(tmp_path / "data.csv", text=["NA", "null", "None", "x"] * 10, label=[0, 1, 0, 1] * 10)
    assert "NA" in load_task(path).train["text"]


def test_a_folder_with_splits(tmp_path):
    write(tmp_path / "train.csv", text=["x", "y"], label=[0, 1])
    write(tmp_path / "test.csv", text=["z"], label=[1])
    task = load_task(str(tmp_path))
    assert (task.evaluation_split, task.label_names, task.evaluation["label"]) == ("test", ["0", "1"], [1])


def test_a_data_folder_holds_tasks_by_name(tmp_path, monkeypatch):
    (tmp_path / "mrpc").mkdir()
    for split in ("train", "validation"):
        write(tmp_path / "mrpc" / f"{split}.parquet", sentence1=["a"], sentence2=["b"], label=[1])
    monkeypatch.setenv("COMPACTBERT_DATA", str(tmp_path))
    for task in (load_task("mrpc"), load_task("mrpc", tmp_path)):
        assert task.label_names == ["not_equivalent", "equivalent"]
        assert task.metrics == ("accuracy", "f1")
        assert task.evaluation["label"] == [1]


def test_a_task_without_a_train_split_is_for_evaluation(tmp_path):
    write(tmp_path / "validation.csv", text=["x", "y"], label=["a", "b"])
    task = load_task(str(tmp_path))
    assert task.train is None
    assert len(task.evaluation) == 2


def test_validation_comes_before_validation_matched_before_test(tmp_path):
    write(tmp_path / "test.csv", text=["x"], label=[0])
    assert load_task(str(tmp_path)).evaluation_split == "test"
    write(tmp_path / "validation_matched.csv", text=["x"], label=[0])
    assert load_task(str(tmp_path)).evaluation_split == "validation_matched"
    write(tmp_path / "validation.csv", text=["x"], label=[0])
    assert load_task(str(tmp_path)).evaluation_split == "validation"


@pytest.mark.parametrize(
    ("columns", "problem", "names", "first"),
    [
        ({"label": [0.5, 1.5] * 20}, "regression", [], 0.5),
        ({"label": [["a"], ["a", "b"]] * 20}, "multi_label_classification", ["a", "b"], [1.0, 0.0]),
        (
            {"text": [["A", "b"], ["c", "D"]] * 20, "label": [["X", "O"], ["O", "X"]] * 20},
            "token_classification",
            ["O", "X"],
            [1, 0],
        ),
        ({"label": [True, False] * 20}, "single_label_classification", ["False", "True"], 1),
    ],
)
def test_the_problem_is_told_from_the_labels(tmp_path, columns, problem, names, first):
    write(tmp_path / "train.parquet", **{"text": ["x", "y"] * 20} | columns)
    write(tmp_path / "test.parquet", **{"text": ["x", "y"] * 20} | columns)
    task = load_task(str(tmp_path))
    assert (task.problem, task.label_names) == (problem, names)
    assert task.evaluation["label"][0] == first


def test_texts_need_no_labels(tmp_path):
    path = write(tmp_path / "texts.csv", text=["a", "b", "c", "d"])
    assert load_texts(path) == [["a", "b", "c", "d"]]
    sample = load_texts(path, max_rows=2)
    assert sample == load_texts(path, max_rows=2)
    assert len(sample[0]) == 2
    pairs = write(tmp_path / "pairs.jsonl", one=["a"], two=["b"])
    assert load_texts(pairs, text_columns=["one", "two"]) == [["a"], ["b"]]
    with pytest.raises(ValueError, match=r"The texts of .* has no column 'text'"):
        load_texts(pairs)


def test_samples_are_fixed(tmp_path):
    path = write(tmp_path / "data.csv", text=[f"row {i}" for i in range(100)], label=[0, 1] * 50)
    one, other = (load_task(path, max_train_rows=10).train["text"] for _ in range(2))
    assert one == other
    assert one != load_task(path).train["text"][:10]


BAD_FILES = {
    "missing column": (
        b"sentence,label\nx,1\n",
        "has no column 'text', only .*name the right ones with `text_columns`",
    ),
    "empty file": (b"", "is empty: expected a table with a header"),
    "no rows": (b"text,label\n", "has no rows"),
    "no text": (b"text,label\nx,1\n,0\n", "has no value in column 'text' of 1 rows, the first is 1"),
    "no label": (b"text,label\nx,1\ny,\n", "has no value in column 'label' of 1 rows"),
    "not utf-8": (b"text,label\ncaf\xe9,1\n", r"is not UTF-8 \(byte 0xe9 in line 2\): convert it"),
    "unquoted comma": (
        b"text,label\nhello, world,1\ngood, bye,0\n",
        "rows have more fields than the header; quote texts",
    ),
    "ragged": (b'text,label\nx,1\n"y,1\n', "is not a readable csv file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(tmp_path, case):
    content, message = BAD_FILES[case]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_task(str(tmp_path))


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [("parquet", "text", ""), ("jsonl", "text", ""), ("jsonl", '["a", "b"]\n', "every line must be an object")],
)
def test_files_of_another_format_are_refused(tmp_path, suffix, content, message):
    (tmp_path / f"data.{suffix}").write_text(content)
    with pytest.raises(ValueError, match=f"is not a readable {suffix} file: .*{message}"):
        load_task(str(tmp_path / f"data.{suffix}"))


def test_json_strings_stay_strings(tmp_path):
    lines = '{"text": "007", "label": "1.5"}\n{"text": "1e5", "label": "01"}\n' * 20
    (tmp_path / "data.jsonl").write_text(f"\ufeff{lines}")
    task = load_task(str(tmp_path / "data.jsonl"))
    assert set(task.train["text"]) == {"007", "1e5"}
    assert task.label_names == ["01", "1.5"]


def test_text_that_is_all_numbers_is_encoded_as_text(tmp_path, minilm_tokenizer):
    task = load_task(write(tmp_path / "data.csv", text=[1984, 2001] * 20, label=[0, 1] * 20))
    encoded, _ = encode_task(task, task.evaluation, minilm_tokenizer, 16)
    assert len(encoded[0]["input_ids"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": "classification"}, "`problem` must be one of"),
        ({"text_columns": ["a", "b", "c"]}, r"`text_columns` takes one or two columns, got \['a', 'b', 'c'\]"),
        ({"max_train_rows": 0}, "`max_train_rows` must be at least 1, got 0"),
        ({"max_evaluation_rows": -1}, "`max_evaluation_rows` must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_task("docstrings", **options)


def test_multi_label_rows_of_zeros_and_ones_are_refused(tmp_path):
    write(tmp_path / "test.parquet", text=["x"], label=[[1, 0, 1]])
    with pytest.raises(ValueError, match="look like rows of zeros and ones"):
        load_task(str(tmp_path))


def test_tokens_of_every_split_must_have_a_label_each(tmp_path):
    write(tmp_path / "train.parquet", text=[["a", "b"]], label=[["O", "X"]])
    write(tmp_path / "test.parquet", text=[["a", "b"]], label=[["O"]])
    with pytest.raises(ValueError, match="Row 0 of the test split of task .* has 2 tokens but 1 labels"):
        load_task(str(tmp_path))


def test_labels_unseen_in_training_are_refused(tmp_path):
    write(tmp_path / "train.csv", text=["x", "y"], label=["a", "b"])
    write(tmp_path / "test.csv", text=["z"], label=["c"])
    with pytest.raises(
        ValueError, match=r"The test split of task .* has labels \['c'\] that are not among the 2 known"
    ):
        load_task(str(tmp_path))


def test_unknown_tasks_are_refused(monkeypatch):
    monkeypatch.delenv("COMPACTBERT_DATA", raising=False)
    with pytest.raises(ValueError, match="Unknown task 'sst3': .* no data folder is set .* 'docstrings'"):
        load_task("sst3")
    with pytest.raises(ValueError, match="There is no file 'nothing.csv'"):
        load_task("nothing.csv")


def test_the_hub_is_asked_last_and_named_in_the_error(monkeypatch, tmp_path):
    asked = []

    def load_dataset(*path):
        asked.append(path)
        raise OSError("no network")

    monkeypatch.setattr("compactbert.data.tasks.load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"loading it from the Hub failed \(no network\). Set `data_dir`"):
        load_task("sst2", tmp_path)
    assert asked == [("nyu-mll/glue", "sst2")]


def test_hub_datasets_bring_their_label_names(monkeypatch):
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-X"]))})
    rows = Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[0, 1]]}, features=features)
    monkeypatch.setattr("compactbert.data.tasks.load_dataset", lambda *path: {"train": rows, "validation": rows})
    task = load_task("conll2003", "/nowhere")
    assert task.label_names == ["O", "B-X"]
    assert task.evaluation["ner_tags"] == [[0, 1]]


def test_encoding_counts_what_it_cuts(minilm_tokenizer):
    features, encodings, truncated = encode_texts([["short", "a rather longer text " * 5]], minilm_tokenizer, 8)
    assert [len(feature["input_ids"]) for feature in features] == [3, 8]
    assert (len(encodings), truncated) == (2, 1)


def test_pairs_are_encoded_with_token_types(minilm_tokenizer):
    features, _, truncated = encode_texts([["one two"], ["three"]], minilm_tokenizer, 64)
    assert features[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert truncated == 0


def test_a_words_first_token_carries_its_label(tmp_path, minilm_tokenizer):
    write(tmp_path / "test.parquet", text=[["Lhasa", "embeddings"]], label=[["B-LOC", "O"]])
    task = load_task(str(tmp_path))
    encoded, _ = encode_task(task, task.evaluation, minilm_tokenizer, 32)
    tokens = minilm_tokenizer.convert_ids_to_tokens(encoded[0]["input_ids"])
    # "l ##ha ##sa em ##bed ##ding ##s": index 0 is B-LOC, 1 is O.
    expected = [0 if token == "l" else 1 if token == "em" else -100 for token in tokens]
    assert list(encoded[0]["labels"]) == expected
    assert any(token.startswith("##") for token in tokens)


def test_metrics_against_hand_counted_values():
    # 3 true positives, 1 false positive, 1 false negative, 1 true negative
    predictions, references = [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0]
    scores = compute_metrics(["accuracy", "f1", "matthews_correlation"], predictions, references)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["f1"] == pytest.approx(0.75)
    assert scores["matthews_correlation"] == pytest.approx((3 * 1 - 1 * 1) / np.sqrt(4 * 4 * 2 * 2))
    scores = compute_metrics(["pearson", "spearman"], [1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])
    assert scores["spearman"] == pytest.approx(1.0)
    assert compute_metrics(["pearson"], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == {"pearson": 0.0}
    tags = [["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]]
    scores = compute_metrics(["seqeval_f1", "seqeval_precision", "seqeval_recall"], *tags)
    assert scores == {"seqeval_f1": pytest.approx(2 / 3), "seqeval_precision": 1.0, "seqeval_recall": 0.5}


def test_scores_of_every_problem(tmp_path):
    def task_with(**columns):
        write(tmp_path / "test.parquet", **columns)
        return load_task(str(tmp_path))

    task = task_with(text=["x", "y"], label=["a", "b"])
    assert score_logits(task, [np.array([2.0, 1]), np.array([2.0, 1])], [0, 1])["accuracy"] == 0.5
    task = task_with(text=["x", "y"], label=[["a"], ["a", "b"]])
    logits = [np.array([3.0, -1]), np.array([3.0, 1])]
    assert score_logits(task, logits, [[1, 0], [1, 1]]) == {"micro_f1": 1.0, "subset_accuracy": 1.0}
    task = task_with(text=["x", "y", "z"], label=[0.5, 1.5, 2.0])
    logits = [np.array([value]) for value in (-1.0, 1.0, 2.0)]
    assert score_logits(task, logits, [0.5, 1.5, 2.0]) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    task = task_with(text=[["x", "y"]], label=[["B-A", "O"]])
    logits = [np.array([[9.0, 0], [0, 9], [0, 9], [9, 9]])]
    assert score_logits(task, logits, [[-100, 1, 0, -100]])["seqeval_f1"] == 0.0
    assert score_logits(task, logits, [[-100, 1, 1, -100]])["seqeval_f1"] == 0.0
    assert score_logits(task, [np.array([[9.0, 0], [0, 9]])], [[0, 1]])["seqeval_f1"] == 1.0


def test_every_known_task_has_metrics_of_its_own_or_of_its_problem():
    assert {"sst2", "mrpc", "rte", "cola", "stsb", "qnli", "qqp", "mnli", "paws-x/en", "conll2003"} <= TASKS.keys()
    named = [*METRICS_OF_PROBLEM.values(), *(spec.metrics for spec in TASKS.values())]
    assert set().union(*named) <= METRICS.keys()


@needs_data
@pytest.mark.parametrize(
    ("name", "metrics", "rows"),
    [
        ("cola", ("matthews_correlation", "accuracy"), 1043),
        ("mrpc", ("accuracy", "f1"), 408),
        ("rte", ("accuracy",), 277),
        ("stsb", ("pearson", "spearman"), 1500),
        ("conll2003", ("seqeval_f1", "seqeval_precision", "seqeval_recall"), 3250),
        ("qnli", ("accuracy",), 5463),
        ("mnli", ("accuracy",), 9815),
        ("paws-x/ko", ("accuracy", "f1"), 1965),
    ],
)
def test_real_tasks(name, metrics, rows):
    task = load_task(name)
    assert (task.metrics, len(task.evaluation)) == (metrics, rows)
    assert (task.train is None) == (name in ("qnli", "paws-x/ko"))
