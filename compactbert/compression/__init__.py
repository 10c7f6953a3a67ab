"""Smaller models: what matters, what to keep, what is left, and what it costs."""

from .cost import count_bytes, count_macs, count_parameters
from .importance import Importance, score_importance
from .magnitude import zero_weights
from .planning import LayerPlan, PruningPlan, describe, plan_pruning
from .pruning import prune, prune_iteratively
from .vocabulary import count_tokens, hide_tokens, prune_vocabulary


__all__ = [
    "Importance",
    "LayerPlan",
    "PruningPlan",
    "count_bytes",
    "count_macs",
    "count_parameters",
    "count_tokens",
    "describe",
    "hide_tokens",
    "plan_pruning",
    "prune",
    "prune_iteratively",
    "prune_vocabulary",
    "score_importance",
    "zero_weights",
]
