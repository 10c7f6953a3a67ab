"""Files that are there in full or not at all."""

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


# Bytes left on a disk that is as good as full.
FULL_DISK = 64 * 2**20


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, and the folder it is in; it appears under its name when it is complete."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, and the folder it is in; it appears under its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: the run after one that was killed takes the same name. But processes of one run differ.
    partial = path.with_name(f".{path.name}.{os.environ.get('RANK', '0')}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_figure(path: Path, figure: Any) -> None:
    """Writes a matplotlib figure as PNG."""
    write_bytes(path, png_of(figure))


def png_of(figure: Any) -> bytes:
    """A matplotlib figure as PNG."""
    image = io.BytesIO()
    figure.savefig(image, dpi=120, format="png")
    return image.getvalue()


def check_free(output_dir: Path) -> None:
    """Raises a `ValueError` if there is something at `output_dir`."""
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{str(output_dir)!r} exists: choose another `output_dir`, or remove it.")


@contextmanager
def told_of_full_disk(folder: Path) -> Iterator[None]:
    """
    For libraries' writers, of which some raise what names neither the disk nor a remedy.

    Raises:
        OSError: if one fails because the disk of `folder` is full.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        # The last is what those written in Rust say.
        is_full = isinstance(error, (SafetensorError, RuntimeError)) and shutil.disk_usage(folder).free <= FULL_DISK
        if not is_full and "os error 28" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC, f"The disk is full: free some of it and give the same command again ({error})", str(folder)
        ) from error


@contextmanager
def new_folder(output_dir: Path) -> Iterator[Path]:
    """
    A folder to fill. It appears as `output_dir` when that is done, and is gone if it fails.

    Raises:
        ValueError: if there is something at `output_dir`.
    """
    check_free(output_dir)
    # Not the name of `work_dir_of`, where a run that was killed has left its checkpoints.
    partial = output_dir.with_name(f"{output_dir.name}.new")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with told_of_full_disk(partial):
            yield partial
        move_folder(partial, output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def move_folder(folder: Path, output_dir: Path) -> None:
    """Gives a finished folder its name, which an empty one may have."""
    # Not on every system does a folder take the place of an empty one.
    if output_dir.exists():
        output_dir.rmdir()
    folder.replace(output_dir)


__all__ = [
    "check_free",
    "move_folder",
    "new_folder",
    "png_of",
    "told_of_full_disk",
    "write_bytes",
    "write_figure",
    "write_text",
]
