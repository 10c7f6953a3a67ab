"""The script that makes and measures the zoo, on a part of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset

from compactbert.convert import load_pretrained
from compactbert.data import load_task, load_texts, write_table


ROOT = Path(__file__).parent.parent


@pytest.fixture
def zoo(load_benchmark, tmp_path, monkeypatch):
    """The script where there is one checkpoint, beside the results so far."""
    zoo = load_benchmark("zoo")
    for folder in ("zoo", "configs", "benchmarks"):
        (tmp_path / folder).mkdir()
    shutil.copytree(ROOT / "zoo" / "smbert-sst2", tmp_path / "zoo" / "smbert-sst2")
    shutil.copy(ROOT / "benchmarks" / "zoo.json", tmp_path / "benchmarks")
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.setattr(zoo, "RESULTS", load_benchmark("results").Results(tmp_path / "benchmarks" / "zoo.py"))
    monkeypatch.setattr(zoo, "SHAPES", [(1, 4)])
    return zoo


def test_what_is_measured_is_what_report_card_and_catalogue_say(zoo, tmp_path):
    zoo.measure()
    folder = tmp_path / "zoo" / "smbert-sst2"
    report, latency = json.loads((folder / "report.json").read_text()), zoo.RESULTS.read()["latency"]
    teacher, student = report["points"]
    assert list(latency["smbert-sst2"]) == ["1x4"]
    assert (teacher["latency"], student["latency"]) == (latency[zoo.TEACHER], latency["smbert-sst2"])
    speedup = teacher["latency"]["1x4"]["median_ms"] / student["latency"]["1x4"]["median_ms"]
    assert {name: value for name, value in report["result"].items() if "speedup" in name} == {"speedup_1x4": speedup}
    card, rows = (folder / "README.md").read_text(), yaml.safe_load((tmp_path / "configs" / "catalog.yaml").read_text())
    assert "1x4" in card
    assert "1x16" not in card
    assert rows["smbert-sst2"]["speedup"] == {"1x4": round(speedup, 2)}


def test_a_transfer_is_from_the_zoo_where_its_teacher_is(zoo, tmp_path, monkeypatch):
    calls, cost = [], {"steps": 9, "seconds_per_step": 0.5}

    def transfer(texts, made, **settings):
        calls.append(settings)
        teacher = made.with_name(f"{made.name}-teacher")
        teacher.mkdir(parents=True)
        scores = {"mlm_loss": 4.5, "mlm_accuracy": 0.25, "nsp_accuracy": 1.0}
        (teacher / "metrics.json").write_text(json.dumps({"metrics": scores} | cost))

    monkeypatch.setattr(zoo.compactbert, "transfer", transfer)
    for name, model, base in (
        ("smbert", None, zoo.MINILM_ON_HUB),
        ("mobilebert-md-small", tmp_path / "zoo" / "smbert", "compactbert/smbert"),
    ):
        zoo.train(zoo.CHECKPOINTS[name], tmp_path / "work" / name, tmp_path, tmp_path / "work")
        assert calls.pop()["model"] == model
        assert zoo.RESULTS.found("teachers", name) == {"mlm_loss": 4.5, "mlm_accuracy": 0.25} | cost
        assert zoo.publication(tmp_path / "zoo" / name).base_model == base


@pytest.mark.parametrize("last", [True, False])
def test_what_a_finished_models_cut_costs_is_kept(zoo, tmp_path, monkeypatch, last):
    stages = [{"prune": {}}, {"finetune": {}}, {"prune_vocabulary": {"size": 100}}]
    points = [{"metrics": {"f1": {"values": [score]}}} for score in (0.25, 0.75, 0.5)]
    settings = {"recipe": {"stages": stages if last else stages[::-1]}}
    report = {"settings": settings, "points": points, "metric": "f1"}
    monkeypatch.setattr(zoo.compactbert, "compress", lambda *args, **settings: report)
    zoo.train(zoo.Checkpoint(task="mnli"), tmp_path / "made", tmp_path, tmp_path)
    cut = {"tokens": 100, "metric": "f1", "before": 0.75, "after": 0.5}
    assert zoo.RESULTS.found("vocabulary", "made") == (cut if last else None)


def test_stages_that_a_recipe_lacks_are_not_changed(zoo, tmp_path):
    with pytest.raises(ValueError, match="has no stage 'student': take one of teacher"):
        zoo.recipe_of(zoo.Checkpoint(changes={"student": {}}), tmp_path, tmp_path)


def test_rows_tell_what_a_cut_costs(zoo, tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    texts = ["a good film", "a dull film", "a tedious epigone", "a film of thaumaturgic gorgonzola"]
    table = Dataset.from_dict({"sentence": texts, "label": [1, 0, 0, 1]})
    write_table(table, tmp_path / "sst2" / "validation.parquet")
    model, tokenizer = load_pretrained(tmp_path / "zoo" / "smbert-sst2", "ForSequenceClassification")
    whole, all_tokens = zoo.with_all_tokens(model, tokenizer)
    assert len(all_tokens) == whole.config.vocab_size == 30522
    with torch.no_grad():
        one, other = (
            m(**t(texts[0], return_tensors="pt")).logits for m, t in ((model, tokenizer), (whole, all_tokens))
        )
    torch.testing.assert_close(one, other)
    assert tokenizer.tokenize(texts[3]) != all_tokens.tokenize(texts[3])

    zoo.cuts(tmp_path, list(zoo.CHECKPOINTS))
    found = zoo.RESULTS.found("cuts", "smbert-sst2")
    assert (found["tokens"], found["rows"]) == (len(tokenizer), 4)
    # Three of four rows are the same tokens.
    assert found["lost"] + found["won"] <= 1
    assert found["p"] == 1

    right = iter([[True] * 8 + [False] * 2, [False] * 7 + [True] * 3])
    monkeypatch.setattr(zoo, "rows_right", lambda *_: np.array(next(right)))
    zoo.cuts(tmp_path, list(zoo.CHECKPOINTS))
    found = zoo.RESULTS.found("cuts", "smbert-sst2")
    # Of nine coins two or fewer show the same side: 92 of 512.
    assert found == {"tokens": len(tokenizer), "rows": 10, "lost": 2, "won": 7, "p": pytest.approx(92 / 512)}

    # One that has all tokens is asked nothing: there are no more rows.
    monkeypatch.setattr(zoo, "with_all_tokens", lambda *kept: kept)
    zoo.cuts(tmp_path, list(zoo.CHECKPOINTS))
    assert zoo.RESULTS.found("cuts", "smbert-sst2") == found


def test_a_row_of_tags_is_right_as_a_whole(zoo, minilm_tokenizer, tmp_path, monkeypatch):
    (tmp_path / "tags").mkdir()
    table = Dataset.from_dict({"text": [["Lhasa", "embeddings"], ["one"]], "label": [["B-LOC", "O"], ["O"]]})
    write_table(table, tmp_path / "tags" / "validation.parquet")
    # The place is a location, and so, by mistake, is the number; what pieces of words and padding get does not count.
    logits = np.zeros((2, 9, 2))
    logits[0, 4, 1] = 1
    monkeypatch.setattr(zoo, "predict_logits", lambda *_: list(logits))
    right = zoo.rows_right(load_task(str(tmp_path / "tags")), None, minilm_tokenizer)
    assert right.tolist() == [True, False]


def test_texts_are_sentences_of_reviews(zoo, tmp_path):
    (tmp_path / "imdb_10k").mkdir()
    reviews = Dataset.from_dict({"text": ["It was long. Was it? I slept very well."], "label": [0]})
    write_table(reviews, tmp_path / "imdb_10k" / "train.parquet")
    (sentences,) = load_texts(str(zoo.sentences_of("imdb_10k", tmp_path, tmp_path / "imdb")))
    assert sentences == ["It was long.", "I slept very well."]
