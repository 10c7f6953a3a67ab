"""Fine-tuning on a task: the plain way to a finished model, and the first stage of every other; with what the Trainer
does not have: layers that learn later, slower or not at all, classes that count alike, adversarial training, R-Drop,
rounding as in int8."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.optimization import get_scheduler

from ..compression import zero_weights
from ..data import IGNORED_LABEL
from ..structure import layers_of
from .adversarial import Method, adversarial_step
from .losses import consistency_loss
from .pretraining import Optimizer, lamb
from .quantization import cut_relus, emulate_int8
from .run import Precision, ResumableTrainer, TrainingRun, check_positive, train_on_task


# Those that need no functions or other schedules.
TORCH_SCHEDULERS: tuple[str, ...] = ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR")
TORCH_SCHEDULERS += ("CyclicLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "ReduceLROnPlateau")
CLASSES = ("single_label_classification", "token_classification")


@dataclass
class FinetuningConfig(TrainingArguments):
    """
    Settings of [`FinetuningTrainer`]: those of [`~transformers.TrainingArguments`], and what follows. The defaults are
    plain fine-tuning.

    Args:
        optimizer (`"adamw"` or `"lamb"`, *optional*, defaults to `"adamw"`):
            `"adamw"` is whatever `optim` says; `"lamb"` needs the extra `lamb`.
        torch_scheduler (`str`, *optional*):
            A class of `torch.optim.lr_scheduler`, such as `"StepLR"`, in place of `lr_scheduler_type` and of its
            warm-up; `lr_scheduler_kwargs` are its arguments, in optimizer steps.
        freeze_layers (`int`, *optional*):
            The embeddings and so many of the lowest layers do not learn; 0 are the embeddings alone.
        unfreeze_steps (`int`, *optional*):
            In the beginning the head alone learns, and another layer, from the top, after every so many steps; the
            embeddings come last.
        layer_decay (`float`, *optional*, defaults to 1.0):
            Every layer's learning rate is so many times that of the one above it; the head has the full one.
        class_weights (`"balanced"` or list of `float`, *optional*):
            Weights of the classes in the loss; `"balanced"` makes all classes count alike.
        balanced_sampling (`bool`, *optional*, defaults to `False`):
            Draw rows with replacement, so that every class is as frequent as another.
        adversarial (`"fgm"` or `"freelb"`, *optional*):
            Train on disturbed embeddings too; see [`~compactbert.training.adversarial.adversarial_step`].
        adversarial_epsilon (`float`, *optional*, defaults to 1e-3):
            Length of a row's disturbance.
        adversarial_steps (`int`, *optional*, defaults to 3):
            FreeLB's steps.
        adversarial_step_size (`float`, *optional*):
            Length of FreeLB's steps; the default is half of `adversarial_epsilon`.
        r_drop (`float`, *optional*, defaults to 0.0):
            Weight of the divergence between two passes that differ in dropout; a pass more for every batch.
        sparsity (`float`, *optional*, defaults to 0.0):
            Share of every matrix of the layers that is zero from the start and stays so; see
            [`~compactbert.compression.zero_weights`].
        structured_sparsity (`bool`, *optional*, defaults to `False`):
            Zero whole rows.
        quantization_aware (`bool`, *optional*, defaults to `False`):
            Train and evaluate the model as its int8 export computes; what is saved is a plain model. See
            [`~compactbert.training.quantization.emulate_int8`].
        relu6 (`bool`, *optional*, defaults to `False`):
            Replace ReLU by ReLU6, in the configuration too.

    Raises:
        ValueError: for a value out of range, or a schedule that there is not.

    Example:

    ```python
    >>> from compactbert.training import FinetuningConfig

    >>> FinetuningConfig(output_dir="run", layer_decay=0.9, class_weights="balanced").layer_decay
    0.9

    ```
    """

    optimizer: str = field(default="adamw", metadata={"help": "adamw or lamb."})
    torch_scheduler: str | None = field(default=None, metadata={"help": "A class of torch.optim.lr_scheduler."})
    freeze_layers: int | None = field(default=None, metadata={"help": "So many lowest layers do not learn."})
    unfreeze_steps: int | None = field(default=None, metadata={"help": "Steps until another layer learns."})
    layer_decay: float = field(default=1.0, metadata={"help": "Learning rate of a layer over that of the next."})
    class_weights: Any = field(default=None, metadata={"help": "balanced, or a weight for every class."})
    balanced_sampling: bool = field(default=False, metadata={"help": "Draw all classes alike."})
    adversarial: str | None = field(default=None, metadata={"help": "fgm or freelb."})
    adversarial_epsilon: float = field(default=1e-3, metadata={"help": "Length of a row's disturbance."})
    adversarial_steps: int = field(default=3, metadata={"help": "FreeLB's steps."})
    adversarial_step_size: float | None = field(default=None, metadata={"help": "Length of FreeLB's steps."})
    r_drop: float = field(default=0.0, metadata={"help": "Weight of R-Drop's divergence."})
    sparsity: float = field(default=0.0, metadata={"help": "Share of the layers' weights that is zero."})
    structured_sparsity: bool = field(default=False, metadata={"help": "Zero whole rows."})
    quantization_aware: bool = field(default=False, metadata={"help": "Compute as int8 does."})
    relu6: bool = field(default=False, metadata={"help": "ReLU6 in place of ReLU."})

    def __post_init__(self):
        super().__post_init__()
        choices = (("optimizer", get_args(Optimizer)), ("adversarial", (None, *get_args(Method))))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}.")
        positive = ("layer_decay", "adversarial_epsilon", "adversarial_steps", "adversarial_step_size")
        check_positive(**{name: getattr(self, name) for name in positive})
        for name, least in (("freeze_layers", 0), ("unfreeze_steps", 1), ("r_drop", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"`sparsity` must be at least 0 and below 1, got {self.sparsity}.")
        if self.torch_scheduler not in (None, *TORCH_SCHEDULERS):
            raise ValueError(f"`torch_scheduler` must be one of {TORCH_SCHEDULERS}, got {self.torch_scheduler!r}.")
        if self.torch_scheduler in ("CyclicLR", "OneCycleLR") and self.layer_decay != 1:
            raise ValueError(f"`torch_scheduler` {self.torch_scheduler!r} sets every layer's rate: no `layer_decay`.")
        if self.lr_scheduler_type == "reduce_lr_on_plateau" or self.torch_scheduler == "ReduceLROnPlateau":
            # What a plateau is depends on the metric, and torch takes it for a loss.
            options: Any = self.lr_scheduler_kwargs or {}
            self.lr_scheduler_kwargs = {"mode": "max" if self.greater_is_better else "min"} | options


class FinetuningTrainer(ResumableTrainer):
    """
    A [`~transformers.Trainer`] with the settings of [`FinetuningConfig`].

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model with a head.
        args ([`FinetuningConfig`]):
            Settings.
        problem (`str`, *optional*):
            What labels mean; see [`~compactbert.data.Task`]. Class weights, balanced sampling and R-Drop need classes.
        kwargs:
            Further arguments of [`~transformers.Trainer`].

    Raises:
        ValueError: if the settings do not fit the model, the problem or the schedule.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import data_collator, encode_task, load_task
    >>> from compactbert.training import FinetuningConfig, FinetuningTrainer

    >>> model, tokenizer = load_pretrained("my-model", "ForSequenceClassification")
    >>> task = load_task("reviews.csv")
    >>> rows, _ = encode_task(task, task.train, tokenizer, max_length=32)
    >>> args = FinetuningConfig(output_dir="run", max_steps=2, r_drop=0.5, report_to="none")
    >>> trainer = FinetuningTrainer(model, args, train_dataset=rows, data_collator=data_collator(task, tokenizer))
    >>> trainer.train().global_step
    2

    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: FinetuningConfig,
        problem: str = "single_label_classification",
        **kwargs: Any,
    ):
        for name in ("class_weights", "balanced_sampling", "r_drop"):
            needed = CLASSES[:1] if name == "balanced_sampling" else CLASSES
            if getattr(args, name) and problem not in needed:
                raise ValueError(f"`{name}` needs one of the problems {needed}, and this is {problem!r}.")
        _check_schedule(args)
        if args.optimizer == "lamb":
            options = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
            kwargs["optimizer_cls_and_kwargs"] = lamb(), {"lr": args.learning_rate} | options
        self.depths = dict(_depths(model))
        if args.freeze_layers is not None:
            self._freeze(args.freeze_layers, len(layers_of(model)))
        if args.relu6:
            cut_relus(model)
        if args.quantization_aware:
            emulate_int8(model)
        masks = zero_weights(model, args.sparsity, args.structured_sparsity) if args.sparsity else {}
        self.class_weights = None
        if args.class_weights is not None:
            self.class_weights = _class_weights(args.class_weights, kwargs["train_dataset"]["labels"], model.config)
            kwargs["compute_loss_func"] = self._weighted_loss
        # What is left to do of an adversarial batch's loss, see `adversarial_step`.
        self._share = 1.0
        super().__init__(model, args, **kwargs)
        if problem not in CLASSES:
            # Such losses are means over a batch, whatever number of rows they are told (seen in transformers 5.23).
            self.loss_is_scaled_for_ga = False
        if masks:
            self.add_callback(_KeepZeros(masks))
        if args.unfreeze_steps is not None:
            self.add_callback(_Unfreeze(self.depths, args.unfreeze_steps))

    def _freeze(self, count: int, most: int) -> None:
        if count > most:
            raise ValueError(f"`freeze_layers` must be at most the model's {most} layers, got {count}.")
        for parameter, depth in self.depths.items():
            if depth <= count:
                parameter.requires_grad = False

    def create_optimizer(self, model: Any = None) -> Any:
        """As the Trainer's, with a learning rate for every layer."""
        if self.optimizer is None:
            optimizer: Any = super().create_optimizer(model)
            args: Any = self.args
            if args.layer_decay != 1:
                top = max(self.depths.values())
                groups = list(optimizer.param_groups)
                optimizer.param_groups.clear()
                for group in groups:
                    for depth in range(top + 1):
                        parameters = [p for p in group["params"] if self.depths[p] == depth]
                        rate = args.learning_rate * args.layer_decay ** (top - depth)
                        if parameters:
                            optimizer.add_param_group(group | {"params": parameters, "lr": rate})
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As the Trainer's, or one of torch's."""
        args: Any = self.args
        if self.lr_scheduler is None and args.torch_scheduler is not None:
            self.lr_scheduler = _schedule(args, optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.args.balanced_sampling:  # type: ignore[attr-defined]
            dataset: Any = self.train_dataset if train_dataset is None else train_dataset
            return _BalancedSampler(dataset["labels"][:], self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As the Trainer's, or several times with disturbed embeddings."""
        args: Any = self.args
        plain_step = super().training_step
        if args.adversarial is None:
            return plain_step(model, inputs, num_items_in_batch)

        def backward(share: float) -> Tensor:
            self._share = share
            try:
                return plain_step(model, dict(inputs), num_items_in_batch)
            finally:
                self._share = 1.0

        embeddings = self.accelerator.unwrap_model(model).get_input_embeddings()
        step_size = args.adversarial_step_size or args.adversarial_epsilon / 2
        return adversarial_step(
            backward, embeddings, args.adversarial, args.adversarial_epsilon, args.adversarial_steps, step_size
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As the Trainer's; while training, of two passes with R-Drop."""
        weight = self.args.r_drop  # type: ignore[attr-defined]
        if not model.training or not weight:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        else:
            kept = inputs["labels"] != IGNORED_LABEL
            items = kept.sum() if num_items_in_batch is None else num_items_in_batch
            # Both passes in one: rows twice.
            twice = {name: torch.cat([value, value]) for name, value in inputs.items()}
            loss, outputs = super().compute_loss(model, twice, True, 2 * items)
            one, other = outputs["logits"].chunk(2)
            divergence = (consistency_loss(one, other) * kept).sum() / items
            # As the Trainer does with a loss over the items of all processes, whose gradients are then averaged.
            shared = num_items_in_batch is not None and self.args.average_tokens_across_devices
            loss = loss + weight * divergence * (self.accelerator.num_processes if shared else 1)
        loss = loss * self._share
        return (loss, outputs) if return_outputs else loss

    def _weighted_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """Cross entropy with class weights, whose mean over the training rows is 1 if they are balanced."""
        assert self.class_weights is not None
        logits = outputs["logits"].flatten(0, -2).float()
        summed = nn.functional.cross_entropy(
            logits,
            labels.flatten(),
            self.class_weights.to(logits.device),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
            label_smoothing=self.args.label_smoothing_factor,
        )
        return summed / ((labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch)


def _depths(model: PreTrainedModel) -> Iterator[tuple[nn.Parameter, int]]:
    """How far every parameter is from the input: 0 in the embeddings, then a number for every layer, and the next for
    all above them."""
    layers = layers_of(model)
    embeddings: Any = model.base_model.embeddings
    lower = [*embeddings.parameters()]
    found = dict.fromkeys(lower, 0) | {p: i + 1 for i, layer in enumerate(layers) for p in layer.parameters()}
    for parameter in model.parameters():
        yield parameter, found.get(parameter, len(layers) + 1)


def _class_weights(given: Any, labels: Any, config: Any) -> Tensor:
    if given == "balanced":
        flat = torch.tensor([i for row in labels for i in (row if isinstance(row, list) else [row])])
        counts = torch.bincount(flat[flat != IGNORED_LABEL], minlength=config.num_labels)
        # The weight of a class that never occurs is never used.
        return counts.sum() / counts.count_nonzero() / counts.clamp_min(1)
    weights = torch.tensor(given, dtype=torch.float) if isinstance(given, list | tuple) else torch.zeros(0)
    if weights.shape != (config.num_labels,) or (weights < 0).any():
        names = list(config.id2label.values())
        raise ValueError(f"`class_weights` must be 'balanced' or a weight for each of {names}, got {given!r}.")
    return weights


class _BalancedSampler(Sampler):
    """As many rows as there are, each class equally likely; the order depends on seed and epoch alone."""

    def __init__(self, labels: Any, seed: int):
        labels = torch.tensor(list(labels))
        self.weights = 1.0 / torch.bincount(labels)[labels]
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()


class _Unfreeze(TrainerCallback):
    """Lets more layers learn as steps go by. Frozen after the optimizer has taken all parameters that will learn."""

    def __init__(self, depths: Mapping[nn.Parameter, int], every: int):
        self.depths = {parameter: depth for parameter, depth in depths.items() if parameter.requires_grad}
        self.top, self.every = max(depths.values()), every

    def on_step_begin(self, args, state, control, **kwargs):
        lowest = self.top - state.global_step // self.every
        for parameter, depth in self.depths.items():
            parameter.requires_grad = depth >= lowest


class _KeepZeros(TrainerCallback):
    """What was zero is zero after a step of the optimizer too."""

    def __init__(self, masks: Mapping[nn.Parameter, Tensor]):
        self.masks = masks

    def on_optimizer_step(self, args, state, control, **kwargs):
        with torch.no_grad():
            for weight, mask in self.masks.items():
                weight.mul_(mask.to(weight.device))


def _schedule(args: FinetuningConfig, optimizer: Any, num_steps: int) -> Any:
    options: Any = args.lr_scheduler_kwargs or {}
    if args.torch_scheduler is not None:
        return getattr(lr_scheduler, args.torch_scheduler)(optimizer, **options)
    return get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(num_steps), num_steps, options)


def _check_schedule(args: FinetuningConfig) -> None:
    """Raises a `ValueError` for a schedule that cannot be made, before anything is trained."""
    try:
        _schedule(args, torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=args.learning_rate), 100)
    except (TypeError, ValueError) as error:
        name = args.torch_scheduler or args.lr_scheduler_type
        raise ValueError(f"`lr_scheduler_kwargs` {args.lr_scheduler_kwargs} do not fit {name!r}: {error}") from error


def finetune(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    data_dir: str | Path | None = None,
    epochs: float = 3.0,
    learning_rate: float = 5e-5,
    batch_size: int = 32,
    max_length: int = 128,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    subword_dropout: float = 0.0,
    early_stopping: int | None = None,
    precision: Precision = "auto",
    training_arguments: Mapping[str, Any] | None = None,
    seed: int = 42,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Fine-tunes a model on a task and leaves a folder that loads anywhere with `trust_remote_code=True`.

    Checkpoints go to `<output_dir>.partial`. A run that was killed continues there when it is called again with the
    same arguments and ends with the weights of an uninterrupted one; `output_dir` appears when it is complete.

    Args:
        model (`str` or `Path`):
            A folder or a Hub repository, or `"minilm"`. Encoders that [`~compactbert.convert.from_transformers`] knows
            become our classes.
        task (`str`):
            See [`~compactbert.data.load_task`].
        output_dir (`str` or `Path`):
            Where to write the model, tokenizer and `metrics.json`. Must not exist, or be empty.
        data_dir (`str` or `Path`, *optional*):
            Folder of datasets; the default is the environment variable `COMPACTBERT_DATA`.
        epochs (`float`, *optional*, defaults to 3.0):
            Passes over the training split.
        learning_rate (`float`, *optional*, defaults to 5e-5):
            Peak of AdamW's learning rate, which falls linearly to zero.
        batch_size (`int`, *optional*, defaults to 32):
            Rows per step.
        max_length (`int`, *optional*, defaults to 128):
            Longest input in tokens; how many rows were longer is logged and reported.
        max_steps (`int`, *optional*):
            Stop after so many steps, over which the learning rate then falls to zero.
        max_minutes (`float`, *optional*):
            Stop after so many steps as fit into this time, measured on a few steps at the start.
        weight_decay (`float`, *optional*, defaults to 0.01):
            AdamW's weight decay.
        warmup (`float`, *optional*, defaults to 0.1):
            Share of the steps over which the learning rate rises.
        subword_dropout (`float`, *optional*, defaults to 0.0):
            Share of the tokens that training rows do without, others in every epoch, so that a model learns to read
            words that it has no token for; see [`~compactbert.compression.hide_tokens`]. Keeps the rows of all epochs.
        early_stopping (`int`, *optional*):
            Stop when the task's first metric has not improved for so many evaluations. The best checkpoint is kept in
            any case.
        precision (`"auto"`, `"fp32"`, `"bf16"` or `"fp16"`, *optional*, defaults to `"auto"`):
            Mixed precision; `"auto"` is bf16 where the hardware computes in it.
        training_arguments (`dict`, *optional*):
            Further fields of [`FinetuningConfig`], which has all of [`~transformers.TrainingArguments`], such as
            `{"lr_scheduler_type": "cosine", "gradient_accumulation_steps": 4, "layer_decay": 0.9}`. Curves for
            TensorBoard (`"report_to": "tensorboard"`) go to `<output_dir>-runs`.
        seed (`int`, *optional*, defaults to 42):
            Seed of the new head's weights, of dropout, of hidden tokens and of the order of rows.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own.
        task_options:
            Further arguments of [`~compactbert.data.load_task`].

    Returns:
        `dict`: what is written to `metrics.json`: `metrics` of the best checkpoint, `truncated` rows per split,
        `seconds_per_epoch` (training steps alone), `settings`, ...

    Raises:
        ValueError: if an argument is out of range, the model or task cannot be read, the task has no training split,
            `output_dir` is taken, `training_arguments` has an unknown field or a wrong value, or
            `<output_dir>.partial` belongs to a run with other arguments.

    Example:

    ```python
    >>> import compactbert

    >>> report = compactbert.finetune("my-bert", "reviews.csv", "reviews-model", epochs=1, max_length=32)
    >>> list(report["metrics"])
    ['accuracy', 'macro_f1']

    ```
    """

    def build_trainer(run: TrainingRun, loaded: PreTrainedModel) -> FinetuningTrainer:
        return FinetuningTrainer(loaded, FinetuningConfig(**run.arguments), run.task.problem, **run.trainer_arguments)

    return train_on_task(
        model,
        task,
        output_dir,
        build_trainer,
        {},
        made_by=finetune,
        config_class=FinetuningConfig,
        data_dir=data_dir,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_length=max_length,
        max_steps=max_steps,
        max_minutes=max_minutes,
        weight_decay=weight_decay,
        warmup=warmup,
        subword_dropout=subword_dropout,
        early_stopping=early_stopping,
        precision=precision,
        training_arguments=training_arguments,
        seed=seed,
        trust_remote_code=trust_remote_code,
        **task_options,
    )


__all__ = ["FinetuningConfig", "FinetuningTrainer", "finetune"]
