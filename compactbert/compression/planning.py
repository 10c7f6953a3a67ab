"""What to keep: a pruning plan is data, made from scores and a target, looked at, saved, and carried out by `prune`."""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from ..files import write_text
from ..structure import PER_LAYER_FIELDS, LayerShape, layer_shapes
from .cost import count_macs, layer_weights
from .importance import Importance


@dataclass(frozen=True)
class LayerPlan:
    """What stays of one layer: its index in the source model, and indices of heads and, per kept feed-forward network,
    of neurons. Every network of a layer keeps equally many neurons.

    Example:

    ```python
    >>> from compactbert.compression import LayerPlan

    >>> LayerPlan(layer=2, heads=(0, 3), networks={0: (1, 5, 7)}).heads
    (0, 3)

    ```
    """

    layer: int
    heads: tuple[int, ...]
    networks: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class PruningPlan:
    """
    What stays of a model.

    Args:
        model_type (`str`): Family of the source model.
        source (tuple of [`~compactbert.structure.LayerShape`]): Sizes of the source model's layers; the plan fits any
            checkpoint of these sizes.
        layers (tuple of [`LayerPlan`]): What stays, from input to output.

    Raises:
        ValueError: if an index does not exist in the source, or nothing would stay of a layer.

    Example:

    ```python
    >>> from compactbert.compression import PruningPlan
    >>> from modeling_smbert import SmBertConfig

    >>> plan = PruningPlan.keep_layers(SmBertConfig(), [0, 2])
    >>> plan.prune_config(SmBertConfig()).num_hidden_layers
    2

    ```
    """

    model_type: str
    source: tuple[LayerShape, ...]
    layers: tuple[LayerPlan, ...]

    def __post_init__(self):
        indices = [layer.layer for layer in self.layers]
        _check_kept("layers", indices, len(self.source), "the model")
        for layer in self.layers:
            shape, place = self.source[layer.layer], f"layer {layer.layer}"
            _check_kept("heads", layer.heads, shape.heads, place)
            _check_kept("networks", tuple(layer.networks), shape.networks, place)
            if shape.networks - 1 not in layer.networks:
                raise ValueError(f"Network {shape.networks - 1} of {place} leads back to the feature map: keep it.")
            for network, neurons in layer.networks.items():
                _check_kept("neurons", neurons, shape.neurons, f"network {network} of {place}")
            if len({len(neurons) for neurons in layer.networks.values()}) > 1:
                raise ValueError(f"The networks of {place} must keep equally many neurons.")

    @classmethod
    def keep_layers(cls, config: PreTrainedConfig, layers: Sequence[int]) -> "PruningPlan":
        """The plan that keeps these layers whole."""
        source = tuple(layer_shapes(config))
        _check_kept("layers", list(layers), len(source), "the model")
        whole = tuple(
            LayerPlan(
                layer=i,
                heads=tuple(range(source[i].heads)),
                networks={j: tuple(range(source[i].neurons)) for j in range(source[i].networks)},
            )
            for i in layers
        )
        return cls(config.model_type, source, whole)

    def shapes(self) -> list[LayerShape]:
        """Sizes of the layers that the plan leaves."""
        return [
            LayerShape(
                heads=len(layer.heads),
                head_size=self.source[layer.layer].head_size,
                networks=len(layer.networks),
                neurons=len(next(iter(layer.networks.values()))),
            )
            for layer in self.layers
        ]

    def check(self, config: PreTrainedConfig) -> None:
        """Raises a `ValueError` if the plan was made for a model of other sizes."""
        shapes = tuple(layer_shapes(config))
        if config.model_type != self.model_type:
            raise ValueError(
                f"The plan is for another model: it is for the family {self.model_type!r}, here it is "
                f"{config.model_type!r}. Make a plan for this model."
            )
        if len(shapes) != len(self.source):
            raise ValueError(
                f"The plan is for another model: it is for {len(self.source)} layers, here there are {len(shapes)}. "
                f"Make a plan for this model."
            )
        for i, (expected, found) in enumerate(zip(self.source, shapes, strict=True)):
            if expected != found:
                raise ValueError(
                    f"The plan is for another model: its layer {i} is {expected}, here it is {found}. Make a plan for "
                    f"this model."
                )

    def prune_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The configuration of the model that the plan leaves; layers that differ go to `per_layer_config`."""
        self.check(config)
        layers = []
        for plan, shape in zip(self.layers, self.shapes(), strict=True):
            before = config.per_layer_config[plan.layer]
            fields = {name: getattr(before, name) for name in PER_LAYER_FIELDS if hasattr(before, name)}
            if len(plan.heads) != before.num_attention_heads:
                # From here on the head size does not follow from the number of heads.
                fields["attention_head_size"] = shape.head_size
            fields |= {"num_attention_heads": shape.heads, "intermediate_size": shape.neurons}
            if "num_feedforward_networks" in fields:
                fields["num_feedforward_networks"] = shape.networks
            layers.append(fields)
        fields = config.to_dict() | {"num_hidden_layers": len(layers)}
        for name, value in layers[0].items():
            # What the configuration says of all layers stays as long as it is true of one.
            if all(layer[name] != fields[name] for layer in layers):
                fields[name] = value
        overrides = {
            i: changed
            for i, layer in enumerate(layers)
            if (changed := {name: value for name, value in layer.items() if value != fields[name]})
        }
        fields["per_layer_config"] = overrides or None
        return type(config).from_dict(fields)

    def then(self, following: "PruningPlan") -> "PruningPlan":
        """This plan and one for the model that it leaves, as one plan for the source.

        Raises:
            ValueError: if `following` was made for other sizes.
        """
        expected, left = (following.model_type, list(following.source)), (self.model_type, self.shapes())
        if expected != left:
            raise ValueError(
                f"The second plan is for another model, {expected}, than the first leaves, {left}: make it for that."
            )
        layers = []
        for after in following.layers:
            before = self.layers[after.layer]
            kept_networks = list(before.networks.items())
            layers.append(
                LayerPlan(
                    layer=before.layer,
                    heads=tuple(before.heads[i] for i in after.heads),
                    networks={
                        kept_networks[j][0]: tuple(kept_networks[j][1][i] for i in neurons)
                        for j, neurons in after.networks.items()
                    },
                )
            )
        return PruningPlan(self.model_type, self.source, tuple(layers))

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self)) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the plan as a JSON file."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "PruningPlan":
        """Reads a plan that [`save`] wrote.

        Raises:
            ValueError: if the file is missing or holds no plan.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            layers = tuple(
                LayerPlan(
                    layer["layer"],
                    tuple(layer["heads"]),
                    {int(j): tuple(neurons) for j, neurons in layer["networks"].items()},
                )
                for layer in data["layers"]
            )
            return cls(data["model_type"], tuple(LayerShape(**shape) for shape in data["source"]), layers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} is not a pruning plan ({error}): make one with `plan_pruning`.") from error


def _check_kept(field: str, kept: Sequence[int], available: int, place: str) -> None:
    if not kept:
        raise ValueError(f"`{field}` keeps nothing of {place}: at least one must stay.")
    if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= available:
        raise ValueError(
            f"`{field}` of {place} must be ascending indices below {available}, each once, got {list(kept)}."
        )


def plan_pruning(
    importance: Importance,
    config: PreTrainedConfig,
    *,
    layers: int | Sequence[int] | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    networks: int | None = None,
    parameters: float | None = None,
    macs: float | None = None,
    uneven: bool = False,
    sequence_length: int = 128,
) -> PruningPlan:
    """
    Chooses what to keep: the most important parts that meet the targets.

    Args:
        importance ([`Importance`]):
            From [`score_importance`].
        config ([`~transformers.PreTrainedConfig`]):
            Of the model that was scored.
        layers (`int` or list of `int`, *optional*):
            So many layers, the most important ones; or these.
        heads, ffn, networks (`int`, *optional*):
            So many heads per layer, neurons per feed-forward network, stacked networks per layer; layers that have
            fewer keep what they have.
        parameters, macs (`float`, *optional*):
            In place of `heads` and `ffn`: a budget for the weights in the encoder's matrices or for the base model's
            multiply-accumulates; absolute, or a share of the source model's if not above 1.
        uneven (`bool`, *optional*, defaults to `False`):
            Heads and neurons compete across layers: the targets hold on average, or for the budget, and each layer
            keeps what earns its place. Every layer keeps at least one head and one neuron.
        sequence_length (`int`, *optional*, defaults to 128):
            Length at which `macs` count.

    Raises:
        ValueError: for targets that are not positive, above what there is or contradict each other, budgets that
            cannot be met, and scores of another model.

    Example:

    ```python
    >>> from compactbert.compression import plan_pruning, score_importance
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> model = SmBertModel(SmBertConfig(vocab_size=100))
    >>> importance = score_importance(model, [], method="random")
    >>> plan = plan_pruning(importance, model.config, layers=2, heads=6, ffn=1024)
    >>> [(shape.heads, shape.neurons) for shape in plan.shapes()]
    [(6, 1024), (6, 1024)]

    ```
    """
    shapes = layer_shapes(config)
    sizes = [(shape.heads, shape.networks, shape.neurons) for shape in shapes]
    if importance.sizes() != sizes:
        raise ValueError(
            f"`importance` is of another model: the (heads, networks, neurons) of its layers are {importance.sizes()}, "
            f"those of `config` {sizes}. Score the model of this configuration."
        )
    most = largest_sizes(config)
    for name, target in (("heads", heads), ("ffn", ffn), ("networks", networks)):
        if target is not None and not 1 <= target <= most[name]:
            raise ValueError(f"`{name}` must lie between 1 and the model's {most[name]}, got {target}.")
    targets = {"parameters": parameters, "macs": macs, "heads": heads, "ffn": ffn}
    given = {name: value for name, value in targets.items() if value is not None}
    budgets = [name for name in ("parameters", "macs") if name in given]
    if budgets and len(given) > 1:
        raise ValueError(
            f"Expected one budget, `parameters` or `macs`, or the targets `heads` and `ffn`, got {given}: leave the "
            f"others out."
        )

    kept_layers = _choose_layers(importance.layers, layers)
    kept_networks = {
        i: _largest(importance.networks[i], min(networks or shapes[i].networks, shapes[i].networks))
        for i in kept_layers
    }
    scores = _RankedScores(importance, shapes, kept_layers, kept_networks)
    if budgets:
        cost, total = _cost_function(config, scores, budgets[0], sequence_length)
        value = given[budgets[0]]
        if value <= 0:
            raise ValueError(f"`{budgets[0]}` must be positive, got {value}.")
        budget = value * total if value <= 1 else value
        counts = _fit_uneven(scores, cost, budget) if uneven else _fit_even(scores, cost, budget)
        if counts is None:
            raise ValueError(
                f"`{budgets[0]}` of {budget:,.0f} cannot be met: with one head and one neuron in each of "
                f"{len(kept_layers)} layers it is {cost(scores.smallest()):,.0f}. Keep fewer layers or networks."
            )
    elif uneven:
        counts = _rank_across_layers(scores, heads, ffn)
    else:
        counts = {
            i: (min(heads or shapes[i].heads, shapes[i].heads), min(ffn or shapes[i].neurons, shapes[i].neurons))
            for i in kept_layers
        }
    plans = tuple(
        LayerPlan(
            layer=i,
            heads=_largest(importance.heads[i], counts[i][0]),
            networks={j: _largest(importance.neurons[i][j], counts[i][1]) for j in kept_networks[i]},
        )
        for i in kept_layers
    )
    return PruningPlan(config.model_type, tuple(shapes), plans)


def largest_sizes(config: PreTrainedConfig) -> dict[str, int]:
    """The most that a layer has of each target of [`plan_pruning`] that counts."""
    shapes = layer_shapes(config)
    return {
        "heads": max(shape.heads for shape in shapes),
        "ffn": max(shape.neurons for shape in shapes),
        "networks": max(shape.networks for shape in shapes),
    }


# Heads and neurons of every kept layer.
Counts = dict[int, tuple[int, int]]


def _largest(scores: np.ndarray, count: int) -> tuple[int, ...]:
    """Ascending indices of the `count` largest scores; of equal ones the first."""
    return tuple(sorted(np.argsort(-scores, kind="stable")[:count].tolist()))


def _choose_layers(scores: np.ndarray, layers: int | Sequence[int] | None) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(len(scores)))
    if isinstance(layers, int):
        if not 1 <= layers <= len(scores):
            raise ValueError(f"`layers` must lie between 1 and the model's {len(scores)}, got {layers}.")
        return _largest(scores, layers)
    _check_kept("layers", list(layers), len(scores), "the model")
    return tuple(layers)


class _RankedScores:
    """Heads and neurons of the kept layers as units that can be removed from the least important on. The neurons at one
    rank of all networks of a layer are one unit, since these networks are equally wide."""

    def __init__(
        self,
        importance: Importance,
        shapes: Sequence[LayerShape],
        kept_layers: Sequence[int],
        kept_networks: Mapping[int, Sequence[int]],
    ):
        self.shapes = {i: shapes[i] for i in kept_layers}
        self.networks = kept_networks
        self.heads = {i: -np.sort(-importance.heads[i]) for i in kept_layers}
        self.neurons = {
            i: np.sum([-np.sort(-importance.neurons[i][j]) for j in kept_networks[i]], axis=0) for i in kept_layers
        }

    def smallest(self) -> Counts:
        return dict.fromkeys(self.shapes, (1, 1))


def _cost_function(
    config: PreTrainedConfig, scores: _RankedScores, budget: str, sequence_length: int
) -> tuple[Callable[[Counts], float], float]:
    """The cost of counts, and that of the source model."""

    def config_of(counts: Counts) -> PreTrainedConfig:
        plans = tuple(
            LayerPlan(i, tuple(range(h)), {j: tuple(range(n)) for j in scores.networks[i]})
            for i, (h, n) in counts.items()
        )
        return PruningPlan(config.model_type, tuple(layer_shapes(config)), plans).prune_config(config)

    def cost_of(pruned: PreTrainedConfig) -> float:
        return sum(layer_weights(pruned)) if budget == "parameters" else count_macs(pruned, 1, sequence_length)

    return (lambda counts: cost_of(config_of(counts))), cost_of(config)


def _fit_even(scores: _RankedScores, cost: Callable[[Counts], float], budget: float) -> Counts | None:
    """The largest common share of heads and neurons that fits; heads come in large steps, so neurons then fill up."""

    def shared(heads: int, neurons: int) -> Counts:
        """Counts from thousandths."""
        return {
            i: (max(1, round(heads * shape.heads / 1000)), max(1, round(neurons * shape.neurons / 1000)))
            for i, shape in scores.shapes.items()
        }

    common = bisect_right(range(1001), budget, key=lambda share: cost(shared(share, share))) - 1
    if common < 0:
        return None
    neurons = bisect_right(range(1001), budget, key=lambda share: cost(shared(common, share))) - 1
    return shared(common, neurons)


def _fit_uneven(scores: _RankedScores, cost: Callable[[Counts], float], budget: float) -> Counts | None:
    """Keeps what is most important for what it costs, as long as it fits, and what still fits of the rest."""
    smallest = scores.smallest()
    left = budget - cost(smallest)
    if left < 0:
        return None
    units = []
    for i, shape in scores.shapes.items():
        # Costs add up: every further head of a layer costs the same, and so does every neuron.
        head_cost = cost(smallest | {i: (2, 1)}) - cost(smallest) if shape.heads > 1 else 0
        neuron_cost = cost(smallest | {i: (1, 2)}) - cost(smallest) if shape.neurons > 1 else 0
        units += [(score / head_cost, i, 0, head_cost) for score in scores.heads[i][1:]]
        units += [(score / neuron_cost, i, 1, neuron_cost) for score in scores.neurons[i][1:]]
    units.sort(key=lambda unit: -unit[0])
    counts = {i: list(pair) for i, pair in smallest.items()}
    for _, i, kind, unit_cost in units:
        if unit_cost <= left:
            counts[i][kind] += 1
            left -= unit_cost
    return {i: (heads, neurons) for i, (heads, neurons) in counts.items()}


def _rank_across_layers(scores: _RankedScores, heads: int | None, ffn: int | None) -> Counts:
    """The most important heads and neurons of all layers together, as many as the targets mean on average."""

    def keep(ranked: Mapping[int, np.ndarray], target: int | None) -> dict[int, int]:
        if target is None:
            return {i: len(values) for i, values in ranked.items()}
        # The first of every layer stays in any case.
        rest = sorted(
            ((-value, i) for i, values in ranked.items() for value in values[1:]), key=lambda unit: (unit[0], unit[1])
        )[: (target - 1) * len(ranked)]
        return {i: 1 + sum(layer == i for _, layer in rest) for i in ranked}

    kept_heads, kept_neurons = keep(scores.heads, heads), keep(scores.neurons, ffn)
    return {i: (kept_heads[i], kept_neurons[i]) for i in scores.shapes}


def describe(plan: PruningPlan) -> list[dict[str, Any]]:
    """The plan as rows of a table: per kept layer its index and how many heads, networks and neurons stay of how
    many.

    Example:

    ```python
    >>> from compactbert.compression import PruningPlan, describe
    >>> from modeling_smbert import SmBertConfig

    >>> describe(PruningPlan.keep_layers(SmBertConfig(), [2]))
    [{'layer': 2, 'heads': '8 of 8', 'networks': '1 of 1', 'neurons': '2048 of 2048'}]

    ```
    """
    return [
        {
            "layer": layer.layer,
            "heads": f"{len(layer.heads)} of {plan.source[layer.layer].heads}",
            "networks": f"{len(layer.networks)} of {plan.source[layer.layer].networks}",
            "neurons": f"{shape.neurons} of {plan.source[layer.layer].neurons}",
        }
        for layer, shape in zip(plan.layers, plan.shapes(), strict=True)
    ]


__all__ = ["LayerPlan", "PruningPlan", "describe", "largest_sizes", "plan_pruning"]
