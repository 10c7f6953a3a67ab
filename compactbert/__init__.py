"""Small, fast BERTs for the Hugging Face ecosystem.

Importing this package registers the three model families with transformers' `Auto*` classes. The whole job is five
functions: [`compress`], [`transfer`], [`finetune`], [`evaluate`] and [`predict`]; [`demo`] is a first run. The command
line only parses its arguments and calls them.
"""

import importlib
from typing import TYPE_CHECKING, Any

import modeling_mobilebert_md  # noqa: F401  (registers)
import modeling_smbert  # noqa: F401  (registers)


if TYPE_CHECKING:
    from .evaluation import evaluate
    from .inference import predict
    from .recipes import compress, demo, transfer
    from .training import finetune

# Loaded on first use: importing this package costs no more than the models.
_FUNCTIONS = {
    "compress": ".recipes",
    "demo": ".recipes",
    "evaluate": ".evaluation",
    "finetune": ".training",
    "predict": ".inference",
    "transfer": ".recipes",
}
_MODULES = (
    "benchmark",
    "compression",
    "convert",
    "data",
    "evaluation",
    "hub",
    "inference",
    "presets",
    "recipes",
    "search",
    "structure",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name], __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["compress", "demo", "evaluate", "finetune", "predict", "transfer"]
