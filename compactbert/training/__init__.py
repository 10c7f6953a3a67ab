"""Training on transformers' `Trainer`: on tasks (fine-tuning, distillation, module replacing) and on text."""

from .distillation import DistillationConfig, DistillationTrainer, LossTerm, distill
from .embeddings import train_embeddings
from .finetuning import FinetuningConfig, FinetuningTrainer, finetune
from .ib_teacher import make_ib_bert
from .multitask import MultiTaskModel, TaskBatchSampler, multitask_collator
from .pretraining import PretrainingConfig, PretrainingTrainer, measure_pretraining
from .progressive import ProgressiveTransferConfig, ProgressiveTransferTrainer, TransferStage, measure_transfer
from .text import ib_teacher, pretrain, transfer_knowledge
from .theseus import TheseusConfig, TheseusTrainer, theseus


__all__ = [
    "DistillationConfig",
    "DistillationTrainer",
    "FinetuningConfig",
    "FinetuningTrainer",
    "LossTerm",
    "MultiTaskModel",
    "PretrainingConfig",
    "PretrainingTrainer",
    "ProgressiveTransferConfig",
    "ProgressiveTransferTrainer",
    "TaskBatchSampler",
    "TheseusConfig",
    "TheseusTrainer",
    "TransferStage",
    "distill",
    "finetune",
    "ib_teacher",
    "make_ib_bert",
    "measure_pretraining",
    "measure_transfer",
    "multitask_collator",
    "pretrain",
    "theseus",
    "train_embeddings",
    "transfer_knowledge",
]
