"""The second-level review: how likely an alert is right, from the fields of both sides, and which of them say so."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .lists import Entry, country_code
from .matching import (
    Customer,
    align,
    are_across,
    compare_words,
    divide,
    joined_similarity,
    name_similarity,
    years,
)
from .names import parse_name


# The model that comes with the Space, learned from public lists, and in how many entries of them a word is:
# benchmarks/name_screening.py makes both.
PUBLIC_MODEL = Path(__file__).with_name("public_model.json")
WORD_COUNTS = Path(__file__).with_name("word_counts.json")
# Further apart is not further wrong.
MAX_YEARS = 30
LIKENESS = "likeness of the names"
SHOWN_REASONS = 5
# Smaller changes of the probability are no reasons.
MIN_EFFECT = 0.005


@lru_cache(maxsize=1)
def word_counts() -> tuple[int, dict[str, int]]:
    """The number of entries of the public lists, and in how many each word is that is in several."""
    stored = json.loads(WORD_COUNTS.read_text())
    return stored["entries"], stored["words"]


def rarity(word: str) -> float:
    """How much it says that two names share this word; a word of many people says little."""
    entries, counts = word_counts()
    return math.log(entries / max(counts.get(word, 1), 1))


def name_fields(customer_name: str, listed_name: str) -> dict[str, float]:
    """What the two names say: how alike, in which words, how rare these are."""
    first, second = divide(parse_name(customer_name), parse_name(listed_name))
    aligned, across = align(first, second), are_across(first, second)
    hows = [compare_words(first, i, second, j, across)[1] for _, i, j in aligned]
    shared = [similarity * rarity(second.words[j]) for similarity, _, j in aligned]
    covered = sum(similarity * first.weights[i] for similarity, i, _ in aligned) / sum(first.weights)
    listed_covered = sum(similarity * second.weights[j] for similarity, _, j in aligned) / sum(second.weights)
    left = [word for i, word in enumerate(first.words) if i not in {i for _, i, _ in aligned}]
    listed_left = [word for j, word in enumerate(second.words) if j not in {j for *_, j in aligned}]
    return {
        LIKENESS: name_similarity(parse_name(customer_name), parse_name(listed_name)),
        "customer's words covered": covered,
        "listed words covered": listed_covered,
        "least alike pair of words": min((similarity for similarity, *_ in aligned), default=0.0),
        "alike without spaces": joined_similarity(first.words, second.words),
        "equal words": hows.count("equal"),
        "words of like spelling": hows.count("spelling"),
        # The encoder has learned what sounds alike.
        "words of like sound": hows.count("sound") + hows.count("encoder"),
        "nicknames and initials": hows.count("nickname") + hows.count("initial"),
        "customer's words left": len(left),
        "listed words left": len(listed_left),
        "rarity of the words left": sum(map(rarity, left)) + sum(map(rarity, listed_left)),
        "rarity of the shared words": sum(shared),
        "rarity of the rarest shared word": max(shared, default=0.0),
        "words of the shorter name": min(len(first.words), len(second.words)),
        "letters of the shorter name": min(len(first.latin), len(second.latin)),
    }


def field_values(customer: Customer, entry: Entry, customer_name: str, listed_name: str) -> dict[str, float]:
    """
    The fields of a pair that the second-level review looks at. Not among them is what public lists cannot teach: the
    order and script in which a bank writes names, and which of several names it knows.

    Args:
        customer ([`Customer`]): One side.
        entry ([`Entry`]): The other.
        customer_name, listed_name (`str`): The two of their names that are most alike.
    """
    apart = years_apart(customer.birth_date, entry)
    country = country_code(customer.country) if customer.country else ""
    return {
        **name_fields(customer_name, listed_name),
        "born on the same day": float(len(customer.birth_date) == 10 and customer.birth_date in entry.birth_dates),
        "born in the same year": float(apart == 0),
        "years between births": min(apart or 0, MAX_YEARS),
        "same country": float(bool(country) and country in entry.countries),
        "other country": float(bool(country and entry.countries) and country not in entry.countries),
        "other kind": float(bool(customer.kind) and customer.kind != entry.kind),
        "a person": float(entry.kind == "person"),
    }


def years_apart(birth_date: str, entry: Entry) -> int | None:
    """Years between a birth date and the nearest listed one; `None` where one side has none."""
    if not birth_date or not entry.birth_dates:
        return None
    first, last = years(birth_date)
    return min(max(low - last, first - high, 0) for low, high in map(years, entry.birth_dates))


@dataclass(frozen=True)
class Advice:
    """What the second-level review says of an alert: whether to clear it, how likely it is right, and why."""

    clear: bool
    probability: float
    reasons: tuple[str, ...]
    model: str


@dataclass(frozen=True)
class FieldModel:
    """
    A fitted classifier as plain numbers, so that loading one runs no code of others and no release of a library
    changes it.

    Args:
        version (`str`): What the log calls it.
        algorithm (`str`): Which of `screening.learning.ALGORITHMS` fitted it.
        fields (`tuple` of `str`): The names of the fields, in the order of the numbers.
        threshold (`float`): Below this probability it advises to clear.
        usual (`tuple` of `float`): The median of each field over the false alerts it has learned from.
        start (`float`): What the sum of all terms starts from.
        weights (`tuple` of `float`, *optional*): Of a linear model, one a field.
        trees (`tuple` of `dict`, *optional*): Of a model of trees: for every node its `field`, `limit`, `left`,
            `right` and `value`; -1 stands for no child.
        logistic (`bool`, *optional*, defaults to `True`): Whether the sum is log-odds, else it is the probability.
        notes (`dict`, *optional*): How it was made.
    """

    version: str
    algorithm: str
    fields: tuple[str, ...]
    threshold: float
    usual: tuple[float, ...]
    start: float
    weights: tuple[float, ...] = ()
    trees: tuple[Mapping[str, list], ...] = ()
    logistic: bool = True
    notes: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "FieldModel":
        """A model as `to_dict` made it, JSON in between."""
        tuples: dict[str, Any] = {key: tuple(value) for key, value in stored.items() if isinstance(value, list)}
        return cls(**{**stored, **tuples})

    def to_dict(self) -> dict[str, Any]:
        """The model as JSON can hold it."""
        return asdict(self)

    @property
    def auc(self) -> float:
        """The area under the curve by cross-validation."""
        return (self.notes or {})["auc"][self.algorithm]

    @cached_property
    def nodes(self) -> list[list[np.ndarray]]:
        """The columns of every tree."""
        columns = ("field", "limit", "left", "right", "value")
        return [[np.asarray(tree[name]) for name in columns] for tree in self.trees]

    def row(self, values: Mapping[str, float]) -> list[float]:
        """Fields as the row of numbers that the model takes."""
        return [values[name] for name in self.fields]

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """The probability that each row is of one and the same person or body."""
        # Trees were fitted on single precision.
        rows = np.asarray(rows, dtype=np.float32)
        total = np.full(len(rows), self.start)
        if self.weights:
            total += rows.astype(np.float64) @ np.asarray(self.weights)
        for tree in self.nodes:
            total += walk(tree, rows)
        return 1 / (1 + np.exp(-total)) if self.logistic else total

    def advise(self, values: Mapping[str, float]) -> Advice:
        """
        Judges one pair. A reason is a field without which, being as with most false alerts, the probability would be
        another.
        """
        row = self.row(values)
        rows = np.tile(np.asarray(row, dtype=np.float32), (len(row) + 1, 1))
        for place, usual in enumerate(self.usual):
            rows[place + 1, place] = usual
        probability, *others = self.probabilities(rows).tolist()
        effects = sorted(
            ((probability - other, place) for place, other in enumerate(others)), key=lambda pair: -abs(pair[0])
        )
        reasons = tuple(
            f"{self.fields[place]}: {row[place]:.4g} ({effect:+.2f})"
            for effect, place in effects[:SHOWN_REASONS]
            if abs(effect) >= MIN_EFFECT
        )
        return Advice(probability < self.threshold, round(probability, 4), reasons, self.version)


def walk(tree: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The value of the leaf that each row comes to."""
    field, limit, left, right, value = tree
    node = np.zeros(len(rows), dtype=np.int64)
    while (inner := left[node] >= 0).any():
        at = node[inner]
        goes_left = rows[inner, field[at]] <= limit[at]
        node[inner] = np.where(goes_left, left[at], right[at])
    return value[node]


@lru_cache(maxsize=1)
def public_model() -> FieldModel:
    """The model that comes with the Space."""
    return FieldModel.from_dict(json.loads(PUBLIC_MODEL.read_text()))


__all__ = ["Advice", "FieldModel", "field_values", "public_model"]
