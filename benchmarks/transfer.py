"""MobileBERT's knowledge transfer, ablated: `benchmarks/transfer.json`.

    python benchmarks/transfer.py run --text TEXT [--text ...] --work-dir WORK [--method progressive] [--seed 1]
    python benchmarks/transfer.py cost --work-dir WORK
    python benchmarks/transfer.py memory --work-dir WORK
    python benchmarks/transfer.py show

The teacher, the student and the corpus are those of `configs/transfer/mobilebert-md-minilm.yaml`; every method has the
same steps, seeds and samples. `run` makes what is missing, may be killed and called again, and may run twice at a time
with different methods or seeds. `cost` compares the time of a step of the transfer with that of its parts, `memory`
what they take (Linux alone).
"""

import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
import typer
from results import Results
from transformers import PreTrainedModel

from compactbert.benchmark import peak_mb
from compactbert.convert import load_pretrained
from compactbert.data import Corpus, PretrainingCollator, build_corpus
from compactbert.recipes import load_transfer_recipe
from compactbert.training import (
    PretrainingConfig,
    PretrainingTrainer,
    ProgressiveTransferConfig,
    ProgressiveTransferTrainer,
    ib_teacher,
    transfer_knowledge,
)
from compactbert.training.pretraining import narrowed
from compactbert.training.text import load_language_model


RESULTS = Results(__file__)
RECIPE = load_transfer_recipe("mobilebert-md-minilm")
STEPS, TRANSFER_STEPS = 800, 400
BATCH_SIZE, LEARNING_RATE = 16, 1e-3
NOTHING = {"strategy": "auxiliary", "feature_map_transfer_weight": 0.0, "attention_transfer_weight": 0.0}
STAGED = {"transfer_steps": TRANSFER_STEPS}
METHODS = {
    "no transfer": {**NOTHING, "ground_truth_ratio": 1.0, "copy_from_teacher": False},
    "distillation (PD)": {**NOTHING, "copy_from_teacher": False},
    "PD, teacher's embeddings and head": NOTHING,
    "auxiliary (AKT)": {"strategy": "auxiliary"},
    "joint (JKT)": {"strategy": "joint", **STAGED},
    "progressive without attention (PD + FMT)": {
        "strategy": "progressive",
        "attention_transfer_weight": 0.0,
        **STAGED,
    },
    "progressive (PKT, PD + FMT + AT)": {"strategy": "progressive", **STAGED},
}
# A student's training, a teacher's pass, and both.
WAYS = ("student", "teacher", "transfer")
METRICS = {
    "mlm_loss": "MLM loss",
    "mlm_accuracy": "MLM accuracy",
    "relative_feature_map_distance": "feature map distance, relative",
    "attention_distance": "attention distance (KL)",
}
app = typer.Typer()


@app.command()
def run(
    text: Annotated[list[str], typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    method: Annotated[list[str], typer.Option()] = list(METHODS),  # noqa: B006
    seed: Annotated[list[int], typer.Option()] = [1],  # noqa: B006
):
    teacher, corpus = work_dir / "teacher", work_dir / "corpus"
    settings = RECIPE.teacher["ib_teacher"]
    if not corpus.exists():
        build_corpus(text, load_pretrained(settings["model"], "")[1], corpus, **RECIPE.corpus)
    if not teacher.exists():
        ib_teacher(corpus=corpus, output_dir=teacher, **settings)
    if not RESULTS.found("teacher"):
        RESULTS.record(("teacher",), json.loads((teacher / "metrics.json").read_text())["metrics"])
    for number in seed:
        for name in method:
            matches = [known for known in METHODS if known.startswith(name)]
            if len(matches) != 1:
                raise typer.BadParameter(f"{name!r} is none, or the beginning of several, of {list(METHODS)}.")
            name = matches[0]
            if RESULTS.found("runs", name, str(number)):
                continue
            output = work_dir / f"{list(METHODS).index(name)}-{number}"
            report = transfer_knowledge(
                RECIPE.student,
                teacher,
                corpus,
                output,
                max_steps=STEPS,
                batch_size=BATCH_SIZE,
                learning_rate=LEARNING_RATE,
                seed=number,
                **METHODS[name],
            )
            kept = ("metrics", "steps", "seconds_per_step", "precision", "losses")
            RESULTS.record(("runs", name, str(number)), {key: report[key] for key in kept})
            shutil.rmtree(output)
    show()


class Steps:
    """A step of auxiliary transfer and its two parts, a student's training step and a teacher's pass, on a batch."""

    def __init__(self, work_dir: Path, steps: int):
        self.work_dir = work_dir
        _, tokenizer = load_pretrained(work_dir / "teacher", "")
        data, collator = Corpus.open(work_dir / "corpus").train, PretrainingCollator(tokenizer)
        self.rest = {"train_dataset": data, "data_collator": collator, "processing_class": tokenizer}
        self.batches = [collator([data[i * 32 + j] for j in range(32)]) for i in range(steps)]

    @cached_property
    def teacher(self) -> PreTrainedModel:
        model, _ = load_pretrained(self.work_dir / "teacher", "ForPreTraining")
        model.set_attn_implementation("eager")
        return model

    @cached_property
    def student(self) -> PreTrainedModel:
        model, _ = load_language_model(RECIPE.student, self.work_dir / "teacher", 1)
        model.set_attn_implementation("eager")
        return model

    def of(self, way: str) -> Callable[[dict], None]:
        """What does `"student"`'s step, `"teacher"`'s or the whole `"transfer"`'s."""
        if way == "teacher":
            return self.observe_teacher
        shared = {"output_dir": str(self.work_dir / "cost"), "max_steps": 1000, "report_to": "none", "use_cpu": True}
        if way == "student":
            trainer = PretrainingTrainer(self.student, PretrainingConfig(**shared), **self.rest)
        else:
            config = ProgressiveTransferConfig(**shared, strategy="auxiliary")
            trainer = ProgressiveTransferTrainer(self.student, self.teacher, config, **self.rest)
        trainer.create_optimizer()
        # What the Trainer's own loop sets.
        trainer.current_gradient_accumulation_steps = 1

        def step(batch: dict) -> None:
            self.student.train()
            trainer.training_step(self.student, batch)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        return step

    def observe_teacher(self, batch: dict) -> None:
        """What the transfer asks of the teacher: maps, and scores at the masked positions."""
        labels = batch.pop("labels")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad(), narrowed(self.teacher, positions=labels != -100):
            self.teacher(**inputs, output_hidden_states=True, output_attentions=True)

    def run(self, work: Callable[[dict], None]) -> None:
        for batch in self.batches:
            work(dict(batch))


@app.command()
def cost(work_dir: Annotated[Path, typer.Option()], rounds: int = 5, steps: int = 4):
    """Time of a step of auxiliary transfer, against that of a student's training step and of a teacher's pass."""
    made = Steps(work_dir, steps)
    ways = {way: made.of(way) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, work in ways.items():
            started = time.perf_counter()
            made.run(work)
            if turn:
                times[way].append((time.perf_counter() - started) / steps)
    parts = zip(times["student"], times["teacher"], times["transfer"], strict=True)
    ratios = [(own + theirs) / whole for own, theirs, whole in parts]
    RESULTS.record(("cost",), {"ratios": ratios, "seconds": times})
    show()


@app.command()
def memory(work_dir: Annotated[Path, typer.Option()], rounds: int = 3):
    """The most memory of the same three, each in processes of its own."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, values in found.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                values.append(pool.submit(memory_of, work_dir, way).result())
    RESULTS.record(("memory",), found)
    show()


def memory_of(work_dir: Path, way: str) -> float | None:
    """What a process has more at most, with models, gradients and the optimizer's state, than before them."""
    torch.set_num_threads(1)
    made = Steps(work_dir, 2)
    return peak_mb(lambda: made.run(made.of(way)))


def render(results: dict) -> str:
    """The README's table."""
    runs = results.get("runs", {})
    count = max((len(seeds) for seeds in runs.values()), default=0)
    head = " | ".join(METRICS.values())
    lines = [f"| {STEPS} steps, {count} seed{'s' if count > 1 else ''} | {head} |", "|---" * (len(METRICS) + 1) + "|"]
    teacher = results["teacher"]
    lines.append(f"| teacher | {teacher['mlm_loss']:.3f} | {teacher['mlm_accuracy']:.3f} | 0 | 0 |")
    for name in METHODS:
        if name not in runs:
            continue
        cells = []
        for metric in METRICS:
            values = [run["metrics"][metric] for run in runs[name].values()]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if "cost" in results:
        ratios = results["cost"]["ratios"]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        share = f"{middle:.0%} ({low:.0%}-{high:.0%})"
        lines += [
            "",
            f"A transfer step against a student's step plus a teacher's pass, measured apart: {share} as fast.",
        ]
    if "memory" in results:
        student, teacher, whole = (statistics.median(results["memory"][way]) for way in WAYS)
        lines.append(
            f"It takes {whole:,.0f} MB at most, the student's training {student:,.0f} and the teacher {teacher:,.0f}."
        )
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
