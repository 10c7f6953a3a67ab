import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from families import assert_same, build, changed
from runs import FINETUNING, kill_when, stopped_at, weights
from transformers import TrainingArguments

import compactbert
from compactbert.files import write_text
from compactbert.resume import open_work_dir
from compactbert.training.run import ResumableTrainer


ONE_EPOCH = FINETUNING | {"epochs": 1}


@pytest.mark.parametrize("further", [{}, {"disable_tqdm": True}], ids=["bar", "no bar"])
def test_standard_output_is_for_results(further, tiny_model, reviews, tmp_path, capsys):
    compactbert.finetune(tiny_model, str(reviews), tmp_path / "out", training_arguments=further, **ONE_EPOCH)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "'loss'" in printed.err


def test_a_finetuned_model_is_a_folder_that_can_be_evaluated_and_asked(finetuned, shared_reviews):
    report = json.loads((finetuned / "metrics.json").read_text())
    assert report["metrics"]["accuracy"] == 1.0
    assert report["rows"] == {"train": 180, "held_out": 20}
    assert {path.name for path in finetuned.parent.iterdir()} == {finetuned.name}
    assert {path.name for path in finetuned.iterdir()} == {
        "README.md",
        "config.json",
        "configuration_smbert.py",
        "metrics.json",
        "model.safetensors",
        "modeling_smbert.py",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((finetuned / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert "use_cache" not in config
    assert compactbert.evaluate(finetuned, task=str(shared_reviews))["metrics"] == report["metrics"]
    rows = compactbert.predict(finetuned, ["film is good", "ending is bad"])
    assert [row["label"] for row in rows] == ["pos", "neg"]
    assert all(0.5 < row["score"] <= 1 for row in rows)


def test_all_weights_change_as_the_seed_says_and_the_source_stays(tiny_model, finetuned, reviews, tmp_path):
    source = weights(tiny_model)
    for name, seed in (("same", 42), ("other", 1)):
        compactbert.finetune(tiny_model, str(reviews), tmp_path / name, seed=seed, **FINETUNING)
    assert_same(source, weights(tiny_model))
    same = weights(tmp_path / "same")
    assert_same(same, weights(finetuned))
    assert changed(same, weights(tmp_path / "other"))
    # Positions beyond the longest text and unused tokens share a table with those that change.
    assert changed(source, {name: same[f"bert.{name}"] for name in source}) == set(source)


@pytest.mark.long
def test_a_killed_run_continues_to_the_same_weights(tiny_model, finetuned, reviews, tmp_path):
    output, partial = tmp_path / "killed", tmp_path / "killed.partial"
    arguments = [str(tiny_model), str(reviews), str(output)]
    code = f"import compactbert\ncompactbert.finetune(*{arguments!r}, **{FINETUNING!r})"
    kill_when([sys.executable, "-c", code], partial, "checkpoint-*/trainer_state.json")
    assert not output.exists()
    # What a kill in the middle of a checkpoint leaves behind.
    (partial / "checkpoint-9999").mkdir()
    (partial / "checkpoint-9999" / "model.safetensors").write_bytes(b"half")
    compactbert.finetune(*arguments, **FINETUNING)
    assert not partial.exists()
    assert_same(weights(finetuned), weights(output))


def test_a_run_killed_after_its_end_is_done(tiny_model, reviews, tmp_path):
    output = tmp_path / "out"
    report = compactbert.finetune(tiny_model, str(reviews), output, **ONE_EPOCH)
    # What a kill leaves that came while the work folder was being removed.
    (tmp_path / "out.partial" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists"):
        compactbert.finetune(tiny_model, str(reviews), output, seed=1, **ONE_EPOCH)
    assert compactbert.finetune(tiny_model, str(reviews), output, **ONE_EPOCH) == report
    assert not (tmp_path / "out.partial").exists()


def test_a_file_that_a_killed_process_left_half_written_is_not_left(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        # As a kill: nothing is tidied up.
        patch.setattr(Path, "replace", lambda self, target: None)
        patch.setattr(Path, "unlink", lambda self, missing_ok: None)
        write_text(tmp_path / "report.json", "half")
    assert len(list(tmp_path.iterdir())) == 1
    # Another process has another number.
    monkeypatch.setattr(os, "getpid", lambda: 1)
    write_text(tmp_path / "report.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_an_unfinished_run_with_other_settings_is_not_continued(tiny_model, reviews, tmp_path):
    partial = tmp_path / "out.partial"
    (partial / "checkpoint-1").mkdir(parents=True)
    (partial / "checkpoint-1" / "trainer_state.json").write_text('{"global_step": 1}')
    (partial / "settings.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(ValueError, match="unfinished run with other settings .*`seed` was 1, is 42") as told:
        compactbert.finetune(tiny_model, str(reviews), tmp_path / "out", data_dir=tmp_path)
    # Where the data lies may change.
    assert "data_dir" not in str(told.value)
    with pytest.raises(ValueError, match="`max_minutes` was None, is 0.1"):
        compactbert.finetune(tiny_model, str(reviews), tmp_path / "out", max_minutes=0.1)


def test_settings_compare_as_they_are_recorded(tmp_path):
    settings = {"text_columns": ("a", "b"), "seed": 1}
    open_work_dir(tmp_path / "out.partial", settings, unfinished=False)
    open_work_dir(tmp_path / "out.partial", settings, unfinished=True)
    with pytest.raises(ValueError, match="`seed` was 1, is 2"):
        open_work_dir(tmp_path / "out.partial", settings | {"seed": 2}, unfinished=True)


def test_a_run_stopped_within_an_epoch_sees_the_rows_that_were_left(tiny_model, reviews, tmp_path, monkeypatch):
    # Three checkpoints an epoch, of which the last before the stop lies within the second epoch.
    monkeypatch.setattr("compactbert.training.run.MAX_STEPS_PER_CHECKPOINT", 8)
    settings = FINETUNING | {"epochs": 2}
    compactbert.finetune(tiny_model, str(reviews), tmp_path / "whole", **settings)
    with stopped_at(35):
        compactbert.finetune(tiny_model, str(reviews), tmp_path / "stopped", **settings)
    assert (tmp_path / "stopped.partial" / "checkpoint-32").is_dir()
    compactbert.finetune(tiny_model, str(reviews), tmp_path / "stopped", **settings)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_budgets_shorten_a_run(tiny_model, reviews, tmp_path):
    report = compactbert.finetune(tiny_model, str(reviews), tmp_path / "steps", max_steps=5, **FINETUNING)
    assert report["steps"] == 5
    report = compactbert.finetune(tiny_model, str(reviews), tmp_path / "minutes", max_minutes=0.001, **FINETUNING)
    assert 1 <= report["steps"] < 92


def test_a_budget_of_minutes_is_measured_once(tiny_model, reviews, tmp_path, monkeypatch):
    measured = iter([3])
    monkeypatch.setattr("compactbert.training.run._steps_within", lambda *_: next(measured))
    monkeypatch.setattr("compactbert.training.run.MAX_STEPS_PER_CHECKPOINT", 1)
    arguments = FINETUNING | {"max_minutes": 1.0}
    with stopped_at(2):
        compactbert.finetune(tiny_model, str(reviews), tmp_path / "out", **arguments)
    assert compactbert.finetune(tiny_model, str(reviews), tmp_path / "out", **arguments)["steps"] == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="`max_minutes` is for one process"):
        compactbert.finetune(tiny_model, str(reviews), tmp_path / "other", **arguments)


def test_several_gpus_without_a_launcher_do_not_share_a_step(tmp_path):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, use_cpu=True, report_to="none")
    args._n_gpu = 4
    trainer = ResumableTrainer(build("smbert-uniform", "ForSequenceClassification"), args)
    assert (trainer.args.n_gpu, trainer.args.train_batch_size) == (1, 8)


def test_early_stopping_waits_for_two_evaluations_after_the_best(tiny_model, reviews, tmp_path):
    settings = FINETUNING | {"epochs": 30}
    report = compactbert.finetune(tiny_model, str(reviews), tmp_path / "out", early_stopping=2, **settings)
    steps_per_epoch = 23
    assert report["steps"] < 30 * steps_per_epoch
    assert report["best_step"] == report["steps"] - 2 * steps_per_epoch


@pytest.mark.parametrize(
    ("columns", "metric"),
    [
        ({"label": [0.5, 1.5] * 50}, "pearson"),
        ({"label": [["a"], ["a", "b"]] * 50}, "micro_f1"),
        ({"text": [["good", "film"], ["bad", "film"]] * 50, "label": [["B-X", "O"], ["O", "O"]] * 50}, "seqeval_f1"),
    ],
)
def test_other_problems(tiny_model, tmp_path, columns, metric):
    table = pd.DataFrame({"text": ["good film", "bad film"] * 50} | columns)
    for split in ("train", "test"):
        table.to_parquet(tmp_path / f"{split}.parquet")
    report = compactbert.finetune(tiny_model, str(tmp_path), tmp_path / "out", **FINETUNING)
    assert report["metrics"][metric] > 0.99
    assert compactbert.evaluate(tmp_path / "out", task=str(tmp_path))["metrics"] == pytest.approx(report["metrics"])
    good, bad = compactbert.predict(tmp_path / "out", ["good film", "bad film"])
    if metric == "pearson":
        assert good["score"] < bad["score"]
    elif metric == "micro_f1":
        assert (good["labels"], bad["labels"]) == (["a"], ["a", "b"])
    else:
        assert [(e["label"], e["text"], e["start"], e["end"]) for e in good["entities"]] == [("X", "good", 0, 4)]
        assert bad["entities"] == []


def test_pairs_from_columns(tiny_model, tmp_path):
    rows = {"premise": ["x", "y"] * 50, "claim": ["good", "bad"] * 50, "gold": ["yes", "no"] * 50}
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    columns = {"text_columns": ["premise", "claim"], "label_column": "gold"}
    report = compactbert.finetune(tiny_model, str(tmp_path / "pairs.csv"), tmp_path / "out", **columns, **FINETUNING)
    assert report["metrics"]["accuracy"] == 1.0
    rows = compactbert.predict(tmp_path / "out", [("x", "good"), ("y", "bad")])
    assert [(row["text"], row["text_pair"], row["label"]) for row in rows] == [("x", "good", "yes"), ("y", "bad", "no")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs` must be positive, got 0"),
        ({"subword_dropout": 1}, "`subword_dropout` must be at least 0 and below 1, got 1"),
        ({"learning_rate": -1.0}, "`learning_rate` must be positive"),
        ({"batch_size": 0}, "`batch_size` must be positive"),
        ({"early_stopping": 0}, "`early_stopping` must be positive"),
        ({"precision": "int8"}, "`precision` must be one of"),
        ({"max_length": 2}, "`max_length` must be at least 4 tokens, got 2"),
        ({"model": "/nowhere"}, "Cannot load '/nowhere'"),
        ({"label_column": "stars"}, "has no column 'stars'"),
    ],
)
def test_bad_arguments_leave_no_output(tiny_model, reviews, tmp_path, change, message):
    arguments = {"model": tiny_model, "task": str(reviews), "output_dir": tmp_path / "out"} | change
    with pytest.raises(ValueError, match=message):
        compactbert.finetune(**arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reviews.csv"]


def test_a_taken_output_is_refused(tiny_model, reviews, tmp_path):
    with pytest.raises(ValueError, match="exists: choose another `output_dir`"):
        compactbert.finetune(tiny_model, str(reviews), tmp_path)


def test_a_task_without_training_rows_is_refused(tiny_model, tmp_path):
    pd.DataFrame({"text": ["x"], "label": [0]}).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ValueError, match="has no training split, only 'test'"):
        compactbert.finetune(tiny_model, str(tmp_path), tmp_path / "out")


def test_mobilebert_can_be_finetuned(reviews, tmp_path, minilm_tokenizer):
    model = build("mobilebert_md-stages", "ForMaskedLM", vocab_size=len(minilm_tokenizer))
    model.save_pretrained(tmp_path / "model")
    minilm_tokenizer.save_pretrained(tmp_path / "model")
    report = compactbert.finetune(tmp_path / "model", str(reviews), tmp_path / "out", **FINETUNING)
    assert report["metrics"]["accuracy"] == 1.0
