"""Where something comes from: the command, versions and machine that a record names, and no place on that machine."""

import inspect
import os
import platform
import shlex
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


# What a saved model's figures may depend on.
LIBRARIES = ("accelerate", "compactbert", "datasets", "huggingface_hub", "peft", "tokenizers", "transformers")
# Settings that say where things are on this machine, which is nobody's business where a folder is published.
PRIVATE = ("data_dir", "output_dir")


def environment() -> dict[str, Any]:
    """What a measured figure depends on beside the code."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: found for name in LIBRARIES if (found := _version(name))},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were made, as they may be published: of a path the last part alone, and no folder of data or
    output."""
    return {name: _without_path(value) for name, value in settings.items() if name not in PRIVATE and value is not None}


def _without_path(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_path(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_path(item) for item in value]
    if not isinstance(value, str | Path) or not str(value):
        return value
    path = Path(value)
    # A name such as "mrpc" or "org/model" may happen to be a folder here: it is a name all the same.
    is_place = path.is_absolute() or ".." in path.parts or path.is_file() or (path.is_dir() and "/" in str(value))
    return path.name if is_place else str(value)


def command_line(function: Callable[..., Any], settings: Mapping[str, Any]) -> str:
    """
    The command that does what a call of one of the package's functions did.

    Args:
        function (callable): Such as [`~compactbert.finetune`], whose command has its name.
        settings (`dict`): Its arguments; those that are the function's own defaults are left out.

    Example:

    ```python
    >>> import compactbert
    >>> from compactbert.provenance import command_line

    >>> command_line(compactbert.finetune, {"model": "minilm", "task": "mrpc", "epochs": 4, "seed": 42})
    'compactbert finetune --model minilm --task mrpc --epochs 4 --output OUTPUT'

    ```
    """
    parameters = inspect.signature(function).parameters
    words = ["compactbert", function.__name__]
    for name, value in settings.items():
        default = parameters[name].default if name in parameters else None
        # 0 is not False: a rate of 0 is said.
        if value is None or value is False or value == default or value == {}:
            continue
        option = f"--{OPTIONS.get(name, name.replace('_', '-'))}"
        if value is True:
            words.append(option)
            continue
        if isinstance(value, Mapping):
            value = [f"{key}={item}" for key, item in value.items()]
        for item in value if isinstance(value, (list, tuple)) else [value]:
            words += [option, str(item)]
    return f"{shlex.join(words)} --output OUTPUT"


# Options that are not called as the argument is: those that may be given several times are in the singular.
OPTIONS = {
    "options": "option",
    "shapes": "shape",
    "text_columns": "text-column",
    "texts": "text",
    "training_arguments": "set",
}


__all__ = ["PRIVATE", "command_line", "environment", "public_settings"]
