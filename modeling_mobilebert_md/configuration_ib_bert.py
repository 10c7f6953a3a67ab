# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""IB-BERT configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_mobilebert_md import TASKS, MobileBertMdConfig


AUTO_MAP = {
    "AutoConfig": "configuration_ib_bert.IbBertConfig",
    "AutoModel": "modeling_ib_bert.IbBertModel",
    **{f"AutoModelFor{task}": f"modeling_ib_bert.IbBertFor{task}" for task in TASKS},
}


@strict
class IbBertConfig(MobileBertMdConfig):
    r"""
    Configuration of IB-BERT, BERT with inverted bottlenecks: MobileBERT's teacher
    (https://huggingface.co/papers/2004.02984, section 3.1). `IbBertConfig()` is IB-BERT_LARGE.

    The fields are those of [`MobileBertMdConfig`]; these are the defaults that differ. Query, key and value read the
    feature map, which transformers' MobileBERT cannot express.

    Args:
        num_hidden_layers (`int`, *optional*, defaults to 24):
            Number of layers.
        intra_bottleneck_size (`int`, *optional*, defaults to 1024):
            Width inside a layer, wider than the feature map: the bottleneck is inverted.
        intermediate_size (`int`, *optional*, defaults to 4096):
            Inner width of the feed-forward network.
        num_feedforward_networks (`int`, *optional*, defaults to 1):
            Feed-forward networks in a layer.
        embedding_size (`int`, *optional*, defaults to 128):
            Width of the token embeddings.
        key_query_shared_bottleneck (`bool`, *optional*, defaults to `False`):
            Query, key and value all read the feature map.
        normalization_type (`str`, *optional*, defaults to `"layer_norm"`):
            LayerNorm, as in BERT.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            As in BERT.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            As in BERT.
    """

    model_type = "ib_bert"

    num_hidden_layers: int | None = 24
    intermediate_size: int = 4096
    num_feedforward_networks: int = 1
    intra_bottleneck_size: int | None = 1024
    embedding_size: int = 128
    key_query_shared_bottleneck: bool = False
    normalization_type: Literal["layer_norm", "no_norm"] = "layer_norm"
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1

    def __post_init__(self, **kwargs):
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    # Not inherited: every configuration class is given a generated comparison.
    __eq__ = MobileBertMdConfig.__eq__


__all__ = ["IbBertConfig"]
