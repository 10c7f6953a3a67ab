"""What a compression won and lost: a point per stage and per baseline, as data and as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..benchmark import Shape, measure_latency
from ..compression import count_bytes, count_macs, count_parameters
from ..convert import load_pretrained
from ..data import Task
from ..files import write_figure
from ..provenance import environment
from .stages import StageResult


def build_report(
    source: str | Path,
    given_scores: Mapping[str, Any] | None,
    results: Sequence[Sequence[StageResult]],
    baselines: Mapping[str, Sequence[StageResult]],
    task: Task,
    shapes: Sequence[Shape],
    trust_remote_code: bool,
) -> dict[str, Any]:
    """
    Measures every point of a finished compression.

    Args:
        source (`str` or `Path`): The given model.
        given_scores (`dict`, *optional*): Its scores, where it was fine-tuned already: the first point.
        results (list of lists of `StageResult`): Per seed, per stage; stages on other tasks make no point.
        baselines (`dict` of name to list of `StageResult`): Per baseline its last stage, per seed.
        task ([`~compactbert.data.Task`]): The job's task, whose metrics count.
        shapes (list of `(rows, tokens)`): Where latency is measured.
        trust_remote_code (`bool`): As in [`~compactbert.compress`].

    Returns:
        `dict`: `points`, `result`, `teacher`, `task`, `split`, `rows`, `metric`, `training_seconds`, `environment`.
    """
    named: list[tuple[str, str, str | Path, list[Mapping[str, Any]]]] = []
    if given_scores is not None:
        named.append(("given model", "stage", source, [given_scores]))
    for i, result in enumerate(results[0]):
        if result.task == task.name:
            named.append((result.stage.name, "stage", result.folder, [seed[i].report for seed in results]))
    for name, runs in baselines.items():
        named.append((name, "baseline", runs[0].folder, [run.report for run in runs]))

    models = {}
    points: list[dict[str, Any]] = []
    for name, kind, folder, reports in named:
        model, _ = load_pretrained(folder, task.head, trust_remote_code)
        models[str(len(points))] = model
        points.append(
            {
                "name": name,
                "kind": kind,
                "parameters": count_parameters(model),
                # What a file on the Hub takes, where there is none here.
                "bytes": count_bytes(folder) or sum(p.numel() * p.element_size() for p in model.parameters()),
                "macs": {f"{rows}x{tokens}": count_macs(model.config, rows, tokens) for rows, tokens in shapes},
                "metrics": {
                    metric: _spread([r["metrics"][metric] for r in reports]) for metric in reports[0]["metrics"]
                },
                "steps": reports[0].get("steps", 0),
                # What else the stage reported, of the first seed.
                "details": {k: v for k, v in reports[0].items() if k not in ("metrics", "settings", "steps", "task")},
            }
        )
    latencies = measure_latency(models, shapes)
    for number, point in enumerate(points):
        point["latency"] = latencies[str(number)]
    teacher = _teacher_index(results[0], given_scores is not None, task.name)
    metric = next(iter(points[-1]["metrics"]))
    stages = [point for point in points if point["kind"] == "stage"]
    return {
        "task": task.name,
        "split": task.evaluation_split,
        "rows": len(task.evaluation),
        "metric": metric,
        "points": points,
        # None where nothing before the model was made smaller was on this task.
        "teacher": None if teacher is None else stages[teacher]["name"],
        "result": None if teacher is None else _in_relation(stages[-1], stages[teacher], metric),
        # Of the model that is left, and of what was before it.
        "training_seconds": sum(r.report.get("seconds_per_step", 0) * r.report.get("steps", 0) for r in results[0]),
        "environment": environment(),
    }


def _teacher_index(stages: Sequence[StageResult], given: bool, task: str) -> int | None:
    """Index among the stages' points of the last one that left the model whole, if there is one."""
    before = int(given)
    for result in stages:
        if result.stage.kind != "finetune":
            break
        before += result.task == task
    return before - 1 if before else None


def _spread(values: Sequence[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def _in_relation(point: Mapping[str, Any], teacher: Mapping[str, Any], metric: str) -> dict[str, float | None]:
    """The finished model as shares of the teacher."""
    shape = next(iter(point["latency"]))
    quality = teacher["metrics"][metric]["mean"]
    return {
        # Of a teacher that has learnt nothing there is no share to keep.
        "quality_kept": point["metrics"][metric]["mean"] / quality if quality > 0 else None,
        "encoder_share": point["parameters"]["encoder"] / teacher["parameters"]["encoder"],
        "total_share": point["parameters"]["total"] / teacher["parameters"]["total"],
        "macs_share": point["macs"][shape] / teacher["macs"][shape],
        **{
            f"speedup_{shape}": teacher["latency"][shape]["median_ms"] / point["latency"][shape]["median_ms"]
            for shape in point["latency"]
        },
    }


def write_plot(report: Mapping[str, Any], path: Path) -> None:
    """Draws quality against latency and against size, a point per stage and baseline, to a PNG file."""
    shape = list(report["points"][0]["latency"])[-1]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    latency_axes, size_axes = figure.subplots(1, 2, sharey=True)
    for axes, label in ((latency_axes, f"milliseconds at {shape}"), (size_axes, "million parameters in the encoder")):
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    latency_axes.set_ylabel(f"{report['metric']} on {report['task']}")
    for kind, marker, color in (("stage", "o", "tab:blue"), ("baseline", "s", "tab:orange")):
        points = [point for point in report["points"] if point["kind"] == kind]
        for axes, values in (
            (latency_axes, [point["latency"][shape]["median_ms"] for point in points]),
            (size_axes, [point["parameters"]["encoder"] / 1e6 for point in points]),
        ):
            quality = [point["metrics"][report["metric"]] for point in points]
            axes.errorbar(
                values,
                [score["mean"] for score in quality],
                yerr=[score["std"] or 0.0 for score in quality],
                fmt=marker,
                color=color,
                label=kind,
                capsize=3,
            )
            # Labels of points that lie close together go up and down in turn.
            for i, (point, value, score) in enumerate(zip(points, values, quality, strict=True)):
                offset = (5, 6 if i % 2 == 0 else -13)
                axes.annotate(point["name"], (value, score["mean"]), xytext=offset, textcoords="offset points", size=8)
            axes.margins(x=0.3, y=0.15)
    for axes in (latency_axes, size_axes):
        axes.set_xlim(left=0)
    if any(point["kind"] == "baseline" for point in report["points"]):
        size_axes.legend()
    figure.suptitle(f"{report['recipe']['name']}: quality against latency and size, each stage and baseline")
    write_figure(path, figure)


__all__ = ["build_report", "write_plot"]
