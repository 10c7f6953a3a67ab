"""Tasks, their encoding and their metrics; cleaning, deduplicating, splitting and augmenting tables; text for
pre-training."""

from .augmentation import MaskFiller, augment
from .cleaning import clean, clean_text
from .duplicates import TextIndex, count_leaks, drop_duplicates
from .encoding import IGNORED_LABEL, data_collator, encode_task, encode_texts, first_words, length_limit
from .metrics import METRICS, compute_metrics, score_logits
from .pretraining import Corpus, PretrainingCollator, PretrainingDataset, build_corpus
from .splitting import split
from .tasks import TASKS, Task, TaskSpec, load_task, load_texts, read_table, write_table


__all__ = [
    "IGNORED_LABEL",
    "METRICS",
    "TASKS",
    "Corpus",
    "MaskFiller",
    "PretrainingCollator",
    "PretrainingDataset",
    "Task",
    "TaskSpec",
    "TextIndex",
    "augment",
    "build_corpus",
    "clean",
    "clean_text",
    "compute_metrics",
    "count_leaks",
    "data_collator",
    "drop_duplicates",
    "encode_task",
    "encode_texts",
    "first_words",
    "length_limit",
    "load_task",
    "load_texts",
    "read_table",
    "score_logits",
    "split",
    "write_table",
]
