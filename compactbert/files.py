"""Files that are there in full or not at all."""

import io
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, and the folder it is in; it appears under its name when it is complete."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, and the folder it is in; it appears under its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_figure(path: Path, figure: Any) -> None:
    """Writes a matplotlib figure as PNG."""
    image = io.BytesIO()
    figure.savefig(image, dpi=120, format="png")
    write_bytes(path, image.getvalue())


def check_free(output_dir: Path) -> None:
    """Raises a `ValueError` if there is something at `output_dir`."""
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{str(output_dir)!r} exists: choose another `output_dir`, or remove it.")


__all__ = ["check_free", "write_bytes", "write_figure", "write_text"]
