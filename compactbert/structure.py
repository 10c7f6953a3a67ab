"""Where the parts of an encoder are that can be replaced or removed: layers, heads, feed-forward networks, neurons.

Our families keep the submodule names of transformers' BERT and MobileBERT, so one set of names serves them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


QUERY_KEY_VALUE = ("attention.self.query", "attention.self.key", "attention.self.value")
ATTENTION_OUTPUT = "attention.output.dense"
ATTENTION_DROPOUT = "attention.self.dropout"
# Suffixes of the classes that PEFT's task types are for, of which ours are.
ADAPTER_HEADS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
FAMILIES = ("smbert", "mobilebert_md", "ib_bert")
# The sizes that a layer may have for itself; a family has those that its configuration declares.
PER_LAYER_FIELDS = (
    "num_attention_heads",
    "attention_head_size",
    "intermediate_size",
    "num_feedforward_networks",
    "intra_bottleneck_size",
    "value_input_size",
)


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a layer."""

    heads: int
    head_size: int
    # Feed-forward networks stacked in the layer, and the inner width of each.
    networks: int
    neurons: int


def layer_shapes(config: PreTrainedConfig) -> list[LayerShape]:
    """The sizes of every layer.

    Raises:
        ValueError: if the configuration is not of one of our families.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"Expected a model of one of the families {FAMILIES}, got {config.model_type!r}: turn it into one with "
            f"`compactbert.convert.from_transformers`."
        )
    return [
        LayerShape(
            heads=layer.num_attention_heads,
            head_size=layer.head_size,
            networks=getattr(layer, "num_feedforward_networks", 1),
            neurons=layer.intermediate_size,
        )
        for layer in config.per_layer_config
    ]


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of a model's encoder, from input to output.

    Raises:
        ValueError: if it has none under `encoder.layer`.
    """
    # Of a model with a PEFT adapter, the one below it.
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    encoder: Any = getattr(base.base_model, "encoder", None)
    if not isinstance(getattr(encoder, "layer", None), nn.ModuleList):
        raise ValueError(
            f"{type(model).__name__} has no layers under `encoder.layer`: turn it into one of our classes with "
            f"`compactbert.convert.from_transformers`."
        )
    return encoder.layer


def label_names(config: PreTrainedConfig) -> list[str] | None:
    """What a model's outputs are called, in their order; `None` where they are only numbered (`LABEL_0`, ...)."""
    names = [str(name) for name in dict(config.id2label or {}).values()]
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names


def network_prefixes(num_networks: int) -> list[str]:
    """Where a layer's feed-forward networks are, in order; the last one lies in the layer itself."""
    return [*(f"ffn.{i}." for i in range(num_networks - 1)), ""]


def adapter_head(adapter: Mapping[str, Any], source: str | Path) -> str:
    """The suffix of the `Auto` class of the model that an adapter with this configuration is for.

    Raises:
        ValueError: if it is for none of ours.
    """
    if (task := adapter.get("task_type")) not in ADAPTER_HEADS:
        raise ValueError(
            f"The adapter {str(source)!r} is for the task {task!r}: expected one of {list(ADAPTER_HEADS)}, as "
            f"`compactbert adapt` writes it."
        )
    return ADAPTER_HEADS[task]


__all__ = [
    "ADAPTER_HEADS",
    "ATTENTION_DROPOUT",
    "ATTENTION_OUTPUT",
    "FAMILIES",
    "PER_LAYER_FIELDS",
    "QUERY_KEY_VALUE",
    "LayerShape",
    "adapter_head",
    "label_names",
    "layer_shapes",
    "layers_of",
    "network_prefixes",
]
