"""Does it pay that MobileBERT-MD's layers are 256, 128 and 64 wide? Four layouts of 24 layers with the same teacher,
steps and samples: `benchmarks/multi_dimension.json`.

    python benchmarks/multi_dimension.py run --data-dir DATA --work-dir WORK [--layout LAYOUT ...] [--seed 1]
    python benchmarks/multi_dimension.py show

The corpus and the teacher are `configs/transfer/mobilebert-md-minilm-gpu.yaml`'s, found in `WORK/corpus` and
`WORK/teacher` or made there; so are the transfer's settings, but for fewer and smaller steps. `run` makes what is
missing, may be killed and called again, and may run several times at a time with different layouts or seeds.
"""

import json
import shutil
import statistics
from pathlib import Path
from typing import Annotated

import typer
from results import Results, locked

import compactbert
from compactbert.compression import count_macs, count_parameters
from compactbert.convert import load_pretrained
from compactbert.data import build_corpus
from compactbert.files import write_text
from compactbert.recipes import load_transfer_recipe
from compactbert.training import ib_teacher, transfer_knowledge
from zoo import TEXTS


RESULTS = Results(__file__)
RECIPE = load_transfer_recipe("mobilebert-md-minilm-gpu")
# A preset, or an architecture. All have 256-wide token embeddings, as the teacher; layers of 152 have as many weights
# and multiply-accumulates as those of 256, 128 and 64.
UNIFORM = {"model_type": "mobilebert_md", "embedding_size": 256, "num_hidden_layers": 24}
LAYOUTS: dict[str, str | dict] = {
    "256, 128, 64": "mobilebert_md/mobilebert-md",
    "64, 128, 256": "mobilebert_md/mobilebert-md-reversed",
    "128": UNIFORM | {"intra_bottleneck_size": 128},
    "152": UNIFORM | {"intra_bottleneck_size": 152},
}
RUN = {"max_steps": 2500, "batch_size": 32}
TASKS = {"mrpc": {"epochs": 4}, "sst2": {"epochs": 2, "max_train_rows": 20_000}}
TASK_RUN = {"learning_rate": 1e-4, "seed": 1}
app = typer.Typer()


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    layout: Annotated[list[str], typer.Option()] = list(LAYOUTS),  # noqa: B006
    seed: Annotated[list[int], typer.Option()] = [1],  # noqa: B006
):
    corpus, teacher = work_dir / "corpus", work_dir / "teacher"
    with locked(work_dir / "teacher.lock"):
        made = RECIPE.teacher["ib_teacher"]
        if not corpus.exists():
            texts = [data_dir / "text" / name for name in TEXTS]
            build_corpus(texts, load_pretrained(made["model"], "")[1], corpus, **RECIPE.corpus)
        if not teacher.exists():
            ib_teacher(corpus=corpus, output_dir=teacher, **made)
    for number in seed:
        for name in layout:
            run_layout(name, number, data_dir, work_dir)
    show()


def run_layout(name: str, seed: int, data_dir: Path, work_dir: Path) -> None:
    place = ("runs", name, str(seed))
    if RESULTS.found(*place, *TASKS):
        return
    folder = work_dir / f"{name.replace(', ', '-')}-{seed}"
    architecture = LAYOUTS[name]
    if isinstance(architecture, dict):
        write_text(folder / "architecture.json", json.dumps(architecture))
        architecture = str(folder / "architecture.json")
    if not (folder / "model").exists():
        settings = dict(RECIPE.transfer) | RUN | {"seed": seed}
        transfer_knowledge(architecture, work_dir / "teacher", work_dir / "corpus", folder / "model", **settings)
    report = json.loads((folder / "model" / "metrics.json").read_text())
    found = {key: report[key] for key in ("metrics", "steps", "precision", "losses")}
    model, _ = load_pretrained(folder / "model", "ForPreTraining")
    found |= {"parameters": count_parameters(model), "macs": count_macs(model.config, 1, 128), "tasks": {}}
    for task, options in TASKS.items():
        output = folder / task
        if not output.exists():
            compactbert.finetune(folder / "model", task, output, data_dir=data_dir, **TASK_RUN, **options)
        found["tasks"][task] = json.loads((output / "metrics.json").read_text())["metrics"]
    RESULTS.record(place, found)
    shutil.rmtree(folder)


def render(results: dict) -> str:
    """The README's table."""
    heads = ("encoder", "MACs of 128 tokens", "MLM loss", "MLM accuracy", *(task.upper() for task in TASKS))
    count = max(len(seeds) for seeds in results["runs"].values())
    lines = [
        f"| width of the layers, {RUN['max_steps']:,} steps, {count} seed{'s' * (count > 1)} | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for name in LAYOUTS:
        runs = list(results["runs"].get(name, {}).values())
        if not runs:
            continue
        columns = [[run["metrics"][metric] for run in runs] for metric in ("mlm_loss", "mlm_accuracy")]
        columns += [[run["tasks"][task]["accuracy"] for run in runs] for task in TASKS]
        cells = [f"{runs[0]['parameters']['encoder'] / 1e6:.1f} M", f"{runs[0]['macs'] / 1e9:.2f} G"]
        for values in columns:
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
