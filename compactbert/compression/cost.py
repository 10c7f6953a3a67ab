"""What a model costs: parameters, multiply-accumulates and bytes, exactly, from its modules and its configuration."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..structure import layer_shapes, layers_of


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """
    Parameters of a model by part, tied weights once.

    Returns:
        `dict`: `embedding` (token, position and type tables and what widens and normalises them), `encoder` (the
        layers), `head` (pooler and everything after it) and `total`.

    Raises:
        ValueError: if the model has no layers under `encoder.layer`.

    Example:

    ```python
    >>> from compactbert.compression import count_parameters
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> count_parameters(SmBertModel(SmBertConfig()))["total"]
    38608128

    ```
    """
    base: Any = model.base_model
    embedding = sum(parameter.numel() for parameter in base.embeddings.parameters())
    encoder = sum(parameter.numel() for parameter in layers_of(model).parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"embedding": embedding, "encoder": encoder, "head": total - embedding - encoder, "total": total}


def layer_weights(config: PreTrainedConfig) -> list[int]:
    """Weights in the matrices of every layer, without biases and norms: its multiply-accumulates per token outside
    attention's scores."""
    weights = []
    for shape, layer in zip(layer_shapes(config), config.per_layer_config, strict=True):
        hidden = config.hidden_size
        width = getattr(layer, "true_hidden_size", hidden)
        query_width = value_width = width
        projections = 0
        if hasattr(config, "use_bottleneck") and not config.use_bottleneck_attention:
            value_width = layer.value_input_size or hidden
        if getattr(config, "use_bottleneck", False):
            # Into the bottleneck and back; query and key may have one of their own.
            projections = 2 * hidden * width
            if not config.use_bottleneck_attention:
                query_width = width if config.key_query_shared_bottleneck else hidden
                projections += hidden * width if config.key_query_shared_bottleneck else 0
        attention = shape.heads * shape.head_size * (2 * query_width + value_width + width)
        weights.append(projections + attention + shape.networks * 2 * width * shape.neurons)
    return weights


def count_macs(config: PreTrainedConfig, batch_size: int = 1, sequence_length: int = 128) -> int:
    """
    Multiply-accumulates of the base model without its pooler, for a batch without padding: matrix products alone, as is
    usual; norms, activations and softmax do not count.

    Args:
        config ([`~transformers.PreTrainedConfig`]): Of one of our families.
        batch_size, sequence_length (`int`): The input's shape.

    Example:

    ```python
    >>> from compactbert.compression import count_macs
    >>> from modeling_smbert import SmBertConfig

    >>> count_macs(SmBertConfig(), sequence_length=128)
    1862270976

    ```
    """
    per_token = sum(layer_weights(config))
    if hasattr(config, "trigram_input"):
        tokens = 3 if config.trigram_input else 1
        if tokens == 3 or config.embedding_size != config.hidden_size:
            per_token += tokens * config.embedding_size * config.hidden_size
    # Queries with keys, and probabilities with values.
    scores = sum(2 * shape.heads * shape.head_size for shape in layer_shapes(config))
    return batch_size * sequence_length * (per_token + sequence_length * scores)


def count_bytes(folder: str | Path) -> int:
    """Bytes of the weights in a saved folder.

    Example:

    ```python
    >>> from compactbert.compression import count_bytes

    >>> count_bytes("my-model") > 1_000_000
    True

    ```
    """
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


__all__ = ["count_bytes", "count_macs", "count_parameters", "layer_weights"]
