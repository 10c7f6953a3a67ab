"""An IB-BERT teacher out of a BERT that exists: IB-BERT's own weights were never released."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_mobilebert_md import IbBertConfig, IbBertForPreTraining

from ..structure import layers_of


# How much larger a layer's contribution to the feature map is than what it is added to, which LayerNorm then all but
# removes: a power of two, large against the map and small against float32's precision.
SCALE = 2.0**12


@torch.no_grad()
def make_ib_bert(
    model: PreTrainedModel,
    feature_map_size: int = 512,
    embedding_size: int = 256,
    token_counts: Tensor | None = None,
) -> IbBertForPreTraining:
    """
    An IB-BERT that computes what a BERT does, up to the rank of its token embeddings, without training.

    Every layer keeps its attention and its feed-forward network. Its state lies in the first features of the feature
    map and the others are zero: the bottleneck into a layer reads it there, and the bottleneck out of it writes the
    next state over it, 4096 times as large as what it is added to, so that LayerNorm leaves one part in 4096 of the
    old. Kept: attention maps, hidden states, heads (a student with fewer is compared with groups of them). Lost: what
    the token embeddings have beyond their best approximation of rank `embedding_size`, by least squares. There is no
    language modelling head, so train one, best with the embeddings (see [`PretrainingTrainer`]).

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A `SmBert*` model, such as [`~compactbert.convert.from_transformers`] makes of a BERT, MiniLM or RoBERTa,
            with any head, which is left.
        feature_map_size (`int`, *optional*, defaults to 512):
            Width of the feature map; the student's `hidden_size`.
        embedding_size (`int`, *optional*, defaults to 256):
            Width of the token embeddings; the student's `embedding_size`.
        token_counts (`torch.Tensor` of shape `(vocab_size,)`, *optional*):
            How often every token occurs in the text at hand; frequent tokens are then kept better.

    Raises:
        ValueError: for a model of another family, with layers of different size, or wider than the feature map, and
            for counts of another vocabulary.

    Example:

    ```python
    >>> import torch
    >>> from compactbert.training import make_ib_bert
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> bert = SmBertModel(SmBertConfig(vocab_size=100, hidden_size=64, attention_head_size=8)).eval()
    >>> teacher = make_ib_bert(bert, feature_map_size=96, embedding_size=64)
    >>> ids = torch.arange(1, 9)[None]
    >>> difference = teacher.mobilebert(ids).last_hidden_state[..., :64] - bert(ids).last_hidden_state
    >>> difference.abs().max().item() < 0.01
    True

    ```
    """
    config = model.config
    target_config = ib_config(config, feature_map_size, embedding_size)
    width = config.hidden_size
    if token_counts is not None and len(token_counts) != config.vocab_size:
        raise ValueError(f"`token_counts` must have {config.vocab_size} numbers, got {len(token_counts)}.")
    target = IbBertForPreTraining(target_config)
    target.to(model.device)  # type: ignore[arg-type]
    source = {name: value.float() for name, value in model.base_model.state_dict().items()}
    weights = _embeddings(source, width, feature_map_size, embedding_size, token_counts)
    norm = "embeddings.LayerNorm"
    for i in range(len(layers_of(model))):
        weights |= _layer(source, f"encoder.layer.{i}.", norm, width, feature_map_size)
        norm = f"encoder.layer.{i}.output.LayerNorm"
    missing, unexpected = target.base_model.load_state_dict(weights, strict=False)
    if unexpected or [name for name in missing if not name.startswith("pooler.")]:
        raise AssertionError(f"missing {missing}, unexpected {unexpected}")
    target.config.name_or_path = config.name_or_path
    return target.train(model.training)


def ib_config(config: PreTrainedConfig, feature_map_size: int = 512, embedding_size: int = 256) -> IbBertConfig:
    """
    The architecture of the IB-BERT that [`make_ib_bert`] makes of a BERT.

    Raises:
        ValueError: as [`make_ib_bert`].
    """
    if config.model_type != "smbert":
        raise ValueError(
            f"Expected a BERT in the form of SmBERT, got {config.model_type!r}: see `compactbert.convert`."
        )
    width = config.hidden_size
    sizes = {(layer.num_attention_heads, layer.head_size, layer.intermediate_size) for layer in config.per_layer_config}
    if len(sizes) > 1:
        raise ValueError(f"Expected layers of one size (heads, head size, FFN width), got {sorted(sizes)}.")
    if not 1 <= embedding_size <= width <= feature_map_size:
        raise ValueError(
            f"Expected `embedding_size` <= the model's `hidden_size` <= `feature_map_size`, got {embedding_size}, "
            f"{width} and {feature_map_size}: a state must fit into the feature map."
        )
    ((heads, head_size, ffn),) = sizes
    return IbBertConfig(
        vocab_size=config.vocab_size,
        hidden_size=feature_map_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        attention_head_size=head_size,
        intermediate_size=ffn,
        intra_bottleneck_size=width,
        embedding_size=embedding_size,
        hidden_act=config.hidden_act,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        layer_norm_eps=config.layer_norm_eps,
        pad_token_id=config.pad_token_id,
    )


def _embeddings(
    source: Mapping[str, Tensor], width: int, map_size: int, embedding_size: int, token_counts: Tensor | None
) -> dict[str, Tensor]:
    table = source["embeddings.word_embeddings.weight"].double()
    counts = torch.ones(len(table), dtype=torch.float64) if token_counts is None else token_counts.double() + 1
    share = (counts / counts.sum()).to(table.device)
    mean = share @ table
    _, _, directions = torch.linalg.svd(share.sqrt()[:, None] * (table - mean), full_matrices=False)
    basis = directions[:embedding_size]  # (embedding, width)
    words = (table - mean) @ basis.T
    # What LayerNorm takes away, taken away before: the mean over the map, zeros included, is then the state's own.
    centred = torch.eye(width, dtype=torch.float64, device=table.device) - 1 / width
    transformation = torch.zeros(map_size, 3 * embedding_size, device=table.device)
    # The trigram is next, current, previous; BERT reads the current token alone.
    transformation[:width, embedding_size : 2 * embedding_size] = (basis @ centred).T.float()
    weights = {
        "embeddings.word_embeddings.weight": words.float(),
        "embeddings.embedding_transformation.weight": transformation,
        "embeddings.embedding_transformation.bias": _padded((mean @ centred).float(), map_size),
    }
    centred = centred.float()
    for name in ("position_embeddings", "token_type_embeddings"):
        weights[f"embeddings.{name}.weight"] = _padded(source[f"embeddings.{name}.weight"] @ centred, map_size)
    return weights | _map_norm(source, "embeddings.LayerNorm", "embeddings.LayerNorm", width, map_size)


def _layer(source: Mapping[str, Tensor], layer: str, norm: str, width: int, map_size: int) -> dict[str, Tensor]:
    """A layer between two bottlenecks; `norm` is the LayerNorm that ended what is before it."""
    weights = {name: value for name, value in source.items() if name.startswith(layer)}
    for name in ("query", "key", "value"):
        weights[f"{layer}attention.self.{name}.weight"] = _padded(
            source[f"{layer}attention.self.{name}.weight"], map_size
        )
    # In: the state as it was before the last norm's weight and bias, which the bottleneck's own then apply again.
    unscaled = _inverse(source[f"{norm}.weight"])
    weights |= {
        f"{layer}bottleneck.input.dense.weight": _padded(unscaled.diag(), map_size),
        f"{layer}bottleneck.input.dense.bias": -unscaled * source[f"{norm}.bias"],
        f"{layer}bottleneck.input.LayerNorm.weight": source[f"{norm}.weight"],
        f"{layer}bottleneck.input.LayerNorm.bias": source[f"{norm}.bias"],
    }
    # Out: the state that this layer leaves, written over the map, whose norm has this layer's weight and bias.
    own = f"{layer}output.LayerNorm"
    ones = torch.ones_like(source[f"{own}.weight"])
    weights |= {
        f"{own}.weight": ones,
        f"{own}.bias": 0 * ones,
        f"{layer}output.bottleneck.dense.weight": _padded(SCALE * ones.diag(), map_size).T.contiguous(),
        f"{layer}output.bottleneck.dense.bias": ones.new_zeros(map_size),
    }
    return weights | _map_norm(source, own, f"{layer}output.bottleneck.LayerNorm", width, map_size)


def _map_norm(source: Mapping[str, Tensor], norm: str, target: str, width: int, map_size: int) -> dict[str, Tensor]:
    # Over the zeros too, the variance is smaller by width / map_size.
    weight = source[f"{norm}.weight"] * (width / map_size) ** 0.5
    return {
        f"{target}.weight": _padded(weight, map_size),
        f"{target}.bias": _padded(source[f"{norm}.bias"], map_size),
    }


def _inverse(weight: Tensor) -> Tensor:
    # A feature without weight is constant: nothing can be read from it.
    return torch.where(weight.abs() < 1e-4, torch.zeros_like(weight), 1 / weight)


def _padded(values: Tensor, size: int) -> Tensor:
    """With zeros at the end of the last dimension."""
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]))


__all__ = ["ib_config", "make_ib_bert"]
