"""A training step of our MobileBERT against transformers' own of the same shape: `benchmarks/training_step.json`.

    python benchmarks/training_step.py run [--threads 2]
    python benchmarks/training_step.py show

Masked language modelling, fp32, AdamW, dropout as both have it; forward, backward and update, taking turns.
"""

import time
from typing import Annotated

import torch
import typer
from results import Results, ratio_table, threads_title
from transformers import MobileBertConfig, MobileBertForMaskedLM

from compactbert.convert import from_transformers


RESULTS = Results(__file__)
SHAPES = ((32, 16), (8, 128))
BASELINE = "transformers, eager"
app = typer.Typer()


@app.command()
def run(threads: Annotated[list[int], typer.Option()] = [2], rounds: int = 9):  # noqa: B006
    torch.manual_seed(0)
    theirs = MobileBertForMaskedLM(MobileBertConfig())
    for number in threads:
        torch.set_num_threads(number)
        for rows, tokens in SHAPES:
            steps = {}
            for name, model, attention in (
                (BASELINE, theirs, "eager"),
                ("transformers, sdpa", theirs, "sdpa"),
                ("ours, eager", from_transformers(theirs), "eager"),
                ("ours, sdpa", from_transformers(theirs), "sdpa"),
                ("ours, sdpa, gradient checkpointing", from_transformers(theirs), "sdpa"),
            ):
                steps[name] = step_of(model, attention, "checkpointing" in name, rows, tokens)
            times: dict[str, list[float]] = {name: [] for name in steps}
            for turn in range(rounds + 2):
                for name, step in steps.items():
                    started = time.perf_counter()
                    step()
                    if turn > 1:
                        times[name].append(time.perf_counter() - started)
            RESULTS.record((str(number), f"{rows}x{tokens}"), times)
    show()


def step_of(model, attention: str, checkpointing: bool, rows: int, tokens: int):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(1000, 30_000, (rows, tokens))

    def step() -> None:
        model.train()
        model.set_attn_implementation(attention)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def render(results: dict) -> str:
    """The README's table: the time of a step, as a share of transformers'."""
    columns = {
        f"{shape}, {threads_title(threads)}": seconds
        for threads in results
        if threads.isdigit()
        for shape, seconds in results[threads].items()
    }
    return "\n".join(ratio_table(columns, BASELINE, speed=False))


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
