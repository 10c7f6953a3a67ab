"""Where a forward pass of fused MobileBERT spends its time, in torch and in ONNX Runtime, beside what arithmetic and
memory allow: what bounds the ratios of `fused_speed.py`. Results in `benchmarks/fused_profile.json`.

    python benchmarks/fused_profile.py run
    python benchmarks/fused_profile.py show

One thread, random weights. Between two passes other memory is read, so that weights come from memory, as they
do where a model is not alone in its process.
"""

import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import typer
from results import Results
from torch.profiler import ProfilerActivity, profile

from compactbert.benchmark import parse_shape
from compactbert.compression import count_macs
from compactbert.inference import export_onnx, fuse
from compactbert.inference.onnx import FILES, OnnxClassifier
from compactbert.presets import load_preset
from modeling_mobilebert_md import MobileBertMdModel


RESULTS = Results(__file__)
PRESET = "mobilebert_md/uniform-128"
SHAPES = ("1x16", "1x128", "8x128")
ROUNDS = 15
# What a product and attention are called by the profiler, which counts an operator's own time.
PRODUCTS = ("_linear_pointwise", "addmm", "mm", "linear")
ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "bmm", "_softmax")
# Of ONNX Runtime, by the beginning of the operator's name.
ONNX_KINDS = {"MatMulInteger": "products", "DynamicQuantizeMatMul": "products", "MatMul": "attention"}
ONNX_KINDS |= {"FusedMatMul": "attention", "Softmax": "attention"}
# Larger than every cache.
BALLAST = 256 * 2**20
app = typer.Typer()


@app.command()
@torch.inference_mode()
def run():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ballast = torch.ones(BALLAST // 4)
    machine = {"gflops": peak_gflops(), "gb_per_second": BALLAST / seconds_of(ballast.sum) / 1e9, "call_us": call_us()}
    RESULTS.record(("machine",), machine)
    config = load_preset(PRESET)
    eager = MobileBertMdModel(config, add_pooling_layer=False).eval()
    eager.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "exported"
        export_onnx(eager, None, folder, int8=["dynamic"])
        models = {"eager": eager, "fused": fuse(eager)}
        models |= {runtime: OnnxClassifier(folder, config, runtime) for runtime in ("onnx", "onnx-int8")}
        weights = 4 * sum(p.numel() for p in eager.encoder.parameters())
        for shape in SHAPES:
            rows, tokens = parse_shape(shape)
            ids = torch.randint(config.vocab_size, (rows, tokens))
            for way, model in models.items():
                found: dict[str, Any] = {}
                if way == "onnx-int8":
                    found["shares"] = onnx_shares(folder / FILES[way], ids)
                elif way != "onnx":
                    found = profiled(model, ids)
                found["ms"] = 1000 * seconds_of(lambda m=model, ids=ids: m(input_ids=ids), before=ballast.sum)
                found["macs"], found["weights"] = count_macs(config, rows, tokens), weights
                RESULTS.record(("passes", shape, way), found)
    show()


def seconds_of(work: Any, before: Any = None) -> float:
    """The median of some rounds."""
    times = []
    for _ in range(ROUNDS):
        if before is not None:
            before()
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_gflops(size: int = 1024) -> float:
    """Of a large product with packed weights."""
    rows, weight = torch.randn(size, size), torch.randn(size, size)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    seconds = seconds_of(lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""))
    return 2 * size**3 / seconds / 1e9


def call_us() -> float:
    """What a product costs that computes next to nothing."""
    rows, weight = torch.randn(1, 8), torch.randn(8, 8)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def calls() -> None:
        for _ in range(1000):
            torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")

    return 1e6 * seconds_of(calls) / 1000


def profiled(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    """Shares of the operators' own time, and how many products a pass has."""
    model(ids)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            model(ids)
    shares, products = {"products": 0.0, "attention": 0.0, "rest": 0.0}, 0
    for event in profiler.key_averages():
        name = event.key.split("::")[-1]
        kind = "products" if name in PRODUCTS else "attention" if name in ATTENTION else "rest"
        shares[kind] += event.self_cpu_time_total
        # `linear` calls one of the others.
        products += event.count // 3 if kind == "products" and name != "linear" else 0
    return {"shares": {kind: value / sum(shares.values()) for kind, value in shares.items()}, "products": products}


def onnx_shares(file: Path, ids: torch.Tensor) -> dict[str, float]:
    """Shares of the time in ONNX Runtime's operators, of an int8 model: what is no int8 product is attention's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    options.profile_file_prefix = str(file.with_name("profile"))
    session = onnxruntime.InferenceSession(str(file), options)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    for _ in range(5):
        session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
    times = Counter({"products": 0, "attention": 0, "rest": 0})
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and "op_name" in event.get("args", {}):
            name = event["args"]["op_name"]
            kind = next((kind for beginning, kind in ONNX_KINDS.items() if name.startswith(beginning)), "rest")
            times[kind] += event["dur"]
    return {kind: value / times.total() for kind, value in times.items()}


def render(results: dict[str, Any]) -> str:
    """The README's table."""
    machine = results["machine"]
    head = "measured | arithmetic | weights from memory | calls of products | products, attention, rest"
    lines = [f"| MobileBERT, ms, 1 thread | {head} |", "|---" * 6 + "|"]
    for shape, ways in results["passes"].items():
        for way, found in ways.items():
            cells = [f"{found['ms']:.1f}", "", "", ""]
            if way != "onnx-int8":
                cells[1] = f"{2 * found['macs'] / machine['gflops'] / 1e6:.1f}"
                cells[2] = f"{found['weights'] / machine['gb_per_second'] / 1e6:.1f}"
            if "products" in found:
                cells[3] = f"{found['products'] * machine['call_us'] / 1e3:.1f} ({found['products']})"
            shares = ", ".join(f"{share:.0%}" for share in found.get("shares", {}).values())
            lines.append(f"| {shape}, {way} | {' | '.join(cells)} | {shares} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
