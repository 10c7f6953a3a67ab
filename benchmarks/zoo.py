"""The zoo's checkpoints: `zoo/`, `configs/catalog.yaml` and `benchmarks/zoo.json`.

    python benchmarks/zoo.py make --data-dir DATA --work-dir WORK [--task sst2]
    python benchmarks/zoo.py measure
    python benchmarks/zoo.py show

`make` compresses and stages what is missing, and may be killed and called again. `measure` times all checkpoints beside
MiniLM, which their teachers have the shape of, in one process on one thread; the times in the checkpoints' reports and
cards are then those, and not what else the machine was doing when they were made.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml
from results import Results

import compactbert
from compactbert.benchmark import measure_latency
from compactbert.cards import (
    Folder,
    Publication,
    languages_of,
    license_of,
    markdown_table,
    render_card,
    result_point,
    teacher_point,
)
from compactbert.compression import count_macs
from compactbert.convert import MINILM_ON_HUB, load_pretrained
from compactbert.files import write_text
from compactbert.hub import catalogue_rows, read_catalogue, stage
from compactbert.provenance import environment


RESULTS = Results(__file__)
ROOT = Path(__file__).parent.parent
RECIPE, ROWS = "smbert-minilm-10k-tokens", 20_000
# Of the Hub, where they will be.
NAMESPACE = "compactbert"
TEACHER = "MiniLM-L6"
SHAPES = [(1, 16), (1, 128), (32, 128)]
app = typer.Typer()


def folders() -> list[Path]:
    return sorted(path for path in (ROOT / "zoo").iterdir() if path.is_dir())


@app.command()
def make(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    task: Annotated[list[str], typer.Option()] = ["sst2"],  # noqa: B006
):
    for name in task:
        folder = ROOT / "zoo" / f"smbert-{name}"
        if folder.exists():
            continue
        made = work_dir / folder.name
        if not made.exists():
            compactbert.compress("minilm", name, made, recipe=RECIPE, data_dir=data_dir, max_train_rows=ROWS)
        stage(made, folder, f"{NAMESPACE}/{folder.name}", dtype="float16")
    write_catalogue()


@app.command()
def measure():
    models = {TEACHER: load_pretrained("minilm", "ForSequenceClassification")[0]}
    models |= {folder.name: load_pretrained(folder, "ForSequenceClassification")[0] for folder in folders()}
    latency = measure_latency(models, SHAPES)
    for name, shapes in latency.items():
        RESULTS.record(("latency", name), shapes)
    for folder in folders():
        report = json.loads((folder / "report.json").read_text())
        # What lies between was timed at another hour.
        report["points"] = [teacher_point(report), result_point(report)]
        for point, name in zip(report["points"], (TEACHER, folder.name), strict=True):
            point["latency"] = latency[name]
            config = models[name].config
            point["macs"] = {f"{rows}x{tokens}": count_macs(config, rows, tokens) for rows, tokens in SHAPES}
        kept = {name: value for name, value in report["result"].items() if not name.startswith("speedup")}
        report["result"] = kept | {f"speedup_{shape}": value for shape, value in speedup(latency, folder.name).items()}
        report["environment"] = environment()
        write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
        (folder / "report.png").unlink(missing_ok=True)
        write_text(folder / "README.md", render_card(folder, publication(folder)))
    write_catalogue()
    show()


def speedup(latency: dict, name: str) -> dict[str, float]:
    return {shape: latency[TEACHER][shape]["median_ms"] / found["median_ms"] for shape, found in latency[name].items()}


def publication(folder: Path) -> Publication:
    return Publication(f"{NAMESPACE}/{folder.name}", license_of(MINILM_ON_HUB), languages_of(MINILM_ON_HUB))


def write_catalogue() -> None:
    """A row per folder, from what lies in it."""
    rows, latency = {}, (RESULTS.read() or {}).get("latency", {})
    for folder in folders():
        read, publisher = Folder.read(folder), publication(folder)
        teacher = teacher_point(read.record)
        rows[folder.name] = {
            "repo_id": publisher.repo_id,
            "architecture": "SmBERT",
            "base": MINILM_ON_HUB,
            "task": read.task,
            "license": publisher.license,
            "languages": list(publisher.languages),
            "parameters": sum(count for count, _ in read.tensors.values()),
            "bytes": sum(size for _, size in read.tensors.values()),
            "scores": {name: round(value, 4) for name, value in read.scores.items()},
            "teacher_scores": {name: round(found["values"][0], 4) for name, found in teacher["metrics"].items()},
            "speedup": {k: round(v, 2) for k, v in speedup(latency, folder.name).items()} if latency else {},
            "measured_by": "benchmarks/zoo.py",
        }
    head = "# The zoo, a row per checkpoint. Written by benchmarks/zoo.py; README.md shows it.\n"
    write_text(ROOT / "configs" / "catalog.yaml", head + yaml.safe_dump(rows, sort_keys=False))
    read_catalogue()


def render(results: dict) -> str:
    """The README's table."""
    return markdown_table(*catalogue_rows(read_catalogue()))


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
