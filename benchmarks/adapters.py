"""Adapters against full fine-tuning and a frozen encoder, on two bases and two tasks: `benchmarks/adapters.json`.

    python benchmarks/adapters.py run --data-dir DATA --work-dir WORK [--base smbert] [--task mrpc] [--method lora]
    python benchmarks/adapters.py cost --data-dir DATA --work-dir WORK
    python benchmarks/adapters.py show

`run` makes what is missing and may be killed and called again, or twice at a time with different methods or bases.
`cost` times training steps on MRPC, the methods that `run` has made in turns, on one thread. Each
method has one learning rate, of the size its paper or PEFT's examples use; none was searched. MobileBERT-MD has no
pretrained weights of its own: `--mobilebert FOLDER` says where some are, and otherwise its encoder is random, which a
frozen encoder and adapters cannot make up for.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from results import Results, ratio
from transformers import AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments

import compactbert
from compactbert.adapters import adapter_config, get_peft_model
from compactbert.convert import load_checkpoint, load_pretrained, minilm_path
from compactbert.data import Task, data_collator, encode_task, load_task
from compactbert.presets import load_preset
from compactbert.provenance import environment
from compactbert.training.run import ResumableTrainer, TrainingRun, computes_in_bf16, train_on_task
from modeling_mobilebert_md import MobileBertMdForMaskedLM


RESULTS = Results(__file__)
PRESET = "mobilebert_md/mobilebert-md-small"
BASES = {"smbert": "MiniLM-L6 as SmBERT", "mobilebert_md": f"MobileBERT-MD, preset {PRESET.split('/')[1]}"}
TASKS = {"mrpc": {"epochs": 3}, "sst2": {"epochs": 2, "max_train_rows": 10_000, "max_length": 64}}
FULL, FROZEN = "full fine-tuning", "frozen encoder"
JOINED = {"prompt+p-tuning": ["prompt", "p-tuning"]}
# The order in which they run.
RATES = {
    FULL: 1e-4,
    FROZEN: 1e-3,
    "lora": 1e-3,
    "adapter": 1e-3,
    "ia3": 3e-3,
    "prefix": 1e-2,
    "prompt": 3e-2,
    "p-tuning": 1e-2,
    "ln-tuning": 1e-3,
    "dora": 1e-3,
    "houlsby": 1e-3,
    "prompt+p-tuning": 1e-2,
    "adalora": 1e-3,
    "loha": 1e-3,
    "vera": 3e-3,
}
SEED, BATCH_SIZE = 42, 32
STEPS = 115  # of an epoch on MRPC
app = typer.Typer()


def read() -> dict:
    return RESULTS.read() or {"runs": {}}


def place(base: str, task: str, method: str) -> str:
    return f"{base}/{task}/{method}"


def base_folder(base: str, work_dir: Path, mobilebert: Path | None) -> Path:
    """Where a base is: adapters of it name this folder."""
    if base == "mobilebert_md" and mobilebert is not None:
        return mobilebert
    folder = work_dir / base
    if not folder.exists():
        tokenizer = AutoTokenizer.from_pretrained(minilm_path())
        if base == "smbert":
            model, _ = load_pretrained("minilm", "")
        else:
            torch.manual_seed(SEED)
            model = MobileBertMdForMaskedLM(load_preset(PRESET))
        partial = work_dir / f"{base}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.replace(folder)
    return folder


def train_alone(model: PreTrainedModel, names: Collection[str]) -> None:
    """Freezes all but these weights."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in names


def train_frozen(model: Path, task: str, output: Path, **options: Any) -> dict[str, Any]:
    """Trains the head alone, and the pooler where it is new."""

    def build_trainer(run: TrainingRun, loaded: PreTrainedModel) -> Trainer:
        train_alone(loaded, run.new_weights)
        return ResumableTrainer(loaded, TrainingArguments(**run.arguments), **run.trainer_arguments)

    return train_on_task(model, task, output, build_trainer, {"method": FROZEN}, **options)


def run_cell(base: str, task: str, method: str, work_dir: Path, **options: Any) -> None:
    key = place(base, task, method)
    if key in read()["runs"]:
        return
    model = base_folder(base, work_dir, options.pop("mobilebert"))
    output = work_dir / key.replace("/", "-").replace(" ", "-")
    options = TASKS[task] | {"learning_rate": RATES[method], "seed": SEED} | options
    if not output.exists():
        if method == FULL:
            compactbert.finetune(model, task, output, **options)
        elif method == FROZEN:
            train_frozen(model, task, output, **options)
        else:
            compactbert.adapt(model, task, output, method=method, **options)
    report = json.loads((output / "metrics.json").read_text())
    if "parameters" not in report:
        loaded, _ = load_pretrained(output, "ForSequenceClassification")
        # The frozen encoder's head is what an adapter of nothing would hold.
        new = (
            {} if method == FULL else {n: p for n, p in loaded.named_parameters() if "pooler" in n or "classifier" in n}
        )
        if base == "smbert":
            new = {name: parameter for name, parameter in new.items() if "pooler" not in name}
        trained = list(new.values()) or list(loaded.parameters())
        report["parameters"] = {"trainable": sum(p.numel() for p in trained)}
        report["bytes"] = {"adapter": sum(p.nbytes for p in trained)}
    kept = {name: report[name] for name in ("metrics", "steps", "seconds_per_epoch", "precision")}
    kept |= {"parameters": report["parameters"]["trainable"], "bytes": report["bytes"]["adapter"]}
    kept |= {"threads": torch.get_num_threads(), "accelerator": environment()["accelerator"]}
    RESULTS.record(("runs", key), kept)
    shutil.rmtree(output)


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    base: Annotated[list[str], typer.Option()] = list(BASES),  # noqa: B006
    task: Annotated[list[str], typer.Option()] = list(TASKS),  # noqa: B006
    method: Annotated[list[str], typer.Option()] = list(RATES),  # noqa: B006
    mobilebert: Annotated[Path | None, typer.Option()] = None,
    max_steps: Annotated[int | None, typer.Option()] = None,
):
    options = {"data_dir": data_dir, "mobilebert": mobilebert, "max_steps": max_steps}
    for of in base:
        for way in method:
            for name in task:
                run_cell(of, name, way, work_dir, **options)
    show()


def step_of(base: Path, method: str, task: Task, batches: list[dict[str, torch.Tensor]]) -> Callable[[int], None]:
    """A training step with a method, as `run` does them."""
    loaded = load_checkpoint(base, task.head, **task.config_fields())
    model: Any = loaded.model
    if method == FROZEN:
        train_alone(model, loaded.new_weights)
    elif method != FULL:
        # AdaLoRA asks for the number of steps.
        options = {"task_type": "SEQ_CLS"} | ({"total_step": 1} if method == "adalora" else {})
        configs = [adapter_config(name, **options) for name in JOINED.get(method, [method])]
        model = get_peft_model(model, configs if len(configs) > 1 else configs[0])
    model.train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)

    def step(number: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, computes_in_bf16()):
            loss = model(**batches[number % len(batches)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@app.command()
def cost(
    data_dir: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    mobilebert: Annotated[Path | None, typer.Option()] = None,
    rounds: Annotated[int, typer.Option()] = 10,
):
    torch.set_num_threads(1)
    task = load_task("mrpc", data_dir, max_train_rows=BATCH_SIZE * 4)
    made = {base: [method for method in RATES if place(base, "mrpc", method) in read()["runs"]] for base in BASES}
    for base, methods in made.items():
        folder = base_folder(base, work_dir, mobilebert)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = list(encode_task(task, task.train, tokenizer, 128)[0].remove_columns("length"))
        collator = data_collator(task, tokenizer)
        batches = [collator(rows[i : i + BATCH_SIZE]) for i in range(0, len(rows), BATCH_SIZE)]
        steps = {method: step_of(folder, method, task, batches) for method in methods}
        seconds: dict[str, list[float]] = {method: [] for method in methods}
        for turn in range(rounds + 1):
            for method, step in steps.items():
                started = time.perf_counter()
                step(turn)
                if turn:
                    seconds[method].append(time.perf_counter() - started)
        RESULTS.record(("step_seconds", base), seconds)
    show()


def render(results: dict) -> str:
    """The README's table."""
    tasks = list(TASKS)
    head = ["method", "parameters trained", "bytes", *tasks, "rate", "s per epoch, mrpc", "over full fine-tuning's"]
    lines = []
    for base, title in BASES.items():
        rows = []
        for method, rate in RATES.items():
            runs = [results["runs"].get(place(base, task, method)) for task in tasks]
            some = next((run for run in runs if run), None)
            if some is None:
                continue
            scores = ["" if run is None else f"{run['metrics']['accuracy']:.3f}" for run in runs]
            times = results.get("step_seconds", {}).get(base, {})
            speed = ["", ""]
            if method in times:
                speed = [f"{statistics.median(times[method]) * STEPS:.0f}", ratio(times[method], times[FULL])]
            rows.append([method, f"{some['parameters']:,}", f"{some['bytes']:,}", *scores, f"{rate:g}", *speed])
        if rows:
            lines += ["", f"{title}:", ""] if lines else [f"{title}:", ""]
            lines += [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


@app.command()
def show():
    print(render(read()))


if __name__ == "__main__":
    app()
