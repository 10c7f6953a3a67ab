"""Other libraries' encoders as ours, and back: transformers' classes, TensorFlow 1's checkpoints."""

from .encoders import (
    CONVERTIBLE,
    MINILM_ON_HUB,
    Checkpoint,
    from_transformers,
    load_checkpoint,
    load_pretrained,
    minilm_path,
    resolve_model,
    to_transformers,
)
from .tf1 import from_tf1, tf1_variables


__all__ = [
    "CONVERTIBLE",
    "MINILM_ON_HUB",
    "Checkpoint",
    "from_tf1",
    "from_transformers",
    "load_checkpoint",
    "load_pretrained",
    "minilm_path",
    "resolve_model",
    "tf1_variables",
    "to_transformers",
]
