"""Tasks, their encoding and their metrics; text for pre-training."""

from .encoding import IGNORED_LABEL, data_collator, encode_task, encode_texts, first_words, length_limit
from .metrics import METRICS, compute_metrics, score_logits
from .pretraining import Corpus, PretrainingCollator, PretrainingDataset, build_corpus
from .tasks import TASKS, Task, TaskSpec, load_task, load_texts, read_table


__all__ = [
    "IGNORED_LABEL",
    "METRICS",
    "TASKS",
    "Corpus",
    "PretrainingCollator",
    "PretrainingDataset",
    "Task",
    "TaskSpec",
    "build_corpus",
    "compute_metrics",
    "data_collator",
    "encode_task",
    "encode_texts",
    "first_words",
    "length_limit",
    "load_task",
    "load_texts",
    "read_table",
    "score_logits",
]
