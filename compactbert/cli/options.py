"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


METHODS = (
    "lora, dora, adapter, houlsby, prompt, p-tuning, prompt+p-tuning, prefix, ia3, ln-tuning, adalora, "
    "or any of PEFT's by its name."
)
FURTHER = "Field of TrainingArguments or of FinetuningConfig, such as lr_scheduler_type=cosine; repeatable."
CONTINUES = "The same command continues from the last checkpoint."
Model = Annotated[str, typer.Option(help='A folder, a repository on the Hub, or "minilm".')]
TrainedModel = Annotated[str, typer.Option("--model", help="A folder or a repository, of a model or an adapter.")]
TaskName = Annotated[str, typer.Option(help='"docstrings", a csv/jsonl/parquet file, a folder, or a name like "sst2".')]
DataDir = Annotated[Path | None, typer.Option(help="Folder of datasets (<task>/<split>.parquet); or COMPACTBERT_DATA.")]
TextColumn = Annotated[list[str] | None, typer.Option(help="Column of text; twice for text pairs.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of labels.")]
Problem = Annotated[
    Literal["single_label_classification", "multi_label_classification", "regression", "token_classification"] | None,
    typer.Option(help="What labels mean, if it cannot be told from them."),
]
NewModel = Annotated[Path, typer.Option("--output", help="Where to write the model; must not exist.")]
Epochs = Annotated[float, typer.Option(help="Passes over the training rows.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
BatchSize = Annotated[int, typer.Option(help="Rows per step.")]
MaxSteps = Annotated[int | None, typer.Option(help="Stop after so many steps; schedules shrink with them.")]
MaxMinutes = Annotated[float | None, typer.Option(help="Stop after as many steps as fit into this time.")]
WeightDecay = Annotated[float, typer.Option(help="AdamW's weight decay.")]
Warmup = Annotated[float, typer.Option(help="Share of the steps over which the learning rate rises.")]
SubwordDropout = Annotated[
    float, typer.Option(help="Share of the tokens that training rows do without, anew in every epoch.")
]
EarlyStopping = Annotated[int | None, typer.Option(help="Stop after so many evaluations without gain.")]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Mixed precision.")]
MaxLength = Annotated[int, typer.Option(help="Longest input in tokens.")]
TrustRemoteCode = Annotated[bool, typer.Option(help="Run the code of a repository that brings its own.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]
Runtime = Annotated[
    Literal["torch", "fused", "onnx", "onnx-int8", "onnx-int8-static"],
    typer.Option(help="fused is faster; onnx runs what `export` wrote."),
]
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
MaxTrainRows = Annotated[int | None, typer.Option(help="Train on a fixed sample of so many rows.")]
MaxEvaluationRows = Annotated[int | None, typer.Option(help="Evaluate on a fixed sample of so many rows.")]
Table = Annotated[Path, typer.Argument(help="A csv, jsonl or parquet file.")]
NewTable = Annotated[Path, typer.Option(help="The csv, jsonl or parquet file to write; must not exist.")]
TableTexts = Annotated[list[str], typer.Option("--text-column", help="Column of text; twice for text pairs.")]
TableLabel = Annotated[str, typer.Option("--label-column", help="Column of labels.")]
Near = Annotated[float | None, typer.Option(help="Texts this much alike count as equal too, such as 0.8.")]


def parse_options(name: str, pairs: list[str]) -> dict[str, Any]:
    """`key=value` as a dict, values as in the YAML of a recipe."""
    import yaml

    from compactbert.recipes.recipe import Loader

    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"`{name}` must be key=value, got {pair!r}.")
        try:
            options[key] = yaml.load(value, Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"`{name} {pair}` has no value that can be read: {error}") from error
    return options
