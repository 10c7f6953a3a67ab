"""Tiny models of every family, uniform and with layers that differ: what the model tests run over; what they share."""

import pytest
import torch

import modeling_mobilebert_md
import modeling_smbert
from modeling_smbert.configuration_smbert import TASKS


SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}
MOBILE = SIZES | {"embedding_size": 20, "intra_bottleneck_size": 16}
STAGES = {
    1: {"intra_bottleneck_size": 12, "num_feedforward_networks": 2, "value_input_size": 20},
    2: {"intra_bottleneck_size": 8, "num_attention_heads": 3, "attention_head_size": 5, "intermediate_size": 10},
}
UNEVEN = {1: {"num_attention_heads": 3, "intermediate_size": 10}, 2: {"attention_head_size": 6}}

# id -> (package, class prefix, configuration fields)
FAMILIES = {
    "mobilebert_md-uniform": (modeling_mobilebert_md, "MobileBertMd", MOBILE),
    "mobilebert_md-stages": (modeling_mobilebert_md, "MobileBertMd", MOBILE | {"per_layer_config": STAGES}),
    "mobilebert_md-tiny": (
        modeling_mobilebert_md,
        "MobileBertMd",
        MOBILE | {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False},
    ),
    "mobilebert_md-layer_norm": (modeling_mobilebert_md, "MobileBertMd", MOBILE | {"normalization_type": "layer_norm"}),
    "mobilebert_md-no_bottleneck": (modeling_mobilebert_md, "MobileBertMd", MOBILE | {"use_bottleneck": False}),
    "mobilebert_md-padding_invariant": (
        modeling_mobilebert_md,
        "MobileBertMd",
        MOBILE | {"padding_invariant_trigram": True},
    ),
    "ib_bert-uniform": (modeling_mobilebert_md, "IbBert", MOBILE | {"intra_bottleneck_size": 48}),
    "ib_bert-stages": (modeling_mobilebert_md, "IbBert", MOBILE | {"per_layer_config": STAGES}),
    "smbert-uniform": (modeling_smbert, "SmBert", SIZES | {"attention_head_size": None}),
    "smbert-uneven": (modeling_smbert, "SmBert", SIZES | {"attention_head_size": 8, "per_layer_config": UNEVEN}),
}
# One by default: a clean process takes seconds to import transformers.
ARCHITECTURES = ["smbert", *(pytest.param(name, marks=pytest.mark.long) for name in ("mobilebert_md", "ib_bert"))]
ALL_CLASSES = [(family, name) for family in FAMILIES for name in ("Model", *(f"For{task}" for task in TASKS))]


def build(family: str, name: str = "Model", seed: int = 0, **fields):
    """A model in evaluation mode, every parameter random (biases and NoNorm's affine too)."""
    package, prefix, sizes = FAMILIES[family]
    config = getattr(package, f"{prefix}Config")(**sizes | fields)
    torch.manual_seed(seed)
    return perturb(getattr(package, f"{prefix}{name}")(config)).eval()


def perturb(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs_for(model, batch_size: int = 3, length: int = 9, seed: int = 1, labels: bool = False):
    """A padded batch for a model of any head, with labels on request."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, length)
    name = type(model).__name__
    inputs = {
        "input_ids": torch.randint(1, model.config.vocab_size, shape, generator=generator),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "token_type_ids": torch.randint(0, 2, shape, generator=generator),
    }
    inputs["attention_mask"][0, length - 3 :] = 0
    inputs["input_ids"][0, length - 3 :] = 0
    if name.endswith("ForMultipleChoice"):
        inputs = {key: torch.stack([value, value.flip(0)], dim=1) for key, value in inputs.items()}
    if labels:
        per_row = torch.randint(0, 2, (batch_size,), generator=generator)
        per_token = torch.randint(0, 2, shape, generator=generator)
        if name.endswith("ForQuestionAnswering"):
            inputs |= {"start_positions": per_row, "end_positions": per_row + 1}
        elif name.endswith("ForPreTraining"):
            inputs |= {"labels": per_token, "next_sentence_label": per_row}
        elif name.endswith(("ForMaskedLM", "ForTokenClassification")):
            inputs["labels"] = per_token
        else:
            inputs["labels"] = per_row
    return inputs


def tensors_of(output) -> dict:
    """The prediction tensors of an output, without loss, hidden states and attentions."""
    return {key: value for key, value in output.items() if isinstance(value, torch.Tensor) and key != "loss"}


def stacked_networks(layer):
    return list(getattr(layer, "ffn", ()))


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, after):
    """Names of the tensors that differ."""
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def assert_same(one, other):
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


def assert_same_weights(one, other):
    assert_same(one.state_dict(), other.state_dict())
