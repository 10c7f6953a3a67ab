"""Compares customers with listed entries: a score between 0 and 1, and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from rapidfuzz.distance import Levenshtein

from .encoder import EncodedIndex, name_encoder
from .index import NameIndex
from .lists import KINDS, MAX_ID, Entry, check_date, country_code
from .names import Name, are_nicknames, divisions, is_latin, is_short, parse_name, sound_of


# Names the rules of this file and of names.py and the encoder; recorded with every alert and decision.
RULES_VERSION = "rules-2"
# Chosen on one half of the public pairs (benchmarks/name_screening.py).
DEFAULT_THRESHOLD = 0.75
# Two words that agree less are different words.
MIN_WORD_SIMILARITY = 0.6
# What the sound of two words counts, the rest being their letters; letters alone count in full.
SOUND_SHARE = 0.8
SOUND_WEIGHT = 0.9
NICKNAME_SIMILARITY = 0.95
INITIAL_SIMILARITY = 0.85
# The better covered of the two names counts this much, the other the rest; less when a single word agrees.
BETTER_SHARE = 0.7
BETTER_SHARE_OF_ONE_WORD = 0.4
# Names written without the spaces, or with others.
JOINED_WEIGHT = 0.95
# Words in two scripts: from which cosine of the encoder on they are alike, and from which on the same. Words of one or
# two Chinese, Japanese or Korean characters are like many. Chosen as the threshold was.
COSINES, SHORT_COSINES = (0.67, 0.85), (0.7, 1.0)
# Names of different scripts: transliterations are short of letters, and agree by chance more often.
SCRIPTS_WEIGHT = 0.95
# What the other fields add to or take from the score of the names. They never raise a weak name above a threshold.
SAME_BIRTH_DATE, SAME_BIRTH_YEAR, OTHER_BIRTH_YEAR = 0.04, 0.02, -0.12
SAME_COUNTRY, OTHER_COUNTRY = 0.01, -0.02
OTHER_KIND = -0.1
MAX_NAME = 500
# Lists are a year or two wrong about births as often as not.
YEARS_APART = 2


@dataclass(frozen=True, slots=True)
class Customer:
    """
    Whom to screen.

    Args:
        id (`str`): The bank's identifier, of at most 100 characters.
        name (`str`): Name in any script and order.
        aliases (`tuple` of `str`, *optional*): Other names.
        kind (`str`, *optional*): One of `KINDS`, or empty.
        birth_date (`str`, *optional*): `1948-12-10`, `1948-12`, `1948` or empty.
        country (`str`, *optional*): Name or two-letter code, or empty.
    """

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    kind: str = ""
    birth_date: str = ""
    country: str = ""

    def __post_init__(self) -> None:
        if not self.id.strip():
            raise ValueError("expected something in `id`, got nothing.")
        if len(self.id) > MAX_ID:
            raise ValueError(f"expected an `id` of at most {MAX_ID} characters, got {len(self.id)}.")
        if max(map(len, (self.name, *self.aliases))) > MAX_NAME:
            raise ValueError(f"expected names of at most {MAX_NAME} characters, got a longer one.")
        if not parse_name(self.name).words:
            raise ValueError(f"expected a `name` with letters, got {self.name[:40]!r}.")
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"expected a `kind` of {list(KINDS)} or nothing, got {self.kind[:40]!r}.")
        if self.birth_date:
            check_date(self.birth_date)


@dataclass(frozen=True, slots=True)
class Feature:
    """One reason for a score: what was compared, how much it changed the score, and in words."""

    name: str
    effect: float
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """A customer's likeness to an entry."""

    entry: Entry
    customer_name: str
    listed_name: str
    score: float
    features: tuple[Feature, ...]


@lru_cache(maxsize=1 << 20)
def word_similarity(first: str, second: str) -> tuple[float, str]:
    """How alike two words are, between 0 and 1, and in what: 0 where they are different words."""
    if first == second:
        return 1.0, "equal"
    if len(first) == 1 or len(second) == 1:
        return (INITIAL_SIMILARITY, "initial") if first[0] == second[0] else (0.0, "")
    similarity, how = Levenshtein.normalized_similarity(first, second), "spelling"
    if are_nicknames(first, second):
        return max(similarity, NICKNAME_SIMILARITY), "nickname"
    sound = sound_similarity(first, second, similarity)
    if sound > similarity:
        similarity, how = sound, "sound"
    return (similarity, how) if similarity >= MIN_WORD_SIMILARITY else (0.0, "")


def sound_similarity(first: str, second: str, spelling: float) -> float:
    """How alike two texts sound, their likeness in spelling included; 0 where there is too little to hear."""
    sounds = sound_of(first), sound_of(second)
    if min(map(len, sounds)) < 2:
        return 0.0
    sound = Levenshtein.normalized_similarity(*sounds)
    return SOUND_SHARE * SOUND_WEIGHT * sound + (1 - SOUND_SHARE) * spelling


def encoded_similarity(first: str, second: str) -> float:
    """How alike two words of different scripts are to the encoder: 0 where they are different words."""
    alike, same = SHORT_COSINES if is_short(first) or is_short(second) else COSINES
    cosine = name_encoder().cosine(first, second)
    if cosine < alike:
        return 0.0
    return MIN_WORD_SIMILARITY + min(1.0, (cosine - alike) / (same - alike)) * (1 - MIN_WORD_SIMILARITY)


@lru_cache(maxsize=1 << 19)
def across_similarity(first: str, second: str, written: str, other: str) -> tuple[float, str]:
    """`word_similarity` of two words in Latin letters, or what the encoder says of them as written if that is more."""
    similarity, how = word_similarity(first, second)
    if similarity < 1.0 and written and other and (encoded := encoded_similarity(written, other)) > similarity:
        return encoded, "encoder"
    return similarity, how


def are_across(first: Name, second: Name) -> bool:
    """Whether one of two names is in Latin letters and the other in another script."""
    return is_latin(first.text) != is_latin(second.text)


def compare_words(first: Name, i: int, second: Name, j: int, across: bool) -> tuple[float, str]:
    """How alike a word of one name and one of another are, and in what."""
    if across and first.weights[i] == second.weights[j] == 1.0:
        return across_similarity(first.words[i], second.words[j], first.written[i], second.written[j])
    return word_similarity(first.words[i], second.words[j])


def align(first: Name, second: Name) -> list[tuple[float, int, int]]:
    """The words of two names that belong together, each word once, best first: (similarity, word, word)."""
    across = bool(first.written and second.written) and are_across(first, second)
    pairs = []
    for i in range(len(first.words)):
        for j in range(len(second.words)):
            similarity = compare_words(first, i, second, j, across)[0]
            if similarity:
                pairs.append((similarity * min(first.weights[i], second.weights[j]), similarity, i, j))
    pairs.sort(reverse=True)
    aligned = []
    first_used, second_used = 0, 0
    for _, similarity, i, j in pairs:
        if not (first_used >> i & 1 or second_used >> j & 1):
            first_used |= 1 << i
            second_used |= 1 << j
            aligned.append((similarity, i, j))
    return aligned


def divide(first: Name, second: Name) -> tuple[Name, Name]:
    """Two names of different scripts, one that is written without spaces divided as the other is most alike."""
    if not (first.written and second.written and are_across(first, second)):
        return first, second
    ways = [(one, other) for one in divisions(first) for other in divisions(second)]
    if len(ways) == 1:
        return first, second
    return max(ways, key=lambda way: aligned_similarity(way[0], way[1], align(way[0], way[1])))


def aligned_similarity(first: Name, second: Name, aligned: list[tuple[float, int, int]]) -> float:
    """How much of both names the aligned words cover."""
    covered = sum(similarity * first.weights[i] for similarity, i, _ in aligned) / sum(first.weights)
    other = sum(similarity * second.weights[j] for similarity, _, j in aligned) / sum(second.weights)
    full_words = sum(first.weights[i] == 1.0 for _, i, _ in aligned)
    share = BETTER_SHARE if full_words > 1 else BETTER_SHARE_OF_ONE_WORD
    return share * max(covered, other) + (1 - share) * min(covered, other)


def joined_similarity(first: tuple[str, ...], second: tuple[str, ...]) -> float:
    """
    How alike two names are without spaces, in any of the orders that start at another word. Where they are divided
    into words differently, as Chinese and Korean ones often are, their sound counts too.
    """
    text = "".join(first)
    best = 0.0
    for start in range(len(second)):
        other = "".join(second[start:] + second[:start])
        spelling = Levenshtein.normalized_similarity(text, other)
        sound = sound_similarity(text, other, spelling) if len(first) != len(second) else 0.0
        best = max(best, spelling, sound)
    return JOINED_WEIGHT * best


def name_similarity(first: Name, second: Name) -> float:
    """
    How alike two names are.

    Args:
        first, second ([`Name`]): Two names that have words.

    Returns:
        `float`: Between 0 and 1; 1 for the same words in any order.
    """
    divided = divide(first, second)
    similarity = aligned_similarity(*divided, align(*divided))
    if similarity < 1.0:
        similarity = max(similarity, joined_similarity(first.words, second.words))
        cores = first.core, second.core
        if cores != (first.words, second.words):
            similarity = max(similarity, joined_similarity(*cores))
    return SCRIPTS_WEIGHT * similarity if are_across(first, second) else similarity


def explain_name(first: Name, second: Name) -> tuple[Feature, ...]:
    """The features of `name_similarity`: every pair of words, what has no counterpart, spaces and scripts."""
    similarity, across = name_similarity(first, second), are_across(first, second)
    features = [Feature("name", round(similarity, 4), f"{first.text} / {second.text}")]
    first, second = divide(first, second)
    aligned = align(first, second)
    by_words = aligned_similarity(first, second, aligned)
    for likeness, i, j in sorted(aligned, key=lambda pair: pair[1]):
        how = compare_words(first, i, second, j, across)[1]
        words = (first.written[i], second.written[j]) if how == "encoder" else (first.words[i], second.words[j])
        share = round(likeness * first.weights[i] / sum(first.weights), 4)
        features.append(Feature(f"word: {how}", share, f"{words[0]} / {words[1]} ({likeness:.2f})"))
    for side, name, used in (
        ("customer", first, {i for _, i, _ in aligned}),
        ("list", second, {j for *_, j in aligned}),
    ):
        if rest := [word for place, word in enumerate(name.words) if place not in used]:
            features.append(Feature("words without counterpart", 0.0, f"{side}: {' '.join(rest)}"))
    if across:
        text = second.latin if is_latin(first.text) else first.latin
        features.append(Feature("transliterated", round(similarity - similarity / SCRIPTS_WEIGHT, 4), text))
    elif similarity > by_words:
        features.append(Feature("without spaces", round(similarity - by_words, 4), "alike when written together"))
    return tuple(features)


def years(date: str) -> tuple[int, int]:
    """First and last year of a birth date."""
    parts = date.split("/")
    return int(parts[0][:4]), int(parts[-1][:4])


def compare_births(customer: str, listed: Sequence[str]) -> Feature | None:
    """What the birth dates say; of several listed ones the nearest counts."""
    if not customer or not listed:
        return None
    text = f"{customer} / {', '.join(listed)}"
    if len(customer) == 10 and customer in listed:
        return Feature("birth date", SAME_BIRTH_DATE, text)
    first, last = years(customer)
    apart = min(max(low - last, first - high, 0) for low, high in map(years, listed))
    if apart == 0:
        return Feature("birth year", SAME_BIRTH_YEAR, text)
    return Feature("birth year", OTHER_BIRTH_YEAR if apart > YEARS_APART else 0.0, f"{text}: {apart} years apart")


def compare_countries(customer: str, listed: Sequence[str]) -> Feature | None:
    """What the countries say."""
    if not customer or not listed:
        return None
    code = country_code(customer)
    return Feature("country", SAME_COUNTRY if code in listed else OTHER_COUNTRY, f"{code} / {', '.join(listed)}")


def compare_kinds(customer: str, listed: str) -> Feature | None:
    """What the kinds say: a person is hardly a ship."""
    if not customer or customer == listed:
        return None
    return Feature("kind", OTHER_KIND, f"{customer} / {listed}")


def qualify(customer: Customer, entry: Entry) -> list[Feature]:
    """The features of the fields beside the name."""
    found = (
        compare_births(customer.birth_date, entry.birth_dates),
        compare_countries(customer.country, entry.countries),
        compare_kinds(customer.kind, entry.kind),
    )
    return [feature for feature in found if feature]


class Screener:
    """
    Screens customers against entries. It is never changed: make another for other entries or thresholds.

    Args:
        entries (iterable of [`Entry`]): Of any lists.
        thresholds (mapping of list name to `float`, *optional*): From which score on a likeness is reported;
            `DEFAULT_THRESHOLD` for lists that are not in it.

    Example:
        >>> screener = Screener([Entry("sample", "1", "person", ("KARPOV, Pavel",))])
        >>> screener.screen(Customer("c1", "Павел Карпов"))[0].entry.source_id
        '1'
    """

    def __init__(self, entries: Iterable[Entry], thresholds: Mapping[str, float] | None = None):
        self.entries = tuple(entries)
        self.thresholds = dict(thresholds or {})
        for list_name, threshold in self.thresholds.items():
            if not 0.5 <= threshold <= 1.0:
                raise ValueError(f"The threshold of {list_name!r} must be between 0.5 and 1, got {threshold}.")
        # Names that are compared alike stand in the index once.
        rows: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
        self.names: list[Name] = []
        self.owners: list[list[tuple[int, Name]]] = []
        for place, entry in enumerate(self.entries):
            for text in entry.names:
                name = parse_name(text)
                if not name.words:
                    continue
                row = rows.setdefault((name.words, name.written), len(self.names))
                if row == len(self.names):
                    self.names.append(name)
                    self.owners.append([])
                self.owners[row].append((place, name))
        self.index = NameIndex(self.names)

    @cached_property
    def latin_names(self) -> EncodedIndex:
        """Names in Latin letters, which the encoder finds for customers whose names are not."""
        return EncodedIndex(self.names, [row for row, name in enumerate(self.names) if is_latin(name.text)])

    @cached_property
    def other_names(self) -> EncodedIndex:
        """Names in other scripts of entries that have none in Latin letters, for customers whose names are."""
        latin = {place for place, entry in enumerate(self.entries) if any(map(is_latin, entry.names))}
        rows = [row for row, owners in enumerate(self.owners) if not latin.issuperset(place for place, _ in owners)]
        return EncodedIndex(self.names, [row for row in rows if not is_latin(self.names[row].text)])

    def candidates(self, own: Name) -> np.ndarray:
        """The listed names that are worth comparing with a customer's."""
        rows = self.index.search(own)
        across = (self.other_names if is_latin(own.text) else self.latin_names).search(own)
        return np.union1d(rows, across) if len(across) else rows

    def threshold(self, list_name: str) -> float:
        """From which score on a likeness to an entry of this list is reported."""
        return self.thresholds.get(list_name, DEFAULT_THRESHOLD)

    def screen(self, customer: Customer) -> list[Match]:
        """
        Every entry that is at least as like the customer as its list's threshold.

        Args:
            customer ([`Customer`]): Whom to screen.

        Returns:
            `list` of [`Match`]: Best first, each entry once.
        """
        lowest = min([DEFAULT_THRESHOLD, *self.thresholds.values()]) - SAME_BIRTH_DATE - SAME_COUNTRY
        best: dict[int, tuple[float, Name, Name]] = {}
        for own in dict.fromkeys(parse_name(text) for text in (customer.name, *customer.aliases)):
            if not own.words:
                continue
            for row in self.candidates(own):
                similarity = name_similarity(own, self.names[row])
                if similarity < lowest:
                    continue
                for place, listed in self.owners[row]:
                    if place not in best or similarity > best[place][0]:
                        best[place] = (similarity, own, listed)
        matches = []
        for place, (similarity, own, listed) in best.items():
            entry = self.entries[place]
            qualifiers = qualify(customer, entry)
            # Rounded, so that a score and a threshold that read alike compare alike.
            score = round(min(1.0, max(0.0, similarity + sum(feature.effect for feature in qualifiers))), 4)
            if score >= self.threshold(entry.list_name):
                features = (*explain_name(own, listed), *qualifiers)
                matches.append(Match(entry, own.text, listed.text, score, features))
        return sorted(matches, key=lambda match: (-match.score, match.entry.list_name, match.entry.source_id))


__all__ = ["DEFAULT_THRESHOLD", "RULES_VERSION", "Customer", "Feature", "Match", "Screener", "name_similarity"]
