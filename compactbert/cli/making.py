"""Commands that make a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import (
    CONTINUES,
    FURTHER,
    METHODS,
    BatchSize,
    DataDir,
    EarlyStopping,
    Epochs,
    JsonFile,
    LabelColumn,
    LearningRate,
    MaxEvaluationRows,
    MaxLength,
    MaxMinutes,
    MaxSteps,
    MaxTrainRows,
    Model,
    NewModel,
    Precision,
    Problem,
    Seed,
    SubwordDropout,
    TaskName,
    TextColumn,
    TrustRemoteCode,
    Warmup,
    WeightDecay,
    parse_options,
)
from .terminal import friendly_errors, say, show, show_compression, show_training, write_json


def demo(
    output: Annotated[Path, typer.Option(help="Where to write the model.")] = Path("compactbert-demo"),
    seed: Seed = 42,
    json_file: JsonFile = None,
):
    """The first run: compress the real MiniLM on docstrings, report it, use it in a clean process."""
    with friendly_errors(CONTINUES):
        import compactbert

        result = compactbert.demo(output, seed=seed)
    show_compression(result["report"], output)
    clean = result["clean_process"]
    rows = [(row["text"], row["label"], f"{row['score']:.2f}") for row in clean["rows"]]
    show(f"{output}, loaded in a clean process as {clean['class']}", ("text", "label", "score"), rows)
    say(f"Done in {result['seconds']:.0f} s.")
    write_json(result, json_file)


def compress(
    model: Model,
    task: TaskName,
    output: NewModel,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a YAML file.")] = "smbert-minilm",
    finetuned: Annotated[bool, typer.Option(help="The model is fine-tuned on this task already.")] = False,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    problem: Problem = None,
    max_minutes: Annotated[float | None, typer.Option(help="Budget for all training of one seed.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Budget for all training of one seed, in steps.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="Rows x tokens at which latency is measured.")] = None,
    max_train_rows: MaxTrainRows = None,
    max_evaluation_rows: MaxEvaluationRows = None,
    seed: Seed = 42,
    seeds: Annotated[int, typer.Option(help="So many seeds, for the spread of the quality.")] = 1,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Make a smaller, faster model of any BERT for a task. The same command continues a run that was killed."""
    with friendly_errors(CONTINUES):
        import compactbert

        report = compactbert.compress(
            model,
            task,
            output,
            recipe=recipe,
            finetuned=finetuned,
            data_dir=data_dir,
            text_columns=text_column,
            label_column=label_column,
            problem=problem,
            max_minutes=max_minutes,
            max_steps=max_steps,
            shapes=shape or None,
            max_train_rows=max_train_rows,
            max_evaluation_rows=max_evaluation_rows,
            seed=seed,
            seeds=seeds,
            trust_remote_code=trust_remote_code,
        )
    show_compression(report, output)
    write_json(report, json_file)


def transfer(
    text: Annotated[list[str], typer.Option(help="A text file, folder or pattern; as often as needed.")],
    output: Annotated[Path, typer.Option(help="Where to write the student; must not exist.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a YAML file.")] = "mobilebert-md-minilm",
    model: Annotated[str | None, typer.Option(help="What the teacher is made of, in place of the recipe's.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="A finished teacher, or where to put the recipe's.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Where the tokenised text is, or is to be put.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Whose tokens, for a teacher that is new.")] = "minilm",
    max_steps: Annotated[int | None, typer.Option(help="Budget of the transfer, in steps.")] = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Train a small language model on a teacher, from text. Continues a run that was killed."""
    with friendly_errors(CONTINUES):
        import compactbert

        report = compactbert.transfer(
            text,
            output,
            recipe=recipe,
            model=model,
            teacher=teacher,
            corpus=corpus,
            tokenizer=tokenizer,
            max_steps=max_steps,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    rows = [(name.replace("_", " "), f"{value:.4g}") for name, value in report["metrics"].items()]
    rows += [("steps", report["steps"]), ("seconds per step", report["seconds_per_step"])]
    show(f"{output}, on {report['measured_on']}", ("", ""), rows)
    say(f"{output}: the curves are in {output / 'transfer.png'}.")
    write_json(report, json_file)


def finetune(
    model: Model,
    task: TaskName,
    output: NewModel,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    problem: Problem = None,
    epochs: Epochs = 3.0,
    learning_rate: LearningRate = 5e-5,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    max_steps: MaxSteps = None,
    max_minutes: MaxMinutes = None,
    weight_decay: WeightDecay = 0.01,
    warmup: Warmup = 0.1,
    subword_dropout: SubwordDropout = 0.0,
    early_stopping: EarlyStopping = None,
    precision: Precision = "auto",
    further: Annotated[list[str] | None, typer.Option("--set", help=FURTHER)] = None,
    max_train_rows: MaxTrainRows = None,
    max_evaluation_rows: MaxEvaluationRows = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Fine-tune a model on a task. The same command continues a run that was killed."""
    with friendly_errors(CONTINUES):
        import compactbert

        report = compactbert.finetune(
            model,
            task,
            output,
            data_dir=data_dir,
            text_columns=text_column,
            label_column=label_column,
            problem=problem,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            max_steps=max_steps,
            max_minutes=max_minutes,
            weight_decay=weight_decay,
            warmup=warmup,
            subword_dropout=subword_dropout,
            early_stopping=early_stopping,
            precision=precision,
            training_arguments=parse_options("--set", further) if further else None,
            max_train_rows=max_train_rows,
            max_evaluation_rows=max_evaluation_rows,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    show_training(report, output)
    write_json(report, json_file)


def adapt(
    model: Model,
    task: TaskName,
    output: Annotated[Path, typer.Option(help="Where to write the adapter; must not exist.")],
    method: Annotated[str, typer.Option(help=METHODS)] = "lora",
    option: Annotated[list[str] | None, typer.Option(help="Field of the method, such as r=16; repeatable.")] = None,
    merge: Annotated[bool, typer.Option(help="Write a plain model with the adapter merged in.")] = False,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    problem: Problem = None,
    epochs: Epochs = 3.0,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate; the default is 1e-3, for prompts and prefixes 1e-2.")
    ] = None,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    max_steps: MaxSteps = None,
    max_minutes: MaxMinutes = None,
    weight_decay: WeightDecay = 0.01,
    warmup: Warmup = 0.1,
    early_stopping: EarlyStopping = None,
    precision: Precision = "auto",
    max_train_rows: MaxTrainRows = None,
    max_evaluation_rows: MaxEvaluationRows = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Train an adapter on a frozen model. The same command continues a run that was killed."""
    with friendly_errors(CONTINUES):
        import compactbert

        report = compactbert.adapt(
            model,
            task,
            output,
            method=method,
            options=parse_options("--option", option or []),
            merge=merge,
            data_dir=data_dir,
            text_columns=text_column,
            label_column=label_column,
            problem=problem,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            max_steps=max_steps,
            max_minutes=max_minutes,
            weight_decay=weight_decay,
            warmup=warmup,
            early_stopping=early_stopping,
            precision=precision,
            max_train_rows=max_train_rows,
            max_evaluation_rows=max_evaluation_rows,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    show_training(report, output)
    parameters, size = report["parameters"], report["bytes"]
    rows = [(method, f"{parameters['trainable']:,}", f"{size['adapter']:,}")]
    rows += [("full fine-tuning", f"{parameters['full']:,}", f"{size['full']:,}")]
    show("beside full fine-tuning", ("", "parameters trained", "bytes of weights"), rows)
    write_json(report, json_file)


def train_embeddings(
    model: Model,
    task: Annotated[str, typer.Option(help="Training texts: a file, a folder or the name of a dataset.")],
    output: NewModel,
    method: Annotated[
        Literal["simcse", "pairs", "margin"],
        typer.Option(help="Texts by themselves, pairs that mean the same, or pairs with classes."),
    ] = "simcse",
    positive: Annotated[
        str | None, typer.Option(help="Class of the pairs that mean the same; the default is the last one.")
    ] = None,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    max_rows: MaxTrainRows = None,
    epochs: Epochs = 1.0,
    max_steps: MaxSteps = None,
    learning_rate: LearningRate = 3e-5,
    batch_size: BatchSize = 64,
    max_length: MaxLength = 64,
    temperature: Annotated[float, typer.Option(help="Temperature of the NT-Xent loss.")] = 0.05,
    margin: Annotated[float, typer.Option(help="Cosine distance that is far enough.")] = 0.5,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Train sentence embeddings by contrast, for sentence-transformers. Continues a run that was killed."""
    with friendly_errors(CONTINUES):
        from compactbert import training

        report = training.train_embeddings(
            model,
            task,
            output,
            method=method,
            positive=positive,
            data_dir=data_dir,
            text_columns=text_column,
            label_column=label_column,
            max_rows=max_rows,
            epochs=epochs,
            max_steps=max_steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            temperature=temperature,
            margin=margin,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    show(str(output), ("", ""), [(name, report[name]) for name in ("method", "rows", "steps")])
    write_json(report, json_file)
