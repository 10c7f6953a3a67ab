"""Texts of different length in a batch: fused MobileBERT that does no work on padding, against transformers' MobileBERT
eager: `benchmarks/mixed_lengths.json`.

    python benchmarks/mixed_lengths.py run --data-dir DATA [--threads 1] [--threads 2]
    python benchmarks/mixed_lengths.py show

Texts are a fixed sample of SST-2's training rows, padded to the longest of their batch. "Sorted" takes the same texts
longest first, as bulk prediction can and a service cannot. Random weights: speed does not depend on them.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from results import Results
from transformers import AutoTokenizer, MobileBertConfig, MobileBertModel

from compactbert.convert import from_transformers, minilm_path
from compactbert.data import load_texts
from compactbert.inference import fuse


RESULTS = Results(__file__)
SIZES, TEXTS = (32, 128), 512
BASELINE = "transformers, eager"
app = typer.Typer()


@app.command()
@torch.inference_mode()
def run(
    data_dir: Annotated[Path, typer.Option()],
    threads: Annotated[list[int], typer.Option()] = [1, 2],  # noqa: B006
    rounds: int = 5,
):
    tokenizer = AutoTokenizer.from_pretrained(minilm_path())
    texts = load_texts("sst2", data_dir, max_rows=TEXTS)[0]
    torch.manual_seed(0)
    config = MobileBertConfig(vocab_size=len(tokenizer), classifier_activation=False)
    eager = MobileBertModel(config, add_pooling_layer=False).eval()
    eager.set_attn_implementation("eager")
    ours = from_transformers(eager)
    ways = {
        BASELINE: (eager, False),
        "transformers, eager, sorted": (eager, True),
        "fused": (fuse(ours), False),
        "fused, no padding": (fuse(ours, unpad=True), False),
        "fused, no padding, sorted": (fuse(ours, unpad=True), True),
    }
    for number in threads:
        torch.set_num_threads(number)
        for size in SIZES:
            batches = {order: padded(tokenizer, texts, size, order) for order in (False, True)}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(rounds + 1):
                for name, (model, order) in ways.items():
                    started = time.perf_counter()
                    for batch in batches[order]:
                        model(**batch)
                    if turn:
                        times[name].append(time.perf_counter() - started)
            tokens = sum(batch["attention_mask"].sum().item() for batch in batches[False])
            places = sum(batch["attention_mask"].numel() for batch in batches[False])
            cell = {"seconds": times, "texts": len(texts), "tokens": tokens, "places": places}
            RESULTS.record((f"{number}", f"{size}"), cell)
    show()


def padded(tokenizer, texts: list[str], size: int, by_length: bool) -> list[dict]:
    if by_length:
        texts = sorted(texts, key=lambda text: -len(tokenizer(text)["input_ids"]))
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    return [dict(tokenizer(batch, padding=True, return_tensors="pt")) for batch in batches]


def render(results: dict) -> str:
    """The README's table: how many times as fast as transformers' MobileBERT on the same batches."""
    cells = [(threads, size) for threads in results if threads.isdigit() for size in results[threads]]
    head = [f"batch {size}, {threads} thread{'s' if threads != '1' else ''}" for threads, size in cells]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(cells) + 1) + "|"]
    for name in results[cells[0][0]][cells[0][1]]["seconds"]:
        row = []
        for threads, size in cells:
            seconds = results[threads][size]["seconds"]
            ratios = [base / own for base, own in zip(seconds[BASELINE], seconds[name], strict=True)]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        lines.append(f"| {name} | {' | '.join(row)} |")
    shares = [f"{results[t][s]['places'] / results[t][s]['tokens']:.2f}" for t, s in cells]
    lines.append(f"| places in a batch per token | {' | '.join(shares)} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(json.loads(RESULTS.path.read_text())))


if __name__ == "__main__":
    app()
