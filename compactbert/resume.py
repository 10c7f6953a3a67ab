"""Jobs that may be killed at any moment: where they work, when they continue, how a result comes to its place."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from .files import move_folder, told_of_full_disk, write_text
from .provenance import public_settings


def work_dir_of(output_dir: Path) -> Path:
    """Where a job works until its output is complete."""
    return output_dir.with_name(f"{output_dir.name}.partial")


def open_work_dir(work_dir: Path, settings: Mapping[str, Any], unfinished: bool) -> None:
    """
    Makes the folder of a job, or takes up an unfinished one.

    Raises:
        ValueError: if the unfinished job there had other settings.
    """
    record = work_dir / "settings.json"
    # As they come back from the record: a tuple is a list there.
    settings = json.loads(json.dumps(settings))
    if unfinished and record.is_file():
        if changes := changes_of(json.loads(record.read_text()), settings):
            raise ValueError(
                f"{str(work_dir)!r} holds an unfinished run with other settings ({changes}): call it with the earlier "
                f"ones to continue, or remove that folder to start afresh."
            )
        return
    # What is left of a job that had not come to its first checkpoint.
    shutil.rmtree(work_dir, ignore_errors=True)
    write_text(record, json.dumps(settings, indent=2))


def changes_of(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What differs between two records of settings, for a message; empty if nothing does."""
    different = sorted(key for key in earlier.keys() | settings.keys() if earlier.get(key) != settings.get(key))
    return ", ".join(f"`{key}` was {earlier.get(key)!r}, is {settings.get(key)!r}" for key in different)


@contextmanager
def finished_folder(output_dir: Path) -> Iterator[Path]:
    """A folder to fill with a job's result. When that is done it appears as `output_dir`, and the work folder goes."""
    work_dir = work_dir_of(output_dir)
    folder = work_dir / "finished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with told_of_full_disk(work_dir):
        yield folder
    move_folder(folder, output_dir)
    shutil.rmtree(work_dir)


def end_moved_run(output_dir: Path, record: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a job with these settings that was killed after its result had come to its place: removes what it left, and
    returns its report, the file `record`. `None` if there was no such job."""
    work_dir = work_dir_of(output_dir)
    if not (output_dir / record).is_file() or not work_dir.is_dir() or (work_dir / "finished").exists():
        return None
    report = json.loads((output_dir / record).read_text())
    if report["settings"] != public_settings(settings):
        return None
    # All processes have to see it before it goes.
    PartialState(cpu=not torch.accelerator.is_available()).wait_for_everyone()
    shutil.rmtree(work_dir, ignore_errors=True)
    return report


__all__ = ["changes_of", "end_moved_run", "finished_folder", "open_work_dir", "work_dir_of"]
