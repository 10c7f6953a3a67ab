"""Which MobileBERTs a budget buys: stages of layers, their widths, heads and feed-forward networks, and how fast each
is (MobileBERT, https://huggingface.co/papers/2004.02984, section 4.1, chose its student so)."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from matplotlib.figure import Figure
from transformers import PreTrainedConfig

from modeling_mobilebert_md import MobileBertMdConfig, MobileBertMdModel

from .benchmark import Shape, measure_latency
from .compression import count_macs, count_parameters
from .files import write_figure, write_text
from .provenance import environment


# What the layouts do not decide: the rest of the configuration's fields.
SHARED_FIELDS = {field.name for field in dataclasses.fields(MobileBertMdConfig)}
SHARED_FIELDS -= {field.name for field in dataclasses.fields(PreTrainedConfig)}
SHARED_FIELDS -= {"intra_bottleneck_size", "num_attention_heads", "num_feedforward_networks", "num_hidden_layers"}
# Without a bottleneck all widths are the same network.
SHARED_FIELDS -= {"use_bottleneck"}
WIDTHS = (64, 96, 128, 160, 192, 256)
NETWORKS = (1, 2, 3, 4, 6, 8)


@dataclasses.dataclass(frozen=True)
class Layout:
    """
    A MobileBERT and what it costs.

    Args:
        stages (tuple of `(num_layers, intra_bottleneck_size)`): From input to output.
        heads (`int`): Attention heads of every layer.
        num_feedforward_networks (`int`): Feed-forward networks of every layer.
        parameters (`int`): Of the model without pooler and head.
        macs (`int`): Multiply-accumulates of that model for one sequence.
        fields (`dict`): What else its configuration sets.

    Example:

    ```python
    >>> from compactbert.search import search_layouts

    >>> layout = search_layouts(parameters=15e6, num_stages=[1])[0]
    >>> layout.name, layout.parameters, layout.config().num_hidden_layers
    ('24x128/4/1', 15080192, 24)

    ```
    """

    stages: tuple[tuple[int, int], ...]
    heads: int
    num_feedforward_networks: int
    parameters: int
    macs: int
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Stages as layers x width, heads and networks: `"8x256+8x128+8x64/4/4"`."""
        stages = "+".join(f"{layers}x{width}" for layers, width in self.stages)
        return f"{stages}/{self.heads}/{self.num_feedforward_networks}"

    def config(self) -> MobileBertMdConfig:
        """The configuration to build it from."""
        return _config(self.stages, self.heads, self.num_feedforward_networks, self.fields)

    def preset(self) -> dict[str, Any]:
        """What a JSON file says to [`~compactbert.presets.load_preset`] to get this configuration."""
        fields = _fields_of(self.stages, self.heads, self.num_feedforward_networks, self.fields)
        return {"model_type": MobileBertMdConfig.model_type, **fields}


def search_layouts(
    *,
    parameters: float | None = None,
    macs: float | None = None,
    widths: Sequence[int] = WIDTHS,
    heads: Sequence[int] = (4,),
    networks: Sequence[int] = NETWORKS,
    num_layers: int = 24,
    num_stages: Sequence[int] = (1, 3),
    tolerance: float = 0.06,
    sequence_length: int = 128,
    **fields: Any,
) -> list[Layout]:
    """
    The layouts that come near a budget, nearest first, and the cheaper first where two are as near.

    Stages are equally long, but for a remainder, which the first ones share, and get narrower from input to output; in
    reverse order they cost the same.

    Args:
        parameters (`float`, *optional*): Parameters of the model without pooler and head.
        macs (`float`, *optional*): Its multiply-accumulates for one sequence. Of the two, give one or both.
        widths (list of `int`, *optional*): Widths that a stage may have.
        heads (list of `int`, *optional*, defaults to `(4,)`):
            Attention heads that the layers may have; all layers of a layout have as many. Where they do not divide
            every width there is no such layout.
        networks (list of `int`, *optional*): Feed-forward networks that the layers may have; all have as many.
        num_layers (`int`, *optional*, defaults to 24): Layers of every layout.
        num_stages (list of `int`, *optional*, defaults to `(1, 3)`): Stages that a layout may have.
        tolerance (`float`, *optional*, defaults to 0.06):
            The share of a budget by which a layout may miss it. MobileBERT's own settings "of 25M" lie between 23.6M
            and 24.6M as counted here.
        sequence_length (`int`, *optional*, defaults to 128): Tokens of the sequence.
        fields:
            Other fields of [`~modeling_mobilebert_md.MobileBertMdConfig`], the same for all. `embedding_size` is 128
            and `intermediate_size` four times a layer's width where they are not given, as in MobileBERT.

    Raises:
        ValueError: without a budget, with one that is not positive, or where the choices are empty or impossible.

    Example:

    ```python
    >>> from compactbert.search import search_layouts

    >>> [layout.name for layout in search_layouts(parameters=15e6, num_stages=[1])]
    ['24x128/4/1', '24x96/4/3', '24x64/4/8']

    ```
    """
    budgets = {"parameters": parameters, "macs": macs}
    given = {name: budget for name, budget in budgets.items() if budget is not None}
    _check_choices(given, tolerance, widths=widths, heads=heads, networks=networks, num_stages=num_stages)
    if max(num_stages) > num_layers:
        raise ValueError(f"`num_stages` asks for {max(num_stages)} stages of {num_layers} layers: lower it.")
    if wrong := sorted(fields.keys() - SHARED_FIELDS):
        raise ValueError(
            f"A search does not take {wrong}: beside its own choices it takes the fields {sorted(SHARED_FIELDS)}."
        )

    @functools.cache
    def cost(width: int, num_heads: int, num_networks: int) -> tuple[dict[str, int], dict[str, int]]:
        """Of a single layer, and of everything else."""
        one, two = (_config([(layers, width)], num_heads, num_networks, fields) for layers in (1, 2))
        with torch.device("meta"):
            counted = count_parameters(MobileBertMdModel(one, add_pooling_layer=False))
        macs_of_one, macs_of_two = (count_macs(config, 1, sequence_length) for config in (one, two))
        layer = {"parameters": counted["encoder"], "macs": macs_of_two - macs_of_one}
        rest = {"parameters": counted["embedding"], "macs": 2 * macs_of_one - macs_of_two}
        return layer, rest

    found = []
    for count, num_heads, num_networks in itertools.product(num_stages, heads, networks):
        possible = sorted((width for width in set(widths) if width % num_heads == 0), reverse=True)
        lengths = [num_layers // count + (i < num_layers % count) for i in range(count)]
        for chosen in itertools.combinations(possible, count):
            total = dict(cost(chosen[0], num_heads, num_networks)[1])
            for length, width in zip(lengths, chosen, strict=True):
                layer, _ = cost(width, num_heads, num_networks)
                total = {name: total[name] + length * layer[name] for name in total}
            misses = [abs(total[name] / budget - 1) for name, budget in given.items()]
            if max(misses) <= tolerance:
                stages = tuple(zip(lengths, chosen, strict=True))
                found.append((max(misses), Layout(stages, num_heads, num_networks, **total, fields=fields)))
    found.sort(key=lambda entry: (entry[0], entry[1].macs, entry[1].parameters))
    return [layout for _, layout in found]


def measure_layouts(
    layouts: Sequence[Layout], shapes: Sequence[Shape], *, rounds: int = 15, seconds: float = 20.0
) -> list[dict[str, dict[str, float]]]:
    """
    How long each layout takes, with random weights, taking turns: see [`~compactbert.benchmark.measure_latency`].

    Returns:
        `list`: Per layout and shape (`"1x128"`) the `median_ms` and the quartiles `low_ms` and `high_ms`.

    Example:

    ```python
    >>> from compactbert.search import measure_layouts, search_layouts

    >>> layouts = search_layouts(parameters=4.5e6, num_layers=2, num_stages=[1])[:1]
    >>> sorted(measure_layouts(layouts, [(1, 16)], rounds=3)[0]["1x16"])
    ['high_ms', 'low_ms', 'median_ms']

    ```
    """
    models = {str(i): MobileBertMdModel(layout.config(), add_pooling_layer=False) for i, layout in enumerate(layouts)}
    latencies = measure_latency(models, shapes, rounds=rounds, seconds=seconds)
    return [latencies[str(i)] for i in range(len(layouts))]


def search(
    output_dir: str | Path | None = None,
    *,
    shapes: Sequence[Shape] = ((1, 128),),
    limit: int = 10,
    rounds: int = 15,
    **choices: Any,
) -> dict[str, Any]:
    """
    Lists the layouts that fit a budget and measures the nearest ones.

    Args:
        output_dir (`str` or `Path`, *optional*):
            Where `layouts.json`, what is returned here, and `layouts.png`, latency against multiply-accumulates, go.
        shapes (list of `(rows, tokens)`, *optional*, defaults to `[(1, 128)]`): Where latency is measured.
        limit (`int`, *optional*, defaults to 10): Layouts to measure.
        rounds (`int`, *optional*, defaults to 15): As in [`~compactbert.benchmark.measure_latency`].
        choices: Budget and choices, as in [`search_layouts`].

    Returns:
        `dict`: The `budget`, how many layouts are `fitting`, the measured `layouts` (each with its `name`, `stages`,
        costs, `latency` and `preset`), the `environment`, and the `files` written.

    Raises:
        ValueError: as in [`search_layouts`], if `limit` is below 1, or if no layout fits.

    Example:

    ```python
    >>> from compactbert.search import search

    >>> result = search(parameters=4.5e6, num_layers=2, num_stages=[1], shapes=[(1, 16)], limit=1, rounds=3)
    >>> result["fitting"] >= 1, len(result["layouts"])
    (True, 1)

    ```
    """
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    fitting = search_layouts(**choices)
    budget = {name: choices[name] for name in ("parameters", "macs") if choices.get(name) is not None}
    if not fitting:
        raise ValueError(f"No layout fits the budget {budget}: allow more widths or networks, or a larger tolerance.")
    chosen = fitting[:limit]
    rows = [
        {
            "name": layout.name,
            "stages": [list(stage) for stage in layout.stages],
            "num_attention_heads": layout.heads,
            "num_feedforward_networks": layout.num_feedforward_networks,
            "parameters": layout.parameters,
            "macs": layout.macs,
            "latency": latency,
            "preset": layout.preset(),
        }
        for layout, latency in zip(chosen, measure_layouts(chosen, shapes, rounds=rounds), strict=True)
    ]
    result = {"budget": budget, "fitting": len(fitting), "layouts": rows, "environment": environment(), "files": []}
    if output_dir is not None:
        data, picture = Path(output_dir) / "layouts.json", Path(output_dir) / "layouts.png"
        result["files"] = [str(data), str(picture)]
        write_plot(result, picture)
        write_text(data, json.dumps(result, indent=2) + "\n")
    return result


def layout_rows(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The layouts of a search as a header and rows of text.

    Example:

    ```python
    >>> from compactbert.search import layout_rows, search

    >>> result = search(parameters=4.5e6, num_layers=2, num_stages=[1], shapes=[(1, 16)], limit=1, rounds=3)
    >>> layout_rows(result)[0]
    ('stages', 'heads', 'FFNs', 'parameters', 'GMACs', 'ms 1x16')

    ```
    """
    shapes = list(result["layouts"][0]["latency"])
    header = ("stages", "heads", "FFNs", "parameters", "GMACs", *(f"ms {shape}" for shape in shapes))
    rows = []
    for layout in result["layouts"]:
        latencies = [
            f"{layout['latency'][shape]['median_ms']:.1f} "
            f"({layout['latency'][shape]['low_ms']:.1f}-{layout['latency'][shape]['high_ms']:.1f})"
            for shape in shapes
        ]
        sizes = (str(layout["num_attention_heads"]), str(layout["num_feedforward_networks"]))
        costs = (f"{layout['parameters'] / 1e6:.2f}M", f"{layout['macs'] / 1e9:.2f}")
        rows.append((", ".join(f"{n}x{width}" for n, width in layout["stages"]), *sizes, *costs, *latencies))
    return header, rows


def write_plot(result: Mapping[str, Any], path: str | Path) -> None:
    """Draws latency, with its quartiles, against multiply-accumulates, a point per layout, to a PNG file.

    Example:

    ```python
    >>> from compactbert.search import search, write_plot

    >>> result = search(parameters=4.5e6, num_layers=2, num_stages=[1], shapes=[(1, 16)], limit=1, rounds=3)
    >>> write_plot(result, "layouts.png")

    ```
    """
    shape = next(iter(result["layouts"][0]["latency"]))
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("billion multiply-accumulates per sequence")
    axes.set_ylabel(f"milliseconds at {shape}")
    axes.grid(alpha=0.3)
    for i, layout in enumerate(result["layouts"]):
        macs, latency = layout["macs"] / 1e9, layout["latency"][shape]
        middle = latency["median_ms"]
        spread = [[middle - latency["low_ms"]], [latency["high_ms"] - middle]]
        axes.errorbar([macs], [middle], yerr=spread, fmt="o", color="tab:blue", capsize=3)
        # Labels of points that lie close together go up and down in turn.
        offset = (5, 6 if i % 2 == 0 else -13)
        axes.annotate(layout["name"], (macs, middle), xytext=offset, textcoords="offset points", size=8)
    axes.margins(x=0.25, y=0.15)
    budget = " and ".join(f"{value / 1e6:,.1f}M {name}" for name, value in result["budget"].items())
    figure.suptitle(f"Layouts of about {budget} (stages/heads/FFNs)")
    write_figure(Path(path), figure)


def _check_choices(budgets: Mapping[str, float], tolerance: float, **choices: Sequence[int]) -> None:
    if not budgets:
        raise ValueError("A search needs a budget: give `parameters`, `macs` or both.")
    for name, budget in budgets.items():
        if budget <= 0:
            raise ValueError(f"`{name}` must be positive, got {budget}.")
    if tolerance < 0:
        raise ValueError(f"`tolerance` must not be negative, got {tolerance}.")
    for name, values in choices.items():
        if not values or min(values) < 1:
            raise ValueError(f"`{name}` must be a list of positive integers, got {list(values)}.")


def _fields_of(
    stages: Sequence[tuple[int, int]], heads: int, networks: int, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a layout's configuration."""
    sizes = [
        {"intra_bottleneck_size": width, "intermediate_size": fields.get("intermediate_size", 4 * width)}
        for layers, width in stages
        for _ in range(layers)
    ]
    return {
        "embedding_size": 128,
        **fields,
        **sizes[0],
        "num_hidden_layers": len(sizes),
        "per_layer_config": {i: layer for i, layer in enumerate(sizes) if layer != sizes[0]} or None,
        "num_attention_heads": heads,
        "num_feedforward_networks": networks,
    }


def _config(*layout: Any) -> MobileBertMdConfig:
    fields = _fields_of(*layout)
    try:
        return MobileBertMdConfig(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"A layout is not a possible architecture: {error}") from error


__all__ = ["Layout", "layout_rows", "measure_layouts", "search", "search_layouts", "write_plot"]
