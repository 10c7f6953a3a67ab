"""Theseus self-distillation: a model's layers are replaced by fewer, a few at random at first, then all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from ..compression import PruningPlan, prune
from ..structure import layers_of
from .run import ResumableTrainer, TrainingRun, train_on_task


@dataclass
class TheseusConfig(TrainingArguments):
    """
    Settings of [`TheseusTrainer`]: those of [`~transformers.TrainingArguments`], and the schedule of the replacing
    rate p = min(1, k · t + b) over the steps t (BERT-of-Theseus, https://huggingface.co/papers/2002.02925, section
    3.3). The defaults are those of SmBERT's first self-distillation (its Table 1); its second has 0.4 and 0.0008.

    Args:
        replacing_rate (`float`, *optional*, defaults to 0.3):
            b, the probability with which a module is replaced at the start.
        replacing_rate_coefficient (`float`, *optional*, defaults to 0.0006):
            k, its growth per step.
        nominal_steps (`int`, *optional*):
            The number of steps that k is meant for. If training is shorter (or longer), k grows (or falls) so that p
            reaches 1 in the same fraction of training. `None` takes k as it is.

    Raises:
        ValueError: for a rate outside [0, 1], and a coefficient or `nominal_steps` that is not positive.

    Example:

    ```python
    >>> from compactbert.training import TheseusConfig

    >>> TheseusConfig(output_dir="run", replacing_rate=0.4, replacing_rate_coefficient=0.0008).replacing_rate
    0.4

    ```
    """

    replacing_rate: float = field(default=0.3, metadata={"help": "Replacing rate at the start."})
    replacing_rate_coefficient: float = field(default=0.0006, metadata={"help": "Growth of the rate per step."})
    nominal_steps: int | None = field(default=None, metadata={"help": "Steps that the coefficient is meant for."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.replacing_rate <= 1:
            raise ValueError(f"`replacing_rate` must lie in [0, 1], got {self.replacing_rate}.")
        if self.replacing_rate_coefficient <= 0:
            raise ValueError(f"`replacing_rate_coefficient` must be positive, got {self.replacing_rate_coefficient}.")
        if self.nominal_steps is not None and self.nominal_steps < 1:
            raise ValueError(f"`nominal_steps` must be at least 1, got {self.nominal_steps}.")


class TheseusTrainer(ResumableTrainer):
    """
    A [`~transformers.Trainer`] of a successor with fewer layers. In every step each of its layers stands, with
    probability p, in place of the group of predecessor layers that it is to replace; the other groups stay the
    predecessor's. When p has reached 1 the successor trains alone, which is the method's final fine-tuning.

    As in the paper only the successor's layers are trained: the predecessor's layers, which are frozen and in
    evaluation mode, and the embeddings and the head, which both share, stay as they are.

    Args:
        predecessor ([`~transformers.PreTrainedModel`]):
            A model that was fine-tuned on the task, with any head. Its layers are frozen, its weights do not change.
        num_layers (`int`):
            Layers of the successor; must divide the predecessor's.
        args ([`TheseusConfig`]):
            Settings.
        successor_layers (list of `int`, *optional*):
            Indices of the predecessor's layers that the successor starts from; `None` is the first ones, as in the
            paper.
        kwargs:
            Further arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: if `num_layers` does not divide the predecessor's layers, or `successor_layers` are not so many of
            them.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import data_collator, encode_task, load_task
    >>> from compactbert.training import TheseusConfig, TheseusTrainer

    >>> predecessor, tokenizer = load_pretrained("my-model", "ForSequenceClassification")
    >>> task = load_task("reviews.csv")
    >>> rows, _ = encode_task(task, task.train, tokenizer, max_length=32)
    >>> args = TheseusConfig(output_dir="run", max_steps=2, report_to="none")
    >>> trainer = TheseusTrainer(
    ...     predecessor, 1, args, train_dataset=rows, data_collator=data_collator(task, tokenizer)
    ... )
    >>> trainer.train().global_step
    2

    ```
    """

    _tag_names = ("compactbert", "theseus")

    def __init__(
        self,
        predecessor: PreTrainedModel,
        num_layers: int,
        args: TheseusConfig,
        *,
        successor_layers: Sequence[int] | None = None,
        **kwargs: Any,
    ):
        successor = make_successor(predecessor, num_layers, successor_layers)
        super().__init__(successor, args, **kwargs)
        self.successor = successor
        group = len(layers_of(predecessor)) // num_layers
        # Held in a tuple, so that they are nobody's submodules and reach no checkpoint.
        frozen = [layer.requires_grad_(False).eval().to(self.args.device) for layer in layers_of(predecessor)]
        self.groups = tuple(tuple(frozen[i * group : (i + 1) * group]) for i in range(num_layers))
        successor.requires_grad_(False)
        layers_of(successor).requires_grad_(True)

    def replacing_rate(self, step: int) -> float:
        """p at a step, counted from 0."""
        args: Any = self.args
        coefficient = args.replacing_rate_coefficient
        if args.nominal_steps is not None:
            total = self.state.max_steps or args.max_steps
            coefficient *= args.nominal_steps / total
        return min(1.0, coefficient * step + args.replacing_rate)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The task's loss, of this step's mixture of layers while training, of the successor in evaluation."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._assembled(self.state.global_step):
            result: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, *outputs = result if return_outputs else (result,)
        if not loss.requires_grad:
            # No layer was drawn and there is nothing to learn, but the Trainer goes backward all the same, and fp16's
            # gradient scaler wants to see a gradient: one of zeros.
            loss = loss + 0.0 * next(layers_of(self.successor).parameters()).sum()
        return (loss, *outputs) if return_outputs else loss

    @contextmanager
    def _assembled(self, step: int) -> Iterator[None]:
        """Puts the predecessor's layers where the successor's are not drawn."""
        own = layers_of(self.successor)
        # A draw depends on seed and step alone, so that a run that continues, and every process, draws the same.
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
        drawn = torch.rand(len(own), generator=generator) < self.replacing_rate(step)
        mixture = [
            layer
            for replaced, successor, group in zip(drawn.tolist(), own, self.groups, strict=True)
            for layer in ((successor,) if replaced else group)
        ]
        encoder: Any = self.successor.base_model.encoder
        encoder.layer = nn.ModuleList(mixture)
        try:
            yield
        finally:
            encoder.layer = own

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, with the replacing rate."""
        if "loss" in logs:
            logs["replacing_rate"] = round(self.replacing_rate(self.state.global_step), 4)
        super().log(logs, start_time)


def make_successor(
    predecessor: PreTrainedModel, num_layers: int, successor_layers: Sequence[int] | None = None
) -> PreTrainedModel:
    """
    A model of the same class with `num_layers` of the predecessor's layers, and copies of all its weights outside them.

    Raises:
        ValueError: as [`TheseusTrainer`].
    """
    total = len(layers_of(predecessor))
    if not 1 <= num_layers <= total or total % num_layers:
        raise ValueError(
            f"`num_layers` ({num_layers}) must divide the predecessor's {total} layers, so that each stands for "
            f"equally many."
        )
    kept = list(range(num_layers)) if successor_layers is None else list(successor_layers)
    if len(kept) != num_layers or kept != sorted({i for i in kept if 0 <= i < total}):
        raise ValueError(
            f"`successor_layers` must be `num_layers` ({num_layers}) ascending indices below {total}, each once, got "
            f"{kept}."
        )
    return prune(predecessor, PruningPlan.keep_layers(predecessor.config, kept))


def theseus(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    layers: int,
    replacing_rate: float = 0.3,
    replacing_rate_coefficient: float = 0.0006,
    successor_layers: Sequence[int] | None = None,
    epochs: float = 15.0,
    learning_rate: float = 1e-5,
    **run_settings: Any,
) -> dict[str, Any]:
    """
    Replaces a fine-tuned model's layers by fewer, and leaves a folder that loads anywhere. Resumable, as [`finetune`]
    is; a budget (`max_steps`, `max_minutes`) rescales the replacing rate's schedule.

    Args:
        model (`str` or `Path`):
            The predecessor, fine-tuned on the task.
        task (`str`), output_dir (`str` or `Path`):
            As in [`finetune`].
        layers (`int`):
            Layers of the successor.
        replacing_rate, replacing_rate_coefficient, successor_layers:
            See [`TheseusConfig`] and [`TheseusTrainer`].
        epochs (`float`, *optional*, defaults to 15.0), learning_rate (`float`, *optional*, defaults to 1e-5):
            SmBERT's.
        run_settings:
            Further arguments of [`finetune`]; `training_arguments` are those of [`~transformers.TrainingArguments`].

    Raises:
        ValueError: as [`finetune`] and [`TheseusTrainer`], and if the predecessor has no trained head.

    Example:

    ```python
    >>> from compactbert.training import theseus

    >>> report = theseus("my-model", "reviews.csv", "one-layer", layers=1, epochs=1)
    >>> report["settings"]["layers"]
    1

    ```
    """
    rates: dict[str, Any] = {"replacing_rate": replacing_rate, "replacing_rate_coefficient": replacing_rate_coefficient}

    def build_trainer(run: TrainingRun, predecessor: PreTrainedModel) -> TheseusTrainer:
        config = TheseusConfig(**run.arguments, **rates, nominal_steps=run.nominal_steps)
        return TheseusTrainer(predecessor, layers, config, successor_layers=successor_layers, **run.trainer_arguments)

    settings = {"layers": layers, **rates, "successor_layers": successor_layers}
    return train_on_task(
        model,
        task,
        output_dir,
        build_trainer,
        settings,
        epochs=epochs,
        learning_rate=learning_rate,
        require_head=True,
        **run_settings,
    )


__all__ = ["TheseusConfig", "TheseusTrainer", "make_successor", "theseus"]
