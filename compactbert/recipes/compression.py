"""`compress`: a recipe carried out on a model and a task, stage by stage, to a finished repository with a report."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..benchmark import parse_shape
from ..convert import resolve_model
from ..data import load_task, load_texts
from ..training.run import check_free, open_work_dir, work_dir_of
from .recipe import Recipe, check_order, epochs_of, first_shrinking, load_recipe
from .report import build_report, write_card, write_plot
from .stages import SHRINKING, STAGES, TRAINING, Stage, StageResult


DEFAULT_RECIPE = "smbert-minilm"
DEFAULT_SHAPES = ("1x128", "32x128")
# Settings that say where things are on this machine, which is nobody's business where the report is published.
PRIVATE = ("data_dir", "output_dir")


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
            `model` is fine-tuned on this task already: the recipe's first stage, if it is `finetune`, is left out.
        seed (`int`, *optional*, defaults to 42), seeds (`int`, *optional*, defaults to 1):
            Carry out the recipe with the seeds `seed`, `seed + 1`, ...; quality is reported with its spread, and the
            model of the first seed is what is left.
        max_minutes (`float`, *optional*), max_steps (`int`, *optional*):
            A budget for all training of one seed and its baselines, split over the stages in proportion to their
            epochs; schedules shrink with it. A stage never trains longer than its recipe says.
        shapes (list of `str`, *optional*):
            Rows x tokens at which latency is measured; `None` is `"1x128"` and `"32x128"`.
        data_dir (`str` or `Path`, *optional*), trust_remote_code (`bool`, *optional*), task_options:
            As in [`~compactbert.finetune`].

    Returns:
        `dict`: what is written to `report.json`: `points`, one per stage and baseline with parameters, bytes, MACs,
        latency and metrics; `result`, the last stage's point in relation to the teacher's; `settings`, ...

    Raises:
        ValueError: if an argument or the recipe is wrong, the model or task cannot be read, or `<output_dir>.partial`
            belongs to a run with other arguments.
    """
    settings = {name: value for name, value in locals().items() if name != "task_options"} | task_options
    started = time.perf_counter()
    output_dir = Path(output_dir)
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1, got {seeds}.")
    for name, value in (("max_minutes", max_minutes), ("max_steps", max_steps)):
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be positive, got {value}.")
    parsed_shapes = [parse_shape(shape) for shape in shapes or DEFAULT_SHAPES]
    loaded = load_recipe(recipe)
    stages = loaded.stages
    if finetuned and stages[0].kind == "finetune":
        stages = stages[1:]
    check_order(stages, f"the recipe {loaded.name!r}", finetuned)
    check_free(output_dir)
    _check_data([*stages, *(stage for items in loaded.baselines.values() for stage in items)], data_dir)
    settings["recipe"] = _as_data(stages, loaded.baselines)
    settings = json.loads(json.dumps(settings, default=str))
    work_dir = work_dir_of(output_dir)
    open_work_dir(work_dir, settings, unfinished=any(work_dir.glob("seed-*")))

    budget = _Budget([stages, *loaded.baselines.values()], max_minutes, max_steps)
    shared = {"data_dir": data_dir, "trust_remote_code": trust_remote_code, **task_options}
    source = resolve_model(model)
    teachers = first_shrinking(stages)
    results: list[list[StageResult]] = []
    baselines: dict[str, list[StageResult]] = {name: [] for name in loaded.baselines}
    chain_lengths = [len(stages), *(len(items) for items in loaded.baselines.values())]
    with tqdm(total=seeds * sum(chain_lengths), desc=loaded.name, unit="stage") as progress:
        for number in range(seed, seed + seeds):
            runner = _Runner(task, work_dir / f"seed-{number}", number, shared, budget, progress)
            done = runner.run(source, stages)
            results.append(done)
            start = done[teachers - 1].folder if teachers else source
            for name, items in loaded.baselines.items():
                baselines[name].append(runner.run(start, items, name, before=done[:teachers])[-1])

    report = build_report(
        source=source if finetuned else None,
        results=results,
        baselines=baselines,
        task=task,
        shapes=parsed_shapes,
        shared=shared,
    )
    report["task"] = _without_folder(task)
    report |= {"recipe": {"name": loaded.name, "description": loaded.description}}
    report["settings"] = {name: _without_folder(value) for name, value in settings.items() if name not in PRIVATE}
    report["seconds"] = round(time.perf_counter() - started, 1)
    finished = work_dir / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    shutil.copytree(results[0][-1].folder, finished, ignore=shutil.ignore_patterns("metrics.json"))
    (finished / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    write_plot(report, finished / "report.png")
    write_card(report, finished, output_dir.name)
    finished.replace(output_dir)
    shutil.rmtree(work_dir)
    return report


def _check_data(stages: Sequence[Stage], data_dir: str | Path | None) -> None:
    """Reads what stages need beside the job's own task: what is missing is missed before hours of work, not after."""
    for name in dict.fromkeys(stage.settings["task"] for stage in stages if "task" in stage.settings):
        load_task(name, data_dir)
    for name in dict.fromkeys(stage.settings["texts"] for stage in stages if "texts" in stage.settings):
        load_texts(name, data_dir)


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
                share[name] = part if name == "max_minutes" else max(1, int(part))
        return share


class _Runner:
    """Carries out stages one after another, each from the folder that the one before left."""

    def __init__(self, task: str, folder: Path, seed: int, shared: Mapping[str, Any], budget: _Budget, progress: tqdm):
        self.task, self.folder, self.seed = task, folder, seed
        self.shared, self.budget, self.progress = shared, budget, progress

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
            task = stage.settings.get("task", results[-1].task if results and stage.kind == "prune" else self.task)
            record = folder / "metrics.json"
            self.progress.set_postfix_str(f"seed {self.seed}: {chain} {stage.name} on {task}")
            if not record.is_file():
                arguments = self._arguments(stage, task)
                if stage.kind == "distill":
                    by_name = {result.stage.name: result.folder for result in results}
                    arguments["teacher"] = by_name.get(arguments.get("teacher", ""), teacher)
                    # Attentions and relations are not cached.
                    if not (arguments.get("attention_weight") or arguments.get("relation_weight")):
                        arguments["teacher_cache"] = self.folder.parent / "teacher_cache"
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


def _without_folder(value: Any) -> Any:
    """The name alone of a path that exists on this machine; anything else as it is."""
    return Path(value).name if isinstance(value, str) and value and Path(value).exists() else value


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")


def _as_data(stages: Sequence[Stage], baselines: Mapping[str, Sequence[Stage]]) -> dict[str, Any]:
    """The stages as plain data, for the report and for recognising an unfinished run."""

    def plain(items: Sequence[Stage]) -> list:
        return [{stage.kind: {"name": stage.name, **stage.settings}} for stage in items]

    return {"stages": plain(stages), "baselines": {name: plain(items) for name, items in baselines.items()}}


__all__ = ["compress"]
