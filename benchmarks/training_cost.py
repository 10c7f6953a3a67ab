"""Time per training step of distillation and Theseus over plain fine-tuning: `benchmarks/training_cost.json`.

python benchmarks/training_cost.py --work-dir WORK [--task mrpc --data-dir DATA]

The same student (3 layers, 8 heads, FFN 1024), rows and batches for all; for Theseus the same layers are the successor
of the 6-layer teacher, at the start of its schedule (replacing rate 0.3) and at its end (1.0).
"""

import shutil
import statistics
from pathlib import Path
from typing import Annotated

import typer
from results import Results

import compactbert
from compactbert.recipes.stages import prune_on_task
from compactbert.training import distill, finetune, theseus


RESULTS = Results(__file__)
STEPS = 24


def render(results: dict) -> str:
    """The README's table."""
    lines = ["| step | time over plain fine-tuning | rounds |", "|---|---|---|"]
    for name, ratios in results["ratios"].items():
        low, high = min(ratios), max(ratios)
        lines.append(f"| {name} | {statistics.median(ratios):.2f} ({low:.2f}-{high:.2f}) | {len(ratios)} |")
    return "\n".join(lines)


def main(
    work_dir: Annotated[Path, typer.Option()],
    task: str = "mrpc",
    data_dir: Path | None = None,
    rounds: int = 3,
):
    shared = {"data_dir": data_dir, "max_evaluation_rows": 64}
    teacher, student, narrow = (work_dir / name for name in ("teacher", "student", "narrow"))
    if not teacher.exists():
        finetune("minilm", task, teacher, max_steps=4, **shared)
    if not student.exists():
        prune_on_task(teacher, task, student, layers=[1, 3, 5], heads=8, ffn=1024, rows=64, **shared)
    if not narrow.exists():
        # Six layers of the student's width: what Theseus halves.
        prune_on_task(teacher, task, narrow, heads=8, ffn=1024, rows=64, **shared)

    def seconds(name: str, stage, model: Path, **settings) -> float:
        output = work_dir / "step"
        shutil.rmtree(output, ignore_errors=True)
        report = stage(model, task, output, max_steps=STEPS, **shared, **settings)
        print(name, report["seconds_per_step"])
        return report["seconds_per_step"]

    ways = {
        "distillation, teacher in every step": (distill, student, {"teacher": teacher}),
        "distillation, cached teacher": (distill, student, {"teacher": teacher, "teacher_cache": work_dir / "cache"}),
        "distillation with relations": (distill, student, {"teacher": teacher, "relation_weight": 1.0}),
        "Theseus, replacing rate 0.3": (
            theseus,
            narrow,
            {"layers": 3, "replacing_rate": 0.3, "replacing_rate_coefficient": 1e-9},
        ),
        "Theseus, replacing rate 1.0": (theseus, narrow, {"layers": 3, "replacing_rate": 1.0}),
    }
    # Fills the cache, which is a matter of once.
    stage, model, settings = ways["distillation, cached teacher"]
    seconds("filling the cache", stage, model, **settings)
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        plain = seconds("plain fine-tuning", compactbert.finetune, student)
        for name, (stage, model, settings) in ways.items():
            ratios[name].append(seconds(name, stage, model, **settings) / plain)
    for name, value in {"ratios": ratios, "task": task, "steps": STEPS}.items():
        RESULTS.record((name,), value)
    print(render(RESULTS.read()))


if __name__ == "__main__":
    typer.run(main)
