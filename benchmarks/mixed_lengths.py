"""Texts of different length in a batch: fused MobileBERT that does no work on padding, against transformers' MobileBERT
eager: `benchmarks/mixed_lengths.json`.

    python benchmarks/mixed_lengths.py run --data-dir DATA [--threads 1] [--threads 2]
    python benchmarks/mixed_lengths.py show

Texts are a fixed sample of SST-2's training rows, padded to the longest of their batch. "Sorted" takes the same texts
longest first, as bulk prediction can and a service cannot. Random weights: speed does not depend on them.
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from results import Results, ratio_table, threads_title
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
    cells = {
        f"batch {size}, {threads_title(threads)}": cell
        for threads in results
        if threads.isdigit()
        for size, cell in results[threads].items()
    }
    lines = ratio_table({title: cell["seconds"] for title, cell in cells.items()}, BASELINE, speed=True)
    shares = [f"{cell['places'] / cell['tokens']:.2f}" for cell in cells.values()]
    return "\n".join([*lines, f"| places in a batch per token | {' | '.join(shares)} |"])


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
