"""Importance of heads, neurons, networks, layers and tokens."""

import copy

import numpy as np
import pytest
import torch
from families import FAMILIES, STAGES, UNEVEN, assert_same_weights, build, inputs_for, stacked_networks, tensors_of
from torch import nn

from compactbert.compression import plan_pruning, prune, score_importance


def assert_same_scores(one, other, **tolerance):
    for field in ("heads", "neurons", "networks", "layers", "vocabulary"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field), **tolerance or {"rtol": 0, "atol": 0})


class Gates:
    """Factors of 1 on everything that is scored, whose gradients say what scaling each down would do to a loss."""

    def __init__(self, model):
        self.heads, self.neurons, self.networks, self.layers, self.handles = [], [], [], [], []
        for layer, sizes in zip(model.base_model.encoder.layer, model.config.per_layer_config, strict=True):
            self.heads.append(self._gate(sizes.num_attention_heads, model))
            self._scale_input(layer.attention.output.dense, self.heads[-1], sizes.head_size)
            self.neurons.append([])
            for network in [*stacked_networks(layer), layer]:
                into, out = (self._gate(sizes.intermediate_size, model) for _ in range(2))
                self.neurons[-1].append((into, out))
                self._scale_output(network.intermediate.dense, into)
                self._scale_input(network.output.dense, out)
            self.networks.append([self._skippable(network, model) for network in stacked_networks(layer)])
            self.layers.append(self._skippable(layer, model))
        self.vocabulary = self._gate(model.config.vocab_size, model)
        self.handles.append(
            model.get_input_embeddings().register_forward_hook(
                lambda module, args, output: output * self.vocabulary[args[0]].unsqueeze(-1)
            )
        )

    @staticmethod
    def _gate(size, model):
        return torch.ones(size, dtype=model.dtype, requires_grad=True)

    def _scale_input(self, module, gate, repeats=1):
        self.handles.append(
            module.register_forward_pre_hook(lambda module, args: (args[0] * gate.repeat_interleave(repeats),))
        )

    def _scale_output(self, module, gate):
        self.handles.append(module.register_forward_hook(lambda module, args, output: output * gate))

    def _skippable(self, module, model):
        gate = self._gate(1, model)
        self.handles.append(
            module.register_forward_hook(lambda module, args, output: args[0] + gate * (output - args[0]))
        )
        return gate


def direct_scores(model, inputs):
    """|gradient| of the loss on one batch with respect to every gate."""
    model = copy.deepcopy(model)
    gates = Gates(model)
    model(**inputs).loss.backward()

    def score(gate):
        return gate.grad.abs().numpy()

    return {
        "heads": [score(gate) for gate in gates.heads],
        "neurons": [[score(into) + score(out) for into, out in layer] for layer in gates.neurons],
        "networks": [np.array([*(score(gate).item() for gate in layer), np.inf]) for layer in gates.networks],
        "layers": np.concatenate([score(gate) for gate in gates.layers]),
        "vocabulary": score(gates.vocabulary),
    }


def inputs_with_labels(model):
    inputs = inputs_for(model, labels=True)
    if model.config.problem_type == "regression":
        inputs["labels"] = torch.tensor([0.5, -1.0, 2.0])
    elif model.config.problem_type == "multi_label_classification":
        inputs["labels"] = torch.tensor([[1.0, 0, 1], [0.0, 0, 0], [0.0, 1, 1]])
    return inputs


SEQUENCE = "ForSequenceClassification"
TYPED = {
    "classification": (SEQUENCE, {"num_labels": 3}),
    "regression": (SEQUENCE, {"num_labels": 1, "problem_type": "regression"}),
    "multi_label": (SEQUENCE, {"num_labels": 3, "problem_type": "multi_label_classification"}),
    "token_classification": ("ForTokenClassification", {"num_labels": 3}),
    "question_answering": ("ForQuestionAnswering", {}),
    "multiple_choice": ("ForMultipleChoice", {}),
    "masked_lm": ("ForMaskedLM", {}),
    "pre_training": ("ForPreTraining", {}),
}


def assert_direct(model):
    inputs = inputs_with_labels(model)
    importance = score_importance(model, [inputs])
    for field, expected in direct_scores(model, inputs).items():
        # Scores are sums of float32 products, in another order.
        torch.testing.assert_close(getattr(importance, field), expected, check_dtype=False, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_scores_equal_a_direct_computation(family):
    assert_direct(build(family, SEQUENCE))


@pytest.mark.parametrize("head", TYPED)
def test_gradient_scores_of_every_head_equal_a_direct_computation(head):
    name, fields = TYPED[head]
    assert_direct(build("mobilebert_md-stages", name, **fields))


def test_scores_are_the_mean_over_batches():
    model = build("smbert-uneven", SEQUENCE)
    batches = [inputs_for(model, seed=seed, labels=True) for seed in (1, 2)]
    both, one, two = (score_importance(model, rows) for rows in (batches, batches[:1], batches[1:]))
    np.testing.assert_allclose(both.layers, (one.layers + two.layers) / 2)
    np.testing.assert_allclose(both.heads[1], (one.heads[1] + two.heads[1]) / 2)
    np.testing.assert_allclose(both.vocabulary, (one.vocabulary + two.vocabulary) / 2)


def divergence(model, inputs, expected):
    """KL(p ‖ p') of the predictions from what they were, summed over rows and over tokens that are not padding."""
    total = 0
    for name, after in tensors_of(model(**inputs)).items():
        before = expected[name]
        if model.config.problem_type == "regression":
            total += ((after - before) ** 2).sum() / 2
        elif model.config.problem_type == "multi_label_classification":
            p = before.sigmoid()
            total += (p * (before - after) + nn.functional.softplus(after) - nn.functional.softplus(before)).sum()
        else:
            p, q = before.log_softmax(-1), after.log_softmax(-1)
            rows = (p.exp() * (p - q)).sum(-1)
            total += rows[inputs["attention_mask"].bool()].sum() if rows.dim() == 2 else rows.sum()
    return total.item()


UNEVEN_LAYER = {"smbert-uneven": UNEVEN[1], "mobilebert_md-stages": STAGES[1]}
SECOND_ORDER = ["classification", "regression", "multi_label", "token_classification", "question_answering"]


@pytest.mark.parametrize(
    ("family", "head"), [("smbert-uneven", head) for head in SECOND_ORDER] + [("mobilebert_md-stages", SECOND_ORDER[0])]
)
def test_self_supervised_scores_are_the_divergence_to_second_order(family, head):
    name, fields = TYPED[head]
    # Double precision, since the divergences are small.
    model = build(family, name, num_hidden_layers=2, per_layer_config={1: UNEVEN_LAYER[family]}, **fields).double()
    inputs = inputs_for(model, batch_size=2, length=5)
    importance = score_importance(model, [inputs] * 300, "self_supervised")
    expected = tensors_of(model(**inputs))
    gates = Gates(model)
    parts = [(importance.layers[i], [gates.layers[i]], 0) for i in range(2)]
    parts += [(score, [gates.heads[i]], j) for i in range(2) for j, score in enumerate(importance.heads[i])]
    parts += [(importance.networks[0][j], [gate], 0) for j, gate in enumerate(gates.networks[0])]
    # What scaling the way into a neuron changes, and what scaling the way out does, add up.
    parts += [(score, gates.neurons[1][0], n) for n, score in enumerate(importance.neurons[1][0][:4])]
    epsilon = 1e-4
    divergences = np.zeros(len(parts))
    with torch.no_grad():
        for i, (_, ways, index) in enumerate(parts):
            for gate in ways:
                gate[index] -= epsilon
                divergences[i] += divergence(model, inputs, expected) / epsilon**2
                gate[index] += epsilon
    # A score is the mean of 300 squares of draws, whose standard deviation is about 1.5 times their mean: 9 %.
    np.testing.assert_allclose([score for score, _, _ in parts], divergences, rtol=0.3, atol=1e-6)


def test_self_supervised_scores_need_no_labels_and_follow_the_seed():
    model = build("smbert-uneven", SEQUENCE)
    with_labels, without = inputs_for(model, labels=True), inputs_for(model)
    one, same = (score_importance(model, [inputs], "self_supervised") for inputs in (with_labels, without))
    assert_same_scores(one, same)
    batches = [without] * 3
    one, other = (score_importance(model, batches, "self_supervised", seed=seed) for seed in (1, 2))
    assert not np.allclose(one.layers, other.layers)


@pytest.mark.parametrize("head", TYPED)
def test_every_head_has_self_supervised_scores(head):
    name, fields = TYPED[head]
    model = build("mobilebert_md-stages", name, **fields)
    importance = score_importance(model, [inputs_for(model)], "self_supervised")
    for scores in (*importance.heads, *(n for layer in importance.neurons for n in layer), importance.layers):
        assert np.isfinite(scores).all()
        assert scores.any()


def test_padding_has_no_say_in_self_supervised_scores():
    model = build("smbert-uniform", "ForTokenClassification")
    inputs = inputs_for(model)
    inputs["attention_mask"][:, 6:] = 0
    random = inputs | {"input_ids": inputs["input_ids"].clone()}
    random["input_ids"][:, 6:] = 7
    one, other = (score_importance(model, [rows], "self_supervised") for rows in (inputs, random))
    np.testing.assert_allclose(one.heads, other.heads, rtol=1e-4)


def test_random_scores_are_a_seeded_control():
    model = build("mobilebert_md-stages")
    one, same, other = (score_importance(model, [], "random", seed=seed) for seed in (1, 1, 2))
    assert_same_scores(one, same)
    assert not np.allclose(one.layers, other.layers)
    assert one.sizes() == [(4, 4, 24), (4, 2, 24), (3, 4, 10)]
    assert [scores[-1] for scores in one.networks] == [np.inf] * 3


def test_a_loss_of_ones_own_is_used():
    model = build("smbert-uniform", SEQUENCE)
    inputs = inputs_for(model, labels=True)
    own = score_importance(model, [inputs], lambda scored, batch: 3 * scored(**batch).loss)
    np.testing.assert_allclose(own.heads, [3 * scores for scores in score_importance(model, [inputs]).heads], rtol=1e-5)
    base = model.base_model
    unlabelled = inputs_for(model)
    assert score_importance(base, [unlabelled], lambda scored, batch: scored(**batch)[0].norm()).layers.all()


@pytest.mark.parametrize("method", ["gradient", "self_supervised"])
@pytest.mark.parametrize("head", ["ForMaskedLM", SEQUENCE])
def test_tokens_that_do_not_occur_score_zero(head, method):
    model = build("mobilebert_md-uniform", head)
    inputs = inputs_for(model, labels=True)
    scores = score_importance(model, [inputs], method).vocabulary
    occurring = set(inputs["input_ids"].unique().tolist())
    assert set(np.flatnonzero(scores)) == occurring


def test_the_model_that_is_scored_does_not_change():
    model = build("mobilebert_md-stages", SEQUENCE, num_labels=1).train()
    model.base_model.embeddings.requires_grad_(False)
    before = copy.deepcopy(model)
    inputs = inputs_for(model) | {"labels": torch.zeros(3)}
    for method in ("gradient", "self_supervised"):
        assert score_importance(model, [inputs], method).vocabulary.any()
    assert_same_weights(model, before)
    assert model.config == before.config
    for one, other in zip(model.modules(), before.modules(), strict=True):
        assert one.training
        assert one._forward_hooks.keys() == other._forward_hooks.keys()
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        assert one.grad is None
        assert one.requires_grad == other.requires_grad


@pytest.mark.parametrize("method", ["gradient", "self_supervised"])
def test_embedded_inputs_score_no_tokens(method):
    model = build("smbert-uniform", SEQUENCE)
    inputs = inputs_for(model, labels=True)
    embedded = inputs | {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]).detach()}
    del embedded["input_ids"]
    one, other = (score_importance(model, [batch], method) for batch in (inputs, embedded))
    np.testing.assert_allclose(one.heads, other.heads, rtol=1e-5)
    assert not other.vocabulary.any()
    # Nor do those of the batch before.
    both = score_importance(model, [inputs, embedded], method)
    np.testing.assert_allclose(both.vocabulary * 2, one.vocabulary)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        (SEQUENCE, "gradient", "Expected SmBertForSequenceClassification to have a loss .* got None: add `labels`, or"),
        ("Model", "self_supervised", "Expected SmBertModel to have a loss .* got None: .* load it with a head"),
        (SEQUENCE, lambda model, batch: None, "got None: let `method` return one"),
        (SEQUENCE, "grad", r"`method` must be one of \('gradient', .* or a callable, got 'grad'"),
    ],
    ids=["no-labels", "no-head", "callable", "unknown"],
)
def test_models_without_a_loss_are_refused(name, method, message):
    model = build("smbert-uniform", name)
    with pytest.raises(ValueError, match=message):
        score_importance(model, [inputs_for(model)], method)


@pytest.mark.parametrize("method", ["gradient", "self_supervised"])
def test_no_batches_are_refused(method):
    with pytest.raises(ValueError, match="`batches` is empty: importance needs data.* give a list"):
        score_importance(build("smbert-uniform", SEQUENCE), iter(()), method)


# Planted: what does nothing goes first.

DEAD_HEADS = {(0, 1), (0, 3), (2, 0)}
DEAD_NEURONS = {(0, 0), (0, 1), (0, 7), (2, 3), (2, 23), (1, 11)}


@pytest.mark.parametrize("method", ["gradient", "self_supervised"])
def test_dead_heads_and_neurons_go_first(method):
    model = build("smbert-uniform", SEQUENCE)
    with torch.no_grad():
        for i, head in DEAD_HEADS:
            model.base_model.encoder.layer[i].attention.output.dense.weight[:, 8 * head : 8 * head + 8] = 0
        for i, neuron in DEAD_NEURONS:
            model.base_model.encoder.layer[i].output.dense.weight[:, neuron] = 0
    batches = [inputs_for(model, seed=seed, labels=True) for seed in range(3)]
    importance = score_importance(model, batches, method)
    # 12 heads less 3, 72 neurons less 6.
    plan = plan_pruning(importance, model.config, heads=3, ffn=22, uneven=True)
    kept_heads = {(layer.layer, head) for layer in plan.layers for head in layer.heads}
    kept_neurons = {(layer.layer, neuron) for layer in plan.layers for neuron in layer.networks[0]}
    assert {(i, j) for i in range(3) for j in range(4)} - kept_heads == DEAD_HEADS
    assert {(i, j) for i in range(3) for j in range(24)} - kept_neurons == DEAD_NEURONS
    # They did nothing, so nothing changes.
    inputs = inputs_for(model)
    torch.testing.assert_close(prune(model, plan)(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["gradient", "self_supervised"])
def test_idle_networks_and_layers_go_first(method):
    model = build("mobilebert_md-uniform", SEQUENCE)
    layers = model.base_model.encoder.layer
    with torch.no_grad():
        for block in (layers[0].ffn[1].output, layers[2].ffn[0].output, layers[1].output.bottleneck):
            block.dense.weight.zero_()
            block.dense.bias.zero_()
            block.LayerNorm.weight.fill_(1)
            block.LayerNorm.bias.zero_()
    importance = score_importance(model, [inputs_for(model, labels=True)], method)
    plan = plan_pruning(importance, model.config, layers=2, networks=3)
    assert [layer.layer for layer in plan.layers] == [0, 2]
    assert [list(layer.networks) for layer in plan.layers] == [[0, 2, 3], [1, 2, 3]]
    inputs = inputs_for(model)
    torch.testing.assert_close(prune(model, plan)(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)
