"""Tasks: labelled text in train and evaluation splits, by the name of a dataset or from files."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, load_dataset
from pyarrow.lib import ArrowInvalid
from transformers import PreTrainedConfig

from ..files import write_bytes
from ..structure import label_names
from .docstrings import AREA_NAMES, read_docstrings


Problem = Literal["single_label_classification", "multi_label_classification", "regression", "token_classification"]
METRICS_OF_PROBLEM: dict[Problem, tuple[str, ...]] = {
    "single_label_classification": ("accuracy", "macro_f1"),
    "multi_label_classification": ("micro_f1", "subset_accuracy"),
    "regression": ("pearson", "spearman"),
    "token_classification": ("seqeval_f1", "seqeval_precision", "seqeval_recall"),
}
EVALUATION_SPLITS = ("validation", "validation_matched", "test")
FILE_SUFFIXES = (".parquet", ".csv", ".jsonl")
# The share and seed of the evaluation split where a task comes without one.
HELD_OUT_SHARE, HELD_OUT_SEED = 0.1, 42


@dataclass(frozen=True)
class TaskSpec:
    """Where the columns of a dataset are and what they mean.

    Example:

    ```python
    >>> from compactbert.data import TASKS

    >>> TASKS["mrpc"].text_columns, TASKS["mrpc"].metrics
    (('sentence1', 'sentence2'), ('accuracy', 'f1'))

    ```
    """

    text_columns: tuple[str, ...] = ("text",)
    label_column: str = "label"
    label_names: tuple[str, ...] = ()
    # None: told from the labels.
    problem: Problem | None = None
    # Empty: those of the problem. The first one selects the best checkpoint.
    metrics: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()


def _glue(name: str, *text_columns: str, metrics: tuple[str, ...] = ("accuracy",), **fields: Any) -> TaskSpec:
    return TaskSpec(text_columns, metrics=metrics, hub=("nyu-mll/glue", name), **fields)


ENTAILMENT = ("entailment", "not_entailment")
PARAPHRASE = ("not_equivalent", "equivalent")
TASKS: dict[str, TaskSpec] = {
    "ag_news": TaskSpec(label_names=("World", "Sports", "Business", "Sci/Tech"), hub=("fancyzhx/ag_news",)),
    "cola": _glue(
        "cola", "sentence", metrics=("matthews_correlation", "accuracy"), label_names=("unacceptable", "acceptable")
    ),
    "conll2003": TaskSpec(("tokens",), "ner_tags", problem="token_classification", hub=("lhoestq/conll2003",)),
    "docstrings": TaskSpec(label_names=tuple(AREA_NAMES)),
    "imdb": TaskSpec(label_names=("neg", "pos"), hub=("stanfordnlp/imdb",)),
    "mnli": _glue("mnli", "premise", "hypothesis", label_names=("entailment", "neutral", "contradiction")),
    "mrpc": _glue("mrpc", "sentence1", "sentence2", metrics=("accuracy", "f1"), label_names=PARAPHRASE),
    "qnli": _glue("qnli", "question", "sentence", label_names=ENTAILMENT),
    "qqp": _glue(
        "qqp", "question1", "question2", metrics=("accuracy", "f1"), label_names=("not_duplicate", "duplicate")
    ),
    "rte": _glue("rte", "sentence1", "sentence2", label_names=ENTAILMENT),
    "sst2": _glue("sst2", "sentence", label_names=("negative", "positive")),
    "stsb": _glue("stsb", "sentence1", "sentence2", metrics=("pearson", "spearman"), problem="regression"),
    **{
        f"paws-x/{language}": TaskSpec(
            ("sentence1", "sentence2"),
            label_names=PARAPHRASE,
            metrics=("accuracy", "f1"),
            hub=("google-research-datasets/paws-x", language),
        )
        for language in ("de", "en", "es", "fr", "ja", "ko", "zh")
    },
}


@dataclass
class Task:
    """A dataset ready to be encoded: labels are indices into `label_names`, rows of zeros and ones (multi-label),
    values (regression) or lists of indices (token classification).

    Example:

    ```python
    >>> from compactbert.data import load_task

    >>> task = load_task("reviews.csv")
    >>> task.problem, task.head, task.label_names
    ('single_label_classification', 'ForSequenceClassification', ['neg', 'pos'])

    ```
    """

    name: str
    problem: Problem
    text_columns: tuple[str, ...]
    label_column: str
    label_names: list[str]
    metrics: tuple[str, ...]
    evaluation: Dataset
    evaluation_split: str
    train: Dataset | None = None

    @property
    def head(self) -> str:
        """Suffix of the `Auto` class that solves this task."""
        return "ForTokenClassification" if self.problem == "token_classification" else "ForSequenceClassification"

    def fits(self, config: PreTrainedConfig) -> bool:
        """Whether a model's outputs are this task's labels, in this order; outputs without names are taken for them."""
        if self.problem == "regression":
            return config.num_labels == 1
        names = label_names(config)
        return names == self.label_names or (names is None and config.num_labels == len(self.label_names))

    def config_fields(self) -> dict[str, Any]:
        """Fields of a model's configuration that make it fit this task."""
        if self.problem == "regression":
            return {"num_labels": 1, "problem_type": "regression"}
        id2label = dict(enumerate(self.label_names))
        fields: dict[str, Any] = {"id2label": id2label, "label2id": {name: i for i, name in id2label.items()}}
        if self.problem != "token_classification":
            fields["problem_type"] = self.problem
        return fields


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    problem: Problem | None = None,
    max_train_rows: int | None = None,
    max_evaluation_rows: int | None = None,
) -> Task:
    """
    Loads a task.

    Args:
        name (`str`):
            `"docstrings"` (made from the running Python); a csv, jsonl or parquet file; a folder with
            `train.*`, `validation.*` or `test.*` files; or the name of a dataset, such as `"sst2"`, `"mrpc"` or
            `"paws-x/en"`, read from `<data_dir>/<name>/<split>.parquet` where that exists and from the Hub otherwise.
            Where there are training rows alone, a fixed tenth of them is held out for evaluation.
        data_dir (`str` or `Path`, *optional*):
            Folder of datasets; the default is the environment variable `COMPACTBERT_DATA`.
        text_columns (list of `str`, *optional*):
            One column of text, two of text pairs, or one of token lists.
        label_column (`str`, *optional*):
            Column of labels: strings or integers (classes), floats (regression), lists of labels for a text
            (multi-label) or for tokens (token classification).
        problem (`str`, *optional*):
            What the labels mean, where the above is not right.
        max_train_rows, max_evaluation_rows (`int`, *optional*):
            Use a fixed random sample of so many rows.

    Returns:
        [`Task`]: with `train=None` where the dataset has no training split.

    Raises:
        ValueError: for an unknown task, a missing, empty or unreadable file, a missing column, rows without text, and
            evaluation labels that training never shows.

    Example:

    ```python
    >>> from compactbert.data import load_task

    >>> task = load_task("reviews.csv", max_train_rows=20)
    >>> len(task.train), task.evaluation_split, len(task.evaluation)
    (20, 'held_out', 6)

    ```
    """
    if problem is not None and problem not in get_args(Problem):
        raise ValueError(f"`problem` must be one of {get_args(Problem)}, got {problem!r}.")
    for option, value in (("max_train_rows", max_train_rows), ("max_evaluation_rows", max_evaluation_rows)):
        if value is not None and value < 1:
            raise ValueError(f"`{option}` must be at least 1, got {value}.")
    spec = task_spec(name, text_columns, label_column, problem)
    splits = read_splits(name, spec, data_dir)
    evaluation_split = next((split for split in EVALUATION_SPLITS if split in splits), "")
    train = splits.get("train")
    if train is not None and not evaluation_split:
        held_out = train.train_test_split(test_size=HELD_OUT_SHARE, seed=HELD_OUT_SEED)
        train, splits["held_out"] = held_out["train"], held_out["test"]
        evaluation_split = "held_out"
    if not evaluation_split:
        raise ValueError(
            f"Task {name!r} has the splits {sorted(splits)}: expected `train` or one of {EVALUATION_SPLITS}."
        )

    task = _label(name, spec, train, splits[evaluation_split], evaluation_split)
    if task.train is not None and max_train_rows is not None:
        task.train = _sample(task.train, max_train_rows)
    if max_evaluation_rows is not None:
        task.evaluation = _sample(task.evaluation, max_evaluation_rows)
    return task


def load_texts(
    name: str,
    data_dir: str | Path | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    max_rows: int | None = None,
) -> list[list[Any]]:
    """
    The training texts of a task, or of a file, without labels.

    Args:
        name (`str`), data_dir (`str` or `Path`, *optional*), text_columns (list of `str`, *optional*):
            As in [`load_task`]; the texts need no label column. Without a training split the first one there is.
        max_rows (`int`, *optional*):
            Use a fixed random sample of so many rows.

    Returns:
        One column, or two of text pairs.

    Raises:
        ValueError: as [`load_task`].

    Example:

    ```python
    >>> from compactbert.data import load_texts

    >>> (column,) = load_texts("reviews.csv", max_rows=5)
    >>> len(column)
    5

    ```
    """
    spec = task_spec(name, text_columns)
    splits = read_splits(name, spec, data_dir)
    dataset = splits.get("train", next(iter(splits.values())))
    check_columns(dataset, spec.text_columns, f"The texts of {name!r}")
    dataset = dataset if max_rows is None else _sample(dataset, max_rows)
    # A slice, here and elsewhere: iterating over a column takes hundreds of times as long.
    return [dataset[column][:] for column in spec.text_columns]


def task_spec(
    name: str,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    problem: Problem | None = None,
) -> TaskSpec:
    """What is known of a task, with the columns and problem that are given; see [`load_task`]."""
    check_text_columns(text_columns or ())
    spec = TASKS.get(name, TaskSpec())
    return replace(
        spec,
        text_columns=tuple(text_columns or spec.text_columns),
        label_column=label_column or spec.label_column,
        problem=problem or spec.problem,
    )


def _sample(dataset: Dataset, num_rows: int) -> Dataset:
    # The same rows whatever the seed of a run, so that runs compare.
    return dataset.shuffle(seed=HELD_OUT_SEED).select(range(min(num_rows, len(dataset))))


def read_splits(name: str, spec: TaskSpec, data_dir: str | Path | None) -> dict[str, Dataset]:
    """The tables of a task by their names; see [`load_task`] for the arguments and errors."""
    folder = data_dir or os.environ.get("COMPACTBERT_DATA")
    data_dir = Path(folder) if folder else None
    if name == "docstrings":
        return {split: Dataset.from_dict(columns) for split, columns in read_docstrings().items()}
    path = Path(name)
    if path.suffix in FILE_SUFFIXES:
        return {"train": read_table(path)}
    for folder in [path, *([data_dir / name] if data_dir else [])]:
        if folder.is_dir():
            files = [folder / f"{split}{suffix}" for split in ("train", *EVALUATION_SPLITS) for suffix in FILE_SUFFIXES]
            if splits := {file.stem: read_table(file) for file in files if file.is_file()}:
                return splits
    if not spec.hub:
        where = f"not in {str(data_dir)!r}" if data_dir else "no data folder is set (`data_dir` or COMPACTBERT_DATA)"
        raise ValueError(
            f"Unknown task {name!r}: it is no csv, jsonl or parquet file, {where}, and not one of {sorted(TASKS)}."
        )
    try:
        return dict(load_dataset(*spec.hub))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Task {name!r} is not in a data folder, and loading it from the Hub failed ({error}). Set `data_dir` or "
            f"COMPACTBERT_DATA to a folder with `{name}/train.parquet`, or choose the task `docstrings`."
        ) from error


def read_table(path: str | Path) -> Dataset:
    """
    Reads a csv, jsonl or parquet file.

    Raises:
        ValueError: if the file is missing, empty, not UTF-8 or not of its format.

    Example:

    ```python
    >>> from compactbert.data import read_table

    >>> read_table("reviews.csv").column_names
    ['text', 'label']

    ```
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    data = path.read_bytes()
    text = "" if path.suffix == ".parquet" else decode_utf8(data, str(path))
    try:
        if path.suffix == ".parquet":
            table = Dataset(pq.read_table(BytesIO(data)))
        elif path.suffix == ".csv":
            # Only an empty field is a missing one: "NA" and "null" are text.
            frame = pd.read_csv(StringIO(text), keep_default_na=False, na_values=[""])
            if not isinstance(frame.index, pd.RangeIndex):
                raise ValueError("rows have more fields than the header; quote texts that hold commas")
            table = Dataset.from_pandas(frame, preserve_index=False)
        else:
            # Not pandas' reader, which turns strings that look like numbers or dates into such.
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("every line must be an object")
            table = Dataset.from_pandas(pd.DataFrame(rows), preserve_index=False)
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{str(path)!r} is empty: expected a table with a header.") from error
    except (pd.errors.ParserError, ArrowInvalid, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a readable {path.suffix[1:]} file: {error}") from error
    check_not_empty(table, repr(str(path)))
    return table


def check_table(path: Path) -> None:
    """Raises a `ValueError` if no table can be written there: of an unknown format, or there is something."""
    if path.suffix not in FILE_SUFFIXES:
        raise ValueError(f"{str(path)!r} must end in one of {FILE_SUFFIXES}.")
    if path.exists():
        raise ValueError(f"{str(path)!r} exists: choose another `output`, or remove it.")


def write_table(dataset: Dataset, path: str | Path) -> None:
    """
    Writes a csv, jsonl or parquet file, which appears when it is complete.

    Raises:
        ValueError: if it exists, is of no such format, or is a csv file and rows hold lists.

    Example:

    ```python
    >>> from compactbert.data import read_table, write_table

    >>> write_table(read_table("reviews.csv"), "reviews.parquet")
    >>> len(read_table("reviews.parquet"))
    60

    ```
    """
    path = Path(path)
    check_table(path)
    frame = dataset.to_pandas()
    data = BytesIO()
    if path.suffix == ".parquet":
        pq.write_table(dataset.with_format("arrow")[:], data)
    elif path.suffix == ".csv":
        lists = [name for name, value in dataset[0].items() if isinstance(value, list | dict)] if len(dataset) else []
        if lists:
            raise ValueError(f"A csv file cannot hold lists, as in the columns {lists}: write .jsonl or .parquet.")
        frame.to_csv(data, index=False)
    else:
        frame.to_json(data, orient="records", lines=True, force_ascii=False)
    write_bytes(path, data.getvalue())


def rewrite_table(
    source: Path, output: Path, change: Callable[[Dataset], tuple[Dataset, dict[str, Any]]]
) -> dict[str, Any]:
    """
    Reads a table, changes it and writes the result.

    Args:
        source (`Path`), output (`Path`):
            csv, jsonl or parquet files, of the same format or not.
        change (callable):
            Returns the new table and a report.

    Returns:
        The report.

    Raises:
        ValueError: as [`read_table`], [`write_table`] and `change`.
    """
    check_table(output)
    changed, report = change(read_table(source))
    if len(changed) == 0:
        raise ValueError(f"Nothing is left of the {report.get('rows')} rows of {str(source)!r}.")
    write_table(changed, output)
    return report


def as_text(value: Any) -> str:
    """A text column's value; tokens are joined, which a tokenizer splits again."""
    return " ".join(value) if isinstance(value, list) else str(value)


def decode_utf8(data: bytes, source: str) -> str:
    """Text of `data`; raises a `ValueError` that names `source` and the line if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{source!r} is not UTF-8 (byte {data[error.start]:#x} in line {line}): convert it, for example with "
            f"`iconv -f latin1 -t utf8`."
        ) from error


def _label(name: str, spec: TaskSpec, train: Dataset | None, evaluation: Dataset, evaluation_split: str) -> Task:
    for split, dataset in (("train", train), (evaluation_split, evaluation)):
        if dataset is not None:
            check_columns(dataset, [*spec.text_columns, spec.label_column], f"The {split} split of task {name!r}")
    reference = evaluation if train is None else train
    problem = spec.problem or _infer_problem(reference, spec)
    for split, dataset in (("train", train), (evaluation_split, evaluation)):
        if dataset is not None:
            _check_rows(problem, spec, dataset, f"the {split} split of task {name!r}")
    label_names = [] if problem == "regression" else _label_names(spec, problem, reference)
    to_id = {label: i for i, label in enumerate(label_names)}
    # A dataset's own integers stand for its names in order.
    to_id |= {i: i for i in range(len(label_names))} if _has_integer_labels(reference, spec) else {}

    def labelled(dataset: Dataset, split: str) -> Dataset:
        if problem == "regression":
            labels: list[Any] = [float(value) for value in dataset[spec.label_column][:]]
        else:
            unseen = sorted({str(label) for label in _flat_labels(dataset, spec) if label not in to_id})
            if unseen:
                raise ValueError(
                    f"The {split} split of task {name!r} has labels {unseen[:5]} that are not among the "
                    f"{len(label_names)} known ones ({label_names[:10]}): remove those rows or add examples to train."
                )
            labels = [_label_ids(value, to_id, problem) for value in dataset[spec.label_column][:]]
        return dataset.remove_columns(spec.label_column).add_column(spec.label_column, labels)

    return Task(
        name=name,
        problem=problem,
        text_columns=spec.text_columns,
        label_column=spec.label_column,
        label_names=[str(label) for label in label_names],
        metrics=spec.metrics or METRICS_OF_PROBLEM[problem],
        train=None if train is None else labelled(train, "train"),
        evaluation=labelled(evaluation, evaluation_split),
        evaluation_split=evaluation_split,
    )


def check_text_columns(columns: Sequence[str]) -> None:
    """Raises a `ValueError` if there are more than a tokenizer takes."""
    if len(columns) > 2:
        raise ValueError(f"`text_columns` takes one or two columns, got {list(columns)}.")


def check_columns(dataset: Dataset, columns: Sequence[str], what: str) -> None:
    """Raises a `ValueError` if a column is missing or has missing values."""
    for column in columns:
        if column not in dataset.column_names:
            raise ValueError(
                f"{what} has no column {column!r}, only {dataset.column_names}: name the right ones with "
                f"`text_columns` and `label_column`."
            )
        values = dataset[column][:]
        missing = [
            i for i, value in enumerate(values) if value is None or (isinstance(value, float) and np.isnan(value))
        ]
        if missing:
            raise ValueError(
                f"{what} has no value in column {column!r} of {len(missing)} rows, the first is {missing[0]}."
            )


def check_not_empty(dataset: Dataset, what: str) -> None:
    """Raises a `ValueError` if there are none."""
    if not len(dataset):
        raise ValueError(f"{what} has no rows: expected at least one.")


def _has_integer_labels(dataset: Dataset, spec: TaskSpec) -> bool:
    return bool(spec.label_names or _class_label(dataset, spec)) and all(
        isinstance(label, int) for label in _flat_labels(dataset, spec)
    )


def _class_label(dataset: Dataset, spec: TaskSpec) -> ClassLabel | None:
    feature = dataset.features[spec.label_column]
    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, ClassLabel) else None


def _flat_labels(dataset: Dataset, spec: TaskSpec) -> set:
    flat: set = set()
    for value in dataset[spec.label_column][:]:
        flat.update(value) if isinstance(value, list) else flat.add(value)
    return flat


def _infer_problem(dataset: Dataset, spec: TaskSpec) -> Problem:
    row = dataset[0]
    if isinstance(row[spec.text_columns[0]], list):
        return "token_classification"
    if isinstance(row[spec.label_column], list):
        return "multi_label_classification"
    return "regression" if isinstance(row[spec.label_column], float) else "single_label_classification"


def _check_rows(problem: Problem, spec: TaskSpec, dataset: Dataset, what: str) -> None:
    labels = dataset[spec.label_column][:]
    if problem == "token_classification":
        for i, (tokens, tags) in enumerate(zip(dataset[spec.text_columns[0]][:], labels, strict=True)):
            if len(tokens) != len(tags):
                raise ValueError(f"Row {i} of {what} has {len(tokens)} tokens but {len(tags)} labels.")
    elif problem == "multi_label_classification":
        same_length = len({len(row) for row in labels}) == 1 and len(labels[0]) > 1
        if same_length and {label for row in labels for label in row} <= {0, 1}:
            raise ValueError(
                f"The labels of {what} look like rows of zeros and ones, such as {labels[0]}: list the names of the "
                f"labels that apply instead."
            )


def _label_names(spec: TaskSpec, problem: Problem, dataset: Dataset) -> list:
    class_label = _class_label(dataset, spec)
    if spec.label_names:
        return list(spec.label_names)
    if class_label is not None:
        return list(class_label.names)
    labels = _flat_labels(dataset, spec)
    return sorted(labels, key=lambda label: (isinstance(label, str), label))


def _label_ids(value: Any, to_id: Mapping, problem: Problem) -> Any:
    if problem == "single_label_classification":
        return to_id[value]
    if problem == "token_classification":
        return [to_id[label] for label in value]
    row = [0.0] * len(set(to_id.values()))
    for label in value:
        row[to_id[label]] = 1.0
    return row


__all__ = [
    "METRICS_OF_PROBLEM",
    "TASKS",
    "Problem",
    "Task",
    "TaskSpec",
    "as_text",
    "check_columns",
    "check_not_empty",
    "check_table",
    "check_text_columns",
    "decode_utf8",
    "load_task",
    "load_texts",
    "read_splits",
    "read_table",
    "rewrite_table",
    "task_spec",
    "write_table",
]
