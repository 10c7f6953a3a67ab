"""The first run: the main job, on real weights and real text, with nothing to download."""

import json
import time
from pathlib import Path
from typing import Any

from ..hub import classify_in_clean_process
from .compression import compress


TRAIN_ROWS, EVALUATION_ROWS = 2000, 500
TEXTS = (
    "Return the day of the week as an integer, where Monday is 0 and Sunday is 6.",
    "Send an HTTP request to the server and return the response.",
    "Draw a circle with given radius.",
    "Start the thread's activity and wait until it terminates.",
    "Return the square root of the argument, rounded to the current precision.",
)


def demo(output_dir: str | Path = "compactbert-demo", *, seed: int = 42) -> dict[str, Any]:
    """
    Compresses the real MiniLM (6 layers, 384 wide) by the recipe `demo` on the task `docstrings`, tell which area of
    Python's standard library a docstring describes, and uses the result in a clean process.

    Args:
        output_dir (`str` or `Path`, *optional*, defaults to `"compactbert-demo"`):
            Where to write the model. If a demo of these settings has left its model there, it is used.
        seed (`int`, *optional*, defaults to 42):
            Seed of the run.

    Returns:
        `dict`: `output_dir`, `report` (see [`~compactbert.compress`]), `clean_process` (the class loaded there, with a
        text, label and score per row) and `seconds` in all.

    Raises:
        ValueError: if the weights are not installed or `output_dir` is taken.

    Example:

    ```python
    >>> import compactbert

    >>> result = compactbert.demo("compactbert-demo")
    >>> result["clean_process"]["class"]
    'SmBertForSequenceClassification'

    ```
    """
    started = time.perf_counter()
    report = _finished_run(Path(output_dir), seed) or compress(
        "minilm",
        "docstrings",
        output_dir,
        recipe="demo",
        seed=seed,
        max_train_rows=TRAIN_ROWS,
        max_evaluation_rows=EVALUATION_ROWS,
    )
    clean = classify_in_clean_process(output_dir, list(TEXTS))
    rows = [{"text": text} | row for text, row in zip(TEXTS, clean["rows"], strict=True)]
    return {
        "output_dir": str(output_dir),
        "report": report,
        "clean_process": {"class": clean["class"], "rows": rows},
        "seconds": round(time.perf_counter() - started, 1),
    }


def _finished_run(output_dir: Path, seed: int) -> dict[str, Any] | None:
    """The report of a run that had saved its model before it was stopped."""
    record = output_dir / "report.json"
    report = json.loads(record.read_text()) if record.is_file() else {}
    expected = {"model": "minilm", "task": "docstrings", "seed": seed, "max_train_rows": TRAIN_ROWS}
    settings = report.get("settings", {})
    is_ours = report.get("recipe", {}).get("name") == "demo" and expected.items() <= settings.items()
    return report if is_ours else None


__all__ = ["demo"]
