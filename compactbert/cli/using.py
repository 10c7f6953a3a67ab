"""Commands that use, measure and look into a model."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import (
    DataDir,
    JsonFile,
    LabelColumn,
    MaxEvaluationRows,
    MaxLength,
    Model,
    Problem,
    Runtime,
    Seed,
    TaskName,
    TextColumn,
    TrainedModel,
    TrustRemoteCode,
)
from .terminal import friendly_errors, say, show, write_json


def evaluate(
    model: TrainedModel,
    task: TaskName,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    problem: Problem = None,
    max_length: MaxLength = 128,
    batch_size: Annotated[int, typer.Option(help="Rows at a time.")] = 64,
    runtime: Runtime = "torch",
    max_evaluation_rows: MaxEvaluationRows = None,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Score a fine-tuned model on a task's evaluation split."""
    with friendly_errors():
        import compactbert

        report = compactbert.evaluate(
            model,
            task=task,
            data_dir=data_dir,
            text_columns=text_column,
            label_column=label_column,
            problem=problem,
            max_length=max_length,
            batch_size=batch_size,
            runtime=runtime,
            max_evaluation_rows=max_evaluation_rows,
            trust_remote_code=trust_remote_code,
        )
    rows = [(name, f"{value:.4f}") for name, value in report["metrics"].items()]
    rows += [("rows", report["rows"]), ("cut to length", report["truncated"]), ("seconds", report["seconds"])]
    show(f"{model} on {task} ({report['split']})", ("", ""), rows)
    write_json(report, json_file)


def predict(
    model: TrainedModel,
    source: Annotated[str, typer.Argument(help='A csv/jsonl/parquet file, a file of lines, or "-" for stdin.')] = "-",
    output: Annotated[Path | None, typer.Option(help="A .csv or .jsonl file; standard output otherwise.")] = None,
    text_column: Annotated[list[str], typer.Option(help="Column of text; twice for pairs.")] = ["text"],  # noqa: B006
    pairs: Annotated[bool, typer.Option(help="Lines are two texts with a tab between.")] = False,
    max_length: MaxLength = 128,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 64,
    runtime: Runtime = "torch",
    trust_remote_code: TrustRemoteCode = False,
):
    """Label texts: one JSON row per text, in order, with the label and its score."""
    with friendly_errors():
        import compactbert

        rows = compactbert.predict(
            model,
            source,
            output,
            text_columns=text_column,
            pairs=pairs,
            max_length=max_length,
            batch_size=batch_size,
            runtime=runtime,
            trust_remote_code=trust_remote_code,
        )
    if output is None:
        sys.stdout.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        say(f"{len(rows)} rows written to {output}.")


def export(
    model: TrainedModel,
    output: Annotated[Path, typer.Option(help="Where to write; must not exist.")],
    to: Annotated[Literal["onnx"], typer.Option(help="The format.")] = "onnx",
    int8: Annotated[list[str] | None, typer.Option(help="Write int8 models too: dynamic, static.")] = None,
    task: Annotated[str | None, typer.Option(help="A task whose rows calibrate static int8.")] = None,
    rows: Annotated[int, typer.Option(help="Rows that calibrate static int8.")] = 128,
    max_length: MaxLength = 128,
    data_dir: DataDir = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Write a model for another runtime, checked there."""
    with friendly_errors():
        from compactbert.inference import export as export_model

        report = export_model(
            model,
            output,
            to=to,
            int8=int8 or (),  # type: ignore[arg-type]
            task=task,
            rows=rows,
            max_length=max_length,
            data_dir=data_dir,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    table = [(name, f"{size / 1e6:.1f} MB") for name, size in report["bytes"].items()]
    show(f"{output}, largest error {report['max_error']:.1e}", ("file", "size"), table)
    write_json(report, json_file)


def bench(
    model: Annotated[list[str], typer.Argument(help='A folder, repository, preset, or "bert-base", "mobilebert", ...')],
    output: Annotated[Path | None, typer.Option(help="Folder for the result (JSON) and the plot.")] = None,
    runtime: Annotated[list[str], typer.Option(help="eager, sdpa or fused, also with -bf16; onnx, onnx-int8.")] = [  # noqa: B006
        "eager",
        "sdpa",
        "fused",
    ],
    shape: Annotated[list[str], typer.Option(help="Rows x tokens.")] = ["1x128", "8x128"],  # noqa: B006
    baseline: Annotated[
        str | None, typer.Option(help='What to compare with, such as "mobilebert, eager"; the default is the first.')
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    rounds: Annotated[int, typer.Option(help="Timed turns of each.")] = 15,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Measure models side by side: latency, ratios with their spread, size, share of the hardware's peak."""
    with friendly_errors():
        from compactbert import benchmark

        result = benchmark.bench(
            model,
            output,
            runtimes=runtime,
            shapes=[benchmark.parse_shape(text) for text in shape],
            baseline=baseline,
            threads=threads,
            rounds=rounds,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    show(f"times as fast as {result['baseline']}", *benchmark.benchmark_rows(result))
    if output is not None:
        say(f"{output}: {', '.join(Path(file).name for file in result['files'])}")
    write_json(result, json_file)


def search(
    output: Annotated[Path | None, typer.Option(help="Folder for the list (JSON) and the plot.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Budget of parameters, such as 25e6.")] = None,
    macs: Annotated[float | None, typer.Option(help="Budget of multiply-accumulates for one sequence.")] = None,
    heads: Annotated[list[int], typer.Option(help="Attention heads that layers may have.")] = [4],  # noqa: B006
    num_layers: Annotated[int, typer.Option(help="Layers.")] = 24,
    shape: Annotated[list[str], typer.Option(help="Rows x tokens at which latency is measured.")] = ["1x128"],  # noqa: B006
    limit: Annotated[int, typer.Option(help="How many layouts to measure, those nearest the budget first.")] = 10,
    json_file: JsonFile = None,
):
    """List the MobileBERTs (stages, widths, heads, FFNs) that a budget buys, and how fast they are."""
    with friendly_errors():
        from compactbert.benchmark import parse_shape
        from compactbert.search import layout_rows
        from compactbert.search import search as search_layouts

        shapes = [parse_shape(text) for text in shape]
        result = search_layouts(
            output,
            shapes=shapes,
            limit=limit,
            parameters=parameters,
            macs=macs,
            heads=heads,
            num_layers=num_layers,
        )
    show("layouts", *layout_rows(result))
    if output is not None:
        say(f"{output}: {', '.join(Path(file).name for file in result['files'])}")
    write_json(result, json_file)


def inspect(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder for the pictures; must not exist.")],
    text: Annotated[str | None, typer.Option(help="Draw what its tokens attend to.")] = None,
    task: Annotated[str | None, typer.Option(help="Draw embeddings and attention of a task's texts.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the task to draw.")] = 500,
    layer: Annotated[int | None, typer.Option(help="Draw the heads of this layer, from 0; or all layers.")] = None,
    projection: Annotated[Literal["pca", "tsne"], typer.Option(help="Of embeddings to two dimensions.")] = "pca",
    max_length: MaxLength = 64,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Draw a model from the inside: attention, embeddings, the curves of its training."""
    with friendly_errors():
        from compactbert.inspection import inspect as inspect_model

        result = inspect_model(
            model,
            output,
            text=text,
            task=task,
            rows=rows,
            layer=layer,
            projection=projection,
            max_length=max_length,
            data_dir=data_dir,
            text_columns=text_column,
            label_column=label_column,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    layers = [(i, *(f"{value:.4f}" for value in layer.values())) for i, layer in enumerate(result["attention"])]
    show("attention", ("layer", "mean", "variance", "entropy"), layers)
    say(f"{output}: {', '.join(result['files'])}")
    write_json(result, json_file)
