"""The script that makes and measures the zoo, on a part of it."""

import gzip
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


def test_a_language_model_keeps_the_tokens_of_its_texts(zoo, home, tmp_path, monkeypatch):
    measure, measured = zoo.measure_pretraining, []

    def told(model, samples, collator):
        measured.append((model.config.vocab_size, len(samples)))
        return measure(model, samples, collator)

    monkeypatch.setattr(zoo, "measure_pretraining", told)
    whole, made = tmp_path / "whole", tmp_path / "made"
    shutil.copytree(home / "my-bert", whole)
    report = json.loads((ROOT / "zoo" / "mobilebert-md" / "metrics.json").read_text())
    report |= {"metrics": {"mlm_loss": 9.0}, "samples": {"train": 9, "measured": 2}}
    (whole / "metrics.json").write_text(json.dumps(report))
    (whole / "transfer.png").write_bytes(b"a picture")
    with gzip.open(tmp_path / "texts.txt.gz", "wt") as texts:
        texts.write("\n\n".join(f"The council of town {i} has met. It chose a new mayor." for i in range(300)))
    zoo.cut_vocabulary(whole, made, [tmp_path / "texts.txt.gz"], 250, tmp_path)
    model, tokenizer = load_pretrained(made, "ForPreTraining", require_head=True)
    assert model.config.vocab_size == len(tokenizer) <= 250
    assert tokenizer.tokenize("the council chose jazz") == ["the", "council", "chose", "j", "##a", "##z", "##z"]
    report = json.loads((made / "metrics.json").read_text())
    assert report["metrics_with_all_tokens"] == {"mlm_loss": 9.0}
    after = report["metrics"]["mlm_loss"]
    assert measured == [(len(tokenizer), 2)]
    cut = {"tokens": 250, "metric": "mlm_loss", "before": 9.0, "after": after}
    assert zoo.RESULTS.found("vocabulary", "made") == cut
    assert (made / "transfer.png").read_bytes() == b"a picture"


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


def test_texts_are_sentences_of_reviews_and_rows_of_news(zoo, tmp_path):
    for task, text in (("imdb_10k", "It was long. Was it? I slept very well."), ("ag_news", "Oil is up.")):
        (tmp_path / task).mkdir()
        write_table(Dataset.from_dict({"text": [text], "label": [0]}), tmp_path / task / "train.parquet")
    (tmp_path / "text").mkdir()
    for file in zoo.TEXTS[:2]:
        with gzip.open(tmp_path / "text" / file, "wt") as news:
            news.write(f"A line of {file}.\n\nAnother.\n")
    reviews, news = (load_texts(str(zoo.texts_of(name, tmp_path, tmp_path / name)))[0] for name in ("imdb", zoo.NEWS))
    assert reviews == ["It was long.", "I slept very well."]
    assert [line.strip() for line in news[:2]] == ["Oil is up.", f"A line of {zoo.TEXTS[0]}."]
    assert len(news) == 5
