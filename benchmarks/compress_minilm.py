"""SmBERT from fine-tuned MiniLM-L6 (6 to 3 layers, 12 to 8 heads, FFN 1536 to 1024) and its baselines, all with the
same final shape, seeds and number of training steps, on five tasks: `benchmarks/compress_minilm.json`.

    python benchmarks/compress_minilm.py run --data-dir DATA --work-dir WORK --teacher 1 [--processes 1] [--task mrpc]
    python benchmarks/compress_minilm.py show

`run` makes what is missing and may be killed and called again. It searches the learning rate of every baseline first.
Our method is `configs/recipes/smbert-minilm.yaml`; the baselines and the other sizes are below. `--teacher` is the
name of a set of teachers, which is trained where it is not there yet; all methods are compared under the same one, with
the same seeds. The sets are trained alike, yet on a GPU no two trainings end alike.
"""

import json
import multiprocessing
import shutil
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from matplotlib.figure import Figure
from results import Results, locked
from scipy.stats import t as student_t

import compactbert
from compactbert.compression import count_parameters
from compactbert.convert import load_pretrained
from compactbert.files import write_figure
from compactbert.provenance import environment
from compactbert.recipes import load_recipe
from compactbert.recipes.stages import STAGES, TRAINING


RESULTS = Results(__file__)
RECIPE = "smbert-minilm"
OURS = "smbert"
TEACHER_SEED = 42
FIVE, THREE = (1, 2, 3, 4, 5), (1, 2, 3)
# Per task the fine-tunings that make the teacher, the steps of our last stage (all other methods get these and the
# steps of our stage on texts), and the seeds of the students.
TASKS: dict[str, dict[str, Any]] = {
    "mrpc": {"teacher": [("mrpc", 4, 1e-4)], "steps": 345, "seeds": FIVE},
    "rte": {"teacher": [("mnli", 1, 1e-4), ("rte", 4, 5e-5)], "steps": 234, "seeds": FIVE},
    "sst2": {"teacher": [("sst2", 2, 5e-5)], "steps": 1875, "seeds": THREE},
    "qqp": {"teacher": [("qqp", 3, 1e-4)], "steps": 939, "seeds": THREE},
    "paws-x/en": {"teacher": [("paws-x/en", 3, 1e-4), ("paws-x/en", 6, 1.5e-4)], "steps": 1125, "seeds": THREE},
}
ROWS = {
    "sst2": {"max_train_rows": 20_000},
    "qqp": {"max_evaluation_rows": 4_000},
    "mnli": {"max_evaluation_rows": 2_000},
}
TEXT_STEPS = 625
BEST_THREE = {"prune": {"layers": [1, 3, 5], "heads": 8, "ffn": 1024}}
FINETUNE = {"finetune": {"epochs": 1}}
LOGITS = {"kd_loss_weight": 1.0, "hard_label_weight": 0.0, "cosine_weight": 0.0}
# Our recipe after another cut: to other shares of the weights in the encoder's matrices than our third, and of other
# layers than every other one; and the seeds.
VARIANTS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    f"{OURS}, 1/6 of the encoder": ({"every": 2, "parameters": 1 / 6}, THREE),
    f"{OURS}, 1/2 of the encoder": ({"every": 2, "parameters": 1 / 2}, (1,)),
    f"{OURS}, 1/10 of the encoder": ({"every": 2, "parameters": 1 / 10}, (1,)),
    f"{OURS}, 1/20 of the encoder": ({"every": 2, "parameters": 1 / 20}, (1,)),
    f"{OURS}, first three layers": ({"layers": [0, 1, 2], "heads": 8, "ffn": 1024}, THREE),
}
# So many tokens make the whole model, embeddings included, at most 35 % of the teacher.
SMALL_VOCABULARY = f"{OURS}, 10,500 tokens"
# Epochs are shares of the steps. The learning rate is the best of these on one task, for each baseline.
RATES, SEARCH_TASK, SEARCH_SEEDS = (5e-5, 1e-4, 3e-4), "mrpc", (1,)
BASELINES = {
    "first three layers, fine-tuned": [{"prune": {"layers": [0, 1, 2], "heads": 8, "ffn": 1024}}, FINETUNE],
    "logits distillation": [BEST_THREE, {"distill": {"epochs": 1, **LOGITS}}],
    "Theseus": [
        {"theseus": {"layers": 3, "successor_layers": [1, 3, 5], "epochs": 2}},
        {"prune": {"heads": 8, "ffn": 1024}},
        FINETUNE,
    ],
    "one-shot pruning": [BEST_THREE, FINETUNE],
}
TICKS = (1 / 20, 1 / 10, 1 / 6, 1 / 3, 1 / 2)
app = typer.Typer()


class Cell(NamedTuple):
    """One figure of the table, or of the search for a baseline's learning rate."""

    teacher: str
    task: str
    method: str
    seed: int
    learning_rate: float | None = None

    @property
    def place(self) -> tuple[str, ...]:
        if self.learning_rate is None:
            return self.teacher, "runs", self.task, self.method, str(self.seed)
        return self.teacher, "search", self.method, str(self.learning_rate), str(self.seed)

    @property
    def small_vocabulary(self) -> tuple[str, ...]:
        return self.teacher, "runs", self.task, SMALL_VOCABULARY, str(self.seed)

    @property
    def folder(self) -> str:
        words = [self.method, *self.place[3:]] if self.learning_rate else [self.method, str(self.seed)]
        return "-".join(words).replace(" ", "-").replace(",", "").replace("/", "_")


def methods() -> dict:
    """Stages after the teacher's, by name: the shipped recipe's, those of the baselines, and the shipped recipe's after
    another cut."""
    recipe = load_recipe({"stages": ["finetune"], "baselines": BASELINES})
    prune, *rest = load_recipe(RECIPE).stages[1:]
    variants = {name: (replace(prune, settings=cut), *rest) for name, (cut, _) in VARIANTS.items()}
    return {OURS: (prune, *rest), **recipe.baselines, **variants}


def seeds_of(method: str, task: str) -> tuple[int, ...]:
    return VARIANTS[method][1] if method in VARIANTS else TASKS[task]["seeds"]


def run_teacher(name: str, task: str, data_dir: Path, work_dir: Path) -> Path:
    folder = work_dir / task.replace("/", "-") / "teacher"
    model: str | Path = "minilm"
    with locked(folder.with_suffix(".lock")):
        for number, (key, epochs, learning_rate) in enumerate(TASKS[task]["teacher"], start=1):
            output = folder / str(number)
            if not output.exists():
                options = {"epochs": epochs, "learning_rate": learning_rate, **ROWS.get(key, {})}
                compactbert.finetune(model, key, output, data_dir=data_dir, seed=TEACHER_SEED, **options)
            model = output
        if not RESULTS.found(name, "teachers", task):
            report = json.loads((Path(model) / "metrics.json").read_text())
            loaded, _ = load_pretrained(model, "ForSequenceClassification")
            kept = {field: report[field] for field in ("metrics", "rows", "steps")}
            RESULTS.record((name, "teachers", task), kept | {"parameters": count_parameters(loaded)})
            RESULTS.record((name, "environment"), environment())
    return Path(model)


def steps_of(stages: list, task: str) -> list[int]:
    """Training steps of each stage: all methods have the same sum."""
    total = TASKS[task]["steps"] + TEXT_STEPS
    fixed = sum(TEXT_STEPS for stage in stages if "texts" in stage.settings)
    epochs = [stage.settings["epochs"] if stage.kind in TRAINING else 0 for stage in stages]
    free = sum(e for e, stage in zip(epochs, stages, strict=True) if "texts" not in stage.settings)
    return [
        TEXT_STEPS if "texts" in stage.settings else round((total - fixed) * e / free)
        for e, stage in zip(epochs, stages, strict=True)
    ]


def run_cell(cell: Cell, data_dir: Path, work_dir: Path) -> None:
    task, method = cell.task, cell.method
    work_dir = work_dir / f"teacher-{cell.teacher}"
    teacher = run_teacher(cell.teacher, task, data_dir, work_dir)
    rate = cell.learning_rate or best_rate(method)
    if (
        not cell.learning_rate
        and task == SEARCH_TASK
        and (known := RESULTS.found(cell.teacher, "search", method, str(rate), str(cell.seed)))
    ):
        RESULTS.record(cell.place, known)
        return
    if not RESULTS.found(*cell.place):
        folder = work_dir / task.replace("/", "-") / cell.folder
        RESULTS.record(cell.place, run_stages(cell, rate, teacher, folder, data_dir))
        # What led to the result is no longer needed; ours is, for its vocabulary to be pruned.
        for output in sorted(folder.iterdir())[: -1 if method == OURS else None]:
            shutil.rmtree(output)
    if method == OURS and not RESULTS.found(*cell.small_vocabulary):
        run_small_vocabulary(cell, data_dir, work_dir)


def run_stages(cell: Cell, rate: float | None, teacher: Path, folder: Path, data_dir: Path) -> dict[str, Any]:
    model, steps, seconds = teacher, 0, 0.0
    stages = methods()[cell.method]
    for number, (stage, max_steps) in enumerate(zip(stages, steps_of(stages, cell.task), strict=True), start=1):
        output = folder / f"{number}-{stage.kind}"
        options = {"data_dir": data_dir, "seed": cell.seed, **ROWS.get(cell.task, {}), **stage.settings}
        if stage.kind in TRAINING:
            options["max_steps"] = max_steps
            # The steps are the limit; Theseus reaches 1 in the fraction of training that SmBERT's 15 epochs mean.
            options["epochs"] = 15 if stage.kind == "theseus" else 1000
            options |= {"learning_rate": rate} if rate else {}
        if stage.kind == "distill":
            options["teacher"] = teacher
            alone = multiprocessing.parent_process() is None
            if alone and not torch.accelerator.is_available():
                # An accelerator runs the teacher in less time than its outputs take to be read, and two processes
                # would fill the cache at the same time.
                options["teacher_cache"] = folder.with_name("teacher_cache")
        if not output.exists():
            STAGES[stage.kind](model, cell.task, output, **options)
        report = json.loads((output / "metrics.json").read_text())
        steps += report.get("steps", 0)
        seconds += report.get("steps", 0) * report.get("seconds_per_step", 0.0)
        model = output
    loaded, _ = load_pretrained(model, "ForSequenceClassification")
    return {
        "metrics": report["metrics"],
        "steps": steps,
        "training_seconds": round(seconds, 1),
        "parameters": count_parameters(loaded),
        "accelerator": environment()["accelerator"],
    }


def run_small_vocabulary(cell: Cell, data_dir: Path, work_dir: Path) -> None:
    """Our result with its vocabulary pruned, without training."""
    model = next((work_dir / cell.task.replace("/", "-") / cell.folder).glob("*-distill"))
    output = model.with_name("vocabulary")
    shutil.rmtree(output, ignore_errors=True)
    options = {"data_dir": data_dir, **ROWS.get(cell.task, {})}
    report = STAGES["prune_vocabulary"](model, cell.task, output, size=10_500, **options)
    loaded, _ = load_pretrained(output, "ForSequenceClassification")
    result = {"metrics": report["metrics"], "parameters": count_parameters(loaded)}
    RESULTS.record(cell.small_vocabulary, result)
    shutil.rmtree(output)


def best_rate(method: str) -> float | None:
    """The learning rate that a baseline had the best mean with; `None` for ours, whose recipe says it."""
    if method not in BASELINES:
        return None
    found: dict[str, list[float]] = {}
    for teacher in RESULTS.read().values():
        for rate, runs in teacher.get("search", {}).get(method, {}).items():
            found.setdefault(rate, []).extend(run["metrics"]["accuracy"] for run in runs.values())
    return float(max(found, key=lambda rate: statistics.fmean(found[rate])))


def work(cells: list[Cell], pool: ProcessPoolExecutor | None, data_dir: Path, work_dir: Path) -> None:
    if pool is None:
        for cell in cells:
            run_cell(cell, data_dir, work_dir)
        return
    futures = {pool.submit(run_cell, cell, data_dir, work_dir): cell for cell in cells}
    for done, future in enumerate(as_completed(futures), start=1):
        if future.exception():
            pool.shutdown(wait=False, cancel_futures=True)
        future.result()
        print(f"{done}/{len(cells)}", *futures[future], flush=True)


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    teacher: Annotated[str, typer.Option()],
    task: Annotated[list[str], typer.Option()] = list(TASKS),  # noqa: B006
    method: Annotated[list[str] | None, typer.Option()] = None,
    seed: Annotated[list[int], typer.Option()] = list(FIVE),  # noqa: B006
    processes: Annotated[int, typer.Option()] = 1,
):
    wanted = [
        Cell(teacher, name, way, number)
        for number in seed
        for way in method or methods()
        for name in task
        if number in seeds_of(way, name)
    ]
    # Other sizes last.
    wanted.sort(key=lambda cell: cell.method not in (OURS, *BASELINES))
    search = [
        Cell(teacher, SEARCH_TASK, way, number, rate)
        for way in BASELINES
        if any(cell.method == way for cell in wanted)
        for rate in RATES
        for number in SEARCH_SEEDS
    ]

    def missing(cells: list[Cell], of: Callable[[Cell], bool] = lambda cell: True) -> list[Cell]:
        return [
            cell
            for cell in cells
            if of(cell)
            and not (RESULTS.found(*cell.place) and (cell.method != OURS or RESULTS.found(*cell.small_vocabulary)))
        ]

    # Ours needs no search, so it runs beside it; its first cells make the teachers.
    ours, search = missing(wanted, lambda cell: cell.method == OURS), missing(search)
    with ExitStack() as stack:
        pool = None
        if processes > 1:
            pool = stack.enter_context(ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")))
        work(ours[: len(task)] + search + ours[len(task) :], pool, data_dir, work_dir)
        work(missing(wanted), pool, data_dir, work_dir)
    show()


def _with_interval(values: list[float], form: str) -> str:
    """Mean, and half the width of its 95 % interval (Student's t) where there are several values."""
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {_half_interval(values):.3f}"


def _half_interval(values: list[float]) -> float:
    return student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5


class Table:
    """All runs, by task, method and (teacher, seed)."""

    def __init__(self, results: dict):
        self.teachers = {name: found for name, found in results.items() if "teachers" in found}
        self.tasks = [task for task in TASKS if any(task in found["runs"] for found in self.teachers.values())]
        self.methods = [name for name in dict.fromkeys((OURS, SMALL_VOCABULARY, *methods())) if self.tasks_of(name)]

    def runs(self, task: str, method: str) -> dict[tuple[str, str], dict[str, Any]]:
        return {
            (teacher, seed): run
            for teacher, found in self.teachers.items()
            for seed, run in found["runs"].get(task, {}).get(method, {}).items()
        }

    def tasks_of(self, method: str) -> list[str]:
        return [task for task in self.tasks if self.runs(task, method)]

    def scores(self, task: str, method: str, metric: str = "accuracy") -> dict[tuple[str, str], float]:
        return {key: run["metrics"][metric] for key, run in self.runs(task, method).items()}

    def differences(self, task: str, method: str) -> list[float]:
        """What ours scores more, under the same teacher and with the same seed."""
        ours, theirs = self.scores(task, OURS), self.scores(task, method)
        return [ours[key] - theirs[key] for key in ours if key in theirs]

    def teacher_scores(self, task: str, metric: str = "accuracy") -> dict[str, float]:
        """By teacher; those that were trained on the task."""
        return {
            teacher: found["teachers"][task]["metrics"][metric]
            for teacher, found in self.teachers.items()
            if task in found["teachers"]
        }

    def share(self, task: str, method: str, part: str = "encoder") -> float:
        """Its parameters, of its teacher's."""
        (teacher, _), run = next(iter(self.runs(task, method).items()))
        return run["parameters"][part] / self.teachers[teacher]["teachers"][task]["parameters"][part]

    def averages(self, method: str, tasks: list[str], metric: str = "accuracy") -> tuple[float, float]:
        """Over tasks, the mean score of a method's runs, and that of their teachers."""
        averages, wholes = [], []
        for task in tasks:
            scores, teachers = self.scores(task, method, metric), self.teacher_scores(task, metric)
            averages.append(statistics.fmean(scores.values()))
            # Of every run its own.
            wholes.append(statistics.fmean(teachers[teacher] for teacher, _ in scores))
        return statistics.fmean(averages), statistics.fmean(wholes)

    def curve(self, methods: list[str], tasks: list[str]) -> tuple[list[float], list[float]]:
        """Shares of the teachers' encoder, and of their average accuracy, of the methods that all the tasks have."""
        points = []
        for method in methods:
            if set(tasks) <= set(self.tasks_of(method)):
                average, whole = self.averages(method, tasks)
                points.append((self.share(tasks[0], method), average / whole))
        points.sort()
        return [share for share, _ in points], [kept for _, kept in points]


def summary(results: dict) -> str:
    """The README's sentences about its tables, which need all of their cells."""
    table = Table(results)
    pairs = {task: [table.differences(task, method) for method in BASELINES] for task in table.tasks}
    ahead = {task: found for task, found in pairs.items() if min(map(statistics.fmean, found)) > 0}
    compared = [differences for found in ahead.values() for differences in found]
    clear = sum(statistics.fmean(differences) > _half_interval(differences) for differences in compared)
    kept = {}
    for part in ("1/6", "1/20"):
        average, whole = table.averages(f"{OURS}, {part} of the encoder", table.tasks)
        kept[part] = f"{100 * average / whole:.1f} %"
    return (
        f"SmBERT is ahead of every baseline on {len(ahead)} of the {len(table.tasks)} tasks, and by more than the "
        f"interval in {clear} of these {len(compared)} comparisons. A sixth of the encoder keeps {kept['1/6']} of the "
        f"teacher's average, a twentieth {kept['1/20']}."
    )


def render(results: dict) -> str:
    """The README's tables: quality kept per task, and paired differences."""
    table = Table(results)
    tasks = table.tasks
    head = f"| accuracy | {' | '.join(tasks)} | average | of the teacher | encoder, all parameters |"
    lines = [head, "|---" * (len(tasks) + 4) + "|"]
    for teacher in table.teachers:
        known = {task: scores[teacher] for task in tasks if teacher in (scores := table.teacher_scores(task))}
        average = f"{statistics.fmean(known.values()):.3f}" if len(known) == len(tasks) else ""
        cells = [*(f"{known[task]:.3f}" if task in known else "" for task in tasks), average]
        lines.append(f"| teacher {teacher}, MiniLM-L6 | {' | '.join(cells)} | | |")
    for method in table.methods:
        cells = []
        for task in tasks:
            values = list(table.scores(task, method).values())
            cells.append(f"{_with_interval(values, '.3f')} ({len(values)})" if values else "")
        # An average over fewer tasks than the teacher's would not compare.
        if table.tasks_of(method) == tasks:
            average, teachers = table.averages(method, tasks)
            cells += [f"{average:.3f}", f"{average / teachers:.1%}"]
        else:
            cells += ["", ""]
        some = table.tasks_of(method)[0]
        cells.append(f"{table.share(some, method):.1%}, {table.share(some, method, 'total'):.1%}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", f"| {OURS} minus | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for method in table.methods:
        if method not in BASELINES:
            continue
        cells = []
        for task in tasks:
            differences = table.differences(task, method)
            cells.append(_with_interval(differences, "+.3f") if differences else "")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: dict) -> Figure:
    """What our recipe keeps of its teachers against the size of the encoder: by task, and on average where all tasks
    were run at that size."""
    table = Table(results)
    sizes = [OURS, *(name for name, (cut, _) in VARIANTS.items() if "parameters" in cut)]
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()

    for task in table.tasks:
        axes.plot(*table.curve(sizes, [task]), "o-", label=task, alpha=0.5)
    axes.plot(*table.curve(sizes, table.tasks), "o-", label="average", color="black", linewidth=2.5)
    axes.axhline(1.0, color="tab:gray", linestyle=":", label="teacher, MiniLM-L6")
    axes.set(xlabel="share of the teacher's encoder", ylabel="share of the teacher's accuracy", xscale="log")
    axes.set_xticks(TICKS, [f"1/{round(1 / tick)}" for tick in TICKS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


@app.command()
def show():
    results = RESULTS.read()
    write_figure(Path(__file__).with_suffix(".png"), draw(results))
    print(render(results))


if __name__ == "__main__":
    app()
