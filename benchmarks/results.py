"""Where a benchmark keeps what it has measured: a JSON file beside the script, cell by cell."""

import fcntl
import json
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compactbert.files import write_text
from compactbert.provenance import environment


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Other processes that lock this file wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Results:
    """The results of the script at `script`; several processes may record at a time."""

    def __init__(self, script: str):
        self.path = Path(script).with_suffix(".json")

    def read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.is_file() else {}

    def found(self, *place: str) -> Any:
        """A recorded result, or `None`."""
        results = self.read()
        for key in place:
            if key not in results:
                return None
            results = results[key]
        return results

    def record(self, place: tuple[str, ...], value: object) -> None:
        with locked(self.path.with_suffix(".lock")):
            results = self.read()
            inner = results
            for key in place[:-1]:
                inner = inner.setdefault(key, {})
            inner[place[-1]] = value
            results["environment"] = environment()
            write_text(self.path, json.dumps(results, indent=1) + "\n")


def ratio(seconds: list[float], others: list[float]) -> str:
    """The median (and quartiles) of the ratios of times that were taken in turns."""
    low, middle, high = statistics.quantiles([one / other for one, other in zip(seconds, others, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def ratio_table(columns: Mapping[str, Mapping[str, list[float]]], baseline: str, speed: bool) -> list[str]:
    """
    Lines of a Markdown table: medians (and quartiles) of the ratios to a baseline that took turns with the others.

    Args:
        columns: By title, and in it by name, the seconds of every turn.
        baseline: The name that ratios compare with.
        speed: Tell how many times as fast, in place of what share of the time.
    """
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in next(iter(columns.values())):
        cells = []
        for seconds in columns.values():
            first, second = (baseline, name) if speed else (name, baseline)
            cells.append(ratio(seconds[first], seconds[second]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def threads_title(threads: str) -> str:
    """`"2 threads"`."""
    return f"{threads} thread{'s' if threads != '1' else ''}"


__all__ = ["Results", "locked", "ratio", "ratio_table", "threads_title"]
