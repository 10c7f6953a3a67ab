"""What is in a dataset: rows, lengths, labels, duplicates, the same texts in two splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..convert import resolve_model
from ..files import write_figure
from .duplicates import count_leaks, first_occurrences, texts_of
from .tasks import check_columns, read_splits, task_spec


MAX_BARS = 30


def describe_splits(
    splits: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    text_columns: Sequence[str] = ("text",),
    label_column: str | None = "label",
    max_length: int = 128,
    near: float | None = None,
) -> dict[str, Any]:
    """
    Describes a dataset.

    Args:
        splits (`dict` of `str` to [`~datasets.Dataset`]):
            Its tables by name.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Whose tokens texts are measured in, with the special ones.
        text_columns (list of `str`, *optional*, defaults to `("text",)`):
            One column, or two of text pairs.
        label_column (`str`, *optional*, defaults to `"label"`):
            Column of labels; `None` without labels.
        max_length (`int`, *optional*, defaults to 128):
            Texts of more tokens are `truncated`.
        near (`float`, *optional*):
            Count nearly equal texts as duplicates too; see [`~compactbert.data.TextIndex`].

    Returns:
        `dict`: `splits`, each with `rows`, `tokens` (quartiles and the like), `truncated`, `labels` (how often each
        occurs; of values the quartiles), `duplicates` and `token_counts`; and `leaks`, texts of one split in another.

    Raises:
        ValueError: if a column is missing or has missing values.
    """
    described: dict[str, Any] = {}
    for name, dataset in splits.items():
        check_columns(dataset, [*text_columns, *([label_column] if label_column else [])], f"The split {name!r}")
        lengths = _token_counts(dataset, tokenizer, text_columns)
        found = first_occurrences(texts_of(dataset, text_columns), near)
        described[name] = {
            "rows": len(dataset),
            "tokens": _quantiles(lengths),
            "truncated": sum(length > max_length for length in lengths),
            "duplicates": sum(first != i for i, first in enumerate(found)),
            "labels": _labels(dataset, label_column) if label_column else {},
            "token_counts": dict(sorted(Counter(lengths).items())),
        }
    return {"max_length": max_length, "splits": described, "leaks": count_leaks(splits, text_columns, near)}


def describe_task(
    name: str,
    data_dir: str | Path | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    tokenizer: str | Path = "minilm",
    max_length: int = 128,
    near: float | None = None,
) -> dict[str, Any]:
    """
    Describes all splits of a task.

    Args:
        name, data_dir, text_columns, label_column:
            See [`~compactbert.data.load_task`].
        tokenizer (`str` or `Path`, *optional*, defaults to `"minilm"`):
            A folder or a repository on the Hub, or `"minilm"`.
        max_length, near:
            See [`describe_splits`].

    Raises:
        ValueError: if the task or the tokenizer cannot be read, or a column is missing or has missing values.
    """
    spec = task_spec(name, text_columns, label_column)
    splits = read_splits(name, spec, data_dir)
    try:
        loaded = AutoTokenizer.from_pretrained(resolve_model(tokenizer))
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no tokenizer in {str(tokenizer)!r}: {error}") from error
    return describe_splits(splits, loaded, spec.text_columns, spec.label_column, max_length, near)


def _token_counts(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, text_columns: Sequence[str]) -> list[int]:
    columns = [dataset[column][:] for column in text_columns]
    is_split = isinstance(columns[0][0], list)
    columns = columns if is_split else [[str(text) for text in column] for column in columns]
    # Texts longer than the model takes are what is counted here.
    encoded = tokenizer(*columns, is_split_into_words=is_split, truncation=False, verbose=False)
    return [len(row) for row in encoded["input_ids"]]


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    shares = {"least": 0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "95%": 0.95, "most": 1}
    return {name: float(np.quantile(values, share)) for name, share in shares.items()}


def _labels(dataset: Dataset, label_column: str) -> dict[str, float]:
    labels = dataset[label_column][:]
    if isinstance(labels[0], float):
        return _quantiles(labels)
    flat = [label for value in labels for label in (value if isinstance(value, list) else [value])]
    feature: Any = dataset.features[label_column]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    counts = Counter(names[label] if names else str(label) for label in flat)
    return dict(counts.most_common())


def description_rows(description: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Header and rows of a table."""
    splits = description["splits"]
    rows: list[tuple[Any, ...]] = [("rows", *(split["rows"] for split in splits.values()))]
    rows += [
        (f"tokens, {name}", *(f"{split['tokens'][name]:g}" for split in splits.values()))
        for name in next(iter(splits.values()))["tokens"]
    ]
    rows += [(f"more than {description['max_length']} tokens", *(split["truncated"] for split in splits.values()))]
    rows += [("duplicates", *(split["duplicates"] for split in splits.values()))]
    labels = list(dict.fromkeys(label for split in splits.values() for label in split["labels"]))
    rows += [
        (f"label {label}", *(split["labels"].get(label, 0) for split in splits.values())) for label in labels[:MAX_BARS]
    ]
    rows += [
        (f"also in {name}", *(description["leaks"].get(f"{later} in {name}", "") for later in splits))
        for name in list(splits)[:-1]
    ]
    return ("", *splits), rows


def plot_description(description: Mapping[str, Any], path: Path) -> None:
    """Draws lengths, and labels if there are some, of every split as PNG."""
    splits = description["splits"]
    # Quartiles of values are no counts.
    counted = (name for split in splits.values() for name, count in split["labels"].items() if isinstance(count, int))
    labels = list(dict.fromkeys(counted))[:MAX_BARS]
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2 if labels else 1, squeeze=False)[0]
    left = panels[0]
    bins = np.linspace(0, max(split["tokens"]["most"] for split in splits.values()) + 1, 41)
    for name, split in splits.items():
        counts = split["token_counts"]
        weights = [count / split["rows"] for count in counts.values()]
        left.hist(list(counts), bins, weights=weights, alpha=0.5, label=name)
    left.axvline(description["max_length"], color="black", linestyle="--", label="maximum length")
    left.set(xlabel="tokens", ylabel="share of rows")
    left.legend()
    if labels:
        right = panels[1]
        places, width = np.arange(len(labels)), 0.8 / len(splits)
        for i, (name, split) in enumerate(splits.items()):
            heights = [split["labels"].get(label, 0) / split["rows"] for label in labels]
            right.bar(places + (i - (len(splits) - 1) / 2) * width, heights, width, label=name)
        right.set_xticks(places, labels, rotation=45, ha="right")
        right.set(ylabel="per row")
    write_figure(path, figure)


__all__ = ["describe_splits", "describe_task", "description_rows", "plot_description"]
