"""Running trained models."""

from .prediction import predict, predict_logits


__all__ = ["predict", "predict_logits"]
