"""The first pass over news: a text classifier that the environment names, or the zoo's, and what that has learned."""

import hashlib
import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')
import torch
from families import build
from peft import LoraConfig, get_peft_model

from screening.news import (
    MIN_CONFIDENCE,
    PASSAGE_WORDS,
    PersonFinder,
    PipelineClassifier,
    load_classifier,
    load_person_finder,
    passages_of,
)


ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def crime_news(load_benchmark):
    """The script that made the zoo's model."""
    return load_benchmark("crime_news")


def save(folder, tokenizer, labels, bias):
    """A tiny model that says of everything that it is relevant with this logit."""
    options = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    options |= {"vocab_size": len(tokenizer), "max_position_embeddings": 512}
    model = build("smbert-uneven", "ForSequenceClassification", **options)
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)
        model.classifier.bias.copy_(torch.tensor([0.0, bias]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("bias", "relevant"), [(4.0, True), (0.0, True), (-6.0, False)])
def test_news_is_dropped_only_when_the_model_is_sure(tmp_path, minilm_tokenizer, monkeypatch, bias, relevant):
    path = save(tmp_path, minilm_tokenizer, ["irrelevant", "relevant"], bias)
    monkeypatch.setenv("SCREENING_NEWS_MODEL", path)
    classifier = load_classifier()
    verdict = classifier.judge("He opened a garden. He was tried for fraud! " + "It rained. " * 300)
    assert verdict.relevant is relevant
    assert (verdict.score > 1 - MIN_CONFIDENCE) is relevant
    assert verdict.reason in ("He opened a garden.", "He was tried for fraud!", "It rained.")
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert verdict.model == f"{tmp_path.name}@{hashlib.sha256(weights).hexdigest()[:12]}"


def test_the_zoos_model_is_the_first_pass(monkeypatch):
    monkeypatch.delenv("SCREENING_NEWS_MODEL", raising=False)
    classifier = load_classifier()
    assert re.fullmatch("smbert-lora-crime-news@[0-9a-f]{12}", classifier.version)
    crime = "The former minister was arrested on charges that he laundered bribes through a bank in Cyprus."
    garden = "The minister opened a botanical garden and planted a tree with the children of the village."
    verdict = classifier.judge(f"{garden} {crime}")
    assert verdict.relevant
    assert verdict.score > 0.9
    assert verdict.reason == crime
    verdict = classifier.judge(garden)
    assert not verdict.relevant
    assert verdict.score <= 1 - MIN_CONFIDENCE
    # Nothing is cut off: the end of a long text counts as its beginning does.
    assert classifier.judge(f"{garden} " * 100 + crime).relevant


def test_without_a_model_there_is_no_first_pass(monkeypatch):
    monkeypatch.delenv("SCREENING_NEWS_MODEL", raising=False)
    monkeypatch.setattr("screening.news.find_spec", lambda name: None if name == "peft" else name)
    assert load_classifier() is None
    monkeypatch.undo()
    monkeypatch.setenv("SCREENING_NEWS_MODEL", "")
    assert load_classifier() is None


def test_an_adapter_is_read_with_its_base(tmp_path, minilm_tokenizer):
    sizes = {"vocab_size": len(minilm_tokenizer), "max_position_embeddings": 512}
    base = build("smbert-uneven", "ForSequenceClassification", num_labels=4, **sizes)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    base.classifier, base.config.num_labels = torch.nn.Linear(base.config.hidden_size, 2), 2
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)).eval()
    # Where nobody can reach it: the folder beside it is taken.
    adapted.active_peft_config.base_model_name_or_path = "acme/base"
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    minilm_tokenizer.save_pretrained(tmp_path / "adapter")
    fields = {"id2label": {"0": "not relevant", "1": "relevant"}, "label2id": {"not relevant": 0, "relevant": 1}}
    record = {"base": {"config_fields": fields}}
    (tmp_path / "adapter" / "metrics.json").write_text(json.dumps(record))
    text = "He was tried for fraud."
    with torch.no_grad():
        expected = adapted(**minilm_tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0, 1].item()
    assert PipelineClassifier(str(tmp_path / "adapter")).scores([text]) == [pytest.approx(expected, abs=1e-5)]


def test_a_text_is_read_in_passages_of_whole_sentences():
    sentences = [" ".join(["word"] * 30) + "." for _ in range(5)]
    assert [passage.count(".") for passage in passages_of(" ".join(sentences))] == [2, 2, 1]
    endless = passages_of("word " * (2 * PASSAGE_WORDS + 1))
    assert [len(passage.split()) for passage in endless] == [PASSAGE_WORDS, PASSAGE_WORDS, 1]
    assert passages_of("  ") == []


def test_a_model_with_other_labels_is_refused(tmp_path, minilm_tokenizer):
    classifier = PipelineClassifier(save(tmp_path, minilm_tokenizer, ["neg", "pos"], 0.0))
    with pytest.raises(ValueError, match=r"must have a label '1', 'LABEL_1' or 'relevant', got \['neg', 'pos'\]"):
        classifier.judge("He was tried.")


def test_persons_are_found_by_the_zoos_model(monkeypatch):
    monkeypatch.delenv("SCREENING_PERSON_MODEL", raising=False)
    finder = load_person_finder()
    text = "Pavel Karpov met Angela Merkel in Berlin.\nThe bank of Cyprus said that Pavel Karpov had left. It rained."
    found = finder.find(text)
    assert [name for name, _ in found] == ["Pavel Karpov", "Angela Merkel"]
    assert all(0.5 < probability <= 1 for _, probability in found)
    # A sentence longer than the model takes is read in pieces, or cut; it does not end the search.
    assert "Pavel Karpov" in dict(finder.find("Pavel Karpov waited " + "and waited " * 600))
    assert finder.find("It rained.") == []


def test_another_model_finds_persons_by_its_label(tmp_path, minilm_tokenizer, monkeypatch):
    options = {"id2label": {0: "O", 1: "PERSON"}, "label2id": {"O": 0, "PERSON": 1}}
    model = build("smbert-uneven", "ForTokenClassification", vocab_size=len(minilm_tokenizer), **options)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 5.0]))
    model.save_pretrained(tmp_path)
    minilm_tokenizer.save_pretrained(tmp_path)
    monkeypatch.setenv("SCREENING_PERSON_MODEL", str(tmp_path))
    finder = load_person_finder()
    assert isinstance(finder, PersonFinder)
    assert finder.find("It rained") == [("It rained", 0.9933)]
    monkeypatch.setattr("screening.news.find_spec", lambda name: None)
    monkeypatch.delenv("SCREENING_PERSON_MODEL")
    assert load_person_finder() is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("He pleaded guilty to money-laundering.", "relevant"),
        ("Gunmen of Al-Qaeda were arrested.", "relevant"),
        ("The two U.N. sanctions were lifted.", "relevant"),
        ("Profits rose by a tenth.", "not relevant"),
        ("The candidates spoke of the war on terror.", "not relevant"),
        ("Grand Theft Auto sold best, and he led in stolen bases.", "not relevant"),
        # Perhaps invented.
        ("A film about a bank robbery.", None),
    ],
)
def test_weak_labels(crime_news, text, label):
    assert crime_news.weak_label(text) == label


def test_some_texts_lose_the_words_that_gave_their_label(crime_news):
    chance = random.Random(0)
    text = "Prosecutors charged the banker with fraud on Monday."
    assert crime_news.hide_words(text, 0, chance) == "charged the banker with on Monday."
    plain = "Profits of the company rose by a tenth on Monday."
    assert len(crime_news.hide_words(plain, 2, chance).split()) == len(plain.split()) - 2


def test_figures_count_a_text_for_those_it_stands_for(crime_news, monkeypatch):
    monkeypatch.setattr(crime_news, "RESAMPLES", 10)
    table = pd.DataFrame(
        {
            "stratum": ["a", "a", "b", "b"] * 10,
            "weight": [1.0, 1.0, 10.0, 10.0] * 10,
            "relevant": [True, False, True, False] * 10,
            "score": [0.9, 0.8, 0.05, 0.01] * 10,
        }
    )
    figures = crime_news.measure(table, 0.1)
    assert figures["recall"][0] == pytest.approx(1 / 11)
    assert figures["precision"][0] == pytest.approx(1 / 2)
    assert figures["dropped"][0] == pytest.approx(10 / 11)
    # 32 of 32, and 3 of 10, as in tables of Clopper and Pearson.
    assert crime_news.share(np.ones(32, bool), np.ones(32)) == pytest.approx([1, 0.8911, 1], abs=1e-4)
    assert crime_news.share(np.arange(10) < 3, np.ones(10)) == pytest.approx([0.3, 0.0667, 0.6525], abs=1e-4)


def test_the_page_says_how_good_the_first_pass_is(crime_news):
    measured = crime_news.RESULTS.found("measured", "all", "first pass")
    source = (ROOT / "spaces" / "name_screening" / "app.py").read_text()
    said = re.search(r'FIRST_PASS = """(.*?)"""', source, re.DOTALL)[1].replace("\n", " ")
    assert f"it says of {1 - measured['recall'][0]:.1%} of the relevant ones" in said
    assert f"and of {measured['dropped'][0]:.1%} of the others" in said
    assert f"at most {1 - MIN_CONFIDENCE:.1f} means irrelevant" in said
    counts = crime_news.RESULTS.found("measured", "counts").values()
    assert all(stratum["relevant and kept"] == stratum["relevant"] for stratum in counts)
    readme = (ROOT / "spaces" / "name_screening" / "README.md").read_text()
    assert f"drops none of the {sum(stratum['relevant'] for stratum in counts)} relevant texts" in readme


@pytest.mark.skipif("COMPACTBERT_DATA" not in os.environ, reason="needs the news under COMPACTBERT_DATA")
def test_the_texts_that_were_read_are_known_by_their_hashes(crime_news):
    data_dir = Path(os.environ["COMPACTBERT_DATA"])
    results = crime_news.RESULTS.read()
    read = {place for places in results["read"].values() for place in places}
    assert len(read) >= 290
    assert set(results["relevant"]) <= read
    texts = crime_news.texts_to_read(data_dir)
    crime_news.check_texts(texts)
    place = min(read)
    with pytest.raises(ValueError, match=f"The text of '{place}' is not the one that was read"):
        crime_news.check_texts(texts | {place: "another"})
    # None of them is learned from.
    learned = {crime_news.digest_of(text) for text in crime_news.read_sources(data_dir)["ag_news"]}
    assert learned.isdisjoint(digest for places in results["read"].values() for digest in places.values())
