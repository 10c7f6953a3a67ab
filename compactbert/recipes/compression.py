"""`compress`: a recipe carried out on a model and a task, stage by stage, to a finished repository with a report."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..benchmark import parse_shape
from ..cards import Publication, render_card
from ..convert import resolve_model
from ..evaluation import evaluate
from ..files import check_free
from ..provenance import command_line, public_settings
from ..resume import end_moved_run, finished_folder, open_work_dir, work_dir_of
from ..training.run import check_positive
from .checks import check_data, check_model
from .recipe import TASK_SETTINGS, Recipe, check_order, epochs_of, first_shrinking, load_recipe
from .report import build_report, write_plot
from .stages import SHRINKING, STAGES, TRAINING, Stage, StageResult


DEFAULT_RECIPE = "smbert-minilm"
# Settings that a job may be continued with other values of: nothing that is done depends on them.
MAY_CHANGE = ("data_dir", "seeds", "shapes")


def compress(
    model: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] | Recipe = DEFAULT_RECIPE,
    finetuned: bool = False,
    seed: int = 42,
    seeds: int = 1,
    max_minutes: float | None = None,
    max_steps: int | None = None,
    shapes: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Makes a smaller, faster model of any BERT for a task, and leaves a Hub-ready folder: weights, code, tokenizer, card
    (`README.md`) and a report of what was won and lost (`report.json`, `report.png`).

    Work goes on in `<output_dir>.partial`. A run that was killed, at whatever moment, continues there when it is called
    again with the same arguments, and ends with the weights of an uninterrupted one.

    Args:
        model (`str` or `Path`):
            A folder or a Hub repository, or `"minilm"`. Encoders that [`~compactbert.convert.from_transformers`] knows
            become our classes.
        task (`str`):
            See [`~compactbert.data.load_task`].
        output_dir (`str` or `Path`):
            Where to write the result. Must not exist, or be empty.
        recipe (`str`, `Path`, `dict` or [`Recipe`], *optional*, defaults to `"smbert-minilm"`):
            Name of a shipped recipe, a YAML file, or a recipe of the same form.
        finetuned (`bool`, *optional*, defaults to `False`):
            `model` is fine-tuned on this task already: the `finetune` stages that the recipe begins with are left out.
        seed (`int`, *optional*, defaults to 42), seeds (`int`, *optional*, defaults to 1):
            Carry out the recipe with the seeds `seed`, `seed + 1`, ...; quality is reported with its spread, and the
            model of the first seed is what is left.
        max_minutes (`float`, *optional*), max_steps (`int`, *optional*):
            A budget for all training of one seed and its baselines, split over the stages in proportion to their
            epochs (of whatever data); schedules shrink with it. A stage never trains longer than its recipe says.
            Teacher passes and evaluations come on top.
        shapes (list of `str`, *optional*):
            Rows x tokens at which latency is measured; `None` is `"1x128"` and `"32x128"`, or the model's length.
        data_dir (`str` or `Path`, *optional*), trust_remote_code (`bool`, *optional*), task_options:
            As in [`~compactbert.data.load_task`].

    Returns:
        `dict`: what is written to `report.json`: `points`, one per stage and baseline with parameters, bytes, MACs,
        latency and metrics; `result`, the last stage's point in relation to the teacher's; `settings`, ...

    Raises:
        ValueError: if an argument or the recipe is wrong, the model or task cannot be read, or `<output_dir>.partial`
            belongs to a run with other arguments.

    Example:

    ```python
    >>> import compactbert

    >>> report = compactbert.compress("my-bert", "reviews.csv", "small", recipe="demo", max_steps=8, shapes=["1x16"])
    >>> [point["name"] for point in report["points"] if point["kind"] == "stage"]
    ['teacher', 'prune', 'SmBERT']

    ```
    """
    settings = {name: value for name, value in locals().items() if name != "task_options"} | task_options
    output_dir = Path(output_dir).absolute()
    check_positive(seeds=seeds, max_minutes=max_minutes, max_steps=max_steps)
    if unknown := sorted(set(task_options) - set(TASK_SETTINGS)):
        raise ValueError(f"Unknown options {unknown}: expected {TASK_SETTINGS}. What a stage is to do is the recipe's.")
    parsed = None if shapes is None else [parse_shape(shape) for shape in shapes]
    loaded = load_recipe(recipe)
    stages = _without_finetuning(loaded) if finetuned else loaded.stages
    skipped = [stage.name for stage in loaded.stages[: len(loaded.stages) - len(stages)]]
    check_order(stages, f"the recipe {loaded.name!r}", finetuned, skipped)
    source = resolve_model(model)
    work_dir = work_dir_of(output_dir)
    settings["recipe"] = _as_data(stages, loaded.baselines)
    settings = json.loads(json.dumps(settings, default=str))
    if (earlier := end_moved_run(output_dir, "report.json", settings)) is not None:
        return earlier
    check_free(output_dir)
    chains = [stages, *((*stages[: first_shrinking(stages)], *items) for items in loaded.baselines.values())]
    loaded_task = check_data(task, chains, data_dir, **task_options)
    measured = check_model(source, loaded_task, chains, parsed, finetuned, trust_remote_code)
    given_scores = None
    if finetuned:
        # Now, so that a model without a trained head is refused before anything else.
        length = stages[-1].settings.get("max_length", 128)
        given_scores = evaluate(source, task=loaded_task, max_length=length, trust_remote_code=trust_remote_code)
    compared = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    open_work_dir(work_dir, compared, unfinished=any(work_dir.glob("seed-*")))

    budget = _Budget([stages, *loaded.baselines.values()], max_minutes, max_steps)
    shared = {"data_dir": data_dir, "trust_remote_code": trust_remote_code, **task_options}
    teachers = first_shrinking(stages)
    # The stages that were left out may be named as teachers still: they are the given model.
    given = dict.fromkeys(skipped, source)
    results: list[list[StageResult]] = []
    baselines: dict[str, list[StageResult]] = {name: [] for name in loaded.baselines}
    chain_lengths = [len(stages), *(len(items) for items in loaded.baselines.values())]
    with tqdm(total=seeds * sum(chain_lengths), desc=loaded.name, unit="stage") as progress:
        for number in range(seed, seed + seeds):
            runner = _Runner(task, work_dir / f"seed-{number}", number, shared, budget, progress, given)
            done = runner.run(source, stages)
            results.append(done)
            start = done[teachers - 1].folder if teachers else source
            for chain, (name, items) in enumerate(loaded.baselines.items(), start=1):
                baselines[name].append(runner.run(start, items, f"baseline {chain}", before=done[:teachers])[-1])
            if not finetuned:
                # The next seed has a teacher of its own.
                shutil.rmtree(runner.cache, ignore_errors=True)

    report = build_report(
        source=source,
        given_scores=given_scores,
        results=results,
        baselines=baselines,
        task=loaded_task,
        shapes=measured,
        trust_remote_code=trust_remote_code,
    )
    report |= {"recipe": {"name": loaded.name, "description": loaded.description}}
    # A folder on somebody's disk is no repository.
    report["base_model"] = None if Path(model).exists() else str(model)
    report["settings"] = public_settings(settings)
    report["task"] = report["settings"]["task"]
    if isinstance(recipe, str | Path):
        report["command"] = command_line(compress, report["settings"] | {"recipe": Path(recipe).name})
    with finished_folder(output_dir) as finished:
        left_out = shutil.ignore_patterns("metrics.json", "README.md")
        shutil.copytree(results[0][-1].folder, finished, ignore=left_out, dirs_exist_ok=True)
        (finished / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        write_plot(report, finished / "report.png")
        (finished / "README.md").write_text(render_card(finished, Publication(repo_id=output_dir.name)))
    return report


def _without_finetuning(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages after the fine-tunings that a recipe begins with, which a fine-tuned model needs no more."""
    before = next((i for i, stage in enumerate(recipe.stages) if stage.kind != "finetune"), len(recipe.stages))
    if before == len(recipe.stages):
        raise ValueError(f"The recipe {recipe.name!r} only fine-tunes: there is nothing to do for a fine-tuned model.")
    if before and "task" in recipe.stages[before - 1].settings:
        other = recipe.stages[before - 1].settings["task"]
        raise ValueError(
            f"The recipe {recipe.name!r} begins on {other!r}, not on the job's task: leave `finetuned` out."
        )
    return recipe.stages[before:]


class _Budget:
    """Splits a budget of minutes or steps over stages, by their epochs."""

    def __init__(self, chains: Sequence[Sequence[Stage]], max_minutes: float | None, max_steps: int | None):
        self.limits = {"max_minutes": max_minutes, "max_steps": max_steps}
        self.epochs = sum(epochs_of(stage) for chain in chains for stage in chain)

    def of(self, stage: Stage) -> dict[str, Any]:
        share = {}
        for name, limit in self.limits.items():
            if limit is not None and stage.kind in TRAINING:
                part = limit * epochs_of(stage) / self.epochs
                part = part if name == "max_minutes" else max(1, int(part))
                share[name] = min(part, stage.settings.get(name, part))
        return share


class _Runner:
    """Carries out stages one after another, each from the folder that the one before left."""

    def __init__(
        self,
        task: str,
        folder: Path,
        seed: int,
        shared: Mapping[str, Any],
        budget: _Budget,
        progress: tqdm,
        given: Mapping[str, str | Path],
    ):
        self.task, self.folder, self.seed = task, folder, seed
        self.shared, self.budget, self.progress, self.given = shared, budget, progress, given
        self.cache = folder.parent / "teacher_cache"

    def run(
        self, model: str | Path, stages: Sequence[Stage], chain: str = "", before: Sequence[StageResult] = ()
    ) -> list[StageResult]:
        """
        Args:
            model (`str` or `Path`): What the first stage reads; the teacher, unless a stage makes another.
            stages (list of `Stage`): In order. A stage whose folder is there is not carried out again.
            chain (`str`, *optional*): Name of a baseline.
            before (list of `StageResult`): Stages that the teacher of a stage may be named after.
        """
        results = list(before)
        teacher, shrunk = model, False
        for number, stage in enumerate(stages, start=1):
            shrunk = shrunk or stage.kind in SHRINKING
            folder = self.folder / _slug(f"{chain} {number:02d} {stage.name}")
            # What does not train works on the task that the model was last trained on.
            last = results[-1].task if results else self.task
            task = stage.settings.get("task", self.task if stage.kind in TRAINING else last)
            record = folder / "metrics.json"
            self.progress.set_postfix_str(f"seed {self.seed}: {chain} {stage.name} on {task}")
            if not record.is_file():
                arguments = self._arguments(stage, task)
                if stage.kind == "distill":
                    named = {**self.given, **{result.stage.name: result.folder for result in results}}
                    arguments["teacher"] = named[arguments["teacher"]] if "teacher" in arguments else teacher
                    # Attentions and relations are not cached, and one pass over the rows gains nothing from a cache.
                    squared = arguments.get("attention_weight") or arguments.get("relation_weight")
                    if not squared and epochs_of(stage) > 1:
                        arguments["teacher_cache"] = self.cache
                STAGES[stage.kind](model, task, folder, **arguments)
            results.append(StageResult(stage, task, folder, json.loads(record.read_text())))
            self.progress.update()
            model = folder
            # The teacher is the model as it was before it was first made smaller.
            teacher = teacher if shrunk else folder
        return results[len(before) :]

    def _arguments(self, stage: Stage, task: str) -> dict[str, Any]:
        settings = {name: value for name, value in stage.settings.items() if name != "task"}
        shared = dict(self.shared)
        if task != self.task:
            # Columns and samples are those of the job's own task.
            shared = {name: shared[name] for name in ("data_dir", "trust_remote_code")}
        if stage.kind != "prune_vocabulary":
            settings["seed"] = self.seed
        return shared | settings | self.budget.of(stage)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")


def _as_data(stages: Sequence[Stage], baselines: Mapping[str, Sequence[Stage]]) -> dict[str, Any]:
    """The stages as plain data, for the report and for recognising an unfinished run."""

    def plain(items: Sequence[Stage]) -> list:
        return [{stage.kind: {"name": stage.name, **stage.settings}} for stage in items]

    return {"stages": plain(stages), "baselines": {name: plain(items) for name, items in baselines.items()}}


__all__ = ["compress"]
