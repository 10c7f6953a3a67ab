"""Bulk prediction, models that compute the same faster, and models for other runtimes."""

from .fusion import fuse
from .onnx_export import export, export_onnx
from .prediction import load_for_inference, predict, predict_logits


__all__ = ["export", "export_onnx", "fuse", "load_for_inference", "predict", "predict_logits"]
