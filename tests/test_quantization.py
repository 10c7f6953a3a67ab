"""Quantization-aware training: everything rounds, and nothing of it is saved. That it rounds as the exported model does
is in test_export.py."""

import copy

import pytest
import torch
from families import build
from torch import nn
from transformers import AutoModelForSequenceClassification

import compactbert
from compactbert.training.quantization import RoundedEmbedding, RoundedLinear, cut_relus, emulate_int8


FAMILIES = ("smbert-uneven", "mobilebert_md-stages", "ib_bert-uniform")


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_a_linear_layer_rounds_to_eight_bits_and_learns(shape):
    torch.manual_seed(0)
    plain = nn.Linear(8, 4)
    rounded = copy.deepcopy(plain)
    emulate_int8(rounded)
    assert type(plain) is nn.Linear
    inputs = 1 + torch.randn(shape, requires_grad=True)
    exact, found = plain(inputs), rounded(inputs)
    assert 0 < (found - exact).abs().max() < 0.02 * exact.abs().max()
    # What comes out is of integers times the scales of a row and of all inputs.
    step = plain.weight.detach().abs().amax(1) / 127 * (inputs.max().clamp_min(0) - inputs.min().clamp_max(0)) / 255
    levels = ((found - plain.bias) / step).detach()
    torch.testing.assert_close(levels, levels.round(), atol=2e-2, rtol=0)
    for module in (plain, rounded):
        module(inputs).square().sum().backward()
    assert rounded.weight.grad.abs().min() > 0
    torch.testing.assert_close(rounded.weight.grad, plain.weight.grad, rtol=0.2, atol=0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_with_weights_round(family):
    model = build(family, "ForSequenceClassification")
    names = set(model.state_dict())
    emulate_int8(model)
    for kind, rounded, least in ((nn.Linear, RoundedLinear, 10), (nn.Embedding, RoundedEmbedding, 3)):
        found = [type(module) for module in model.modules() if isinstance(module, kind)]
        assert len(found) >= least
        assert set(found) == {rounded}
    assert set(model.state_dict()) == names


def test_constant_inputs_and_weights_are_no_numbers_divided_by_zero():
    rounded = nn.Linear(4, 2)
    nn.init.zeros_(rounded.weight)
    emulate_int8(rounded)
    assert torch.equal(rounded(torch.zeros(3, 4)), rounded.bias.expand(3, 2))


def test_fine_tuning_leaves_a_plain_model(tiny_model, reviews, tmp_path, monkeypatch):
    used = []
    forward = RoundedLinear.forward
    monkeypatch.setattr(RoundedLinear, "forward", lambda *args: used.append(args[0].training) or forward(*args))
    settings = {"max_steps": 3, "precision": "fp32", "training_arguments": {"quantization_aware": True}}
    report = compactbert.finetune(tiny_model, str(reviews), tmp_path / "model", **settings)
    # The scores are those of the rounding model.
    assert set(used) == {True, False}
    assert report["settings"]["training_arguments"] == {"quantization_aware": True}
    used.clear()
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    levels = weight / (weight.abs().amax(1, keepdim=True) / 127)
    assert (levels - levels.round()).abs().max() > 0.1, "weights are saved as they are, not rounded"
    compactbert.predict(tmp_path / "model", ["a good film"])
    assert not used


def test_relu6_is_in_the_configuration():
    model = build("mobilebert_md-stages", "ForSequenceClassification")
    cut_relus(model)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.ReLU | nn.ReLU6)}
    assert kinds == {nn.ReLU6}
    assert model.config.hidden_act == "relu6"
    cut_relus(model)
    with pytest.raises(ValueError, match="`relu6` needs a model whose `hidden_act` is 'relu', .* 'gelu'"):
        cut_relus(build("smbert-uneven", "ForSequenceClassification"))
