"""The residual stream of a trained MobileBERT reaches 2.5e7; float16 ends at 65,504."""

import copy

import pytest
import torch
from families import TASKS, build, inputs_for, tensors_of
from torch import nn

from modeling_mobilebert_md import IbBertConfig, IbBertModel


# Without the pooler's tanh, which turns values this large into signs: rounding flips those that lie near zero.
FIELDS = {"classifier_activation": False, "vocab_size": 200, "num_labels": 2}
NAMES = ("Model", *(f"For{task}" for task in TASKS))
LARGEST = 2.5e7
TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
names = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
families = pytest.mark.parametrize("family", ["mobilebert_md-uniform", "mobilebert_md-stages", "mobilebert_md-tiny"])


def build_large(family, name):
    """A model whose last gains bring the residual stream to 2.5e7."""
    model = build(family, name, **FIELDS)
    inputs = inputs_for(model)
    norm = model.base_model.encoder.layer[-1].output.bottleneck.LayerNorm
    with torch.no_grad():
        gain = LARGEST / model(**inputs, output_hidden_states=True).hidden_states[-1].abs().max()
        norm.weight.mul_(gain)
        norm.bias.mul_(gain)
        assert model(**inputs, output_hidden_states=True).hidden_states[-1].abs().max() > 0.99 * LARGEST
    return model


def assert_close_to(actual, expected, tolerance):
    for key, value in tensors_of(actual).items():
        reference = tensors_of(expected)[key]
        assert value.isfinite().all(), key
        assert (value.float() - reference).abs().max() <= tolerance * reference.abs().max(), key


@families
@names
@dtypes
def test_half_weights_stay_finite_and_close(family, name, dtype):
    model = build_large(family, name)
    inputs = inputs_for(model)
    half = copy.deepcopy(model).to(dtype)
    assert_close_to(half(**inputs), model(**inputs), TOLERANCE[dtype])
    assert half(**inputs, output_hidden_states=True).hidden_states[-1].dtype == torch.float32


@families
@names
@dtypes
def test_autocast_stays_finite_and_close(family, name, dtype):
    model = build_large(family, name)
    inputs = inputs_for(model, labels=name != "Model")
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=dtype):
        output = model(**inputs)
    assert_close_to(output, expected, TOLERANCE[dtype])
    loss = output.last_hidden_state.mean() + output.pooler_output.mean() if name == "Model" else output.loss
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


@names
def test_loading_in_half_precision_keeps_the_gains(name, tmp_path):
    model = build_large("mobilebert_md-stages", name)
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.float16)
    assert half.dtype == torch.float16
    inputs = inputs_for(model)
    assert_close_to(half(**inputs), model(**inputs), TOLERANCE[torch.float16])


def test_float16_with_large_values_in_the_middle():
    model = build("mobilebert_md-uniform", **FIELDS)
    norm = model.encoder.layer[0].output.bottleneck.LayerNorm
    with torch.no_grad():
        norm.weight.mul_(1e7)
        for layer in model.encoder.layer[1:]:
            # Where attention is not saturated, nothing else overflows.
            layer.bottleneck.attention.dense.weight.mul_(1e-7)
    inputs = inputs_for(model)
    assert_close_to(copy.deepcopy(model).half()(**inputs), model(**inputs), TOLERANCE[torch.float16])


def test_a_stock_linear_layer_overflows_here():
    """Shows that the tests above would fail without our linear layers."""
    model = build_large("mobilebert_md-uniform", "ForSequenceClassification").half()
    with torch.no_grad():
        hidden = model(**inputs_for(model), output_hidden_states=True).hidden_states[-1]
    assert hidden.isfinite().all()
    stock = nn.Linear(32, 2).half()
    assert not stock(hidden[:, 0].half()).isfinite().all()


@dtypes
def test_layer_norm_models_run_in_half_precision_throughout(dtype):
    config = IbBertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intra_bottleneck_size=64)
    model = IbBertModel(config).to(dtype).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    output = model(torch.ones(1, 5, dtype=torch.long))
    assert output.last_hidden_state.dtype == dtype
    assert output.last_hidden_state.isfinite().all()
    assert not any(type(module).__name__ == "FullRangeLinear" for module in model.modules())


@dtypes
@pytest.mark.parametrize("family", ["mobilebert_md-uniform", "ib_bert-uniform", "smbert-uniform"])
def test_fresh_models_run_in_half_precision(family, dtype):
    model = build(family, "ForSequenceClassification")
    inputs = inputs_for(model)
    assert_close_to(copy.deepcopy(model).to(dtype)(**inputs), model(**inputs), TOLERANCE[dtype])


def test_replicas_without_parameters_run(monkeypatch):
    """`nn.DataParallel` makes replicas that have no parameters, on which `model.device` raises."""
    model = build("mobilebert_md-uniform")
    inputs = inputs_for(model)
    expected = model(**inputs)
    monkeypatch.setattr(type(model), "parameters", lambda self, recurse=True: iter(()))
    assert_close_to(model(**inputs), expected, 1e-6)


def test_float64_stays_float64():
    model = build("mobilebert_md-uniform").double()
    assert model(**inputs_for(model)).last_hidden_state.dtype == torch.float64
