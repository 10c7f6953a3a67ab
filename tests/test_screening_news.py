"""The first pass over news: a text classifier that the environment names."""

import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')
import torch
from families import build

from screening.news import MIN_CONFIDENCE, PersonFinder, PipelineClassifier, load_classifier, load_person_finder


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
    assert verdict.model == f"{path}@local"


def test_without_a_model_there_is_no_first_pass(monkeypatch):
    monkeypatch.delenv("SCREENING_NEWS_MODEL", raising=False)
    assert load_classifier() is None


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
