"""What a compression won and lost: a point per stage and per baseline, as data, as a picture and as a card."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from matplotlib.figure import Figure

from ..benchmark import Shape, environment, measure_latency
from ..compression import count_bytes, count_macs, count_parameters
from ..convert import load_pretrained
from ..data import load_task
from ..evaluation import evaluate
from .stages import SHRINKING, StageResult


def build_report(
    source: str | Path | None,
    results: Sequence[Sequence[StageResult]],
    baselines: Mapping[str, Sequence[StageResult]],
    task: str,
    shapes: Sequence[Shape],
    shared: Mapping[str, Any],
) -> dict[str, Any]:
    """
    Measures every point of a finished compression.

    Args:
        source (`Path`, *optional*): The given model, where it was fine-tuned already: the first point.
        results (list of lists of `StageResult`): Per seed, per stage; stages on other tasks make no point.
        baselines (`dict` of name to list of `StageResult`): Per baseline its last stage, per seed.
        task (`str`): The job's task, whose metrics count.
        shapes (list of `(rows, tokens)`): Where latency is measured.
        shared (`dict`): Settings of the data.

    Returns:
        `dict`: `points`, `result`, `task`, `metric`, `environment`.
    """
    head = load_task(task, **{k: v for k, v in shared.items() if k != "trust_remote_code"}).head
    named: list[tuple[str, str, str | Path, list[Mapping[str, Any]]]] = []
    if source is not None:
        scores = evaluate(source, task=task, **shared)
        named.append(("given model", "stage", source, [scores]))
    for i, result in enumerate(results[0]):
        if result.task == task:
            named.append((result.stage.name, "stage", result.folder, [seed[i].report for seed in results]))
    for name, runs in baselines.items():
        named.append((name, "baseline", runs[0].folder, [run.report for run in runs]))

    models = {}
    points = []
    for name, kind, folder, reports in named:
        model, _ = load_pretrained(folder, head, bool(shared.get("trust_remote_code")))
        models[name] = model
        rows, tokens = shapes[-1]
        points.append(
            {
                "name": name,
                "kind": kind,
                "parameters": count_parameters(model),
                "bytes": count_bytes(folder),
                "macs": {f"{rows}x{tokens}": count_macs(model.config, rows, tokens) for rows, tokens in shapes},
                "metrics": {
                    metric: _spread([r["metrics"][metric] for r in reports]) for metric in reports[0]["metrics"]
                },
                "steps": reports[0].get("steps", 0),
            }
        )
    latencies = measure_latency(models, shapes)
    for point in points:
        point["latency"] = latencies[point["name"]]
    teacher = _teacher_index(results[0], source, task)
    metric = next(iter(points[-1]["metrics"]))
    stages = [point for point in points if point["kind"] == "stage"]
    return {
        "task": task,
        "metric": metric,
        "points": points,
        "teacher": stages[teacher]["name"],
        "result": _in_relation(stages[-1], stages[teacher], metric),
        "environment": environment(),
    }


def _teacher_index(stages: Sequence[StageResult], source: str | Path | None, task: str) -> int:
    """Index among the stages' points of the last one before the model was made smaller."""
    before = 0
    for result in stages:
        if result.stage.kind in SHRINKING:
            break
        before += result.task == task
    return max(0, before - 1 + (source is not None))


def _spread(values: Sequence[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def _in_relation(point: Mapping[str, Any], teacher: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The finished model as shares of the teacher."""
    shape = next(iter(point["latency"]))
    return {
        "quality_kept": point["metrics"][metric]["mean"] / teacher["metrics"][metric]["mean"],
        "encoder_share": point["parameters"]["encoder"] / teacher["parameters"]["encoder"],
        "total_share": point["parameters"]["total"] / teacher["parameters"]["total"],
        "macs_share": point["macs"][shape] / teacher["macs"][shape],
        **{
            f"speedup_{shape}": teacher["latency"][shape]["median_ms"] / point["latency"][shape]["median_ms"]
            for shape in point["latency"]
        },
    }


def table_rows(report: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The report's points as a header and rows of text, for terminal and card alike."""
    metrics = list(report["points"][0]["metrics"])
    shapes = list(report["points"][0]["latency"])
    header = ("model", *metrics, "encoder", "embedding", "total", "MB", f"GMACs {shapes[-1]}")
    header += tuple(f"ms {shape}" for shape in shapes)
    rows = []
    for point in report["points"]:
        name = point["name"] if point["kind"] == "stage" else f"baseline: {point['name']}"
        scores = [_score(point["metrics"][metric]) for metric in metrics]
        parameters = [f"{point['parameters'][part] / 1e6:.2f}M" for part in ("encoder", "embedding", "total")]
        sizes = [f"{point['bytes'] / 1e6:.1f}", f"{point['macs'][shapes[-1]] / 1e9:.2f}"]
        latencies = [
            f"{latency['median_ms']:.1f} ({latency['low_ms']:.1f}-{latency['high_ms']:.1f})"
            for latency in (point["latency"][shape] for shape in shapes)
        ]
        rows.append((name, *scores, *parameters, *sizes, *latencies))
    return header, rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _score(values: Mapping[str, Any]) -> str:
    spread = "" if values["std"] is None else f" ± {values['std']:.3f}"
    return f"{values['mean']:.3f}{spread}"


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
    figure.savefig(path, dpi=120)


CARD = """---
{{ card_data }}
---

# {{ title }}

A compact BERT for the task `{{ task }}`, made with `compactbert` by the recipe `{{ recipe }}`. {{ description }}

It keeps {{ kept }} of its teacher's {{ metric }} with {{ encoder }} of the teacher's encoder parameters and
{{ total }} of all its parameters, and is {{ speedups }} as fast.

## Use

```python
from transformers import AutoModelFor{{ head }}, AutoTokenizer

model = AutoModelFor{{ head }}.from_pretrained("path/or/repository", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("path/or/repository")
```

The code comes with the weights and needs transformers 5.20 or newer. With `import compactbert` (or `modeling_smbert`,
`modeling_mobilebert_md`) no remote code runs.

## Measured

{{ table }}

![Quality against latency and size](report.png)

Every figure was measured by the run that made this model, on its evaluation split; none is taken from a paper. Quality
is that of the best checkpoint on that split, so it is slightly optimistic, for all rows alike{{ seeds }}. Latency is
the median (and the quartiles) in milliseconds of a forward pass on {{ environment }}, the models
taking turns in one process. GMACs count matrix products. `report.json` has everything in full.

## How it was made

`compactbert compress` with these stages, in order:

{{ stages }}

Teacher: `{{ teacher }}`, made from `{{ base }}`. Licence: that of the base model and of the data apply; none is claimed
here.
"""


def write_card(report: Mapping[str, Any], folder: Path, title: str) -> None:
    """Writes `README.md`, the model card, into a finished folder."""
    settings = report["settings"]
    head = "TokenClassification" if "seqeval_f1" in report["points"][0]["metrics"] else "SequenceClassification"
    base = str(settings["model"])
    result = report["result"]
    # What the weights that `minilm` names are on the Hub.
    known_base = "sentence-transformers/all-MiniLM-L6-v2" if base == "minilm" else base
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="token-classification" if head == "TokenClassification" else "text-classification",
        tags=["compactbert", "compression", "distillation"],
        # The name of a folder on somebody's disk is no repository.
        base_model=known_base if known_base.count("/") == 1 else None,
    )
    speedups = [
        f"{value:.1f}x (at {key.removeprefix('speedup_')})" for key, value in result.items() if "speedup" in key
    ]
    stages = [
        f"{i}. `{kind}`: " + (", ".join(f"`{k}={v}`" for k, v in fields.items() if k != "name") or "defaults")
        for i, stage in enumerate(settings["recipe"]["stages"], start=1)
        for kind, fields in stage.items()
    ]
    facts = report["environment"]
    card = ModelCard.from_template(
        metadata,
        template_str=CARD,
        title=title,
        task=report["task"],
        recipe=report["recipe"]["name"],
        description=report["recipe"]["description"],
        kept=f"{result['quality_kept']:.1%}",
        metric=report["metric"],
        encoder=f"{result['encoder_share']:.1%}",
        total=f"{result['total_share']:.1%}",
        speedups=" and ".join(speedups),
        head=head,
        table=markdown_table(*table_rows(report)),
        seeds="" if settings["seeds"] == 1 else f", with the standard deviation over {settings['seeds']} seeds",
        environment=f"{facts['threads']} threads with {facts['cpu_capability']}, torch {facts['torch']}",
        stages="\n".join(stages),
        teacher=report["teacher"],
        base=known_base,
    )
    card.save(folder / "README.md")


__all__ = ["build_report", "markdown_table", "table_rows", "write_card", "write_plot"]
