"""The command line. It parses, calls the functions of [`compactbert`], and shows what they return; libraries load
inside the commands, so that `--help` is quick."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


app = typer.Typer(
    name="compactbert",
    help="Small, fast BERTs: make them, measure them, use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True)
app.add_typer(data_app, name="data", help="Clean, deduplicate, split, augment and describe tables of text.")

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


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where to write the model.")] = Path("compactbert-demo"),
    seed: Seed = 42,
    json_file: JsonFile = None,
):
    """The first run: compress the real MiniLM on docstrings, report it, use it in a clean process."""
    with _friendly_errors(CONTINUES):
        import compactbert

        result = compactbert.demo(output, seed=seed)
    _show_compression(result["report"], output)
    clean = result["clean_process"]
    rows = [(row["text"], row["label"], f"{row['score']:.2f}") for row in clean["rows"]]
    _show(f"{output}, loaded in a clean process as {clean['class']}", ("text", "label", "score"), rows)
    _say(f"Done in {result['seconds']:.0f} s.")
    _write_json(result, json_file)


@app.command()
def compress(
    model: Model,
    task: TaskName,
    output: Annotated[Path, typer.Option(help="Where to write the result; must not exist.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a YAML file.")] = "smbert-minilm",
    finetuned: Annotated[bool, typer.Option(help="The model is fine-tuned on this task already.")] = False,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    problem: Problem = None,
    max_minutes: Annotated[float | None, typer.Option(help="Budget for all training of one seed.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="The same, in steps.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="Rows x tokens at which latency is measured.")] = None,
    max_train_rows: MaxTrainRows = None,
    max_evaluation_rows: MaxEvaluationRows = None,
    seed: Seed = 42,
    seeds: Annotated[int, typer.Option(help="So many seeds, for the spread of the quality.")] = 1,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Make a smaller, faster model of any BERT for a task. The same command continues a run that was killed."""
    with _friendly_errors(CONTINUES):
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
    _show_compression(report, output)
    _write_json(report, json_file)


@app.command()
def transfer(
    text: Annotated[list[str], typer.Option(help="A text file, folder or pattern; as often as needed.")],
    output: Annotated[Path, typer.Option(help="Where to write the student; must not exist.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a YAML file.")] = "mobilebert-md-minilm",
    teacher: Annotated[Path | None, typer.Option(help="A finished teacher, or where to put the recipe's.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Where the tokenised text is, or is to be put.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Whose tokens, for a teacher that is new.")] = "minilm",
    max_steps: Annotated[int | None, typer.Option(help="Budget of the transfer, in steps.")] = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Train a MobileBERT on a teacher's feature maps and attention, from text. Continues a run that was killed."""
    with _friendly_errors(CONTINUES):
        import compactbert

        report = compactbert.transfer(
            text,
            output,
            recipe=recipe,
            teacher=teacher,
            corpus=corpus,
            tokenizer=tokenizer,
            max_steps=max_steps,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    rows = [(name.replace("_", " "), f"{value:.4g}") for name, value in report["metrics"].items()]
    rows += [("steps", report["steps"]), ("seconds per step", report["seconds_per_step"])]
    _show(f"{output}, on {report['measured_on']}", ("", ""), rows)
    _say(f"{output}: the curves are in {output / 'transfer.png'}.")
    _write_json(report, json_file)


@app.command()
def search(
    output: Annotated[Path | None, typer.Option(help="Folder for the list (JSON) and the plot.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Budget of parameters, such as 25e6.")] = None,
    macs: Annotated[float | None, typer.Option(help="Budget of multiply-accumulates for one sequence.")] = None,
    heads: Annotated[list[int], typer.Option(help="Attention heads that layers may have.")] = [4],  # noqa: B006
    num_layers: Annotated[int, typer.Option(help="Layers.")] = 24,
    shape: Annotated[list[str], typer.Option(help="Rows x tokens at which latency is measured.")] = ["1x128"],  # noqa: B006
    limit: Annotated[int, typer.Option(help="Measure the so many that come nearest.")] = 10,
    json_file: JsonFile = None,
):
    """List the MobileBERTs (stages, widths, heads, FFNs) that a budget buys, and how fast they are."""
    with _friendly_errors():
        from compactbert.benchmark import parse_shape
        from compactbert.search import search as search_layouts
        from compactbert.search import table_rows

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
    _show("layouts", *table_rows(result))
    if output is not None:
        _say(f"{output}: {', '.join(map(str, result['files']))}")
    _write_json(result, json_file)


@app.command()
def bench(
    model: Annotated[list[str], typer.Argument(help='A folder, repository, preset, or "bert-base", "mobilebert", ...')],
    output: Annotated[Path | None, typer.Option(help="Folder for the result (JSON) and the plot.")] = None,
    runtime: Annotated[list[str], typer.Option(help="eager, sdpa or fused, also with -bf16.")] = [  # noqa: B006
        "eager",
        "sdpa",
        "fused",
    ],
    shape: Annotated[list[str], typer.Option(help="Rows x tokens.")] = ["1x128", "8x128"],  # noqa: B006
    baseline: Annotated[str | None, typer.Option(help='What to compare with: "mobilebert, eager".')] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    rounds: Annotated[int, typer.Option(help="Timed turns of each.")] = 15,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Measure models side by side: latency, ratios with their spread, size, share of the hardware's peak."""
    with _friendly_errors():
        from compactbert.benchmark import benchmark, benchmark_rows, parse_shape

        result = benchmark(
            model,
            output,
            runtimes=runtime,
            shapes=[parse_shape(text) for text in shape],
            baseline=baseline,
            threads=threads,
            rounds=rounds,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    _show(f"times as fast as {result['baseline']}", *benchmark_rows(result))
    for file in result["files"]:
        _say(file)
    _write_json(result, json_file)


@app.command()
def finetune(
    model: Model,
    task: TaskName,
    output: Annotated[Path, typer.Option(help="Where to write the model; must not exist.")],
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    problem: Problem = None,
    epochs: Annotated[float, typer.Option(help="Passes over the training rows.")] = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-5,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 32,
    max_length: MaxLength = 128,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay.")] = 0.01,
    warmup: Annotated[float, typer.Option(help="Share of the steps over which the learning rate rises.")] = 0.1,
    early_stopping: Annotated[int | None, typer.Option(help="Stop after so many evaluations without gain.")] = None,
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Mixed precision.")] = "auto",
    further: Annotated[list[str] | None, typer.Option("--set", help=FURTHER)] = None,
    max_train_rows: MaxTrainRows = None,
    max_evaluation_rows: MaxEvaluationRows = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Fine-tune a model on a task. The same command continues a run that was killed."""
    with _friendly_errors(CONTINUES):
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
            weight_decay=weight_decay,
            warmup=warmup,
            early_stopping=early_stopping,
            precision=precision,
            training_arguments=_options("--set", further) if further else None,
            max_train_rows=max_train_rows,
            max_evaluation_rows=max_evaluation_rows,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    _show_finetune(report, output)
    _write_json(report, json_file)


@app.command()
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
    epochs: Annotated[float, typer.Option(help="Passes over the training rows.")] = 3.0,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate; 1e-3, prompts 1e-2.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 32,
    max_length: MaxLength = 128,
    early_stopping: Annotated[int | None, typer.Option(help="Stop after so many evaluations without gain.")] = None,
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Mixed precision.")] = "auto",
    max_train_rows: MaxTrainRows = None,
    max_evaluation_rows: MaxEvaluationRows = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Train an adapter on a frozen model. The same command continues a run that was killed."""
    with _friendly_errors(CONTINUES):
        import compactbert

        report = compactbert.adapt(
            model,
            task,
            output,
            method=method,
            options=_options("--option", option or []),
            merge=merge,
            data_dir=data_dir,
            text_columns=text_column,
            label_column=label_column,
            problem=problem,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            early_stopping=early_stopping,
            precision=precision,
            max_train_rows=max_train_rows,
            max_evaluation_rows=max_evaluation_rows,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    _show_finetune(report, output)
    parameters, size = report["parameters"], report["bytes"]
    rows = [(method, f"{parameters['trainable']:,}", f"{size['adapter']:,}")]
    rows += [("full fine-tuning", f"{parameters['full']:,}", f"{size['full']:,}")]
    _show("beside full fine-tuning", ("", "parameters trained", "bytes of weights"), rows)
    _write_json(report, json_file)


@app.command()
def publish(
    source: Annotated[Path, typer.Argument(help="A finished folder, of a model, an adapter or a Space.")],
    repository: Annotated[str, typer.Argument(help="namespace/name on the Hub.")],
    license: Annotated[str | None, typer.Option(help="Licence of the weights; the default is the base's.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Code of a language, such as en; repeatable.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The base's repository, if the folder names a folder.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Its commit that an adapter is pinned to.")] = None,
    dtype: Annotated[Literal["float32", "float16", "bfloat16"] | None, typer.Option(help="Of stored weights.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Size of a file of weights.")] = "5GB",
    onnx: Annotated[list[str] | None, typer.Option(help="fp32 or int8, beside the weights; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Repository that a Space uses; repeatable.")] = None,
    private: Annotated[bool | None, typer.Option(help="Make a new repository private.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag for the commit.")] = None,
    pull_request: Annotated[bool, typer.Option(help="Open a pull request in place of committing.")] = False,
    collection: Annotated[str | None, typer.Option(help="Title or slug of a collection to add it to.")] = None,
    message: Annotated[str | None, typer.Option(help="First line of the commit's message.")] = None,
    output: Annotated[Path | None, typer.Option(help="Leave the staged folder here.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Send nothing: show what would be sent.")] = False,
    json_file: JsonFile = None,
):
    """Put a finished folder on the Hub, complete and checked, in one commit. Repeat it after whatever went wrong."""
    with _friendly_errors("The commit is there in full or not at all: give the same command again."):
        from compactbert import hub

        result = hub.publish(
            source,
            repository,
            output_dir=output,
            license=license,
            languages=language,
            base_model=base_model,
            base_revision=base_revision,
            dtype=dtype,
            max_shard_size=max_shard_size,
            onnx=onnx or (),
            models=model or (),
            private=private,
            revision=revision,
            tag=tag,
            create_pr=pull_request,
            collection=collection,
            commit_message=message,
            dry_run=dry_run,
        )
    rows = [(file["path"], f"{file['bytes']:,}") for file in result["files"]]
    rows.append(("in all", f"{sum(file['bytes'] for file in result['files']):,}"))
    _show(f"{repository} ({result['kind']})", ("file", "bytes"), rows)
    _say("Nothing was sent." if dry_run else result["pull_request"] or f"{result['url']} at {result['commit']}")
    _write_json(result, json_file)


zoo = typer.Typer(help="The models of this project: list them, read about one, fetch it.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")


@zoo.command("list")
def zoo_list(json_file: JsonFile = None):
    """Every checkpoint: what it does, how large, how good and how fast it is."""
    with _friendly_errors():
        from compactbert.hub import catalogue_rows, read_catalogue

        entries = read_catalogue()
    _show("zoo", *catalogue_rows(entries))
    _write_json({"zoo": entries}, json_file)


@zoo.command("show")
def zoo_show(name: Annotated[str, typer.Argument(help="A name from `zoo list`.")], json_file: JsonFile = None):
    """All that is known of a checkpoint."""
    with _friendly_errors():
        from compactbert.hub import find_entry

        entry = find_entry(name)
    _show(
        name, ("", ""), [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in entry.items()]
    )
    _write_json(entry, json_file)


@zoo.command("pull")
def zoo_pull(
    name: Annotated[str, typer.Argument(help="A name from `zoo list`.")],
    output: Annotated[Path | None, typer.Option(help="Where to put it; the default is the name.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
):
    """Fetch a checkpoint, from this checkout or from the Hub."""
    with _friendly_errors("The same command fetches what is missing."):
        from compactbert.hub import pull

        folder = pull(name, output or Path(name), revision=revision)
    _say(f"{folder}: its README.md says how to use it.")


@app.command()
def embed(
    model: Model,
    task: Annotated[str, typer.Option(help="Training texts: a file, a folder or the name of a dataset.")],
    output: Annotated[Path, typer.Option(help="Where to write the model; must not exist.")],
    method: Annotated[
        Literal["simcse", "pairs", "margin"],
        typer.Option(help="Texts by themselves, pairs that mean the same, or pairs with classes."),
    ] = "simcse",
    positive: Annotated[str | None, typer.Option(help="The class of pairs that mean the same; the last one.")] = None,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    max_rows: MaxTrainRows = None,
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-5,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 64,
    max_length: MaxLength = 64,
    temperature: Annotated[float, typer.Option(help="Of NT-Xent.")] = 0.05,
    margin: Annotated[float, typer.Option(help="Cosine distance that is far enough.")] = 0.5,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Train sentence embeddings by contrast, for sentence-transformers. Continues a run that was killed."""
    with _friendly_errors(CONTINUES):
        from compactbert.training.embeddings import train_embeddings

        report = train_embeddings(
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
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            temperature=temperature,
            margin=margin,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    _show(str(output), ("", ""), [(name, report[name]) for name in ("method", "rows", "steps")])
    _write_json(report, json_file)


@app.command()
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
    with _friendly_errors():
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
    _show(f"{model} on {task} ({report['split']})", ("", ""), rows)
    _write_json(report, json_file)


@app.command()
def inspect(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder for the pictures; must not exist.")],
    text: Annotated[str | None, typer.Option(help="Draw what its tokens attend to.")] = None,
    task: Annotated[str | None, typer.Option(help="Draw embeddings and attention of a task's texts.")] = None,
    rows: Annotated[int, typer.Option(help="So many of them.")] = 500,
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
    with _friendly_errors():
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
    _show("attention", ("layer", "mean", "variance", "entropy"), layers)
    _say(f"{output}: {', '.join(result['files'])}")
    _write_json(result, json_file)


@app.command()
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
    with _friendly_errors():
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
        _say(f"{len(rows)} rows written to {output}.")


@app.command()
def export(
    model: TrainedModel,
    output: Annotated[Path, typer.Option(help="Where to write; must not exist.")],
    to: Annotated[Literal["onnx"], typer.Option(help="The format.")] = "onnx",
    int8: Annotated[list[str] | None, typer.Option(help="Write int8 models too: dynamic, static.")] = None,
    task: Annotated[str | None, typer.Option(help="A task whose rows calibrate static int8.")] = None,
    rows: Annotated[int, typer.Option(help="So many of them.")] = 128,
    max_length: MaxLength = 128,
    data_dir: DataDir = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Write a model for another runtime, checked there."""
    with _friendly_errors():
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
    _show(f"{output}, largest error {report['max_error']:.1e}", ("file", "size"), table)
    _write_json(report, json_file)


@data_app.command()
def clean(
    source: Table,
    output: NewTable,
    text_column: TableTexts = ["text"],  # noqa: B006
    language: Annotated[Literal["en", "zh"], typer.Option(help="English (or the like) or Chinese.")] = "en",
    html_tags: Annotated[bool, typer.Option(help="Take out HTML.")] = True,
    full_width: Annotated[bool, typer.Option(help="Make full-width letters and digits plain.")] = True,
    digits: Annotated[bool, typer.Option(help="Take out numbers.")] = False,
    punctuation: Annotated[bool, typer.Option(help="Take out all but letters, digits and spaces.")] = False,
    lower: Annotated[bool, typer.Option(help="Make it lower case.")] = False,
    json_file: JsonFile = None,
):
    """Clean texts of markup, odd white space and full-width forms."""
    options = {"language": language, "html_tags": html_tags, "full_width": full_width, "digits": digits}
    options |= {"punctuation": punctuation, "lower": lower}
    with _friendly_errors():
        from compactbert.data.cleaning import clean as clean_table
        from compactbert.data.tasks import rewrite_table

        report = rewrite_table(source, output, lambda table: clean_table(table, text_column, **options))
    _show_counts(report, output, json_file)


@data_app.command()
def dedupe(
    source: Table,
    output: NewTable,
    text_column: TableTexts = ["text"],  # noqa: B006
    label_column: Annotated[str | None, typer.Option(help="Count duplicates with another label.")] = None,
    near: Near = None,
    seed: Seed = 42,
    json_file: JsonFile = None,
):
    """Keep the first of the rows whose texts are equal, or nearly."""
    with _friendly_errors():
        from compactbert.data.duplicates import drop_duplicates
        from compactbert.data.tasks import rewrite_table

        report = rewrite_table(
            source, output, lambda table: drop_duplicates(table, text_column, label_column, near, seed)
        )
    _show_counts(report, output, json_file)


@data_app.command()
def split(
    source: Table,
    output: Annotated[Path, typer.Option(help="Folder for train, validation and test; must not exist.")],
    text_column: TableTexts = ["text"],  # noqa: B006
    label_column: TableLabel = "label",
    shares: Annotated[tuple[float, float, float], typer.Option(help="Of the three splits.")] = (0.7, 0.15, 0.15),
    leakage: Annotated[Literal["refuse", "report"], typer.Option(help="If a text is in two splits.")] = "refuse",
    seed: Seed = 42,
    json_file: JsonFile = None,
):
    """Split a table, each class alike, into files that --task takes as a folder."""
    with _friendly_errors():
        from compactbert.data.splitting import split as split_table
        from compactbert.data.splitting import write_splits
        from compactbert.data.tasks import read_table

        splits, leaks = split_table(read_table(source), text_column, label_column, shares, seed, leakage)
        write_splits(splits, output, source.suffix)
    report = {name: len(table) for name, table in splits.items()} | leaks
    _show_counts(report, output, json_file)


@data_app.command()
def augment(
    source: Table,
    output: NewTable,
    method: Annotated[Literal["deletion", "insertion", "swap", "replacement"], typer.Option(help="Of words.")],
    text_column: TableTexts = ["text"],  # noqa: B006
    label_column: TableLabel = "label",
    share: Annotated[float, typer.Option(help="Share of a text's words that change.")] = 0.1,
    copies: Annotated[int, typer.Option(help="Changed copies of every row.")] = 1,
    words: Annotated[Path | None, typer.Option(help='Synonyms: {"good": ["fine", "great"]} as JSON.')] = None,
    model: Annotated[str | None, typer.Option(help="In their place, a masked language model.")] = None,
    outside: Annotated[str | None, typer.Option(help="Label of tokens outside of spans; O, if it is not said.")] = None,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
    json_file: JsonFile = None,
):
    """Add copies of rows in which words are deleted, inserted, swapped or replaced."""
    with _friendly_errors():
        from compactbert.convert import load_pretrained
        from compactbert.data.augmentation import MaskFiller, read_synonyms
        from compactbert.data.augmentation import augment as augment_table
        from compactbert.data.tasks import rewrite_table

        synonyms = read_synonyms(words) if words else None
        fill = None
        if model is not None:
            fill = MaskFiller(*load_pretrained(model, "ForMaskedLM", trust_remote_code, require_head=True))
        options: dict[str, Any] = {"share": share, "copies": copies, "words": synonyms, "fill": fill, "seed": seed}
        options["outside"] = int(outside) if outside and outside.isdigit() else outside
        report = rewrite_table(
            source, output, lambda table: augment_table(table, method, text_column, label_column, **options)
        )
    _show_counts(report, output, json_file)


@data_app.command()
def report(
    task: Annotated[str, typer.Argument(help='A file, a folder with splits, or a dataset\'s name like "sst2".')],
    plot: Annotated[Path | None, typer.Option(help="Draw lengths and labels to this PNG file.")] = None,
    data_dir: DataDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    tokenizer: Annotated[str, typer.Option(help="Whose tokens: a folder, a repository or minilm.")] = "minilm",
    max_length: MaxLength = 128,
    near: Near = None,
    json_file: JsonFile = None,
):
    """Show lengths, labels, duplicates, and texts that are in two splits."""
    with _friendly_errors():
        from compactbert.data.description import describe_task, description_rows, plot_description

        description = describe_task(
            task,
            data_dir,
            text_columns=text_column,
            label_column=label_column,
            tokenizer=tokenizer,
            max_length=max_length,
            near=near,
        )
        if plot is not None:
            plot_description(description, plot)
    _show(task, *description_rows(description))
    _write_json(description, json_file)


def _options(name: str, pairs: list[str]) -> dict[str, Any]:
    """`key=value` as a dict, values as YAML reads them."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        """Takes `1e-3` for a number, as everyone does but YAML 1.1."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
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


@contextmanager
def _friendly_errors(remedy: str = "") -> Iterator[None]:
    """Bad input ends with exit code 2 and the remedy in a line, not with a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _say(f"Interrupted. {remedy}")
        raise typer.Exit(130) from error


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _show(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=any(header))
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def _show_counts(counts: dict[str, Any], output: Path, json_file: Path | None) -> None:
    _show(str(output), ("", ""), list(counts.items()))
    _write_json(counts, json_file)


def _show_finetune(report: dict[str, Any], output: Path) -> None:
    rows = [(name, f"{value:.4f}") for name, value in report["metrics"].items()]
    rows += [(f"{split} rows", count) for split, count in report["rows"].items()]
    rows += [(f"{split} rows cut to length", count) for split, count in report["truncated"].items()]
    rows += [("steps", report["steps"]), ("best step", report["best_step"])]
    rows += [("seconds per epoch", report["seconds_per_epoch"]), ("precision", report["precision"])]
    _show(f"{output} on {report['task']} ({report['split']})", ("", ""), rows)


def _show_compression(report: dict[str, Any], output: Path) -> None:
    from compactbert.cards import summary, table_rows

    _show(f"{report['recipe']['name']} on {report['task']}", *table_rows(report, brief=True))
    _say(f"{output}: {summary(report)} Picture: {output / 'report.png'}")


def _write_json(result: dict[str, Any], path: Path | None) -> None:
    if path is None:
        return
    with _friendly_errors():
        from compactbert.files import write_text

        write_text(path, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    app()
