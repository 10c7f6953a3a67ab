"""Pruning plans, pruning and costs."""

import copy
import json

import numpy as np
import pytest
import torch
from families import FAMILIES, TASKS, assert_same_weights, build, inputs_for, stacked_networks, tensors_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from compactbert.compression import (
    LayerPlan,
    PruningPlan,
    count_bytes,
    count_macs,
    count_parameters,
    describe,
    plan_pruning,
    prune,
    prune_iteratively,
    score_importance,
    zero_weights,
)
from compactbert.compression.cost import layer_weights
from compactbert.convert import to_transformers
from compactbert.hub import run_without_packages
from modeling_smbert import SmBertConfig, SmBertModel


SEQUENCE = "ForSequenceClassification"
# All sum up in another order than the reference, in float32.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
HEADS = ["Model", *(f"For{task}" for task in TASKS)]
# A layer without a feed-forward network stacked before its last one has nothing to skip there.
STACKED = [family for family in FAMILIES if family.startswith("mobilebert_md")]
TARGETS = {
    "heads": {"heads": 2},
    "ffn": {"ffn": 7},
    "even": {"heads": 1, "ffn": 5},
    "uneven": {"heads": 2, "ffn": 7, "uneven": True},
    "parameters": {"parameters": 0.7},
    "parameters-uneven": {"parameters": 0.7, "uneven": True},
    "macs": {"macs": 0.7},
    "macs-uneven": {"macs": 0.7, "uneven": True},
    "layer_count": {"layers": 2},
    "layer_list": {"layers": [0, 2]},
    "everything": {"layers": [1, 2], "heads": 2, "ffn": 7, "networks": 1},
}


def plan_for(model, seed=0, **targets):
    """A plan from random scores, which spread what goes over the layers."""
    return plan_pruning(score_importance(model, [], "random", seed=seed), model.config, **targets)


def skip(module, args, output):
    return args[0]


def mask(model, plan):
    """The whole model without the influence of what the plan removes: what a pruned model must equal."""
    masked = copy.deepcopy(model)
    kept = {layer.layer: layer for layer in plan.layers}
    for i, (layer, shape) in enumerate(zip(masked.base_model.encoder.layer, plan.source, strict=True)):
        if i not in kept:
            layer.register_forward_hook(skip)
            continue
        heads = layer.attention.output.dense.weight.detach().view(-1, shape.heads, shape.head_size)
        heads[:, [j for j in range(shape.heads) if j not in kept[i].heads]] = 0
        for j, network in enumerate([*stacked_networks(layer), layer]):
            if j not in kept[i].networks:
                network.register_forward_hook(skip)
            else:
                removed = [n for n in range(shape.neurons) if n not in kept[i].networks[j]]
                network.output.dense.weight.detach()[:, removed] = 0
    return masked


def assert_same_predictions(one, other, inputs, **tolerance):
    one, other = tensors_of(one(**inputs)), tensors_of(other(**inputs))
    assert one
    torch.testing.assert_close(one, other, **tolerance or CLOSE)


# Pruning


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_equals_the_masked_one(family, targets):
    model = build(family, SEQUENCE)
    plan = plan_for(model, **TARGETS[targets])
    pruned = prune(model, plan)
    assert type(pruned) is type(model)
    assert count_parameters(pruned)["encoder"] < count_parameters(model)["encoder"]
    inputs = inputs_for(model)
    assert_same_predictions(pruned, mask(model, plan), inputs)
    # The mask and the model differ: what was removed did something.
    assert not torch.allclose(pruned(**inputs).logits, model(**inputs).logits, **CLOSE)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("family", ["mobilebert_md-stages", "ib_bert-uniform", "smbert-uneven"])
def test_every_head_is_kept(family, name):
    model = build(family, name)
    plan = plan_for(model, **TARGETS["everything"])
    assert_same_predictions(prune(model, plan), mask(model, plan), inputs_for(model))


@pytest.mark.parametrize("networks", [1, 2, 3])
@pytest.mark.parametrize("family", STACKED)
def test_stacked_networks_are_skipped(family, networks):
    model = build(family, "ForMaskedLM")
    plan = plan_for(model, networks=networks, ffn=20)
    expected = [min(networks, shape.networks) for shape in plan.source]
    assert [shape.networks for shape in plan.shapes()] == expected
    assert_same_predictions(prune(model, plan), mask(model, plan), inputs_for(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_everything_is_the_identity(family):
    model = build(family, "ForMaskedLM")
    same = prune(model, PruningPlan.keep_layers(model.config, range(3)))
    assert same.config == model.config
    assert_same_weights(same, model)


def test_keeping_everything_keeps_how_the_configuration_is_written():
    config = SmBertConfig(per_layer_config={0: {"num_attention_heads": 4}})
    assert PruningPlan.keep_layers(config, range(3)).prune_config(config) == config


def test_layers_that_become_alike_make_a_uniform_configuration():
    model = build("smbert-uneven")
    config = prune(model, plan_for(model, layers=[0, 1], heads=3, ffn=10)).config
    assert not config.is_heterogeneous
    assert (config.num_attention_heads, config.attention_head_size, config.intermediate_size) == (3, 8, 10)


def test_a_derived_head_size_stays_derived_only_where_all_heads_stay():
    model = build("mobilebert_md-stages")
    plan = PruningPlan.keep_layers(model.config, range(3))
    first = LayerPlan(0, (1, 3), plan.layers[0].networks)
    config = prune(model, PruningPlan(plan.model_type, plan.source, (first, *plan.layers[1:]))).config
    assert [layer.attention_head_size for layer in config.per_layer_config] == [4, None, 5]
    assert [layer.head_size for layer in config.per_layer_config] == [4, 3, 5]


def test_pruning_leaves_the_source_alone_and_keeps_type_and_mode():
    model = build("smbert-uneven").bfloat16().train()
    before = copy.deepcopy(model)
    pruned = prune(model, plan_for(model, heads=2))
    assert (pruned.dtype, pruned.training) == (torch.bfloat16, True)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    assert_same_weights(model, before)
    assert model.config == before.config


def test_a_model_without_a_pooler_stays_without():
    model = SmBertModel(build("smbert-uneven").config, add_pooling_layer=False)
    assert prune(model, plan_for(model, layers=1)).pooler is None


@pytest.mark.parametrize("family", ["mobilebert_md-stages", "ib_bert-stages", "smbert-uneven"])
def test_a_pruned_model_saves_and_loads(family, tmp_path):
    model = build(family, SEQUENCE)
    pruned = prune(model, plan_for(model, parameters=0.6, uneven=True))
    pruned.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert_same_predictions(loaded, pruned, inputs_for(model), rtol=0, atol=0)
    # The base model alone, from the checkpoint of another head.
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert_same_predictions(base, pruned.base_model, inputs_for(model), rtol=0, atol=0)


LOAD = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification
for folder in sys.argv[1:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    logits = model(**torch.load(f"{folder}/inputs.pt")).logits
    print(json.dumps([type(model).__module__, logits.tolist()]))
"""


@pytest.mark.long
def test_pruned_models_load_without_our_packages(tmp_path):
    expected = {}
    for family in ("mobilebert_md-stages", "smbert-uneven"):
        model = build(family, SEQUENCE)
        pruned = prune(model, plan_for(model, layers=2, heads=2, ffn=7, uneven=True))
        folder = tmp_path / family
        pruned.save_pretrained(folder)
        torch.save(inputs_for(model), folder / "inputs.pt")
        expected[str(folder)] = pruned(**inputs_for(model)).logits
    lines = run_without_packages(LOAD, *expected).splitlines()[-2:]
    for line, logits in zip(lines, expected.values(), strict=True):
        module, loaded = json.loads(line)
        assert module.startswith("transformers_modules.")
        torch.testing.assert_close(torch.tensor(loaded), logits)


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("smbert-uniform", {"layers": 2, "ffn": 7}),
        ("mobilebert_md-uniform", {"layers": [0, 2], "ffn": 7, "networks": 2}),
        ("mobilebert_md-no_bottleneck", {"layers": [1]}),
    ],
    ids=["smbert", "mobilebert", "no_bottleneck"],
)
def test_a_pruned_model_of_a_shape_transformers_has_converts_back(family, targets):
    model = build(family, "ForMaskedLM")
    pruned = prune(model, plan_for(model, **targets))
    assert_same_predictions(to_transformers(pruned), pruned, inputs_for(model))


def test_a_model_with_fewer_heads_does_not_convert_back():
    model = build("smbert-uniform")
    with pytest.raises(ValueError, match="its 3 heads of 8 do not add up to its width 32"):
        to_transformers(prune(model, plan_for(model, heads=3)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_trains(family):
    model = build(family, SEQUENCE)
    pruned = prune(model, plan_for(model, macs=0.6, uneven=True)).train()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.01)
    inputs = inputs_for(model, labels=True)
    before = pruned(**inputs).loss
    before.backward()
    assert not [name for name, parameter in pruned.named_parameters() if parameter.grad is None]
    optimizer.step()
    assert pruned(**inputs).loss < before


# Plans


@pytest.mark.parametrize("family", ["mobilebert_md-stages", "mobilebert_md-uniform", "smbert-uneven"])
def test_plans_compose(family):
    model = build(family, "ForTokenClassification")
    first = plan_for(model, seed=1, heads=3, ffn=9, uneven=True)
    half = prune(model, first)
    second = plan_for(half, seed=2, layers=[0, 2], heads=2, ffn=5, networks=1)
    assert_same_weights(prune(model, first.then(second)), prune(half, second))
    whole = PruningPlan.keep_layers(model.config, range(3))
    assert whole.then(first) == first == first.then(PruningPlan.keep_layers(half.config, range(3)))


def test_plans_that_do_not_follow_each_other_do_not_compose():
    model = build("smbert-uniform")
    plan = plan_for(model, heads=2)
    with pytest.raises(ValueError, match=r"second plan is for another model, .*heads=4.* than the first leaves, .*=2"):
        plan.then(plan)
    smbert = PruningPlan.keep_layers(model.config, [0])
    with pytest.raises(ValueError, match="'ib_bert'.* than the first leaves.*'smbert'"):
        smbert.then(PruningPlan("ib_bert", tuple(smbert.shapes()), smbert.layers))


@pytest.mark.parametrize("family", ["mobilebert_md-stages", "smbert-uneven"])
def test_a_saved_plan_replays_on_another_checkpoint(family, tmp_path):
    plan = plan_for(build(family), layers=[0, 2], heads=2, ffn=7, networks=1)
    plan.save(tmp_path / "plan.json")
    loaded = PruningPlan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert json.loads((tmp_path / "plan.json").read_text())["model_type"] == family.split("-")[0]
    other = build(family, "ForQuestionAnswering", seed=5)
    assert_same_predictions(prune(other, loaded), mask(other, loaded), inputs_for(other))


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("ib_bert-uniform", {}, "it is for the family 'smbert', here it is 'ib_bert'"),
        ("smbert-uniform", {"num_hidden_layers": 2}, "it is for 3 layers, here there are 2"),
        ("smbert-uniform", {"intermediate_size": 20}, "its layer 0 is .*neurons=24.*, here it is .*neurons=20"),
        (
            "smbert-uniform",
            {"per_layer_config": {1: {"num_attention_heads": 2, "attention_head_size": 16}}},
            "its layer 1 is .*heads=4, head_size=8.*, here it is .*heads=2, head_size=16",
        ),
    ],
    ids=["family", "layers", "neurons", "one-layer"],
)
def test_a_plan_for_another_model_is_refused_by_what_differs(family, fields, message):
    plan = plan_for(build("smbert-uniform"), heads=2)
    with pytest.raises(ValueError, match=f"The plan is for another model: {message}.*Make a plan for this model"):
        prune(build(family, **fields), plan)


WHOLE = {"layer": 0, "heads": [0, 1], "networks": {"0": [0, 1], "1": [0, 2]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": []}, "`heads` keeps nothing of layer 0"),
        ({"heads": [0, 2]}, r"`heads` of layer 0 must be ascending indices below 2, each once, got \[0, 2\]"),
        ({"heads": [1, 0]}, "`heads` of layer 0 must be ascending"),
        ({"heads": [0, 0]}, "`heads` of layer 0 must be ascending"),
        ({"heads": [-1, 0]}, "`heads` of layer 0 must be ascending"),
        ({"networks": {"0": [0], "1": [3]}}, r"`neurons` of network 1 of layer 0 must be .* below 3, .* got \[3\]"),
        ({"networks": {"0": [0], "1": [0, 1]}}, "networks of layer 0 must keep equally many neurons"),
        ({"networks": {"0": [0]}}, "Network 1 of layer 0 leads back to the feature map: keep it"),
        ({"networks": {"last": [0]}}, "is not a pruning plan .*: make one with `plan_pruning`"),
        ({"layer": 1}, "`layers` of the model must be ascending indices below 1"),
        ({"layer": "0"}, "is not a pruning plan"),
        ({"heads": None}, "is not a pruning plan"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_file_without_a_possible_plan_is_refused(change, message, tmp_path):
    path = tmp_path / "plan.json"
    source = [{"heads": 2, "head_size": 4, "networks": 2, "neurons": 3}]
    plan = {"model_type": "mobilebert_md", "source": source, "layers": [WHOLE]}
    path.write_text(json.dumps(plan))
    assert PruningPlan.load(path).layers == (LayerPlan(0, (0, 1), {0: (0, 1), 1: (0, 2)}),)
    path.write_text(json.dumps(plan | {"layers": [WHOLE | change]}))
    with pytest.raises(ValueError, match=message):
        PruningPlan.load(path)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"model_type": "smbert"}'], ids=repr)
def test_a_file_that_is_no_plan_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json' is not a pruning plan .*: make one with `plan_pruning`"):
        PruningPlan.load(tmp_path / "plan.json")


def test_a_plan_is_described_layer_by_layer():
    model = build("mobilebert_md-stages")
    assert describe(plan_for(model, layers=[0, 2], heads=2, ffn=7, networks=3)) == [
        {"layer": 0, "heads": "2 of 4", "networks": "3 of 4", "neurons": "7 of 24"},
        {"layer": 2, "heads": "2 of 3", "networks": "3 of 4", "neurons": "7 of 10"},
    ]


# What to keep


def test_even_targets_are_met_exactly_by_what_matters_most():
    model = build("mobilebert_md-stages")
    importance = score_importance(model, [], "random")
    plan = plan_pruning(importance, model.config, layers=2, heads=3, ffn=9, networks=3)
    assert [layer.layer for layer in plan.layers] == sorted(np.argsort(importance.layers)[1:])
    for layer, shape in zip(plan.layers, plan.shapes(), strict=True):
        networks = min(3, plan.source[layer.layer].networks)
        assert (shape.heads, shape.networks, shape.neurons) == (3, networks, 9)
        assert set(layer.heads) == set(np.argsort(importance.heads[layer.layer])[-3:])
        assert set(layer.networks) == set(np.argsort(importance.networks[layer.layer])[-networks:])
        for network, neurons in layer.networks.items():
            assert set(neurons) == set(np.argsort(importance.neurons[layer.layer][network])[-9:])


def test_layers_with_fewer_keep_what_they_have():
    shapes = plan_for(build("smbert-uneven"), heads=4, ffn=12).shapes()
    assert [(shape.heads, shape.neurons) for shape in shapes] == [(4, 12), (3, 10), (4, 12)]


@pytest.mark.parametrize("family", ["smbert-uneven", "mobilebert_md-stages"])
@pytest.mark.parametrize(("heads", "ffn"), [(1, 1), (2, 6), (3, None), (None, 11)])
def test_uneven_targets_are_met_on_average(family, heads, ffn):
    model = build(family)
    importance = score_importance(model, [], "random")
    # All of the first layer matters more than all of the others, which keep one head and one neuron nonetheless.
    importance.heads[0] += 1
    importance.neurons[0] = [scores + 1 for scores in importance.neurons[0]]
    plan = plan_pruning(importance, model.config, heads=heads, ffn=ffn, uneven=True)
    for name, target in (("heads", heads), ("neurons", ffn)):
        there = [getattr(shape, name) for shape in plan.source]
        kept = [getattr(shape, name) for shape in plan.shapes()]
        assert sum(kept) == (sum(there) if target is None else 3 * target)
        assert min(kept) >= 1
        assert kept[0] == min(there[0], sum(kept) - 2)


def test_uneven_counts_follow_the_scores():
    model = build("smbert-uniform")
    importance = score_importance(model, [], "random")
    importance.heads = [np.array([9.0, 1, 8, 7]), np.array([2.0, 3, 1, 1]), np.array([1.0, 6, 5, 1])]
    plan = plan_pruning(importance, model.config, heads=2, uneven=True)
    assert [layer.heads for layer in plan.layers] == [(0, 2, 3), (1,), (1, 2)]


def cost_of(config, budget, sequence_length=128):
    return sum(layer_weights(config)) if budget == "parameters" else count_macs(config, 1, sequence_length)


def with_one_more(plan):
    """Every plan that keeps one head or one rank of neurons more."""
    for i, (layer, shape) in enumerate(zip(plan.layers, plan.shapes(), strict=True)):
        source = plan.source[layer.layer]
        larger = []
        if shape.heads < source.heads:
            larger.append(LayerPlan(layer.layer, tuple(range(shape.heads + 1)), layer.networks))
        if shape.neurons < source.neurons:
            neurons = tuple(range(shape.neurons + 1))
            larger.append(LayerPlan(layer.layer, layer.heads, dict.fromkeys(layer.networks, neurons)))
        for one in larger:
            yield PruningPlan(plan.model_type, plan.source, (*plan.layers[:i], one, *plan.layers[i + 1 :]))


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("budget", ["parameters", "macs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_budgets_are_met_and_used_up(family, budget, uneven):
    model = build(family)
    total = cost_of(model.config, budget)
    # Once as a share, once absolute.
    for target, limit in ((0.75, 0.75 * total), (round(0.9 * total), round(0.9 * total))):
        plan = plan_for(model, **{budget: target}, uneven=uneven)
        used = cost_of(plan.prune_config(model.config), budget)
        assert used <= limit
        steps = [cost_of(one.prune_config(model.config), budget) - used for one in with_one_more(plan)]
        # Evenly, the next step takes a neuron of every layer at once.
        assert limit - used < (sum(steps) if not uneven else min(steps))


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
def test_a_budget_holds_for_the_layers_and_networks_that_stay(uneven):
    model = build("mobilebert_md-uniform")
    plan = plan_for(model, layers=2, networks=2, parameters=0.3, uneven=uneven)
    assert [shape.networks for shape in plan.shapes()] == [2, 2]
    assert 0.27 < sum(layer_weights(plan.prune_config(model.config))) / sum(layer_weights(model.config)) <= 0.3


def test_even_budgets_keep_the_same_share_of_heads_and_neurons():
    model = build("smbert-uniform", num_attention_heads=8, intermediate_size=32)
    shapes = plan_for(model, parameters=0.5).shapes()
    assert {(shape.heads, shape.neurons) for shape in shapes} == {(4, 16)}


def test_a_budget_in_macs_counts_at_its_length():
    model = build("smbert-uniform")
    short, long = (plan_for(model, macs=0.6, sequence_length=length) for length in (8, 4096))
    # Beside attention over long inputs, neurons cost next to nothing.
    assert {shape.neurons for shape in long.shapes()} == {24}
    assert {shape.neurons for shape in short.shapes()} == {21}
    for plan, length in ((short, 8), (long, 4096)):
        config = plan.prune_config(model.config)
        assert count_macs(config, 1, length) <= 0.6 * count_macs(model.config, 1, length)


@pytest.mark.parametrize("targets", [{"parameters": 1}, {"macs": 1.0}, {"parameters": 1e9}, {}], ids=str)
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
def test_a_budget_for_all_keeps_all(targets, uneven):
    model = build("mobilebert_md-stages")
    assert plan_for(model, **targets, uneven=uneven) == PruningPlan.keep_layers(model.config, range(3))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"heads": 5}, "`heads` must lie between 1 and the model's 4, got 5"),
        ({"heads": 0}, "`heads` must lie between 1 and the model's 4, got 0"),
        ({"ffn": 25}, "`ffn` must lie between 1 and the model's 24, got 25"),
        ({"ffn": -1}, "`ffn` must lie between 1 and the model's 24, got -1"),
        ({"networks": 5}, "`networks` must lie between 1 and the model's 4, got 5"),
        ({"networks": 0}, "`networks` must lie between 1 and the model's 4, got 0"),
        ({"parameters": -0.5}, "`parameters` must be positive, got -0.5"),
        ({"macs": 0}, "`macs` must be positive, got 0"),
        (
            {"parameters": 0.01},
            r"`parameters` of [\d,]+ cannot be met: with one head .* of 3 layers it is [\d,]+\. Keep",
        ),
        ({"macs": 2, "uneven": True}, "`macs` of 2 cannot be met"),
        ({"parameters": 0.5, "macs": 0.5}, "Expected one budget, .* got {'parameters': 0.5, 'macs': 0.5}"),
        ({"parameters": 0.5, "heads": 2}, "Expected one budget, .* got {'parameters': 0.5, 'heads': 2}"),
        ({"macs": 0.5, "ffn": 2}, "Expected one budget, .* got {'macs': 0.5, 'ffn': 2}"),
        ({"layers": 0}, "`layers` must lie between 1 and the model's 3, got 0"),
        ({"layers": 4}, "`layers` must lie between 1 and the model's 3, got 4"),
        ({"layers": [0, 3]}, r"`layers` of the model must be ascending indices below 3, each once, got \[0, 3\]"),
        ({"layers": [-1, 0]}, r"`layers` of the model must be ascending .* got \[-1, 0\]"),
        ({"layers": [1, 0]}, r"`layers` of the model must be ascending .* got \[1, 0\]"),
        ({"layers": [1, 1]}, r"`layers` of the model must be ascending .* got \[1, 1\]"),
        ({"layers": []}, "`layers` keeps nothing of the model"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_impossible_targets_are_refused(targets, message):
    model = build("mobilebert_md-stages")
    with pytest.raises(ValueError, match=message):
        plan_for(model, **targets)
    with pytest.raises(ValueError, match=message):
        prune_iteratively(model, [], iterations=2, method="random", **targets)


def test_scores_of_another_model_are_refused():
    importance = score_importance(build("smbert-uniform"), [], "random")
    with pytest.raises(ValueError, match=r"`importance` is of another model: .*\(4, 1, 24\).*\(3, 1, 10\).* Score the"):
        plan_pruning(importance, build("smbert-uneven").config, heads=2)


def test_other_families_are_pointed_to_the_conversion():
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config)
    plan = plan_for(build("smbert-uniform"), layers=1)
    for attempt in (
        lambda: score_importance(model, []),
        lambda: prune(model, plan),
        lambda: prune_iteratively(model, [], heads=1),
        lambda: count_macs(config),
    ):
        with pytest.raises(ValueError, match="got 'bert': turn it into one with `compactbert.convert.from_transform"):
            attempt()


# Iterations


ITERATIVE = {
    "even": ("smbert-uneven", {"heads": 2, "ffn": 7}),
    "uneven": ("smbert-uniform", {"heads": 2, "ffn": 7, "uneven": True}),
    "parameters": ("mobilebert_md-uniform", {"parameters": 0.6, "uneven": True}),
    "macs": ("mobilebert_md-uniform", {"macs": 0.6}),
    "structure": ("mobilebert_md-stages", {"layers": 2, "networks": 1, "heads": 1}),
}


@pytest.mark.parametrize("iterations", [2, 3])
@pytest.mark.parametrize("case", ITERATIVE)
def test_iterations_end_at_the_targets(case, iterations):
    family, targets = ITERATIVE[case]
    model = build(family, SEQUENCE)
    batches = [inputs_for(model, labels=True)]
    pruned, plan = prune_iteratively(model, batches, iterations=iterations, **targets)
    assert_same_weights(prune(model, plan), pruned)
    if budget := next((name for name in ("parameters", "macs") if name in targets), None):
        share = cost_of(pruned.config, budget) / cost_of(model.config, budget)
        # A neuron of every network is up to 5 % here.
        assert 0.93 * targets[budget] < share <= targets[budget]
    else:
        once = plan_pruning(score_importance(model, batches), model.config, **targets)
        assert total_sizes(plan) == total_sizes(once)


def total_sizes(plan):
    shapes = plan.shapes()
    return len(shapes), *(sum(getattr(shape, name) for shape in shapes) for name in ("heads", "networks", "neurons"))


@pytest.mark.parametrize("case", ITERATIVE)
def test_one_iteration_is_scoring_planning_and_pruning(case):
    family, targets = ITERATIVE[case]
    model = build(family, SEQUENCE)
    batches = [inputs_for(model, labels=True)]
    pruned, plan = prune_iteratively(model, batches, method="self_supervised", seed=3, **targets)
    expected = plan_pruning(score_importance(model, batches, "self_supervised", seed=3), model.config, **targets)
    assert plan == expected
    assert_same_weights(pruned, prune(model, expected))


def test_every_iteration_scores_what_is_left():
    model = build("smbert-uniform", SEQUENCE)
    seen = []

    def loss(scored, batch):
        seen.append([layer.num_attention_heads for layer in scored.config.per_layer_config])
        return scored(**batch).loss

    prune_iteratively(model, [inputs_for(model, labels=True)], iterations=3, method=loss, heads=1)
    assert seen == [[4] * 3, [3] * 3, [2] * 3]


def test_targets_above_what_the_kept_layers_have_keep_what_they_have():
    per_layer = {0: {"num_attention_heads": 8}, 1: {"num_attention_heads": 2}, 2: {"num_attention_heads": 2}}
    model = build("smbert-uniform", SEQUENCE, attention_head_size=4, per_layer_config=per_layer)
    batches = [inputs_for(model, labels=True)]
    _, plan = prune_iteratively(model, batches, iterations=3, layers=[1, 2], heads=4)
    assert [shape.heads for shape in plan.shapes()] == [2, 2]


@pytest.mark.parametrize("iterations", [0, -1])
def test_no_iterations_are_refused(iterations):
    with pytest.raises(ValueError, match=f"`iterations` must be at least 1, got {iterations}"):
        prune_iteratively(build("smbert-uniform"), [], iterations=iterations, heads=2)


def test_batches_that_can_be_read_once_do_not_do_for_two_iterations():
    model = build("smbert-uniform", SEQUENCE)
    batches = iter([inputs_for(model, labels=True)])
    with pytest.raises(ValueError, match="`batches` is empty.*An iterator is empty after one pass"):
        prune_iteratively(model, batches, iterations=2, heads=2)


# Magnitude


@pytest.mark.parametrize("structured", [False, True], ids=["weights", "rows"])
def test_the_smallest_weights_of_every_matrix_become_zero(structured):
    model = build("mobilebert_md-stages", SEQUENCE)
    before = copy.deepcopy(model)
    masks = zero_weights(model, 0.5, structured)
    for (name, module), original in zip(model.named_modules(), before.modules(), strict=True):
        if not isinstance(module, nn.Linear):
            continue
        if ".encoder.layer." not in name:
            assert module.weight not in masks
            assert torch.equal(module.weight, original.weight)
            continue
        sizes, mask = original.weight.abs(), masks.pop(module.weight).bool()
        assert torch.equal(module.weight, original.weight * mask)
        if structured:
            assert torch.equal(mask.any(1), mask.all(1))
            sizes, mask = original.weight.norm(dim=1), mask.any(1)
        assert sizes[~mask].max() <= sizes[mask].min()
        assert abs(2 * mask.sum() - mask.numel()) <= 1
    assert not masks
    for share in (0, 1):
        with pytest.raises(ValueError, match=f"`share` must be above 0 and below 1, got {share}"):
            zero_weights(model, share)


# Costs


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("family", ["mobilebert_md-stages", "smbert-uneven"])
def test_parameters_of_the_parts_add_up(family, name):
    model = build(family, name)
    counted = count_parameters(model)
    assert counted["embedding"] + counted["encoder"] + counted["head"] == counted["total"] == model.num_parameters()
    for part, scope in (("embedding", ".embeddings."), ("encoder", ".encoder.")):
        assert counted[part] == sum(p.numel() for key, p in model.named_parameters() if scope in f".{key}")


def test_parameters_of_a_model_without_layers_of_ours_are_refused():
    with pytest.raises(ValueError, match="has no layers under `encoder.layer`: turn it into one of our classes"):
        count_parameters(DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=2, hidden_dim=8)))


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_weights_are_those_of_the_matrices(family):
    model = build(family)
    expected = [
        sum(module.weight.numel() for module in layer.modules() if isinstance(module, nn.Linear))
        for layer in model.encoder.layer
    ]
    assert layer_weights(model.config) == expected


EXTRA_WIRING = {
    "value_input-no_bottleneck": {"use_bottleneck": False, "value_input_size": 12},
    "no_trigram": {"trigram_input": False},
    "no_trigram-same_width": {"trigram_input": False, "embedding_size": 32},
}


def assert_macs(model):
    model.set_attn_implementation("eager")
    model.pooler = None
    input_ids = inputs_for(model, batch_size=2, length=7)["input_ids"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids)
    assert count_macs(model.config, 2, 7) == counter.get_total_flops() // 2


@pytest.mark.parametrize("family", FAMILIES)
def test_macs_are_half_of_the_flops_that_torch_counts(family):
    assert_macs(build(family))
    assert_macs(prune(build(family), plan_for(build(family), layers=[0, 2], heads=2, ffn=7)))


@pytest.mark.parametrize("wiring", EXTRA_WIRING)
def test_macs_of_every_wiring_are_half_of_the_flops_that_torch_counts(wiring):
    assert_macs(build("mobilebert_md-uniform", **EXTRA_WIRING[wiring]))


def test_bytes_are_those_of_the_weights(tmp_path):
    model = build("smbert-uniform")
    model.save_pretrained(tmp_path)
    # Four bytes a parameter, and a header.
    assert 0 < count_bytes(tmp_path) - 4 * model.num_parameters() < 10_000
