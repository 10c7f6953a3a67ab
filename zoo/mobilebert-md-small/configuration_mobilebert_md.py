# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""MobileBERT-multi-dimension configuration."""

from collections.abc import Sequence
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


# The article's final model, from input to output: (number of layers, intra-bottleneck width).
ARTICLE_STAGES = ((8, 256), (8, 128), (8, 64))

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
    "AutoConfig": "configuration_mobilebert_md.MobileBertMdConfig",
    "AutoModel": "modeling_mobilebert_md.MobileBertMdModel",
    **{f"AutoModelFor{task}": f"modeling_mobilebert_md.MobileBertMdFor{task}" for task in TASKS},
}

# The sizes that may differ from layer to layer; everything else is shared by the whole network.
PER_LAYER_FIELDS = frozenset(
    {
        "attention_head_size",
        "intermediate_size",
        "intra_bottleneck_size",
        "num_attention_heads",
        "num_feedforward_networks",
        "value_input_size",
    }
)
POSITIVE_FIELDS = (
    "num_hidden_layers",
    "vocab_size",
    "hidden_size",
    "embedding_size",
    "max_position_embeddings",
    "type_vocab_size",
)


@strict
class MobileBertMdConfig(PreTrainedConfig):
    r"""
    Configuration of MobileBERT-multi-dimension: MobileBERT (https://huggingface.co/papers/2004.02984) whose thin layers
    come in stages of different width over one feature map of width `hidden_size`.

    `MobileBertMdConfig()` is the 24-layer model with stages of 8 layers, 256, 128 and 64 wide. Giving any of
    `num_hidden_layers`, `intra_bottleneck_size` and `per_layer_config` replaces these stages, and the two fields not
    given are MobileBERT's own: 24 layers, uniformly 128 wide. Widths, heads and FFNs of single layers are set by
    transformers' `per_layer_config`; [`MobileBertMdConfig.from_stages`] writes it for you.

    Args:
        vocab_size (`int`, *optional*, defaults to 30522):
            Number of tokens.
        hidden_size (`int`, *optional*, defaults to 512):
            Width of the feature map that every layer reads and writes.
        num_hidden_layers (`int`, *optional*):
            Number of layers; see above for the default.
        num_attention_heads (`int`, *optional*, defaults to 4):
            Attention heads of a layer. May differ per layer.
        attention_head_size (`int`, *optional*):
            Width of one head. `None` is the layer's width divided by its heads, which must then be whole. May differ
            per layer.
        intermediate_size (`int`, *optional*, defaults to 512):
            Inner width of the feed-forward networks. May differ per layer.
        num_feedforward_networks (`int`, *optional*, defaults to 4):
            Feed-forward networks stacked in a layer. May differ per layer.
        intra_bottleneck_size (`int`, *optional*):
            Width inside a layer; see above for the default. May differ per layer.
        value_input_size (`int`, *optional*):
            The value projection reads the first `value_input_size` features of the feature map; `None` reads all.
            May differ per layer.
        embedding_size (`int`, *optional*, defaults to 256):
            Width of the token embeddings, before the trigram convolution widens them to `hidden_size`.
        trigram_input (`bool`, *optional*, defaults to `True`):
            Concatenate the embeddings of the next, the current and the previous token.
        padding_invariant_trigram (`bool`, *optional*, defaults to `False`):
            Tokens where `attention_mask` is 0 count as absent in the trigram, so that the amount of padding does not
            change the output. MobileBERT sees the `[PAD]` embedding there, which is the default for parity.
        use_bottleneck (`bool`, *optional*, defaults to `True`):
            Project the feature map to `intra_bottleneck_size` inside a layer.
        use_bottleneck_attention (`bool`, *optional*, defaults to `False`):
            Query, key and value all read the layer's bottleneck.
        key_query_shared_bottleneck (`bool`, *optional*, defaults to `True`):
            Query and key read a bottleneck of their own, value the feature map. With this and
            `use_bottleneck_attention` both `False`, all three read the feature map (as in IB-BERT).
        normalization_type (`"no_norm"` or `"layer_norm"`, *optional*, defaults to `"no_norm"`):
            NoNorm, an elementwise affine map, or LayerNorm.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation of the feed-forward networks and of the masked language modelling head.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout on the embeddings and on a layer's output.
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
        classifier_activation (`bool`, *optional*, defaults to `True`):
            The pooler has a dense layer and tanh; without, it is the first token's hidden state.
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
    >>> from modeling_mobilebert_md import MobileBertMdConfig, MobileBertMdModel

    >>> config = MobileBertMdConfig.from_stages([(2, 64), (2, 32)], vocab_size=1000, embedding_size=64)
    >>> [layer.intra_bottleneck_size for layer in config.per_layer_config]
    [64, 64, 32, 32]
    >>> model = MobileBertMdModel(config)

    ```
    """

    model_type = "mobilebert_md"

    vocab_size: int = 30522
    hidden_size: int = 512
    num_hidden_layers: int | None = None
    num_attention_heads: int = 4
    attention_head_size: int | None = None
    intermediate_size: int = 512
    num_feedforward_networks: int = 4
    intra_bottleneck_size: int | None = None
    value_input_size: int | None = None
    embedding_size: int = 256
    trigram_input: bool = True
    padding_invariant_trigram: bool = False
    use_bottleneck: bool = True
    use_bottleneck_attention: bool = False
    key_query_shared_bottleneck: bool = True
    normalization_type: Literal["layer_norm", "no_norm"] = "no_norm"
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_activation: bool = True
    classifier_dropout: float | int | None = None
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        given = (self.num_hidden_layers, self.intra_bottleneck_size, kwargs.get("per_layer_config"))
        if all(value is None for value in given):
            stages = _stage_fields(ARTICLE_STAGES)
            self.num_hidden_layers = stages["num_hidden_layers"]
            self.intra_bottleneck_size = stages["intra_bottleneck_size"]
            kwargs["per_layer_config"] = stages["per_layer_config"]
        else:
            self.num_hidden_layers = 24 if self.num_hidden_layers is None else self.num_hidden_layers
            self.intra_bottleneck_size = 128 if self.intra_bottleneck_size is None else self.intra_bottleneck_size
        # A copy: `save_pretrained` writes the saved class into the map of the config it is given.
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

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

    @classmethod
    def from_stages(cls, stages: Sequence[tuple[int, int]] = ARTICLE_STAGES, **kwargs: Any) -> "MobileBertMdConfig":
        """
        Configuration of a network made of stages of uniform width.

        Args:
            stages (list of `(num_layers, intra_bottleneck_size)`, *optional*):
                The stages from input to output; the default is `[(8, 256), (8, 128), (8, 64)]`.
            kwargs:
                Any other field of the configuration.

        Raises:
            ValueError: if `stages` is empty, holds anything but pairs of positive integers, or `kwargs` sets what the
                stages already say.
        """
        stages = [tuple(stage) for stage in stages]
        if not stages or not all(
            len(stage) == 2 and all(isinstance(size, int) and size > 0 for size in stage) for stage in stages
        ):
            raise ValueError(
                f"`stages` must be a non-empty list of pairs of positive integers (num_layers, intra_bottleneck_size), "
                f"got {stages}."
            )
        fields = _stage_fields(stages)
        if repeated := sorted(fields.keys() & kwargs.keys()):
            raise ValueError(f"`stages` already sets {repeated}: leave them out, or use the constructor instead.")
        return cls(**fields, **kwargs)

    @property
    def true_hidden_size(self) -> int:
        """Width inside a layer: `intra_bottleneck_size`, or `hidden_size` without a bottleneck."""
        return self.intra_bottleneck_size if self.use_bottleneck else self.hidden_size

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.attention_head_size or self.true_hidden_size // self.num_attention_heads

    def validate_architecture(self):
        """Checks that the fields fit together, in every layer. Run by the constructor, by `save_pretrained` and when a
        model is built."""
        if self.is_heterogeneous:
            self._validate_per_layer_config()
            return
        super().validate_architecture()
        self._validate_ranges()
        if self.attention_head_size is None and self.true_hidden_size % self.num_attention_heads != 0:
            width = "intra_bottleneck_size" if self.use_bottleneck else "hidden_size"
            raise ValueError(
                f"`{width}` ({self.true_hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads}) while `attention_head_size` is None; change one of them, or set "
                f"`attention_head_size`."
            )
        if self.value_input_size is not None:
            if self.value_input_size > self.hidden_size:
                raise ValueError(
                    f"`value_input_size` ({self.value_input_size}) must not exceed `hidden_size` ({self.hidden_size}): "
                    f"it counts features of that map."
                )
            if self.use_bottleneck and self.use_bottleneck_attention:
                raise ValueError(
                    f"`value_input_size` ({self.value_input_size}) needs `use_bottleneck_attention=False`: with it the "
                    f"value reads the bottleneck, not the feature map."
                )

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

    def __eq__(self, other):
        # The generated comparison reads every field, which raises for those that differ per layer.
        return type(self) is type(other) and self.to_diff_dict() == other.to_diff_dict()


def _stage_fields(stages: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The configuration fields that spell `stages`; the first stage's width is the global one."""
    widths = [width for num_layers, width in stages for _ in range(num_layers)]
    per_layer_config = {i: {"intra_bottleneck_size": width} for i, width in enumerate(widths) if width != widths[0]}
    return {
        "num_hidden_layers": len(widths),
        "intra_bottleneck_size": widths[0],
        "per_layer_config": per_layer_config or None,
    }


__all__ = ["MobileBertMdConfig"]
