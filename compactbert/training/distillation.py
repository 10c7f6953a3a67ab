"""Multi-objective knowledge distillation into a smaller student."""

import errno
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.utils import find_labels, logging

from ..convert import load_pretrained
from ..structure import ATTENTION_DROPOUT, label_names, layer_shapes, layers_of
from .losses import (
    attention_loss,
    binary_soft_target_loss,
    cosine_loss,
    hidden_state_loss,
    relation_loss,
    soft_target_loss,
)
from .multitask import MultiTaskModel, TaskBatchSampler
from .run import ResumableTrainer, TrainingRun, train_on_task
from .teacher import CACHE_LIMITS, LABELS, Observation, Request, TeacherCache, observe


logger = logging.get_logger(__name__)
PROJECTIONS = "projections.safetensors"
LayerMap = Sequence[Sequence[int]]


@dataclass(frozen=True)
class LossTerm:
    """
    A term of your own.

    Args:
        function (callable):
            Takes the student's and the teacher's [`~compactbert.training.teacher.Observation`] and the batch, and
            returns a loss.
        weight (`float`, *optional*, defaults to 1.0):
            Its weight; a term of weight 0 is not called.
        student, teacher ([`~compactbert.training.teacher.Request`], *optional*):
            Hidden states, attention maps or queries, keys and values that it needs of either, beside the logits.

    Example:

    ```python
    >>> from compactbert.training import LossTerm

    >>> def confidence(student, teacher, batch):
    ...     return student.logits["logits"].logsumexp(-1).mean()
    >>> LossTerm(confidence, weight=0.1).weight
    0.1

    ```
    """

    function: Callable[[Observation, Observation, Mapping[str, Tensor]], Tensor]
    weight: float = 1.0
    student: Request = Request()
    teacher: Request = Request()


@dataclass
class DistillationConfig(TrainingArguments):
    """
    Settings of [`DistillationTrainer`]: those of [`~transformers.TrainingArguments`], and the weights of the terms.
    A term of weight 0 costs nothing. The defaults are SmBERT's (its Table 2).

    Args:
        temperature (`float`, *optional*, defaults to 3.0):
            T of the soft targets.
        kd_loss_weight (`float`, *optional*, defaults to 5.0):
            Weight of the soft targets (SmBERT's alpha), of which T² is a factor.
        hard_label_weight (`float`, *optional*, defaults to 2.0):
            Weight of the task's own loss (SmBERT's beta).
        cosine_weight (`float`, *optional*, defaults to 1.0):
            Weight of the cosine term on the last hidden states (SmBERT's gamma).
        hidden_state_weight (`float`, *optional*, defaults to 0.0):
            Weight of the squared difference of the hidden states that `layer_map` pairs; relative to the teacher's
            mean square where the teacher does not normalise its states (NoNorm).
        attention_weight (`float`, *optional*, defaults to 0.0):
            Weight of the divergence of the attention maps that `layer_map` pairs. With it the student's attention maps
            have no dropout.
        relation_weight (`float`, *optional*, defaults to 0.0):
            Weight of MiniLMv2's relations among queries, keys and values of the layers that `relation_map` pairs.
        layer_map (list of `[student, teacher]`, *optional*):
            Pairs of layers, counted from 1 (0 is the embeddings' output). `None` spreads the student's layers evenly
            over the teacher's.
        relation_map (list of `[student, teacher]`, *optional*):
            Pairs of layers for relations; `None` pairs the last ones.
        relation_heads (`int`, *optional*):
            Relation heads; must divide both models' attention widths. `None` is the largest number up to 12 that does.
        teacher_cache (`str`, *optional*):
            Folder in which the teacher's outputs for the training rows are kept, for later epochs and students.

    Raises:
        ValueError: for a temperature that is not positive, and a negative weight.

    Example:

    ```python
    >>> from compactbert.training import DistillationConfig

    >>> config = DistillationConfig(output_dir="run", hidden_state_weight=0.5, layer_map=[[1, 2], [2, 4]])
    >>> config.kd_loss_weight
    5.0

    ```
    """

    temperature: float = field(default=3.0, metadata={"help": "Temperature of the soft targets."})
    kd_loss_weight: float = field(default=5.0, metadata={"help": "Weight of the soft targets."})
    hard_label_weight: float = field(default=2.0, metadata={"help": "Weight of the task's own loss."})
    cosine_weight: float = field(default=1.0, metadata={"help": "Weight of the last hidden states' cosine term."})
    hidden_state_weight: float = field(default=0.0, metadata={"help": "Weight of hidden states' squared difference."})
    attention_weight: float = field(default=0.0, metadata={"help": "Weight of the attention maps' divergence."})
    relation_weight: float = field(default=0.0, metadata={"help": "Weight of MiniLMv2's relations."})
    layer_map: list | None = field(default=None, metadata={"help": "Pairs of student and teacher layer, from 1."})
    relation_map: list | None = field(default=None, metadata={"help": "Pairs of layers for relations, from 1."})
    relation_heads: int | None = field(default=None, metadata={"help": "Relation heads."})
    teacher_cache: str | None = field(default=None, metadata={"help": "Folder of cached teacher outputs."})

    def __post_init__(self):
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")
        weights = {name: value for name, value in vars(self).items() if name in WEIGHTS}
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")


WEIGHTS = (
    "kd_loss_weight",
    "hard_label_weight",
    "cosine_weight",
    "hidden_state_weight",
    "attention_weight",
    "relation_weight",
)


class DistillationTrainer(ResumableTrainer):
    """
    A [`~transformers.Trainer`] whose loss is a weighted sum of what the labels and one or more teachers say.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`MultiTaskModel`]):
            The student. With tasks of its own per batch, a [`MultiTaskModel`].
        teacher_model ([`~transformers.PreTrainedModel`], list, or `dict` of task to either):
            The teacher; the terms of several are averaged. Frozen, in evaluation mode, and never part of the
            student's checkpoint.
        args ([`DistillationConfig`]):
            Settings.
        loss_terms (`dict` of name to [`LossTerm`], *optional*):
            Further terms.
        kwargs:
            Further arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: if student and teacher differ in vocabulary, head or labels, a layer pair does not exist, attention
            maps are asked for without eager attention or with a cache, widths do not suit `relation_heads`, no term has
            a weight, or one of `loss_terms` a negative one.

    Example:

    ```python
    >>> from compactbert.compression import PruningPlan, prune
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import data_collator, encode_task, load_task
    >>> from compactbert.training import DistillationConfig, DistillationTrainer

    >>> teacher, tokenizer = load_pretrained("my-model", "ForSequenceClassification")
    >>> student = prune(teacher, PruningPlan.keep_layers(teacher.config, [0]))
    >>> task = load_task("reviews.csv")
    >>> rows, _ = encode_task(task, task.train, tokenizer, max_length=32)
    >>> args = DistillationConfig(output_dir="run", max_steps=2, report_to="none")
    >>> trainer = DistillationTrainer(
    ...     student, teacher, args, train_dataset=rows, data_collator=data_collator(task, tokenizer)
    ... )
    >>> trainer.train().global_step
    2

    ```
    """

    _tag_names = ("compactbert", "distillation")
    # The loss is a mean over the batch; the Trainer divides it where gradients are accumulated.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel | MultiTaskModel,
        teacher_model: PreTrainedModel | Sequence[PreTrainedModel] | Mapping[str, Any],
        args: DistillationConfig,
        *,
        loss_terms: Mapping[str, LossTerm] | None = None,
        **kwargs: Any,
    ):
        students = model.models if isinstance(model, MultiTaskModel) else {"": model}
        by_task = teacher_model if isinstance(teacher_model, Mapping) else {"": teacher_model}
        if set(by_task) != set(students):
            raise ValueError(f"The teachers are for the tasks {sorted(by_task)}, the student for {sorted(students)}.")
        for name, term in (loss_terms or {}).items():
            if term.weight < 0:
                raise ValueError(f"The weight of {name!r} in `loss_terms` must not be negative, got {term.weight}.")
        self.loss_terms = {name: term for name, term in (loss_terms or {}).items() if term.weight}
        weights = {name: getattr(args, name) for name in WEIGHTS}
        if not any(weights.values()) and not self.loss_terms:
            raise ValueError(f"All of {WEIGHTS} are 0: give at least one a weight.")
        self.needs_teacher = any(weights[name] for name in WEIGHTS if name != "hard_label_weight") or self.loss_terms
        if args.teacher_cache and (args.attention_weight or args.relation_weight):
            raise ValueError(CACHE_LIMITS)
        self.teachers = {
            task: [teachers] if isinstance(teachers, PreTrainedModel) else list(teachers)
            for task, teachers in by_task.items()
        }
        if not all(self.teachers.values()):
            raise ValueError("`teacher_model` is an empty list: give at least one teacher.")
        self.pairs = {
            (task, i): _Pair(students[task], teacher, args, self.loss_terms.values())  # type: ignore[arg-type]
            for task, teachers in self.teachers.items()
            for i, teacher in enumerate(teachers)
        }
        if args.attention_weight:
            # Maps come as dropout leaves them, and a probability of zero is as far from the teacher's as can be.
            for student in students.values():
                for layer in layers_of(student):  # type: ignore[arg-type]
                    layer.get_submodule(ATTENTION_DROPOUT).p = 0.0  # type: ignore[assignment]
        # Where widths differ the student's states are projected to the teacher's; here, so that they never reach the
        # student's checkpoint.
        torch.manual_seed(args.seed)
        self.projections = nn.ModuleDict(
            {
                f"{task or 'task'}:{i}:{index}": nn.Linear(pair.student_width, pair.teacher_width)
                for (task, i), pair in self.pairs.items()
                for index in pair.compared_states
                if pair.student_width != pair.teacher_width
            }
        )
        super().__init__(model, args, **kwargs)
        self.projections.to(self.args.device)
        self.add_callback(_TrainBeside(self.projections, self.accelerator))
        for teachers in self.teachers.values():
            for teacher in teachers:
                teacher.requires_grad_(False).eval()
                self.accelerator.prepare_model(teacher, evaluation_mode=True)
        self.caches = self._open_caches() if args.teacher_cache else {}

    def _open_caches(self) -> dict[tuple[str, int], TeacherCache]:
        dataset = self.train_dataset
        if not isinstance(dataset, Dataset) or isinstance(self.model, MultiTaskModel):
            raise ValueError("`teacher_cache` needs a `datasets.Dataset` of one task to train on.")
        rows = self._remove_unused_columns(dataset)
        try:
            caches = {
                key: TeacherCache(
                    self.args.teacher_cache,  # type: ignore[attr-defined]
                    self.teachers[key[0]][key[1]],
                    rows,
                    self.data_collator,
                    pair.teacher_request,
                )
                for key, pair in self.pairs.items()
            }
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            logger.warning(f"{error.strerror}: the teacher runs in every step instead.")
            return {}
        self.train_dataset = dataset.add_column("teacher_row", list(range(len(dataset))))
        return caches

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            models = self.model.models.values() if isinstance(self.model, MultiTaskModel) else ()
            columns = [name for model in models for name in inspect.signature(model.forward).parameters]
            columns += [*(self._signature_columns or ()), "teacher_row", "task"]
            self._signature_columns = columns  # type: ignore[assignment]

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(self.model, MultiTaskModel):
            return TaskBatchSampler(dataset["task"][:], self.args.train_batch_size, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def create_optimizer(self, model: Any = None) -> Any:
        """As the Trainer's, and the projections."""
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            if len(self.projections):
                optimizer.add_param_group({"params": list(self.projections.parameters()), "weight_decay": 0.0})
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted sum while training; in evaluation the task's own loss."""
        inputs = dict(inputs)
        rows = inputs.pop("teacher_row", None)
        task = inputs.get("task", "")
        if not model.training:
            outputs = model(**inputs)
            loss = outputs["loss"].detach() if outputs.get("loss") is not None else torch.zeros(())
            return (loss, outputs) if return_outputs else loss

        pairs = {key: pair for key, pair in self.pairs.items() if key[0] == task}
        wanted = Request().union(*(pair.student_request for pair in pairs.values()))
        student_model: Any = self.model.models[task] if isinstance(self.model, MultiTaskModel) else self.model
        student = observe(model, inputs, wanted, encoder=student_model)
        parts: dict[str, Tensor] = {}
        if self.args.hard_label_weight:  # type: ignore[attr-defined]
            if student.loss is None:
                raise ValueError("`hard_label_weight` needs rows with labels: set it to 0 to distil without.")
            parts["hard_label"] = self.args.hard_label_weight * student.loss  # type: ignore[attr-defined]
        mask = inputs.get("attention_mask")
        # As many rows as hidden states have, also where every row is several choices.
        mask = (torch.ones_like(inputs["input_ids"]) if mask is None else mask).flatten(0, -2)
        for key, pair in pairs.items() if self.needs_teacher else ():
            teacher = self._observe_teacher(key, pair, inputs, mask, rows)
            projected = {i: self._project(key, i, states) for i, states in student.hidden_states.items()}
            for name, value in pair.terms(student, teacher, projected, mask).items():
                parts[name] = parts.get(name, 0.0) + value / len(pairs)
            for name, term in self.loss_terms.items():
                value = term.weight * term.function(student, teacher, inputs)
                parts[name] = parts.get(name, 0.0) + value / len(pairs)
        self.keep_parts(parts)
        loss = torch.stack(list(parts.values())).sum()
        return (loss, student.outputs) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, with the labels of the batch's task."""
        if isinstance(self.model, MultiTaskModel):
            self.label_names = find_labels(type(self.model.models[inputs["task"]]))
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _observe_teacher(
        self, key: tuple[str, int], pair: "_Pair", inputs: Mapping[str, Any], mask: Tensor, rows: Tensor | None
    ) -> Observation:
        if rows is not None:
            return self.caches[key].fetch(rows.tolist(), mask.shape, mask.device)
        with torch.no_grad():
            given = {name: value for name, value in inputs.items() if name not in (*LABELS, "task")}
            return observe(self.teachers[key[0]][key[1]], given, pair.teacher_request)

    def _project(self, key: tuple[str, int], index: int, states: Tensor) -> Tensor:
        name = f"{key[0] or 'task'}:{key[1]}:{index}"
        return self.projections[name](states) if name in self.projections else states

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if len(self.projections) and self.args.should_save:
            save_file(self.projections.state_dict(), Path(output_dir or str(self.args.output_dir)) / PROJECTIONS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if len(self.projections):
            self.projections.load_state_dict(load_file(Path(resume_from_checkpoint) / PROJECTIONS))


class _TrainBeside(TrainerCallback):
    """What the Trainer does for its model alone: sets gradients to zero, and averages them over processes."""

    def __init__(self, module: nn.Module, accelerator: Accelerator):
        self.module, self.accelerator = module, accelerator

    def on_step_begin(self, args, state, control, **kwargs):
        self.module.zero_grad()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for parameter in self.module.parameters() if args.world_size > 1 else ():
            # Another process's batch may be of a task that has it.
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(own, "mean")


class _Pair:
    """A student and one of its teachers: what to observe of both, and the terms that compare them."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        args: DistillationConfig,
        loss_terms: Iterable[LossTerm],
    ):
        self.args = args
        self.config = student.config
        self.unnormalised = getattr(teacher.config, "normalization_type", "layer_norm") == "no_norm"
        _check_same_labels(student, teacher)
        if args.kd_loss_weight:
            _check_same_head(student, teacher)
        student_layers, teacher_layers = len(layers_of(student)), len(layers_of(teacher))
        self.student_width, self.teacher_width = student.config.hidden_size, teacher.config.hidden_size
        even = [[i + 1, (i + 1) * teacher_layers // student_layers] for i in range(student_layers)]
        self.layer_map = _check_map("layer_map", args.layer_map or even, student_layers, teacher_layers)
        last = [[student_layers, teacher_layers]]
        self.relation_map = _check_map("relation_map", args.relation_map or last, student_layers, teacher_layers)
        self.attention_map = [pair for pair in self.layer_map if all(pair)]
        if args.attention_weight:
            if not self.attention_map:
                raise ValueError(
                    f"`attention_weight` needs a pair of layers in `layer_map`, counted from 1, got {self.layer_map}: "
                    f"the embeddings have no attention maps."
                )
            for role, model in (("student", student), ("teacher", teacher)):
                if model.config._attn_implementation != "eager":
                    raise ValueError(
                        f"`attention_weight` needs attention maps, which the {role}'s "
                        f"{model.config._attn_implementation!r} attention does not return: load it with "
                        f'`attn_implementation="eager"`.'
                    )
        self.relation_heads = 0
        if args.relation_weight:
            self.relation_heads = _relation_heads(args.relation_heads, student, teacher, self.relation_map)

        def request(side: int) -> Request:
            hidden = {(student_layers, teacher_layers)[side]} if args.cosine_weight else set()
            if args.hidden_state_weight:
                hidden |= {pair[side] for pair in self.layer_map}
            attentions = {pair[side] for pair in self.attention_map} if args.attention_weight else set()
            vectors = {pair[side] for pair in self.relation_map} if args.relation_weight else set()
            return Request(tuple(hidden), tuple(attentions), tuple(vectors))

        self.last = (student_layers, teacher_layers)
        self.compared_states = request(0).hidden_states
        self.student_request = request(0).union(*(term.student for term in loss_terms))
        self.teacher_request = request(1).union(*(term.teacher for term in loss_terms))

    def terms(
        self, student: Observation, teacher: Observation, projected: Mapping[int, Tensor], mask: Tensor
    ) -> dict[str, Tensor]:
        args, terms = self.args, {}
        if args.kd_loss_weight:
            soft = [self._soft_targets(name, z, teacher.logits[name], mask) for name, z in student.logits.items()]
            terms["soft_target"] = args.kd_loss_weight * torch.stack(soft).mean()
        if args.cosine_weight:
            states = projected[self.last[0]], teacher.hidden_states[self.last[1]]
            terms["cosine"] = args.cosine_weight * cosine_loss(*states, mask)
        if args.hidden_state_weight:
            losses = [
                hidden_state_loss(projected[s], teacher.hidden_states[t], mask, self.unnormalised)
                for s, t in self.layer_map
            ]
            terms["hidden_state"] = args.hidden_state_weight * torch.stack(losses).mean()
        if args.attention_weight:
            losses = [attention_loss(student.attentions[s], teacher.attentions[t], mask) for s, t in self.attention_map]
            terms["attention"] = args.attention_weight * torch.stack(losses).mean()
        if args.relation_weight:
            losses = [
                relation_loss(one, other, self.relation_heads, mask)
                for s, t in self.relation_map
                for one, other in zip(student.vectors[s], teacher.vectors[t], strict=True)
            ]
            terms["relation"] = args.relation_weight * torch.stack(losses).mean()
        return terms

    def _soft_targets(self, name: str, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        temperature = self.args.temperature
        if name in ("start_logits", "end_logits"):
            # A distribution over the tokens of the text. Padding's logits stay finite when divided by the temperature.
            lowest = torch.finfo(torch.float32).min * min(1.0, temperature)
            padding = mask == 0
            student, teacher = (z.float().masked_fill(padding, lowest) for z in (student, teacher))
            return soft_target_loss(student, teacher, temperature, None)
        # Without labels nothing has told the model that its one output is a value.
        if self.config.problem_type == "regression" or student.shape[-1] == 1:
            return nn.functional.mse_loss(student.float(), teacher.float())
        if self.config.problem_type == "multi_label_classification":
            return binary_soft_target_loss(student, teacher, temperature)
        return soft_target_loss(student, teacher, temperature, mask if student.dim() == 3 else None)


def _check_same_head(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    ours, theirs = (type(model).__name__ for model in (student, teacher))
    if ours.partition("For")[2] != theirs.partition("For")[2]:
        raise ValueError(
            f"The student is a {ours}, the teacher a {theirs}: their logits differ in kind. Take a teacher with the "
            f"same head, or set `kd_loss_weight=0`."
        )


def _check_same_labels(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    if student.config.vocab_size != teacher.config.vocab_size:
        raise ValueError(
            f"The student has `vocab_size` {student.config.vocab_size}, the teacher {teacher.config.vocab_size}: both "
            f"must read the same tokens. Prune the vocabulary of both, or of the student when it is finished."
        )
    ours, theirs = (dict(model.config.id2label or {}) for model in (student, teacher))
    if len(ours) != len(theirs):
        raise ValueError(
            f"The student has the labels {list(ours.values())[:10]}, the teacher {list(theirs.values())[:10]}: take a "
            f"teacher that was fine-tuned on this task."
        )
    named = all(label_names(model.config) is not None for model in (student, teacher))
    if named and ours != theirs:
        raise ValueError(f"The student's labels are {ours}, the teacher's {theirs}: they must agree in name and order.")


def _check_map(name: str, pairs: LayerMap, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    checked = []
    for pair in pairs:
        ok = len(pair) == 2 and 0 <= pair[0] <= student_layers and 0 <= pair[1] <= teacher_layers
        if not ok or (name == "relation_map" and 0 in pair):
            raise ValueError(
                f"`{name}` must pair a student layer up to {student_layers} with a teacher layer up to "
                f"{teacher_layers}, counted from 1, got {list(pair)}."
            )
        checked.append((pair[0], pair[1]))
    return checked


def _relation_heads(
    wanted: int | None, student: PreTrainedModel, teacher: PreTrainedModel, pairs: Sequence[tuple[int, int]]
) -> int:
    ours, theirs = layer_shapes(student.config), layer_shapes(teacher.config)
    widths = [ours[s - 1].heads * ours[s - 1].head_size for s, _ in pairs]
    widths += [theirs[t - 1].heads * theirs[t - 1].head_size for _, t in pairs]
    if wanted is None:
        return next(heads for heads in range(12, 0, -1) if not any(width % heads for width in widths))
    if wanted < 1 or any(width % wanted for width in widths):
        raise ValueError(f"`relation_heads` must divide the attention widths {sorted(set(widths))}, got {wanted}.")
    return wanted


def distill(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    teacher: str | Path,
    temperature: float = 3.0,
    kd_loss_weight: float = 5.0,
    hard_label_weight: float = 2.0,
    cosine_weight: float = 1.0,
    hidden_state_weight: float = 0.0,
    attention_weight: float = 0.0,
    relation_weight: float = 0.0,
    layer_map: LayerMap | None = None,
    relation_map: LayerMap | None = None,
    relation_heads: int | None = None,
    texts: str | None = None,
    text_rows: int = 20_000,
    teacher_cache: str | Path | None = None,
    learning_rate: float = 2e-5,
    **run_settings: Any,
) -> dict[str, Any]:
    """
    Trains a student on a task with a teacher, and leaves a folder that loads anywhere. Resumable, as [`finetune`] is.

    Args:
        model (`str` or `Path`):
            The student: a folder, for example one that `prune` left.
        task (`str`), output_dir (`str` or `Path`):
            As in [`finetune`].
        teacher (`str` or `Path`):
            A model that was fine-tuned on the task.
        temperature, kd_loss_weight, hard_label_weight, cosine_weight, hidden_state_weight, attention_weight, \
relation_weight, layer_map, relation_map, relation_heads, teacher_cache:
            See [`DistillationConfig`].
        texts (`str`, *optional*):
            Distil on the texts of another task, or of a file, in place of the task's own training rows: more text than
            there are labels for. The labels' weight is then 0; evaluation stays the task's.
        text_rows (`int`, *optional*, defaults to 20,000):
            Use a fixed sample of so many of these texts.
        learning_rate (`float`, *optional*, defaults to 2e-5):
            Peak of AdamW's learning rate; SmBERT's.
        run_settings:
            Further arguments of [`finetune`]; `training_arguments` are those of [`~transformers.TrainingArguments`].

    Returns:
        `dict`: As [`finetune`].

    Raises:
        ValueError: as [`finetune`] and [`DistillationTrainer`], and if student and teacher have different tokenizers.

    Example:

    ```python
    >>> from compactbert.training import distill

    >>> report = distill("my-model", "reviews.csv", "student", teacher="my-model", epochs=1, hidden_state_weight=1.0)
    >>> report["settings"]["teacher"]
    'my-model'

    ```
    """
    if texts is not None:
        hard_label_weight = 0.0
    settings = {
        name: value
        for name, value in locals().items()
        if name not in ("model", "task", "output_dir", "learning_rate", "run_settings")
    }
    own_fields = {field.name for field in fields(DistillationConfig)} - {
        field.name for field in fields(TrainingArguments)
    }
    terms = {name: value for name, value in settings.items() if name in own_fields - {"teacher_cache"}}

    def build_trainer(run: TrainingRun, student: PreTrainedModel) -> DistillationTrainer:
        teacher_model, teacher_tokenizer = load_pretrained(
            teacher, run.task.head, run_settings.get("trust_remote_code", False), require_head=True
        )
        check_same_tokenizer(run.tokenizer, teacher_tokenizer)
        if attention_weight:
            for loaded in (student, teacher_model):
                loaded.set_attn_implementation("eager")
        cache = None if teacher_cache is None else str(teacher_cache)
        config = DistillationConfig(**run.arguments, **terms, teacher_cache=cache)
        return DistillationTrainer(student, teacher_model, config, **run.trainer_arguments)

    # Where the cache lies changes nothing.
    settings.pop("teacher_cache")
    return train_on_task(
        model,
        task,
        output_dir,
        build_trainer,
        settings,
        texts=texts,
        text_rows=text_rows,
        learning_rate=learning_rate,
        **run_settings,
    )


def check_same_tokenizer(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises a `ValueError` if the two do not have the same tokens."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        different = sorted(ours.items() ^ theirs.items(), key=str)[:3]
        raise ValueError(
            f"Student and teacher have different tokenizers ({len(ours)} and {len(theirs)} tokens; they differ in "
            f"{different}): take a student that was made from this teacher, or prune the vocabulary of both."
        )


__all__ = ["DistillationConfig", "DistillationTrainer", "LossTerm", "check_same_tokenizer", "distill"]
