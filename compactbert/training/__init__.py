"""Training on transformers' `Trainer`: fine-tuning, distillation, module replacing."""

from .distillation import DistillationConfig, DistillationTrainer, LossTerm, distill
from .finetuning import finetune
from .multitask import MultiTaskModel, TaskBatchSampler, multitask_collator
from .theseus import TheseusConfig, TheseusTrainer, theseus


__all__ = [
    "DistillationConfig",
    "DistillationTrainer",
    "LossTerm",
    "MultiTaskModel",
    "TaskBatchSampler",
    "TheseusConfig",
    "TheseusTrainer",
    "distill",
    "finetune",
    "multitask_collator",
    "theseus",
]
