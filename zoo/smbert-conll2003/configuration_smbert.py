# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""SmBERT configuration."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


# Copied from configuration_mobilebert_md.TASKS
TASKS = (
    "PreTraining",
    "MaskedLM",
    "NextSentencePrediction",
    "SequenceClassification",
    "TokenClassification",
    "QuestionAnswering",
    "MultipleChoice",
)

# What a saved folder tells `AutoConfig` / `AutoModel*`: the file and class to load with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_smbert.SmBertConfig",
    "AutoModel": "modeling_smbert.SmBertModel",
    **{f"AutoModelFor{task}": f"modeling_smbert.SmBertFor{task}" for task in TASKS},
}

# The sizes that may differ from layer to layer (uneven pruning); everything else is shared by the whole network.
PER_LAYER_FIELDS = frozenset({"attention_head_size", "intermediate_size", "num_attention_heads"})
POSITIVE_FIELDS = ("num_hidden_layers", "vocab_size", "hidden_size", "max_position_embeddings", "type_vocab_size")


@strict
class SmBertConfig(PreTrainedConfig):
    r"""
    Configuration of SmBERT: a BERT (https://huggingface.co/papers/1810.04805) cut in depth, heads and feed-forward
    width. Unlike in transformers' BERT the width of a head does not follow from the number of heads, and heads and
    feed-forward width may differ per layer, through transformers' `per_layer_config`.

    `SmBertConfig()` is the paper's SmBERT: 3 layers of 8 heads of 64 with a feed-forward width of 2048.

    Args:
        vocab_size (`int`, *optional*, defaults to 30522):
            Number of tokens.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of embeddings and hidden states.
        num_hidden_layers (`int`, *optional*, defaults to 3):
            Number of layers.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads of a layer. May differ per layer.
        attention_head_size (`int`, *optional*, defaults to 64):
            Width of one head. `None` is `hidden_size` divided by the heads, which must then be whole. May differ per
            layer.
        intermediate_size (`int`, *optional*, defaults to 2048):
            Inner width of the feed-forward network. May differ per layer.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward network and of the masked language modelling head.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout on the embeddings and on the output of every attention and feed-forward block.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout on the attention probabilities.
        max_position_embeddings (`int`, *optional*, defaults to 512):
            Longest sequence in tokens.
        type_vocab_size (`int`, *optional*, defaults to 2):
            Number of token types (segments).
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12):
            Epsilon of LayerNorm.
        classifier_dropout (`float`, *optional*):
            Dropout before a classification head; `None` is `hidden_dropout_prob`.
        pad_token_id (`int`, *optional*, defaults to 0):
            Index of the padding token.
        tie_word_embeddings (`bool`, *optional*, defaults to `True`):
            The masked language modelling head reuses the token embeddings.

    Raises:
        huggingface_hub.errors.StrictDataclassError: where fields contradict each other, naming both.

    Example:

    ```python
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> config = SmBertConfig(vocab_size=1000, per_layer_config={2: {"num_attention_heads": 5}})
    >>> [layer.num_attention_heads for layer in config.per_layer_config]
    [8, 8, 5]
    >>> model = SmBertModel(config)

    ```
    """

    model_type = "smbert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    attention_head_size: int | None = 64
    intermediate_size: int = 2048
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | int | None = None
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        # A copy: `save_pretrained` writes the saved class into the map of the config it is given.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    # Copied from configuration_mobilebert_md.MobileBertMdConfig.from_dict
    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As in every transformers configuration; refuses the configuration of another family, whose fields would be
        misread."""
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This is the configuration of a {model_type!r} model, {cls.__name__} expects {cls.model_type!r}. Load "
                f"it with the `Auto*` classes; `compactbert.convert.from_transformers` turns BERT and MobileBERT into "
                f"our classes."
            )
        return super().from_dict(config_dict, **kwargs)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    def validate_architecture(self):
        """Checks that the fields fit together, in every layer. Run by the constructor, by `save_pretrained` and when a
        model is built."""
        if self.is_heterogeneous:
            self._validate_per_layer_config()
            return
        super().validate_architecture()
        self._validate_ranges()
        if self.attention_head_size is None and self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads}) while `attention_head_size` is None; change one of them, or set "
                f"`attention_head_size`."
            )

    # Copied from configuration_mobilebert_md.MobileBertMdConfig._validate_ranges
    def _validate_ranges(self):
        for name in (*POSITIVE_FIELDS, *PER_LAYER_FIELDS):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` must be one of {sorted(ACT2FN)}, got {self.hidden_act!r}.")

    # Copied from configuration_mobilebert_md.MobileBertMdConfig._validate_per_layer_config
    def _validate_per_layer_config(self):
        overrides = self.to_dict()["per_layer_config"]
        for layer_idx, fields in overrides.items():
            if int(layer_idx) >= self.num_hidden_layers:
                raise ValueError(
                    f"`per_layer_config` describes layer {int(layer_idx)}, but `num_hidden_layers` is "
                    f"{self.num_hidden_layers}: drop the entries of the layers that are gone."
                )
            if unknown := sorted(fields.keys() - PER_LAYER_FIELDS):
                raise ValueError(
                    f"`per_layer_config` of layer {int(layer_idx)} sets {unknown}, which cannot differ per layer; "
                    f"expected a subset of {sorted(PER_LAYER_FIELDS)}."
                )
        for layer_idx, layer_config in enumerate(self.per_layer_config):
            try:
                layer_config.validate_architecture()
            except ValueError as error:
                raise ValueError(f"Layer {layer_idx}: {error}") from error

    # Copied from configuration_mobilebert_md.MobileBertMdConfig.__eq__
    def __eq__(self, other):
        # The generated comparison reads every field, which raises for those that differ per layer.
        return type(self) is type(other) and self.to_diff_dict() == other.to_diff_dict()


__all__ = ["SmBertConfig"]
