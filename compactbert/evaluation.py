"""Quality of a model on a task."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .convert import load_pretrained
from .data import Task, encode_task, length_limit, load_task, score_logits
from .inference import predict_logits


def evaluate(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    task: str | Task = "docstrings",
    *,
    data_dir: str | Path | None = None,
    max_length: int = 128,
    batch_size: int = 64,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Scores a fine-tuned model on a task's evaluation split.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            A folder, a Hub repository, or a loaded model.
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
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own.
        task_options:
            Further arguments of [`~compactbert.data.load_task`].

    Returns:
        `dict`: `task`, `split`, `rows`, `truncated` (rows cut to `max_length`), `metrics` and `seconds` of
        prediction.

    Raises:
        ValueError: if the model or task cannot be read, or if the model's labels are not the task's.
    """
    if isinstance(task, str):
        task = load_task(task, data_dir, **task_options)
    if not isinstance(model, PreTrainedModel):
        model, tokenizer = load_pretrained(model, task.head, trust_remote_code)
    elif tokenizer is None:
        raise ValueError("A loaded `model` needs its `tokenizer`.")
    columns = _label_columns(model, task)
    dataset, truncated = encode_task(
        task, task.evaluation, tokenizer, length_limit(model.config, tokenizer, max_length)
    )
    features = [{name: row[name] for name in row if name not in ("labels", "length")} for row in dataset]
    started = time.perf_counter()
    logits = [row[..., columns] for row in predict_logits(model, tokenizer, features, batch_size)]
    seconds = time.perf_counter() - started
    return {
        "task": task.name,
        "split": task.evaluation_split,
        "rows": len(dataset),
        "truncated": truncated,
        "metrics": score_logits(task, logits, dataset["labels"]),
        "seconds": round(seconds, 3),
    }


def _label_columns(model: PreTrainedModel, task: Task) -> np.ndarray:
    """Columns of the model's logits in the order of the task's labels."""
    names = list(dict(model.config.id2label or {}).values())
    wanted = ["LABEL_0"] if task.problem == "regression" else task.label_names
    generic = names == [f"LABEL_{i}" for i in range(len(names))]
    if len(names) == len(wanted) and (generic or task.problem == "regression"):
        return np.arange(len(names))
    if missing := sorted(set(wanted) - set(names)):
        raise ValueError(
            f"The model predicts {names[:10]}, but task {task.name!r} has the labels {missing[:5]}: was it fine-tuned "
            f"on this task?"
        )
    return np.array([names.index(name) for name in wanted])


__all__ = ["evaluate"]
