"""The zoo's checkpoints: `zoo/`, `configs/catalog.yaml` and `benchmarks/zoo.json`.

    python benchmarks/zoo.py make --data-dir DATA --work-dir WORK [--name smbert-sst2]
    python benchmarks/zoo.py finetune --data-dir DATA --work-dir WORK --name mobilebert-md-small [--task sst2]
    python benchmarks/zoo.py cuts --data-dir DATA [--name smbert-sst2]
    python benchmarks/zoo.py measure
    python benchmarks/zoo.py show

`make` trains and stages what is missing, and may be killed and called again. `finetune` fine-tunes a language model to
tell what it is good for. `cuts` compares each checkpoint of a task with what it would be with all of MiniLM's tokens,
by the rows that only one of them gets right, and has the sign test's p. `measure` times all checkpoints beside
MiniLM, in one process on one thread, language models without their heads; the times in the checkpoints' reports and
cards are then those, and not what else the machine was doing when they were made.
"""

import copy
import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NamedTuple

import compress_minilm
import crime_news
import numpy as np
import typer
import yaml
from datasets import Dataset
from results import Results
from scipy.stats import binomtest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import compactbert
from compactbert.benchmark import measure_latency
from compactbert.cards import Publication, markdown_table, render_card
from compactbert.compression import count_macs
from compactbert.convert import MINILM_ON_HUB, load_pretrained
from compactbert.convert.encoders import rebuild
from compactbert.data import IGNORED_LABEL, Task, encode_task, load_task, load_texts, write_table
from compactbert.files import write_text
from compactbert.hub import catalogue_rows, read_catalogue, stage
from compactbert.inference import predict_logits
from compactbert.provenance import environment
from compactbert.recipes.recipe import read_recipe
from compactbert.records import LANGUAGE_MODELS, Folder, languages_of, license_of, result_point, teacher_point


RESULTS = Results(__file__)
ROOT = Path(__file__).parent.parent
RECIPE = "smbert-minilm-10k-tokens"


class Checkpoint(NamedTuple):
    """
    How a checkpoint is made.

    Args:
        recipe: Of `compress` with a `task`, of `transfer` without.
        task: What it is compressed on.
        changes: Settings of the recipe's stages, by the name of the stage, in place of its own.
        epochs: Of an adapter's training.
        max_steps: Of a transfer, in place of the recipe's.
        model: The checkpoint that a transfer's teacher is made of, in place of MiniLM.
        adapter_of: The checkpoint that a LoRA adapter is for, in place of all that.
    """

    recipe: str = RECIPE
    task: str | None = None
    changes: Mapping[str, Mapping] = MappingProxyType({})
    epochs: float | None = None
    max_steps: int | None = None
    model: str | None = None
    adapter_of: str | None = None


# Sentences of the films' reviews, which `sentences_of` makes; their tokens are kept too.
REVIEWS = {"texts": "imdb", "text_rows": 100_000}
CHECKPOINTS = {
    "smbert": Checkpoint("smbert-minilm-mlm", max_steps=1900),
    "smbert-sst2": Checkpoint(
        task="sst2",
        changes={
            # All of its rows, once.
            "teacher": {"epochs": 1},
            "distillation on MNLI's texts": REVIEWS | {"name": "distillation on sentences of IMDB's reviews"},
            "SmBERT": {"epochs": 1},
            "SmBERT with 10k tokens": REVIEWS | {"name": "SmBERT with 15k tokens", "size": 15_000},
        },
    ),
    "smbert-qqp": Checkpoint("smbert-minilm-10k-tokens-first", task="qqp"),
    "smbert-paws-x": Checkpoint("smbert-minilm-first-layers", task="paws-x/en"),
    "smbert-mnli": Checkpoint(task="mnli"),
    "smbert-ag-news": Checkpoint(task="ag_news"),
    "smbert-conll2003": Checkpoint("smbert-minilm-entities", task="conll2003"),
    "smbert-lora-mrpc": Checkpoint(task="mrpc", adapter_of="smbert"),
    "smbert-qqp-lora-mrpc": Checkpoint(task="mrpc", adapter_of="smbert-qqp"),
    "smbert-lora-crime-news": Checkpoint(task="crime_news", adapter_of="smbert-ag-news", epochs=3),
    "smbert-mnli-lora-rte": Checkpoint(task="rte", adapter_of="smbert-mnli"),
    "mobilebert-md-small": Checkpoint("mobilebert-md-smbert", model="smbert"),
}
ADAPTER = {"method": "lora", "epochs": 6, "learning_rate": 1e-3}
# Tasks that another script here makes of the data.
PREPARED = {"crime_news": crime_news.prepare}
# Of all that a transfer measures, what tells a language model's worth.
PREDICTION = ("mlm_loss", "mlm_accuracy")
# How language models are fine-tuned to tell their worth.
FINETUNING = {
    "sst2": {"epochs": 2, "max_train_rows": 20_000, "learning_rate": 1e-4},
    "mrpc": {"epochs": 4, "learning_rate": 1e-4},
    "rte": {"epochs": 4, "learning_rate": 1e-4},
}
# Tasks that the average is of.
FIVE = ("mrpc", "rte", "sst2", "qqp", "paws-x/en")
TEXTS = ("wikipedia_en_recent.txt.gz", "reuters21578.txt.gz", "brown.txt.gz")
ARCHITECTURES = {"smbert": "SmBERT", "mobilebert_md": "MobileBERT-MD"}
# Of the Hub, where they will be.
NAMESPACE = "compactbert"
TEACHER = "MiniLM-L6"
MAX_LENGTH = 128
SHAPES = [(1, 16), (1, 128), (32, 128)]
app = typer.Typer()


def folders() -> list[Path]:
    return sorted(path for path in (ROOT / "zoo").iterdir() if path.is_dir())


@app.command()
def make(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    name: Annotated[list[str], typer.Option()] = list(CHECKPOINTS),  # noqa: B006
):
    for checkpoint in name:
        folder = ROOT / "zoo" / checkpoint
        if folder.exists():
            continue
        wanted, made = CHECKPOINTS[checkpoint], work_dir / checkpoint
        if not made.exists():
            train(wanted, made, data_dir, work_dir)
        publisher = publication(folder)
        stage(
            made,
            folder,
            publisher.repo_id,
            license=publisher.license,
            languages=publisher.languages,
            base_model=publisher.base_model,
            max_shard_size="24MB",
            dtype=None if wanted.adapter_of else "float16",
        )
    write_catalogue()


def train(wanted: Checkpoint, made: Path, data_dir: Path, work_dir: Path) -> None:
    if wanted.adapter_of:
        base, settings = ROOT / "zoo" / wanted.adapter_of, ADAPTER | {"epochs": wanted.epochs or ADAPTER["epochs"]}
        if wanted.task in PREPARED:
            if not (work_dir / wanted.task).exists():
                PREPARED[wanted.task](data_dir, work_dir / wanted.task)
            data_dir = work_dir
        compactbert.adapt(base, wanted.task, made, data_dir=data_dir, **settings)
    elif wanted.task is not None:
        # `measure` times it, beside the others.
        recipe = recipe_of(wanted, data_dir, work_dir)
        report = compactbert.compress("minilm", wanted.task, made, data_dir=data_dir, recipe=recipe, shapes=["1x16"])
        if cut := report["settings"]["recipe"]["stages"][-1].get("prune_vocabulary"):
            before, after = (point["metrics"][report["metric"]]["values"][0] for point in report["points"][-2:])
            counts = {"tokens": cut["size"], "metric": report["metric"]}
            RESULTS.record(("vocabulary", made.name), counts | {"before": before, "after": after})
    else:
        texts = [data_dir / "text" / file for file in TEXTS]
        model = ROOT / "zoo" / wanted.model if wanted.model else None
        options = {"recipe": wanted.recipe, "max_steps": wanted.max_steps, "corpus": work_dir / "corpus"}
        compactbert.transfer(texts, made, model=model, **options)
        teacher = json.loads(made.with_name(f"{made.name}-teacher").joinpath("metrics.json").read_text())
        found = {metric: teacher["metrics"][metric] for metric in PREDICTION}
        RESULTS.record(("teachers", made.name), found | {key: teacher[key] for key in ("steps", "seconds_per_step")})


@app.command()
def finetune(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    name: Annotated[str, typer.Option()],
    task: Annotated[list[str], typer.Option()] = list(FINETUNING),  # noqa: B006
):
    """What a language model of the zoo is good for."""
    for key in task:
        if RESULTS.found("finetuned", name, key):
            continue
        output = work_dir / f"{name}-finetuned-{key}"
        if not output.exists():
            compactbert.finetune(ROOT / "zoo" / name, key, output, data_dir=data_dir, seed=1, **FINETUNING[key])
        RESULTS.record(("finetuned", name, key), json.loads((output / "metrics.json").read_text())["metrics"])


def recipe_of(checkpoint: Checkpoint, data_dir: Path, work_dir: Path) -> str | Mapping:
    """The recipe, or one with what the checkpoint has in place of it."""
    if not checkpoint.changes:
        return checkpoint.recipe
    recipe = read_recipe(checkpoint.recipe, "recipes")
    recipe["name"] = f"{checkpoint.recipe}, changed"
    stages = {settings["name"]: settings for step in recipe["stages"] for settings in step.values()}
    for name, changed in checkpoint.changes.items():
        if name not in stages:
            raise ValueError(f"changes: {checkpoint.recipe} has no stage {name!r}: take one of {', '.join(stages)}.")
        stages[name] |= changed
    for settings in stages.values():
        if settings.get("texts") == "imdb":
            settings["texts"] = str(sentences_of("imdb_10k", data_dir, work_dir / "imdb"))
    return recipe


def sentences_of(task: str, data_dir: Path, folder: Path) -> Path:
    """The sentences of a task's texts, a row each."""
    if not folder.exists():
        (texts,) = load_texts(task, data_dir)
        sentences = [part for text in texts for part in re.split(r"(?<=[.!?])\s+", text) if len(part.split()) > 2]
        folder.mkdir(parents=True)
        write_table(Dataset.from_dict({"text": sentences}), folder / "train.parquet")
    return folder


@app.command()
def cuts(
    data_dir: Annotated[Path, typer.Option()],
    name: Annotated[list[str], typer.Option()] = list(CHECKPOINTS),  # noqa: B006
):
    """What fewer tokens cost, row by row of a task's evaluation split."""
    for folder in folders():
        wanted, read = CHECKPOINTS[folder.name], Folder.read(folder)
        if folder.name not in name or wanted.adapter_of or read.task is None:
            continue
        task = load_task(read.task, data_dir)
        model, tokenizer = load_pretrained(folder, task.head, require_head=True)
        whole_model, all_tokens = with_all_tokens(model, tokenizer)
        if len(all_tokens) == len(tokenizer):
            continue
        cut, whole = (rows_right(task, *one) for one in ((model, tokenizer), (whole_model, all_tokens)))
        lost, won = int((whole & ~cut).sum()), int((cut & ~whole).sum())
        p = binomtest(lost, lost + won).pvalue if lost + won else 1.0
        counts = {"rows": len(cut), "lost": lost, "won": won, "p": p}
        RESULTS.record(("cuts", folder.name), {"tokens": len(tokenizer)} | counts)
    show()


def with_all_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as it would be had it kept all of MiniLM's tokens. Those that were dropped are rare: training leaves
    their embeddings where they were."""
    source, whole = load_pretrained("minilm", "")
    new = whole.get_vocab()
    table = source.get_input_embeddings().weight.detach().clone()
    tokens = tokenizer.get_vocab()
    table[[new[token] for token in tokens]] = model.get_input_embeddings().weight.detach()[[*tokens.values()]].float()
    config = copy.deepcopy(model.config)
    config.vocab_size, config.pad_token_id = len(table), whole.pad_token_id
    weights = {
        name: table if name.endswith("word_embeddings.weight") else weight
        for name, weight in model.state_dict().items()
    }
    return rebuild(model, type(model), config, weights), whole


def rows_right(task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Whether a model's answer is right, for every row; of tags, all of a row."""
    rows, _ = encode_task(task, task.evaluation, tokenizer, MAX_LENGTH)
    logits = predict_logits(model, tokenizer, list(rows.remove_columns(["labels", "length"])))

    def is_right(scores: np.ndarray, label: int | list[int]) -> bool:
        wanted = np.asarray(label)
        # Tags are without the padding of their batch.
        answer = scores.argmax(-1)[tuple(map(slice, wanted.shape))]
        return bool(((answer == wanted) | (wanted == IGNORED_LABEL)).all())

    return np.array([is_right(*pair) for pair in zip(logits, rows["labels"][:], strict=True)])


@app.command()
def measure():
    models = {TEACHER: load_pretrained("minilm", "ForSequenceClassification")[0]}
    for folder in folders():
        if CHECKPOINTS[folder.name].adapter_of:
            continue  # Its base is here.
        head = Folder.read(folder).head
        models[folder.name] = load_pretrained(folder, "" if head in LANGUAGE_MODELS else head)[0]
    latency = measure_latency(models, SHAPES)
    for name, shapes in latency.items():
        RESULTS.record(("latency", name), shapes)
    for folder in folders():
        if not (folder / "report.json").is_file():
            continue  # made of text: no times in it
        report = json.loads((folder / "report.json").read_text())
        # What lies between was timed at another hour.
        report["points"] = [teacher_point(report), result_point(report)]
        for point, name in zip(report["points"], (TEACHER, folder.name), strict=True):
            point["latency"] = latency[name]
            config = models[name].config
            point["macs"] = {f"{rows}x{tokens}": count_macs(config, rows, tokens) for rows, tokens in SHAPES}
        kept = {name: value for name, value in report["result"].items() if not name.startswith("speedup")}
        report["result"] = kept | {f"speedup_{shape}": value for shape, value in speedup(latency, folder.name).items()}
        report["timed_in"] = environment()
        write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
        (folder / "report.png").unlink(missing_ok=True)
        write_text(folder / "README.md", render_card(folder, publication(folder)))
    write_catalogue()
    show()


def speedup(latency: dict, name: str) -> dict[str, float]:
    """Nothing before `measure`."""
    if name not in latency:
        return {}
    return {shape: latency[TEACHER][shape]["median_ms"] / found["median_ms"] for shape, found in latency[name].items()}


def publication(folder: Path) -> Publication:
    of_base = license_of(MINILM_ON_HUB), languages_of(MINILM_ON_HUB)
    made = CHECKPOINTS[folder.name]
    base = made.adapter_of or made.model
    return Publication(
        f"{NAMESPACE}/{folder.name}", *of_base, base_model=f"{NAMESPACE}/{base}" if base else MINILM_ON_HUB
    )


def write_catalogue() -> None:
    """A row per folder, from what lies in it."""
    rows, latency = {}, (RESULTS.read() or {}).get("latency", {})
    for folder in folders():
        read, publisher, base = Folder.read(folder), publication(folder), CHECKPOINTS[folder.name].adapter_of
        scores = read.scores
        teacher = {}
        if "points" in read.record:
            points = teacher_point(read.record)["metrics"]
            teacher = {metric: found["values"][0] for metric, found in points.items()}
        elif read.task is None:
            scores = {metric: scores[metric] for metric in PREDICTION}
            found = RESULTS.found("teachers", folder.name) or {}
            teacher = {metric: found[metric] for metric in PREDICTION if metric in found}
        rows[folder.name] = {
            "repo_id": publisher.repo_id,
            "architecture": "LoRA adapter" if read.config is None else ARCHITECTURES[read.config.model_type],
            "base": publisher.base_model,
            "task": read.task or "masked language model",
            "license": publisher.license,
            "languages": list(publisher.languages),
            "parameters": sum(count for count, _ in read.tensors.values()),
            "bytes": sum(size for _, size in read.tensors.values()),
            "scores": {metric: round(value, 6) for metric, value in scores.items()},
            "teacher_scores": {metric: round(value, 6) for metric, value in teacher.items()},
            "speedup": {k: round(v, 2) for k, v in speedup(latency, folder.name).items()},
            "measured_by": "benchmarks/zoo.py",
        }
        if base:
            rows[folder.name]["adapter_of"] = publisher.base_model
    head = "# The zoo, a row per checkpoint. Written by benchmarks/zoo.py; README.md shows it.\n"
    write_text(ROOT / "configs" / "catalog.yaml", head + yaml.safe_dump(rows, sort_keys=False))
    read_catalogue()


def beside_minilm() -> list[tuple[str, ...]]:
    """By task, the zoo's best checkpoint, its accuracy, that of a fine-tuned MiniLM, and the share that is kept."""
    table, best = compress_minilm.Table(compress_minilm.RESULTS.read()), {}
    for row in read_catalogue():
        task, score = row["task"], row["scores"].get("accuracy", 0)
        whole = row["teacher_scores"].get("accuracy")
        if not whole and task in table.tasks:
            # Adapters have no teacher of their own.
            whole = statistics.mean(table.teacher_scores(task).values())
        if whole and score > best.get(task, ("", 0))[1]:
            best[task] = row["name"], score, whole
    tasks = [task for task in FIVE if task in best]
    averages = (statistics.mean(best[task][column] for task in tasks) for column in (1, 2))
    rows = [*best.items(), (f"average of {', '.join(tasks)}", ("", *averages))]
    return [(task, name, f"{score:.3f}", f"{whole:.3f}", f"{score / whole:.1%}") for task, (name, score, whole) in rows]


def render(results: dict) -> str:
    """The README's tables: the catalogue, its best for every task beside MiniLM, how good the language models are when
    they are fine-tuned, and what the cuts of the vocabulary cost."""
    finetuned = [
        (name, *(f"{found[task]['accuracy']:.3f}" if task in found else "" for task in FINETUNING))
        for name, found in results["finetuned"].items()
    ]
    vocabulary = [
        (name, f"{found['tokens']:,}", found["metric"], f"{found['before']:.3f}", f"{found['after']:.3f}")
        for name, found in sorted(results["vocabulary"].items())
    ]
    cut = [
        (name, f"{one['tokens']:,}", f"{one['rows']:,}", str(one["lost"]), str(one["won"]), f"{one['p']:.2f}")
        for name, one in sorted(results["cuts"].items())
    ]
    tables = [
        catalogue_rows(read_catalogue()),
        (("accuracy", "checkpoint", "zoo", TEACHER, "kept"), beside_minilm()),
        (("fine-tuned, accuracy", *FINETUNING), finetuned),
        (("vocabulary", "tokens kept", "metric", "before", "after"), vocabulary),
        (("right on", "tokens kept", "rows", "only with all 30,522", "only with these", "p"), cut),
    ]
    return "\n\n".join(markdown_table(*table) for table in tables)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
