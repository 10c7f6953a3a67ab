"""Small, fast BERTs for the Hugging Face ecosystem.

Importing this package registers the three model families with transformers' `Auto*` classes and, where PEFT is
installed, in PEFT's tables. The whole job is six functions: [`compress`], [`transfer`], [`finetune`], [`adapt`],
[`evaluate`] and [`predict`]; [`demo`] is a first run. The command line only parses its arguments and calls them.
"""

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import modeling_mobilebert_md  # noqa: F401  (registers)
import modeling_smbert  # noqa: F401  (registers)


if TYPE_CHECKING:
    from .evaluation import evaluate
    from .inference import predict
    from .recipes import compress, demo, transfer
    from .training import finetune
    from .training.adaptation import adapt

# Loaded on first use: importing this package costs no more than the models.
_FUNCTIONS = {
    "adapt": ".training.adaptation",
    "compress": ".recipes",
    "demo": ".recipes",
    "evaluate": ".evaluation",
    "finetune": ".training",
    "predict": ".inference",
    "transfer": ".recipes",
}
_MODULES = (
    "adapters",
    "benchmark",
    "compression",
    "convert",
    "data",
    "evaluation",
    "hub",
    "inference",
    "inspection",
    "presets",
    "recipes",
    "search",
    "training",
)

# PEFT has no hook for new families, so its tables are filled here, where PEFT is installed. That imports it: 0.12 s on
# top of the 3.4 s that transformers' models take (peft 0.21.2). The other way, a hook in Python's import system, would
# save these for those who have PEFT and do not use it. Without PEFT, or with one too old, `adapters` says so when used.
with contextlib.suppress(ImportError):
    importlib.import_module(".adapters", __name__)


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name], __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["adapt", "compress", "demo", "evaluate", "finetune", "predict", "transfer"]
