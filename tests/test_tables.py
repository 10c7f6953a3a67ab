"""Cleaning, deduplicating, splitting, augmenting and describing tables of text."""

import json
from collections import Counter
from copy import deepcopy

import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import List as ListOf
from families import build
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from compactbert.cli import app
from compactbert.data import (
    MaskFiller,
    augment,
    clean,
    clean_text,
    count_leaks,
    drop_duplicates,
    load_task,
    read_table,
    split,
    write_table,
)
from compactbert.data.description import describe_splits, description_rows, plot_description
from compactbert.data.splitting import write_splits


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("text", "options", "cleaned"),
    [
        ("  two\t\n words ", {}, "two words"),
        ("one\u3000two\u200b", {}, "one two"),
        ("<p class='x'>A <b>b</b>old&nbsp;word<br/>and &lt;more&gt;</p>", {}, "A bold word and <more>"),
        ("<script>var x = '<p>';</script>text<!-- a\ncomment -->", {}, "text"),
        ("x < 3 and y > 2", {}, "x < 3 and y > 2"),
        ("<b>kept</b>", {"html_tags": False}, "<b>kept</b>"),
        ("\uff21\uff22\uff11\uff0c", {}, "AB1\uff0c"),
        ("\uff21", {"full_width": False}, "\uff21"),
        ("3 of 10 films", {"digits": True}, "of films"),
        ("Don't stop, caf\u00e9_au-lait!", {"punctuation": True}, "Dont stop caf\u00e9 au lait"),
        ("Upper", {"lower": True}, "upper"),
        ("\u4f60 \u597d\uff0c world 3", {"language": "zh"}, "\u4f60\u597d\uff0c world 3"),
        (
            "\u4f60\u597d\uff0c\u4e16\u754c\u3002caf\u00e9 3",
            {"language": "zh", "punctuation": True},
            "\u4f60\u597d\u4e16\u754c caf 3",
        ),
    ],
)
def test_cleaning_rules(text, options, cleaned):
    assert clean_text(text, **options) == cleaned


def test_cleaning_a_table_keeps_order_and_drops_rows_without_text():
    table = Dataset.from_dict({"a": [1, 2, 3], "text": ["x", "<p> </p>", "<i>y</i>"], "label": [0, 1, 0]})
    cleaned, report = clean(table)
    assert cleaned.column_names == ["a", "text", "label"]
    assert cleaned["text"] == ["x", "y"]
    assert cleaned["a"] == [1, 3]
    assert report == {"rows": 3, "changed": 2, "left": 2}


def test_cleaning_loses_no_token():
    table = Dataset.from_dict({"text": [["Hello", "!", "3"]], "label": [["O", "O", "B-X"]]})
    assert clean(table, digits=True, punctuation=True, lower=True)[0]["text"] == [["hello", "!", "3"]]


LONG = "the quick brown fox jumps over the lazy dog and runs away"


def test_duplicates_are_found_equal_and_near():
    texts = ["One film", "one  FILM", LONG, LONG + " fast", "something else entirely"]
    table = Dataset.from_dict({"text": texts, "label": [0, 1, 0, 0, 1]})
    kept, report = drop_duplicates(table, label_column="label")
    assert kept["text"] == [texts[0], *texts[2:]]
    assert report == {"rows": 5, "equal": 1, "near": 0, "left": 4, "conflicting": 1}
    kept, report = drop_duplicates(table, near=0.8)
    assert kept["text"] == [texts[0], texts[2], texts[4]]
    assert (report["equal"], report["near"]) == (1, 1)
    # They have 53 of 58 shingles in common.
    assert drop_duplicates(table, near=0.95)[1]["near"] == 0


def test_pairs_are_duplicates_only_together():
    table = Dataset.from_dict({"a": ["x", "x", "x"], "b": ["y", "z", "y"]})
    assert drop_duplicates(table, ["a", "b"])[0]["b"] == ["y", "z"]


def test_leaks_are_counted_for_every_pair_of_splits():
    splits = {"train": ["a", "b", LONG], "validation": ["A", "c"], "test": ["c", "d", "a", LONG + " fast"]}
    tables = {name: Dataset.from_dict({"text": texts}) for name, texts in splits.items()}
    leaks = {"validation in train": 1, "test in train": 1, "test in validation": 2}
    assert count_leaks(tables, ["text"]) == leaks
    assert count_leaks(tables, ["text"], near=0.8) == leaks | {"test in train": 2}


def table_of(rows=200):
    labels = ["rare" if i % 10 == 0 else "common" for i in range(rows)]
    return Dataset.from_dict({"text": [f"text {i}" for i in range(rows)], "label": labels})


def test_splits_are_stratified_and_seeded():
    splits, leaks = split(table_of())
    assert {name: len(table) for name, table in splits.items()} == {"train": 140, "validation": 30, "test": 30}
    assert {name: Counter(table["label"])["rare"] for name, table in splits.items()} == {
        "train": 14,
        "validation": 3,
        "test": 3,
    }
    assert sorted(text for table in splits.values() for text in table["text"]) == sorted(table_of()["text"])
    assert not any(leaks.values())
    assert split(table_of())[0]["test"]["text"] == splits["test"]["text"]
    assert split(table_of(), seed=1)[0]["test"]["text"] != splits["test"]["text"]


def test_values_are_split_without_classes():
    table = Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "label": [i / 7 for i in range(20)]})
    assert len(split(table, shares=(0.5, 0.25, 0.25))[0]["train"]) == 10


def test_leakage_is_refused_or_reported():
    table = Dataset.from_dict({"text": ["same"] * 100, "label": [0, 1] * 50})
    with pytest.raises(ValueError, match=r"would be in two splits \(15 of validation in train, .*data dedupe"):
        split(table)
    assert split(table, leakage="report")[1]["test in train"] == 15


def test_a_written_split_leaves_an_unfinished_run_of_that_name_alone(tmp_path):
    checkpoint = tmp_path / "out.partial" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    write_splits(split(table_of())[0], tmp_path / "out", ".csv")
    assert checkpoint.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.partial"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (0.7, 0.3)}, "`shares` must be three positive numbers that sum to 1"),
        ({"shares": (0.7, 0.2, 0.2)}, "`shares` must be three"),
        ({"leakage": "ignore"}, "`leakage` must be one of"),
        ({"label_column": "stars"}, "has no column 'stars'"),
    ],
)
def test_bad_splits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        split(table_of(), **options)


def test_classes_too_small_to_split_are_refused():
    table = Dataset.from_dict({"text": list("abcdefghij"), "label": [0] * 9 + [1]})
    with pytest.raises(ValueError, match="10 rows cannot be split .* with every class in each"):
        split(table)


SENTENCE = "a really good film with one very bad ending"
SYNONYMS = {"good": ["fine"], "bad": ["poor"]}


def copies_of(table, method, **options):
    augmented, report = augment(table, method, **options)
    assert augmented[: len(table)] == table[:]
    assert report == {"rows": len(table), "added": len(augmented) - len(table)}
    assert augmented.features == table.features
    return augmented.select(range(len(table), len(augmented)))


@pytest.mark.parametrize(("method", "options"), [("deletion", {}), ("swap", {}), ("insertion", {"words": SYNONYMS})])
def test_words_are_deleted_swapped_or_inserted(method, options):
    table = Dataset.from_dict({"text": [SENTENCE], "label": ["neg"]})
    copies = copies_of(table, method, share=0.3, copies=8, **options)
    words = SENTENCE.split()
    assert set(copies["label"]) == {"neg"}
    assert len(set(copies["text"])) > 3
    for text in copies["text"]:
        changed = Counter(text.split())
        if method == "deletion":
            assert len(text.split()) == len(words) - 3
            assert changed <= Counter(words)
        elif method == "swap":
            assert changed == Counter(words)
            assert text != SENTENCE
        else:
            added = changed - Counter(words)
            assert sum(added.values()) == 3
            assert set(added) <= {"fine", "poor"}


def test_words_are_replaced_by_their_synonyms():
    table = Dataset.from_dict({"text": [SENTENCE, "nothing here"], "label": ["neg", "pos"]})
    copies = copies_of(table, "replacement", words=SYNONYMS, share=0.9)
    # The second row has no word in the list, so that no copy of it is made.
    assert copies["text"] == ["a really fine film with one very poor ending"]


def test_seeds_decide():
    table = Dataset.from_dict({"text": [SENTENCE] * 5, "label": [0] * 5})
    one, other, third = (augment(table, "swap", seed=seed)[0]["text"] for seed in (1, 1, 2))
    assert one == other
    assert one != third


def test_chinese_is_changed_by_the_character():
    table = Dataset.from_dict({"text": ["\u4f60\u597d\u4e16\u754c"], "label": [0]})
    text = copies_of(table, "deletion")["text"][0]
    assert len(text) == 3
    assert set(text) < set("\u4f60\u597d\u4e16\u754c")


TOKENS = ["Ann", "Lee", "saw", "a", "good", "film", "in", "New", "York"]
TAGS = ["B-PER", "I-PER", "O", "O", "O", "O", "O", "B-LOC", "I-LOC"]


def spans(tokens, tags):
    """Every span: its kind and its tokens."""
    found = []
    for token, tag in zip(tokens, tags, strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], [token]))
        elif tag.startswith("I-"):
            assert found[-1][0] == tag[2:]
            found[-1][1].append(token)
    return found


@pytest.mark.parametrize("as_names", [True, False], ids=["names", "indices"])
@pytest.mark.parametrize(
    ("method", "options"), [("deletion", {}), ("swap", {}), ("insertion", {"words": SYNONYMS | {"ann": ["Bo"]}})]
)
def test_spans_stay_whole(method, options, as_names):
    names = sorted(set(TAGS))
    table = Dataset.from_dict({"text": [TOKENS], "label": [TAGS]})
    if not as_names:
        features = Features({"text": ListOf(Value("string")), "label": ListOf(ClassLabel(names=names))})
        table = Dataset.from_dict({"text": [TOKENS], "label": [[names.index(tag) for tag in TAGS]]}, features=features)
    copies = copies_of(table, method, share=0.4, copies=20, **options)
    assert len(copies) > 5
    for row in copies:
        tags = row["label"] if as_names else [names[i] for i in row["label"]]
        assert spans(row["text"], tags) == [("PER", ["Ann", "Lee"]), ("LOC", ["New", "York"])]


def test_a_replaced_word_keeps_its_tag():
    table = Dataset.from_dict({"text": [TOKENS], "label": [TAGS]})
    row = copies_of(table, "replacement", words={"ann": ["Bo"], "good": ["fine"]}, share=0.9)[0]
    assert row["label"] == TAGS
    assert row["text"] == ["Bo", "Lee", "saw", "a", "fine", *TOKENS[5:]]


def test_tags_without_an_outside_need_one_named():
    table = Dataset.from_dict({"text": [["a", "b"]], "label": [[3, 4]]})
    with pytest.raises(ValueError, match="No label of column 'label' is 'O': say with `outside`"):
        augment(table, "swap")
    assert augment(table, "deletion", outside=4)[0]["text"][1] == ["a"]
    assert augment(table, "replacement", words={"a": ["c"]})[0]["text"][1] == ["c", "b"]


@pytest.fixture(scope="module")
def filler(minilm_tokenizer):
    """A model that at every mask finds the word "great" likeliest and "film" next."""
    model = build("smbert-uneven", "ForMaskedLM", vocab_size=len(minilm_tokenizer))
    with torch.no_grad():
        for word, bias in (("great", 1e4), ("film", 9e3)):
            model.cls.predictions.bias[minilm_tokenizer.convert_tokens_to_ids(word)] = bias
    return MaskFiller(model, minilm_tokenizer, batch_size=2, max_length=16)


def test_a_language_model_replaces_words(filler):
    table = Dataset.from_dict({"text": ["a bad actor", "great great great", "[MASK] here"], "label": [0, 1, 0]})
    copies = copies_of(table, "replacement", fill=filler, share=0.3)
    first, second, third = (text.split() for text in copies["text"])
    assert len(first) == 3
    assert sorted(first)[-1] == "great"
    # Never the word that was there.
    assert sorted(second) == ["film", "great", "great"]
    assert len(third) == 2


def test_the_label_outside_and_the_model_are_named_on_the_command_line(filler, tmp_path):
    write_table(Dataset.from_dict({"text": [["a", "b"]], "label": [[3, 4]]}), tmp_path / "in.jsonl")
    filler.model.save_pretrained(tmp_path / "model")
    filler.tokenizer.save_pretrained(tmp_path / "model")
    for method, further, labels in (("deletion", (), [3]), ("insertion", ("--model", tmp_path / "model"), [3, 4, 4])):
        options = ["--output", tmp_path / f"{method}.jsonl", "--method", method, "--outside", "4", *further]
        result = run("augment", tmp_path / "in.jsonl", *options)
        assert result.exit_code == 0, result.output
        assert read_table(tmp_path / f"{method}.jsonl")["label"] == [[3, 4], labels]


def test_a_language_model_inserts_words_outside_of_spans(filler):
    table = Dataset.from_dict({"text": [TOKENS], "label": [TAGS]})
    for row in copies_of(table, "insertion", fill=filler, copies=10, share=0.2):
        assert spans(row["text"], row["label"]) == [("PER", ["Ann", "Lee"]), ("LOC", ["New", "York"])]
        assert row["text"].count("great") == 2
        assert row["label"].count("O") == TAGS.count("O") + 2


def test_what_lies_beyond_the_model_stays(filler):
    table = Dataset.from_dict({"text": ["xxx " * 100], "label": [0]})
    augmented = copies_of(table, "insertion", fill=filler, share=0.5)["text"][0].split()
    assert 100 < len(augmented) < 116
    assert set(augmented) == {"xxx", "great"}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("erase", {}, "`method` must be one of"),
        ("swap", {"share": 1.0}, "`share` must be above 0 and below 1"),
        ("swap", {"copies": 0}, "`copies` must be at least 1"),
        ("swap", {"words": SYNONYMS}, "takes neither a word list nor a model"),
        ("insertion", {}, "takes either a word list or a model"),
    ],
)
def test_bad_augmentation_is_refused(method, options, message):
    table = Dataset.from_dict({"text": ["x"], "label": [0]})
    with pytest.raises(ValueError, match=message):
        augment(table, method, **options)


@pytest.mark.parametrize("work", [split, lambda empty: augment(empty, "deletion")], ids=["split", "augment"])
def test_a_table_without_rows_is_refused(work):
    empty = Dataset.from_dict({"text": ["x"], "label": ["y"]}).select([])
    with pytest.raises(ValueError, match="The table has no rows: expected at least one"):
        work(empty)


def test_a_model_without_a_mask_token_is_refused(minilm_tokenizer):
    tokenizer = deepcopy(minilm_tokenizer)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="has no mask token"):
        MaskFiller(build("smbert-uneven", "ForMaskedLM"), tokenizer)


def test_a_tokenizer_that_marks_words_is_refused():
    backend = Tokenizer(models.BPE({"<unk>": 0, "<mask>": 1, "\u0120good": 2}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>", unk_token="<unk>")
    with pytest.raises(ValueError, match="`tokenizer` must have a WordPiece model"):
        MaskFiller(build("smbert-uneven", "ForMaskedLM"), tokenizer)


def test_a_dataset_is_described(tmp_path, minilm_tokenizer):
    train = Dataset.from_dict({"text": ["one", "one two", "one", "word " * 20], "label": ["a", "b", "a", "a"]})
    test = Dataset.from_dict({"text": ["ONE", "three"], "label": ["a", "c"]})
    description = describe_splits({"train": train, "test": test}, minilm_tokenizer, max_length=16)
    split_of_train = description["splits"]["train"]
    assert split_of_train["token_counts"] == {3: 2, 4: 1, 22: 1}
    assert split_of_train["tokens"]["most"] == 22
    assert (split_of_train["truncated"], split_of_train["duplicates"]) == (1, 1)
    assert split_of_train["labels"] == {"a": 3, "b": 1}
    assert description["leaks"] == {"test in train": 1}
    header, rows = description_rows(description)
    assert header == ("", "train", "test")
    assert ("label c", 0, 1) in rows
    assert ("also in train", "", 1) in rows
    plot_description(description, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("labels", "panels"), [(["a", "b"], 2), ([0.5, 4.5], 1)])
def test_only_labels_that_are_counted_are_drawn(labels, panels, tmp_path, minilm_tokenizer, monkeypatch):
    drawn = []
    monkeypatch.setattr("compactbert.data.description.write_figure", lambda path, figure: drawn.append(figure))
    table = Dataset.from_dict({"text": ["one", "two"], "label": labels})
    plot_description(describe_splits({"train": table}, minilm_tokenizer), tmp_path / "plot.png")
    assert len(drawn[0].axes) == panels


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_tables_are_written_and_read_alike(tmp_path, suffix):
    table = Dataset.from_dict({"text": ['a, "b"', "\u4f60/\n"], "label": [1, 2], "score": [0.1, 0.25]})
    write_table(table, tmp_path / f"table.{suffix}")
    assert read_table(tmp_path / f"table.{suffix}")[:] == table[:]
    with pytest.raises(ValueError, match="exists: choose another `output`"):
        write_table(table, tmp_path / f"table.{suffix}")


def test_csv_files_hold_no_lists(tmp_path):
    table = Dataset.from_dict({"text": [["a"]]})
    with pytest.raises(ValueError, match=r"cannot hold lists, as in the columns \['text'\]"):
        write_table(table, tmp_path / "table.csv")
    with pytest.raises(ValueError, match="must end in one of"):
        write_table(table, tmp_path / "table.txt")
    assert not list(tmp_path.iterdir())


def test_the_commands_make_a_task_of_a_raw_file(tmp_path):
    raw = [f"<p>film  number {i} was {'good' if i % 2 else 'bad'}</p>" for i in range(100)]
    table = pd.DataFrame({"text": [*raw, raw[0]], "label": ["pos" if i % 2 else "neg" for i in range(101)]})
    table.to_csv(tmp_path / "raw.csv", index=False)
    (tmp_path / "words.json").write_text(json.dumps({"Good": ["fine"]}))
    steps = [
        ("clean", tmp_path / "raw.csv", "--output", tmp_path / "clean.jsonl", "--lower"),
        ("dedupe", tmp_path / "clean.jsonl", "--output", tmp_path / "unique.csv", "--label-column", "label"),
        ("split", tmp_path / "unique.csv", "--output", tmp_path / "task", "--json", tmp_path / "split.json"),
        ("augment", tmp_path / "task" / "train.csv", "--output", tmp_path / "more.csv", "--method", "replacement")
        + ("--words", tmp_path / "words.json"),
        ("report", tmp_path / "task", "--plot", tmp_path / "plot.png", "--json", tmp_path / "report.json"),
    ]
    for step in steps:
        result = run(*step)
        assert result.exit_code == 0, result.output
    assert read_table(tmp_path / "unique.csv")["text"][0] == "film number 0 was bad"
    assert json.loads((tmp_path / "split.json").read_text())["train"] == 70
    task = load_task(str(tmp_path / "task"))
    assert (len(task.train), len(task.evaluation), task.evaluation_split) == (70, 15, "validation")
    assert len(read_table(tmp_path / "more.csv")) == 105
    assert json.loads((tmp_path / "report.json").read_text())["splits"]["test"]["rows"] == 15
    # Nothing is written over.
    for step in steps[:4]:
        result = run(*step)
        assert result.exit_code == 2
        assert "exists: choose another" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clean", "/nowhere.csv", "--output", "OUT.csv"), "There is no file"),
        (("clean", "reviews.csv", "--output", "OUT.txt"), "must end in one of"),
        (("dedupe", "reviews.csv", "--output", "OUT.csv", "--near", "2"), "`near` must be above 0 and at most 0.95"),
        (("split", "reviews.csv", "--output", "OUT"), "The same texts would be in two splits"),
        (("augment", "reviews.csv", "--output", "OUT.csv", "--method", "insertion"), "takes either a word list"),
        (
            ("augment", "reviews.csv", "--output", "OUT.csv", "--method", "insertion", "--words", "reviews.csv"),
            "not a JSON",
        ),
        (("report", "reviews.csv", "--tokenizer", "/nowhere"), "There is no tokenizer in '/nowhere'"),
    ],
)
def test_bad_input_leaves_nothing(reviews, tmp_path, arguments, message):
    names = {"reviews.csv": reviews, "OUT": tmp_path / "OUT"}
    result = run(*(str(names.get(word, word)).replace("OUT.", f"{tmp_path}/OUT.") for word in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.csv"]
