"""Where a benchmark keeps what it has measured: a JSON file beside the script, cell by cell."""

import fcntl
import json
from collections.abc import Iterator
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


__all__ = ["Results", "locked"]
