"""Fine-tuning on a task: the plain way to a finished model, and the first stage of every other."""

import json
import shutil
import time
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import TrainerState

from ..convert import load_pretrained
from ..data import data_collator, encode_task, length_limit, load_task, score_logits
from ..files import write_text


Precision = Literal["auto", "fp32", "bf16", "fp16"]
# A checkpoint (and evaluation) at least so often, so that a killed run loses minutes.
MAX_STEPS_PER_CHECKPOINT = 500


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
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    early_stopping: int | None = None,
    precision: Precision = "auto",
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
            A folder or a Hub repository, or `"minilm"`. BERT and MobileBERT of transformers become our classes.
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
        weight_decay (`float`, *optional*, defaults to 0.01):
            AdamW's weight decay.
        warmup (`float`, *optional*, defaults to 0.1):
            Share of the steps over which the learning rate rises.
        early_stopping (`int`, *optional*):
            Stop when the task's first metric has not improved for so many evaluations. The best checkpoint is kept in
            any case.
        precision (`"auto"`, `"fp32"`, `"bf16"` or `"fp16"`, *optional*, defaults to `"auto"`):
            Mixed precision; `"auto"` is bf16 where the hardware computes in it.
        seed (`int`, *optional*, defaults to 42):
            Seed of the new head's weights, of dropout and of the order of rows.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own.
        task_options:
            Further arguments of [`~compactbert.data.load_task`].

    Returns:
        `dict`: what is written to `metrics.json`: `metrics` of the best checkpoint, `truncated` rows per split,
        `seconds_per_epoch` (training steps alone), `settings`, ...

    Raises:
        ValueError: if an argument is out of range, the model or task cannot be read, the task has no training split,
            `output_dir` is taken, or
            `<output_dir>.partial` belongs to a run with other arguments.
    """
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in locals().items()}
    settings.pop("task_options")
    settings |= task_options
    _check_ranges(epochs, learning_rate, batch_size, early_stopping, precision)
    _check_free(Path(output_dir))
    loaded_task = load_task(task, data_dir, **task_options)
    if loaded_task.train is None:
        raise ValueError(f"Task {task!r} has no training split, only {loaded_task.evaluation_split!r}: evaluate on it.")

    set_seed(seed)
    loaded, tokenizer = load_pretrained(model, loaded_task.head, trust_remote_code, **loaded_task.config_fields())
    limit = length_limit(loaded.config, tokenizer, max_length)
    train, train_truncated = encode_task(loaded_task, loaded_task.train, tokenizer, limit)
    evaluation, evaluation_truncated = encode_task(loaded_task, loaded_task.evaluation, tokenizer, limit)

    work_dir = _open_work_dir(Path(output_dir), settings)
    if precision == "auto":
        precision = "bf16" if _computes_in_bf16() else "fp32"
    steps_per_epoch = -(-len(train) // batch_size)
    checkpoint_steps = min(steps_per_epoch, MAX_STEPS_PER_CHECKPOINT)
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2 * batch_size,
        weight_decay=weight_decay,
        warmup_steps=warmup,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=checkpoint_steps,
        save_strategy="steps",
        save_steps=checkpoint_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=loaded_task.metrics[0],
        logging_steps=checkpoint_steps,
        seed=seed,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
    )
    clock = StepClock()
    callbacks: list[TrainerCallback] = [clock]
    if early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=early_stopping))
    trainer = Trainer(
        model=loaded,
        args=arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        data_collator=data_collator(loaded_task, tokenizer),
        compute_metrics=lambda output: score_logits(loaded_task, output.predictions, output.label_ids),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=_last_complete_checkpoint(work_dir))
    scores = trainer.evaluate()
    report = {
        "task": task,
        "split": loaded_task.evaluation_split,
        "metrics": {name: scores[f"eval_{name}"] for name in loaded_task.metrics},
        "rows": {"train": len(train), loaded_task.evaluation_split: len(evaluation)},
        "truncated": {"train": train_truncated, loaded_task.evaluation_split: evaluation_truncated},
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "seconds_per_epoch": round(clock.seconds_per_step() * steps_per_epoch, 1),
        "precision": precision,
        "settings": settings,
    }
    _publish(loaded, tokenizer, report, work_dir, Path(output_dir))
    return report


def _check_ranges(
    epochs: float, learning_rate: float, batch_size: int, early_stopping: int | None, precision: Precision
) -> None:
    for name, value in (("epochs", epochs), ("learning_rate", learning_rate), ("batch_size", batch_size)):
        if value <= 0:
            raise ValueError(f"`{name}` must be positive, got {value}.")
    if early_stopping is not None and early_stopping < 1:
        raise ValueError(f"`early_stopping` must be at least 1 evaluation, got {early_stopping}.")
    if precision not in get_args(Precision):
        raise ValueError(f"`precision` must be one of {get_args(Precision)}, got {precision!r}.")


def _check_free(output_dir: Path) -> None:
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{str(output_dir)!r} exists: choose another `output_dir`, or remove it.")


def _open_work_dir(output_dir: Path, settings: dict[str, Any]) -> Path:
    """The folder of an unfinished run: made, or taken up again if its settings are these."""
    work_dir = output_dir.with_name(f"{output_dir.name}.partial")
    record = work_dir / "settings.json"
    # As they come back from the record: a tuple is a list there.
    settings = json.loads(json.dumps(settings))
    if _last_complete_checkpoint(work_dir) is not None and record.is_file():
        earlier = json.loads(record.read_text())
        different = sorted(key for key in earlier.keys() | settings if earlier.get(key) != settings.get(key))
        if different:
            changes = ", ".join(f"`{key}` was {earlier.get(key)!r}, is {settings.get(key)!r}" for key in different)
            raise ValueError(
                f"{str(work_dir)!r} holds an unfinished run with other settings ({changes}): call it with the earlier "
                f"ones to continue, or remove that folder to start afresh."
            )
        return work_dir
    write_text(record, json.dumps(settings, indent=2))
    return work_dir


def _last_complete_checkpoint(work_dir: Path) -> str | None:
    """The newest checkpoint whose last file was written; what a kill cut short is removed."""
    complete = []
    for folder in work_dir.glob("checkpoint-*"):
        try:
            complete.append((TrainerState.load_from_json(str(folder / "trainer_state.json")).global_step, folder))
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(folder)
    return str(max(complete)[1]) if complete else None


def _computes_in_bf16() -> bool:
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


def _publish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    report: dict[str, Any],
    work_dir: Path,
    output_dir: Path,
) -> None:
    finished = work_dir / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    # The Trainer sets it on every model; an encoder has no cache.
    vars(model.config).pop("use_cache", None)
    model.save_pretrained(finished)
    tokenizer.save_pretrained(finished)
    (finished / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    finished.replace(output_dir)
    shutil.rmtree(work_dir)


__all__ = ["finetune"]
