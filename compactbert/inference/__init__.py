"""Bulk prediction, and models that compute the same faster."""

from .fusion import fuse
from .prediction import load_for_inference, predict, predict_logits


__all__ = ["fuse", "load_for_inference", "predict", "predict_logits"]
