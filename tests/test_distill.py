"""`distill`: from folders to a folder."""

import json
import shutil
import sys

import pytest
from families import assert_same, build
from runs import kill_when, weights

import compactbert
from compactbert.training import distill


SETTINGS = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 32, "max_length": 16}


@pytest.fixture(scope="module")
def student(tmp_path_factory, minilm_tokenizer):
    """Folder of a student of another family and width than the teacher's, which is the fine-tuned tiny model."""
    folder = tmp_path_factory.mktemp("student")
    build("mobilebert_md-uniform", num_hidden_layers=2, vocab_size=len(minilm_tokenizer)).save_pretrained(folder)
    minilm_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.long
def test_a_killed_distillation_continues_to_the_same_weights(student, finetuned, shared_reviews, tmp_path):
    places, whole, killed = [str(student), str(shared_reviews)], tmp_path / "whole", tmp_path / "killed"
    terms = {"teacher": str(finetuned), "hidden_state_weight": 1.0, "teacher_cache": str(tmp_path / "cache")}
    report = distill(*places, whole, **terms, **SETTINGS)
    assert report == json.loads((whole / "metrics.json").read_text())
    assert report["settings"]["hidden_state_weight"] == 1.0
    assert report["steps"] == 18
    names = {path.name for path in whole.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json"} <= names
    assert not [name for name in names if "projection" in name]
    found = compactbert.evaluate(whole, task=str(shared_reviews), max_length=SETTINGS["max_length"])
    assert found["metrics"] == pytest.approx(report["metrics"])

    code = f"from compactbert.training import distill\ndistill(*{[*places, str(killed)]!r}, **{terms | SETTINGS!r})"
    kill_when([sys.executable, "-c", code], tmp_path / "killed.partial", "checkpoint-*/trainer_state.json")
    assert not killed.exists()
    distill(*places, killed, **terms, **SETTINGS)
    assert_same(weights(whole), weights(killed))


def test_more_text_than_labels(tiny_model, finetuned, shared_reviews, tmp_path):
    texts, other = tmp_path / "texts.csv", tmp_path / "other.csv"
    texts.write_text("text\n" + "\n".join(f"story {i} is {'good' if i % 3 else 'bad'}" for i in range(300)) + "\n")
    arguments, settings = (tiny_model, str(shared_reviews)), {"teacher": finetuned, **SETTINGS, "epochs": 12}
    report = distill(*arguments, tmp_path / "out", texts=str(texts), text_rows=160, **settings)
    # Steps and rows are those of the sample of texts, scores those of the task.
    assert report["steps"] == 60
    assert report["rows"] == {"train": 160, "held_out": 20}
    lines = texts.read_text().splitlines()[1:]
    taught, teacher = (
        [row["label"] for row in compactbert.predict(folder, lines)] for folder in (tmp_path / "out", finetuned)
    )
    assert set(teacher) == {"pos", "neg"}
    # Half of the texts were not in the sample.
    assert sum(one == other for one, other in zip(taught, teacher, strict=True)) > 0.9 * len(lines)
    other.write_text("words\nno text\n")
    with pytest.raises(ValueError, match="has no column 'text'"):
        distill(*arguments, tmp_path / "other", texts=str(other), **settings)


def test_a_teacher_with_another_tokenizer_is_refused(student, finetuned, shared_reviews, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(finetuned, teacher)
    text = (teacher / "tokenizer.json").read_text()
    assert '"film"' in text
    (teacher / "tokenizer.json").write_text(text.replace('"film"', '"flim"'))
    with pytest.raises(ValueError, match=r"different tokenizers \(30522 and 30522 tokens; they differ in .*film"):
        distill(student, str(shared_reviews), tmp_path / "out", teacher=teacher, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_teacher_without_a_trained_head_is_refused(student, shared_reviews, tmp_path):
    with pytest.raises(ValueError, match="has no trained weights for .*: fine-tune it on the task first"):
        distill(student, str(shared_reviews), tmp_path / "out", teacher=student, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"relation_weight": 1.0, "teacher_cache": "cache"}, "set `teacher_cache=None`"),
        ({"training_arguments": {"layer_decay": 0.9}}, "There is no training argument 'layer_decay'"),
        ({"training_arguments": {"logging_steps": []}}, "has a value of a wrong type"),
    ],
)
def test_a_distillation_that_cannot_work_leaves_no_output(
    student, finetuned, shared_reviews, tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        distill(student, str(shared_reviews), tmp_path / "out", teacher=finetuned, **SETTINGS, **settings)
    assert list(tmp_path.iterdir()) == []
