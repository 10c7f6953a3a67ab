# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""SmBERT: BERT (https://huggingface.co/papers/1810.04805) with a head size of its own and with heads and feed-forward
width that may differ per layer, so that pruned models save and load."""

from collections.abc import Callable
from dataclasses import dataclass

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

from .configuration_smbert import SmBertConfig


# So many tokens go through the feed-forward network at a time on a processor that learns nothing: what lies between the
# network's layers stays in the caches. Of 512 to 4,096 all do alike.
TOKENS_AT_A_TIME = 2048


class SmBertEmbeddings(nn.Module):
    """Token, position and token type embeddings."""

    def __init__(self, config: SmBertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.position_ids = nn.Buffer(torch.arange(config.max_position_embeddings).unsqueeze(0), persistent=False)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
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
        embeddings = inputs_embeds + self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(embeddings))


# Copied from modeling_mobilebert_md.eager_attention_forward
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


class SmBertSelfAttention(nn.Module):
    def __init__(self, config: SmBertConfig, layer_idx: int):
        super().__init__()
        layer_config = config.per_layer_config[layer_idx]
        # Not `layer_config`, a copy that `set_attn_implementation` would not reach.
        self.config = config
        self.layer_idx = layer_idx
        self.head_size = layer_config.head_size
        self.scaling = self.head_size**-0.5
        self.is_causal = False

        all_head_size = layer_config.num_attention_heads * self.head_size
        self.query = nn.Linear(config.hidden_size, all_head_size)
        self.key = nn.Linear(config.hidden_size, all_head_size)
        self.value = nn.Linear(config.hidden_size, all_head_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        head_shape = (*input_shape, -1, self.head_size)
        query = self.query(hidden_states).view(head_shape).transpose(1, 2)  # (batch, heads, seq, head_size)
        key = self.key(hidden_states).view(head_shape).transpose(1, 2)
        value = self.value(hidden_states).view(head_shape).transpose(1, 2)
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


class SmBertResidualOutput(nn.Module):
    """The linear layer that ends an attention or feed-forward block, with its residual connection."""

    def __init__(self, config: SmBertConfig, input_size: int):
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + residual)


class SmBertAttention(nn.Module):
    def __init__(self, config: SmBertConfig, layer_idx: int):
        super().__init__()
        layer_config = config.per_layer_config[layer_idx]
        self.self = SmBertSelfAttention(config, layer_idx)
        self.output = SmBertResidualOutput(config, layer_config.num_attention_heads * layer_config.head_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.self(hidden_states, attention_mask, **kwargs)
        return self.output(attn_output, hidden_states)


class SmBertIntermediate(nn.Module):
    def __init__(self, config: SmBertConfig, layer_idx: int):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.per_layer_config[layer_idx].intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.intermediate_act_fn(self.dense(hidden_states))


class SmBertLayer(GradientCheckpointingLayer):
    def __init__(self, config: SmBertConfig, layer_idx: int):
        super().__init__()
        self.attention = SmBertAttention(config, layer_idx)
        self.intermediate = SmBertIntermediate(config, layer_idx)
        self.output = SmBertResidualOutput(config, config.per_layer_config[layer_idx].intermediate_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        hidden_states = self.attention(hidden_states, attention_mask, **kwargs)
        # A compiled or exported graph must not depend on how many tokens there are.
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        if whole or hidden_states.device.type != "cpu" or hidden_states.shape[:2].numel() <= TOKENS_AT_A_TIME:
            return self._feed_forward(hidden_states)
        rows = max(1, TOKENS_AT_A_TIME // hidden_states.shape[1])
        return torch.cat([self._feed_forward(part) for part in hidden_states.split(rows)])

    def _feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.output(self.intermediate(hidden_states), hidden_states)


# Copied from modeling_mobilebert_md.MobileBertMdEncoder with MobileBertMd->SmBert
class SmBertEncoder(nn.Module):
    def __init__(self, config: SmBertConfig):
        super().__init__()
        self.layer = nn.ModuleList(SmBertLayer(config, i) for i in range(config.num_hidden_layers))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        for layer in self.layer:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return hidden_states


class SmBertPooler(nn.Module):
    """The first token's hidden state through a dense layer and tanh."""

    def __init__(self, config: SmBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(hidden_states[:, 0]))


class SmBertPredictionHeadTransform(nn.Module):
    def __init__(self, config: SmBertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    # Copied from modeling_mobilebert_md.MobileBertMdPredictionHeadTransform.forward
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))


class SmBertLMPredictionHead(nn.Module):
    """Scores of every token."""

    def __init__(self, config: SmBertConfig):
        super().__init__()
        self.transform = SmBertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(hidden_states))


class SmBertPreTrainedModel(PreTrainedModel):
    """Base class of all SmBERT models."""

    config: SmBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SmBertEmbeddings", "SmBertLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": SmBertLayer, "attentions": SmBertSelfAttention}

    def __init__(self, config: SmBertConfig, *args, **kwargs):
        # Fields may have been assigned since the configuration checked itself.
        config.validate_architecture()
        super().__init__(config, *args, **kwargs)

    # Copied from modeling_mobilebert_md.MobileBertMdPreTrainedModel._supports_flash_attn
    @property
    def _supports_flash_attn(self) -> bool:
        # The kernels take head sizes that are multiples of 8, up to 256.
        return all(layer.head_size % 8 == 0 and layer.head_size <= 256 for layer in self.config.per_layer_config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, SmBertLMPredictionHead):
            init.zeros_(module.bias)
        elif isinstance(module, SmBertEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[1]).unsqueeze(0))


class SmBertModel(SmBertPreTrainedModel):
    """
    SmBERT without a head.

    Args:
        config ([`SmBertConfig`]):
            The configuration.
        add_pooling_layer (`bool`, *optional*, defaults to `True`):
            Whether to return a `pooler_output`.
    """

    # Copied from modeling_mobilebert_md.MobileBertMdModel.__init__ with MobileBertMd->SmBert
    def __init__(self, config: SmBertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = SmBertEmbeddings(config)
        self.encoder = SmBertEncoder(config)
        self.pooler = SmBertPooler(config) if add_pooling_layer else None
        self.post_init()

    # Copied from modeling_mobilebert_md.MobileBertMdModel.get_input_embeddings
    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    # Copied from modeling_mobilebert_md.MobileBertMdModel.set_input_embeddings
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
            inputs_embeds (`torch.Tensor` of shape `(batch, seq, hidden_size)`, *optional*): In place of `input_ids`.
            past_key_values ([`~transformers.Cache`], *optional*):
                Keys and values before those of the tokens, as prefix tuning has them; they have no positions.

        Raises:
            ValueError: unless exactly one of `input_ids` and `inputs_embeds` is given, or if the input is longer than
                `max_position_embeddings`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Exactly one of `input_ids` and `inputs_embeds` must be given.")
        embedding_output = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        attention_mask = create_bidirectional_mask(
            self.config, embedding_output, attention_mask, past_key_values=past_key_values
        )
        sequence_output = self.encoder(embedding_output, attention_mask, past_key_values=past_key_values, **kwargs)
        pooled_output = self.pooler(sequence_output) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=sequence_output, pooler_output=pooled_output)


# Copied from modeling_mobilebert_md.MobileBertMdForPreTrainingOutput with MobileBertMd->SmBert,mobilebert->bert
@dataclass
class SmBertForPreTrainingOutput(ModelOutput):
    """
    Output of [`SmBertForPreTraining`].

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


class SmBertWithHead(SmBertPreTrainedModel):
    """What all models with a head share: the base model under `bert`, and how it is called."""

    def __init__(self, config: SmBertConfig, add_pooling_layer: bool):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = SmBertModel(config, add_pooling_layer=add_pooling_layer)

    def _output_layer(self, num_outputs: int) -> nn.Linear:
        return nn.Linear(self.config.hidden_size, num_outputs)

    # Copied from modeling_mobilebert_md.MobileBertMdWithHead._classifier_dropout
    def _classifier_dropout(self) -> nn.Dropout:
        config = self.config
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        return nn.Dropout(rate)


# Copied from modeling_mobilebert_md.MobileBertMdWithLMHead with MobileBertMd->SmBert,mobilebert->bert
class SmBertWithLMHead(SmBertWithHead):
    """Adds the language modelling head's decoder, tied to the token embeddings."""

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias


# Copied from modeling_mobilebert_md.MobileBertMdForPreTraining with MobileBertMd->SmBert,mobilebert->bert
class SmBertForPreTraining(SmBertWithLMHead):
    """Masked language modelling and next sentence prediction, as in pre-training."""

    accepts_loss_kwargs = False

    def __init__(self, config: SmBertConfig):
        super().__init__(config, add_pooling_layer=True)
        predictions = SmBertLMPredictionHead(config)
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
    ) -> tuple | SmBertForPreTrainingOutput:
        """`labels` of shape `(batch, seq)`, -100 where nothing is to be predicted; `next_sentence_label` of shape
        `(batch,)`, 0 where the second segment continues the first and 1 where it does not."""
        outputs = self.bert(
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
        return SmBertForPreTrainingOutput(
            loss=sum(losses) if losses else None,
            prediction_logits=prediction_logits,
            seq_relationship_logits=seq_relationship_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


# Copied from modeling_mobilebert_md.MobileBertMdForMaskedLM with MobileBertMd->SmBert,mobilebert->bert
class SmBertForMaskedLM(SmBertWithLMHead):
    """Masked language modelling."""

    def __init__(self, config: SmBertConfig):
        super().__init__(config, add_pooling_layer=False)
        self.cls = nn.ModuleDict({"predictions": SmBertLMPredictionHead(config)})
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
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.cls.predictions(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


# Copied from modeling_mobilebert_md.MobileBertMdForNextSentencePrediction with MobileBertMd->SmBert,mobilebert->bert
class SmBertForNextSentencePrediction(SmBertWithHead):
    """Whether the second segment continues the first."""

    accepts_loss_kwargs = False

    def __init__(self, config: SmBertConfig):
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
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.cls.seq_relationship(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels.flatten())
        return NextSentencePredictorOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


# Copied from modeling_mobilebert_md.MobileBertMdForSequenceClassification with MobileBertMd->SmBert,mobilebert->bert
class SmBertForSequenceClassification(SmBertWithHead):
    """Classification (single or multi-label) or regression of whole sequences."""

    def __init__(self, config: SmBertConfig):
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
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


# Copied from modeling_mobilebert_md.MobileBertMdForTokenClassification with MobileBertMd->SmBert,mobilebert->bert
class SmBertForTokenClassification(SmBertWithHead):
    """Classification of every token, for example named entity recognition."""

    def __init__(self, config: SmBertConfig):
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
        outputs = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


# Copied from modeling_mobilebert_md.MobileBertMdForQuestionAnswering with MobileBertMd->SmBert,mobilebert->bert
class SmBertForQuestionAnswering(SmBertWithHead):
    """Start and end of an answer in the text."""

    def __init__(self, config: SmBertConfig):
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
        outputs = self.bert(
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


# Copied from modeling_mobilebert_md.MobileBertMdForMultipleChoice with MobileBertMd->SmBert,mobilebert->bert
class SmBertForMultipleChoice(SmBertWithHead):
    """Choice of one of several candidate sequences."""

    accepts_loss_kwargs = False

    def __init__(self, config: SmBertConfig):
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
        outputs = self.bert(*flat_inputs, return_dict=True, **kwargs)
        num_choices = (input_ids if input_ids is not None else inputs_embeds).shape[1]
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, num_choices)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = [
    "SmBertForMaskedLM",
    "SmBertForMultipleChoice",
    "SmBertForNextSentencePrediction",
    "SmBertForPreTraining",
    "SmBertForQuestionAnswering",
    "SmBertForSequenceClassification",
    "SmBertForTokenClassification",
    "SmBertLayer",
    "SmBertModel",
    "SmBertPreTrainedModel",
]
