"""What may be in a repository: nothing that runs when it is opened, and nothing about the machine it was made on."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal

import yaml
from transformers.utils import ADAPTER_CONFIG_NAME


Kind = Literal["model", "adapter", "space"]
SUFFIXES = {".json", ".md", ".onnx", ".png", ".py", ".safetensors", ".txt", ".yaml"}
NAMES = {"LICENSE"}
# Never, not even in a Space: what runs when it is opened, and what a training leaves.
FORBIDDEN_SUFFIXES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
# What a folder on a disk collects, and no repository wants.
LEFT_OUT = ("__pycache__", "*.pyc", ".git", ".cache", ".env", ".gradio", ".pytest_cache", ".DS_Store", "*.partial")
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
ABSOLUTE = re.compile(rb"(?<![\w./:~-])/(?:home|Users|root|private|tmp)/[\w.-]+")


def kind_of(folder: str | Path) -> Kind:
    """
    What a folder is: `"model"`, `"adapter"` or `"space"`.

    Raises:
        ValueError: if it is none of them, or not there.

    Example:

    ```python
    >>> from compactbert.hub import kind_of

    >>> kind_of("my-model"), kind_of("my-adapter"), kind_of("my-space")
    ('model', 'adapter', 'space')

    ```
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}.")
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        return "adapter"
    if (folder / "config.json").is_file():
        return "model"
    if "sdk" in front_matter(folder / "README.md"):
        return "space"
    raise ValueError(
        f"{str(folder)!r} is no model ('config.json'), adapter ({ADAPTER_CONFIG_NAME!r}) or Space ('README.md' with "
        f"`sdk` in its front matter): give a folder that is."
    )


def front_matter(card: Path) -> dict[str, Any]:
    """The metadata at the head of a card; empty if there is none.

    Raises:
        ValueError: if it is not YAML.
    """
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        return yaml.safe_load(parts[1]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"The front matter of {str(card)!r} is not YAML: {error}.") from error


def list_contents(folder: str | Path) -> list[dict[str, Any]]:
    """Every file of a repository's folder in order, as `path` and `bytes`."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [{"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size} for path in paths]


def check_contents(folder: str | Path) -> None:
    """
    Refuses what does not belong in a repository.

    Raises:
        ValueError: if there are pickles, optimizer states, links or files of an unknown kind, or a file holds a token
            or a path of this machine.

    Example:

    ```python
    >>> from compactbert.hub import check_contents

    >>> check_contents("my-model")

    ```
    """
    folder = Path(folder)
    is_space = kind_of(folder) == "space"
    # Paths of this machine that say something; "/" or "/work" would be found in any text.
    places = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), folder.resolve().parent}
    known = [str(place).encode() for place in places if len(place.parts) > 2]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ValueError(f"{name!r} is a link: put the file itself in {str(folder)!r}.")
        if not path.is_file():
            continue
        wanted = path.name in NAMES or path.suffix in SUFFIXES
        forbidden = path.suffix in FORBIDDEN_SUFFIXES
        if forbidden or not (wanted or is_space):
            raise ValueError(
                f"{name!r} does not belong in a repository ({'pickles run code' if forbidden else 'unknown kind'}): "
                f"remove it from {str(folder)!r}."
            )
        data = path.read_bytes()
        if TOKEN.search(data):
            raise ValueError(f"{name!r} holds an access token: remove it, and revoke the token on the Hub.")
        found = ABSOLUTE.search(data) if path.suffix not in {".safetensors", ".png"} else None
        place = found.group() if found else next((place for place in known if place in data), None)
        if place is not None:
            raise ValueError(
                f"{name!r} names a place on this machine ({os.fsdecode(place)!r}), which is nobody's business: remove "
                f"it there."
            )


__all__ = [
    "LEFT_OUT",
    "Kind",
    "check_contents",
    "front_matter",
    "kind_of",
    "list_contents",
]
