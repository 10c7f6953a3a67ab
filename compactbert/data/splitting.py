"""Train, validation and test splits of one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from datasets import Dataset
from sklearn.model_selection import train_test_split

from ..files import new_folder
from .duplicates import count_leaks
from .tasks import check_columns, check_not_empty, write_table


SPLITS = ("train", "validation", "test")
SHARES = (0.7, 0.15, 0.15)
Leakage = Literal["refuse", "report"]


def split(
    dataset: Dataset,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    shares: Sequence[float] = SHARES,
    seed: int = 42,
    leakage: Leakage = "refuse",
) -> tuple[dict[str, Dataset], dict[str, int]]:
    """
    Splits a table at random, with the same share of every class in each split.

    Args:
        dataset ([`~datasets.Dataset`]):
            The table.
        text_columns (list of `str`, *optional*, defaults to `("text",)`):
            Columns that make up a row's text.
        label_column (`str`, *optional*, defaults to `"label"`):
            Classes; values and lists of labels do not stratify.
        shares (three of `float`, *optional*, defaults to `(0.7, 0.15, 0.15)`):
            Shares of train, validation and test.
        seed (`int`, *optional*, defaults to 42):
            Seed of the choice.
        leakage (`"refuse"` or `"report"`, *optional*, defaults to `"refuse"`):
            What to do if the same text is in two splits.

    Returns:
        The splits, and what [`count_leaks`] found.

    Raises:
        ValueError: if a column is missing, there are no rows, the shares do not sum to 1, a class is too small for
            three splits, or a text is in two splits.

    Example:

    ```python
    >>> from compactbert.data import read_table, split

    >>> splits, leaks = split(read_table("reviews.csv"), leakage="report")
    >>> {name: len(rows) for name, rows in splits.items()}
    {'train': 42, 'validation': 9, 'test': 9}

    ```
    """
    check_columns(dataset, [*text_columns, label_column], "The table")
    check_not_empty(dataset, "The table")
    if leakage not in get_args(Leakage):
        raise ValueError(f"`leakage` must be one of {get_args(Leakage)}, got {leakage!r}.")
    if len(shares) != len(SPLITS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"`shares` must be three positive numbers that sum to 1, got {tuple(shares)}.")
    labels = dataset[label_column][:]
    classes = labels if isinstance(labels[0], str | int | bool) else None
    held_out = shares[1] + shares[2]
    rows = list(range(len(dataset)))
    try:
        train, rest = train_test_split(rows, test_size=held_out, random_state=seed, stratify=classes)
        of_rest = [classes[i] for i in rest] if classes else None
        validation, test = train_test_split(rest, test_size=shares[2] / held_out, random_state=seed, stratify=of_rest)
    except ValueError as error:
        raise ValueError(
            f"{len(dataset)} rows cannot be split by the shares {tuple(shares)} with every class in each: {error}"
        ) from error
    splits = {name: dataset.select(chosen) for name, chosen in zip(SPLITS, (train, validation, test), strict=True)}
    leaks = count_leaks(splits, text_columns)
    if leakage == "refuse" and any(leaks.values()):
        found = ", ".join(f"{count} of {pair}" for pair, count in leaks.items() if count)
        raise ValueError(
            f"The same texts would be in two splits ({found}): take them out with `compactbert data dedupe`, or let "
            f'them be with `leakage="report"`.'
        )
    return splits, leaks


def write_splits(splits: dict[str, Dataset], folder: Path, suffix: str) -> None:
    """
    Writes `<split><suffix>` files that [`load_task`] reads; the folder appears when it is complete.

    Raises:
        ValueError: if there is something at `folder`, or the suffix is unknown.
    """
    with new_folder(folder) as partial:
        for name, dataset in splits.items():
            write_table(dataset, partial / f"{name}{suffix}")


__all__ = ["SHARES", "Leakage", "split", "write_splits"]
