"""Fine-tuning on a task: the plain way to a finished model, and the first stage of every other."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from .run import Precision, ResumableTrainer, TrainingRun, train_on_task


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
            `output_dir` is taken, or `<output_dir>.partial` belongs to a run with other arguments.
    """

    def build_trainer(run: TrainingRun, loaded: PreTrainedModel) -> ResumableTrainer:
        return ResumableTrainer(loaded, TrainingArguments(**run.arguments), **run.trainer_arguments)

    return train_on_task(
        model,
        task,
        output_dir,
        build_trainer,
        {},
        made_by=finetune,
        data_dir=data_dir,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_length=max_length,
        max_steps=max_steps,
        max_minutes=max_minutes,
        weight_decay=weight_decay,
        warmup=warmup,
        early_stopping=early_stopping,
        precision=precision,
        seed=seed,
        trust_remote_code=trust_remote_code,
        **task_options,
    )


__all__ = ["finetune"]
