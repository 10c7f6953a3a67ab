import copy
import json
import sys

import pytest
import torch
from families import assert_same, build, changed, inputs_for, snapshot
from runs import TRAINER, StopAt, kill_when, weights
from transformers import Trainer, TrainingArguments

import compactbert
from compactbert.training import TheseusConfig, TheseusTrainer, theseus
from compactbert.training.theseus import make_successor


ROWS = 12
# Four layers that two replace, and three uneven ones that one replaces.
FAMILIES = {
    "smbert-uniform": 2,
    "mobilebert_md-uniform": 2,
    "ib_bert-uniform": 2,
    "smbert-uneven": 1,
    "mobilebert_md-stages": 1,
    "ib_bert-stages": 1,
}
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
ALWAYS = {"replacing_rate": 1.0}
# The rate grows by less than a draw can tell.
NEVER = {"replacing_rate": 0.0, "replacing_rate_coefficient": 1e-12}


def make_predecessor(family="smbert-uniform", head="ForSequenceClassification", **fields):
    sizes = {"num_hidden_layers": 4} if family.endswith("uniform") else {}
    return build(family, head, **sizes | fields)


def make_rows(model):
    batch = inputs_for(model, batch_size=ROWS, labels=True)
    return [{name: tensor[i] for name, tensor in batch.items()} for i in range(ROWS)]


def arguments(folder, **settings):
    defaults = TRAINER | {"output_dir": str(folder / "run"), "max_steps": 6, "learning_rate": 1e-3}
    defaults |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": ROWS, "logging_strategy": "no"}
    return defaults | settings


def make_trainer(folder, predecessor, layers=2, *, successor_layers=None, callbacks=None, **settings):
    config = TheseusConfig(**arguments(folder, **settings))
    return TheseusTrainer(
        predecessor,
        layers,
        config,
        successor_layers=successor_layers,
        train_dataset=make_rows(predecessor),
        callbacks=callbacks,
    )


def drawn_layers(trainer, step):
    """Which of the successor's layers stand in at a step."""
    own = list(trainer.model.base_model.encoder.layer)
    with trainer._assembled(step):
        present = list(trainer.model.base_model.encoder.layer)
    return tuple(layer in present for layer in own)


@pytest.mark.parametrize(
    ("base", "coefficient", "first_full_step"),
    # SmBERT's Table 1: its first and second self-distillation.
    [(0.3, 0.0006, 1167), (0.4, 0.0008, 750)],
)
def test_the_replacing_rate_grows_linearly_to_one(base, coefficient, first_full_step, tmp_path):
    rates = {"replacing_rate": base, "replacing_rate_coefficient": coefficient}
    rate = make_trainer(tmp_path, make_predecessor(), **rates).replacing_rate
    assert rate(0) == base
    assert rate(100) == pytest.approx(base + 100 * coefficient)
    assert rate(first_full_step - 1) < 1 == rate(first_full_step) == rate(10 * first_full_step)


@pytest.mark.parametrize("max_steps", [200, 1500, 6000])
def test_a_shorter_or_longer_run_reaches_one_in_the_same_fraction(max_steps, tmp_path):
    whole = make_trainer(tmp_path, make_predecessor(), max_steps=3000)
    other = make_trainer(tmp_path, make_predecessor(), max_steps=max_steps, nominal_steps=3000)
    for fraction in (0.0, 0.1, 0.25, 0.38, 0.4, 1.0):
        rates = [trainer.replacing_rate(int(fraction * trainer.args.max_steps)) for trainer in (whole, other)]
        assert rates[0] == pytest.approx(rates[1], abs=1e-9)
    assert other.replacing_rate(int(0.4 * max_steps)) == 1 > other.replacing_rate(int(0.38 * max_steps))


def test_draws_depend_on_seed_and_step_alone(tmp_path):
    predecessor = make_predecessor(num_hidden_layers=8)
    trainers = [make_trainer(tmp_path, predecessor, 8, replacing_rate=0.5, seed=seed) for seed in (1, 1, 2)]
    draws = []
    for trainer in trainers:
        draws.append([drawn_layers(trainer, step) for step in range(20)])
        torch.rand(3)
    assert draws[0] == draws[1] != draws[2]
    assert drawn_layers(trainers[0], 7) == draws[0][7]


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_every_module_is_drawn_for_itself_as_often_as_the_rate_says(rate, tmp_path):
    trainer = make_trainer(tmp_path, make_predecessor(), replacing_rate=rate, replacing_rate_coefficient=1e-12)
    steps = 2000
    drawn = torch.tensor([drawn_layers(trainer, step) for step in range(steps)]).float()
    # Four standard deviations.
    close = 4 * (rate * (1 - rate) / steps) ** 0.5
    assert drawn.mean(0).tolist() == pytest.approx([rate] * 2, abs=close)
    # Neither the layers of a step nor a layer's steps go together.
    assert drawn.prod(1).mean().item() == pytest.approx(rate**2, abs=close)
    assert (drawn[1:] * drawn[:-1]).mean(0).tolist() == pytest.approx([rate**2] * 2, abs=close)


def test_a_layer_stands_in_its_groups_place(tmp_path):
    predecessor = make_predecessor(num_hidden_layers=6)
    trainer = make_trainer(tmp_path, predecessor, 3, replacing_rate=0.5)
    own, before = list(trainer.model.bert.encoder.layer), list(predecessor.bert.encoder.layer)
    seen = set()
    for step in range(40):
        drawn = drawn_layers(trainer, step)
        expected = [layer for i in range(3) for layer in ([own[i]] if drawn[i] else before[2 * i : 2 * i + 2])]
        with trainer._assembled(step):
            assert list(trainer.model.bert.encoder.layer) == expected
        assert list(trainer.model.bert.encoder.layer) == own
        seen.add(drawn)
    assert len(seen) == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_successors_layers_change(family, tmp_path):
    predecessor = make_predecessor(family)
    before = snapshot(predecessor)
    trainer = make_trainer(tmp_path, predecessor, FAMILIES[family], replacing_rate=0.5)
    start = snapshot(trainer.model)
    trainer.train()
    assert_same(before, predecessor.state_dict())
    assert all(parameter.grad is None for parameter in predecessor.parameters())
    assert changed(start, trainer.model.state_dict()) == {name for name in start if ".encoder.layer." in name}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns(head, tmp_path):
    predecessor = make_predecessor(head=head)
    rows = make_rows(predecessor)
    trainer = make_trainer(tmp_path, predecessor, replacing_rate=0.5, max_steps=30, learning_rate=1e-2)
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < 0.9 * before


def test_at_rate_one_the_successor_trains_alone(tmp_path):
    predecessor = make_predecessor(hidden_dropout_prob=0.1)
    alone = make_successor(predecessor, 2).requires_grad_(False)
    alone.bert.encoder.layer.requires_grad_(True)
    trainer = make_trainer(tmp_path, predecessor, **ALWAYS)
    trainer.train()
    Trainer(alone, TrainingArguments(**arguments(tmp_path)), train_dataset=make_rows(predecessor)).train()
    assert_same(alone.state_dict(), trainer.model.state_dict())


@pytest.mark.parametrize("head", HEADS)
def test_with_no_layer_drawn_the_predecessor_speaks_and_nothing_is_learnt(head, tmp_path):
    predecessor = make_predecessor(head=head)
    trainer = make_trainer(tmp_path, predecessor, **NEVER, weight_decay=0.0)
    before = snapshot(trainer.model)
    batch = inputs_for(predecessor, labels=True)
    with torch.no_grad():
        expected = predecessor(**batch).loss
    assert torch.equal(trainer.compute_loss(trainer.model.train(), batch), expected)
    trainer.train()
    assert_same(before, trainer.model.state_dict())


def test_a_mixture_is_trained_through_the_frozen_layers(tmp_path):
    predecessor = make_predecessor()
    trainer = make_trainer(tmp_path, predecessor, replacing_rate=0.5)
    trainer.state.global_step = next(step for step in range(100) if drawn_layers(trainer, step) == (True, False))
    batch = inputs_for(predecessor, labels=True)
    mixture = copy.deepcopy(predecessor).requires_grad_(True)
    own, before = trainer.model.bert.encoder.layer, predecessor.bert.encoder.layer
    mixture.bert.encoder.layer = torch.nn.ModuleList(copy.deepcopy(layer) for layer in (own[0], before[2], before[3]))
    loss, expected = trainer.compute_loss(trainer.model.train(), batch), mixture(**batch).loss
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    for name, parameter in own[0].named_parameters():
        assert torch.equal(parameter.grad, mixture.bert.encoder.layer[0].get_parameter(name).grad), name
    assert all(parameter.grad is None for parameter in (*own[1].parameters(), *before.parameters()))


def test_frozen_layers_have_no_dropout_while_the_successors_do(tmp_path):
    predecessor = make_predecessor(hidden_dropout_prob=0.5, classifier_dropout=0.0)
    trainer = make_trainer(tmp_path, predecessor.train(), replacing_rate=0.5)
    trainer.model.train()
    assert all(layer.training for layer in trainer.model.bert.encoder.layer)
    assert not any(module.training for group in trainer.groups for layer in group for module in layer.modules())


def test_evaluation_is_the_successors_alone(tmp_path):
    predecessor = make_predecessor()
    trainer = make_trainer(tmp_path, predecessor, **NEVER)
    batch = inputs_for(predecessor, batch_size=ROWS, labels=True)
    with torch.no_grad():
        expected = trainer.model.eval()(**batch)
    output = trainer.predict(make_rows(predecessor))
    assert output.metrics["test_loss"] == pytest.approx(expected.loss.item(), rel=1e-6)
    assert torch.equal(torch.tensor(output.predictions), expected.logits)
    assert not torch.equal(expected.logits, predecessor(**batch).logits)


def test_the_checkpoint_holds_the_successor_alone(tmp_path):
    predecessor = make_predecessor("mobilebert_md-stages")
    trainer = make_trainer(tmp_path, predecessor, 1, save_strategy="steps", save_steps=3)
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-6"
    assert weights(folder).keys() == make_successor(predecessor, 1).state_dict().keys()
    loaded, info = type(predecessor).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.num_hidden_layers == 1
    assert_same(trainer.model.state_dict(), loaded.state_dict())


def test_a_run_that_continues_ends_with_the_weights_of_one_that_was_not_interrupted(tmp_path):
    # Three steps an epoch: the checkpoint of step 4 lies inside the second.
    settings = {"replacing_rate": 0.4, "replacing_rate_coefficient": 0.05, "max_steps": 8}
    settings |= {"save_strategy": "steps", "save_steps": 4}
    ends = []
    for name, stop in (("whole", None), ("stopped", 5)):
        predecessor = make_predecessor(hidden_dropout_prob=0.1)
        callbacks = [] if stop is None else [StopAt(stop)]
        trainer = make_trainer(tmp_path / name, predecessor, callbacks=callbacks, **settings)
        trainer.train()
        if stop is not None:
            trainer = make_trainer(tmp_path / name, predecessor, **settings)
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter.zero_()
            trainer.train(resume_from_checkpoint=str(tmp_path / name / "run" / "checkpoint-4"))
        assert trainer.state.global_step == 8
        ends.append(snapshot(trainer.model))
    assert_same(*ends)


def test_gradient_checkpointing_changes_no_weight(tmp_path):
    ends = []
    for checkpointing in (False, True):
        predecessor = make_predecessor(hidden_dropout_prob=0.1)
        # SGD: Adam turns rounding of a gradient near zero into a whole step.
        settings = {"replacing_rate": 0.5, "optim": "sgd", "learning_rate": 0.1}
        trainer = make_trainer(tmp_path, predecessor, **settings)
        if checkpointing:
            model = trainer.model
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        start = snapshot(trainer.model)
        trainer.train()
        ends.append(snapshot(trainer.model))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-6, atol=1e-6, msg=name)
    assert changed(start, ends[0])


def test_successors_can_have_successors(tmp_path):
    model = make_predecessor(num_hidden_layers=12)
    for layers in (6, 3):
        before = snapshot(model)
        trainer = make_trainer(tmp_path, model, layers, replacing_rate=0.5)
        assert [len(group) for group in trainer.groups] == [2] * layers
        trainer.train()
        assert_same(before, model.state_dict())
        model = trainer.model
    assert len(model.bert.encoder.layer) == model.config.num_hidden_layers == 3
    model.save_pretrained(tmp_path / "saved")
    assert_same(model.state_dict(), type(model).from_pretrained(tmp_path / "saved").state_dict())


def test_a_successor_starts_from_the_first_layers_or_from_those_named():
    predecessor = make_predecessor()
    for named, expected in ((None, (0, 1)), ([1, 3], (1, 3))):
        successor = make_successor(predecessor, 2, named)
        for layer, source in zip(successor.bert.encoder.layer, expected, strict=True):
            assert_same(layer.state_dict(), predecessor.bert.encoder.layer[source].state_dict())
        rest = {name: tensor for name, tensor in predecessor.state_dict().items() if ".encoder." not in name}
        assert_same(rest, {name: successor.state_dict()[name] for name in rest})
        assert successor.classifier.weight.data_ptr() != predecessor.classifier.weight.data_ptr()


def test_the_replacing_rate_is_logged(tmp_path):
    settings = {"replacing_rate": 0.5, "replacing_rate_coefficient": 0.1, "logging_strategy": "steps"}
    trainer = make_trainer(tmp_path, make_predecessor(), logging_steps=2, **settings)
    trainer.train()
    assert [entry["replacing_rate"] for entry in trainer.state.log_history if "loss" in entry] == [0.7, 0.9, 1.0]


@pytest.mark.parametrize(
    ("layers", "settings", "message"),
    [
        (3, {}, r"`num_layers` \(3\) must divide the predecessor's 4 layers"),
        (0, {}, r"`num_layers` \(0\) must divide"),
        (8, {}, r"`num_layers` \(8\) must divide"),
        (2, {"successor_layers": [0]}, r"`successor_layers` must be `num_layers` \(2\) .*, got \[0\]"),
        (2, {"successor_layers": [0, 4]}, r"`successor_layers` must be .* below 4, .*got \[0, 4\]"),
        (2, {"successor_layers": [2, 1]}, r"`successor_layers` must be .*ascending.*got \[2, 1\]"),
        (2, {"successor_layers": [1, 1]}, r"`successor_layers` must be .*ascending.*got \[1, 1\]"),
        (2, {"successor_layers": [-1, 1]}, r"`successor_layers` must be .*got \[-1, 1\]"),
        (2, {"replacing_rate": 1.1}, r"`replacing_rate` must lie in \[0, 1\], got 1.1"),
        (2, {"replacing_rate": -0.1}, r"`replacing_rate` must lie in \[0, 1\], got -0.1"),
        (2, {"replacing_rate_coefficient": 0.0}, "`replacing_rate_coefficient` must be positive, got 0.0"),
        (2, {"nominal_steps": 0}, "`nominal_steps` must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(layers, settings, message, tmp_path):
    predecessor = make_predecessor()
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, predecessor, layers, **settings)
    assert all(parameter.requires_grad for parameter in predecessor.parameters())


# The stage


SETTINGS = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 32, "max_length": 16, "replacing_rate_coefficient": 0.05}


@pytest.mark.long
def test_a_killed_run_continues_to_the_same_weights(finetuned, shared_reviews, tmp_path):
    places = [str(finetuned), str(shared_reviews)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    report = theseus(*places, whole, layers=1, **SETTINGS)
    assert report == json.loads((whole / "metrics.json").read_text())
    assert report["metrics"]["accuracy"] == 1.0
    assert {"layers": 1, "replacing_rate": 0.3, "epochs": 3}.items() <= report["settings"].items()
    assert report["steps"] == 18
    assert json.loads((whole / "config.json").read_text())["num_hidden_layers"] == 1
    rows = compactbert.predict(whole, ["film is good", "story is bad"])
    assert [row["label"] for row in rows] == ["pos", "neg"]

    code = f"from compactbert.training import theseus\ntheseus(*{[*places, str(killed)]!r}, layers=1, **{SETTINGS!r})"
    kill_when([sys.executable, "-c", code], tmp_path / "killed.partial", "checkpoint-*/trainer_state.json")
    assert not killed.exists()
    theseus(*places, killed, layers=1, **SETTINGS)
    assert_same(weights(whole), weights(killed))


def test_a_budget_squeezes_the_schedule(finetuned, shared_reviews, tmp_path, monkeypatch):
    trainers = []

    class Recorder(TheseusTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            trainers.append(self)

    monkeypatch.setattr(sys.modules["compactbert.training.theseus"], "TheseusTrainer", Recorder)
    theseus(finetuned, str(shared_reviews), tmp_path / "out", layers=1, max_steps=3, **SETTINGS)
    # 18 steps at 0.05 a step become 3 of six times as much.
    assert trainers[0].replacing_rate(1) == pytest.approx(0.3 + 6 * 0.05)


def test_a_predecessor_without_a_trained_head_is_refused(tiny_model, shared_reviews, tmp_path):
    with pytest.raises(ValueError, match="has no trained weights for .*: fine-tune it on the task first"):
        theseus(tiny_model, str(shared_reviews), tmp_path / "out", layers=1, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 2}, r"`num_layers` \(2\) must divide the predecessor's 3 layers"),
        ({"layers": 1, "successor_layers": [3]}, "`successor_layers` must be"),
        ({"layers": 1, "training_arguments": {"max_steps": 5}}, "is not for `training_arguments`: use `max_steps`"),
        ({"layers": 1, "replacing_rate": 2.0}, r"`replacing_rate` must lie in \[0, 1\]"),
    ],
)
def test_a_run_that_cannot_work_leaves_no_output(finetuned, shared_reviews, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        theseus(finetuned, str(shared_reviews), tmp_path / "out", **SETTINGS | settings)
    assert list(tmp_path.iterdir()) == []
