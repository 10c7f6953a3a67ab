"""Training on transformers' `Trainer`."""

from .finetuning import finetune


__all__ = ["finetune"]
