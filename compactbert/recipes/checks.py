"""What can be known to be wrong before hours of work: sizes, data, shapes and the given model's labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from ..benchmark import Shape
from ..convert import CONVERTIBLE
from ..data import Task, load_task, load_texts
from ..structure import FAMILIES, label_names
from .recipe import TASK_SETTINGS
from .stages import Stage, count_of


# Shapes at which latency is measured, if none are given.
DEFAULT_ROWS, DEFAULT_LENGTH = (1, 32), 128


def check_data(task: str, chains: Sequence[Sequence[Stage]], data_dir: str | Path | None, **task_options: Any) -> Task:
    """Reads the job's task and what stages need beside it."""
    loaded = load_task(task, data_dir, **task_options)
    if loaded.train is None:
        raise ValueError(f"Task {task!r} has no training split, only {loaded.evaluation_split!r}.")
    for stage in (stage for chain in chains for stage in chain):
        try:
            if "task" in stage.settings:
                options = {name: stage.settings[name] for name in TASK_SETTINGS if name in stage.settings}
                load_task(stage.settings["task"], data_dir, **options)
            if "texts" in stage.settings:
                load_texts(stage.settings["texts"], data_dir)
        except ValueError as error:
            raise ValueError(
                f"Stage {stage.name!r} of the recipe needs data that cannot be read. {error} Or choose a recipe that "
                f"does without, such as `demo`."
            ) from error
    return loaded


def check_model(
    source: str | Path,
    task: Task,
    chains: Sequence[Sequence[Stage]],
    shapes: Sequence[Shape] | None,
    finetuned: bool,
    trust_remote_code: bool,
) -> list[Shape]:
    """
    Follows the sizes of the model through the stages, from its configuration alone.

    Returns:
        The shapes to measure at: the given ones, or 1 and 32 rows of 128 tokens, or as many as the model takes.

    Raises:
        ValueError: naming the stage that cannot be carried out, and why.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, StrictDataclassError) as error:
        raise ValueError(f"Cannot load {str(source)!r}: {error}") from error
    if config.model_type not in (*FAMILIES, *CONVERTIBLE):
        raise ValueError(
            f"{str(source)!r} is a {config.model_type!r} model: expected one of {sorted((*FAMILIES, *CONVERTIBLE))}."
        )
    length = min(DEFAULT_LENGTH, config.max_position_embeddings)
    chosen = [(rows, length) for rows in DEFAULT_ROWS] if shapes is None else list(shapes)
    for rows, tokens in chosen:
        if tokens > config.max_position_embeddings:
            raise ValueError(
                f"The shape {rows}x{tokens} is longer than the model takes: {config.max_position_embeddings} tokens."
            )
    if finetuned:
        _check_labels(config, task)
    for chain in chains:
        layers = config.num_hidden_layers
        for stage in chain:
            layers = _layers_after(stage, layers)
            if stage.kind == "prune" and not getattr(config, "is_heterogeneous", False):
                _check_targets(stage, config)
    return chosen


def _check_labels(config: PreTrainedConfig, task: Task) -> None:
    if not task.fits(config):
        names = label_names(config) or []
        raise ValueError(
            f"The model is not fine-tuned on this task: it predicts {names[:10] or f'{config.num_labels} numbers'}, "
            f"the task's labels are, in order, {task.label_names[:10]}. Leave `finetuned` out."
        )


def _layers_after(stage: Stage, layers: int) -> int:
    """How many layers a stage leaves of so many."""
    settings = stage.settings
    where = f"Stage {stage.name!r} of the recipe finds {layers} layers, but"
    if stage.kind == "theseus":
        if settings["layers"] < 1 or layers % settings["layers"]:
            raise ValueError(f"{where} `layers` ({settings['layers']}) must divide them.")
        return settings["layers"]
    if stage.kind != "prune":
        return layers
    if (every := settings.get("every")) is not None:
        if every < 1 or layers % every:
            raise ValueError(f"{where} `every` ({every}) must divide them.")
        return layers // every
    kept = settings.get("layers", count_of(settings.get("first"), layers))
    if kept is None:
        return layers
    count, highest = (kept, kept - 1) if isinstance(kept, int) else (len(kept), max(kept, default=-1))
    if not 1 <= count <= layers or highest >= layers:
        raise ValueError(f"{where} is to keep {kept}.")
    return count


def _check_targets(stage: Stage, config: PreTrainedConfig) -> None:
    for name, field in (("heads", "num_attention_heads"), ("ffn", "intermediate_size")):
        target, most = stage.settings.get(name), getattr(config, field, None)
        if target is not None and most is not None and (target <= 0 or (count_of(target, most) or 0) > most):
            raise ValueError(
                f"Stage {stage.name!r} of the recipe keeps `{name}` {target}, but the model has {most}: lower it, or "
                f"give a share below 1."
            )


__all__ = ["check_data", "check_model"]
