# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""MobileBERT-multi-dimension (https://huggingface.co/papers/2004.02984, with stages of different width).

Half precision. NoNorm does not normalise, so a trained MobileBERT carries values up to 2.5e7 in its residual stream,
far beyond float16's 65,504. In models with `normalization_type="no_norm"` every NoNorm therefore keeps its parameters
and its output in float32, and with them both residual streams (the feature map and the one inside a layer), whatever
the type of the other weights. What follows:

* bfloat16 (weights or autocast): matrix products and attention run in bfloat16, whose range equals float32's.
* float16 weights: matrix products run in float16 on inputs scaled by a power of two per token ([`FullRangeLinear`]),
  attention in float32.
* float16 autocast: the model runs in float32. A large gain multiplies every gradient below it, and no scaling of the
  loss brings gradients that span more than float16's range into it. So float16 autocast is safe here but not faster;
  bfloat16 is.

Out of reach: flash attention kernels take half precision only. With them float16 weights overflow where |query|, |key|
or |value| exceed 65,504, and float16 autocast stays on, with its range. A tanh pooler turns values this large into
signs, and rounding flips the sign of the few that lie near zero. With float16 weights, hidden states and logits are
float32, but for the scores of tokens. Models with `normalization_type="layer_norm"` behave like BERT.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_mobilebert_md import MobileBertMdConfig


def without_float16_autocast(forward: Callable) -> Callable:
    """Runs the `forward` of a NoNorm model with float16 autocast off: see the module's docstring."""

    @wraps(forward)
    def wrapped(self, *args, **kwargs):
        # Not `self.device`: replicas of `nn.DataParallel` have no parameters. The meta device knows no autocast.
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        device_type = next((tensor.device.type for tensor in tensors), "meta")
        if (
            device_type != "meta"
            and torch.is_autocast_enabled(device_type)
            and torch.get_autocast_dtype(device_type) == torch.float16
            and self.config.normalization_type == "no_norm"
            and "flash" not in self.config._attn_implementation
        ):
            with torch.autocast(device_type, enabled=False):
                return forward(self, *args, **kwargs)
        return forward(self, *args, **kwargs)

    return wrapped


class NoNorm(nn.Module):
    """Elementwise affine map in place of LayerNorm (paper, section 3.3). Its parameters and its output stay at least
    float32: see the module's docstring."""

    def __init__(self, hidden_size: int, eps: float | None = None):
        super().__init__()
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=dtype))

    def _apply(self, fn: Callable, recurse: bool = True):
        def keep_range(tensor: torch.Tensor) -> torch.Tensor:
            applied = fn(tensor)
            is_half = applied.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(applied.device, torch.float32) if is_half else applied

        return super()._apply(keep_range, recurse)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias, hidden_states, self.weight)


class FullRangeLinear(nn.Linear):
    """Linear layer over a float32 stream, whose own weights may be half precision: see the module's docstring."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if hidden_states.dtype == torch.float32 and weight.dtype != torch.float32:
            if weight.dtype == torch.float16:
                return self._forward_scaled(hidden_states)
            hidden_states = hidden_states.to(weight.dtype)
        return nn.functional.linear(hidden_states, weight, self.bias)

    def _forward_scaled(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # The smallest power of two that brings a token's features into [-1, 1], but not below 1.
        largest = hidden_states.detach().abs().amax(dim=-1, keepdim=True)
        scale = largest.clamp(min=1.0).log2().ceil().exp2()
        product = nn.functional.linear((hidden_states / scale).to(self.weight.dtype), self.weight)
        return product.float() * scale + (0.0 if self.bias is None else self.bias.float())


class FullRangeLayerNorm(nn.LayerNorm):
    """LayerNorm over a float32 stream, whose own weights may be half precision."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.to(hidden_states.dtype), self.bias.to(hidden_states.dtype)
        return nn.functional.layer_norm(hidden_states, self.normalized_shape, weight, bias, self.eps)


NORM2FN = {"layer_norm": nn.LayerNorm, "no_norm": NoNorm}
NORM2LINEAR = {"layer_norm": nn.Linear, "no_norm": FullRangeLinear}


class MobileBertMdEmbeddings(nn.Module):
    """Token embeddings, widened to the feature map by a convolution over three tokens (paper, section 3.1), plus
    position and token type embeddings."""

    def __init__(self, config: MobileBertMdConfig):
        super().__init__()
        self.trigram_input = config.trigram_input
        self.padding_invariant_trigram = config.padding_invariant_trigram

        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

        linear = NORM2LINEAR[config.normalization_type]
        width = config.embedding_size * (3 if config.trigram_input else 1)
        self.embedding_transformation = linear(width, config.hidden_size)
        self.transforms = config.trigram_input or config.embedding_size != config.hidden_size

        # transformers' MobileBERT leaves `layer_norm_eps` out here, which parity asks for.
        self.LayerNorm = NORM2FN[config.normalization_type](config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.position_ids = nn.Buffer(torch.arange(config.max_position_embeddings).unsqueeze(0), persistent=False)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        batch_size, seq_length = inputs_embeds.shape[:2]
        if position_ids is None:
            if seq_length > self.position_ids.shape[1]:
                raise ValueError(
                    f"The input is {seq_length} tokens long, but `max_position_embeddings` is "
                    f"{self.position_ids.shape[1]}: truncate it, for example with `tokenizer(..., truncation=True)`."
                )
            position_ids = self.position_ids[:, :seq_length]
        if token_type_ids is None:
            token_type_ids = position_ids.new_zeros(batch_size, seq_length)

        if self.trigram_input:
            inputs_embeds = self._trigram(inputs_embeds, attention_mask)
        if self.transforms:
            inputs_embeds = self.embedding_transformation(inputs_embeds)
        embeddings = inputs_embeds + self.position_embeddings(position_ids) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(embeddings))

    def _trigram(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if self.padding_invariant_trigram and attention_mask is not None:
            if attention_mask.dim() != 2:
                raise ValueError(
                    f"`padding_invariant_trigram` needs an `attention_mask` of shape (batch, sequence) to know which "
                    f"tokens are padding, got shape {tuple(attention_mask.shape)}."
                )
            tokens = attention_mask[:, -inputs_embeds.shape[1] :]  # the mask may cover a prefix too
            inputs_embeds = inputs_embeds * tokens.bool().unsqueeze(-1).to(inputs_embeds.dtype)
        padded = nn.functional.pad(inputs_embeds, (0, 0, 1, 1))
        # next, current, previous: the order of the released weights
        return torch.cat([padded[:, 2:], inputs_embeds, padded[:, :-2]], dim=2)  # (batch, seq, 3 * embedding)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in plain PyTorch; query, key, value of shape (batch, heads, seq, head_size), additive mask. Returns
    the output (batch, seq, heads, head_size) and the probabilities (batch, heads, seq, seq)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    # A float32 stream makes a float32 mask and so float32 scores, also where query, key and value are bfloat16.
    probs = nn.functional.softmax(scores, dim=-1).to(value.dtype)
    probs = nn.functional.dropout(probs, p=dropout, training=module.training)
    return torch.matmul(probs, value).transpose(1, 2).contiguous(), probs


class MobileBertMdSelfAttention(nn.Module):
    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        layer_config = config.per_layer_config[layer_idx]
        # Not `layer_config`, a copy that `set_attn_implementation` would not reach.
        self.config = config
        self.layer_idx = layer_idx
        self.head_size = layer_config.head_size
        self.scaling = self.head_size**-0.5
        self.is_causal = False
        self.value_input_size = layer_config.value_input_size

        width, map_width = layer_config.true_hidden_size, config.hidden_size
        query_from_bottleneck = config.use_bottleneck_attention or config.key_query_shared_bottleneck
        query_width = width if query_from_bottleneck else map_width
        value_width = width if config.use_bottleneck_attention else (self.value_input_size or map_width)
        all_head_size = layer_config.num_attention_heads * self.head_size
        linear = NORM2LINEAR[config.normalization_type]
        self.query = linear(query_width, all_head_size)
        self.key = linear(query_width, all_head_size)
        self.value = linear(value_width, all_head_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self,
        query_tensor: torch.Tensor,
        key_tensor: torch.Tensor,
        value_tensor: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = query_tensor.shape[:-1]
        head_shape = (*input_shape, -1, self.head_size)
        if self.value_input_size is not None:
            value_tensor = value_tensor[..., : self.value_input_size]

        query = self.query(query_tensor).view(head_shape).transpose(1, 2)  # (batch, heads, seq, head_size)
        key = self.key(key_tensor).view(head_shape).transpose(1, 2)
        value = self.value(value_tensor).view(head_shape).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.dropout.p if self.training else 0.0
        attn_output, attn_weights = attention_interface(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return attn_output.reshape(*input_shape, -1).contiguous(), attn_weights


class MobileBertMdResidualOutput(nn.Module):
    """The linear layer that ends a block, with its residual connection."""

    def __init__(self, config: MobileBertMdConfig, input_size: int, output_size: int, dropout: float = 0.0):
        super().__init__()
        self.dense = NORM2LINEAR[config.normalization_type](input_size, output_size)
        self.LayerNorm = NORM2FN[config.normalization_type](output_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dense(hidden_states)
        if self.dropout is not None:
            hidden_states = self.dropout(hidden_states)
        return self.LayerNorm(hidden_states + residual)


class MobileBertMdAttention(nn.Module):
    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        layer_config = config.per_layer_config[layer_idx]
        all_head_size = layer_config.num_attention_heads * layer_config.head_size
        # MobileBERT has no dropout inside a bottleneck.
        dropout = 0.0 if config.use_bottleneck else config.hidden_dropout_prob
        self.self = MobileBertMdSelfAttention(config, layer_idx)
        self.output = MobileBertMdResidualOutput(config, all_head_size, layer_config.true_hidden_size, dropout)

    def forward(
        self,
        query_tensor: torch.Tensor,
        key_tensor: torch.Tensor,
        value_tensor: torch.Tensor,
        layer_input: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.self(query_tensor, key_tensor, value_tensor, attention_mask, **kwargs)
        return self.output(attn_output, layer_input)


class MobileBertMdIntermediate(nn.Module):
    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        sizes = config.per_layer_config[layer_idx]
        self.dense = NORM2LINEAR[config.normalization_type](sizes.true_hidden_size, sizes.intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.intermediate_act_fn(self.dense(hidden_states))


class MobileBertMdOutput(nn.Module):
    """Second half of the last feed-forward network of a layer, and the way back to the feature map."""

    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        layer_config = config.per_layer_config[layer_idx]
        width = layer_config.true_hidden_size
        self.dense = NORM2LINEAR[config.normalization_type](layer_config.intermediate_size, width)
        # transformers' MobileBERT leaves `layer_norm_eps` out here, which parity asks for.
        self.LayerNorm = NORM2FN[config.normalization_type](width)
        self.dropout = None if config.use_bottleneck else nn.Dropout(config.hidden_dropout_prob)
        self.bottleneck = None
        if config.use_bottleneck:
            self.bottleneck = MobileBertMdResidualOutput(config, width, config.hidden_size, config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor, map_residual: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dense(hidden_states)
        if self.bottleneck is None:
            return self.LayerNorm(self.dropout(hidden_states) + residual)
        return self.bottleneck(self.LayerNorm(hidden_states + residual), map_residual)


class MobileBertMdBottleneckLayer(nn.Module):
    """From the feature map to a layer's width."""

    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        width = config.per_layer_config[layer_idx].intra_bottleneck_size
        self.dense = NORM2LINEAR[config.normalization_type](config.hidden_size, width)
        self.LayerNorm = NORM2FN[config.normalization_type](width, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(hidden_states))


class MobileBertMdBottleneck(nn.Module):
    """Makes the inputs of query, key, value and of the layer's own residual stream from the feature map."""

    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        self.use_bottleneck_attention = config.use_bottleneck_attention
        self.input = MobileBertMdBottleneckLayer(config, layer_idx)
        shares = config.key_query_shared_bottleneck and not config.use_bottleneck_attention
        self.attention = MobileBertMdBottleneckLayer(config, layer_idx) if shares else None

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        layer_input = self.input(hidden_states)
        if self.use_bottleneck_attention:
            return layer_input, layer_input, layer_input, layer_input
        if self.attention is not None:
            shared = self.attention(hidden_states)
            return shared, shared, hidden_states, layer_input
        return hidden_states, hidden_states, hidden_states, layer_input


class MobileBertMdFFN(nn.Module):
    """One of the feed-forward networks stacked before a layer's last one (paper, section 3.2)."""

    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        layer_config = config.per_layer_config[layer_idx]
        self.intermediate = MobileBertMdIntermediate(config, layer_idx)
        self.output = MobileBertMdResidualOutput(config, layer_config.intermediate_size, layer_config.true_hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.output(self.intermediate(hidden_states), hidden_states)


class MobileBertMdLayer(GradientCheckpointingLayer):
    def __init__(self, config: MobileBertMdConfig, layer_idx: int):
        super().__init__()
        num_ffns = config.per_layer_config[layer_idx].num_feedforward_networks
        self.attention = MobileBertMdAttention(config, layer_idx)
        self.intermediate = MobileBertMdIntermediate(config, layer_idx)
        self.output = MobileBertMdOutput(config, layer_idx)
        self.bottleneck = MobileBertMdBottleneck(config, layer_idx) if config.use_bottleneck else None
        self.ffn = nn.ModuleList(MobileBertMdFFN(config, layer_idx) for _ in range(num_ffns - 1))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        inputs = (hidden_states,) * 4 if self.bottleneck is None else self.bottleneck(hidden_states)
        layer_states = self.attention(*inputs, attention_mask, **kwargs)
        for ffn in self.ffn:
            layer_states = ffn(layer_states)
        return self.output(self.intermediate(layer_states), layer_states, hidden_states)


class MobileBertMdEncoder(nn.Module):
    def __init__(self, config: MobileBertMdConfig):
        super().__init__()
        self.layer = nn.ModuleList(MobileBertMdLayer(config, i) for i in range(config.num_hidden_layers))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        for layer in self.layer:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return hidden_states


class MobileBertMdPooler(nn.Module):
    """The first token's hidden state, through a dense layer and tanh if `classifier_activation` is set."""

    def __init__(self, config: MobileBertMdConfig):
        super().__init__()
        linear = NORM2LINEAR[config.normalization_type]
        self.dense = linear(config.hidden_size, config.hidden_size) if config.classifier_activation else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        first_token = hidden_states[:, 0]
        return first_token if self.dense is None else torch.tanh(self.dense(first_token))


class MobileBertMdPredictionHeadTransform(nn.Module):
    def __init__(self, config: MobileBertMdConfig):
        super().__init__()
        self.dense = NORM2LINEAR[config.normalization_type](config.hidden_size, config.hidden_size)
        self.transform_act_fn = ACT2FN[config.hidden_act]
        # LayerNorm also in NoNorm models.
        self.LayerNorm = FullRangeLayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))


class MobileBertMdLMPredictionHead(nn.Module):
    """Scores of every token. The first `embedding_size` features meet the token embeddings, the rest a table of the
    head's own."""

    def __init__(self, config: MobileBertMdConfig):
        super().__init__()
        if config.embedding_size > config.hidden_size:
            sizes = f"`embedding_size` ({config.embedding_size}) not above `hidden_size` ({config.hidden_size})"
            raise ValueError(f"The language modelling head needs {sizes}.")
        self.transform = MobileBertMdPredictionHeadTransform(config)
        self.dense = nn.Linear(config.vocab_size, config.hidden_size - config.embedding_size, bias=False)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size, bias=True)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.transform(hidden_states)
        table = torch.cat([self.decoder.weight, self.dense.weight.t()], dim=1)  # (vocab, hidden)
        return nn.functional.linear(hidden_states.to(table.dtype), table, self.decoder.bias)


class MobileBertMdPreTrainedModel(PreTrainedModel):
    """Base class of all MobileBERT-multi-dimension models."""

    config: MobileBertMdConfig
    base_model_prefix = "mobilebert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MobileBertMdEmbeddings", "MobileBertMdLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": MobileBertMdLayer, "attentions": MobileBertMdSelfAttention}

    def __init__(self, config: MobileBertMdConfig, *args, **kwargs):
        # Fields may have been assigned since the configuration checked itself.
        config.validate_architecture()
        super().__init__(config, *args, **kwargs)
        if config.normalization_type == "no_norm":
            self._keep_in_fp32_modules_strict = ["LayerNorm"]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls):
            cls.forward = without_float16_autocast(cls.forward)

    @property
    def _supports_flash_attn(self) -> bool:
        # The kernels take head sizes that are multiples of 8, up to 256.
        return all(layer.head_size % 8 == 0 and layer.head_size <= 256 for layer in self.config.per_layer_config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, NoNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MobileBertMdLMPredictionHead):
            init.zeros_(module.bias)
        elif isinstance(module, MobileBertMdEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[1]).unsqueeze(0))

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in every transformers model; also resizes the language modelling head's own table."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if self.get_output_embeddings() is not None:
            predictions = self.cls.predictions
            predictions.dense = self._get_resized_lm_head(
                predictions.dense, embeddings.num_embeddings, transposed=True, mean_resizing=mean_resizing
            )
        return embeddings


class MobileBertMdModel(MobileBertMdPreTrainedModel):
    """
    MobileBERT-multi-dimension without a head.

    Args:
        config ([`MobileBertMdConfig`]):
            The configuration.
        add_pooling_layer (`bool`, *optional*, defaults to `True`):
            Whether to return a `pooler_output`.
    """

    def __init__(self, config: MobileBertMdConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = MobileBertMdEmbeddings(config)
        self.encoder = MobileBertMdEncoder(config)
        self.pooler = MobileBertMdPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding):
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, seq)`, *optional*): Token indices.
            attention_mask (`torch.Tensor` of shape `(batch, seq)`, *optional*): 1 for tokens, 0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(batch, seq)`, *optional*): Segment indices.
            position_ids (`torch.LongTensor` of shape `(batch, seq)`, *optional*): Position indices.
            inputs_embeds (`torch.Tensor` of shape `(batch, seq, embedding_size)`, *optional*): In place of `input_ids`.
            past_key_values ([`~transformers.Cache`], *optional*):
                Keys and values before those of the tokens, as prefix tuning has them; they have no positions.

        Raises:
            ValueError: unless exactly one of `input_ids` and `inputs_embeds` is given, or if the input is longer than
                `max_position_embeddings`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Exactly one of `input_ids` and `inputs_embeds` must be given.")
        embedding_output = self.embeddings(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        attention_mask = create_bidirectional_mask(
            self.config, embedding_output, attention_mask, past_key_values=past_key_values
        )
        sequence_output = self.encoder(embedding_output, attention_mask, past_key_values=past_key_values, **kwargs)
        pooled_output = self.pooler(sequence_output) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=sequence_output, pooler_output=pooled_output)


@dataclass
class MobileBertMdForPreTrainingOutput(ModelOutput):
    """
    Output of [`MobileBertMdForPreTraining`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Sum of the losses whose labels were given.
        prediction_logits (`torch.Tensor` of shape `(batch, seq, vocab)`): Scores of every token.
        seq_relationship_logits (`torch.Tensor` of shape `(batch, 2)`): Scores of "continues" and "does not".
        hidden_states (tuple of `torch.Tensor` of shape `(batch, seq, hidden)`, *optional*): On request.
        attentions (tuple of `torch.Tensor` of shape `(batch, heads, seq, seq)`, *optional*): On request.
    """

    loss: torch.Tensor | None = None
    prediction_logits: torch.Tensor | None = None
    seq_relationship_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MobileBertMdWithHead(MobileBertMdPreTrainedModel):
    """What all models with a head share: the base model under `mobilebert`, and how it is called."""

    model_class = MobileBertMdModel

    def __init__(self, config: MobileBertMdConfig, add_pooling_layer: bool):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.mobilebert = self.model_class(config, add_pooling_layer=add_pooling_layer)

    def _output_layer(self, num_outputs: int) -> nn.Linear:
        return NORM2LINEAR[self.config.normalization_type](self.config.hidden_size, num_outputs)

    def _classifier_dropout(self) -> nn.Dropout:
        config = self.config
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        return nn.Dropout(rate)


class MobileBertMdWithLMHead(MobileBertMdWithHead):
    """Adds the language modelling head's decoder, tied to the token embeddings."""

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "mobilebert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias


class MobileBertMdForPreTraining(MobileBertMdWithLMHead):
    """Masked language modelling and next sentence prediction, as in pre-training."""

    accepts_loss_kwargs = False

    def __init__(self, config: MobileBertMdConfig):
        super().__init__(config, add_pooling_layer=True)
        predictions = MobileBertMdLMPredictionHead(config)
        self.cls = nn.ModuleDict({"predictions": predictions, "seq_relationship": self._output_layer(2)})
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        next_sentence_label: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | MobileBertMdForPreTrainingOutput:
        """`labels` of shape `(batch, seq)`, -100 where nothing is to be predicted; `next_sentence_label` of shape
        `(batch,)`, 0 where the second segment continues the first and 1 where it does not."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        prediction_logits = self.cls.predictions(outputs.last_hidden_state)
        seq_relationship_logits = self.cls.seq_relationship(outputs.pooler_output)
        losses = []
        if labels is not None:
            losses.append(nn.functional.cross_entropy(prediction_logits.flatten(0, 1).float(), labels.flatten()))
        if next_sentence_label is not None:
            target = next_sentence_label.flatten()
            losses.append(nn.functional.cross_entropy(seq_relationship_logits.float(), target))
        return MobileBertMdForPreTrainingOutput(
            loss=sum(losses) if losses else None,
            prediction_logits=prediction_logits,
            seq_relationship_logits=seq_relationship_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MobileBertMdForMaskedLM(MobileBertMdWithLMHead):
    """Masked language modelling."""

    def __init__(self, config: MobileBertMdConfig):
        super().__init__(config, add_pooling_layer=False)
        self.cls = nn.ModuleDict({"predictions": MobileBertMdLMPredictionHead(config)})
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | MaskedLMOutput:
        """`labels` of shape `(batch, seq)`, -100 where nothing is to be predicted."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.cls.predictions(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MobileBertMdForNextSentencePrediction(MobileBertMdWithHead):
    """Whether the second segment continues the first."""

    accepts_loss_kwargs = False

    def __init__(self, config: MobileBertMdConfig):
        super().__init__(config, add_pooling_layer=True)
        self.cls = nn.ModuleDict({"seq_relationship": self._output_layer(2)})
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | NextSentencePredictorOutput:
        """`labels` of shape `(batch,)`, 0 where the second segment continues the first and 1 where it does not."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.cls.seq_relationship(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels.flatten())
        return NextSentencePredictorOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MobileBertMdForSequenceClassification(MobileBertMdWithHead):
    """Classification (single or multi-label) or regression of whole sequences."""

    def __init__(self, config: MobileBertMdConfig):
        super().__init__(config, add_pooling_layer=True)
        self.dropout = self._classifier_dropout()
        self.classifier = self._output_layer(config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SequenceClassifierOutput:
        """`labels` of shape `(batch,)`, or `(batch, num_labels)` for multi-label classification."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MobileBertMdForTokenClassification(MobileBertMdWithHead):
    """Classification of every token, for example named entity recognition."""

    def __init__(self, config: MobileBertMdConfig):
        super().__init__(config, add_pooling_layer=False)
        self.dropout = self._classifier_dropout()
        self.classifier = self._output_layer(config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | TokenClassifierOutput:
        """`labels` of shape `(batch, seq)`, -100 where a token has no label."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MobileBertMdForQuestionAnswering(MobileBertMdWithHead):
    """Start and end of an answer in the text."""

    def __init__(self, config: MobileBertMdConfig):
        super().__init__(config, add_pooling_layer=False)
        self.qa_outputs = self._output_layer(2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | QuestionAnsweringModelOutput:
        """`start_positions` and `end_positions` of shape `(batch,)`; positions outside the input are ignored."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions, **kwargs)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MobileBertMdForMultipleChoice(MobileBertMdWithHead):
    """Choice of one of several candidate sequences."""

    accepts_loss_kwargs = False

    def __init__(self, config: MobileBertMdConfig):
        super().__init__(config, add_pooling_layer=True)
        self.dropout = self._classifier_dropout()
        self.classifier = self._output_layer(1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | MultipleChoiceModelOutput:
        """Inputs of shape `(batch, num_choices, seq)`; `labels` of shape `(batch,)`, the index of the right choice."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        flat_inputs = (None if tensor is None else tensor.flatten(0, 1) for tensor in inputs)
        outputs = self.mobilebert(*flat_inputs, return_dict=True, **kwargs)
        num_choices = (input_ids if input_ids is not None else inputs_embeds).shape[1]
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, num_choices)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = [
    "MobileBertMdForMaskedLM",
    "MobileBertMdForMultipleChoice",
    "MobileBertMdForNextSentencePrediction",
    "MobileBertMdForPreTraining",
    "MobileBertMdForQuestionAnswering",
    "MobileBertMdForSequenceClassification",
    "MobileBertMdForTokenClassification",
    "MobileBertMdLayer",
    "MobileBertMdModel",
    "MobileBertMdPreTrainedModel",
]
