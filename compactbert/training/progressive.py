"""MobileBERT's knowledge transfer: a thin student learns a teacher's feature maps and attention, layer by layer
(https://huggingface.co/papers/2004.02984, section 3.4 and 3.5)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

from ..data import IGNORED_LABEL
from ..structure import ATTENTION_DROPOUT, layer_shapes, layers_of
from .losses import Variant, attention_transfer_loss, feature_map_transfer_loss
from .pretraining import (
    EMBEDDINGS,
    HEAD,
    Part,
    PretrainingConfig,
    PretrainingTrainer,
    batches_of,
    check_language_model,
    narrowed,
    warmed_up,
)
from .teacher import Observation, Request, observe


Strategy = Literal["auxiliary", "joint", "progressive"]
LayerSchedule = Literal["constant", "google-research"]
# The released factors of a layer's learning rate before, in and after its stage, and of all of them.
BEFORE, DURING, AFTER, ALL = 0.0, 1.0, 0.1, 3.0
# The released training has 240,000 steps of transfer and 500,000 of distillation.
TRANSFER_SHARE = 240 / 740


@dataclass(frozen=True)
class TransferStage:
    """
    A stretch of training in which the same things are learned.

    Args:
        name (`str`): For logs.
        start, stop (`int`): Its steps, `stop` excluded.
        layers (tuple of `int`): The student's layers, from 1, whose outputs are compared with the teacher's.
        distillation (`bool`): Whether predictions are learned too (and with them everything is trained).

    Example:

    ```python
    >>> from compactbert.training import ProgressiveTransferConfig

    >>> stage = ProgressiveTransferConfig(output_dir="run", max_steps=74).plan(num_layers=4)[1]
    >>> stage.name, stage.start, stage.stop, stage.layers
    ('transfer 2', 6, 12, (2,))

    ```
    """

    name: str
    start: int
    stop: int
    layers: tuple[int, ...]
    distillation: bool


@dataclass
class ProgressiveTransferConfig(PretrainingConfig):
    """
    Settings of [`ProgressiveTransferTrainer`]: those of [`PretrainingConfig`] and, with MobileBERT's names and values:

    Args:
        strategy (`"auxiliary"`, `"joint"` or `"progressive"`, *optional*, defaults to `"progressive"`):
            Auxiliary knowledge transfer adds the losses of all layers to that of pre-training distillation. Joint
            transfer learns all layers at once first, and distils then. Progressive transfer learns one layer after
            another first.
        variant (`"paper"`, `"google-research"` or `"model-garden"`, *optional*, defaults to `"paper"`):
            Whose losses: see [`~compactbert.training.losses.Variant`]. Of several layers' losses the paper takes the
            sum, google-research the sum over the number of all layers; model-garden divides by the stage's number.
        transfer_steps (`int`, *optional*):
            Steps of transfer, out of `max_steps`; what is left is pre-training distillation. `None` is the released
            share, 24 of 74. Without meaning for `"auxiliary"`.
        feature_map_transfer_weight, attention_transfer_weight (`float`, *optional*, defaults to 1.0):
            Weights of the two losses.
        ground_truth_ratio (`float`, *optional*, defaults to 0.5):
            α of the distillation: the weight of the true tokens.
        temperature (`float`, *optional*, defaults to 1.0):
            T of the distillation.
        stages (list of lists of `int`, *optional*):
            The student's layers, from 1, of every stage of progressive transfer; `None` is one layer a stage.
        layer_map (list of `int`, *optional*):
            For each of the student's layers the teacher's, from 1; `None` spreads them evenly.
        earlier_layers_rate (`float`, *optional*, defaults to 0.0):
            What layers of earlier stages still learn, as a share of the learning rate; 0 freezes them.
        layer_schedule (`"constant"` or `"google-research"`, *optional*, defaults to `"constant"`):
            The learning rate in a stage of progressive transfer: a warm-up, then constant; or the released schedule,
            see [`gated_learning_rate`].
        copy_from_teacher (`bool`, *optional*, defaults to `True`):
            Start from the teacher's embeddings and heads. They rest until the distillation; without the copy, the
            embeddings are learned together with the first layers.

    Raises:
        ValueError: for a value out of range.

    Example:

    ```python
    >>> from compactbert.training import ProgressiveTransferConfig

    >>> config = ProgressiveTransferConfig(output_dir="run", max_steps=740_000)
    >>> [stage.name for stage in config.plan(num_layers=24)][-2:]
    ['transfer 24', 'distillation']

    ```
    """

    strategy: str = field(default="progressive", metadata={"help": "auxiliary, joint or progressive."})
    variant: str = field(default="paper", metadata={"help": "paper, google-research or model-garden."})
    transfer_steps: int | None = field(default=None, metadata={"help": "Steps of transfer before distillation."})
    feature_map_transfer_weight: float = field(default=1.0, metadata={"help": "Weight of feature map transfer."})
    attention_transfer_weight: float = field(default=1.0, metadata={"help": "Weight of attention transfer."})
    ground_truth_ratio: float = field(default=0.5, metadata={"help": "Weight of the true tokens in distillation."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature of distillation."})
    stages: list | None = field(default=None, metadata={"help": "Layers of every stage, from 1."})
    layer_map: list | None = field(default=None, metadata={"help": "The teacher's layer for each of the student's."})
    earlier_layers_rate: float = field(default=0.0, metadata={"help": "What earlier layers still learn."})
    layer_schedule: str = field(default="constant", metadata={"help": "constant or google-research."})
    copy_from_teacher: bool = field(default=True, metadata={"help": "Copy embeddings and heads from the teacher."})

    def __post_init__(self):
        super().__post_init__()
        choices = {"strategy": Strategy, "variant": Variant, "layer_schedule": LayerSchedule}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"`{name}` must be one of {get_args(allowed)}, got {getattr(self, name)!r}.")
        for name in ("feature_map_transfer_weight", "attention_transfer_weight", "earlier_layers_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.ground_truth_ratio <= 1:
            raise ValueError(f"`ground_truth_ratio` must lie in [0, 1], got {self.ground_truth_ratio}.")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")
        if self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1, got {self.max_steps}: stages are counted in steps.")
        if self.trained != "all":
            raise ValueError(
                f"`trained` must be 'all' in a transfer, got {self.trained!r}: stages say what is trained."
            )
        if self.transfer_steps is not None:
            if self.strategy == "auxiliary":
                raise ValueError("`transfer_steps` goes with the strategies joint and progressive, got auxiliary.")
            if not 0 <= self.transfer_steps <= self.max_steps:
                raise ValueError(f"`transfer_steps` must lie in 0..{self.max_steps}, got {self.transfer_steps}.")

    def plan(self, num_layers: int) -> list[TransferStage]:
        """
        The stages for a student of so many layers.

        Raises:
            ValueError: if `stages` leaves a layer out or names one twice, there are more stages than steps, or a stage
                compares nothing.
        """
        layers = tuple(range(1, num_layers + 1))
        named = [list(layers)] if self.stages is None else self.stages
        if not all(named) or sorted(layer for stage in named for layer in stage) != list(layers):
            raise ValueError(
                f"`stages` must hold each of the student's layers 1..{num_layers} once, and none may be empty, got "
                f"{self.stages}."
            )
        if self.strategy == "auxiliary":
            return [TransferStage("auxiliary transfer", 0, self.max_steps, layers, True)]
        steps = round(TRANSFER_SHARE * self.max_steps) if self.transfer_steps is None else self.transfer_steps
        groups: Sequence[Sequence[int]] = [layers]
        if self.strategy == "progressive":
            groups = self.stages or [(layer,) for layer in layers]
        if steps and not (self.feature_map_transfer_weight or self.attention_transfer_weight):
            raise ValueError(
                "`feature_map_transfer_weight` and `attention_transfer_weight` are both 0, so a transfer has nothing "
                "to learn: set `transfer_steps` to 0 for distillation alone."
            )
        if 0 < steps < len(groups):
            raise ValueError(f"`transfer_steps` ({steps}) must be at least the number of stages, {len(groups)}.")
        ends = [round(i * steps / len(groups)) for i in range(len(groups) + 1)]
        stages = [
            TransferStage(
                f"transfer {'-'.join(map(str, sorted({min(group), max(group)})))}", *span, tuple(group), False
            )
            for group, span in zip(groups, zip(ends, ends[1:], strict=False), strict=True)
            if steps
        ]
        if steps < self.max_steps:
            stages.append(TransferStage("distillation", steps, self.max_steps, (), True))
        return stages


class ProgressiveTransferTrainer(PretrainingTrainer):
    """
    Trains a student on a teacher's feature maps, attention and predictions, in the stages of
    [`ProgressiveTransferConfig.plan`]. A stage is a function of the step alone, so a checkpoint knows its stage, and a
    run that continues within one is the run that was not interrupted. A stage computes no layer, of either model, above
    those that it compares.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The student: MobileBERT-MD, IB-BERT or any model with a language modelling head.
        teacher_model ([`~transformers.PreTrainedModel`]):
            The teacher, with a head of the same kind: IB-BERT, or any model with the same feature map width. Frozen,
            in evaluation mode, and never part of a checkpoint.
        args ([`ProgressiveTransferConfig`]):
            Settings.
        kwargs:
            Further arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: if the two differ in the width of their feature maps or in vocabulary, attention is to be compared
            and does not come from eager attention or from heads that can be grouped, a layer of `layer_map` does not
            exist, or embeddings are to be copied and differ in shape.
        FloatingPointError: as [`PretrainingTrainer`].

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import Corpus, PretrainingCollator
    >>> from compactbert.presets import load_preset
    >>> from compactbert.training import ProgressiveTransferConfig, ProgressiveTransferTrainer, make_ib_bert
    >>> from modeling_mobilebert_md import MobileBertMdForPreTraining

    >>> bert, tokenizer = load_pretrained("my-bert", "")
    >>> teacher = make_ib_bert(bert, feature_map_size=64, embedding_size=32)
    >>> student = MobileBertMdForPreTraining(load_preset("student.json"))
    >>> for model in (teacher, student):
    ...     model.set_attn_implementation("eager")
    >>> args = ProgressiveTransferConfig(output_dir="run", max_steps=4, transfer_steps=2, report_to="none")
    >>> rows, collator = Corpus.open("my-corpus").train, PretrainingCollator(tokenizer)
    >>> trainer = ProgressiveTransferTrainer(student, teacher, args, train_dataset=rows, data_collator=collator)
    >>> trainer.train().global_step
    4

    ```
    """

    _tag_names = ("compactbert", "progressive-transfer")

    def __init__(
        self, model: PreTrainedModel, teacher_model: PreTrainedModel, args: ProgressiveTransferConfig, **kwargs: Any
    ):
        self.layer_map = check_pair(model, teacher_model, args.layer_map, bool(args.attention_transfer_weight))
        self.plan = args.plan(len(layers_of(model)))
        self.teacher = teacher_model.requires_grad_(False).eval()
        self.stage: TransferStage | None = None
        super().__init__(model, args, **kwargs)
        if args.copy_from_teacher:
            copy_embeddings_and_heads(self.student, teacher_model)
        self.accelerator.prepare_model(self.teacher, evaluation_mode=True)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's. Afterwards nothing is frozen, and attention has its dropout again."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.stage = None
            self._drop_attention(self.student.config.attention_probs_dropout_prob)

    def stage_at(self, step: int) -> TransferStage:
        """The stage of a step; the last one's for steps after the end."""
        return next((stage for stage in self.plan if step < stage.stop), self.plan[-1])

    def loss_parts(
        self, model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, continues: Tensor | None
    ) -> dict[str, Tensor]:
        """`feature_map` and `attention` of the stage's layers; `mlm` and `nsp` in distillation."""
        args: Any = self.args
        stage = self.stage_at(self.state.global_step)
        if stage is not self.stage:
            self._enter(stage)
        compares = args.feature_map_transfer_weight or args.attention_transfer_weight
        layers = stage.layers if compares else ()
        positions = labels != IGNORED_LABEL if stage.distillation else None
        depth = None if stage.distillation else max(stage.layers)
        student_request, teacher_request = self._requests(layers)
        with narrowed(self.student, depth, positions):
            student = observe(model, inputs, student_request, encoder=self.student)
        teacher = Observation({})
        # Only a distillation from the true tokens alone needs no teacher.
        if layers or (stage.distillation and args.ground_truth_ratio < 1):
            depth = None if stage.distillation or args.variant == "google-research" else self._teacher_depth(stage)
            with torch.no_grad(), narrowed(self.teacher, depth, positions if args.ground_truth_ratio < 1 else None):
                teacher = observe(self.teacher, inputs, teacher_request)
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
        parts = self._transfer_parts(stage, layers, student, teacher, mask)
        if stage.distillation:
            teacher_logits = next((z for name, z in teacher.logits.items() if not name.startswith("seq")), None)
            parts |= self.prediction_parts(
                student.outputs,
                teacher_logits if args.ground_truth_ratio < 1 else None,
                labels[positions],
                continues,
                args.ground_truth_ratio,
                args.temperature,
                variant=args.variant,
            )
        return parts

    def _enter(self, stage: TransferStage) -> None:
        self.stage = stage
        self.train_parts(self._trained_in(stage))
        # Maps come as dropout leaves them, and a probability of zero is as far from the teacher's as can be.
        compares = self.args.attention_transfer_weight and stage.layers  # type: ignore[attr-defined]
        self._drop_attention(0.0 if compares else self.student.config.attention_probs_dropout_prob)

    def _drop_attention(self, rate: float) -> None:
        for layer in layers_of(self.student):
            layer.get_submodule(ATTENTION_DROPOUT).p = rate  # type: ignore[assignment]

    def _transfer_parts(
        self, stage: TransferStage, layers: Sequence[int], student: Observation, teacher: Observation, mask: Tensor
    ) -> dict[str, Tensor]:
        if not layers:
            return {}
        args: Any = self.args
        weight = self.share_of_all(mask.sum(), mask.device)
        if args.variant == "google-research":
            weight = weight / len(self.layer_map)
        elif args.variant == "model-garden":
            weight = weight / (self.plan.index(stage) + 1)
        pairs = [(layer, self.layer_map[layer - 1]) for layer in layers]
        parts = {}
        if args.feature_map_transfer_weight:
            maps = [teacher.hidden_states[i] for i in sorted(teacher.hidden_states)]
            losses = [
                feature_map_transfer_loss(
                    student.hidden_states[s], teacher.hidden_states[t], mask, args.variant, teacher_maps=maps
                )
                for s, t in pairs
            ]
            parts["feature_map"] = args.feature_map_transfer_weight * weight * torch.stack(losses).sum()
        if args.attention_transfer_weight:
            losses = [
                attention_transfer_loss(student.attentions[s], teacher.attentions[t], mask, args.variant)
                for s, t in pairs
            ]
            parts["attention"] = args.attention_transfer_weight * weight * torch.stack(losses).sum()
        return parts

    def _requests(self, layers: Sequence[int]) -> tuple[Request, Request]:
        args: Any = self.args
        theirs = tuple(sorted({self.layer_map[layer - 1] for layer in layers}))
        states = theirs
        if args.variant == "google-research" and layers:
            states = tuple(range(len(layers_of(self.teacher)) + 1))
        student = Request(
            tuple(layers) if args.feature_map_transfer_weight else (),
            tuple(layers) if args.attention_transfer_weight else (),
        )
        teacher = Request(
            states if args.feature_map_transfer_weight else (), theirs if args.attention_transfer_weight else ()
        )
        return student, teacher

    def _teacher_depth(self, stage: TransferStage) -> int:
        return max(self.layer_map[layer - 1] for layer in stage.layers)

    def _trained_in(self, stage: TransferStage) -> set[Part]:
        if stage.distillation:
            return {EMBEDDINGS, *range(len(self.layer_map)), HEAD}
        args: Any = self.args
        own: set[Part] = {layer - 1 for layer in stage.layers}
        if args.earlier_layers_rate:
            own |= {layer - 1 for other in self.plan[: self.plan.index(stage)] for layer in other.layers}
        if not args.copy_from_teacher and stage is self.plan[0]:
            own.add(EMBEDDINGS)
        return own

    def rate(self, step: int, part: Part) -> float:
        """The learning rate of a part in a step, as a share of the peak."""
        args: Any = self.args
        stage = self.stage_at(step)
        local, length = step - stage.start, stage.stop - stage.start
        if stage.distillation:
            return warmed_up(local, length, args.warmup_steps)
        if part not in self._trained_in(stage):
            return 0.0
        if args.layer_schedule == "google-research" and isinstance(part, int):
            index = next(i for i, other in enumerate(self.plan) if part + 1 in other.layers)
            # As if all stages were as long as this one: the steps may not divide by their number.
            return gated_learning_rate(self.plan.index(stage) * length + local, index, length, args.earlier_layers_rate)
        warmup = math.ceil(args.warmup_steps * length) if args.warmup_steps < 1 else args.warmup_steps
        rise = min(1.0, (local + 1) / max(1.0, warmup))
        return rise if part == EMBEDDINGS or part + 1 in stage.layers else rise * args.earlier_layers_rate  # type: ignore[operator]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, with the number of the stage and the highest of the learning rates."""
        if "loss" in logs:
            scheduler: Any = self.lr_scheduler
            logs["learning_rate"] = max(scheduler.get_last_lr())
            logs["stage"] = self.plan.index(self.stage_at(max(0, self.state.global_step - 1))) + 1
        super().log(logs, start_time)


def gated_learning_rate(step: int, layer: int, steps_per_stage: int, earlier: float = AFTER) -> float:
    """
    The factor of a layer's learning rate in google-research's progressive transfer (`distill_util.py`): 0 before its
    stage, 3 in it and 0.3 after it, times a background that rises within a tenth of every stage and falls to 0.9.

    Args:
        step (`int`): From 0, over all stages.
        layer (`int`): From 0; it is also the number of its stage.
        steps_per_stage (`int`): Steps of every stage.
        earlier (`float`, *optional*, defaults to 0.1): In place of the 0.1 that later stages leave of the rate.
    """
    start = layer * steps_per_stage
    # A stage begins with the step after its first: TensorFlow's boundaries belong to what is before them.
    gate = BEFORE if step <= start else DURING if step <= start + steps_per_stage else earlier
    background = 1.0
    if steps_per_stage > 1:
        passed = step % steps_per_stage / steps_per_stage
        background = min(0.9 + 0.1 * math.sqrt(1 - passed), 10 * passed)
    return ALL * background * gate


def check_pair(
    student: PreTrainedModel, teacher: PreTrainedModel, layer_map: Sequence[int] | None, attention: bool
) -> list[int]:
    """
    The teacher's layer for each of the student's.

    Raises:
        ValueError: see [`ProgressiveTransferTrainer`].
    """
    for model in (student, teacher):
        check_language_model(model)
    ours, theirs = student.config, teacher.config
    matched = match_layers(ours, theirs, layer_map, attention)
    if ours.vocab_size != theirs.vocab_size:
        raise ValueError(
            f"The student's `vocab_size` is {ours.vocab_size}, the teacher's {theirs.vocab_size}: both must have the "
            f"same tokenizer."
        )
    for role, config in (("student", ours), ("teacher", theirs)):
        if attention and config._attn_implementation != "eager":
            raise ValueError(
                f"`attention_transfer_weight` needs attention maps, which the {role}'s {config._attn_implementation!r} "
                f'attention does not return: load it with `attn_implementation="eager"`, or set the weight to 0.'
            )
    return matched


def match_layers(
    student: PreTrainedConfig, teacher: PreTrainedConfig, layer_map: Sequence[int] | None, attention: bool
) -> list[int]:
    """
    The teacher's layer for each of the student's, as far as architectures tell, before there are weights.

    Raises:
        ValueError: see [`ProgressiveTransferTrainer`].
    """
    if student.hidden_size != teacher.hidden_size:
        raise ValueError(
            f"Feature maps are compared feature by feature, but the student's `hidden_size` is {student.hidden_size} "
            f"and the teacher's {teacher.hidden_size}: give the student the teacher's width, or make the teacher with "
            f"`compactbert.training.make_ib_bert(model, feature_map_size={student.hidden_size})`."
        )
    heads, teacher_heads = ([shape.heads for shape in layer_shapes(config)] for config in (student, teacher))
    matched = spread_layers(layer_map, len(heads), len(teacher_heads))
    for layer, other in enumerate(matched):
        if attention and teacher_heads[other - 1] % heads[layer]:
            raise ValueError(
                f"The teacher's {teacher_heads[other - 1]} heads of layer {other} cannot be grouped into the "
                f"student's {heads[layer]} of layer {layer + 1}: set `attention_transfer_weight` to 0, or choose "
                f"`num_attention_heads` that divides the teacher's."
            )
    return matched


def spread_layers(layer_map: Sequence[int] | None, num_layers: int, num_teacher_layers: int) -> list[int]:
    """
    `layer_map`, or the teacher's layers spread evenly over the student's.

    Raises:
        ValueError: if it has not one of the teacher's layers for each of the student's.
    """
    if layer_map is None:
        return [math.ceil(i * num_teacher_layers / num_layers) for i in range(1, num_layers + 1)]
    if len(layer_map) != num_layers or not all(1 <= layer <= num_teacher_layers for layer in layer_map):
        raise ValueError(
            f"`layer_map` must hold one of the teacher's layers 1..{num_teacher_layers} for each of the student's "
            f"{num_layers}, got {list(layer_map)}."
        )
    return list(layer_map)


@torch.no_grad()
def copy_embeddings_and_heads(student: PreTrainedModel, teacher: PreTrainedModel) -> list[str]:
    """
    Gives a student the teacher's embeddings and heads. A normalisation is copied only where both have the same kind.

    Returns:
        list of `str`: the names of the parameters that were copied.

    Raises:
        ValueError: if a parameter differs in shape.
    """
    norms = [getattr(model.config, "normalization_type", "layer_norm") for model in (student, teacher)]
    theirs = _without_prefix(teacher)
    copied = []
    for name, (own_name, parameter) in _without_prefix(student).items():
        if name.startswith("encoder.layer.") or name not in theirs:
            continue
        if name.startswith("embeddings.LayerNorm.") and norms[0] != norms[1]:
            continue
        _, value = theirs[name]
        if value.shape != parameter.shape:
            raise ValueError(
                f"`copy_from_teacher` copies embeddings and heads, but {own_name!r} is {tuple(parameter.shape)} in the "
                f"student and {tuple(value.shape)} in the teacher: give both the same `embedding_size`, or set "
                f"`copy_from_teacher` to False."
            )
        parameter.copy_(value)
        copied.append(own_name)
    return copied


def _without_prefix(model: PreTrainedModel) -> dict[str, tuple[str, nn.Parameter]]:
    """Parameters with their names, by names that do not tell the family."""
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): (name, parameter) for name, parameter in model.named_parameters()}


@torch.inference_mode()
def measure_transfer(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    dataset: Dataset,
    collator: Any,
    layer_map: Sequence[int] | None = None,
    batch_size: int = 32,
) -> dict[str, float]:
    """
    How far a student's maps are from the teacher's, by the paper's losses and averaged over layers.

    Returns:
        `dict`: `feature_map_distance`, also as a share of the teacher's mean square (`relative_feature_map_distance`),
        and `attention_distance` where both have eager attention.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import Corpus, PretrainingCollator
    >>> from compactbert.presets import load_preset
    >>> from compactbert.training import make_ib_bert, measure_transfer
    >>> from modeling_mobilebert_md import MobileBertMdForPreTraining

    >>> bert, tokenizer = load_pretrained("my-bert", "")
    >>> teacher = make_ib_bert(bert, feature_map_size=64, embedding_size=32)
    >>> student = MobileBertMdForPreTraining(load_preset("student.json"))
    >>> rows, collator = Corpus.open("my-corpus").train, PretrainingCollator(tokenizer)
    >>> sorted(measure_transfer(student, teacher, rows, collator))
    ['feature_map_distance', 'relative_feature_map_distance']

    ```
    """
    attention = student.config._attn_implementation == teacher.config._attn_implementation == "eager"
    pairs = list(enumerate(check_pair(student, teacher, layer_map, attention), start=1))
    ours = Request(tuple(s for s, _ in pairs), tuple(s for s, _ in pairs) if attention else ())
    wanted = tuple(sorted({t for _, t in pairs}))
    theirs = Request(wanted, wanted if attention else ())
    student.eval()
    teacher.eval()
    # Of every pair of layers: distance, the teacher's mean square, divergence; tokens.
    sums, tokens = torch.zeros(3, len(pairs), dtype=torch.float64), 0
    for batch in tqdm(batches_of(dataset, collator, batch_size), desc="Measuring"):
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: batch[name].to(student.device) for name in names if name in batch}
        mask = inputs["attention_mask"]
        with narrowed(student):
            seen = observe(student, inputs, ours)
        with narrowed(teacher):
            target = observe(teacher, inputs, theirs)
        count = int(mask.sum())
        tokens += count
        for i, (s, t) in enumerate(pairs):
            goal = target.hidden_states[t]
            sums[0, i] += count * feature_map_transfer_loss(seen.hidden_states[s], goal, mask).item()
            sums[1, i] += count * feature_map_transfer_loss(torch.zeros_like(goal), goal, mask).item()
            if attention:
                sums[2, i] += count * attention_transfer_loss(seen.attentions[s], target.attentions[t], mask).item()
    distances, sizes, divergences = sums / max(tokens, 1)
    found = {"feature_map_distance": distances, "relative_feature_map_distance": distances / sizes}
    if attention:
        found["attention_distance"] = divergences
    return {name: values.mean().item() for name, values in found.items()}


__all__ = [
    "ProgressiveTransferConfig",
    "ProgressiveTransferTrainer",
    "TransferStage",
    "copy_embeddings_and_heads",
    "gated_learning_rate",
    "match_layers",
    "measure_transfer",
    "spread_layers",
]
