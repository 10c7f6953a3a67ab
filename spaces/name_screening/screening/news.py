"""The first pass over news about politically exposed persons: does it concern crime or money laundering, and whom does
it name?"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol


MODEL_VARIABLE, PERSON_VARIABLE = "SCREENING_NEWS_MODEL", "SCREENING_PERSON_MODEL"
# In the folder `zoo` of a checkout that this Space lies in, and what they need.
NEWS_MODEL, PERSON_MODEL = "smbert-lora-crime-news", "smbert-conll2003"
PACKAGES = ("torch", "transformers")
PERSON_LABELS = frozenset({"per", "person"})
MAX_NAME = 300
# Below this confidence the model's "not relevant" is not followed.
MIN_CONFIDENCE = 0.9
# About as long as the texts that the zoo's model has learned from.
PASSAGE_WORDS = 80
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


def passages_of(text: str, max_words: int = PASSAGE_WORDS) -> list[str]:
    """A text in passages of at most so many words, of whole sentences where they are not longer themselves."""
    passages: list[str] = []
    words: list[str] = []
    for sentence in sentences_of(text):
        new = sentence.split()
        if words and len(words) + len(new) > max_words:
            passages.append(" ".join(words))
            words = []
        words += new
        while len(words) > max_words:
            passages.append(" ".join(words[:max_words]))
            words = words[max_words:]
    return [*passages, " ".join(words)] if words else passages


def find_model(variable: str, name: str, *packages: str) -> str:
    """The model that a variable names, none where it is empty; where it is not set, one of the zoo beside this Space,
    if these packages are there; or none."""
    path = os.environ.get(variable, "")
    if variable not in os.environ and all(map(find_spec, packages)):
        zoos = (folder / "zoo" / name for folder in Path(__file__).resolve().parents)
        path = next((str(folder) for folder in zoos if folder.is_dir()), "")
    return path


def load_pipeline(task: str, path: str, **options: Any) -> Any:
    """A pipeline of transformers; code that a model brings is run where the model is a folder here."""
    # Heavy, and not among what the Space installs: only who sets a model needs it.
    from transformers import pipeline

    make: Any = pipeline
    model: Any = path
    if (Path(path) / "adapter_config.json").is_file():
        model = load_adapted(Path(path))
        options["tokenizer"] = path
    return make(task, model=model, device=-1, trust_remote_code=Path(path).is_dir(), **options)


def load_adapted(folder: Path) -> Any:
    """A classifier with the adapter of a folder merged in: its base is beside it, as in the zoo, or on the Hub."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    beside = folder.parent / Path(name).name
    # PEFT keeps no labels; `compactbert adapt` does.
    record = folder / "metrics.json"
    labels = json.loads(record.read_text())["base"]["config_fields"]["label2id"] if record.is_file() else {}
    verbosity = logging.get_verbosity()
    # The base's head, perhaps of other labels, is replaced by the adapter's: nothing to warn of.
    logging.set_verbosity_error()
    try:
        base = AutoModelForSequenceClassification.from_pretrained(
            beside if beside.is_dir() else name,
            trust_remote_code=beside.is_dir(),
            ignore_mismatched_sizes=True,
            **({"label2id": labels, "id2label": {number: label for label, number in labels.items()}} if labels else {}),
        )
    finally:
        logging.set_verbosity(verbosity)
    return PeftModel.from_pretrained(base, folder).merge_and_unload()


def version_of(path: str, model: Any) -> str:
    """What the log calls a model: the commit of its repository, or of a folder the name and a digest of its weights."""
    if not Path(path).is_dir():
        return f"{path}@{getattr(model.config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for file in sorted(Path(path).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return f"{Path(path).resolve().name}@{digest.hexdigest()[:12]}"


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
        self.version = version_of(path, self.pipeline.model)

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
        Judges one text by the most relevant of its passages, however long it is; the reason is the sentence that speaks
        most for the verdict.

        Args:
            text (`str`): News about a person.
        """
        passages, sentences = passages_of(text) or [text], sentences_of(text)
        scores = self.scores([*passages, *sentences])
        by_sentence = scores[len(passages) :]
        score = max(scores[: len(passages)])
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
    path = find_model(PERSON_VARIABLE, PERSON_MODEL, *PACKAGES)
    return PersonFinder(path) if path else None


def load_classifier() -> NewsClassifier | None:
    """
    The model that `SCREENING_NEWS_MODEL` names, or that of the zoo beside this Space; `None` without either: then every
    entry is kept.
    """
    path = find_model(MODEL_VARIABLE, NEWS_MODEL, *PACKAGES, "peft")
    return PipelineClassifier(path) if path else None


__all__ = [
    "NewsClassifier",
    "PersonFinder",
    "PipelineClassifier",
    "Verdict",
    "load_classifier",
    "load_person_finder",
]
