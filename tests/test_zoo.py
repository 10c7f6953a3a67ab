"""The script that makes and measures the zoo, on a part of it."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import yaml

from compactbert.convert import load_pretrained


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
