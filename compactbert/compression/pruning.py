"""Removing what a plan does not keep: from one model to a smaller one that computes what is left."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ..convert.encoders import rebuild
from ..structure import ATTENTION_OUTPUT, QUERY_KEY_VALUE, network_prefixes
from .cost import count_macs, layer_weights
from .importance import Loss, Method, score_importance
from .planning import LayerPlan, PruningPlan, largest_sizes, plan_pruning


def prune(model: PreTrainedModel, plan: PruningPlan) -> PreTrainedModel:
    """
    The model that a plan leaves. Its outputs equal those of `model` with the outputs of the removed heads and neurons
    set to zero, and the removed layers and networks skipped.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            One of our models, with any head. Not changed; weights are copied.
        plan ([`PruningPlan`]):
            From [`plan_pruning`], or one that was made for a model of the same sizes.

    Raises:
        ValueError: if the plan is for another model.

    Example:

    ```python
    >>> from compactbert.compression import PruningPlan, prune
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> model = SmBertModel(SmBertConfig(vocab_size=100, hidden_size=64, attention_head_size=8))
    >>> prune(model, PruningPlan.keep_layers(model.config, [0, 2])).config.num_hidden_layers
    2

    ```
    """
    config = plan.prune_config(model.config)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    encoder = f"{prefix}encoder.layer."
    source = model.state_dict()
    state_dict = {name: tensor for name, tensor in source.items() if not name.startswith(encoder)}
    for i, layer in enumerate(plan.layers):
        before = f"{encoder}{layer.layer}."
        weights = {name.removeprefix(before): value for name, value in source.items() if name.startswith(before)}
        kept = _prune_layer(weights, layer, plan)
        state_dict |= {f"{encoder}{i}.{name}": value for name, value in kept.items()}
    return rebuild(model, type(model), config, state_dict)


def prune_iteratively(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    iterations: int = 1,
    method: Method | Loss = "gradient",
    layers: int | list[int] | None = None,
    seed: int = 42,
    sequence_length: int = 128,
    **targets: Any,
) -> tuple[PreTrainedModel, PruningPlan]:
    """
    Prunes in steps: scores, removes an even part of what is to go, scores what is left, and so on (TextPruner's
    `n_iters`). Layers go in the first step.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            One of our models. Not changed.
        batches (iterable of `dict`):
            As [`score_importance`] takes them; gone through once per iteration.
        iterations (`int`, *optional*, defaults to 1):
            Number of steps.
        method, layers, seed, sequence_length, targets:
            See [`score_importance`] and [`plan_pruning`].

    Returns:
        The pruned model, and the whole plan for `model`.

    Raises:
        ValueError: as [`score_importance`] and [`plan_pruning`], and if `iterations` is below 1.

    Example:

    ```python
    >>> import torch
    >>> from compactbert.compression import prune_iteratively
    >>> from modeling_smbert import SmBertConfig, SmBertForSequenceClassification

    >>> model = SmBertForSequenceClassification(SmBertConfig(vocab_size=100, hidden_size=64, attention_head_size=8))
    >>> batch = {"input_ids": torch.randint(100, (4, 16)), "labels": torch.tensor([0, 1, 1, 0])}
    >>> small, plan = prune_iteratively(model, [batch], iterations=2, heads=4, ffn=512)
    >>> [(shape.heads, shape.neurons) for shape in plan.shapes()]
    [(4, 512), (4, 512), (4, 512)]

    ```
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be at least 1, got {iterations}.")
    start = largest_sizes(model.config) | {
        "parameters": sum(layer_weights(model.config)),
        "macs": count_macs(model.config, 1, sequence_length),
    }
    plan = PruningPlan.keep_layers(model.config, range(model.config.num_hidden_layers))
    for iteration in range(1, iterations + 1):
        importance = score_importance(model, batches, method, seed=seed)
        if iteration == 1:
            # Targets that cannot be met raise before the first step, and say so in the user's numbers.
            plan_pruning(importance, model.config, layers=layers, sequence_length=sequence_length, **targets)
        now: dict[str, Any] = {"uneven": targets.get("uneven", False)}
        for name, target in targets.items():
            if name == "uneven" or target is None:
                continue
            budget = name in ("parameters", "macs")
            end = target * start[name] if budget and target <= 1 else target
            if iteration < iterations:
                end = start[name] + (end - start[name]) * iteration / iterations
            # The layers that had the most may be gone.
            now[name] = end if budget else min(int(end), largest_sizes(model.config)[name])
        step = plan_pruning(
            importance,
            model.config,
            layers=layers if iteration == 1 else None,
            sequence_length=sequence_length,
            **now,
        )
        model, plan = prune(model, step), plan.then(step)
    return model, plan


def _prune_layer(weights: dict[str, torch.Tensor], layer: LayerPlan, plan: PruningPlan) -> dict[str, torch.Tensor]:
    shape = plan.source[layer.layer]
    kept = dict(weights)
    features = torch.tensor([head * shape.head_size + i for head in layer.heads for i in range(shape.head_size)])
    for name in QUERY_KEY_VALUE:
        _select(kept, name, features, rows=True)
    _select(kept, ATTENTION_OUTPUT, features, rows=False)

    before, after = network_prefixes(shape.networks), network_prefixes(len(layer.networks))
    for name in weights:
        if name.startswith("ffn."):
            del kept[name]
    for (network, neurons), target in zip(layer.networks.items(), after, strict=True):
        indices = torch.tensor(neurons)
        if before[network]:
            moved = {name: value for name, value in weights.items() if name.startswith(before[network])}
            kept |= {target + name.removeprefix(before[network]): value for name, value in moved.items()}
        _select(kept, f"{target}intermediate.dense", indices, rows=True)
        _select(kept, f"{target}output.dense", indices, rows=False)
    return kept


def _select(weights: dict[str, torch.Tensor], module: str, indices: torch.Tensor, rows: bool) -> None:
    """Keeps some outputs (rows of the weight, and of the bias) or inputs (columns) of a linear layer."""
    weight = weights[f"{module}.weight"]
    weights[f"{module}.weight"] = weight.index_select(0 if rows else 1, indices.to(weight.device))
    if rows:
        bias = weights[f"{module}.bias"]
        weights[f"{module}.bias"] = bias.index_select(0, indices.to(bias.device))


__all__ = ["prune", "prune_iteratively"]
