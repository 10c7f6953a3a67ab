"""`distill`: from folders to a folder."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from families import build
from safetensors.torch import load_file

import compactbert
from compactbert.training import distill


SETTINGS = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 16, "max_length": 16}


@pytest.fixture(scope="module")
def stage(tmp_path_factory, tiny_model, minilm_tokenizer):
    """A task, a teacher that has learnt it, and a student of another family and width."""
    folder = tmp_path_factory.mktemp("stage")
    rows = [f"film {i % 7} is {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(100)]
    (folder / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    task = str(folder / "reviews.csv")
    compactbert.finetune(tiny_model, task, folder / "teacher", **SETTINGS | {"epochs": 6})
    student = build("mobilebert_md-uniform", num_hidden_layers=2, vocab_size=len(minilm_tokenizer))
    student.save_pretrained(folder / "student")
    minilm_tokenizer.save_pretrained(folder / "student")
    return SimpleNamespace(task=task, teacher=folder / "teacher", student=folder / "student")


def test_a_killed_distillation_continues_to_the_same_weights(stage, tmp_path):
    terms = {"teacher": str(stage.teacher), "hidden_state_weight": 1.0, "teacher_cache": str(tmp_path / "cache")}
    report = distill(stage.student, stage.task, tmp_path / "whole", **terms, **SETTINGS)
    assert report == json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert report["settings"]["hidden_state_weight"] == 1.0
    assert report["steps"] == 18
    assert not (tmp_path / "whole.partial").exists()
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json"} <= names
    assert not [name for name in names if "projection" in name]
    found = compactbert.evaluate(tmp_path / "whole", task=stage.task, max_length=SETTINGS["max_length"])
    assert found["metrics"] == pytest.approx(report["metrics"])

    arguments = [str(stage.student), stage.task, str(tmp_path / "killed")]
    code = f"from compactbert.training import distill\ndistill(*{arguments!r}, **{terms | SETTINGS!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed.partial").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    distill(*arguments, **terms, **SETTINGS)
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(whole[name].equal(killed[name]) for name in whole)


def test_more_text_than_labels(stage, tiny_model, tmp_path):
    texts = tmp_path / "texts.csv"
    texts.write_text("text\n" + "\n".join(f"story {i} is {'good' if i % 3 else 'bad'}" for i in range(300)) + "\n")
    options = {"teacher": stage.teacher, "texts": str(texts), "hidden_state_weight": 1.0}
    settings = SETTINGS | {"epochs": 12}
    report = distill(tiny_model, stage.task, tmp_path / "out", text_rows=160, **options, **settings)
    # Steps and rows are those of the sample of texts, scores those of the task.
    assert report["steps"] == 120
    assert report["rows"] == {"train": 160, "held_out": 10}
    lines = texts.read_text().splitlines()[1:]
    taught, teacher = (
        [row["label"] for row in compactbert.predict(folder, lines)] for folder in (tmp_path / "out", stage.teacher)
    )
    assert set(teacher) == {"pos", "neg"}
    # Half of the texts were not in the sample.
    assert sum(one == other for one, other in zip(taught, teacher, strict=True)) > 0.9 * len(lines)
    with pytest.raises(ValueError, match="has no column 'text'"):
        distill(stage.student, stage.task, tmp_path / "other", **options | {"texts": write_other(tmp_path)}, **SETTINGS)


def write_other(folder):
    (folder / "other.csv").write_text("words\nno text\n")
    return str(folder / "other.csv")


def test_a_teacher_with_another_tokenizer_is_refused(stage, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for path in stage.teacher.iterdir():
        (teacher / path.name).write_bytes(path.read_bytes())
    text = (teacher / "tokenizer.json").read_text()
    assert '"film"' in text
    (teacher / "tokenizer.json").write_text(text.replace('"film"', '"flim"'))
    with pytest.raises(ValueError, match=r"different tokenizers \(30522 and 30522 tokens; they differ in .*film"):
        distill(stage.student, stage.task, tmp_path / "out", teacher=teacher, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"relation_weight": 1.0, "teacher_cache": "cache"}, "set `teacher_cache=None`"),
        ({"training_arguments": {"layer_decay": 0.9}}, "There is no training argument 'layer_decay'"),
        ({"training_arguments": {"logging_steps": []}}, "has a value of a wrong type"),
        ({"teacher": "student"}, "has no trained weights for .*: fine-tune it on the task first"),
    ],
)
def test_a_distillation_that_cannot_work_leaves_no_output(stage, tmp_path, settings, message):
    settings = {"teacher": stage.teacher} | settings | SETTINGS
    if settings["teacher"] == "student":
        settings["teacher"] = stage.student
    with pytest.raises(ValueError, match=message):
        distill(stage.student, stage.task, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []
