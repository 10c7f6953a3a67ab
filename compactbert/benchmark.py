"""How fast models are, side by side."""

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel


Shape = tuple[int, int]


def parse_shape(text: str) -> Shape:
    """`"32x128"` -> a batch of 32 rows of 128 tokens.

    Raises:
        ValueError: for anything else.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"A shape is rows x tokens, such as 1x128, got {text!r}.")
    return int(parts[0]), int(parts[1])


@torch.inference_mode()
def measure_latency(
    models: Mapping[str, PreTrainedModel],
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
        models (`dict` of name to [`~transformers.PreTrainedModel`]): Put into evaluation mode.
        shapes (list of `(rows, tokens)`): Shapes of the batch.
        rounds, warmup (`int`, *optional*, defaults to 15 and 3): Timed and untimed turns of every model.
        seconds (`float`, *optional*, defaults to 20.0): Stop a shape's rounds after this time, but not below 3.

    Returns:
        `dict`: Per model and shape (`"32x128"`) the `median_ms` and the quartiles `low_ms` and `high_ms`.
    """
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    for rows, tokens in shapes:
        for name, model in models.items():
            limit = model.config.max_position_embeddings or tokens
            if tokens > limit:
                raise ValueError(f"The shape {rows}x{tokens} is longer than {name!r} takes: {limit} tokens.")
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


def environment() -> dict[str, Any]:
    """What a measured figure depends on beside the code."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


__all__ = ["Shape", "environment", "measure_latency", "parse_shape"]
