"""The zoo: which checkpoints there are, and where to get them."""

import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from ..files import check_free, move_folder, new_folder
from .publishing import clear_errors


# What a row must say. `scores` is by metric; `measured_by` the benchmark's JSON file, or the checkpoint's own report.
FIELDS = ("repo_id", "architecture", "base", "task", "license", "parameters", "bytes", "scores", "measured_by")
OPTIONAL = ("teacher_scores", "speedup", "languages", "adapter_of")


def read_catalogue() -> list[dict[str, Any]]:
    """
    The rows of `configs/catalog.yaml`, each with its `name`.

    Raises:
        ValueError: if a row lacks a field, or has one that there is not.

    Example:

    ```python
    >>> from compactbert.hub import read_catalogue

    >>> {"repo_id", "task", "scores", "license"} <= read_catalogue()[0].keys()
    True

    ```
    """
    text = files("compactbert.configs").joinpath("catalog.yaml").read_text(encoding="utf-8")
    entries = []
    for name, row in (yaml.safe_load(text) or {}).items():
        missing, unknown = sorted(set(FIELDS) - row.keys()), sorted(row.keys() - {*FIELDS, *OPTIONAL})
        if missing or unknown:
            raise ValueError(f"The catalogue's row {name!r} lacks {missing} and has unknown {unknown}.")
        entries.append({"name": name} | row)
    return entries


def find_entry(name: str) -> dict[str, Any]:
    """
    A row of the catalogue, by its name or its repository.

    Raises:
        ValueError: if there is none.

    Example:

    ```python
    >>> from compactbert.hub import find_entry, read_catalogue

    >>> entry = read_catalogue()[0]
    >>> find_entry(entry["name"]) == find_entry(entry["repo_id"]) == entry
    True

    ```
    """
    entries = read_catalogue()
    for entry in entries:
        if name in (entry["name"], entry["repo_id"]):
            return entry
    raise ValueError(f"The zoo has no {name!r}: it has {[entry['name'] for entry in entries]}.")


def catalogue_rows(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The catalogue as a header and rows of text.

    Example:

    ```python
    >>> from compactbert.hub import catalogue_rows, read_catalogue

    >>> header, rows = catalogue_rows(read_catalogue())
    >>> header[:3], len(rows[0]) == len(header)
    (('name', 'architecture', 'task'), True)

    ```
    """
    rows: list[tuple[str, ...]] = []
    for entry in entries:
        teacher = entry.get("teacher_scores", {})
        scores = [
            f"{name} {value:.3f}" + (f" (teacher {teacher[name]:.3f})" if name in teacher else "")
            for name, value in entry["scores"].items()
        ]
        speed = [f"{value:.1f}x at {shape}" for shape, value in entry.get("speedup", {}).items()]
        millions, megabytes = entry["parameters"] / 1e6, entry["bytes"] / 1e6
        # An adapter is small.
        size = f"{millions:.{1 if millions > 0.1 else 2}f}M, {megabytes:.{0 if megabytes > 1 else 1}f} MB"
        row = (entry["name"], entry["architecture"], entry["task"], size, ", ".join(scores), ", ".join(speed))
        rows.append((*map(str, row), entry["license"]))
    return ("name", "architecture", "task", "size", "quality", "times as fast as MiniLM-L6", "licence"), rows


def pull(name: str, output_dir: str | Path, *, revision: str | None = None) -> Path:
    """
    Fetches a checkpoint of the zoo: from the folder `zoo` of a checkout, if this is one and no revision is asked for,
    else from the Hub.

    Args:
        name (`str`): A row of the catalogue, by name or repository.
        output_dir (`str` or `Path`): Where to put it. Must not exist, or be empty.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        ValueError: if the zoo has no such checkpoint, `output_dir` is taken, or there is no such revision.
        PermissionError: if the access token is not valid.
        ConnectionError: if it is not here and the Hub does not have it, fails or cannot be reached.

    Example:

    ```python
    >>> from compactbert.hub import pull, read_catalogue

    >>> (pull(read_catalogue()[0]["name"], "my-copy") / "config.json").is_file()
    True

    ```
    """
    entry, output_dir = find_entry(name), Path(output_dir)
    check_free(output_dir)
    local = Path(__file__).parents[2] / "zoo" / entry["name"]
    if revision is None and local.is_dir():
        with new_folder(output_dir) as partial:
            shutil.copytree(local, partial, dirs_exist_ok=True)
    else:
        # What is there of an earlier try of this revision is not fetched again.
        fetched = f"{entry['repo_id']}@{revision or 'main'}".replace("/", "-")
        partial = output_dir.with_name(f"{output_dir.name}.{fetched}.partial")
        with clear_errors(entry["repo_id"]):
            try:
                snapshot_download(entry["repo_id"], revision=revision, local_dir=partial)
            except RevisionNotFoundError as error:
                raise ValueError(f"{entry['repo_id']!r} has no revision {revision!r}.") from error
            except (RepositoryNotFoundError, LocalEntryNotFoundError) as error:
                raise ConnectionError(
                    f"{entry['repo_id']!r} is not in this checkout, and the Hub does not have it or cannot be "
                    f"reached: {str(error).splitlines()[0]}"
                ) from error
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        move_folder(partial, output_dir)
    return output_dir


__all__ = ["catalogue_rows", "find_entry", "pull", "read_catalogue"]
