"""Recipes are data: stages in order, each with its settings, checked before anything runs."""

import inspect
import re
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

    Example:

    ```python
    >>> from compactbert.recipes import load_recipe

    >>> recipe = load_recipe({"name": "mine", "stages": ["finetune", {"prune": {"every": 2}}, "distill"]})
    >>> [stage.name for stage in recipe.stages]
    ['finetune', 'prune', 'distill']

    ```
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


def list_recipes(folder: str = "recipes") -> list[str]:
    """Names of the shipped recipes of [`~compactbert.compress`], or of `"transfer"`.

    Example:

    ```python
    >>> from compactbert.recipes import list_recipes

    >>> "smbert-minilm" in list_recipes(), "mobilebert-paper" in list_recipes("transfer")
    (True, True)

    ```
    """
    shipped = files("compactbert.configs").joinpath(folder)
    return sorted(file.name.removesuffix(".yaml") for file in shipped.iterdir() if file.name.endswith(".yaml"))


def load_recipe(recipe: str | Path | Mapping[str, Any] | Recipe) -> Recipe:
    """
    A recipe by its name, from a YAML file, or from a `dict` of the same form.

    Raises:
        ValueError: if there is no such recipe, it is not YAML, a stage or setting is unknown, or the stages cannot
            follow each other; naming the stage.

    Example:

    ```python
    >>> from compactbert.recipes import load_recipe

    >>> load_recipe("smbert-paper").stages[0].kind
    'finetune'

    ```
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return _parse(recipe, str(recipe.get("name", "the given recipe")))
    return _parse(read_recipe(recipe, "recipes"), str(recipe))


def read_recipe(recipe: str | Path, folder: str) -> Mapping[str, Any]:
    """What a shipped recipe or a YAML file says.

    Raises:
        ValueError: if there is no such recipe, or it is not YAML.
    """
    shipped = files("compactbert.configs").joinpath(folder, f"{recipe}.yaml")
    path = Path(recipe)
    if not shipped.is_file() and not path.is_file():
        raise ValueError(f"There is no recipe or file {str(recipe)!r}; the recipes are {list_recipes(folder)}.")
    try:
        data = yaml.load((shipped if shipped.is_file() else path).read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The recipe {str(recipe)!r} is not valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"The recipe {str(recipe)!r} must be a mapping of its stages, got {type(data).__name__}.")
    return data


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
        taken = {stage.name for stage in stages}
        name = str(settings.pop("name", "")) or kind
        while name in taken and name.startswith(kind):
            name += "'"
        if name in taken:
            raise ValueError(f"Two stages of {source} are called {name!r}: names must differ.")
        _check_settings(kind, settings, f"Stage {name!r} of {source}")
        stages.append(Stage(kind, name, settings))
    return tuple(stages)


def _check_settings(kind: str, settings: Mapping[str, Any], where: str) -> None:
    parameters = _parameters(kind)
    known = {*parameters, "task"} - set(JOB_SETTINGS)
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"{where} has unknown settings {unknown}: expected {sorted(known)}.")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name in known - {"task", "teacher", *settings}:
            raise ValueError(f"{where} needs `{name}`.")
        annotation = parameter.annotation
        if name not in settings or annotation is inspect.Parameter.empty:
            continue
        value = settings[name]
        try:
            # A whole number is a number too.
            fits = isinstance(value, annotation) or (type(value) is int and isinstance(0.5, annotation))
        except TypeError:
            # Not a plain type: the stage's function looks at it.
            continue
        if not fits:
            expected = getattr(annotation, "__name__", annotation)
            raise ValueError(f"{where} has `{name}: {value!r}`: expected {expected}.")


class Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 1e-4 is a number, as everybody means it."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _parameters(kind: str) -> dict[str, inspect.Parameter]:
    """Arguments of a stage's function, and for one that trains those that it hands on to [`finetune`]."""
    functions = [STAGES["finetune"], STAGES[kind]] if kind in TRAINING else [STAGES[kind]]
    merged: dict[str, inspect.Parameter] = {}
    for function in functions:
        merged |= inspect.signature(function).parameters
    kept = {name: p for name, p in merged.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return kept | {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in TASK_SETTINGS
    }


def check_order(stages: Sequence[Stage], source: str, finetuned: bool = False, given: Sequence[str] = ()) -> None:
    """
    Checks that every stage finds what it needs.

    Args:
        stages (list of [`Stage`]): In order.
        source (`str`): For messages.
        finetuned (`bool`, *optional*, defaults to `False`): The given model has a head for the job's task.
        given (list of `str`, *optional*): Names under which the given model may be a teacher.

    Raises:
        ValueError: naming the stage and what must come before it.
    """
    # The task that the model's head is for (`None` is the job's own, "" none yet), and which cut of the vocabulary.
    head: str | None = None if finetuned else ""
    cut = 0
    seen = dict.fromkeys(given, (head, cut))
    default_teacher = (head, cut)
    shrunk = False
    for stage in stages:
        where = f"Stage {stage.name!r} of {source}"
        if stage.kind not in TRAINING or stage.kind == "theseus":
            task = stage.settings.get("task", None if stage.kind == "theseus" else head)
            if head == "":
                raise ValueError(f"{where} needs a fine-tuned model: put `finetune` before it, or give one that is.")
            if head != task:
                raise ValueError(
                    f"{where} is for another task than the stage before it: put a `finetune` on it between."
                )
        if stage.kind == "distill":
            if not shrunk:
                raise ValueError(
                    f"{where} would have the student as its own teacher: put `prune` or `theseus` before it."
                )
            name = stage.settings.get("teacher")
            if name is not None and name not in seen:
                raise ValueError(f"{where} names the teacher {name!r}: expected an earlier stage of {list(seen)}.")
            teacher_head, teacher_cut = default_teacher if name is None else seen[name]
            if teacher_head != stage.settings.get("task"):
                raise ValueError(
                    f"{where} has a teacher for another task than its own: name one with `teacher`, or put a "
                    f"`finetune` on the task before the model is made smaller."
                )
            if teacher_cut != cut:
                raise ValueError(
                    f"{where} has a `prune_vocabulary` between teacher and student, so they read different tokens: "
                    f"prune the vocabulary at the end, or before the model is made smaller."
                )
        if stage.kind in TRAINING:
            head = stage.settings.get("task")
        cut += stage.kind == "prune_vocabulary"
        shrunk |= stage.kind in SHRINKING
        seen[stage.name] = (head, cut)
        default_teacher = default_teacher if shrunk else (head, cut)
    if head is not None:
        raise ValueError(
            f"{source[0].upper()}{source[1:]} ends with a model for the task {head!r}: put a `finetune` on the job's "
            f"own task at the end."
        )


__all__ = [
    "Loader",
    "Recipe",
    "check_order",
    "epochs_of",
    "first_shrinking",
    "list_recipes",
    "load_recipe",
    "read_recipe",
]
