"""Fused inference against transformers' MobileBERT, forward pass in fp32 unless said otherwise, random weights:
`benchmarks/fused_speed.json`.

    python benchmarks/fused_speed.py run [--threads 1] [--threads 2]
    python benchmarks/fused_speed.py show
"""

from typing import Annotated

import typer
from results import Results, threads_title

from compactbert.benchmark import bench


RESULTS = Results(__file__)
SHAPES = [(1, 16), (1, 128), (8, 128), (32, 128)]
FASTER = "mobilebert_md/mobilebert-md-1.9g"
INT8 = "onnx-int8"
MODELS = ["mobilebert", "mobilebert_md/mobilebert-md", FASTER, "smbert/smbert", "bert-base"]
BASELINE = "mobilebert, eager"
SHOWN = {
    "mobilebert, fused": "MobileBERT, fused",
    "mobilebert, fused-bf16": "MobileBERT, fused, bf16",
    f"mobilebert, {INT8}": "MobileBERT, fused graph, ONNX Runtime int8",
    "mobilebert_md/mobilebert-md, eager": "MobileBERT-MD, eager",
    "mobilebert_md/mobilebert-md, fused": "MobileBERT-MD, fused",
    "mobilebert_md/mobilebert-md, fused-bf16": "MobileBERT-MD, fused, bf16",
    f"mobilebert_md/mobilebert-md, {INT8}": "MobileBERT-MD, fused graph, ONNX Runtime int8",
    f"{FASTER}, fused": "MobileBERT-MD of 1.9 GMACs, fused",
    f"{FASTER}, {INT8}": "MobileBERT-MD of 1.9 GMACs, fused graph, ONNX Runtime int8",
    "smbert/smbert, eager": "SmBERT, eager",
    "smbert/smbert, fused": "SmBERT, fused",
    f"smbert/smbert, {INT8}": "SmBERT, ONNX Runtime int8",
    "bert-base, eager": "BERT-base, eager",
    "bert-base, fused": "BERT-base, fused",
}
app = typer.Typer()


@app.command()
def run(threads: Annotated[list[int], typer.Option()] = [1, 2], rounds: int = 11):  # noqa: B006
    for number in threads:
        found = bench(
            MODELS,
            runtimes=("eager", "fused", "fused-bf16", INT8),
            shapes=SHAPES,
            baseline=BASELINE,
            threads=number,
            rounds=rounds,
            seconds=150.0,
        )
        RESULTS.record((str(number),), found)
    show()


def summary(results: dict) -> str:
    """The README's sentence: the range over the sizes, on one thread."""
    rows = {row["name"]: [ratio["median"] for ratio in row["ratio"].values()] for row in results["1"]["rows"]}
    told = [
        f"{min(rows[name]):.1f} to {max(rows[name]):.1f} {how}"
        for name, how in {
            "mobilebert, fused": "times as fast in float32",
            "mobilebert, fused-bf16": "in bfloat16",
            f"mobilebert, {INT8}": "as the fused graph in ONNX Runtime's int8",
        }.items()
    ]
    return f"Of MobileBERT, against transformers' (eager, fp32, one thread): {', '.join(told)}"


def render(results: dict) -> str:
    """The table: times as fast as transformers' MobileBERT, and the share of the hardware's peak."""
    lines = []
    for threads in filter(str.isdigit, results):
        result = results[threads]
        shapes = list(result["rows"][0]["ratio"])
        lines += ["", f"| {threads_title(threads)} | {' | '.join(shapes)} |"]
        lines.append("|---" * (len(shapes) + 1) + "|")
        rows = {row["name"]: row for row in result["rows"]}
        for name, title in SHOWN.items():
            if name not in rows:
                continue
            cells = []
            for shape in shapes:
                ratio, share = rows[name]["ratio"][shape], rows[name]["of_peak"][shape]
                cells.append(f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}), {share:.0%}")
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
