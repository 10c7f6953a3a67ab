"""The options of fine-tuning: each would fail a test if it did nothing."""

import json
import math
import os
import sys
from collections import Counter

import pandas as pd
import pytest
import torch
from datasets import Dataset
from families import build, changed, snapshot
from runs import FINETUNING, TRAINER, in_two_processes, stopped_at, weights
from torch import nn
from transformers import DefaultDataCollator
from typer.testing import CliRunner

import compactbert
from compactbert.cli import app
from compactbert.compression import hide_tokens
from compactbert.convert import load_pretrained
from compactbert.data import load_task
from compactbert.evaluation import evaluate
from compactbert.training import DistillationConfig, DistillationTrainer, FinetuningConfig, FinetuningTrainer
from compactbert.training.adversarial import Disturbance
from compactbert.training.losses import consistency_loss


FAMILIES = ("smbert-uneven", "mobilebert_md-stages", "ib_bert-uniform")
RATE = 1e-3


def rows_of(count=64, seed=0, rare=2):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 60, (count, 7), generator=generator)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": [int(i % rare == 0) for i in range(count)]})


def trainer_for(folder, family="smbert-uneven", model=None, head="ForSequenceClassification", rows=None, **settings):
    problem = settings.pop("problem", "single_label_classification")
    defaults = TRAINER | {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": RATE}
    defaults |= {"logging_steps": 1, "lr_scheduler_type": "constant"}
    return FinetuningTrainer(
        model or build(family, head),
        FinetuningConfig(output_dir=str(folder), **defaults | settings),
        problem,
        train_dataset=rows_of() if rows is None else rows,
        eval_dataset=rows_of(16, seed=1),
        data_collator=DefaultDataCollator(),
    )


def trained(folder, **settings):
    """The weights before and after, and the trainer."""
    trainer = trainer_for(folder, **settings)
    before = snapshot(trainer.model)
    trainer.train()
    return before, trainer.model.state_dict(), trainer


def difference(one, other):
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


# Schedules: the learning rate of steps, counted from 0, as a share of the peak, over 20 steps.
def cosine(progress):
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES = {
    "linear": ({"lr_scheduler_type": "linear"}, {0: 1.0, 10: 0.5, 19: 0.05}),
    "warm-up": ({"lr_scheduler_type": "linear", "warmup_steps": 4}, {0: 0.0, 2: 0.5, 4: 1.0, 12: 0.5}),
    "cosine": ({"lr_scheduler_type": "cosine"}, {0: 1.0, 5: cosine(0.25), 15: cosine(0.75)}),
    "cosine with restarts": (
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}},
        {0: 1.0, 5: cosine(0.5), 10: 1.0, 15: cosine(0.5)},
    ),
    "warm restarts": (
        {"torch_scheduler": "CosineAnnealingWarmRestarts", "lr_scheduler_kwargs": {"T_0": 4, "T_mult": 2}},
        {0: 1.0, 2: cosine(0.5), 4: 1.0, 8: cosine(0.5), 12: 1.0},
    ),
    "cosine annealing": (
        {"torch_scheduler": "CosineAnnealingLR", "lr_scheduler_kwargs": {"T_max": 10}},
        {0: 1.0, 5: 0.5, 10: 0.0},
    ),
    "cyclic": (
        {
            "torch_scheduler": "CyclicLR",
            "lr_scheduler_kwargs": {"base_lr": RATE / 10, "max_lr": RATE, "step_size_up": 5, "mode": "triangular2"},
        },
        {0: 0.1, 5: 1.0, 10: 0.1, 15: 0.55},
    ),
    "step": (
        {"torch_scheduler": "StepLR", "lr_scheduler_kwargs": {"step_size": 6, "gamma": 0.5}},
        {0: 1.0, 5: 1.0, 6: 0.5, 12: 0.25},
    ),
    "exponential": (
        {"torch_scheduler": "ExponentialLR", "lr_scheduler_kwargs": {"gamma": 0.9}},
        {0: 1.0, 1: 0.9, 10: 0.9**10},
    ),
    "linear decay to a share": (
        {
            "torch_scheduler": "LinearLR",
            "lr_scheduler_kwargs": {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 20},
        },
        {0: 1.0, 1: 0.955, 10: 0.55},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_have_their_values_at_named_steps(tmp_path, name):
    settings, values = SCHEDULES[name]
    _, _, trainer = trained(tmp_path, max_steps=20, per_device_train_batch_size=2, **settings)
    rates = [entry["learning_rate"] / RATE for entry in trainer.state.log_history if "learning_rate" in entry]
    assert len(rates) == 20
    for step, value in values.items():
        assert rates[step] == pytest.approx(value, abs=1e-6), step


@pytest.mark.parametrize(
    "setting", [{"lr_scheduler_type": "reduce_lr_on_plateau"}, {"torch_scheduler": "ReduceLROnPlateau"}]
)
@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("loss", "min")])
def test_a_plateau_lowers_the_rate_whichever_way_the_metric_goes(tmp_path, setting, metric, mode):
    trainer = trainer_for(
        tmp_path,
        max_steps=8,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model=metric,
        lr_scheduler_kwargs={"factor": 0.5, "patience": 1, "threshold": 0.0},
        **setting,
    )
    # Better for three evaluations, then never again.
    values = iter([0.1, 0.2, 0.3, *[0.25] * 6] if mode == "max" else [0.9, 0.8, 0.7, *[0.75] * 6])
    trainer.evaluate = lambda *args, **kwargs: {f"eval_{metric}": next(values)}
    trainer.train()
    rates = [entry["learning_rate"] / RATE for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.5, 0.5, 0.25])


def test_lamb_makes_steps_of_its_own(tmp_path):
    before, adamw, _ = trained(tmp_path)
    same, lamb, trainer = trained(tmp_path, optimizer="lamb")
    assert type(trainer.optimizer.optimizer).__name__ == "Lamb"
    assert difference(before, same) == 0
    assert len(changed(before, lamb)) == len(changed(before, adamw))
    assert difference(adamw, lamb) > 1e-5
    # Every weight moves by about the same share of its length; with AdamW by about the same distance.
    shares = {
        kind: [((after[name] - before[name]).norm() / before[name].norm()).item() for name in changed(before, after)]
        for kind, after in (("lamb", lamb), ("adamw", adamw))
    }
    assert max(shares["lamb"]) / min(shares["lamb"]) < 3 < max(shares["adamw"]) / min(shares["adamw"])


def test_any_optimizer_of_transformers(tmp_path):
    before, after, trainer = trained(tmp_path, optim="adafactor")
    assert type(trainer.optimizer.optimizer).__name__ == "Adafactor"
    assert changed(before, after)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(tmp_path):
    _, single, _ = trained(tmp_path)
    _, mixed, _ = trained(tmp_path, bf16=True)
    assert 0 < difference(single, mixed) < 0.05
    assert all(value.dtype == torch.float32 for value in mixed.values() if value.is_floating_point())


@pytest.mark.parametrize("problem", ["single_label_classification", "regression"])
def test_accumulated_gradients_are_those_of_a_large_batch(tmp_path, problem):
    def run(**settings):
        rows = rows_of()
        model = build("smbert-uneven", "ForSequenceClassification")
        if problem == "regression":
            rows = rows.remove_columns("labels").add_column("labels", [i / 7 for i in range(64)])
            model = build("smbert-uneven", "ForSequenceClassification", num_labels=1, problem_type=problem)
        return trained(tmp_path, rows=rows, model=model, problem=problem, optim="sgd", **settings)[1]

    large = run(per_device_train_batch_size=16)
    small = run(per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert difference(large, small) < 1e-6
    assert difference(large, run(per_device_train_batch_size=4)) > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [0, 2])
def test_frozen_layers_do_not_learn_and_the_others_do(tmp_path, family, count):
    before, after, _ = trained(tmp_path, family=family, freeze_layers=count)
    frozen = {name for name in before if ".embeddings." in name}
    frozen |= {name for name in before for i in range(count) if f".layer.{i}." in name}
    assert changed(before, after) == set(before) - frozen


def test_layers_learn_one_after_the_other_from_the_top(tmp_path):
    # Three layers: the head alone in steps 0 and 1, layer 2 from step 2, ..., the embeddings from step 8.
    for steps, learning in ((2, ()), (4, (2,)), (6, (1, 2)), (8, (0, 1, 2))):
        before, after, _ = trained(tmp_path, unfreeze_steps=2, max_steps=steps)
        parts = {name for name in before if ".embeddings." in name or ".layer." in name}
        expected = {name for name in parts for i in learning if f".layer.{i}." in name}
        assert changed(before, after) & parts == expected
        assert "classifier.weight" in changed(before, after)
    before, after, _ = trained(tmp_path, unfreeze_steps=2, max_steps=9)
    assert changed(before, after) == set(before)


def test_unfreezing_leaves_frozen_layers_frozen(tmp_path):
    before, after, _ = trained(tmp_path, unfreeze_steps=1, freeze_layers=1, max_steps=8)
    lowest = {name for name in before if ".embeddings." in name or ".layer.0." in name}
    assert changed(before, after) == set(before) - lowest


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_decay_from_layer_to_layer(tmp_path, family):
    trainer = trainer_for(tmp_path, family=family, layer_decay=0.5, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    rates = {names[p]: group["lr"] / RATE for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == set(names.values())
    for name, rate in rates.items():
        layer = next((i for i in range(3) if f".layer.{i}." in name), None)
        expected = 0.5**4 if ".embeddings." in name else 1.0 if layer is None else 0.5 ** (3 - layer)
        assert rate == expected, name
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    plain = trainer_for(tmp_path, family=family, weight_decay=0.1)
    names = {parameter: name for name, parameter in plain.model.named_parameters()}
    assert decays == {
        names[p]: group["weight_decay"] for group in plain.create_optimizer().param_groups for p in group["params"]
    }
    # A schedule keeps the ratios.
    trainer = trainer_for(tmp_path, family=family, layer_decay=0.5, max_steps=4, lr_scheduler_type="linear")
    trainer.create_optimizer_and_scheduler(4)
    for _ in range(2):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert max(rates) == pytest.approx(RATE / 2)
    assert min(rates) == pytest.approx(RATE / 2 * 0.5**4)


def test_balanced_class_weights_make_classes_count_alike(tmp_path):
    rows = rows_of(rare=8)
    trainer = trainer_for(tmp_path, rows=rows, class_weights="balanced")
    assert trainer.class_weights.tolist() == pytest.approx([64 / 2 / 56, 64 / 2 / 8])
    model = trainer.model.eval()
    batch = DefaultDataCollator()(list(rows))
    losses = nn.functional.cross_entropy(model(input_ids=batch["input_ids"]).logits, batch["labels"], reduction="none")
    of_class = [losses[batch["labels"] == i].mean() for i in range(2)]
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(sum(of_class).item() / 2, rel=1e-5)
    assert trainer_for(tmp_path, class_weights=[1.0, 3.0]).class_weights.tolist() == [1.0, 3.0]
    plain, weighted = (trained(tmp_path, rows=rows, **s)[1] for s in ({}, {"class_weights": "balanced"}))
    assert difference(plain, weighted) > 1e-5


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_labels_are_smoothed_with_class_weights_too(tmp_path, weights):
    trainer = trainer_for(tmp_path, label_smoothing_factor=0.2, class_weights=weights)
    batch = DefaultDataCollator()(list(rows_of(8)))
    model = trainer.model.eval()
    logits = model(input_ids=batch["input_ids"]).logits
    weight = None if weights is None else torch.tensor(weights)
    losses = nn.functional.cross_entropy(logits, batch["labels"], weight, label_smoothing=0.2, reduction="none")
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(losses.mean().item(), rel=1e-5)


def test_class_weights_of_tokens_leave_padding_out(tmp_path):
    tags = [[0, 0, 0, 1, -100, 0, 0]] * 16
    rows = rows_of(16).remove_columns("labels").add_column("labels", tags)
    model = build("smbert-uneven", "ForTokenClassification")
    trainer = trainer_for(tmp_path, model=model, rows=rows, class_weights="balanced", problem="token_classification")
    assert trainer.class_weights.tolist() == pytest.approx([6 / 2 / 5, 6 / 2 / 1])
    trainer.train()


def test_balanced_sampling_draws_classes_alike_in_an_order_of_seed_and_epoch(tmp_path):
    rows = rows_of(800, rare=8)
    sampler = trainer_for(tmp_path, rows=rows, balanced_sampling=True)._get_train_sampler()
    drawn = list(sampler)
    counts = Counter(rows["labels"][i] for i in drawn)
    assert len(drawn) == 800
    assert 340 < counts[1] < 460
    assert list(sampler) == drawn
    sampler.set_epoch(1)
    assert list(sampler) != drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_fgm_adds_the_loss_a_step_along_the_gradient(tmp_path, family):
    model = build(family, "ForSequenceClassification")
    trainer = trainer_for(tmp_path, model=model, adversarial="fgm", adversarial_epsilon=0.5)
    batch = DefaultDataCollator()(list(rows_of(8)))
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(model, dict(batch), torch.tensor(8))
    gradient = model.get_input_embeddings().weight.grad.clone()

    # The same by hand, from `inputs_embeds`.
    embeds = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    plain = model(inputs_embeds=embeds, labels=batch["labels"]).loss
    (direction,) = torch.autograd.grad(plain, embeds)
    direction /= direction.flatten(1).norm(dim=1)[:, None, None]
    disturbed = model(inputs_embeds=embeds + 0.5 * direction, labels=batch["labels"]).loss
    assert disturbed > plain
    assert loss.item() == pytest.approx((plain + disturbed).item(), rel=1e-5)
    model.zero_grad()
    embeds = model.get_input_embeddings()(batch["input_ids"])
    total = model(inputs_embeds=embeds, labels=batch["labels"]).loss
    (total + model(inputs_embeds=embeds + 0.5 * direction, labels=batch["labels"]).loss).backward()
    assert torch.allclose(model.get_input_embeddings().weight.grad, gradient, atol=1e-5)
    assert not model.get_input_embeddings()._forward_hooks


def test_freelb_climbs_within_its_distance(tmp_path, monkeypatch):
    lengths, losses = [], []
    climb = Disturbance.climb

    def watch(self, step):
        climb(self, step)
        lengths.append(self.value.flatten(1).norm(dim=1))

    monkeypatch.setattr(Disturbance, "climb", watch)
    model = build("smbert-uneven", "ForSequenceClassification")
    settings = {"adversarial": "freelb", "adversarial_epsilon": 0.1, "adversarial_steps": 4}
    trainer = trainer_for(tmp_path, model=model, **settings, adversarial_step_size=1.0)
    compute_loss = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: losses.append(compute_loss(*args, **kwargs)) or losses[-1]
    batch = DefaultDataCollator()(list(rows_of(8)))
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(model, dict(batch), torch.tensor(8))
    assert len(losses) == 4
    assert loss.item() == pytest.approx(sum(losses).item())
    # Every step is longer than the distance, so that each ends on its edge.
    assert len(lengths) == 3
    assert all(torch.allclose(length, torch.tensor(0.1)) for length in lengths)
    with torch.no_grad():
        plain = model.eval()(**batch).loss
    assert losses[0].item() * 4 == pytest.approx(plain.item(), abs=0.1)
    assert losses[-1] > losses[0]


@pytest.mark.parametrize("settings", [{"adversarial": "fgm"}, {"adversarial": "freelb"}, {"r_drop": 1.0}])
@pytest.mark.parametrize("family", FAMILIES)
def test_robust_training_trains(tmp_path, family, settings):
    before, plain, _ = trained(tmp_path, family=family)
    _, robust, trainer = trained(tmp_path, family=family, adversarial_epsilon=0.1, **settings)
    assert changed(before, robust) == changed(before, plain)
    assert difference(plain, robust) > 0
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_r_drop_is_the_divergence_of_two_passes(tmp_path):
    one, other = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.5]])
    p, q = one.softmax(-1), other.softmax(-1)
    expected = 0.5 * ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1))
    assert torch.allclose(consistency_loss(one, other), expected)
    assert consistency_loss(one, one).item() == 0

    batch = DefaultDataCollator()(list(rows_of(8)))

    def loss(dropout, weight, train=True):
        model = build("smbert-uneven", "ForSequenceClassification", hidden_dropout_prob=dropout)
        trainer = trainer_for(tmp_path, model=model, r_drop=weight)
        torch.manual_seed(0)
        return trainer.compute_loss(model.train(train), dict(batch)).item()

    # Without dropout both passes are one; nothing is added in evaluation.
    assert loss(0.0, 5.0) == pytest.approx(loss(0.0, 0.0), rel=1e-5)
    assert loss(0.5, 5.0, train=False) == pytest.approx(loss(0.5, 0.0, train=False))
    assert loss(0.5, 5.0) - loss(0.5, 1.0) == pytest.approx(4 * (loss(0.5, 1.0) - loss(0.5, 1e-9)), rel=1e-3)
    assert loss(0.5, 5.0) > loss(0.5, 1.0) + 1e-4


def test_r_drop_with_accumulation_is_that_of_a_large_batch(tmp_path):
    def run(**settings):
        return trained(tmp_path, optim="sgd", **settings)[1]

    large = run(r_drop=1.0, per_device_train_batch_size=16)
    small = run(r_drop=1.0, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    # The families' tests have no dropout, so that both passes are one.
    assert difference(large, small) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("structured", [False, True])
def test_zeros_are_the_smallest_weights_and_stay_zero(tmp_path, family, structured):
    before, after, trainer = trained(tmp_path, family=family, sparsity=0.5, structured_sparsity=structured)
    dense = build(family, "ForSequenceClassification").state_dict()
    matrices = {f"{name}.weight" for name, module in trainer.model.named_modules() if isinstance(module, nn.Linear)}
    matrices = {name for name in matrices if ".layer." in name}
    for name, weight in after.items():
        zeros = weight == 0
        if name not in matrices:
            assert not zeros.any(), name
            continue
        assert torch.equal(zeros, before[name] == 0)
        norms = dense[name].norm(dim=1) if structured else dense[name].abs()
        gone = zeros.all(dim=1) if structured else zeros
        assert gone.float().mean() == pytest.approx(0.5, abs=0.51 / len(gone))
        assert zeros.float().mean() == gone.float().mean()
        assert norms[gone].max() <= norms[~gone].min()
    assert changed(before, after) == set(before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "`sparsity` must be at least 0 and below 1"),
        ({"optimizer": "sgd"}, "`optimizer` must be one of"),
        ({"adversarial": "pgd"}, "`adversarial` must be one of"),
        ({"layer_decay": 0}, "`layer_decay` must be positive"),
        ({"adversarial_step_size": 0.0}, "`adversarial_step_size` must be positive, got 0.0"),
        ({"freeze_layers": -1}, "`freeze_layers` must be at least 0"),
        ({"freeze_layers": 4}, "`freeze_layers` must be at most the model's 3 layers, got 4"),
        ({"unfreeze_steps": 0}, "`unfreeze_steps` must be at least 1"),
        ({"torch_scheduler": "LambdaLR"}, "`torch_scheduler` must be one of"),
        ({"torch_scheduler": "StepLR"}, "`lr_scheduler_kwargs` None do not fit 'StepLR'"),
        ({"lr_scheduler_kwargs": {"cycles": 3}, "lr_scheduler_type": "cosine"}, "do not fit .*cycles"),
        ({"torch_scheduler": "CyclicLR", "layer_decay": 0.9}, "sets every layer's rate"),
        ({"class_weights": [1.0]}, "`class_weights` must be 'balanced' or a weight for each of"),
        ({"class_weights": "equal"}, "`class_weights` must be 'balanced'"),
        ({"r_drop": 1.0, "problem": "regression"}, "`r_drop` needs one of the problems .* this is 'regression'"),
        ({"balanced_sampling": True, "problem": "token_classification"}, "`balanced_sampling` needs one of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, **settings)


RESUMED = {
    "cyclic": SCHEDULES["cyclic"][0],
    "plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}},
    "layers and classes": {"unfreeze_steps": 2, "layer_decay": 0.8, "class_weights": "balanced", "r_drop": 0.5},
    "freelb": {
        "balanced_sampling": True,
        "adversarial": "freelb",
        "optimizer": "lamb",
        "gradient_accumulation_steps": 2,
    },
}


def test_a_step_after_the_last_changes_nothing(tmp_path):
    _, whole, _ = trained(tmp_path, save_strategy="steps", save_steps=4)
    trainer = trainer_for(tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert difference(whole, trainer.model.state_dict()) == 0


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_that_continues_ends_as_one_that_was_not_stopped(tiny_model, reviews, tmp_path, monkeypatch, name):
    monkeypatch.setattr("compactbert.training.run.MAX_STEPS_PER_CHECKPOINT", 2)
    arguments = FINETUNING | {"epochs": 1, "subword_dropout": 0.3, "max_train_rows": 70}
    arguments |= {"training_arguments": RESUMED[name]}
    whole = compactbert.finetune(tiny_model, str(reviews), tmp_path / "whole", **arguments)
    with stopped_at(3):
        compactbert.finetune(tiny_model, str(reviews), tmp_path / "stopped", **arguments)
    report = compactbert.finetune(tiny_model, str(reviews), tmp_path / "stopped", **arguments)
    assert report["metrics"] == whole["metrics"]
    assert report["losses"] == whole["losses"]
    assert difference(weights(tmp_path / "whole"), weights(tmp_path / "stopped")) == 0


def test_every_epoch_reads_the_rows_with_other_tokens(tiny_model, reviews, tmp_path, monkeypatch):
    seen, plain = [], FinetuningTrainer.__init__

    def watched(self, *args, **kwargs):
        seen.append(kwargs["train_dataset"])
        plain(self, *args, **kwargs)

    monkeypatch.setattr(FinetuningTrainer, "__init__", watched)
    arguments = {"epochs": 1.5, "max_length": 32, "batch_size": 20}
    whole = compactbert.finetune(tiny_model, str(reviews), tmp_path / "whole", **arguments)
    report = compactbert.finetune(tiny_model, str(reviews), tmp_path / "hidden", subword_dropout=0.5, **arguments)
    assert (report["rows"], report["steps"]) == (whole["rows"], whole["steps"])
    before, after = seen
    rows = len(before)
    assert after["labels"][:] == 2 * before["labels"][:]
    epochs = after["input_ids"][:rows], after["input_ids"][rows:]
    assert epochs[0] != epochs[1]
    assert all(sum(map(len, epoch)) > sum(before["length"]) for epoch in epochs)


def test_a_model_reads_words_without_their_tokens_if_it_has_learnt_to(tiny_model, reviews, tmp_path):
    task, accuracy = load_task(str(reviews)), {}
    for share in (0.0, 0.5):
        folder = tmp_path / str(share)
        arguments = FINETUNING | {"epochs": 6, "subword_dropout": share}
        compactbert.finetune(tiny_model, str(reviews), folder, **arguments)
        model, tokenizer = load_pretrained(folder, "ForSequenceClassification")
        accuracy[share] = [
            evaluate(model, hide_tokens(tokenizer, hidden, seed=0), task, max_length=32)["metrics"]["accuracy"]
            for hidden in (0.0, 1.0)
        ]
    assert accuracy[0.0][0] == accuracy[0.5][0] == 1
    assert accuracy[0.0][1] < 0.8 < accuracy[0.5][1]


def test_training_arguments_from_the_command_line(tiny_model, reviews, tmp_path):
    options = ["--epochs", "2", "--learning-rate", "3e-3", "--batch-size", "8", "--max-length", "16"]
    further = ["lr_scheduler_type=cosine", "gradient_accumulation_steps=2", "report_to=tensorboard"]
    further += ["adversarial=fgm", "adversarial_epsilon=1e-3", "lr_scheduler_kwargs={num_cycles: 0.5}"]
    options += [word for pair in further for word in ("--set", pair)]
    output, json_file = tmp_path / "out", tmp_path / "report.json"
    arguments = ["finetune", "--model", tiny_model, "--task", reviews, "--output", output, "--json", json_file]
    result = CliRunner().invoke(app, [*map(str, arguments), *options])
    assert result.exit_code == 0, result.output
    report = json.loads(json_file.read_text())
    assert report["settings"]["training_arguments"]["adversarial_epsilon"] == 1e-3
    # 180 rows in batches of 8, two batches to a step.
    assert report["steps"] == 24
    assert not list(output.glob("runs*"))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "out-runs"))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "train/learning_rate", "eval/accuracy"} <= set(scalars)
    assert [event.step for event in events.Scalars("train/loss")] == [12, 24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 1e-3}, "`learning_rate` is not for `training_arguments`: use `learning_rate`"),
        ({"warmup_steps": 3}, "`warmup_steps` is not for `training_arguments`: use `warmup`"),
        ({"save_steps": 3}, "`save_steps` is not .*: it cannot be changed"),
        (
            {"lr_sheduler_type": "cosine"},
            r"no training argument 'lr_sheduler_type': did you mean \['lr_scheduler_type'",
        ),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be at least 1"),
        ({"lr_scheduler_type": "cosinus"}, "cosinus"),
        ({"r_drop": -1}, "`r_drop` must be at least 0"),
        ({"layer_decay": "much"}, "'layer_decay': 'much'} has a value of a wrong type"),
    ],
)
def test_training_arguments_that_are_wrong_leave_no_output(tiny_model, reviews, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        compactbert.finetune(tiny_model, str(reviews), tmp_path / "out", training_arguments=arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reviews.csv"]


def test_class_weights_find_a_rare_class(tiny_model, tmp_path):
    """With one row in ten, a model that is barely trained finds the rare class only if it counts as much."""
    words = ["film", "actor", "story", "music", "ending"]
    rows = [(f"{words[i % 5]} is {'good' if i % 10 else 'bad'}", "pos" if i % 10 else "neg") for i in range(200)]
    for split in ("train", "test"):
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / f"{split}.csv", index=False)
    scores = {}
    ways = {"plain": {}, "weights": {"class_weights": "balanced"}, "rows": {"balanced_sampling": True}}
    for name, further in ways.items():
        settings = FINETUNING | {"max_steps": 30, "training_arguments": further}
        report = compactbert.finetune(tiny_model, str(tmp_path), tmp_path / name, **settings)
        scores[name] = report["metrics"]["macro_f1"]
    assert scores["weights"] > scores["plain"]
    assert scores["rows"] > scores["plain"]


SHARED = {
    "classes": {"class_weights": "balanced", "adversarial": "fgm", "adversarial_epsilon": 0.1},
    "layers": {"r_drop": 1.0, "layer_decay": 0.8, "freeze_layers": 1},
    "rows": {"balanced_sampling": True, "gradient_accumulation_steps": 2},
}


def train_shared(folder, name, batch_size):
    settings = {"optim": "sgd", "per_device_train_batch_size": batch_size, "train_sampling_strategy": "sequential"}
    trainer = trainer_for(folder, rows=rows_of(rare=4), **settings, **SHARED[name])
    trainer.train()
    return trainer


def distil_shared(folder, batch_size, **further):
    """The student's states are projected to the teacher's width."""
    student, teacher = (build("smbert-uneven", "ForSequenceClassification", hidden_size=width) for width in (32, 40))
    settings = TRAINER | {"max_steps": 4, "per_device_train_batch_size": batch_size, "learning_rate": 0.1}
    settings |= {"optim": "sgd", "train_sampling_strategy": "sequential"}
    config = DistillationConfig(str(folder), hidden_state_weight=1.0, **settings, **further)
    rows, collator = rows_of(), DefaultDataCollator()
    trainer = DistillationTrainer(student, teacher, config, train_dataset=rows, data_collator=collator)
    trainer.train()
    return trainer


@pytest.mark.long
def test_two_processes_end_with_the_weights_of_one(tiny_model, reviews, tmp_path):
    said = in_two_processes(__file__, tmp_path, tiny_model, reviews)
    for name in SHARED:
        one = train_shared(tmp_path / "one", name, 16).model.state_dict()
        assert difference(one, weights(tmp_path / name)) < 1e-6, name
    one, two = distil_shared(tmp_path / "one", 16), torch.load(tmp_path / "distilled.pt")
    assert difference(one.model.state_dict(), two["model"]) < 1e-6
    assert difference(one.projections.state_dict(), two["projections"]) < 1e-6
    # 180 rows in two times 8 for a step; one process writes the result.
    report = json.loads((tmp_path / "task" / "metrics.json").read_text())
    assert (report["steps"], report["settings"]["processes"]) == (12, 2)
    assert "processes" not in report["command"]
    # All know the result of a command, and one reports it.
    (shown,) = tmp_path.glob("shown-by-*.json")
    assert shown.name == "shown-by-0.json"
    assert json.loads(shown.read_text()) == json.loads((tmp_path / "adapter" / "metrics.json").read_text())
    assert said.count("beside full fine-tuning") == 1


if __name__ == "__main__":
    for shared in SHARED:
        finished = train_shared(sys.argv[1], shared, 8)
        if finished.is_world_process_zero():
            finished.model.save_pretrained(f"{sys.argv[1]}/{shared}")
    finished = distil_shared(sys.argv[1], 8, teacher_cache=f"{sys.argv[1]}/cache")
    if finished.is_world_process_zero():
        parts = {"model": finished.model.state_dict(), "projections": finished.projections.state_dict()}
        torch.save(parts, f"{sys.argv[1]}/distilled.pt")
    compactbert.finetune(sys.argv[2], sys.argv[3], f"{sys.argv[1]}/task", **FINETUNING | {"epochs": 1})
    own = f"--output {sys.argv[1]}/adapter --json {sys.argv[1]}/shown-by-{os.environ['RANK']}.json"
    app(f"adapt --model {sys.argv[2]} --task {sys.argv[3]} --max-steps 2 {own}".split())
