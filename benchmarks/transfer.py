"""MobileBERT's knowledge transfer, ablated: `benchmarks/transfer.json`.

    python benchmarks/transfer.py run --text TEXT [--text ...] --work-dir WORK [--method progressive] [--seed 1]
    python benchmarks/transfer.py cost --work-dir WORK
    python benchmarks/transfer.py show

The teacher, the student and the corpus are those of `configs/transfer/mobilebert-md-minilm.yaml`; every method has the
same steps, seeds and samples. `run` makes what is missing, may be killed and called again, and may run twice at a time
with different methods or seeds. `cost` compares a step of the transfer with its parts.
"""

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from results import Results

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


@app.command()
def cost(work_dir: Annotated[Path, typer.Option()], rounds: int = 5, steps: int = 4):
    """Time of a step of auxiliary transfer, against that of a student's training step and of a teacher's pass."""
    teacher, tokenizer = load_pretrained(work_dir / "teacher", "ForPreTraining")
    student, _ = load_language_model(RECIPE.student, work_dir / "teacher", 1)
    for model in (teacher, student):
        model.set_attn_implementation("eager")
    data, collator = Corpus.open(work_dir / "corpus").train, PretrainingCollator(tokenizer)
    shared = {"output_dir": str(work_dir / "cost"), "max_steps": 1000, "report_to": "none", "use_cpu": True}
    rest = {"train_dataset": data, "data_collator": collator, "processing_class": tokenizer}
    plain = PretrainingTrainer(student, PretrainingConfig(**shared), **rest)
    both = ProgressiveTransferTrainer(
        student, teacher, ProgressiveTransferConfig(**shared, strategy="auxiliary"), **rest
    )
    batches = [collator([data[i * 32 + j] for j in range(32)]) for i in range(steps)]

    def seconds(work) -> float:
        started = time.perf_counter()
        for batch in batches:
            work(dict(batch))
        return (time.perf_counter() - started) / len(batches)

    def train(trainer):
        trainer.create_optimizer()
        # What the Trainer's own loop sets.
        trainer.current_gradient_accumulation_steps = 1

        def step(batch):
            student.train()
            trainer.training_step(student, batch)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        return step

    def forward(batch):
        # What the transfer asks of the teacher: maps, and scores at the masked positions.
        labels = batch.pop("labels")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad(), narrowed(teacher, positions=labels != -100):
            teacher(**inputs, output_hidden_states=True, output_attentions=True)

    ways = {"student": train(plain), "teacher": forward, "transfer": train(both)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, work in ways.items():
            value = seconds(work)
            if turn:
                times[name].append(value)
    parts = zip(times["student"], times["teacher"], times["transfer"], strict=True)
    ratios = [(own + theirs) / whole for own, theirs, whole in parts]
    RESULTS.record(("cost",), {"ratios": ratios, "seconds": times})
    show()


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
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
