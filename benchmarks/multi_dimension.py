"""Does it pay that MobileBERT-MD's layers are 256, 128 and 64 wide? Four layouts with the same teacher, steps and
samples: `benchmarks/multi_dimension.json`.

    python benchmarks/multi_dimension.py run --data-dir DATA --work-dir WORK [--recipe RECIPE] [--layout LAYOUT ...]
    python benchmarks/multi_dimension.py show

The recipe is `mobilebert-md-minilm` (six layers, for two cores) or `mobilebert-md-minilm-gpu` (all 24). Its corpus and
teacher are found in `WORK/corpus` and `WORK/teacher` or made there; the settings of the transfer are the recipe's but
for those in `RECIPES`. `run` makes what is missing, may be killed and called again, and may run several times at a time
with different layouts or seeds.
"""

import json
import shutil
import statistics
from pathlib import Path
from typing import Annotated

import typer
from results import Results, locked
from transformers import PreTrainedConfig

import compactbert
from compactbert.compression import count_macs, count_parameters
from compactbert.convert import load_pretrained
from compactbert.data import build_corpus
from compactbert.files import write_text
from compactbert.presets import load_preset
from compactbert.recipes import load_transfer_recipe
from compactbert.training import ib_teacher, transfer_knowledge
from zoo import TEXTS


RESULTS = Results(__file__)
# Widths of the stages, from input to output. Layers of 152 have as many weights and multiply-accumulates as those of
# 256, 128 and 64.
LAYOUTS = {"256, 128, 64": (256, 128, 64), "64, 128, 256": (64, 128, 256), "128": (128,), "152": (152,)}
# What replaces the recipe's settings. Predictions, maps and attention are learned together: of the strategies the one
# that gets furthest in so few steps.
RECIPES: dict[str, dict] = {
    "mobilebert-md-minilm": {"strategy": "auxiliary", "transfer_steps": None, "max_steps": 600},
    "mobilebert-md-minilm-gpu": {"max_steps": 1500, "batch_size": 32},
}
TASK = "sst2"
TASK_RUN = {"epochs": 1, "max_train_rows": 20_000, "learning_rate": 1e-4, "seed": 1}
app = typer.Typer()


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    recipe: Annotated[str, typer.Option()] = "mobilebert-md-minilm",
    layout: Annotated[list[str], typer.Option()] = list(LAYOUTS),  # noqa: B006
    seed: Annotated[list[int], typer.Option()] = [1],  # noqa: B006
):
    loaded = load_transfer_recipe(recipe)
    corpus, teacher = work_dir / "corpus", work_dir / "teacher"
    with locked(work_dir / "teacher.lock"):
        made = loaded.teacher["ib_teacher"]
        if not corpus.exists():
            texts = [data_dir / "text" / name for name in TEXTS]
            build_corpus(texts, load_pretrained(made["model"], "")[1], corpus, **loaded.corpus)
        if not teacher.exists():
            ib_teacher(corpus=corpus, output_dir=teacher, **made)
    for number in seed:
        for name in layout:
            run_layout(recipe, name, number, data_dir, work_dir)
    show()


def run_layout(recipe: str, name: str, seed: int, data_dir: Path, work_dir: Path) -> None:
    place = ("runs", recipe, name, str(seed))
    if RESULTS.found(*place):
        return
    loaded = load_transfer_recipe(recipe)
    folder = work_dir / f"{name.replace(', ', '-')}-{seed}"
    architecture = folder / "architecture.json"
    write_text(architecture, json.dumps(layout_of(load_preset(loaded.student), LAYOUTS[name])))
    if not (folder / "model").exists():
        settings = dict(loaded.transfer) | RECIPES[recipe] | {"seed": seed}
        transfer_knowledge(architecture, work_dir / "teacher", work_dir / "corpus", folder / "model", **settings)
    report = json.loads((folder / "model" / "metrics.json").read_text())
    found = {key: report[key] for key in ("metrics", "steps", "tokens_per_step", "precision", "losses")}
    model, _ = load_pretrained(folder / "model", "ForPreTraining")
    found |= {"parameters": count_parameters(model), "macs": count_macs(model.config, 1, 128)}
    if not (folder / TASK).exists():
        compactbert.finetune(folder / "model", TASK, folder / TASK, data_dir=data_dir, **TASK_RUN)
    found[TASK] = json.loads((folder / TASK / "metrics.json").read_text())["metrics"]
    RESULTS.record(place, found)
    shutil.rmtree(folder)


def layout_of(student: PreTrainedConfig, widths: tuple[int, ...]) -> dict:
    """The recipe's student with stages of these widths, of as many layers each."""
    layers = range(student.num_hidden_layers)
    width_of = {layer: widths[layer * len(widths) // len(layers)] for layer in layers}
    kept = ("embedding_size", "num_feedforward_networks", "num_hidden_layers")
    return {
        "model_type": student.model_type,
        **{name: getattr(student, name) for name in kept},
        "intra_bottleneck_size": widths[0],
        "per_layer_config": {
            f"{layer:02d}": {"intra_bottleneck_size": width} for layer, width in width_of.items() if width != widths[0]
        },
    }


def render(results: dict) -> str:
    """The README's tables, one for each recipe."""
    tables = []
    heads = ("encoder", "MACs of 128 tokens", "MLM loss", "MLM accuracy", "feature map distance", TASK.upper())
    for recipe, layouts in results["runs"].items():
        some = next(iter(next(iter(layouts.values())).values()))
        count = max(len(seeds) for seeds in layouts.values())
        title = f"`{recipe}`, {some['steps']:,} steps of {some['tokens_per_step']:,} tokens, {count} seed"
        lines = [f"| {title}{'s' * (count > 1)} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for name in LAYOUTS:
            runs = list(layouts.get(name, {}).values())
            if not runs:
                continue
            metrics = ("mlm_loss", "mlm_accuracy", "relative_feature_map_distance")
            columns = [[run["metrics"][metric] for run in runs] for metric in metrics]
            columns.append([run[TASK]["accuracy"] for run in runs])
            cells = [f"{runs[0]['parameters']['encoder'] / 1e6:.2f} M", f"{runs[0]['macs'] / 1e9:.2f} G"]
            for values in columns:
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):.3f}{spread}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
