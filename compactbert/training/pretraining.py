"""Pre-training on text: masked language modelling and next sentence prediction."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from ..data import IGNORED_LABEL
from ..structure import layers_of
from .losses import pretraining_distillation_loss
from .run import ResumableTrainer


# The parts of a model that learning rates and freezing tell apart; a layer's part is its index from 0.
EMBEDDINGS, HEAD = "embeddings", "head"
Part = int | str
Optimizer = Literal["adamw", "lamb"]
# What is left of the learning rate at the end: MobileBERT's (released configuration).
FINAL_RATE = 1e-4


@dataclass
class PretrainingConfig(TrainingArguments):
    """
    Settings of [`PretrainingTrainer`]: those of [`~transformers.TrainingArguments`], and a few more. The learning rate
    rises over `warmup_steps` (below 1, a share of the steps) and falls linearly to 1e-4 of its peak.

    Args:
        optimizer (`"adamw"` or `"lamb"`, *optional*, defaults to `"adamw"`):
            LAMB (https://huggingface.co/papers/1904.00962) is for the batches of thousands that MobileBERT was trained
            with; it needs the extra `lamb`.
        trained (`"all"` or `"head"`, *optional*, defaults to `"all"`):
            `"head"` trains the language modelling head alone, for encoders that came without one.

    Raises:
        ValueError: for another optimizer or part.

    Example:

    ```python
    >>> from compactbert.training import PretrainingConfig

    >>> PretrainingConfig(output_dir="run", max_steps=1000, trained="head").optimizer
    'adamw'

    ```
    """

    optimizer: str = field(default="adamw", metadata={"help": "adamw or lamb."})
    trained: str = field(default="all", metadata={"help": "all, or head."})

    def __post_init__(self):
        super().__post_init__()
        # The collator needs columns that no model takes.
        self.remove_unused_columns = False
        if self.ddp_find_unused_parameters is None:
            # What a stage does not train gets no gradient.
            self.ddp_find_unused_parameters = True
        for name, allowed in (("optimizer", get_args(Optimizer)), ("trained", ("all", "head"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}.")


class PretrainingTrainer(ResumableTrainer):
    """
    A [`~transformers.Trainer`] for models with a language modelling head, over a
    [`~compactbert.data.PretrainingDataset`]. Scores are computed at the masked positions alone.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model with a language modelling head (`ForPreTraining` or `ForMaskedLM`) of one of our families.
        args ([`PretrainingConfig`]):
            Settings.
        kwargs:
            Further arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: if the model has no language modelling head.
        FloatingPointError: in training, if the loss is not finite, with the step, the samples of the batch and the
            last checkpoint.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import Corpus, PretrainingCollator
    >>> from compactbert.training import PretrainingConfig, PretrainingTrainer

    >>> model, tokenizer = load_pretrained("my-bert", "ForPreTraining")
    >>> args = PretrainingConfig(output_dir="run", max_steps=2, report_to="none")
    >>> rows, collator = Corpus.open("my-corpus").train, PretrainingCollator(tokenizer)
    >>> PretrainingTrainer(model, args, train_dataset=rows, data_collator=collator).train().global_step
    2

    ```
    """

    _tag_names = ("compactbert", "pretraining")
    # The loss is a mean over the batch; the Trainer divides it where gradients are accumulated.
    loss_is_scaled_for_ga = False

    def __init__(self, model: PreTrainedModel, args: PretrainingConfig, **kwargs: Any):
        check_language_model(model)
        super().__init__(model, args, **kwargs)
        self.add_callback(_TellEpoch())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's. Afterwards nothing is frozen."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.student.requires_grad_(True)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the parts that [`loss_parts`] returns."""
        inputs = dict(inputs)
        samples = inputs.pop("sample_id", None)
        labels, continues = inputs.pop("labels"), inputs.pop("next_sentence_label", None)
        parts = self.loss_parts(model, inputs, labels, continues)
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss of step {self.state.global_step} is {loss.item()} "
                f"({ {name: part.item() for name, part in parts.items()} }), on the samples "
                f"{None if samples is None else samples.tolist()}; the last checkpoint is "
                f"{get_last_checkpoint(str(self.args.output_dir))!r}. Try a lower `learning_rate` or `max_grad_norm`, "
                f"or float32."
            )
        if model.training:
            self.keep_parts(parts)
        return (loss, {"loss": loss}) if return_outputs else loss

    def loss_parts(
        self, model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, continues: Tensor | None
    ) -> dict[str, Tensor]:
        """The loss by its parts: `mlm`, and `nsp` where `continues` (the next sentence labels) is given."""
        self.train_parts({EMBEDDINGS, *range(len(layers_of(self.student))), HEAD} if self.trains_all else {HEAD})
        masked = labels != IGNORED_LABEL
        with narrowed(self.student, positions=masked):
            outputs = model(**inputs)
        return self.prediction_parts(outputs, None, labels[masked], continues, 1.0, 1.0)

    def prediction_parts(
        self,
        outputs: Any,
        teacher_logits: Tensor | None,
        labels: Tensor,
        continues: Tensor | None,
        ground_truth_ratio: float,
        temperature: float,
        **variant: Any,
    ) -> dict[str, Tensor]:
        """MLM (and its distillation) at the masked positions, and NSP."""
        logits = outputs["prediction_logits" if "prediction_logits" in outputs else "logits"]
        mlm = pretraining_distillation_loss(logits, teacher_logits, labels, ground_truth_ratio, temperature, **variant)
        parts = {"mlm": mlm * self.share_of_all(len(labels), mlm.device)}
        if continues is not None and "seq_relationship_logits" in outputs:
            scores = outputs["seq_relationship_logits"].float()
            parts["nsp"] = nn.functional.cross_entropy(scores, continues.flatten())
        return parts

    @property
    def student(self) -> PreTrainedModel:
        """The model, without what a Trainer wraps it in."""
        assert isinstance(self.model, PreTrainedModel)
        return self.model

    @property
    def trains_all(self) -> bool:
        """Whether more than the head is trained."""
        return self.args.trained == "all"  # type: ignore[attr-defined]

    def share_of_all(self, count: int | Tensor, device: torch.device) -> Tensor | float:
        """What a mean over `count` items of this process weighs, so that the mean over processes is one over items."""
        if self.args.world_size == 1:
            return 1.0
        own = torch.as_tensor(count, dtype=torch.float32, device=device)
        return own / self.accelerator.reduce(own.clone(), "mean").clamp_min(1.0)

    def train_parts(self, parts: set[Part]) -> None:
        """Freezes everything else, so that no gradient is computed for it."""
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(part_of(name) in parts)

    def rate(self, step: int, part: Part) -> float:
        """The learning rate of a part in a step, as a share of the peak."""
        return warmed_up(step, self.args.max_steps, self.args.warmup_steps)

    def create_optimizer(self, model: Any = None) -> Any:
        """A group of parameters per part."""
        if self.optimizer is None:
            args: Any = self.args
            decays = set(self.get_decay_parameter_names(self.student))
            groups: dict[tuple[Part, bool], list[nn.Parameter]] = {}
            for name, parameter in self.student.named_parameters():
                groups.setdefault((part_of(name), name in decays), []).append(parameter)
            settings = [
                {"params": parameters, "part": part, "weight_decay": args.weight_decay if decay else 0.0}
                for (part, decay), parameters in groups.items()
            ]
            options = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
            optimizer_class = lamb() if args.optimizer == "lamb" else torch.optim.AdamW
            self.optimizer = optimizer_class(settings, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The rate of every group's part."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            rates = [self._rate_of(group["part"]) for group in optimizer.param_groups]
            self.lr_scheduler = LambdaLR(optimizer, rates)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _rate_of(self, part: Part) -> Callable[[int], float]:
        # A run that continues from its last step makes one more, which must change nothing.
        return lambda step: self.rate(step, part) if step < self.args.max_steps else 0.0


class _TellEpoch(TrainerCallback):
    """Tells a dataset its epoch. accelerate does not where samplers lie within each other (seen in 1.15): with several
    processes, and in the epoch in which a run continues, samples and masks would be those of the first."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        dataset: Any = getattr(train_dataloader, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(int(state.epoch or 0))


def warmed_up(step: int, num_steps: int, warmup_steps: float) -> float:
    """A linear rise over `warmup_steps` (below 1, a share of all), then a linear fall to `FINAL_RATE`."""
    warmup = math.ceil(warmup_steps * num_steps) if warmup_steps < 1 else int(warmup_steps)
    if step < warmup:
        return (step + 1) / warmup
    left = max(0.0, (num_steps - step) / max(1, num_steps - warmup))
    return FINAL_RATE + (1 - FINAL_RATE) * left


def part_of(parameter: str) -> Part:
    """The part of a model that a parameter belongs to, by its name."""
    _, layer, rest = parameter.partition("encoder.layer.")
    if layer:
        return int(rest.split(".")[0])
    return EMBEDDINGS if ".embeddings." in parameter else HEAD


def check_language_model(model: PreTrainedModel) -> None:
    """Raises a `ValueError` if a model has no language modelling head."""
    layers_of(model)
    if "predictions" not in getattr(model, "cls", {}):
        raise ValueError(
            f"{type(model).__name__} has no language modelling head: load it as `ForPreTraining` or `ForMaskedLM`."
        )


@contextmanager
def narrowed(model: PreTrainedModel, depth: int | None = None, positions: Tensor | None = None) -> Iterator[None]:
    """
    Makes a model compute less than it would: its first `depth` layers alone, and token scores at the `positions` (of
    shape `(batch, seq)`, true where wanted) alone, or none. The model itself is changed, not a copy, so that gradients
    also flow through what wraps it.
    """
    # transformers hooks the layers that it finds at the first call: all of them must be there.
    maybe_install_capturing_hooks(cast(PreTrainedModel, model.base_model))
    encoder: Any = model.base_model.encoder
    layers, heads = encoder.layer, cast(nn.ModuleDict, model.cls)
    encoder.layer = layers[:depth]
    narrow: dict[str, nn.Module] = {"predictions": _AtPositions(heads["predictions"], positions)}
    if "seq_relationship" in heads:
        narrow["seq_relationship"] = heads["seq_relationship"]
    model.cls = nn.ModuleDict(narrow)
    try:
        yield
    finally:
        encoder.layer, model.cls = layers, heads


class _AtPositions(nn.Module):
    def __init__(self, head: nn.Module, positions: Tensor | None):
        super().__init__()
        self.head, self.positions = head, positions

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.positions is None:
            return hidden_states.new_zeros(0)
        return self.head(hidden_states[self.positions])


@torch.inference_mode()
def measure_pretraining(
    model: PreTrainedModel, dataset: Dataset, collator: Callable[[list[Any]], dict[str, Tensor]], batch_size: int = 32
) -> dict[str, float]:
    """
    How well a model predicts masked tokens, and whether sentences follow each other.

    Returns:
        `dict`: `mlm_loss` (nats per masked token), `mlm_accuracy`, and `nsp_accuracy` where samples have such labels.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import Corpus, PretrainingCollator
    >>> from compactbert.training import measure_pretraining

    >>> model, tokenizer = load_pretrained("my-bert", "ForPreTraining")
    >>> sorted(measure_pretraining(model, Corpus.open("my-corpus").train, PretrainingCollator(tokenizer)))
    ['mlm_accuracy', 'mlm_loss', 'nsp_accuracy']

    ```
    """
    model.eval()
    sums = {"mlm_loss": 0.0, "mlm_accuracy": 0.0, "nsp_accuracy": 0.0}
    tokens = rows = 0
    for batch in tqdm(batches_of(dataset, collator, batch_size), desc="Measuring"):
        batch = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "sample_id"}
        labels, continues = batch.pop("labels"), batch.pop("next_sentence_label", None)
        masked = labels != IGNORED_LABEL
        with narrowed(model, positions=masked):
            outputs = model(**batch)
        logits = outputs["prediction_logits" if "prediction_logits" in outputs else "logits"].float()
        sums["mlm_loss"] += nn.functional.cross_entropy(logits, labels[masked], reduction="sum").item()
        sums["mlm_accuracy"] += (logits.argmax(-1) == labels[masked]).sum().item()
        tokens += int(masked.sum())
        if continues is not None and "seq_relationship_logits" in outputs:
            sums["nsp_accuracy"] += (outputs["seq_relationship_logits"].argmax(-1) == continues).sum().item()
            rows += len(continues)
    found = {name: value / max(tokens, 1) for name, value in sums.items() if name != "nsp_accuracy"}
    return found | ({"nsp_accuracy": sums["nsp_accuracy"] / rows} if rows else {})


def batches_of(dataset: Dataset, collator: Callable, batch_size: int) -> DataLoader:
    """A dataset's samples in their order."""
    return DataLoader(dataset, batch_size=batch_size, collate_fn=collator)


def lamb() -> type[torch.optim.Optimizer]:
    """The optimiser LAMB.

    Raises:
        ValueError: if its library is missing.
    """
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise ValueError('`optimizer="lamb"` needs a library: run `pip install "compactbert[lamb]"`.') from error
    return Lamb


__all__ = ["PretrainingConfig", "PretrainingTrainer", "lamb", "measure_pretraining", "warmed_up"]
