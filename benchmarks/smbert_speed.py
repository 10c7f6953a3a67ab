"""SmBERT against BERT-base, forward pass in fp32, run in the same way on both sides: `benchmarks/smbert_speed.json`.

python benchmarks/smbert_speed.py run [--threads 2]
python benchmarks/smbert_speed.py show
"""

from typing import Annotated, Any

import typer
from results import Results

from compactbert.benchmark import bench, parse_shape


RESULTS = Results(__file__)
BERT, SMALL = "bert-base", "smbert/smbert"
RUNTIMES = ("eager", "sdpa", "fused")
# Shapes, and how many turns are timed.
SHAPES = {"1x128": 40, "32x512": 5}
app = typer.Typer()


@app.command()
def run(threads: Annotated[int, typer.Option()] = 2):
    for shape, rounds in SHAPES.items():
        options = {"shapes": [parse_shape(shape)], "threads": threads, "rounds": rounds, "seconds": 600.0}
        RESULTS.record((shape,), bench([BERT, SMALL], runtimes=RUNTIMES, **options))
    show()


def rows_of(results: dict[str, Any], shape: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in results[shape]["rows"]}


def ratios(results: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """How many times as fast, by runtime and shape: median, and quartile against opposite quartile."""
    found: dict[str, dict[str, dict[str, float]]] = {runtime: {} for runtime in RUNTIMES}
    for shape in SHAPES:
        rows = rows_of(results, shape)
        for runtime, by_shape in found.items():
            bert, small = (rows[f"{name}, {runtime}"]["latency"][shape] for name in (BERT, SMALL))
            by_shape[shape] = {
                "median": bert["median_ms"] / small["median_ms"],
                "low": bert["low_ms"] / small["high_ms"],
                "high": bert["high_ms"] / small["low_ms"],
            }
    return found


def render(results: dict[str, Any]) -> str:
    """The README's table."""
    lines = [f"| | {' | '.join(SHAPES)} |", "|---" * (len(SHAPES) + 1) + "|"]
    for runtime, by_shape in ratios(results).items():
        cells = []
        for shape, ratio in by_shape.items():
            rows = rows_of(results, shape)
            shares = [f"{rows[f'{name}, {runtime}']['of_peak'][shape]:.0%}" for name in (BERT, SMALL)]
            cells.append(f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}), {' and '.join(shares)}")
        lines.append(f"| {runtime} | {' | '.join(cells)} |")
    work = []
    for shape in SHAPES:
        bert, small = (rows_of(results, shape)[f"{name}, eager"]["macs"][shape] for name in (BERT, SMALL))
        work.append(f"{bert / small:.2f}")
    return "\n".join([*lines, f"| multiply-accumulates | {' | '.join(work)} |"])


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
