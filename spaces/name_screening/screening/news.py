"""The first pass over news about politically exposed persons: does it concern crime or money laundering, and whom does
it name?"""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol


MODEL_VARIABLE, PERSON_VARIABLE = "SCREENING_NEWS_MODEL", "SCREENING_PERSON_MODEL"
# In the folder `zoo` of a checkout that this Space lies in.
PERSON_MODEL = "smbert-conll2003"
PERSON_LABELS = frozenset({"per", "person"})
MAX_NAME = 300
# Below this confidence the model's "not relevant" is not followed.
MIN_CONFIDENCE = 0.9
RELEVANT_LABELS = frozenset({"1", "label_1", "relevant"})
SENTENCES = re.compile(r"(?<=[.!?。！？])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the first pass says of a text: the score is the probability that it is relevant."""

    relevant: bool
    score: float
    reason: str
    model: str


def sentences_of(text: str) -> list[str]:
    """A text's sentences and lines, without empty ones."""
    return [sentence for sentence in SENTENCES.split(text.strip()) if sentence]


def load_pipeline(task: str, path: str, **options: Any) -> Any:
    """A pipeline of transformers; code that a model brings is run where the model is a folder here."""
    # Heavy, and not among what the Space installs: only who sets a model needs it.
    from transformers import pipeline

    make: Any = pipeline
    return make(task, model=path, device=-1, trust_remote_code=Path(path).is_dir(), **options)


class NewsClassifier(Protocol):
    """Anything that judges news."""

    version: str

    def judge(self, text: str) -> Verdict:
        """Judges one text."""
        ...


class PipelineClassifier:
    """
    A text classification model of transformers with two labels, of which `1` or `relevant` is the relevant one.

    Args:
        path (`str`): Folder or Hub id of the model.
    """

    def __init__(self, path: str):
        self.pipeline = load_pipeline("text-classification", path)
        self.version = f"{path}@{getattr(self.pipeline.model.config, '_commit_hash', None) or 'local'}"

    def scores(self, texts: list[str]) -> list[float]:
        """Probability that each text is relevant."""
        scored = []
        for labels in self.pipeline(texts, top_k=None, truncation=True):
            relevant = [row["score"] for row in labels if row["label"].lower() in RELEVANT_LABELS]
            if not relevant:
                raise ValueError(
                    f"The model of {MODEL_VARIABLE} must have a label '1', 'LABEL_1' or 'relevant', "
                    f"got {sorted(row['label'] for row in labels)}."
                )
            scored.append(relevant[0])
        return scored

    def judge(self, text: str) -> Verdict:
        """
        Judges one text; the reason is the sentence that speaks most for the verdict.

        Args:
            text (`str`): News about a person.
        """
        sentences = sentences_of(text)
        score, *by_sentence = self.scores([text, *sentences])
        relevant = score > 1 - MIN_CONFIDENCE
        choose = max if relevant else min
        reason = choose(zip(by_sentence, sentences, strict=True), default=(score, text))[1]
        return Verdict(relevant, round(score, 4), reason, self.version)


class PersonFinder:
    """
    Finds the persons that a text names, with a token classification model of transformers that has a label for them.

    Args:
        path (`str`): Folder or Hub id of the model.
    """

    def __init__(self, path: str):
        self.pipeline = load_pipeline("token-classification", path, aggregation_strategy="first")

    def find(self, text: str) -> list[tuple[str, float]]:
        """
        The names as written, each once, in the order of the text, and how sure the model is of each.

        Args:
            text (`str`): News.
        """
        sentences = sentences_of(text)
        found: dict[str, float] = {}
        for sentence, pieces in zip(sentences, self.pipeline(sentences), strict=True):
            for start, end, probability in joined(sentence, pieces):
                name = sentence[start:end].strip()
                if len(name) <= MAX_NAME and any(letter.isalpha() for letter in name):
                    found[name] = max(found.get(name, 0.0), round(probability, 4))
        return list(found.items())


def joined(text: str, pieces: list[dict[str, Any]]) -> list[tuple[int, int, float]]:
    """Where persons stand in a text: pieces with nothing but space between them are one name."""
    found: list[tuple[int, int, float]] = []
    for piece in pieces:
        if piece["entity_group"].lower() not in PERSON_LABELS:
            continue
        start, end, probability = piece["start"], piece["end"], float(piece["score"])
        if found and text[found[-1][1] : start].isspace():
            before, _, other = found.pop()
            start, probability = before, min(probability, other)
        found.append((start, end, probability))
    return found


def load_person_finder() -> PersonFinder | None:
    """The model that `SCREENING_PERSON_MODEL` names, or that of the zoo beside this Space; `None` without either."""
    path = os.environ.get(PERSON_VARIABLE, "")
    if not path and find_spec("transformers") and find_spec("torch"):
        zoos = (folder / "zoo" / PERSON_MODEL for folder in Path(__file__).resolve().parents)
        path = next((str(folder) for folder in zoos if folder.is_dir()), "")
    return PersonFinder(path) if path else None


def load_classifier() -> NewsClassifier | None:
    """The model that `SCREENING_NEWS_MODEL` names; `None` where it names none: then every entry is kept."""
    path = os.environ.get(MODEL_VARIABLE, "")
    return PipelineClassifier(path) if path else None


__all__ = [
    "NewsClassifier",
    "PersonFinder",
    "PipelineClassifier",
    "Verdict",
    "load_classifier",
    "load_person_finder",
]
