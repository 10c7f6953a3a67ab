"""Several tasks at once: one encoder, a head per task, and batches of one task each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class MultiTaskModel(nn.Module):
    """
    Models of several tasks that share one encoder.

    Args:
        models (`dict` of task to [`~transformers.PreTrainedModel`]):
            Models with a head for each task. All are given the first one's encoder; each can be saved on its own.

    Raises:
        ValueError: if there are none, or their encoders differ in size.

    Example:

    ```python
    >>> from compactbert.training import MultiTaskModel
    >>> from modeling_smbert import SmBertConfig, SmBertForSequenceClassification

    >>> config = SmBertConfig(vocab_size=100, hidden_size=64, attention_head_size=8)
    >>> student = MultiTaskModel({task: SmBertForSequenceClassification(config) for task in ("mrpc", "sst2")})
    >>> student.models["mrpc"].bert is student.models["sst2"].bert
    True

    ```
    """

    def __init__(self, models: Mapping[str, PreTrainedModel]):
        super().__init__()
        if not models:
            raise ValueError("`models` is empty: give a model for each task.")
        first = next(iter(models.values()))
        shapes = {name: tensor.shape for name, tensor in first.base_model.state_dict().items()}
        for task, model in models.items():
            theirs = {name: tensor.shape for name, tensor in model.base_model.state_dict().items()}
            if theirs != shapes:
                different = sorted(name for name in shapes.keys() | theirs if shapes.get(name) != theirs.get(name))
                raise ValueError(
                    f"The encoder of task {task!r} must have the tensors and sizes of the first task's, but they "
                    f"differ in {different[:3]}."
                )
            setattr(model, model.base_model_prefix, first.base_model)
            model.tie_weights()
        self.models = nn.ModuleDict(models)

    def forward(self, task: str, **inputs: Any) -> Any:
        """The output of a task's model."""
        return self.models[task](**inputs)

    def _first_names(self) -> dict[str, str]:
        """For every name in the state dict the first name of the same tensor."""
        first: dict[int, str] = {}
        return {name: first.setdefault(tensor.data_ptr(), name) for name, tensor in super().state_dict().items()}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """Every tensor once."""
        state_dict = super().state_dict(*args, **kwargs)
        return {name: state_dict[name] for name, first in self._first_names().items() if name == first}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads what [`state_dict`] gave."""
        names = self._first_names()
        complete = {name: state_dict[first] for name, first in names.items() if first in state_dict}
        return super().load_state_dict({**state_dict, **complete}, strict, assign)


class TaskBatchSampler(torch.utils.data.Sampler[int]):
    """
    Rows in an order in which every `batch_size` rows in a row are of one task, tasks as often as they have rows, all in
    random order. The last batch of a task is filled up with its first rows.

    Args:
        tasks (list of `str`): The task of every row.
        batch_size (`int`): Rows per batch.
        seed (`int`, *optional*, defaults to 0): Of the order, which depends on it and the epoch alone, so that a run
            that continues goes on where it stopped.

    Example:

    ```python
    >>> from compactbert.training import TaskBatchSampler

    >>> rows = list(TaskBatchSampler(["mrpc", "sst2", "mrpc", "sst2"], batch_size=2))
    >>> sorted(rows[:2]) in ([0, 2], [1, 3])
    True

    ```
    """

    def __init__(self, tasks: Sequence[str], batch_size: int, seed: int = 0):
        self.batch_size = batch_size
        self.seed, self.epoch = seed, 0
        self.rows: dict[str, list[int]] = {}
        for row, task in enumerate(tasks):
            self.rows.setdefault(task, []).append(row)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(-(-len(rows) // self.batch_size) * self.batch_size for rows in self.rows.values())

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        batches = []
        for rows in self.rows.values():
            shuffled = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
            while len(shuffled) % self.batch_size:
                shuffled += shuffled[: self.batch_size - len(shuffled) % self.batch_size]
            batches += [shuffled[i : i + self.batch_size] for i in range(0, len(shuffled), self.batch_size)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]


def multitask_collator(collators: Mapping[str, Callable]) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A collator for batches of one task each: that task's own, with the task's name beside it.

    Raises:
        ValueError: from the collator, for a batch of several tasks.

    Example:

    ```python
    >>> from compactbert.training import multitask_collator

    >>> collate = multitask_collator({"sst2": lambda rows: {"labels": [row["labels"] for row in rows]}})
    >>> collate([{"task": "sst2", "labels": 1}, {"task": "sst2", "labels": 0}])
    {'labels': [1, 0], 'task': 'sst2'}

    ```
    """

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        task = rows[0]["task"]
        if mixed := {row["task"] for row in rows} - {task}:
            raise ValueError(
                f"A batch must be of one task, got rows of {sorted({task, *mixed})}: evaluate one task at a time, with "
                f"`eval_dataset` a dict of task to rows."
            )
        plain = [{name: value for name, value in row.items() if name != "task"} for row in rows]
        return {**collators[task](plain), "task": task}

    return collate


__all__ = ["MultiTaskModel", "TaskBatchSampler", "multitask_collator"]
