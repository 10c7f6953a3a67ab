"""SmBERT from fine-tuned MiniLM-L6 (6 to 3 layers, 12 to 8 heads, FFN 1536 to 1024) and its baselines, all with the
same final shape, seeds and number of training steps, on five tasks: `benchmarks/compress_minilm.json`.

    python benchmarks/compress_minilm.py run --data-dir DATA --work-dir WORK [--task mrpc] [--seed 1] [--method smbert]
    python benchmarks/compress_minilm.py show

`run` makes what is missing, one cell after another, and may be killed and called again, or called side by side for
different tasks. Our method is `configs/recipes/smbert-minilm.yaml`; the baselines are below.
"""

import fcntl
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from scipy.stats import t as student_t

import compactbert
from compactbert.benchmark import environment
from compactbert.compression import count_parameters
from compactbert.convert import load_pretrained
from compactbert.files import write_text
from compactbert.recipes import load_recipe
from compactbert.recipes.stages import STAGES, TRAINING


RESULTS = Path(__file__).with_suffix(".json")
RECIPE = "smbert-minilm"
OURS = "smbert"
TEACHER_SEED = 42
FIVE, THREE = (1, 2, 3, 4, 5), (1, 2, 3)
# Per task the fine-tunings that make the teacher, the steps of our last stage (all other methods get these and the
# steps of our stage on texts), and the seeds of the students.
TASKS = {
    "mrpc": {"teacher": [("mrpc", 4, 1e-4)], "steps": 345, "seeds": FIVE},
    "rte": {"teacher": [("mnli", 1, 1e-4), ("rte", 4, 5e-5)], "steps": 234, "seeds": FIVE},
    "sst2": {"teacher": [("sst2", 2, 5e-5)], "steps": 1250, "seeds": THREE},
    "qqp": {"teacher": [("qqp", 3, 1e-4)], "steps": 626, "seeds": THREE},
    "paws-x/en": {"teacher": [("paws-x/en", 3, 1e-4), ("paws-x/en", 4, 1.5e-4)], "steps": 750, "seeds": THREE},
}
ROWS = {
    "sst2": {"max_train_rows": 20_000},
    "qqp": {"max_evaluation_rows": 4_000},
    "mnli": {"max_evaluation_rows": 2_000},
}
TEXT_STEPS = 625
BEST_THREE = {"prune": {"layers": [1, 3, 5], "heads": 8, "ffn": 1024}}
FINETUNE = {"finetune": {"epochs": 1, "learning_rate": 1e-4}}
LOGITS = {"kd_loss_weight": 1.0, "hard_label_weight": 0.0, "cosine_weight": 0.0}
# Other sizes than our third, as shares of the weights in the encoder's matrices; by --method.
CURVE = {"1/2": 1 / 2, "1/6": 1 / 6, "1/10": 1 / 10, "1/20": 1 / 20}
# So many tokens make the whole model, embeddings included, at most 35 % of the teacher.
SMALL_VOCABULARY = f"{OURS}, 10,500 tokens"
# Epochs are shares of the steps.
BASELINES = {
    "first three layers, fine-tuned": [{"prune": {"layers": [0, 1, 2], "heads": 8, "ffn": 1024}}, FINETUNE],
    "logits distillation": [BEST_THREE, {"distill": {"epochs": 1, "learning_rate": 1e-4, **LOGITS}}],
    "Theseus": [
        {"theseus": {"layers": 3, "successor_layers": [1, 3, 5], "epochs": 2, "learning_rate": 1e-4}},
        {"prune": {"heads": 8, "ffn": 1024}},
        FINETUNE,
    ],
    "one-shot pruning": [BEST_THREE, FINETUNE],
}
app = typer.Typer()


def methods() -> dict:
    """Stages after the teacher's, by name: the shipped recipe's, those of the baselines, and the shipped recipe's for
    other sizes of the encoder."""
    recipe = load_recipe({"stages": ["finetune"], "baselines": BASELINES})
    ours = load_recipe(RECIPE).stages[1:]
    sizes = {}
    for name, share in CURVE.items():
        cut = replace(ours[0], settings={"every": 2, "parameters": share})
        sizes[f"{OURS}, {name} of the encoder"] = (cut, *ours[1:])
    return {OURS: ours, **recipe.baselines, **sizes}


def record(path: tuple[str, ...], value: object) -> None:
    """Writes one result; several processes may do so at a time."""
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        place = results
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
        results["environment"] = environment()
        write_text(RESULTS, json.dumps(results, indent=1) + "\n")


def recorded(*path: str) -> bool:
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for key in path:
        if key not in results:
            return False
        results = results[key]
    return True


def run_teacher(task: str, data_dir: Path, work_dir: Path) -> Path:
    folder = work_dir / task.replace("/", "-") / "teacher"
    model: str | Path = "minilm"
    for number, (name, epochs, learning_rate) in enumerate(TASKS[task]["teacher"], start=1):
        output = folder / str(number)
        if not output.exists():
            options = {"epochs": epochs, "learning_rate": learning_rate, **ROWS.get(name, {})}
            compactbert.finetune(model, name, output, data_dir=data_dir, seed=TEACHER_SEED, **options)
        model = output
    if not recorded("teachers", task):
        report = json.loads((Path(model) / "metrics.json").read_text())
        loaded, _ = load_pretrained(model, "ForSequenceClassification")
        kept = {key: report[key] for key in ("metrics", "rows", "steps")}
        record(("teachers", task), kept | {"parameters": count_parameters(loaded)})
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


def run_cell(task: str, method: str, seed: int, teacher: Path, data_dir: Path, work_dir: Path) -> None:
    folder = work_dir / task.replace("/", "-") / f"{method.replace(' ', '-').replace(',', '')}-{seed}"
    model, steps, seconds = teacher, 0, 0.0
    stages = methods()[method]
    for number, (stage, max_steps) in enumerate(zip(stages, steps_of(stages, task), strict=True), start=1):
        output = folder / f"{number}-{stage.kind}"
        options = {"data_dir": data_dir, "seed": seed, **ROWS.get(task, {}), **stage.settings}
        if stage.kind in TRAINING:
            options["max_steps"] = max_steps
            # The steps are the limit; Theseus reaches 1 in the fraction of training that SmBERT's 15 epochs mean.
            options["epochs"] = 15 if stage.kind == "theseus" else 1000
        if stage.kind == "distill":
            options |= {"teacher": teacher, "teacher_cache": work_dir / task.replace("/", "-") / "teacher_cache"}
        if not output.exists():
            STAGES[stage.kind](model, task, output, **options)
        report = json.loads((output / "metrics.json").read_text())
        steps += report.get("steps", 0)
        seconds += report.get("steps", 0) * report.get("seconds_per_step", 0.0)
        model = output
    loaded, _ = load_pretrained(model, "ForSequenceClassification")
    result = {"metrics": report["metrics"], "steps": steps, "training_seconds": round(seconds, 1)}
    record(("runs", task, method, str(seed)), result | {"parameters": count_parameters(loaded)})
    # What led to the result is no longer needed; ours is, for its vocabulary to be pruned.
    for output in folder.iterdir():
        if output != model or method != OURS:
            shutil.rmtree(output)


def run_small_vocabulary(task: str, seed: int, data_dir: Path, work_dir: Path) -> None:
    """Our result with its vocabulary pruned, without training."""
    model = next((work_dir / task.replace("/", "-") / f"{OURS}-{seed}").glob("*-distill"))
    output = model.with_name("vocabulary")
    shutil.rmtree(output, ignore_errors=True)
    options = {"data_dir": data_dir, **ROWS.get(task, {})}
    report = STAGES["prune_vocabulary"](model, task, output, size=10_500, **options)
    loaded, _ = load_pretrained(output, "ForSequenceClassification")
    result = {"metrics": report["metrics"], "parameters": count_parameters(loaded)}
    record(("runs", task, SMALL_VOCABULARY, str(seed)), result)
    shutil.rmtree(output)


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    task: Annotated[list[str], typer.Option()] = list(TASKS),  # noqa: B006
    method: Annotated[list[str] | None, typer.Option()] = None,
    seed: Annotated[list[int] | None, typer.Option()] = None,
):
    for number in seed or FIVE:
        for name in task:
            teacher = run_teacher(name, data_dir, work_dir)
            if number not in TASKS[name]["seeds"]:
                continue
            for way in method or (OURS, *BASELINES):
                if not recorded("runs", name, way, str(number)):
                    run_cell(name, way, number, teacher, data_dir, work_dir)
                if way == OURS and not recorded("runs", name, SMALL_VOCABULARY, str(number)):
                    run_small_vocabulary(name, number, data_dir, work_dir)
    show()


def _with_interval(values: list[float], form: str) -> str:
    """Mean, and half the width of its 95 % interval (Student's t) where there are several values."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:{form}}"
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{form}} ± {half:.3f}"


def render(results: dict) -> str:
    """The README's tables: quality kept per task, and paired differences."""
    runs, teachers = results["runs"], results["teachers"]
    tasks = [task for task in TASKS if task in runs]
    names = list(dict.fromkeys(name for task in tasks for name in runs[task]))
    head = f"| accuracy | {' | '.join(tasks)} | average | of the teacher | encoder, all parameters |"
    lines = [head, "|---" * (len(tasks) + 4) + "|"]
    of_teacher = [teachers[task]["metrics"]["accuracy"] for task in tasks]
    cells = [f"{value:.3f}" for value in [*of_teacher, statistics.fmean(of_teacher)]]
    lines.append(f"| teacher, MiniLM-L6 | {' | '.join(cells)} | | |")
    whole = teachers[tasks[0]]["parameters"]
    for name in names:
        means, cells = [], []
        for task in tasks:
            scores = [run["metrics"]["accuracy"] for run in runs[task].get(name, {}).values()]
            means += [statistics.fmean(scores)] if scores else []
            cells.append(f"{_with_interval(scores, '.3f')} ({len(scores)})" if scores else "")
        # An average over fewer tasks than the teacher's would not compare.
        average = statistics.fmean(means) if len(means) == len(tasks) else None
        kept = "" if average is None else f"{average / statistics.fmean(of_teacher):.1%}"
        some = next(run for task in tasks for run in runs[task].get(name, {}).values())["parameters"]
        shares = f"{some['encoder'] / whole['encoder']:.1%}, {some['total'] / whole['total']:.1%}"
        cells += ["" if average is None else f"{average:.3f}", kept, shares]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| {OURS} minus | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name in names:
        if name not in BASELINES:
            continue
        cells = []
        for task in tasks:
            ours, theirs = runs[task].get(OURS, {}), runs[task].get(name, {})
            both = [ours[s]["metrics"]["accuracy"] - theirs[s]["metrics"]["accuracy"] for s in ours if s in theirs]
            cells.append(_with_interval(both, "+.3f") if both else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    app()
