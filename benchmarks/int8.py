"""What int8 costs: ways to export it, and training for it: `benchmarks/int8.json`.

    python benchmarks/int8.py export --data-dir DATA --model FOLDER --task sst2
    python benchmarks/int8.py train --data-dir DATA --model FOLDER --work-dir WORK
    python benchmarks/int8.py show

`export` takes any fine-tuned model, `train` a MobileBERT-MD that was fine-tuned on SST-2. It rewrites the model so that
8 of the 512 channels of its feature map are 64 times as large and are read 64 times as small: in float32 the same
model, but with channels as unequal as int8 can hardly bear. From there it is fine-tuned for so many steps, plainly and
for int8. One thread; the exported models take turns.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from onnxruntime.quantization import CalibrationMethod, QuantType, shape_inference
from results import Results

from compactbert.benchmark import measure_latency
from compactbert.convert import load_pretrained
from compactbert.data import Task, encode_task, load_task, score_logits
from compactbert.inference import export_onnx, predict_logits
from compactbert.inference.onnx import FILES, OnnxClassifier
from compactbert.inference.onnx_export import PRODUCTS, quantize_static
from compactbert.provenance import environment
from compactbert.training import finetune


RESULTS = Results(__file__)
HEAD = "ForSequenceClassification"
EXACT, DYNAMIC, STATIC = "float32", "dynamic", "static"
FLOAT_RESULTS = {"OpTypesToExcludeOutputQuantization": PRODUCTS}
# What differs from the static export as it is.
VARIANTS: dict[str, dict[str, Any]] = {
    STATIC: {},
    "static, products give int8": {"extra_options": {}},
    "static, attention's products too": {"nodes_to_exclude": []},
    "static, both, activations with sign": {
        "extra_options": {},
        "nodes_to_exclude": [],
        "activation_type": QuantType.QInt8,
    },
    "static, tables in float32": {"op_types_to_quantize": PRODUCTS},
    "static, weights of 7 bits": {"reduce_range": True},
    "static, percentile 99.999": {"calibrate_method": CalibrationMethod.Percentile},
    "static, entropy": {"calibrate_method": CalibrationMethod.Entropy},
    "static, moving average": {"extra_options": FLOAT_RESULTS | {"CalibMovingAverage": True}},
}
TRAINED = {
    "fine-tuned": {},
    "for int8": {"quantization_aware": True},
    "for int8, ReLU6": {"quantization_aware": True, "relu6": True},
}
CALIBRATION_ROWS, ROWS = 128, 872
CHANNELS, FACTOR = 8, 64.0
app = typer.Typer()


class Measured:
    """A model and a task, exported and compared with itself in float32."""

    def __init__(self, folder: Path, task: Task, scratch: Path):
        self.model, self.tokenizer = load_pretrained(folder, HEAD)
        self.task, self.scratch = task, scratch
        assert task.train is not None
        self.calibration = self._encoded(task.train.shuffle(seed=42).select(range(CALIBRATION_ROWS)))[0]
        self.rows, self.labels = self._encoded(task.evaluation)
        self.exported = scratch / folder.name
        export_onnx(self.model, self.tokenizer, self.exported, int8=[DYNAMIC, STATIC], calibration=self.calibration)
        self.runtimes = {
            name: OnnxClassifier(self.exported, self.model.config, runtime)
            for name, runtime in ((EXACT, "onnx"), (DYNAMIC, "onnx-int8"), (STATIC, "onnx-int8-static"))
        }

    def _encoded(self, dataset: Any) -> tuple[list[dict[str, list[int]]], list]:
        encoded, _ = encode_task(self.task, dataset, self.tokenizer, 128)
        return [{name: row[name] for name in row if name not in ("labels", "length")} for row in encoded], list(
            encoded["labels"]
        )

    def add_variants(self) -> None:
        source, target = self.scratch / "prepared.onnx", self.exported / FILES["onnx-int8-static"]
        shape_inference.quant_pre_process(str(self.exported / FILES["onnx"]), str(source), skip_symbolic_shape=True)
        for name, changes in VARIANTS.items():
            # Histograms need rows of one length.
            length = max(len(row["input_ids"]) for row in self.calibration)
            padding = {"padding": "max_length", "max_length": length} if "calibrate_method" in changes else {}
            rows = [dict(self.tokenizer.pad(row, **padding)) for row in self.calibration]
            quantize_static(source, target, self.tokenizer, rows, **changes)
            self.runtimes[name] = OnnxClassifier(self.exported, self.model.config, "onnx-int8-static")

    def scores(self, rounds: int) -> dict[str, Any]:
        latency = measure_latency(self.runtimes, [(1, 128)], rounds=rounds) if rounds else {}
        found = {}
        logits: dict[str, np.ndarray] = {}
        for name, runtime in self.runtimes.items():
            logits[name] = np.stack(predict_logits(runtime, self.tokenizer, self.rows))
            one, other = (values - values.mean(1, keepdims=True) for values in (logits[name], logits[EXACT]))
            scores = score_logits(self.task, list(logits[name]), self.labels)
            found[name] = {
                "metric": scores[self.task.metrics[0]],
                "error": float(np.sqrt(np.square(one - other).mean() / np.square(other).mean())),
            }
            if rounds:
                found[name]["latency"] = latency[name]["1x128"]
        return found


@app.command()
def export(
    data_dir: Annotated[Path, typer.Option()],
    model: Annotated[Path, typer.Option()],
    task: Annotated[str, typer.Option()] = "sst2",
    rounds: Annotated[int, typer.Option()] = 15,
):
    torch.set_num_threads(1)
    loaded = load_task(task, data_dir, max_evaluation_rows=ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        measured = Measured(model, loaded, Path(scratch))
        measured.add_variants()
        family = type(measured.model).__name__.removesuffix(HEAD)
        RESULTS.record(("export", f"{family}, {task}"), measured.scores(rounds))
    RESULTS.record(("environments", "export"), environment())
    show()


@app.command()
def train(
    data_dir: Annotated[Path, typer.Option()],
    model: Annotated[Path, typer.Option()],
    work_dir: Annotated[Path, typer.Option()],
    steps: Annotated[int, typer.Option()] = 300,
):
    torch.set_num_threads(1)
    rewritten = work_dir / "rewritten"
    loaded, tokenizer = load_pretrained(model, HEAD)
    unequal_channels(loaded)
    loaded.save_pretrained(rewritten)
    tokenizer.save_pretrained(rewritten)
    task = load_task("sst2", data_dir)
    folders = {"as it was": model, "rewritten": rewritten}
    for number, (name, arguments) in enumerate(TRAINED.items()):
        folders[f"rewritten, {name}"] = work_dir / f"trained-{number}"
        if not folders[f"rewritten, {name}"].exists():
            finetune(
                rewritten,
                "sst2",
                folders[f"rewritten, {name}"],
                data_dir=data_dir,
                max_steps=steps,
                training_arguments=arguments,
            )
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder in folders.items():
            RESULTS.record(("train", name), Measured(folder, task, Path(scratch)).scores(0))
    RESULTS.record(("steps",), steps)
    RESULTS.record(("environments", "train"), environment())
    show()


@torch.no_grad()
def unequal_channels(model: Any) -> None:
    """Some channels of a NoNorm model's feature map many times as large, with the same outputs."""
    factors = torch.ones(model.config.hidden_size)
    factors[torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))[:CHANNELS]] = FACTOR
    base = model.base_model
    embeddings = base.embeddings
    written = [embeddings.embedding_transformation]
    shifts = [embeddings.LayerNorm.bias, embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight]
    read = [base.pooler.dense or model.classifier]
    for layer in base.encoder.layer:
        written.append(layer.output.bottleneck.dense)
        shifts.append(layer.output.bottleneck.LayerNorm.bias)
        read += [layer.bottleneck.input.dense, layer.bottleneck.attention.dense, layer.attention.self.value]
    for linear in written:
        linear.weight.mul_(factors[:, None])
        linear.bias.mul_(factors)
    for shift in shifts:
        shift.mul_(factors)
    for linear in read:
        linear.weight.div_(factors)


def render(results: dict) -> str:
    """The README's tables."""
    columns = results["export"]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in (EXACT, DYNAMIC, *VARIANTS):
        cells = []
        for found in columns.values():
            here, there = found[name]["latency"], found[EXACT]["latency"]
            ratio = there["median_ms"] / here["median_ms"]
            cells.append(f"{found[name]['metric']:.3f}, {found[name]['error']:.1%}, {ratio:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| MobileBERT-MD, SST-2 | float32 | dynamic | static |", "|---|---|---|---|"]
    for name, found in results["train"].items():
        cells = [f"{found[kind]['metric']:.3f}" for kind in (EXACT, DYNAMIC, STATIC)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@app.command()
def show():
    results = RESULTS.read()
    if {"export", "train"} <= set(results):
        print(render(results))


if __name__ == "__main__":
    app()
