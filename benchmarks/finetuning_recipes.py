"""What the recipes of fine-tuning bring on real data: `benchmarks/finetuning_recipes.json`.

    python benchmarks/finetuning_recipes.py run --data-dir DATA --mnli FOLDER [--masked-model FOLDER] [--task sst2]
    python benchmarks/finetuning_recipes.py small --data-dir DATA --model FOLDER
    python benchmarks/finetuning_recipes.py embeddings --data-dir DATA [--seed 1]
    python benchmarks/finetuning_recipes.py show

`run` fine-tunes MiniLM, for RTE the MiniLM at `--mnli` that knows MNLI, on few rows, for the same number of steps with
every recipe, and scores the last step: nothing is chosen on the validation rows. It makes what is missing and may be
killed and called again. `small` makes a model that was fine-tuned on SST-2 smaller in the ways of the handbook.
`embeddings` trains three layers of MiniLM to embed sentences, and scores them on STS-B.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from results import Results
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from transformers import set_seed
from transformers.utils import logging

from compactbert.benchmark import measure_latency
from compactbert.compression import count_bytes, count_parameters, plan_pruning, prune, score_importance, zero_weights
from compactbert.convert import load_pretrained
from compactbert.data import MaskFiller, augment, data_collator, encode_task, load_task
from compactbert.evaluation import evaluate
from compactbert.inference import export
from compactbert.inference.onnx import FILES
from compactbert.training import FinetuningConfig, FinetuningTrainer
from compactbert.training.embeddings import train_embeddings


RESULTS = Results(__file__)
TASKS: dict[str, dict[str, Any]] = {
    "sst2": {"rows": 500, "steps": 64, "max_length": 64, "learning_rate": 2e-4},
    # From MiniLM itself nothing learns this from so few rows: from one that was fine-tuned on MNLI.
    "rte": {"rows": 500, "steps": 64, "max_length": 128, "learning_rate": 1e-4},
}
# With so few steps, a rate at which plain fine-tuning gets there.
SETTINGS = {
    "bf16": True,
    "per_device_train_batch_size": 32,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
}
PLAIN = "plain fine-tuning"
# Name -> what is done to the rows, or training arguments.
AUGMENTATIONS = {
    "words deleted": {"method": "deletion"},
    "words swapped": {"method": "swap"},
    "words inserted, by masked model": {"method": "insertion"},
    "words replaced, by masked model": {"method": "replacement"},
}
RECIPES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "FGM, epsilon 1e-3": {"adversarial": "fgm"},
    "FGM, epsilon 0.1": {"adversarial": "fgm", "adversarial_epsilon": 0.1},
    "FGM, epsilon 1": {"adversarial": "fgm", "adversarial_epsilon": 1.0},
    "FreeLB, epsilon 0.1": {"adversarial": "freelb", "adversarial_epsilon": 0.1},
    "R-Drop, 1": {"r_drop": 1.0},
    "layer decay 0.8": {"layer_decay": 0.8},
    "3 layers frozen": {"freeze_layers": 3},
    "unfreezing, a layer every 10 steps": {"unfreeze_steps": 10},
    "LAMB, rate 2e-3": {"optimizer": "lamb", "learning_rate": 2e-3},
    "cosine": {"lr_scheduler_type": "cosine"},
    "label smoothing 0.1": {"label_smoothing_factor": 0.1},
}
SMALL_SHAPE = (8, 64)
# Layers that are kept of MiniLM, which as it is was trained for STS on a billion pairs.
EMBEDDING_LAYERS = [1, 3, 5]
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "SimCSE, STS-B's texts": {"task": "stsb", "method": "simcse"},
    "NT-Xent, MNLI's entailments": {"task": "mnli", "method": "pairs", "positive": "entailment"},
    "margin, MRPC's paraphrases": {"task": "mrpc", "method": "margin"},
}
EMBEDDING_SETTINGS = {"max_rows": 20_000, "max_steps": 150, "batch_size": 64, "max_length": 48, "learning_rate": 1e-4}
UNTRAINED = "as cut"
app = typer.Typer()


def score(
    task_name: str, recipe: str, seed: int, data_dir: Path, mnli: Path | None, filler: MaskFiller | None
) -> float:
    """Accuracy of the last step."""
    sizes = TASKS[task_name]
    task = load_task(task_name, data_dir, max_train_rows=sizes["rows"])
    set_seed(seed)
    base = mnli if task_name == "rte" and mnli is not None else "minilm"
    model, tokenizer = load_pretrained(base, task.head, **task.config_fields())
    rows = task.train
    assert rows is not None
    if recipe in AUGMENTATIONS:
        method = AUGMENTATIONS[recipe]["method"]
        fill = filler if method in ("insertion", "replacement") else None
        rows, _ = augment(rows, method, task.text_columns, task.label_column, fill=fill, seed=seed)
    encoded, _ = encode_task(task, rows, tokenizer, sizes["max_length"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = SETTINGS | {"max_steps": sizes["steps"], "learning_rate": sizes["learning_rate"], "seed": seed}
        arguments |= {"use_cpu": True, "save_strategy": "no"}
        arguments |= {"train_sampling_strategy": "group_by_length", "report_to": "none", "logging_strategy": "no"}
        config = FinetuningConfig(output_dir=folder, **arguments | RECIPES.get(recipe, {}))
        collator = data_collator(task, tokenizer)
        trainer = FinetuningTrainer(
            model, config, task.problem, train_dataset=encoded, data_collator=collator, processing_class=tokenizer
        )
        trainer.train()
    return evaluate(trainer.model, tokenizer, task, max_length=sizes["max_length"])["metrics"]["accuracy"]


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    mnli: Annotated[Path | None, typer.Option()] = None,
    masked_model: Annotated[str | None, typer.Option()] = None,
    task: Annotated[list[str], typer.Option()] = list(TASKS),  # noqa: B006
    recipe: Annotated[list[str], typer.Option()] = [*RECIPES, *AUGMENTATIONS],  # noqa: B006
    seed: Annotated[list[int], typer.Option()] = [1, 2, 3],  # noqa: B006
):
    logging.set_verbosity_error()
    filler = None if masked_model is None else MaskFiller(*load_pretrained(masked_model, "ForMaskedLM"))
    for name in task:
        for number in seed:
            for way in recipe:
                if RESULTS.found("runs", name, way, str(number)) is None and (filler or "masked" not in way):
                    accuracy = score(name, way, number, data_dir, mnli, filler)
                    RESULTS.record(("runs", name, way, str(number)), accuracy)
    show()


@app.command()
def small(
    data_dir: Annotated[Path, typer.Option()],
    model: Annotated[Path, typer.Option()],
    rounds: Annotated[int, typer.Option()] = 15,
):
    """The handbook's table of compression, on SST-2."""
    task = load_task("sst2", data_dir, max_train_rows=512)
    dense, tokenizer = load_pretrained(model, task.head)
    assert task.train is not None
    encoded, _ = encode_task(task, task.train, tokenizer, 64)
    collator = data_collator(task, tokenizer)
    rows = list(encoded.remove_columns("length"))
    importance = score_importance(dense, [collator(rows[i : i + 32]) for i in range(0, len(rows), 32)])
    layers, heads = dense.config.num_hidden_layers, dense.config.num_attention_heads
    models = {"dense": dense}
    for title, structured, share in (("half of the weights zero", False, 0.5), ("a fifth of the rows zero", True, 0.2)):
        models[title] = load_pretrained(model, task.head)[0]
        zero_weights(models[title], share, structured)
    models["a quarter of the heads removed"] = prune(
        dense, plan_pruning(importance, dense.config, heads=heads * 3 // 4)
    )
    models["the top layer removed"] = prune(dense, plan_pruning(importance, dense.config, layers=range(layers - 1)))
    # All in turns, so that whatever else the machine does meets them alike.
    times = measure_latency(models, [SMALL_SHAPE], rounds=rounds)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (title, made) in enumerate(models.items()):
            made.save_pretrained(Path(folder) / str(number))
            matrices = [weight for name, weight in made.named_parameters() if ".layer." in name and weight.dim() == 2]
            results[title] = {
                "accuracy": evaluate(made, tokenizer, task, max_length=64)["metrics"]["accuracy"],
                "parameters": count_parameters(made)["total"],
                "zeros": sum(int((m == 0).sum()) for m in matrices) / sum(m.numel() for m in matrices),
                "bytes": count_bytes(Path(folder) / str(number)),
                "latency": next(iter(times[title].values())),
            }
        exported = export(model, Path(folder) / "onnx", int8=["dynamic"])
        for title, runtime in (("ONNX", "onnx"), ("ONNX, dynamic int8", "onnx-int8")):
            scores = evaluate(Path(folder) / "onnx", task=task, max_length=64, runtime=runtime)
            size = exported["bytes"][FILES[runtime]]
            results[title] = {"accuracy": scores["metrics"]["accuracy"], "bytes": size, "seconds": scores["seconds"]}
    RESULTS.record(("small",), results)
    show()


def similarity(model: Path, data_dir: Path) -> float:
    """Spearman's correlation of cosines with STS-B's judgements, over the validation rows."""
    rows = load_task("stsb", data_dir).evaluation
    embedder = SentenceTransformer(str(model), trust_remote_code=True)
    evaluator = EmbeddingSimilarityEvaluator(
        rows["sentence1"], rows["sentence2"], rows["label"], show_progress_bar=False
    )
    return next(value for name, value in evaluator(embedder).items() if name.endswith("spearman_cosine"))


@app.command()
def embeddings(
    data_dir: Annotated[Path, typer.Option()],
    seed: Annotated[list[int], typer.Option()] = [1, 2, 3],  # noqa: B006
):
    logging.set_verbosity_error()
    whole, tokenizer = load_pretrained("minilm", "")
    scores = score_importance(whole, [], method="random")  # the layers are chosen by hand
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut"
        prune(whole, plan_pruning(scores, whole.config, layers=EMBEDDING_LAYERS)).save_pretrained(cut)
        tokenizer.save_pretrained(cut)
        if RESULTS.found("embeddings", UNTRAINED) is None:
            RESULTS.record(("embeddings", UNTRAINED), {"1": similarity(cut, data_dir)})
        for number in seed:
            for name, options in EMBEDDINGS.items():
                if RESULTS.found("embeddings", name, str(number)) is None:
                    made = Path(folder) / f"{number}-{options['method']}"
                    options = EMBEDDING_SETTINGS | options | {"data_dir": data_dir, "seed": number}
                    train_embeddings(cut, output_dir=made, **options)
                    RESULTS.record(("embeddings", name, str(number)), similarity(made, data_dir))
    show()


def render(results: dict) -> str:
    """The README's tables."""
    tables = []
    runs = results.get("runs", {})
    tasks = [task for task in TASKS if task in runs]
    if tasks:
        titles = [f"{task}, {TASKS[task]['rows']:,} rows | minus plain" for task in tasks]
        lines = [f"| accuracy | {' | '.join(titles)} |", "|---" * (1 + 2 * len(tasks)) + "|"]
        for name in (*RECIPES, *AUGMENTATIONS):
            if any(name in runs[task] for task in tasks):
                cells = [cell for task in tasks for cell in _cells(runs[task], name)]
                lines.append(f"| {' | '.join([name, *cells])} |")
        tables.append("\n".join(lines))
    if "small" in results:
        rows, tokens = SMALL_SHAPE
        head = ["SST-2", "accuracy", "parameters", "zeros in layers", "MB", f"ms, {rows}x{tokens}"]
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for name, made in results["small"].items():
            cells = [name, f"{made['accuracy']:.3f}"]
            cells += [f"{made['parameters']:,}", f"{made['zeros']:.0%}"] if "parameters" in made else ["", ""]
            cells += [f"{made['bytes'] / 1e6:.1f}"]
            time = made.get("latency")
            cells += [f"{time['median_ms']:.0f} ({time['low_ms']:.0f}-{time['high_ms']:.0f})" if time else ""]
            lines.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    if "embeddings" in results:
        lines = ["| STS-B, three layers | Spearman's correlation |", "|---|---|"]
        for name, runs in results["embeddings"].items():
            lines.append(f"| {name} | {_spread(list(runs.values()))} ({len(runs)}) |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _cells(runs: dict, name: str) -> tuple[str, str]:
    scores, plain = runs.get(name, {}), runs.get(PLAIN, {})
    if not scores:
        return "", ""
    both = [scores[seed] - plain[seed] for seed in scores if seed in plain]
    gain = "" if name == PLAIN or not both else _spread(both, sign="+")
    return f"{_spread(list(scores.values()))} ({len(scores)})", gain


def _spread(values: list[float], sign: str = "") -> str:
    text = f"{statistics.mean(values):{sign}.3f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.3f}"


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
