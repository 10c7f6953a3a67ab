# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""IB-BERT, MobileBERT's teacher (https://huggingface.co/papers/2004.02984, section 3.1).

The network is MobileBERT-multi-dimension's with other settings (bottlenecks that widen, LayerNorm, GELU, one
feed-forward network, and query, key and value that read the feature map): only the configuration differs.
"""

from .configuration_ib_bert import IbBertConfig
from .modeling_mobilebert_md import (
    MobileBertMdForMaskedLM,
    MobileBertMdForMultipleChoice,
    MobileBertMdForNextSentencePrediction,
    MobileBertMdForPreTraining,
    MobileBertMdForQuestionAnswering,
    MobileBertMdForSequenceClassification,
    MobileBertMdForTokenClassification,
    MobileBertMdModel,
)


class IbBertModel(MobileBertMdModel):
    """IB-BERT without a head; see [`MobileBertMdModel`] for arguments, inputs and outputs."""

    config: IbBertConfig


class IbBertForPreTraining(MobileBertMdForPreTraining):
    """Masked language modelling and next sentence prediction, as in pre-training."""

    config: IbBertConfig
    model_class = IbBertModel


class IbBertForMaskedLM(MobileBertMdForMaskedLM):
    """Masked language modelling."""

    config: IbBertConfig
    model_class = IbBertModel


class IbBertForNextSentencePrediction(MobileBertMdForNextSentencePrediction):
    """Whether the second segment continues the first."""

    config: IbBertConfig
    model_class = IbBertModel


class IbBertForSequenceClassification(MobileBertMdForSequenceClassification):
    """Classification (single or multi-label) or regression of whole sequences."""

    config: IbBertConfig
    model_class = IbBertModel


class IbBertForTokenClassification(MobileBertMdForTokenClassification):
    """Classification of every token, for example named entity recognition."""

    config: IbBertConfig
    model_class = IbBertModel


class IbBertForQuestionAnswering(MobileBertMdForQuestionAnswering):
    """Start and end of an answer in the text."""

    config: IbBertConfig
    model_class = IbBertModel


class IbBertForMultipleChoice(MobileBertMdForMultipleChoice):
    """Choice of one of several candidate sequences."""

    config: IbBertConfig
    model_class = IbBertModel


__all__ = [
    "IbBertForMaskedLM",
    "IbBertForMultipleChoice",
    "IbBertForNextSentencePrediction",
    "IbBertForPreTraining",
    "IbBertForQuestionAnswering",
    "IbBertForSequenceClassification",
    "IbBertForTokenClassification",
    "IbBertModel",
]
