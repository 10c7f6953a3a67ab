import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from families import build
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import compactbert
from compactbert.data import encode_texts
from compactbert.inference import predict_logits
from compactbert.inference.prediction import write_rows


TEXTS = ["a", "b c d e f g", "", "two words", "é ü 中 文"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, minilm_tokenizer):
    folder = tmp_path_factory.mktemp("classifier") / "model"
    fields = {"vocab_size": len(minilm_tokenizer), "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    build("smbert-uneven", "ForSequenceClassification", **fields).save_pretrained(folder)
    minilm_tokenizer.save_pretrained(folder)
    return folder


def constant_classifier(tokenizer, logits, **fields):
    """Says the same of every text, of the labels "a", "b", ..."""
    names = dict(enumerate("abcdefg"[: len(logits)]))
    fields |= {"vocab_size": len(tokenizer), "id2label": names, "label2id": {v: k for k, v in names.items()}}
    model = build("smbert-uneven", "ForSequenceClassification", **fields)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor(logits))
    return model


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_keep_the_order_and_the_values(minilm_tokenizer, batch_size):
    model = build("smbert-uneven", "ForSequenceClassification", vocab_size=len(minilm_tokenizer)).train()
    features, _, _ = encode_texts([TEXTS], minilm_tokenizer, 32)
    logits = predict_logits(model, minilm_tokenizer, features, batch_size)
    assert model.training
    model.eval()
    for text, row in zip(TEXTS, logits, strict=True):
        alone = model(**minilm_tokenizer(text, return_tensors="pt")).logits[0]
        torch.testing.assert_close(torch.tensor(row), alone)


def test_scores_are_probabilities(classifier):
    rows = compactbert.predict(classifier, TEXTS)
    assert [row["text"] for row in rows] == TEXTS
    assert {row["label"] for row in rows} <= {"no", "yes"}
    assert all(0.5 <= row["score"] <= 1 for row in rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_output_files_hold_the_rows(classifier, tmp_path, suffix):
    output = tmp_path / "new" / f"labels.{suffix}"
    rows = compactbert.predict(classifier, ["x", "y"], output)
    read = pd.read_csv(output) if suffix == "csv" else pd.read_json(output, lines=True)
    assert read["label"].tolist() == [row["label"] for row in rows]
    assert np.allclose(read["score"], [row["score"] for row in rows])
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_lines_stdin_and_tables_are_read_alike(classifier, tmp_path, monkeypatch):
    expected = compactbert.predict(classifier, ["one", "zwei ü"])
    (tmp_path / "lines.txt").write_text("one\nzwei ü\n", encoding="utf-8")
    assert compactbert.predict(classifier, tmp_path / "lines.txt") == expected
    pd.DataFrame({"text": ["one", "zwei ü"]}).to_parquet(tmp_path / "table.parquet")
    assert compactbert.predict(classifier, tmp_path / "table.parquet") == expected
    stdin = type("Stdin", (), {"buffer": io.BytesIO("one\nzwei ü\n".encode())})
    monkeypatch.setattr("sys.stdin", stdin)
    assert compactbert.predict(classifier, "-") == expected


def test_pairs_of_lines_and_columns(classifier, tmp_path):
    expected = compactbert.predict(classifier, [("one", "two")])
    (tmp_path / "pairs.tsv").write_text("one\ttwo\n")
    assert compactbert.predict(classifier, tmp_path / "pairs.tsv", pairs=True) == expected
    (tmp_path / "pairs.csv").write_text("a,b\none,two\n")
    assert compactbert.predict(classifier, tmp_path / "pairs.csv", text_columns=["a", "b"]) == expected
    with pytest.raises(ValueError, match="`text_columns` takes one or two columns"):
        compactbert.predict(classifier, tmp_path / "pairs.csv", text_columns=["a", "b", "b"])


def test_long_texts_are_cut_and_counted(classifier, monkeypatch):
    messages = []
    monkeypatch.setattr("compactbert.inference.prediction.logger.warning", messages.append)
    compactbert.predict(classifier, ["word " * 100, "short"], max_length=512)
    # The model has 40 positions, whatever was asked for.
    assert messages == ["1 of 2 texts were cut to 40 tokens."]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, "There is nothing to predict: .* is empty"),
        (b"ok\ncaf\xe9\n", {}, "is not UTF-8 .byte 0xe9 in line 2."),
        (b"a\tb\nc\n", {"pairs": True}, "Line 2 of .* has 1 texts: expected two with a tab between"),
    ],
)
def test_bad_input_is_refused(classifier, tmp_path, content, options, message):
    (tmp_path / "input.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        compactbert.predict(classifier, tmp_path / "input.txt", tmp_path / "out.jsonl", **options)
    assert not (tmp_path / "out.jsonl").exists()


def test_other_bad_arguments_are_refused(classifier, tiny_model, tmp_path):
    with pytest.raises(ValueError, match="There is no file '/nowhere.txt'"):
        compactbert.predict(classifier, "/nowhere.txt")
    with pytest.raises(ValueError, match="`output` must end in one of"):
        compactbert.predict(classifier, ["x"], "out.xml")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        compactbert.predict(classifier, ["x"], batch_size=0)
    with pytest.raises(ValueError, match="is SmBertModel: expected a model for sequence or token classification"):
        compactbert.predict(tiny_model, ["x"])
    (tmp_path / "data.csv").write_text("sentence\nx\n")
    with pytest.raises(ValueError, match="has no column 'text'"):
        compactbert.predict(classifier, tmp_path / "data.csv")


def test_evaluation_maps_labels_by_name(classifier, tmp_path):
    (tmp_path / "test.csv").write_text("text,label\nx,yes\ny,no\nz,yes\n")
    accuracy = compactbert.evaluate(classifier, task=str(tmp_path))["metrics"]["accuracy"]
    # The same model with its labels, and its outputs, the other way round.
    swapped = tmp_path / "swapped"
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.flip(0))
        model.classifier.bias.copy_(model.classifier.bias.flip(0))
    model.config.id2label = {0: "yes", 1: "no"}
    model.save_pretrained(swapped)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(swapped)
    assert compactbert.evaluate(swapped, task=str(tmp_path))["metrics"]["accuracy"] == accuracy


def test_evaluation_counts_labels_that_no_row_shows(minilm_tokenizer, tmp_path):
    # The model always says "c"; the rows know "a" and "b" only.
    model = constant_classifier(minilm_tokenizer, [0.0, 1.0, 2.0])
    (tmp_path / "test.csv").write_text("text,label\nx,b\ny,a\nz,b\n")
    assert compactbert.evaluate(model, minilm_tokenizer, str(tmp_path))["metrics"]["accuracy"] == 0.0


def test_evaluation_of_an_untrained_head_is_refused(tiny_model, tmp_path):
    (tmp_path / "test.csv").write_text("text,label\nx,a\ny,b\n")
    with pytest.raises(ValueError, match="has no trained weights for"):
        compactbert.evaluate(tiny_model, task=str(tmp_path))
    with pytest.raises(ValueError, match="`tokenizer` goes with a loaded `model`"):
        compactbert.evaluate(tiny_model, str(tmp_path))


def test_one_output_is_a_regression(minilm_tokenizer, tmp_path):
    fields = {"vocab_size": len(minilm_tokenizer), "num_labels": 1}
    build("smbert-uneven", "ForSequenceClassification", **fields).save_pretrained(tmp_path)
    minilm_tokenizer.save_pretrained(tmp_path)
    row = compactbert.predict(tmp_path, ["x"])[0]
    assert row.keys() == {"text", "score"}


def test_every_label_of_several_has_a_score(minilm_tokenizer, tmp_path):
    fields = {"problem_type": "multi_label_classification"}
    constant_classifier(minilm_tokenizer, [-1.0, 0.0, 2.0], **fields).save_pretrained(tmp_path)
    minilm_tokenizer.save_pretrained(tmp_path)
    (row,) = compactbert.predict(tmp_path, ["x"])
    scores = {"a": pytest.approx(1 / (1 + np.e)), "b": 0.5, "c": pytest.approx(1 / (1 + np.exp(-2)))}
    assert row == {"text": "x", "labels": ["b", "c"], "scores": scores}


def test_lines_split_at_line_ends_only(classifier, tmp_path):
    (tmp_path / "lines.txt").write_bytes("one\u2028still one\x0c\r\ntwo\n\nfour".encode())
    rows = compactbert.predict(classifier, tmp_path / "lines.txt")
    assert [row["text"] for row in rows] == ["one\u2028still one\x0c", "two", "", "four"]


def test_tokens_are_joined_and_pairs_may_be_lists(classifier, tmp_path):
    pd.DataFrame({"text": [["one", "two"]]}).to_parquet(tmp_path / "tokens.parquet")
    assert compactbert.predict(classifier, tmp_path / "tokens.parquet") == compactbert.predict(classifier, ["one two"])
    assert compactbert.predict(classifier, [["a", "b"]]) == compactbert.predict(classifier, [("a", "b")])
    with pytest.raises(ValueError, match="must hold texts, or pairs of two texts"):
        compactbert.predict(classifier, [["a", "b", "c"]])


def test_csv_holds_lists_as_json(tmp_path):
    write_rows([{"text": "x", "labels": ["a", "b"]}], tmp_path / "rows.csv")
    assert json.loads(pd.read_csv(tmp_path / "rows.csv")["labels"][0]) == ["a", "b"]


def test_evaluation_on_a_task_with_other_labels_is_refused(classifier, tmp_path):
    (tmp_path / "test.csv").write_text("text,label\nx,maybe\n")
    with pytest.raises(ValueError, match=r"predicts \['no', 'yes'\], but task .* has the labels \['maybe'\]"):
        compactbert.evaluate(classifier, task=str(tmp_path))


def test_evaluation_of_a_loaded_model_needs_its_tokenizer(minilm_tokenizer, tmp_path):
    (tmp_path / "test.csv").write_text("text,label\nx,0\ny,1\n")
    model = build("smbert-uneven", "ForSequenceClassification", vocab_size=len(minilm_tokenizer))
    with pytest.raises(ValueError, match="needs its `tokenizer`"):
        compactbert.evaluate(model, task=str(tmp_path))
    assert compactbert.evaluate(model, minilm_tokenizer, str(tmp_path))["rows"] == 2
