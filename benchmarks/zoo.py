"""The zoo's checkpoints: `zoo/`, `configs/catalog.yaml` and `benchmarks/zoo.json`.

    python benchmarks/zoo.py make --data-dir DATA --work-dir WORK [--name smbert-sst2]
    python benchmarks/zoo.py measure
    python benchmarks/zoo.py show

`make` trains and stages what is missing, and may be killed and called again. `measure` times all checkpoints beside
MiniLM, which their teachers have the shape of, in one process on one thread, language models without their heads; the
times in the checkpoints' reports and cards are then those, and not what else the machine was doing when they were made.
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
    LANGUAGE_MODELS,
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
COMPRESS = {"recipe": "smbert-minilm-10k-tokens", "max_train_rows": 20_000}
# Checkpoint -> the task it is compressed on; `None` for a language model, learned from a teacher on text.
CHECKPOINTS = {"smbert-sst2": "sst2", "smbert-conll2003": "conll2003", "mobilebert-md-small": None}
TEXTS = ("wikipedia_en_recent.txt.gz", "reuters21578.txt.gz", "brown.txt.gz")
ARCHITECTURES = {"smbert": "SmBERT", "mobilebert_md": "MobileBERT-MD"}
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
    name: Annotated[list[str], typer.Option()] = list(CHECKPOINTS),  # noqa: B006
):
    for checkpoint in name:
        folder = ROOT / "zoo" / checkpoint
        if folder.exists():
            continue
        made, task = work_dir / checkpoint, CHECKPOINTS[checkpoint]
        if not made.exists() and task is not None:
            compactbert.compress("minilm", task, made, data_dir=data_dir, **COMPRESS)
        elif not made.exists():
            compactbert.transfer([data_dir / "text" / file for file in TEXTS], made)
        stage(
            made, folder, f"{NAMESPACE}/{checkpoint}", dtype="float16", max_shard_size="25MB", base_model=MINILM_ON_HUB
        )
    write_catalogue()


@app.command()
def measure():
    models = {TEACHER: load_pretrained("minilm", "ForSequenceClassification")[0]}
    for folder in folders():
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
        report["environment"] = environment()
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
    return Publication(f"{NAMESPACE}/{folder.name}", *of_base, base_model=MINILM_ON_HUB)


def write_catalogue() -> None:
    """A row per folder, from what lies in it."""
    rows, latency = {}, (RESULTS.read() or {}).get("latency", {})
    for folder in folders():
        read, publisher = Folder.read(folder), publication(folder)
        teacher = teacher_point(read.record)["metrics"] if "points" in read.record else {}
        rows[folder.name] = {
            "repo_id": publisher.repo_id,
            "architecture": ARCHITECTURES[read.config.model_type],
            "base": MINILM_ON_HUB,
            "task": read.task or "masked language model",
            "license": publisher.license,
            "languages": list(publisher.languages),
            "parameters": sum(count for count, _ in read.tensors.values()),
            "bytes": sum(size for _, size in read.tensors.values()),
            "scores": {name: round(value, 4) for name, value in read.scores.items()},
            "teacher_scores": {name: round(found["values"][0], 4) for name, found in teacher.items()},
            "speedup": {k: round(v, 2) for k, v in speedup(latency, folder.name).items()},
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
