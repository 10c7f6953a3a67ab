"""What every training on a task shares: from a model and a task to a saved folder, resumable, with a report."""

import contextlib
import copy
import difflib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, concatenate_datasets
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback, is_tensorboard_available
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..cards import Publication, render_card
from ..compression import hide_tokens
from ..convert import load_checkpoint
from ..data import Task, data_collator, encode_task, encode_texts, length_limit, load_task, load_texts, score_logits
from ..files import check_free, told_of_full_disk, write_text
from ..provenance import command_line, environment, public_settings
from ..resume import end_moved_run, finished_folder, open_work_dir, work_dir_of


Precision = Literal["auto", "fp32", "bf16", "fp16"]
# A checkpoint (and evaluation) at least so often, so that a killed run loses minutes.
MAX_STEPS_PER_CHECKPOINT = 500
# Steps that measure the time of a step; the first ones are slower than the rest.
TRIAL_STEPS, TRIAL_WARMUP = 10, 2
NOT_SETTINGS = ("build_trainer", "config_class", "made_by", "save", "stage_settings", "task_options")
# Fields of TrainingArguments that arguments of `finetune` decide, or that a run which continues depends on.
DECIDED = {
    "output_dir": "output_dir",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "weight_decay": "weight_decay",
    "warmup_steps": "warmup",
    "bf16": "precision",
    "fp16": "precision",
    "seed": "seed",
    **dict.fromkeys(("eval_strategy", "eval_steps", "save_strategy", "save_steps", "load_best_model_at_end"), ""),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better", "resume_from_checkpoint"), ""),
}


@dataclass
class TrainingRun:
    """A loaded task and model, and what a `Trainer` for them needs."""

    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    # Fields of `TrainingArguments` and what else the Trainer's constructor takes.
    arguments: dict[str, Any]
    trainer_arguments: dict[str, Any]
    nominal_steps: int
    # Names of the weights that the checkpoint did not have.
    new_weights: frozenset[str] = frozenset()


class ResumableTrainer(Trainer):
    """A [`~transformers.Trainer`] that groups rows by length in an order that depends on seed and epoch alone, so that
    a run that continues within an epoch sees the rows that were left. transformers' own sampler draws the order from
    the global random state, which a checkpoint in the middle of an epoch does not bring back (seen in 5.23).

    It also logs the parts of a loss that [`keep_parts`] was given."""

    def __init__(self, model: Any, args: TrainingArguments, **kwargs: Any):
        # What the steps since the last log have made of every part, and how many they are.
        self._parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._steps = 0.0
        use_one_gpu(args)
        super().__init__(model, args, **kwargs)
        self.add_callback(_NothingAfterTheEnd())

    def keep_parts(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Keeps the parts of a batch's loss for the log."""
        # As the Trainer weighs the loss; the last step of an epoch may have fewer batches.
        share = 1 / getattr(self, "current_gradient_accumulation_steps", 1)
        self._steps += share
        for name, value in parts.items():
            self._parts[name].append(share * value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, with the mean of every part since the last time, over all processes; and said on standard
        error, as standard output is for results."""
        if "loss" in logs:
            sums = {f"{name}_loss": torch.stack(values).sum().item() for name, values in self._parts.items()}
            everyone = gather_object([sums])
            for parts in everyone:
                for name, value in parts.items():
                    logs[name] = logs.get(name, 0.0) + value / self._steps / len(everyone)
            self._parts.clear()
            self._steps = 0.0
        with contextlib.redirect_stdout(sys.stderr):
            super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            return _SeededLengthGroupedSampler(sampler.batch_size, lengths=sampler.lengths, seed=self.args.seed)
        return sampler


class _NothingAfterTheEnd(TrainerCallback):
    """A run that continues from its last step makes one more (seen in transformers 5.23), which must change nothing,
    also where the schedule does not end at 0."""

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step >= args.max_steps > 0:
            for group in optimizer.param_groups:
                group["lr"] = 0.0


class _SeededLengthGroupedSampler(LengthGroupedSampler):
    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return super().__iter__()


def train_on_task(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    build_trainer: Callable[[TrainingRun, PreTrainedModel], Trainer],
    stage_settings: dict[str, Any],
    *,
    made_by: Callable[..., Any] | None = None,
    config_class: type[TrainingArguments] = TrainingArguments,
    save: Callable[[Any, PreTrainedTokenizerBase, dict[str, Any], Path], None] | None = None,
    require_head: bool = False,
    texts: str | None = None,
    text_rows: int | None = None,
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
    Trains a model on a task with the Trainer that `build_trainer` makes, and leaves a folder that loads anywhere. See
    [`finetune`] for the settings, the folder and the errors.

    Args:
        build_trainer (callable):
            Makes the Trainer of a run for the given model: the run's own, or a copy on which steps are timed. The
            Trainer's `model` is what is saved.
        stage_settings (`dict`):
            What `build_trainer` depends on, for the report and for recognising an unfinished run.
        made_by (callable, *optional*):
            The function of this package that was called, if it has a command of its name: the report names that.
        config_class (`type`, *optional*, defaults to [`~transformers.TrainingArguments`]):
            What `training_arguments` are fields of.
        save (callable, *optional*):
            What to do with the trained model, its tokenizer, the report and `output_dir`; the default is
            [`save_folder`].
        require_head (`bool`, *optional*, defaults to `False`):
            Refuse a model whose head was not trained.
        texts (`str`, *optional*), text_rows (`int`, *optional*):
            Train on (a fixed sample of) the texts of another task or file, without labels, in place of the task's rows.
    """
    settings = {name: value for name, value in locals().items() if name not in NOT_SETTINGS}
    settings |= stage_settings | task_options
    settings = json.loads(json.dumps(settings, default=str))
    output_dir = Path(output_dir)
    further = dict(training_arguments or {})
    processes = process_count()
    if processes > 1:
        settings["processes"] = processes
        if max_minutes is not None:
            raise ValueError("`max_minutes` is for one process: give several of them `max_steps`.")
    _check_names(further, config_class)
    rows_per_step = batch_size * further.get("gradient_accumulation_steps", 1) * processes
    check_positive(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_steps=max_steps,
        max_minutes=max_minutes,
        early_stopping=early_stopping,
    )
    if not 0 <= subword_dropout < 1:
        raise ValueError(f"`subword_dropout` must be at least 0 and below 1, got {subword_dropout}.")
    resolved = resolve_precision(precision)
    if (report := end_moved_run(output_dir, "metrics.json", settings)) is not None:
        return report
    check_free(output_dir)
    loaded_task = load_task(task, data_dir, **task_options)
    if loaded_task.train is None:
        raise ValueError(f"Task {task!r} has no training split, only {loaded_task.evaluation_split!r}: evaluate on it.")

    set_seed(seed)
    loaded, tokenizer, new_weights = load_checkpoint(
        model, loaded_task.head, trust_remote_code, require_head, **loaded_task.config_fields()
    )
    limit = length_limit(loaded.config, tokenizer, max_length)
    columns = None if texts is None else load_texts(texts, data_dir, max_rows=text_rows)
    train, train_truncated = _encode_training(loaded_task, columns, tokenizer, limit)
    rows_per_epoch = len(train)
    if subword_dropout:
        # The rows of all epochs in one, as an epoch of the Trainer reads the same rows as another.
        seeds = range(seed * 1_000_003, seed * 1_000_003 + math.ceil(epochs))
        hidden = [hide_tokens(tokenizer, subword_dropout, epoch_seed) for epoch_seed in seeds]
        train = concatenate_datasets([_encode_training(loaded_task, columns, one, limit)[0] for one in hidden])
    evaluation, evaluation_truncated = encode_task(loaded_task, loaded_task.evaluation, tokenizer, limit)

    steps_per_epoch = -(-rows_per_epoch // rows_per_step)
    nominal_steps = max(1, round(epochs * steps_per_epoch))
    checkpoint_steps = min(steps_per_epoch, MAX_STEPS_PER_CHECKPOINT)
    work_dir = work_dir_of(output_dir)
    run = TrainingRun(
        task=loaded_task,
        model=loaded,
        tokenizer=tokenizer,
        nominal_steps=nominal_steps,
        new_weights=new_weights,
        arguments={
            **common_arguments(work_dir, resolved, seed),
            "max_steps": min(nominal_steps, max_steps or nominal_steps),
            "learning_rate": learning_rate,
            "per_device_train_batch_size": batch_size,
            "per_device_eval_batch_size": 2 * batch_size,
            "weight_decay": weight_decay,
            "warmup_steps": warmup,
            "train_sampling_strategy": "group_by_length",
            "eval_strategy": "steps",
            "eval_steps": checkpoint_steps,
            "save_steps": checkpoint_steps,
            "save_total_limit": 2,
            "load_best_model_at_end": True,
            # How long early stopping has waited.
            "restore_callback_states_from_checkpoint": True,
            "metric_for_best_model": loaded_task.metrics[0],
            "logging_steps": checkpoint_steps,
            **further,
        },
        trainer_arguments={
            "train_dataset": train,
            "eval_dataset": evaluation,
            "processing_class": tokenizer,
            "data_collator": data_collator(loaded_task, tokenizer),
            "compute_metrics": lambda output: score_logits(loaded_task, output.predictions, output.label_ids),
        },
    )
    # Here, where what fails is what was given, and not a job's own setting.
    try:
        config_class(**run.arguments)
    except TypeError as error:
        raise ValueError(f"`training_arguments` {training_arguments} has a value of a wrong type: {error}") from error
    unfinished = last_complete_checkpoint(work_dir) is not None
    budget = work_dir / "budget.json"
    if max_minutes is not None:
        # Measured once a run: one that continues keeps its number of steps.
        known = unfinished and budget.is_file()
        kept = json.loads(budget.read_text()) if known else _steps_within(max_minutes, run, build_trainer)
        run.arguments["max_steps"] = min(run.arguments["max_steps"], kept)
    # Before the folder is made: a stage whose settings do not fit the model leaves none.
    trainer = build_trainer(run, loaded)
    with trainer.args.main_process_first():
        if trainer.is_world_process_zero():
            # Where the data lies changes nothing.
            open_work_dir(work_dir, {**settings, "data_dir": None}, unfinished)
    if max_minutes is not None:
        write_text(budget, json.dumps(run.arguments["max_steps"]))
    clock = StepClock()
    trainer.add_callback(clock)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            # It writes down where everything is, which does not belong into the finished folder.
            callback.logging_dir = str(output_dir.with_name(f"{output_dir.name}-runs"))
    if early_stopping is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=early_stopping))
    with told_of_full_disk(work_dir):
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(work_dir))
    losses = _curves(trainer.state.log_history, run.arguments["max_steps"])
    scores = trainer.evaluate()
    report = {
        "task": task,
        "split": loaded_task.evaluation_split,
        "metrics": {name: scores[f"eval_{name}"] for name in loaded_task.metrics},
        "rows": {"train": rows_per_epoch, loaded_task.evaluation_split: len(evaluation)},
        "truncated": {"train": train_truncated, loaded_task.evaluation_split: evaluation_truncated},
        # A run that continues from its last step makes one more, which changes nothing.
        "steps": min(trainer.state.global_step, run.arguments["max_steps"]),
        "best_step": trainer.state.best_global_step,
        "seconds_per_step": round(clock.seconds_per_step(), 4),
        "seconds_per_epoch": round(clock.seconds_per_step() * steps_per_epoch, 1),
        "precision": resolved,
        "losses": losses,
        "settings": public_settings(settings),
        "environment": environment(),
    }
    report["task"] = report["settings"]["task"]
    if made_by is not None:
        # How many processes there are is the launcher's to say.
        given = {name: value for name, value in report["settings"].items() if name != "processes"}
        report["command"] = command_line(made_by, given)
    if trainer.is_world_process_zero():
        (save or save_folder)(trainer.model, tokenizer, report, output_dir)
    # With what `save` has added.
    return broadcast_object_list([report])[0]


def last_complete_checkpoint(work_dir: Path) -> str | None:
    """The newest checkpoint whose last file was written; what a kill cut short is removed."""
    complete = []
    for folder in work_dir.glob("checkpoint-*"):
        try:
            complete.append((TrainerState.load_from_json(str(folder / "trainer_state.json")).global_step, folder))
        except (OSError, json.JSONDecodeError):
            # Another process may do so too.
            shutil.rmtree(folder, ignore_errors=True)
    return str(max(complete)[1]) if complete else None


def save_folder(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    report: dict[str, Any],
    output_dir: Path,
    extra_files: Mapping[str, str | bytes] | None = None,
    card: bool = True,
    **save_arguments: Any,
) -> None:
    """Saves a model or adapter with its tokenizer, its report, its card and further files; `output_dir` appears when it
    is complete, and the work folder goes."""
    # The Trainer sets it on every model; an encoder has no cache.
    vars(model.config).pop("use_cache", None)
    with finished_folder(output_dir) as finished:
        model.save_pretrained(finished, **save_arguments)
        tokenizer.save_pretrained(finished)
        for name, content in {"metrics.json": json.dumps(report, indent=2) + "\n", **(extra_files or {})}.items():
            (finished / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if card:
            (finished / "README.md").write_text(render_card(finished, Publication(repo_id=output_dir.name)))


def _check_names(training_arguments: Mapping[str, Any], config_class: type[TrainingArguments]) -> None:
    known = {field.name for field in fields(config_class) if field.init}
    for name, value in training_arguments.items():
        if name in DECIDED:
            remedy = f"use `{DECIDED[name]}`" if DECIDED[name] else "it cannot be changed"
            raise ValueError(f"`{name}` is not for `training_arguments`: {remedy}.")
        if name not in known:
            like = difflib.get_close_matches(name, known, 3)
            raise ValueError(f"There is no training argument {name!r}" + (f": did you mean {like}?" if like else "."))
        if name == "gradient_accumulation_steps" and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"`{name}` must be at least 1, got {value!r}.")
        if name == "report_to" and "tensorboard" in value and not is_tensorboard_available():
            raise ValueError('`report_to` "tensorboard" needs a library: run `pip install "compactbert[tensorboard]"`.')


def check_positive(**given: float | None) -> None:
    """Raises a `ValueError` that names the argument that is given and not positive."""
    for name, value in given.items():
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be positive, got {value}.")


def resolve_precision(precision: Precision) -> Literal["fp32", "bf16", "fp16"]:
    """
    What `"auto"` is here: bf16 where the hardware computes in it.

    Raises:
        ValueError: for none of the four.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"`precision` must be one of {get_args(Precision)}, got {precision!r}.")
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bf16() else "fp32"


def common_arguments(work_dir: Path, precision: str, seed: int) -> dict[str, Any]:
    """Fields of `TrainingArguments` that are the same in every run of this package on this machine."""
    return {
        "output_dir": str(work_dir),
        "save_strategy": "steps",
        "seed": seed,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        # The Trainer refuses bf16 on a processor unless it is told that a processor is meant.
        "use_cpu": not torch.accelerator.is_available(),
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
    }


def process_count() -> int:
    """How many processes train together, as `accelerate launch` and `torchrun` say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def use_one_gpu(args: TrainingArguments) -> None:
    """Without a launcher transformers takes all GPUs (`torch.nn.DataParallel`, seen in 5.23), each with a batch of the
    size that was asked for and is reported for one."""
    args._n_gpu = min(1, args.n_gpu)


def _encode_training(
    task: Task, columns: list[list[Any]] | None, tokenizer: PreTrainedTokenizerBase, limit: int
) -> tuple[Dataset, int]:
    """Texts without labels, if there are any, in place of the task's rows; as [`~compactbert.data.encode_task`]."""
    if columns is None:
        return encode_task(task, task.train, tokenizer, limit)
    features, _, truncated = encode_texts(columns, tokenizer, limit)
    return Dataset.from_list([feature | {"length": len(feature["input_ids"])} for feature in features]), truncated


def _steps_within(
    max_minutes: float, run: TrainingRun, build_trainer: Callable[[TrainingRun, PreTrainedModel], Trainer]
) -> int:
    """How many steps fit into the time, from a few steps of a copy."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = run.arguments | {"output_dir": scratch, "max_steps": TRIAL_STEPS, "load_best_model_at_end": False}
        arguments |= dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "no")
        arguments["report_to"] = "none"
        # A schedule that watches evaluations needs some; the time of a step does not depend on it.
        for name in ("lr_scheduler_type", "lr_scheduler_kwargs", "torch_scheduler"):
            arguments.pop(name, None)
        trial = build_trainer(replace(run, arguments=arguments), copy.deepcopy(run.model))
        clock = StepClock()
        trial.add_callback(clock)
        trial.train()
    durations = clock.durations[TRIAL_WARMUP:]
    return max(1, int(60 * max_minutes * len(durations) / sum(durations)))


def _curves(history: list[dict[str, float]], max_steps: int) -> list[dict[str, float]]:
    """What was logged at every step, without the time that it took."""
    timed = ("_runtime", "_per_second", "epoch", "grad_norm", "_flos")
    entries = ({key: value for key, value in entry.items() if not key.endswith(timed)} for entry in history)
    return [entry for entry in entries if entry["step"] <= max_steps and {"loss", "eval_loss"} & entry.keys()]


def computes_in_bf16() -> bool:
    """Whether the hardware does."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class StepClock(TrainerCallback):
    """Times the training steps alone, without evaluations and checkpoints."""

    def __init__(self):
        self.durations: list[float] = []
        self.started = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Stops the clock."""
        self.durations.append(time.perf_counter() - self.started)

    def seconds_per_step(self) -> float:
        """Mean over the steps of this process; 0 if it made none."""
        return sum(self.durations) / max(len(self.durations), 1)


__all__ = [
    "MAX_STEPS_PER_CHECKPOINT",
    "Precision",
    "ResumableTrainer",
    "StepClock",
    "TrainingRun",
    "check_positive",
    "common_arguments",
    "computes_in_bf16",
    "last_complete_checkpoint",
    "process_count",
    "resolve_precision",
    "save_folder",
    "train_on_task",
    "use_one_gpu",
]
