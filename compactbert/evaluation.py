"""Quality of a model on a task."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .data import Task, encode_task, length_limit, load_task, score_logits
from .inference import load_for_inference, predict_logits
from .inference.prediction import Runtime
from .structure import label_names


def evaluate(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    task: str | Task = "docstrings",
    *,
    data_dir: str | Path | None = None,
    max_length: int = 128,
    batch_size: int = 64,
    runtime: Runtime = "torch",
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Scores a fine-tuned model on a task's evaluation split.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            A folder or a Hub repository, of a model or an adapter; or a loaded model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Needed with a loaded model only.
        task (`str` or [`~compactbert.data.Task`], *optional*, defaults to `"docstrings"`):
            See [`~compactbert.data.load_task`].
        data_dir (`str` or `Path`, *optional*):
            Folder of datasets; the default is the environment variable `COMPACTBERT_DATA`.
        max_length (`int`, *optional*, defaults to 128):
            Longest input in tokens.
        batch_size (`int`, *optional*, defaults to 64):
            Rows at a time.
        runtime (`str`, *optional*, defaults to `"torch"`):
            Of a folder: see [`~compactbert.predict`].
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own.
        task_options:
            Further arguments of [`~compactbert.data.load_task`].

    Returns:
        `dict`: `task`, `split`, `rows`, `truncated` (rows cut to `max_length`), `metrics` and `seconds` of
        prediction.

    Raises:
        ValueError: if the model or task cannot be read, or if the model's labels are not the task's.

    Example:

    ```python
    >>> import compactbert

    >>> report = compactbert.evaluate("my-model", task="reviews.csv")
    >>> report["split"], list(report["metrics"])
    ('held_out', ['accuracy', 'macro_f1'])

    ```
    """
    if tokenizer is not None and isinstance(model, str | Path):
        raise ValueError("`tokenizer` goes with a loaded `model`; a folder brings its own. Name the task: `task=...`.")
    if isinstance(task, str):
        task = load_task(task, data_dir, **task_options)
    if isinstance(model, str | Path):
        model, tokenizer = load_for_inference(model, task.head, trust_remote_code, runtime)
    if tokenizer is None:
        raise ValueError("A loaded `model` needs its `tokenizer`.")
    task = _in_labels_of(model, task)
    dataset, truncated = encode_task(
        task, task.evaluation, tokenizer, length_limit(model.config, tokenizer, max_length)
    )
    features = list(dataset.remove_columns(["labels", "length"]))
    started = time.perf_counter()
    logits = predict_logits(model, tokenizer, features, batch_size)
    seconds = time.perf_counter() - started
    return {
        "task": task.name,
        "split": task.evaluation_split,
        "rows": len(dataset),
        "truncated": truncated,
        "metrics": score_logits(task, logits, dataset["labels"][:]),
        "seconds": round(seconds, 3),
    }


def _in_labels_of(model: PreTrainedModel, task: Task) -> Task:
    """The task with its labels in the order of the model's outputs, which may have labels that no row shows."""
    if task.fits(model.config):
        return task
    names = label_names(model.config) or []
    if task.problem == "regression" or (missing := sorted(set(task.label_names) - set(names))):
        raise ValueError(
            f"The model predicts {names[:10] or f'{model.config.num_labels} numbers'}, but task {task.name!r} has "
            f"{'one value a row' if task.problem == 'regression' else f'the labels {missing[:5]}'}: was it fine-tuned "
            f"on this task?"
        )
    order = [names.index(name) for name in task.label_names]

    def reorder(labels: Any) -> Any:
        if task.problem == "single_label_classification":
            return order[labels]
        if task.problem == "token_classification":
            return [order[label] for label in labels]
        row = [0.0] * len(names)
        for i, value in zip(order, labels, strict=True):
            row[i] = value
        return row

    column = task.label_column
    labels = [reorder(label) for label in task.evaluation[column][:]]
    evaluation = task.evaluation.remove_columns(column).add_column(column, labels)
    return replace(task, label_names=names, evaluation=evaluation)


__all__ = ["evaluate"]
