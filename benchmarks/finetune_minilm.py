"""Fine-tunes the converted MiniLM on real tasks and records quality and speed: `benchmarks/finetune_minilm.json`.

python benchmarks/finetune_minilm.py --data-dir DATA --work-dir /tmp/finetune-minilm
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from results import Results

import compactbert


RUNS = {"mrpc": {"epochs": 4, "learning_rate": 1e-4}, "rte": {"epochs": 4}, "sst2": {"epochs": 1, "max_length": 64}}
RESULTS = Results(__file__)


def render(results: dict) -> str:
    """The README's table."""
    lines = [
        "| task | rows | epochs | learning rate | metrics | seconds per epoch | threads |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in results["runs"].items():
        metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in run["metrics"].items())
        settings = run["settings"]
        cells = [name, f"{run['rows']['train']:,}", settings["epochs"], settings["learning_rate"], metrics]
        cells += [f"{run['seconds_per_epoch']:.0f}", run["threads"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    environment = results["environment"]
    precisions = ", ".join(dict.fromkeys(run["precision"] for run in results["runs"].values()))
    lines += [
        "",
        f"torch {environment['torch']} in {precisions} on {environment['cores']} cores with "
        f"{environment['cpu_capability']}.",
    ]
    return "\n".join(lines)


def main(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    task: Annotated[list[str], typer.Option()] = list(RUNS),  # noqa: B006
    seed: int = 42,
):
    for name in task:
        output_dir = work_dir / name
        report = compactbert.finetune("minilm", name, output_dir, data_dir=data_dir, seed=seed, **RUNS[name])
        RESULTS.record(("runs", name), report | {"threads": torch.get_num_threads()})
    print(render(RESULTS.read()))


if __name__ == "__main__":
    typer.run(main)
