"""The metrics of each kind of task, from scikit-learn, SciPy and seqeval."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import precision_score as seqeval_precision
from seqeval.metrics import recall_score as seqeval_recall
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from .encoding import IGNORED_LABEL
from .tasks import Task


def _correlation(function: Callable, predictions: Any, references: Any) -> float:
    # A model that predicts one value correlates with nothing; SciPy says nan.
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return float(function(predictions, references).statistic)


# Predictions and references are label indices; values for correlations; tag strings per sentence for `seqeval_*`; rows
# of zeros and ones for `micro_f1` and `subset_accuracy`.
METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": lambda predictions, references: float(accuracy_score(references, predictions)),
    "f1": lambda predictions, references: float(f1_score(references, predictions, zero_division=0.0)),
    "macro_f1": lambda predictions, references: float(
        f1_score(references, predictions, average="macro", zero_division=0.0)
    ),
    "matthews_correlation": lambda predictions, references: float(matthews_corrcoef(references, predictions)),
    "pearson": lambda predictions, references: _correlation(pearsonr, predictions, references),
    "spearman": lambda predictions, references: _correlation(spearmanr, predictions, references),
    "micro_f1": lambda predictions, references: float(
        f1_score(references, predictions, average="micro", zero_division=0.0)
    ),
    "subset_accuracy": lambda predictions, references: float(accuracy_score(references, predictions)),
    "seqeval_f1": lambda predictions, references: float(seqeval_f1(references, predictions, zero_division=0)),
    "seqeval_precision": lambda predictions, references: float(
        seqeval_precision(references, predictions, zero_division=0)
    ),
    "seqeval_recall": lambda predictions, references: float(seqeval_recall(references, predictions, zero_division=0)),
}


def compute_metrics(names: Sequence[str], predictions: Any, references: Any) -> dict[str, float]:
    """
    The named metrics.

    Args:
        names (list of `str`): Keys of `METRICS`.
        predictions, references (sequences of equal length): In the form the metric takes; see `METRICS`.

    Returns:
        `dict[str, float]`: Metric to value; all but correlations, which lie in [-1, 1], are in [0, 1].

    Example:

    ```python
    >>> from compactbert.data import compute_metrics

    >>> compute_metrics(["accuracy", "f1"], [1, 0, 1, 1], [1, 0, 0, 1])
    {'accuracy': 0.75, 'f1': 0.8}

    ```
    """
    return {name: METRICS[name](predictions, references) for name in names}


def score_logits(task: Task, logits: Any, labels: Any) -> dict[str, float]:
    """
    The metrics of a task.

    Args:
        task ([`~compactbert.data.Task`]): What the labels mean.
        logits (sequence of arrays): Per row, of shape `(num_labels,)`, or `(tokens, num_labels)` for token
            classification.
        labels (sequence): Per row, as [`~compactbert.data.encode_task`] makes them. Rows may be padded with -100.

    Example:

    ```python
    >>> import numpy as np
    >>> from compactbert.data import load_task, score_logits

    >>> task = load_task("reviews.csv")
    >>> score_logits(task, [np.array([2.0, -1.0]), np.array([0.0, 3.0])], [0, 1])
    {'accuracy': 1.0, 'macro_f1': 1.0}

    ```
    """
    if task.problem == "token_classification":
        predictions, references = [], []
        for row, tags in zip(logits, labels, strict=True):
            tags = np.asarray(tags)
            kept = tags != IGNORED_LABEL
            predictions.append([task.label_names[i] for i in row[: len(tags)][kept].argmax(-1)])
            references.append([task.label_names[i] for i in tags[kept]])
        return compute_metrics(task.metrics, predictions, references)
    stacked = np.stack([np.asarray(row) for row in logits])
    if task.problem == "regression":
        return compute_metrics(task.metrics, stacked[:, 0], np.asarray(labels))
    if task.problem == "multi_label_classification":
        return compute_metrics(task.metrics, (stacked > 0).astype(int), np.asarray(labels).astype(int))
    return compute_metrics(task.metrics, stacked.argmax(-1), np.asarray(labels))


__all__ = ["METRICS", "compute_metrics", "score_logits"]
