"""Recipes are data: stages in order, each with its settings, checked before anything runs."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from .stages import SHRINKING, STAGES, TRAINING, Stage


# Settings that are the whole job's, not a stage's.
JOB_SETTINGS = ("model", "output_dir", "data_dir", "seed", "trust_remote_code", "teacher_cache")
TASK_SETTINGS = ("text_columns", "label_column", "problem", "max_train_rows", "max_evaluation_rows")


@dataclass(frozen=True)
class Recipe:
    """
    Stages in order, and what to compare their result with.

    Args:
        name, description (`str`): For people.
        stages (tuple of [`Stage`]): From the given model to the result.
        baselines (`dict` of name to tuple of [`Stage`]): Other ways, which start from the output of the last stage that
            did not make the model smaller.
    """

    name: str
    description: str
    stages: tuple[Stage, ...]
    baselines: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)


def first_shrinking(stages: Sequence[Stage]) -> int:
    """Index of the first stage that makes the model smaller; what comes before it makes the teacher."""
    return next((i for i, stage in enumerate(stages) if stage.kind in SHRINKING), len(stages))


def epochs_of(stage: Stage) -> float:
    """Passes over the training rows; 0 for a stage without training."""
    if stage.kind not in TRAINING:
        return 0.0
    return float(stage.settings.get("epochs", _parameters(stage.kind)["epochs"].default))


def list_recipes() -> list[str]:
    """Names of the shipped recipes."""
    folder = files("compactbert.configs").joinpath("recipes")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(recipe: str | Path | Mapping[str, Any] | Recipe) -> Recipe:
    """
    A recipe by its name, from a YAML file, or from a `dict` of the same form.

    Raises:
        ValueError: if there is no such recipe, it is not YAML, a stage or setting is unknown, or the stages cannot
            follow each other; naming the stage.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return _parse(recipe, str(recipe.get("name", "the given recipe")))
    shipped = files("compactbert.configs").joinpath("recipes", f"{recipe}.yaml")
    path = Path(recipe)
    if not shipped.is_file() and not path.is_file():
        raise ValueError(f"There is no recipe or file {str(recipe)!r}; the recipes are {list_recipes()}.")
    try:
        data = yaml.safe_load((shipped if shipped.is_file() else path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The recipe {str(recipe)!r} is not valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"The recipe {str(recipe)!r} must be a mapping with `stages`, got {type(data).__name__}.")
    return _parse(data, str(recipe))


def _parse(data: Mapping[str, Any], source: str) -> Recipe:
    if unknown := sorted(set(data) - {"name", "description", "stages", "baselines"}):
        raise ValueError(
            f"The recipe {source!r} has unknown keys {unknown}: expected `name`, `description`, `stages`, `baselines`."
        )
    stages = _parse_stages(data.get("stages"), f"the recipe {source!r}")
    baselines = data.get("baselines") or {}
    if not isinstance(baselines, Mapping):
        raise ValueError(f"`baselines` of the recipe {source!r} must map names to stages, got {baselines!r}.")
    recipe = Recipe(
        name=str(data.get("name", Path(source).stem)),
        description=str(data.get("description", "")).strip(),
        stages=stages,
        baselines={
            str(name): _parse_stages(items, f"the baseline {name!r} of {source!r}") for name, items in baselines.items()
        },
    )
    teachers = recipe.stages[: first_shrinking(recipe.stages)]
    check_order(recipe.stages, f"the recipe {source!r}")
    for name, items in recipe.baselines.items():
        check_order((*teachers, *items), f"the baseline {name!r} of {source!r}")
    return recipe


def _parse_stages(items: Any, source: str) -> tuple[Stage, ...]:
    if not isinstance(items, Sequence) or isinstance(items, str) or not items:
        raise ValueError(f"`stages` of {source} must be a list with at least one stage, got {items!r}.")
    stages: list[Stage] = []
    for item in items:
        if isinstance(item, str):
            item = {item: {}}
        if not isinstance(item, Mapping) or len(item) != 1:
            raise ValueError(f"A stage of {source} must be one kind with its settings, got {item!r}.")
        kind, settings = next(iter(item.items()))
        if kind not in STAGES:
            raise ValueError(f"{source[0].upper()}{source[1:]} has an unknown stage {kind!r}: expected {list(STAGES)}.")
        if not isinstance(settings or {}, Mapping):
            raise ValueError(f"The settings of stage {kind!r} of {source} must be a mapping, got {settings!r}.")
        settings = dict(settings or {})
        name = str(settings.pop("name", kind))
        while name in {stage.name for stage in stages}:
            name += "'"
        known = {*_parameters(kind), "task"} - set(JOB_SETTINGS)
        if unknown := sorted(settings.keys() - known):
            raise ValueError(f"Stage {name!r} of {source} has unknown settings {unknown}: expected {sorted(known)}.")
        stages.append(Stage(kind, name, settings))
    return tuple(stages)


def _parameters(kind: str) -> dict[str, inspect.Parameter]:
    """Arguments of a stage's function, and for one that trains those that it hands on to [`finetune`]."""
    functions = [STAGES["finetune"], STAGES[kind]] if kind in TRAINING else [STAGES[kind]]
    merged: dict[str, inspect.Parameter] = {}
    for function in functions:
        merged |= inspect.signature(function).parameters
    kept = {name: p for name, p in merged.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return kept | {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in TASK_SETTINGS}


def check_order(stages: Sequence[Stage], source: str, finetuned: bool = False) -> None:
    """
    Checks that every stage finds what it needs.

    Args:
        stages (list of [`Stage`]): In order.
        source (`str`): For messages.
        finetuned (`bool`, *optional*, defaults to `False`): The given model has a head for the job's task.

    Raises:
        ValueError: naming the stage and what must come before it.
    """
    # The task that the model's head is for: `None` is the job's own, "" none yet.
    head: str | None = None if finetuned else ""
    heads: dict[str, str | None] = {}
    shrunk = cut_vocabulary = False
    for stage in stages:
        task = stage.settings.get("task", head if stage.kind == "prune" and head else None)
        where = f"Stage {stage.name!r} of {source}"
        if stage.kind in ("theseus", "prune") and head == "":
            raise ValueError(f"{where} needs a fine-tuned model: put `finetune` before it, or give one that is.")
        if stage.kind in ("theseus", "prune") and head != task:
            raise ValueError(f"{where} is for another task than the stage before it: put a `finetune` on it between.")
        if stage.kind == "distill":
            if not shrunk:
                raise ValueError(
                    f"{where} would have the student as its own teacher: put `prune` or `theseus` before it."
                )
            if cut_vocabulary:
                raise ValueError(
                    f"{where} comes after `prune_vocabulary`, so student and teacher read different tokens: prune the "
                    f"vocabulary at the end, or before the model is made smaller."
                )
            teacher = stage.settings.get("teacher")
            if teacher is not None and teacher not in heads:
                raise ValueError(f"{where} names the teacher {teacher!r}: expected an earlier stage of {list(heads)}.")
        if stage.kind in TRAINING:
            head = stage.settings.get("task")
        cut_vocabulary |= stage.kind == "prune_vocabulary" and shrunk
        shrunk |= stage.kind in SHRINKING
        heads[stage.name] = head
    if head is not None:
        raise ValueError(
            f"{source[0].upper()}{source[1:]} ends with a model for the task {head!r}: put a `finetune` on the job's "
            f"own task at the end."
        )


__all__ = ["Recipe", "check_order", "epochs_of", "first_shrinking", "list_recipes", "load_recipe"]
