"""The first pass over news about politically exposed persons: does it concern crime or money laundering?"""

import os
import re
from dataclasses import dataclass
from typing import Any, Protocol


MODEL_VARIABLE = "SCREENING_NEWS_MODEL"
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
        # Heavy, and not among what the Space installs: only who sets a model needs it.
        from transformers import pipeline

        self.pipeline: Any = pipeline("text-classification", model=path, device=-1)
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
        sentences = [sentence for sentence in SENTENCES.split(text.strip()) if sentence]
        score, *by_sentence = self.scores([text, *sentences])
        relevant = score > 1 - MIN_CONFIDENCE
        choose = max if relevant else min
        reason = choose(zip(by_sentence, sentences, strict=True), default=(score, text))[1]
        return Verdict(relevant, round(score, 4), reason, self.version)


def load_classifier() -> NewsClassifier | None:
    """The model that `SCREENING_NEWS_MODEL` names; `None` where it names none: then every entry is kept."""
    path = os.environ.get(MODEL_VARIABLE, "")
    return PipelineClassifier(path) if path else None


__all__ = ["NewsClassifier", "PipelineClassifier", "Verdict", "load_classifier"]
