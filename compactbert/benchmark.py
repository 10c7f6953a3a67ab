"""How fast and how large models are, side by side."""

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig, DistilBertConfig, MobileBertConfig, PreTrainedConfig, PreTrainedModel

from .convert import from_transformers, load_pretrained
from .files import write_figure, write_text
from .inference import export_onnx, fuse
from .inference.onnx import OnnxClassifier
from .presets import list_presets, load_preset
from .provenance import environment
from .structure import FAMILIES


Shape = tuple[int, int]
# Shapes of models that everybody knows, at random weights: speed does not depend on them.
KNOWN: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "bert-base": (BertConfig, {}),
    "distilbert": (DistilBertConfig, {}),
    "mobilebert": (MobileBertConfig, {"classifier_activation": False}),
    "minilm-l6": (
        BertConfig,
        {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "minilm-l12": (
        BertConfig,
        {"num_hidden_layers": 12, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
}
RUNTIMES = ("eager", "sdpa", "fused", "eager-bf16", "sdpa-bf16", "fused-bf16", "onnx", "onnx-int8")


def parse_shape(text: str) -> Shape:
    """`"32x128"` -> a batch of 32 rows of 128 tokens.

    Raises:
        ValueError: for anything else.

    Example:

    ```python
    >>> from compactbert.benchmark import parse_shape

    >>> parse_shape("32x128")
    (32, 128)

    ```
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"A shape is rows x tokens, such as 1x128, got {text!r}.")
    return int(parts[0]), int(parts[1])


@torch.inference_mode()
def measure_latency(
    models: Mapping[str, PreTrainedModel | OnnxClassifier],
    shapes: Sequence[Shape],
    *,
    rounds: int = 15,
    warmup: int = 3,
    seconds: float = 20.0,
) -> dict[str, dict[str, dict[str, float]]]:
    """
    Forward passes on random tokens without padding. The models take turns, so that what else the machine does meets
    all of them; compare within one call only.

    Args:
        models (`dict` of name to [`~transformers.PreTrainedModel`], or `OnnxClassifier` as
            [`~compactbert.inference.load_for_inference`] returns it): Put into evaluation mode.
        shapes (list of `(rows, tokens)`): Shapes of the batch.
        rounds, warmup (`int`, *optional*, defaults to 15 and 3): Timed and untimed turns of every model.
        seconds (`float`, *optional*, defaults to 20.0): Stop a shape's rounds after this time, but not below 3.

    Returns:
        `dict`: Per model and shape (`"32x128"`) the `median_ms` and the quartiles `low_ms` and `high_ms`.

    Example:

    ```python
    >>> from compactbert.benchmark import measure_latency
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.inference import fuse

    >>> model, _ = load_pretrained("my-model", "ForSequenceClassification")
    >>> latency = measure_latency({"eager": model, "fused": fuse(model)}, [(1, 16)], rounds=3)
    >>> sorted(latency["fused"]["1x16"])
    ['high_ms', 'low_ms', 'median_ms']

    ```
    """
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for rows, tokens in shapes:
        for name, model in models.items():
            _check_length(name, model, rows, tokens)
        times: dict[str, list[float]] = {name: [] for name in models}
        started = time.perf_counter()
        for turn in range(warmup + rounds):
            if turn >= warmup + 3 and time.perf_counter() - started > seconds:
                break
            for name, model in models.items():
                model.eval()
                ids = torch.randint(model.config.vocab_size, (rows, tokens), device=model.device)
                before = time.perf_counter()
                model(input_ids=ids)
                if torch.accelerator.is_available():
                    torch.accelerator.synchronize()
                if turn >= warmup:
                    times[name].append(1000 * (time.perf_counter() - before))
        for name, values in times.items():
            low, median, high = statistics.quantiles(values, n=4)
            quartiles = {"median_ms": median, "low_ms": low, "high_ms": high}
            results[name][f"{rows}x{tokens}"] = {key: round(value, 3) for key, value in quartiles.items()}
    return results


def bench(
    models: Sequence[str],
    output_dir: str | Path | None = None,
    *,
    runtimes: Sequence[str] = ("eager", "sdpa", "fused"),
    shapes: Sequence[Shape] = ((1, 128), (8, 128)),
    baseline: str | None = None,
    threads: int | None = None,
    rounds: int = 15,
    seconds: float = 60.0,
    seed: int = 42,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """
    Measures models in several runtimes, taking turns in one process.

    Args:
        models (list of `str`):
            Names of [`KNOWN`] models and of presets (with random weights), folders, or repositories.
        output_dir (`str` or `Path`, *optional*):
            Where to write `bench.json` and `bench.png`.
        runtimes (list of `str`, *optional*, defaults to `("eager", "sdpa", "fused")`):
            Of [`RUNTIMES`]. What is fused, or exported to ONNX, is our form of a model; a model that has none is left
            out there.
        shapes (list of `(rows, tokens)`, *optional*, defaults to 1x128 and 8x128):
            Batches, of random tokens without padding.
        baseline (`str`, *optional*):
            What ratios compare with, such as `"mobilebert, eager"`; `None` is the first model in the first runtime.
        threads (`int`, *optional*):
            Threads of torch; `None` leaves them as they are.
        rounds, seconds (*optional*, defaults to 15 and 60.0):
            See [`measure_latency`].
        seed (`int`, *optional*, defaults to 42):
            Of random weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own.

    Returns:
        `dict`: `rows`, one per model and runtime: `name`, `parameters`, `bytes` of the weights or the file, and per
        shape `macs`, `latency`, `ratio` to the baseline (median, and quartile against opposite quartile), `of_peak`,
        the share of the arithmetic that a large matrix product of its type reaches (of int8: of float32's), and
        `working_mb`, what a pass needs beside the weights (Linux alone). `peak_gflops` of the types that were used,
        `environment`, `files`.

    Raises:
        ValueError: for an unknown runtime, model or baseline, a shape that is too long for a model, or if no model runs
            in any of the runtimes.

    Example:

    ```python
    >>> from compactbert.benchmark import bench

    >>> result = bench(["my-model"], runtimes=["eager", "fused"], shapes=[(1, 16)], rounds=3)
    >>> [row["name"] for row in result["rows"]], result["baseline"]
    (['my-model, eager', 'my-model, fused'], 'my-model, eager')

    ```
    """
    if unknown := sorted(set(runtimes) - set(RUNTIMES)):
        raise ValueError(f"`runtimes` must be of {RUNTIMES}, got {unknown}.")
    if not models or not runtimes or not shapes:
        raise ValueError(f"Give at least one model, runtime and shape, got {models}, {runtimes} and {shapes}.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        built: dict[str, PreTrainedModel | OnnxClassifier] = {}
        macs: dict[str, dict[str, int]] = {}
        parameters: dict[str, int] = {}
        for model in models:
            loaded = _load(model, seed, trust_remote_code)
            for rows, tokens in shapes:
                _check_length(model, loaded, rows, tokens)
            counted = {f"{rows}x{tokens}": _count_macs(loaded, rows, tokens) for rows, tokens in shapes}
            for runtime in runtimes:
                if (made := _in_runtime(loaded, runtime)) is not None:
                    name = f"{model}, {runtime}"
                    # Not those of `made`: packed weights are no parameters.
                    built[name], macs[name], parameters[name] = made, counted, loaded.num_parameters()
        if not built:
            raise ValueError(
                f"None of {list(models)} runs in {list(runtimes)}: a model without a form of ours runs in 'eager' and "
                f"'sdpa' alone."
            )
        first = baseline or next(iter(built))
        if first not in built:
            raise ValueError(f"`baseline` must be one of {list(built)}, got {first!r}.")
        peaks = {dtype: _peak_gflops(dtype) for dtype in dict.fromkeys(made.dtype for made in built.values())}
        latency = measure_latency(built, shapes, rounds=rounds, seconds=seconds)
        # Whatever else runs makes a peak smaller, never larger.
        peaks = {dtype: max(peak, _peak_gflops(dtype)) for dtype, peak in peaks.items()}
        table = []
        for name, made in built.items():
            times = latency[name]
            table.append(
                {
                    "name": name,
                    "parameters": parameters[name],
                    "bytes": getattr(made, "file_size", parameters[name] * made.dtype.itemsize),
                    "macs": macs[name],
                    "latency": times,
                    "ratio": {shape: _ratio(latency[first][shape], times[shape]) for shape in times},
                    "of_peak": {
                        shape: 2 * macs[name][shape] / (times[shape]["low_ms"] * 1e6) / peaks[made.dtype]
                        for shape in times
                    },
                    "working_mb": {f"{rows}x{tokens}": _working_mb(made, rows, tokens) for rows, tokens in shapes},
                }
            )
    finally:
        torch.set_num_threads(before)
    result: dict[str, Any] = {
        "rows": table,
        "baseline": first,
        "peak_gflops": {str(dtype).removeprefix("torch."): round(peak, 1) for dtype, peak in peaks.items()},
        "rounds": rounds,
        "environment": environment() | {"threads": threads or before},
        "files": [],
    }
    if output_dir is not None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_figure(folder / "bench.png", _plot(result))
        result["files"] = [str(folder / "bench.json"), str(folder / "bench.png")]
        write_text(folder / "bench.json", json.dumps(result, indent=2) + "\n")
    return result


def _check_length(name: str, model: PreTrainedModel | OnnxClassifier, rows: int, tokens: int) -> None:
    limit = model.config.max_position_embeddings or tokens
    if tokens > limit:
        raise ValueError(f"The shape {rows}x{tokens} is longer than {name!r} takes: {limit} tokens.")


def _load(name: str, seed: int, trust_remote_code: bool) -> PreTrainedModel:
    torch.manual_seed(seed)
    if name in KNOWN:
        config_class, fields = KNOWN[name]
        return AutoModel.from_config(config_class(**fields))
    if name in list_presets() or name.endswith(".json"):
        return AutoModel.from_config(load_preset(name))
    return load_pretrained(name, "", trust_remote_code)[0]


def _in_runtime(model: PreTrainedModel, runtime: str) -> PreTrainedModel | OnnxClassifier | None:
    kind, _, precision = runtime.partition("-")
    made = model
    if kind in ("fused", "onnx") and model.config.model_type not in FAMILIES:
        try:
            made = from_transformers(model)
        except ValueError:
            return None
    made = copy.deepcopy(made).eval()
    if kind == "onnx":
        with tempfile.TemporaryDirectory() as scratch:
            export_onnx(made, None, Path(scratch) / "model", int8=["dynamic"] if precision else [])
            return OnnxClassifier(Path(scratch) / "model", made.config, runtime)
    if precision:
        made.to(torch.bfloat16)
    if kind == "fused":
        return fuse(made)
    made.set_attn_implementation(kind)
    return made


def _count_macs(model: PreTrainedModel, rows: int, tokens: int) -> int:
    counted = copy.deepcopy(model).eval()
    counted.set_attn_implementation("eager")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        counted(input_ids=torch.ones(rows, tokens, dtype=torch.long))
    return counter.get_total_flops() // 2


def _peak_gflops(dtype: torch.dtype, size: int = 1024, repeats: int = 12) -> float:
    """The fastest of a few large matrix products; of fewer where they take seconds, as emulated bfloat16 does."""
    one, two = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < repeats and sum(times) < 2:
        started = time.perf_counter()
        one @ two
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) / 1e9


def _ratio(baseline: Mapping[str, float], times: Mapping[str, float]) -> dict[str, float]:
    return {
        "median": baseline["median_ms"] / times["median_ms"],
        "low": baseline["low_ms"] / times["high_ms"],
        "high": baseline["high_ms"] / times["low_ms"],
    }


@torch.inference_mode()
def _working_mb(model: PreTrainedModel | OnnxClassifier, rows: int, tokens: int) -> float | None:
    ids = torch.ones(rows, tokens, dtype=torch.long)
    return peak_mb(lambda: model(input_ids=ids))


def peak_mb(work: Callable[[], Any]) -> float | None:
    """How much the process grows at most while something is done; `None` where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")
        before = _status_kb(status, "VmRSS")
    except (OSError, StopIteration):
        return None
    work()
    return round(max(0, _status_kb(status, "VmHWM") - before) / 1024, 1)


def _status_kb(status: Path, field: str) -> int:
    return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(field)))


def benchmark_rows(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The result of [`bench`] as a header and rows of text.

    Example:

    ```python
    >>> from compactbert.benchmark import bench, benchmark_rows

    >>> header, rows = benchmark_rows(bench(["my-model"], runtimes=["fused"], shapes=[(1, 16)], rounds=3))
    >>> header[:3], rows[0][0]
    (('model', 'parameters', 'MB'), 'my-model, fused')

    ```
    """
    shapes = list(result["rows"][0]["latency"])
    header = ("model", "parameters", "MB", f"GMACs {shapes[-1]}", *(f"{shape}: ms, ratio, of peak" for shape in shapes))
    rows = []
    for row in result["rows"]:
        cells = [
            f"{row['latency'][shape]['median_ms']:.1f}, {row['ratio'][shape]['median']:.2f} "
            f"({row['ratio'][shape]['low']:.2f}-{row['ratio'][shape]['high']:.2f}), {row['of_peak'][shape]:.0%}"
            for shape in shapes
        ]
        size = f"{row['bytes'] / 1e6:.0f}"
        rows.append(
            (row["name"], f"{row['parameters'] / 1e6:.1f}M", size, f"{row['macs'][shapes[-1]] / 1e9:.1f}", *cells)
        )
    return header, rows


def _plot(result: Mapping[str, Any]) -> Figure:
    rows, shapes = result["rows"], list(result["rows"][0]["ratio"])
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(rows) * len(shapes)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(shapes)
    for number, shape in enumerate(shapes):
        ratios = [row["ratio"][shape] for row in rows]
        medians = [ratio["median"] for ratio in ratios]
        spread = [[r["median"] - r["low"] for r in ratios], [r["high"] - r["median"] for r in ratios]]
        places = [i + number * height for i in range(len(rows))]
        axes.barh(places, medians, height, xerr=spread, label=shape, error_kw={"linewidth": 0.8})
    axes.axvline(1.0, color="0.5", linewidth=0.8)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"times as fast as {result['baseline']}")
    axes.legend(title="rows x tokens")
    return figure


__all__ = [
    "KNOWN",
    "RUNTIMES",
    "Shape",
    "bench",
    "benchmark_rows",
    "measure_latency",
    "parse_shape",
]
