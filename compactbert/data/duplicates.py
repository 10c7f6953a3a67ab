"""Texts that occur more than once, word for word or nearly, in a table or in several splits."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from .tasks import as_text, check_columns


# Characters in a shingle: short enough for single sentences, and words need not be told apart.
SHINGLE = 5
PERMUTATIONS = 128


class TextIndex:
    """
    Finds texts like a given one; case and white space make no difference.

    Args:
        near (`float`, *optional*):
            Take texts for alike whose sets of five-character shingles overlap so much (Jaccard index), not only equal
            ones; up to 0.95. Candidates come from MinHash, which misses one in ten at `near` itself and few above; the
            index that decides is exact.
        seed (`int`, *optional*, defaults to 42):
            Seed of MinHash.

    Raises:
        ValueError: if `near` is out of range, or its library is missing.

    Example:

    ```python
    >>> from compactbert.data import TextIndex

    >>> index = TextIndex()
    >>> index.add(7, "A good film")
    >>> index.find("a  GOOD film"), index.find("A bad film")
    (7, None)

    ```
    """

    def __init__(self, near: float | None = None, seed: int = 42):
        self.near, self.seed = near, seed
        self._keys: dict[str, int] = {}
        if near is None:
            return
        if not 0 < near <= 0.95:
            raise ValueError(f"`near` must be above 0 and at most 0.95, got {near}.")
        try:
            import datasketch
        except ImportError as error:
            raise ValueError('`near` needs a library: run `pip install "compactbert[data]"`.') from error
        self._sketch = datasketch.MinHash
        # A text too many costs a comparison, one too few is lost.
        self._candidates = datasketch.MinHashLSH(threshold=near, num_perm=PERMUTATIONS, weights=(0.05, 0.95))
        self._shingles: dict[int, set[str]] = {}

    def find(self, text: str) -> int | None:
        """The lowest key of a text like this one, if there is any."""
        text = _normalized(text)
        found = [self._keys[text]] if text in self._keys else []
        if self.near is not None:
            shingles = _shingles(text)
            candidates = self._candidates.query(self._sketch_of(shingles))
            found += [key for key in candidates if _jaccard(shingles, self._shingles[key]) >= self.near]
        return min(found, default=None)

    def add(self, key: int, text: str) -> None:
        """Remembers a text; of equal ones the first."""
        text = _normalized(text)
        if text in self._keys:
            return
        self._keys[text] = key
        if self.near is not None:
            self._shingles[key] = _shingles(text)
            self._candidates.insert(key, self._sketch_of(self._shingles[key]))

    def _sketch_of(self, shingles: set[str]) -> Any:
        sketch = self._sketch(num_perm=PERMUTATIONS, seed=self.seed)
        sketch.update_batch([shingle.encode() for shingle in shingles])
        return sketch


def _normalized(text: str) -> str:
    return " ".join(text.lower().split())


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def first_occurrences(texts: Sequence[str], near: float | None = None, seed: int = 42) -> list[int]:
    """For every text the index of the first one like it that is kept, its own if it is kept itself; see
    [`TextIndex`]."""
    index = TextIndex(near, seed)
    found = []
    for i, text in enumerate(texts):
        first = index.find(text)
        if first is None:
            index.add(i, text)
        found.append(i if first is None else first)
    return found


def texts_of(dataset: Dataset, text_columns: Sequence[str]) -> list[str]:
    """A text for every row, of all its columns."""
    columns = [dataset[column][:] for column in text_columns]
    return ["\n".join(map(as_text, row)) for row in zip(*columns, strict=True)]


def drop_duplicates(
    dataset: Dataset,
    text_columns: Sequence[str] = ("text",),
    label_column: str | None = None,
    near: float | None = None,
    seed: int = 42,
) -> tuple[Dataset, dict[str, int]]:
    """
    Keeps the first of the rows whose texts are alike.

    Args:
        dataset ([`~datasets.Dataset`]):
            The table.
        text_columns (list of `str`, *optional*, defaults to `("text",)`):
            Columns that make up a row's text.
        label_column (`str`, *optional*):
            Count the rows that were left out and had another label than the one that was kept.
        near, seed:
            See [`TextIndex`].

    Returns:
        The table, and how many `rows` there were, were left out as `equal` and as `near`, and are `left`, with
        `conflicting` labels if there is a label column.

    Raises:
        ValueError: as [`TextIndex`], or if a column is missing or has missing values.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from compactbert.data import drop_duplicates

    >>> table, report = drop_duplicates(Dataset.from_dict({"text": ["A film", "a film", "another"]}))
    >>> table["text"][:], report
    (['A film', 'another'], {'rows': 3, 'equal': 1, 'near': 0, 'left': 2})

    ```
    """
    check_columns(dataset, [*text_columns, *([label_column] if label_column else [])], "The table")
    texts = texts_of(dataset, text_columns)
    equal = first_occurrences(texts)
    found = equal if near is None else first_occurrences(texts, near, seed)
    kept = dataset.select([i for i, first in enumerate(found) if first == i])
    report: dict[str, int] = {
        "rows": len(dataset),
        "equal": sum(first != i for i, first in enumerate(equal)),
        "near": sum(first == i != like for i, (first, like) in enumerate(zip(equal, found, strict=True))),
        "left": len(kept),
    }
    if label_column:
        labels = dataset[label_column][:]
        report["conflicting"] = sum(labels[i] != labels[first] for i, first in enumerate(found))
    return kept, report


def count_leaks(
    splits: Mapping[str, Dataset], text_columns: Sequence[str], near: float | None = None, seed: int = 42
) -> dict[str, int]:
    """
    How many rows of every later split have a text like one of an earlier split.

    Args:
        splits (`dict` of `str` to [`~datasets.Dataset`]):
            Tables in the order of their use, such as train, validation, test.
        text_columns, near, seed:
            See [`drop_duplicates`].

    Returns:
        `dict`: such as `{"validation in train": 3, "test in train": 0, "test in validation": 1}`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from compactbert.data import count_leaks

    >>> splits = {"train": Dataset.from_dict({"text": ["a", "b"]}), "test": Dataset.from_dict({"text": ["b", "c"]})}
    >>> count_leaks(splits, ["text"])
    {'test in train': 1}

    ```
    """
    earlier: dict[str, TextIndex] = {}
    leaks: dict[str, int] = {}
    for later, dataset in splits.items():
        texts = texts_of(dataset, text_columns)
        for name, index in earlier.items():
            leaks[f"{later} in {name}"] = sum(index.find(text) is not None for text in texts)
        earlier[later] = TextIndex(near, seed)
        for i, text in enumerate(texts):
            earlier[later].add(i, text)
    return leaks


__all__ = ["TextIndex", "count_leaks", "drop_duplicates", "first_occurrences", "texts_of"]
