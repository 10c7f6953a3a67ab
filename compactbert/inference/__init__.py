"""Running trained models."""

from .prediction import load_for_inference, predict, predict_logits


__all__ = ["load_for_inference", "predict", "predict_logits"]
