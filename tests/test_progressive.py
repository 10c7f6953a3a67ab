import json
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from families import assert_same, build, changed, inputs_for, snapshot
from runs import TRAINER, in_two_processes
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

import compactbert
from compactbert.structure import ATTENTION_DROPOUT
from compactbert.training import ProgressiveTransferConfig, ProgressiveTransferTrainer, measure_transfer
from compactbert.training.losses import (
    attention_transfer_loss,
    feature_map_transfer_loss,
    pretraining_distillation_loss,
)
from compactbert.training.progressive import TransferStage, copy_embeddings_and_heads, gated_learning_rate


ROWS, LAYERS = 12, 3
STRATEGIES = ("auxiliary", "joint", "progressive")
VARIANTS = ("paper", "google-research", "model-garden")
# Layers whose heads the teacher's four can be grouped into.
STAGES = {
    1: {"intra_bottleneck_size": 12, "num_attention_heads": 2, "attention_head_size": 8},
    2: {"intra_bottleneck_size": 8, "num_attention_heads": 1, "num_feedforward_networks": 2},
}
# id -> (family, fields of the configuration)
STUDENTS = {
    "mobilebert_md": ("mobilebert_md-uniform", {}),
    "mixed_widths": ("mobilebert_md-uniform", {"per_layer_config": STAGES}),
    "ib_bert": ("ib_bert-uniform", {}),
    "smbert": ("smbert-uniform", {}),
}


def make(family, seed, **fields):
    model = build(family, "ForPreTraining", seed, **fields)
    model.set_attn_implementation("eager")
    return model


def make_teacher(**fields):
    return make("ib_bert-uniform", 0, **fields)


def make_student(kind="mobilebert_md", **fields):
    family, own = STUDENTS[kind]
    return make(family, 1, **own | fields)


def make_rows(padded=True):
    batch = inputs_for(make_teacher(), batch_size=ROWS, labels=True)
    masked = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(2)).argsort(-1) < 2
    if padded:
        batch["attention_mask"][5, 4:] = 0
        masked[3] = False
        masked[8, :4] = True
    else:
        batch["attention_mask"][:] = 1
    batch["labels"] = batch["input_ids"].masked_fill(~masked, -100)
    batch["sample_id"] = torch.arange(ROWS) + 100
    return [{name: tensor[i] for name, tensor in batch.items()} for i in range(ROWS)]


class Epochs(torch.utils.data.Dataset):
    """Rows that are others in every epoch, as those of a `PretrainingDataset` are."""

    def __init__(self, rows):
        self.rows, self.epoch = rows, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        changed = {
            name: (self.rows[index][name] + self.epoch) % 2 for name in ("token_type_ids", "next_sentence_label")
        }
        return self.rows[index] | changed


def config(folder, **settings):
    defaults = TRAINER | {"output_dir": str(folder), "max_steps": 14, "learning_rate": 1e-3}
    defaults |= {"per_device_train_batch_size": 4, "logging_steps": 1}
    if settings.get("strategy") != "auxiliary":
        defaults["transfer_steps"] = 9
    return ProgressiveTransferConfig(**defaults | settings)


def make_trainer(folder, student=None, teacher=None, callbacks=None, rows=None, **settings):
    return ProgressiveTransferTrainer(
        student or make_student(),
        teacher or make_teacher(),
        config(folder, **settings),
        train_dataset=Epochs(rows or make_rows()),
        callbacks=callbacks,
    )


def attention_dropout(model):
    return {layer.get_submodule(ATTENTION_DROPOUT).p for layer in model.base_model.encoder.layer}


def logs_of(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def batch_of(rows):
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    del batch["sample_id"]
    return batch


class AtEveryStep(TrainerCallback):
    """Calls a function before the optimizer's step with the number of the step, from 0, and what the Trainer says."""

    def __init__(self, function):
        self.function = function

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.function(state.global_step, kwargs)


# The plan


def spans(settings):
    stages = ProgressiveTransferConfig(output_dir="unused", **{"max_steps": 20} | settings).plan(4)
    return [(stage.layers, stage.start, stage.stop, stage.distillation) for stage in stages]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy": "auxiliary"}, [((1, 2, 3, 4), 0, 20, True)]),
        ({"strategy": "joint", "transfer_steps": 8}, [((1, 2, 3, 4), 0, 8, False), ((), 8, 20, True)]),
        (
            {"transfer_steps": 8},
            [((i,), 2 * i - 2, 2 * i, False) for i in (1, 2, 3, 4)] + [((), 8, 20, True)],
        ),
        ({"transfer_steps": 20}, [((i,), 5 * i - 5, 5 * i, False) for i in (1, 2, 3, 4)]),
        ({"transfer_steps": 0}, [((), 0, 20, True)]),
        (
            {"transfer_steps": 10, "stages": [[2, 1], [3, 4]]},
            [((2, 1), 0, 5, False), ((3, 4), 5, 10, False), ((), 10, 20, True)],
        ),
        # The released share, 24 of 74, in stages of uneven length.
        (
            {},
            [((1,), 0, 2, False), ((2,), 2, 3, False), ((3,), 3, 4, False), ((4,), 4, 6, False), ((), 6, 20, True)],
        ),
    ],
)
def test_the_plan(settings, expected):
    assert spans(settings) == expected


def test_the_released_plan():
    stages = ProgressiveTransferConfig(output_dir="unused", max_steps=740_000).plan(24)
    assert [(stage.start, stage.stop) for stage in stages[:24]] == [(i * 10_000, (i + 1) * 10_000) for i in range(24)]
    assert stages[24] == TransferStage("distillation", 240_000, 740_000, (), True)
    assert [stage.name for stage in stages[:2]] == ["transfer 1", "transfer 2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stages": [[1, 2], [4]]},
            r"`stages` must hold each of the student's layers 1..4 once.*, got \[\[1, 2\], \[4\]\]",
        ),
        ({"stages": [[1, 2], [2, 3, 4]]}, "`stages` must hold each"),
        ({"stages": [[0, 1, 2], [3]]}, "`stages` must hold each"),
        ({"stages": [[1, 2], [], [3, 4]]}, "`stages` must hold each"),
        ({"feature_map_transfer_weight": 0, "attention_transfer_weight": 0}, "both 0, .*: set `transfer_steps` to 0"),
        ({"transfer_steps": 3}, r"`transfer_steps` \(3\) must be at least the number of stages, 4"),
        ({"max_steps": 5}, r"`transfer_steps` \(2\) must be at least"),
        ({"transfer_steps": 21}, r"`transfer_steps` must lie in 0\.\.20, got 21"),
        ({"strategy": "auxiliary", "transfer_steps": 5}, "`transfer_steps` goes with the strategies"),
        ({"strategy": "gradual"}, "`strategy` must be one of .*progressive.*, got 'gradual'"),
        ({"variant": "tf"}, "`variant` must be one of .*, got 'tf'"),
        ({"layer_schedule": "cosine"}, "`layer_schedule` must be one of .*, got 'cosine'"),
        ({"optimizer": "sgd"}, "`optimizer` must be one of .*, got 'sgd'"),
        ({"trained": "head"}, "`trained` must be 'all' in a transfer, got 'head'"),
        ({"trained": "tail"}, "`trained` must be one of .*, got 'tail'"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"ground_truth_ratio": 1.5}, r"`ground_truth_ratio` must lie in \[0, 1\], got 1.5"),
        ({"feature_map_transfer_weight": -1.0}, "`feature_map_transfer_weight` must not be negative"),
        ({"attention_transfer_weight": -1.0}, "`attention_transfer_weight` must not be negative"),
        ({"earlier_layers_rate": -0.1}, "`earlier_layers_rate` must not be negative"),
        ({"max_steps": -1}, "`max_steps` must be at least 1, got -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        spans(settings)


# Learning rates


def released_rate(step, layer, length):
    """google-research's distill_util.py, as its formula is written down."""
    start, passed = length * layer, step % length
    gate = 0.0 if step <= start else 1.0 if step <= start + length else 0.1
    return 3 * min(0.9 + 0.1 * math.sqrt(1 - passed / length), 10 * passed / length) * gate


def test_the_gates_are_the_released_ones():
    places = (0, 1, 2, 500, 999, 1000, 1001, 5000, 9998, 9999)
    steps = [start + place for start in range(0, 240_000, 10_000) for place in places]
    for layer in range(24):
        for step in steps:
            assert abs(gated_learning_rate(step, layer, 10_000) - released_rate(step, layer, 10_000)) < 1e-12


def recorded_rates(trainer):
    rates = {}

    def record(step, kwargs):
        for group in kwargs["optimizer"].param_groups:
            rates.setdefault(group["part"], {})[step] = group["lr"]

    trainer.add_callback(AtEveryStep(record))
    trainer.train()
    return rates


def test_the_optimizer_has_the_released_rates(tmp_path):
    settings = {"layer_schedule": "google-research", "earlier_layers_rate": 0.1, "warmup_steps": 2}
    rates = recorded_rates(make_trainer(tmp_path, max_steps=40, transfer_steps=30, **settings))
    for layer in range(LAYERS):
        expected = [1e-3 * released_rate(step, layer, 10) for step in range(30)]
        assert list(rates[layer].values())[:30] == pytest.approx(expected, rel=1e-9)
    for part in ("embeddings", "head"):
        assert list(rates[part].values())[:30] == [0.0] * 30
    distillation = [0.5, 1.0] + [1e-4 + (1 - 1e-4) * (10 - i) / 8 for i in range(2, 10)]
    for part in ("embeddings", *range(LAYERS), "head"):
        assert list(rates[part].values())[30:] == pytest.approx([1e-3 * rate for rate in distillation], rel=1e-9)


def test_stages_of_uneven_length_open_the_gate_when_they_begin(tmp_path):
    settings = {"layer_schedule": "google-research", "max_steps": 40, "transfer_steps": 40}
    trainer = make_trainer(tmp_path, **settings)
    assert [stage.stop - stage.start for stage in trainer.plan] == [13, 14, 13]
    for i, stage in enumerate(trainer.plan):
        rates = [trainer.rate(step, i) for step in range(stage.start, stage.stop)]
        assert rates[0] == 0
        assert min(rates[2:]) > 2.5
        assert all(trainer.rate(step, i) == 0 for step in range(40) if not stage.start <= step < stage.stop)


def test_the_constant_schedule_warms_up_in_every_stage(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=20, transfer_steps=12, warmup_steps=2, earlier_layers_rate=0.5)
    rates = recorded_rates(trainer)
    assert list(rates[1].values())[:12] == pytest.approx([0, 0, 0, 0, 5e-4, 1e-3, 1e-3, 1e-3, 2.5e-4, 5e-4, 5e-4, 5e-4])
    shares = make_trainer(tmp_path, max_steps=20, transfer_steps=12, warmup_steps=0.25)
    assert [shares.rate(step, 0) for step in range(5)] == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert [shares.rate(step, 2) for step in (12, 13, 14)] == pytest.approx([0.5, 1.0, 1e-4 + (1 - 1e-4)])


# What moves


@pytest.mark.parametrize(("copied", "earlier"), [(True, 0.0), (True, 0.1), (False, 0.0)])
def test_a_stage_moves_its_own_layers_alone(tmp_path, earlier, copied):
    student = make_student(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    moved, before = {}, {}

    def record(step, kwargs):
        nonlocal before
        now = snapshot(kwargs["model"])
        # A probability that dropout makes zero is as far from the teacher's as can be.
        assert attention_dropout(student) == {0.0 if step < 9 else 0.1}
        if before:
            moved[step - 1] = changed(before, now)
        before = now

    settings = {"earlier_layers_rate": earlier, "copy_from_teacher": copied, "weight_decay": 0.1}
    trainer = make_trainer(tmp_path, student, callbacks=[AtEveryStep(record)], **settings)
    trainer.train()
    layers = [{name for name in before if f"encoder.layer.{i}." in name} for i in range(LAYERS)]
    embeddings = {name for name in before if ".embeddings." in name and "position_ids" not in name}
    for step in range(9):
        stage = step // 3
        own = layers[stage] | (embeddings if not copied and stage == 0 else set())
        # The decoder is the token embeddings.
        own |= {name for name in before if "decoder.weight" in name and not copied and stage == 0}
        allowed = own.union(*layers[:stage]) if earlier else own
        assert moved[step] <= allowed, (step, moved[step] - allowed)
        # Keys' biases have no gradient but rounding.
        assert len(moved[step]) > 0.9 * len(allowed)
    assert {name for name in moved[10] if "encoder" not in name} > embeddings
    assert any("cls.seq_relationship" in name for name in moved[10])
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert attention_dropout(student) == {0.1}


def test_layers_of_earlier_stages_move_less(tmp_path):
    student = make_student()
    before, at_stage_2 = None, None

    def record(step, kwargs):
        nonlocal before, at_stage_2
        if step == 3:
            before = snapshot(student)
        if step == 6:
            at_stage_2 = snapshot(student)

    make_trainer(tmp_path, student, callbacks=[AtEveryStep(record)], earlier_layers_rate=0.1).train()
    steps = [
        (at_stage_2[name] - before[name]).abs().max().item()
        for name in (f"mobilebert.encoder.layer.{i}.intermediate.dense.weight" for i in range(LAYERS))
    ]
    # Adam's steps are as large as the rate.
    assert steps[0] == pytest.approx(0.1 * steps[1], rel=0.5)
    assert steps[2] == 0


def test_the_teacher_is_never_changed_or_saved(tmp_path):
    teacher = make_teacher()
    before = snapshot(teacher)
    trainer = make_trainer(tmp_path, teacher=teacher, save_strategy="steps", save_steps=14)
    trainer.train()
    assert_same(before, teacher.state_dict())
    assert not teacher.training
    sizes = sum(file.stat().st_size for file in (tmp_path / "checkpoint-14").glob("*.safetensors"))
    assert sizes < 1.1 * sum(4 * parameter.numel() for parameter in trainer.student.parameters()) + 20_000


# Losses


def expected_parts(student, teacher, batch, layers, variant, stage):
    """The transfer's losses on a batch, from what the whole models say."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs, mask = {name: batch[name] for name in names}, batch["attention_mask"]
    ours, theirs = (model(**inputs, output_hidden_states=True, output_attentions=True) for model in (student, teacher))
    factor = {"paper": 1.0, "google-research": 1 / LAYERS, "model-garden": 1 / stage}[variant]
    maps = sum(
        feature_map_transfer_loss(
            ours.hidden_states[i], theirs.hidden_states[i], mask, variant, teacher_maps=theirs.hidden_states
        )
        for i in layers
    )
    attention = sum(
        attention_transfer_loss(ours.attentions[i - 1], theirs.attentions[i - 1], mask, variant) for i in layers
    )
    return {"feature_map": factor * maps, "attention": factor * attention}, ours, theirs


@pytest.mark.parametrize(
    ("strategy", "variant", "kind"),
    [(strategy, variant, "mixed_widths") for strategy in STRATEGIES for variant in VARIANTS]
    + [("progressive", "paper", kind) for kind in ("mobilebert_md", "ib_bert", "smbert")],
)
def test_losses_are_those_of_the_whole_models(tmp_path, strategy, variant, kind):
    copies = {"copy_from_teacher": kind != "smbert", "temperature": 2.0, "ground_truth_ratio": 0.3}
    trainer = make_trainer(tmp_path, make_student(kind), strategy=strategy, variant=variant, **copies)
    student, teacher, batch = trainer.student, trainer.teacher, batch_of(make_rows())
    for number, stage in enumerate(trainer.plan, start=1):
        trainer.state.global_step = stage.stop - 1
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        continues = batch["next_sentence_label"]
        parts = trainer.loss_parts(student, inputs, batch["labels"], continues)
        with torch.no_grad():
            expected, ours, theirs = expected_parts(student, teacher, batch, stage.layers, variant, number)
            if not stage.layers:
                expected = {}
            if stage.distillation:
                masked = batch["labels"] != -100
                logits = [outputs.prediction_logits[masked] for outputs in (ours, theirs)]
                expected["mlm"] = pretraining_distillation_loss(*logits, batch["labels"][masked], 0.3, 2.0, variant)
                expected["nsp"] = torch.nn.functional.cross_entropy(ours.seq_relationship_logits, continues)
        assert parts.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_weights_of_zero_cost_nothing(tmp_path):
    student = make_student()
    student.set_attn_implementation("sdpa")
    trainer = make_trainer(tmp_path, student, attention_transfer_weight=0.0, ground_truth_ratio=1.0)
    calls = count_calls(trainer)
    trainer.train()
    assert [
        set(entry) & {"feature_map_loss", "attention_loss", "mlm_loss", "nsp_loss"} for entry in logs_of(trainer)
    ] == [{"feature_map_loss"}] * 9 + [{"mlm_loss", "nsp_loss"}] * 5
    # From the true tokens alone there is nothing to ask the teacher.
    assert calls["teacher", 0] == 9
    other = make_trainer(tmp_path, feature_map_transfer_weight=2.0, attention_transfer_weight=0.5)
    batch = batch_of(make_rows())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    expected, _, _ = expected_parts(other.student, other.teacher, batch, (1,), "paper", 1)
    parts = other.loss_parts(other.student, inputs, batch["labels"], None)
    torch.testing.assert_close(parts["feature_map"], 2 * expected["feature_map"])
    torch.testing.assert_close(parts["attention"], 0.5 * expected["attention"])


def test_a_transfer_brings_the_student_close(tmp_path):
    student, teacher, rows = make_student(), make_teacher(), make_rows()

    def collator(samples):
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    before = measure_transfer(student, teacher, rows, collator)
    make_trainer(tmp_path, student, teacher, max_steps=90, transfer_steps=90, learning_rate=1e-2).train()
    after = measure_transfer(student, teacher, rows, collator)
    assert after["relative_feature_map_distance"] < 0.7 * before["relative_feature_map_distance"]
    assert after["attention_distance"] < 0.7 * before["attention_distance"]


def count_calls(trainer):
    calls = {}

    def counter(key):
        calls[key] = 0

        def count(*_):
            calls[key] += 1

        return count

    for role, model in (("student", trainer.student), ("teacher", trainer.teacher)):
        for i, layer in enumerate(model.base_model.encoder.layer):
            layer.register_forward_hook(counter((role, i)))
        model.cls["predictions"].register_forward_hook(counter((role, "head")))
    return calls


@pytest.mark.parametrize("variant", ["paper", "google-research"])
def test_a_stage_computes_nothing_above_its_layers(tmp_path, variant):
    student = make_student()
    whole = list(student.named_modules())
    trainer = make_trainer(tmp_path, student, make_teacher(num_hidden_layers=6), variant=variant)
    assert trainer.layer_map == [2, 4, 6]
    calls = count_calls(trainer)
    seen = []

    def record(step, kwargs):
        seen.append(dict(calls))
        calls.update(dict.fromkeys(calls, 0))

    trainer.add_callback(AtEveryStep(record))
    trainer.train()
    for step, counts in enumerate(seen):
        depth = min(step // 3, 2) + 1
        assert [counts["student", i] for i in range(3)] == [1] * depth + [0] * (3 - depth)
        teacher_depth = 2 * depth if variant == "paper" else 6
        assert [counts["teacher", i] for i in range(6)] == [1] * teacher_depth + [0] * (6 - teacher_depth)
        assert counts["student", "head"] == counts["teacher", "head"] == int(step >= 9)
    assert [name for name, _ in student.named_modules()] == [name for name, _ in whole]
    assert all(one is other for (_, one), (_, other) in zip(student.named_modules(), whole, strict=True))
    outputs = student(**inputs_for(student), output_hidden_states=True)
    assert len(outputs.hidden_states) == 4
    assert outputs.prediction_logits.shape[-1] == student.config.vocab_size


def test_an_interrupted_step_leaves_the_model_whole(tmp_path):
    student = make_student()
    trainer = make_trainer(tmp_path, student)
    heads = student.cls

    def interrupt(*_):
        # In a stage the model is less than it is.
        assert len(student.base_model.encoder.layer) == 1
        assert student.cls is not heads
        raise KeyboardInterrupt

    student.base_model.encoder.layer[0].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert student.cls is heads
    assert len(student.base_model.encoder.layer) == LAYERS
    assert all(parameter.requires_grad for parameter in student.parameters())


# The start


@pytest.mark.parametrize("kind", ["mobilebert_md", "ib_bert"])
def test_embeddings_and_heads_come_from_the_teacher(kind):
    student, teacher = make_student(kind), make_teacher()
    before = snapshot(student)
    copied = copy_embeddings_and_heads(student, teacher)
    theirs = teacher.state_dict()
    rest = {"mobilebert.embeddings.LayerNorm.weight", "mobilebert.embeddings.LayerNorm.bias"}
    for name, tensor in student.state_dict().items():
        kept = ".encoder." in name or (kind == "mobilebert_md" and name in rest)
        assert torch.equal(tensor, before[name] if kept else theirs[name]), name
        assert (name in copied) != (kept or "decoder" in name)
    assert student.cls.predictions.decoder.weight is student.mobilebert.embeddings.word_embeddings.weight


def test_embeddings_of_another_shape_are_refused(tmp_path):
    for student in (make_student(embedding_size=16), make_student("smbert")):
        prefix = student.base_model_prefix
        message = f"'{prefix}.embeddings.word_embeddings.weight' is .* in the student and .*same `embedding_size`"
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path, student)


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        ({"hidden_size": 28}, {}, {}, r"`hidden_size` is 28 and the teacher's 32: .*feature_map_size=28"),
        ({"vocab_size": 50}, {}, {}, r"student's `vocab_size` is 50, the teacher's 60: .*same tokenizer"),
        (
            {"num_attention_heads": 3, "attention_head_size": 4},
            {},
            {},
            "teacher's 4 heads of layer 1 cannot be grouped",
        ),
        ({}, {}, {"layer_map": [1, 2]}, r"`layer_map` must hold one of the teacher's layers 1\.\.3 for each"),
        ({}, {}, {"layer_map": [1, 2, 4]}, r"`layer_map` must hold .* got \[1, 2, 4\]"),
        ({}, {}, {"layer_map": [0, 1, 2]}, r"`layer_map` must hold .* got \[0, 1, 2\]"),
        ({}, {}, {"stages": [[1], [2]]}, "`stages` must hold each of the student's layers 1..3 once"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tmp_path, student, teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, make_student(**student), make_teacher(**teacher), **settings)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_attention_transfer_needs_eager_attention(tmp_path, role):
    models = {"student": make_student(), "teacher": make_teacher()}
    models[role].set_attn_implementation("sdpa")
    with pytest.raises(
        ValueError, match=f"which the {role}'s 'sdpa' attention does not return: load it with `attn_imp"
    ):
        make_trainer(tmp_path, **models)


def test_models_without_a_language_modelling_head_are_refused(tmp_path):
    bare = build("mobilebert_md-uniform", "ForSequenceClassification")
    for models in ({"student": bare}, {"teacher": bare}):
        with pytest.raises(ValueError, match="has no language modelling head: load it as `ForPreTraining`"):
            make_trainer(tmp_path, **models)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    student = make_student()

    def break_it(step, kwargs):
        if step == 5:
            with torch.no_grad():
                student.mobilebert.encoder.layer[0].intermediate.dense.weight.fill_(math.inf)

    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(tmp_path, student, callbacks=[AtEveryStep(break_it)], **settings)
    message = r"(?s)loss of step 6 is nan .*'feature_map': nan.*samples \[1\d\d, 1\d\d, 1\d\d, 1\d\d\].*checkpoint-\d"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()


# Continuing, accumulating, half precision, several processes


def test_a_run_continues_within_any_stage_to_the_same_weights(tmp_path):
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    settings = {"save_strategy": "steps", "save_steps": 1, "earlier_layers_rate": 0.1}
    whole = make_trainer(tmp_path, make_student(**dropout), **settings)
    whole.train()
    for step in (1, 3, 7, 10):
        other = make_trainer(tmp_path / "other", make_student(**dropout), **settings | {"save_strategy": "no"})
        other.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert other.state.global_step == 14
        assert_same(whole.student.state_dict(), other.student.state_dict())
        assert [entry["loss"] for entry in logs_of(other)] == [entry["loss"] for entry in logs_of(whole)]
        assert [entry["stage"] for entry in logs_of(other)] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, strategy):
    # Rows of one length and as many masked tokens; rates at which Adam's steps do not depend on rounding.
    curves = []
    for size, steps in ((4, 1), (2, 2)):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "adam_epsilon": 1e-3}
        trainer = make_trainer(tmp_path, rows=make_rows(padded=False), strategy=strategy, **sizes)
        trainer.train()
        curves.append([{k: v for k, v in entry.items() if k.endswith("loss")} for entry in logs_of(trainer)])
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
        assert sum(value for name, value in one.items() if name != "loss") == pytest.approx(one["loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["auxiliary", "progressive"])
def test_bf16_follows_float32(tmp_path, strategy):
    losses = []
    for bf16 in (False, True):
        trainer = make_trainer(tmp_path, strategy=strategy, bf16=bf16)
        trainer.train()
        assert {parameter.dtype for parameter in trainer.student.parameters()} == {torch.float32}
        losses.append([entry["loss"] for entry in logs_of(trainer)])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_evaluating_changes_neither_the_run_nor_its_log(tmp_path):
    runs = []
    for evaluates in (False, True):
        trainer = make_trainer(tmp_path)
        trainer.eval_dataset = make_rows()
        if evaluates:
            trainer.args.eval_strategy, trainer.args.eval_steps = IntervalStrategy.STEPS, 2
            trainer.state.eval_steps = 2
        trainer.train()
        runs.append((snapshot(trainer.student), [entry["mlm_loss"] for entry in logs_of(trainer)[9:]]))
    assert runs[0][1] == runs[1][1]
    assert_same(runs[0][0], runs[1][0])
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


@pytest.mark.skipif(find_spec("pytorch_optimizer") is None, reason="the extra `lamb` is not installed")
def test_lamb_trains_and_continues(tmp_path):
    settings = {"optimizer": "lamb", "max_steps": 30, "transfer_steps": 20, "save_strategy": "steps", "save_steps": 13}
    trainer = make_trainer(tmp_path, **settings)
    trainer.train()
    assert type(trainer.optimizer.optimizer).__name__ == "Lamb"
    losses = [entry["loss"] for entry in logs_of(trainer)]
    assert sum(losses[3:6]) < sum(losses[:3])
    other = make_trainer(tmp_path, **settings)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-13"))
    assert_same(trainer.student.state_dict(), other.student.state_dict())


def test_lamb_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ValueError, match=r'pip install "compactbert\[lamb\]"'):
        make_trainer(tmp_path, optimizer="lamb").train()


def main(folder, settings):
    """Trains in several processes."""
    for name, own in settings.items():
        trainer = make_trainer(f"{folder}/{name}", **own)
        trainer.train()
        if trainer.is_world_process_zero():
            Path(folder, f"{name}.json").write_text(json.dumps(logs_of(trainer)))
    # A whole job, and again after a kill that came while its work folder was being removed.
    reports = [compactbert.transfer(f"{folder}/text.txt", f"{folder}/out", recipe=f"{folder}/recipe.yaml")]
    Path(folder, "out.partial").mkdir(exist_ok=True)
    PartialState().wait_for_everyone()
    reports.append(compactbert.transfer(f"{folder}/text.txt", f"{folder}/out", recipe=f"{folder}/recipe.yaml"))
    Path(folder, f"reports-{os.environ['RANK']}.json").write_text(json.dumps(reports))


@pytest.mark.long
def test_two_processes_have_the_losses_of_one(tmp_path, minilm_tokenizer):
    build("smbert-uniform", "ForPreTraining", vocab_size=len(minilm_tokenizer)).save_pretrained(tmp_path / "bert")
    minilm_tokenizer.save_pretrained(tmp_path / "bert")
    (tmp_path / "text.txt").write_text("\n\n".join(f"This is text {i}. Here is its end." for i in range(40)))
    recipe = {
        "corpus": {"sequence_length": 32, "held_out": 0},
        "teacher": {"pretrain": {"model": str(tmp_path / "bert"), "max_steps": 1, "batch_size": 2}},
        "student": {"prune": {"layers": [0, 2], "heads": 0.5, "rows": 8}},
        "transfer": {"max_steps": 1, "strategy": "auxiliary", "attention_transfer_weight": 0.0, "batch_size": 2},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    settings = {
        strategy: {"strategy": strategy, "per_device_train_batch_size": 2, "adam_epsilon": 1e-3}
        for strategy in STRATEGIES
    }
    in_two_processes(__file__, tmp_path, json.dumps(settings))
    for strategy, own in settings.items():
        trainer = make_trainer(tmp_path / "one", **own | {"per_device_train_batch_size": 4})
        trainer.train()
        theirs = json.loads((tmp_path / f"{strategy}.json").read_text())
        assert len(theirs) == 14
        for one, two in zip(logs_of(trainer), theirs, strict=True):
            for name in one:
                if name.endswith("loss"):
                    assert two[name] == pytest.approx(one[name], rel=1e-5), (strategy, one["step"], name)
    made = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert made["recipe"]["name"] == "recipe"
    for rank in range(2):
        assert json.loads((tmp_path / f"reports-{rank}.json").read_text()) == [made, made]
    assert {"out", "out-teacher", "out-student", "out-corpus"} == {path.name for path in tmp_path.glob("out*")}


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
