"""Tasks, their encoding and their metrics."""

from .encoding import IGNORED_LABEL, data_collator, encode_task, encode_texts, first_words, length_limit
from .metrics import METRICS, compute_metrics, score_logits
from .tasks import TASKS, Task, TaskSpec, load_task, load_texts, read_table


__all__ = [
    "IGNORED_LABEL",
    "METRICS",
    "TASKS",
    "Task",
    "TaskSpec",
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
