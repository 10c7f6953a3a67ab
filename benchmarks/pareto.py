"""Quality against latency on SST-2, MiniLM as users run it today and ours: `benchmarks/pareto.json` and `pareto.png`.

    python benchmarks/pareto.py run --data-dir DATA --minilm FOLDER
    python benchmarks/pareto.py show

`--minilm` is a MiniLM that was fine-tuned on SST-2, such as by `compactbert finetune --model minilm --task sst2`. All
runtimes take turns in one process, on one thread; quality is each runtime's accuracy over the 872 validation rows.
bfloat16 is among them where the processor has it.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from results import Results

from compactbert.benchmark import measure_latency
from compactbert.convert import load_pretrained, to_transformers
from compactbert.data import load_task
from compactbert.evaluation import evaluate
from compactbert.files import write_figure
from compactbert.inference import export_onnx, fuse, load_for_inference
from compactbert.training.run import computes_in_bf16


RESULTS = Results(__file__)
ZOO = Path(__file__).parent.parent / "zoo"
SHAPES = [(1, 16), (1, 128), (32, 128)]
PICTURED = "1x128"
HEAD = "ForSequenceClassification"
TICKS = (10, 20, 50)  # milliseconds
BASELINE = "MiniLM-L6, transformers, eager"
app = typer.Typer()


def runtimes_of(name: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """A model in our runtimes. bfloat16 and int8 round; the others compute what the original does."""

    def load() -> Any:
        return load_pretrained(folder, HEAD)[0]

    exported = scratch / name
    export_onnx(*load_pretrained(folder, HEAD), exported, int8=["dynamic"])
    bfloat16 = {}
    if computes_in_bf16():
        bfloat16[f"{name}, fused bfloat16"] = fuse(load().to(torch.bfloat16))
    return {
        f"{name}, sdpa": load(),
        f"{name}, fused": fuse(load()),
        **bfloat16,
        f"{name}, ONNX": load_for_inference(exported, HEAD, runtime="onnx")[0],
        f"{name}, ONNX int8": load_for_inference(exported, HEAD, runtime="onnx-int8")[0],
    }


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    minilm: Annotated[Path, typer.Option()],
    rounds: Annotated[int, typer.Option()] = 25,
):
    torch.set_num_threads(1)
    task = load_task("sst2", data_dir)
    original, tokenizer = load_pretrained(minilm, HEAD)
    bert = to_transformers(original)
    bert.set_attn_implementation("eager")
    checkpoint = ZOO / "smbert-sst2"
    _, small_tokenizer = load_pretrained(checkpoint, HEAD)
    with tempfile.TemporaryDirectory() as scratch:
        models = {BASELINE: bert} | runtimes_of("MiniLM-L6", minilm, Path(scratch))
        models |= runtimes_of("smbert-sst2", checkpoint, Path(scratch))
        latency = measure_latency(models, SHAPES, rounds=rounds, seconds=45)
        measured = {}
        for name, model in models.items():
            words = small_tokenizer if name.startswith("smbert") else tokenizer
            accuracy = evaluate(model, words, task, max_length=64)["metrics"]["accuracy"]
            measured[name] = {"accuracy": accuracy, "latency": latency[name]}
    # Together: another machine's times say nothing beside these.
    RESULTS.record(("models",), measured)
    show()


def front(models: dict) -> list[str]:
    """Those that no other is at least as good and as fast as."""
    points = {n: (found["accuracy"], -found["latency"][PICTURED]["median_ms"]) for n, found in models.items()}
    return [
        name
        for name, point in points.items()
        if not any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points.values())
    ]


def draw(results: dict) -> Figure:
    """Accuracy against milliseconds."""
    models = results["models"]
    best = front(models)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, found in models.items():
        model, _, runtime = name.partition(", ")
        times = found["latency"][PICTURED]
        spread = [[times["median_ms"] - times["low_ms"]], [times["high_ms"] - times["median_ms"]]]
        color = "tab:gray" if name == BASELINE else "tab:orange" if model.startswith("smbert") else "tab:blue"
        axes.errorbar(times["median_ms"], found["accuracy"], xerr=spread, fmt="o", color=color, elinewidth=0.8)
        place, below = (times["median_ms"], found["accuracy"]), runtime == "fused"
        align = {"rotation": -35 if below else 35, "va": "top" if below else "baseline"}
        offset = (2, -4 if below else 6)
        axes.annotate(runtime.split(", ")[-1], place, offset, textcoords="offset points", fontsize=8, **align)
    line = sorted((models[name]["latency"][PICTURED]["median_ms"], models[name]["accuracy"]) for name in best)
    axes.plot(*zip(*line, strict=True), color="tab:green", linestyle=":", label="Pareto front")
    axes.plot([], [], "o", color="tab:gray", label=f"{BASELINE}: as users run it")
    axes.plot([], [], "o", color="tab:blue", label="MiniLM-L6, here")
    axes.plot([], [], "o", color="tab:orange", label="smbert-sst2, a third of its layers' parameters")
    axes.set(xlabel=f"milliseconds, {PICTURED}, one thread", ylabel="accuracy, SST-2", xscale="log")
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.margins(x=0.12, y=0.45)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def summary(results: dict) -> str:
    """The README's first sentence of figures."""
    models = results["models"]
    there, original = models[BASELINE]["latency"][PICTURED]["median_ms"], models[BASELINE]["accuracy"]

    def tell(names: list[str]) -> tuple[str, str, str]:
        name = min(names, key=lambda name: models[name]["latency"][PICTURED]["median_ms"])
        ratio = there / models[name]["latency"][PICTURED]["median_ms"]
        return name, f"{ratio:.1f} times as fast", f"{models[name]['accuracy']:.3f}"

    others = [name for name in models if name != BASELINE]
    as_good, its_speed, its_accuracy = tell([name for name in others if models[name]["accuracy"] >= original])
    fastest, top_speed, top_accuracy = tell(others)
    faster = "" if fastest == as_good else f"; {fastest} is {top_speed} at {top_accuracy}"
    return (
        f"Measured here on SST-2, {PICTURED} tokens, one thread, against MiniLM-L6 as users run it today "
        f"(transformers, eager, fp32, accuracy {original:.3f}): **{as_good} is {its_speed} and as good** "
        f"({its_accuracy}){faster}."
    )


def render(results: dict) -> str:
    """The README's table."""
    models, shapes = results["models"], [f"{rows}x{tokens}" for rows, tokens in SHAPES]
    baseline, best = models[BASELINE]["latency"], front(models)
    head = ["SST-2, one thread", "accuracy", *(f"times as fast, {shape}" for shape in shapes), f"ms, {PICTURED}"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, found in models.items():
        cells = [f"**{name}**" if name in best else name, f"{found['accuracy']:.3f}"]
        for shape in shapes:
            here, there = found["latency"][shape], baseline[shape]
            ratio = there["median_ms"] / here["median_ms"]
            widest = f"{there['low_ms'] / here['high_ms']:.2f}-{there['high_ms'] / here['low_ms']:.2f}"
            cells.append("1" if name == BASELINE else f"{ratio:.2f} ({widest})")
        cells.append(f"{found['latency'][PICTURED]['median_ms']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@app.command()
def show():
    write_figure(Path(__file__).with_suffix(".png"), draw(RESULTS.read()))
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
