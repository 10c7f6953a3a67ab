import copy
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from families import assert_same, build, changed, snapshot
from runs import TRAINER, StopAt, weights
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from compactbert.training import (
    DistillationConfig,
    DistillationTrainer,
    LossTerm,
    MultiTaskModel,
    TaskBatchSampler,
    multitask_collator,
)
from compactbert.training.losses import attention_loss, cosine_loss, hidden_state_loss
from compactbert.training.teacher import Request, TeacherCache, observe


ROWS = 12
EVERY_TERM = {
    "kd_loss_weight": 1.0,
    "hard_label_weight": 0.5,
    "cosine_weight": 0.7,
    "hidden_state_weight": 0.3,
    "attention_weight": 0.2,
    "relation_weight": 0.4,
}
NO_TERM = dict.fromkeys(EVERY_TERM, 0.0)
# id -> (class, fields of the configuration)
PROBLEMS = {
    "single_label": ("ForSequenceClassification", {"num_labels": 3, "problem_type": "single_label_classification"}),
    "multi_label": ("ForSequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
    "regression": ("ForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "token_classification": ("ForTokenClassification", {"num_labels": 3}),
    "question_answering": ("ForQuestionAnswering", {}),
    "masked_lm": ("ForMaskedLM", {}),
}
# Two layers of other widths than the teacher's three.
STUDENTS = {
    "smbert": ("smbert-uniform", {"hidden_size": 16, "num_attention_heads": 2}),
    "mobilebert_md": ("mobilebert_md-uniform", {"hidden_size": 24, "intra_bottleneck_size": 12}),
    "ib_bert": ("ib_bert-uniform", {"hidden_size": 24, "intra_bottleneck_size": 32}),
}
each_problem = pytest.mark.parametrize("problem", PROBLEMS)


def make(family, problem, seed, **fields):
    name, of_problem = PROBLEMS[problem]
    model = build(family, name, seed, **of_problem | fields)
    model.set_attn_implementation("eager")
    return model


def make_teacher(problem="single_label", seed=0, **fields):
    return make("smbert-uniform", problem, seed, **fields)


def make_student(problem="single_label", family="smbert", seed=1, **fields):
    name, sizes = STUDENTS[family]
    return make(name, problem, seed, num_hidden_layers=2, **sizes | fields)


def make_rows(problem="single_label", number=ROWS, seed=0, length=None):
    """Rows of random tokens, of lengths from 4 to 9 or of a fixed one."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high, *size):
        return torch.randint(0, high, size, generator=generator).tolist()

    rows = []
    for _ in range(number):
        size = length or 4 + integers(6, 1)[0]
        row = {"input_ids": [1 + i for i in integers(59, size)], "token_type_ids": integers(2, size)}
        if problem == "single_label":
            row["labels"] = integers(3, 1)[0]
        elif problem == "multi_label":
            row["labels"] = [float(i) for i in integers(2, 3)]
        elif problem == "regression":
            row["labels"] = integers(100, 1)[0] / 50
        elif problem == "question_answering":
            row["start_positions"], row["end_positions"] = integers(size, 2)
        else:
            row["labels"] = integers(3, size)
        rows.append(row | {"attention_mask": [1] * size})
    return Dataset.from_list(rows)


def collate(rows):
    """Pads what has a value per token on the right."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], list) and len(values[0]) == len(rows[0]["input_ids"]):
            padding = -100 if name == "labels" else 0
            values = [value + [padding] * (longest - len(value)) for value in values]
        batch[name] = torch.tensor(values)
    return batch


def make_trainer(folder, student, teacher, rows=None, *, loss_terms=None, collator=collate, callbacks=None, **settings):
    defaults = TRAINER | {"output_dir": str(folder / "run"), "max_steps": 3, "learning_rate": 1e-3}
    defaults |= {"per_device_train_batch_size": 4, "logging_strategy": "no"}
    return DistillationTrainer(
        student,
        teacher,
        DistillationConfig(**defaults | settings),
        loss_terms=loss_terms,
        train_dataset=make_rows() if rows is None else rows,
        data_collator=collator,
        callbacks=callbacks,
    )


def loss_on(trainer, rows):
    """The loss of a batch of rows, as in training."""
    return trainer.compute_loss(trainer.model.train(), trainer.data_collator(list(rows)))


def count_forwards(model):
    """A list that grows by the batch size of every forward pass."""
    sizes = []
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    return sizes


@pytest.mark.parametrize("family", STUDENTS)
def test_training_changes_every_student_weight_and_no_teacher_weight(family, tmp_path):
    student, teacher = make_student(family=family), make_teacher()
    before, teacher_before = snapshot(student), snapshot(teacher)
    trainer = make_trainer(tmp_path, student, teacher, **EVERY_TERM)
    projections = snapshot(trainer.projections)
    trainer.train()
    assert changed(before, student.state_dict()) == set(before)
    assert_same(teacher_before, teacher.state_dict())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.training
    # One for each hidden state that is compared, of weight and bias.
    assert len(projections) == 2 * 2
    assert changed(projections, trainer.projections.state_dict()) == set(projections)


def test_models_of_one_width_need_no_projections(tmp_path):
    trainer = make_trainer(tmp_path, make_student(hidden_size=32), make_teacher(), **EVERY_TERM)
    assert len(trainer.projections) == 0


@each_problem
def test_every_head_can_be_distilled(problem, tmp_path):
    student, rows = make_student(problem), make_rows(problem)
    trainer = make_trainer(
        tmp_path, student, make_teacher(problem), rows, **EVERY_TERM, max_steps=20, learning_rate=5e-3
    )
    before = loss_on(trainer, rows).item()
    trainer.train()
    assert loss_on(trainer, rows).item() < 0.9 * before


@each_problem
def test_a_student_that_equals_its_teacher_has_no_loss(problem, tmp_path):
    teacher, rows = make_teacher(problem), make_rows(problem)
    every_layer = {"layer_map": [[i, i] for i in range(4)], "relation_map": [[i, i] for i in range(1, 4)]}
    terms = EVERY_TERM | {"hard_label_weight": 0.0}
    trainer = make_trainer(tmp_path, copy.deepcopy(teacher), teacher, rows, **terms, **every_layer)
    # The cosine of a vector with itself rounds.
    assert abs(loss_on(trainer, rows).item()) < 1e-6


def test_attention_maps_are_compared_without_dropout(tmp_path):
    teacher = make_teacher(attention_probs_dropout_prob=0.5)
    student = copy.deepcopy(teacher)
    trainer = make_trainer(tmp_path, student, teacher, **NO_TERM | {"attention_weight": 1.0})
    assert loss_on(trainer, make_rows()) == 0
    assert student.config.attention_probs_dropout_prob == 0.5


@each_problem
def test_soft_targets_are_the_divergence_of_what_the_models_say(problem, tmp_path):
    student, teacher, rows = make_student(problem), make_teacher(problem), make_rows(problem)
    batch = collate(list(rows))
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        said, true = ({k: v.double() for k, v in m(**inputs).items() if "logits" in k} for m in (student, teacher))

    def divergence(student_logits, teacher_logits):
        """T² KL at T = 2, by cross entropy less entropy."""
        targets = (teacher_logits / 2).softmax(-1)
        return 4 * (cross_entropy(student_logits / 2, targets) - cross_entropy(teacher_logits / 2, targets))

    if problem == "single_label":
        expected = divergence(said["logits"], true["logits"])
    elif problem == "multi_label":
        targets = (true["logits"] / 2).sigmoid()
        expected = (
            4
            * 3
            * sum(s * binary_cross_entropy_with_logits(z["logits"] / 2, targets) for s, z in ((1, said), (-1, true)))
        )
    elif problem == "regression":
        expected = mse_loss(said["logits"], true["logits"])
    elif problem == "question_answering":
        # Row by row, without the padding.
        parts = [
            divergence(said[name][i][kept][None], true[name][i][kept][None])
            for name in ("start_logits", "end_logits")
            for i, kept in enumerate(mask)
        ]
        expected = torch.stack(parts).mean()
    else:
        expected = divergence(said["logits"][mask], true["logits"][mask])
    trainer = make_trainer(tmp_path, student, teacher, rows, **NO_TERM | {"kd_loss_weight": 3.0}, temperature=2.0)
    # float32 against float64, on losses of size one.
    torch.testing.assert_close(loss_on(trainer, rows).double(), 3 * expected, rtol=1e-5, atol=1e-6)


def test_a_single_output_is_a_value_also_if_nothing_says_so(tmp_path):
    models = [build("smbert-uniform", "ForSequenceClassification", seed, num_labels=1) for seed in (0, 1)]
    rows = make_rows("regression").remove_columns("labels")
    trainer = make_trainer(tmp_path, *models, rows, **NO_TERM | {"kd_loss_weight": 1.0})
    with torch.no_grad():
        one, other = (model(**collate(list(rows))).logits for model in models)
    torch.testing.assert_close(loss_on(trainer, rows), mse_loss(one, other))


@each_problem
def test_padding_changes_nothing(problem, tmp_path):
    student, teacher, rows = make_student(problem), make_teacher(problem), make_rows(problem)
    # Without the labels' term: a question answering model's own loss is over the padding too.
    trainer = make_trainer(tmp_path, student, teacher, rows, **EVERY_TERM | {"hard_label_weight": 0.0}, temperature=0.5)
    batch = collate(list(rows))
    wider = {}
    for name, tensor in batch.items():
        per_token = tensor.shape == batch["input_ids"].shape
        wider[name] = (
            torch.nn.functional.pad(tensor, (0, 4), value=-100 if name == "labels" else 0) if per_token else tensor
        )
    trainer.model.train()
    # Sums of float32 in another order.
    torch.testing.assert_close(
        trainer.compute_loss(trainer.model, batch), trainer.compute_loss(trainer.model, wider), rtol=1e-5, atol=1e-5
    )


def test_without_an_attention_mask_every_token_counts(tmp_path):
    trainer = make_trainer(tmp_path, make_student(), make_teacher(), **EVERY_TERM)
    rows = make_rows(length=6)
    torch.testing.assert_close(loss_on(trainer, rows), loss_on(trainer, rows.remove_columns("attention_mask")))


def test_rows_of_several_choices_can_be_distilled(tmp_path):
    models = [build("smbert-uniform", "ForMultipleChoice", seed) for seed in (0, 1)]
    plain = collate(list(make_rows(number=6)))
    inputs = {name: plain[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    trainer = make_trainer(tmp_path, *models, **NO_TERM | {"cosine_weight": 1.0})
    loss = trainer.compute_loss(
        models[0].train(), {name: tensor.unflatten(0, (3, 2)) for name, tensor in inputs.items()}
    )
    with torch.no_grad():
        states = [model.base_model(**inputs).last_hidden_state for model in models]
    torch.testing.assert_close(loss, cosine_loss(*states, plain["attention_mask"]))


@pytest.mark.parametrize(
    ("weight", "asked_of_the_student", "asked_of_the_teacher"),
    [
        ("kd_loss_weight", set(), set()),
        ("hard_label_weight", set(), None),
        ("cosine_weight", {"output_hidden_states"}, {"output_hidden_states"}),
        ("hidden_state_weight", {"output_hidden_states"}, {"output_hidden_states"}),
        ("attention_weight", {"output_attentions"}, {"output_attentions"}),
        ("relation_weight", {"hooks"}, {"hooks"}),
    ],
)
def test_a_term_of_weight_zero_costs_nothing(weight, asked_of_the_student, asked_of_the_teacher, tmp_path):
    models = make_student(), make_teacher()
    trainer = make_trainer(tmp_path, *models, **NO_TERM | {weight: 1.0})
    asked = [None, None]

    def spy(i):
        def note(model, args, kwargs):
            asked[i] = {name for name in kwargs if name.startswith("output_")}
            query = model.base_model.encoder.layer[-1].attention.self.query
            asked[i] |= {"hooks"} if query._forward_hooks else set()

        return note

    for i, model in enumerate(models):
        model.register_forward_pre_hook(spy(i), with_kwargs=True)
    loss_on(trainer, make_rows())
    assert asked == [asked_of_the_student, asked_of_the_teacher]
    # Nothing is left hooked.
    assert not any(model.base_model.encoder.layer[-1].attention.self.query._forward_hooks for model in models)


def test_layers_are_spread_evenly_over_the_teachers(tmp_path):
    trainer = make_trainer(tmp_path, make_student(), make_teacher(num_hidden_layers=6), **EVERY_TERM)
    pair = trainer.pairs["", 0]
    assert pair.layer_map == [(1, 3), (2, 6)]
    assert pair.relation_map == [(2, 6)]
    # Attention widths of 32 (8 a head by default) and 2 heads of 8.
    assert pair.relation_heads == 8


# The states of a teacher that does not normalise them are compared in relation to their size.
@pytest.mark.parametrize(("family", "relative"), [("smbert-uniform", False), ("mobilebert_md-uniform", True)])
def test_a_layer_map_chooses_what_is_compared(family, relative, tmp_path):
    student, teacher = make_student(hidden_size=32), make(family, "single_label", seed=0)
    settings = NO_TERM | {"hidden_state_weight": 1.0, "attention_weight": 0.5, "layer_map": [[0, 1], [2, 3]]}
    trainer = make_trainer(tmp_path, student, teacher, **settings)
    batch = collate(list(make_rows()))
    mask, options = batch["attention_mask"], {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        ours, theirs = (model(**batch, **options) for model in (student, teacher))
    states = [
        hidden_state_loss(ours.hidden_states[s], theirs.hidden_states[t], mask, relative) for s, t in ((0, 1), (2, 3))
    ]
    # The embeddings have no attention maps.
    expected = sum(states) / 2 + 0.5 * attention_loss(ours.attentions[1], theirs.attentions[2], mask)
    torch.testing.assert_close(loss_on(trainer, make_rows()), expected)


def logits_gap(student, teacher, inputs):
    return (student.logits["logits"] - teacher.logits["logits"]).abs().mean()


def test_the_parts_of_the_loss_are_logged_and_add_up(tmp_path):
    terms = {"logits_gap": LossTerm(logits_gap, weight=0.1)}
    settings = {"logging_strategy": "steps", "logging_steps": 2, "max_steps": 4, "gradient_accumulation_steps": 2}
    trainer = make_trainer(tmp_path, make_student(), make_teacher(), loss_terms=terms, **EVERY_TERM, **settings)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = {"soft_target", "hard_label", "cosine", "hidden_state", "attention", "relation", "logits_gap"}
    assert len(logs) == 2
    for entry in logs:
        parts = {name: value for name, value in entry.items() if name.endswith("_loss")}
        assert parts.keys() == {f"{name}_loss" for name in names}
        # Sums of float32; earlier Trainers round to four digits.
        assert sum(parts.values()) == pytest.approx(entry["loss"], abs=1e-4)


def test_evaluation_is_the_students_own_and_asks_no_teacher(tmp_path):
    student, teacher, rows = make_student(), make_teacher(), make_rows()
    trainer = make_trainer(tmp_path, student, teacher, rows, **EVERY_TERM, per_device_eval_batch_size=ROWS)
    sizes = count_forwards(teacher)
    metrics = trainer.evaluate(rows)
    with torch.no_grad():
        assert metrics["eval_loss"] == pytest.approx(student.eval()(**collate(list(rows))).loss.item(), rel=1e-6)
    assert sizes == []


def test_a_run_that_continues_ends_with_the_weights_of_one_that_was_not_interrupted(tmp_path):
    # Three steps an epoch: the checkpoint of step 4 lies inside the second. Dropout, to see the random state return.
    settings = EVERY_TERM | {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "weight_decay": 0.1}
    ends = []
    for name, stop in (("whole", None), ("stopped", 5)):
        student, teacher = make_student(hidden_dropout_prob=0.1), make_teacher()
        callbacks = [] if stop is None else [StopAt(stop)]
        trainer = make_trainer(tmp_path / name, student, teacher, callbacks=callbacks, **settings)
        trainer.train()
        if stop is not None:
            folder = tmp_path / name / "run" / "checkpoint-4"
            assert weights(folder).keys() == student.state_dict().keys()
            assert load_file(folder / "projections.safetensors").keys() == trainer.projections.state_dict().keys()
            # Other seeds: everything has to come from the checkpoint.
            student = make_student(seed=7, hidden_dropout_prob=0.1)
            trainer = make_trainer(tmp_path / name, student, teacher, **settings)
            with torch.no_grad():
                for parameter in trainer.projections.parameters():
                    parameter.zero_()
            trainer.train(resume_from_checkpoint=str(folder))
        assert trainer.state.global_step == 8
        ends.append((snapshot(student), snapshot(trainer.projections)))
    for one, other in zip(*ends, strict=True):
        assert_same(one, other)


def test_the_checkpoint_loads_as_the_student_alone(tmp_path):
    student = make_student()
    trainer = make_trainer(tmp_path, student, make_teacher(), **EVERY_TERM)
    trainer.save_model(tmp_path / "saved")
    loaded, info = type(student).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info.values())
    assert_same(student.state_dict(), loaded.state_dict())


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    # Rows of one length: means over tokens of batches with unequal padding have unequal weights. SGD, since Adam
    # turns rounding of a gradient near zero into a whole step.
    settings = EVERY_TERM | {"optim": "sgd", "max_steps": 3, "max_grad_norm": 0.0, "learning_rate": 1e-2}
    ends = []
    for size, steps in ((8, 1), (4, 2)):
        student = make_student()
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        make_trainer(tmp_path, student, make_teacher(), make_rows(number=16, length=7), **settings, **sizes).train()
        ends.append(snapshot(student))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-6, atol=1e-6)
    assert not torch.equal(ends[0]["classifier.weight"], make_student().state_dict()["classifier.weight"])


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    rows, gradients = make_rows(), []
    for checkpointing in (False, True):
        student = make_student()
        trainer = make_trainer(tmp_path, student, make_teacher(), **EVERY_TERM)
        if checkpointing:
            getattr(student, "activation_checkpointing_enable", student.gradient_checkpointing_enable)()
        loss_on(trainer, rows).backward()
        gradients.append({name: parameter.grad for name, parameter in student.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_several_teachers_are_averaged(tmp_path):
    rows, terms = make_rows(), EVERY_TERM | {"hard_label_weight": 0.0, "cosine_weight": 0.0, "hidden_state_weight": 0.0}
    teachers = [make_teacher(seed=2), make_teacher(seed=3, num_hidden_layers=4, hidden_size=16)]
    losses = [
        loss_on(make_trainer(tmp_path, make_student(), teacher, **terms), rows).item()
        for teacher in (*teachers, teachers)
    ]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)
    trainer = make_trainer(tmp_path, make_student(), teachers, **EVERY_TERM)
    # Both differ from the student in width; a projection for each teacher and each of two states.
    assert len(trainer.projections) == 2


def test_a_term_of_ones_own_is_weighted_and_one_of_weight_zero_is_not_called(tmp_path):
    rows, seen = make_rows(), []

    def gap(student, teacher, inputs):
        seen.append(inputs["input_ids"].shape)
        return (student.logits["logits"] - teacher.logits["logits"]).pow(2).mean()

    def fail(student, teacher, inputs):
        raise AssertionError("called")

    terms = {"gap": LossTerm(gap, weight=2.0), "off": LossTerm(fail, weight=0.0)}
    student, teacher = make_student(), make_teacher()
    trainer = make_trainer(tmp_path, student, teacher, loss_terms=terms, **NO_TERM)
    batch = collate(list(rows))
    expected = 2 * mse_loss(student(**batch).logits, teacher(**batch).logits)
    torch.testing.assert_close(loss_on(trainer, rows), expected)
    assert seen == [batch["input_ids"].shape]


def test_a_term_of_ones_own_is_given_what_it_asks_for(tmp_path):
    rows, student, teacher = make_rows(), make_student(), make_teacher()

    def first_layers(student, teacher, inputs):
        return student.hidden_states[1].pow(2).mean() + teacher.vectors[2][0].pow(2).mean()

    term = LossTerm(first_layers, student=Request(hidden_states=(1,)), teacher=Request(vectors=(2,)))
    trainer = make_trainer(tmp_path, student, teacher, loss_terms={"mine": term}, **NO_TERM)
    batch = collate(list(rows))
    states = student(**batch, output_hidden_states=True).hidden_states[1]
    queries = observe(teacher, batch, Request(vectors=(2,))).vectors[2][0]
    torch.testing.assert_close(loss_on(trainer, rows), states.pow(2).mean() + queries.pow(2).mean())
    # What is not compared with the teacher's is not projected to its width.
    assert len(trainer.projections) == 0


# The cache


@pytest.mark.parametrize("problem", ["single_label", "token_classification", "question_answering", "masked_lm"])
def test_a_cached_teacher_gives_the_loss_of_the_teacher_itself(problem, tmp_path):
    terms = EVERY_TERM | {"attention_weight": 0.0, "relation_weight": 0.0}
    rows, losses = make_rows(problem, number=5), []
    for cache in (None, str(tmp_path / "cache")):
        student, teacher = make_student(problem), make_teacher(problem)
        trainer = make_trainer(tmp_path, student, teacher, rows, **terms, teacher_cache=cache)
        # In another order and of another width than they were cached in.
        losses.append(loss_on(trainer, trainer.train_dataset.select([3, 1])))
    # Batches of other widths round differently.
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


def test_one_teacher_pass_serves_every_epoch_and_student(tmp_path):
    cache, teacher, ends = str(tmp_path / "cache"), make_teacher(), []
    sizes = count_forwards(teacher)
    for settings in ({"teacher_cache": cache}, {"teacher_cache": cache}, {}):
        student = make_student()
        make_trainer(tmp_path, student, teacher, max_steps=6, **settings).train()
        if settings:
            assert sum(sizes) == ROWS
        ends.append(snapshot(student))
    # Without a cache, two epochs.
    assert sum(sizes) == ROWS + 2 * ROWS
    assert_same(ends[0], ends[1])
    for name, tensor in ends[0].items():
        # Six Adam steps of 1e-3; rounding of gradients near zero may turn some of them.
        torch.testing.assert_close(tensor, ends[2][name], rtol=0, atol=2e-3)


def test_what_changes_the_teachers_answers_makes_a_new_cache(tmp_path):
    def folders(teacher=None, rows=None, **settings):
        trainer = make_trainer(
            tmp_path, make_student(), teacher or make_teacher(), rows, teacher_cache=str(tmp_path / "cache"), **settings
        )
        return trainer.caches["", 0].folder.name

    changed = make_teacher()
    with torch.no_grad():
        changed.classifier.bias[0] += 1e-3
    rows = make_rows()
    ids = [row["input_ids"] for row in rows]
    other_token = rows.remove_columns("input_ids").add_column(
        "input_ids", [*ids[:-1], [*ids[-1][:-1], 1 + ids[-1][-1] % 59]]
    )
    names = [
        folders(),
        folders(teacher=changed),
        folders(rows=other_token),
        folders(rows=rows.select(range(ROWS - 1))),
        folders(hidden_state_weight=1.0),
    ]
    assert len(set(names)) == len(names)
    # Labels, further columns and the student's settings are nothing to the teacher.
    relabelled = rows.remove_columns("labels").add_column("labels", [0] * ROWS).add_column("text", ["?"] * ROWS)
    assert folders(rows=relabelled, temperature=1.0) == names[0]
    assert len(list((tmp_path / "cache").glob("[!.]*"))) == len(names)


def test_a_cache_that_was_cut_short_is_made_anew(tmp_path):
    teacher, rows = make_teacher(), make_rows()
    calls = []

    def die_at_the_second_batch(batch):
        calls.append(len(batch))
        if len(calls) == 3:  # The first one checks the collator.
            raise KeyboardInterrupt
        return collate(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compactbert.training.teacher.CACHE_BATCH_SIZE", 4)
        with pytest.raises(KeyboardInterrupt):
            TeacherCache(tmp_path, teacher, rows, die_at_the_second_batch, Request())
    assert [path.suffix for path in tmp_path.glob("[!.]*")] == [".partial"]
    sizes = count_forwards(teacher)
    cache = TeacherCache(tmp_path, teacher, rows, collate, Request())
    assert sum(sizes) == ROWS
    assert [path.name for path in tmp_path.glob("[!.]*")] == [cache.folder.name]
    with torch.no_grad():
        expected = teacher(**collate(list(rows.select([5])))).logits
    seen = cache.fetch([5], (1, 9), torch.device("cpu")).logits["logits"]
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


def masks_at_random(rows):
    batch = collate(rows)
    batch["input_ids"][torch.rand(batch["input_ids"].shape) < 0.5] = 3
    return batch


def pads_on_the_left(rows):
    flipped = collate([{k: v[::-1] if isinstance(v, list) else v for k, v in row.items()} for row in rows])
    return {name: tensor.flip(-1) for name, tensor in flipped.items()}


@pytest.mark.parametrize("collator", [masks_at_random, pads_on_the_left])
def test_a_collator_that_changes_the_rows_is_refused_with_a_cache(collator, tmp_path):
    with pytest.raises(
        ValueError, match="`teacher_cache` needs a `data_collator` that pads on the right and changes no"
    ):
        make_trainer(tmp_path, make_student(), make_teacher(), collator=collator, teacher_cache=str(tmp_path / "cache"))


# Several tasks


def make_tasks(first_labels=3, second_labels=2):
    """Students, teachers and rows of two tasks, the second with twice as many."""
    tasks = {"one": first_labels, "two": second_labels}
    students = {task: make_student(num_labels=n) for task, n in tasks.items()}
    teachers = {task: make_teacher(seed=i, num_labels=n) for i, (task, n) in enumerate(tasks.items())}
    rows = {}
    for i, task in enumerate(tasks):
        plain = make_rows(number=8 * (i + 1), seed=i)
        labels = [label % tasks[task] for label in plain["labels"]]
        rows[task] = plain.remove_columns("labels").add_column("labels", labels).add_column("task", [task] * len(plain))
    return SimpleNamespace(
        student=MultiTaskModel(students),
        teachers=teachers,
        rows=concatenate_datasets(list(rows.values())),
        eval_rows=rows,
        collator=multitask_collator(dict.fromkeys(tasks, collate)),
    )


def test_tasks_share_an_encoder_and_have_heads_of_their_own(tmp_path):
    tasks = make_tasks()
    student = tasks.student
    before = snapshot(student)
    assert student.models["one"].bert is student.models["two"].bert
    assert [name for name in before if name.startswith("models.two")] == [
        "models.two.classifier.weight",
        "models.two.classifier.bias",
    ]
    seen = []
    student.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((kwargs["task"], len(kwargs["input_ids"]))), with_kwargs=True
    )
    forwards = {task: count_forwards(teacher) for task, teacher in tasks.teachers.items()}
    trainer = make_trainer(
        tmp_path, student, tasks.teachers, tasks.rows, collator=tasks.collator, max_steps=6, **EVERY_TERM
    )
    trainer.train()
    # An epoch: every row once, four of one task at a time.
    assert sorted(seen) == [("one", 4)] * 2 + [("two", 4)] * 4
    assert forwards == {"one": [4, 4], "two": [4, 4, 4, 4]}
    assert changed(before, student.state_dict()) == set(before)


def test_tasks_are_evaluated_one_at_a_time(tmp_path):
    tasks = make_tasks()
    trainer = make_trainer(tmp_path, tasks.student, tasks.teachers, tasks.rows, collator=tasks.collator)
    metrics = trainer.evaluate(tasks.eval_rows)
    for task, rows in tasks.eval_rows.items():
        with torch.no_grad():
            expected = tasks.student.eval()(task=task, **collate(list(rows.remove_columns("task")))).loss.item()
        assert metrics[f"eval_{task}_loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"A batch must be of one task, got rows of \['one', 'two'\]"):
        trainer.data_collator([tasks.eval_rows["one"][0], tasks.eval_rows["two"][0]])


def test_several_tasks_resume_and_save_their_encoder_once(tmp_path):
    settings = EVERY_TERM | {"max_steps": 11, "save_strategy": "steps", "save_steps": 8}
    ends = []
    for name, stop in (("whole", None), ("stopped", 8)):
        tasks = make_tasks()
        callbacks = [] if stop is None else [StopAt(stop)]
        trainer = make_trainer(
            tmp_path / name,
            tasks.student,
            tasks.teachers,
            tasks.rows,
            collator=tasks.collator,
            callbacks=callbacks,
            **settings,
        )
        trainer.train()
        if stop is not None:
            folder = tmp_path / name / "run" / "checkpoint-8"
            heads = [f"models.{task}.classifier.{part}" for task in ("one", "two") for part in ("weight", "bias")]
            encoder = [f"models.one.bert.{key}" for key in tasks.student.models["one"].bert.state_dict()]
            assert weights(folder).keys() == {*heads, *encoder}
            tasks = make_tasks()
            with torch.no_grad():
                for parameter in tasks.student.parameters():
                    parameter.zero_()
            trainer = make_trainer(
                tmp_path / name, tasks.student, tasks.teachers, tasks.rows, collator=tasks.collator, **settings
            )
            trainer.train(resume_from_checkpoint=str(folder))
        ends.append(snapshot(tasks.student))
    assert_same(*ends)
    for task, model in tasks.student.models.items():
        model.save_pretrained(tmp_path / task)
        assert_same(model.state_dict(), type(model).from_pretrained(tmp_path / task).state_dict())


def test_batches_are_of_one_task_each_and_every_row_comes():
    tasks = ["a"] * 10 + ["b"] * 21
    sampler = TaskBatchSampler(tasks, 4, seed=1)
    order = list(sampler)
    assert len(order) == len(sampler) == 12 + 24
    assert set(order) == set(range(31))
    batches = [{tasks[row] for row in order[i : i + 4]} for i in range(0, len(order), 4)]
    assert sorted(batches, key=str) == [{"a"}] * 3 + [{"b"}] * 6
    assert batches != sorted(batches, key=str)


def test_the_order_of_tasks_depends_on_seed_and_epoch_alone():
    sampler, again = TaskBatchSampler(["a"] * 20, 4, seed=1), TaskBatchSampler(["a"] * 20, 4, seed=1)
    first, _ = list(sampler), torch.rand(1)
    assert list(again) == first
    again.set_epoch(1)
    assert list(again) != first
    assert list(TaskBatchSampler(["a"] * 20, 4, seed=9)) != first


def test_encoders_of_other_sizes_cannot_be_shared():
    with pytest.raises(ValueError, match=r"encoder of task 'two' .* differ in \['embeddings.LayerNorm.bias'"):
        MultiTaskModel({"one": make_student(), "two": make_student(hidden_size=32)})
    with pytest.raises(ValueError, match="`models` is empty"):
        MultiTaskModel({})


def test_foreign_weights_are_reported():
    student = make_tasks().student
    with pytest.raises(RuntimeError, match="Unexpected key"):
        student.load_state_dict({**student.state_dict(), "models.one.nonsense": torch.zeros(1)})


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"kd_loss_weight": -1.0}, "`kd_loss_weight` must not be negative, got -1.0"),
        ({"relation_weight": -0.1}, "`relation_weight` must not be negative, got -0.1"),
        (NO_TERM, "are 0: give at least one a weight"),
        ({"layer_map": [[1, 4]]}, r"`layer_map` must pair a student layer up to 2 with .* up to 3, .* got \[1, 4\]"),
        ({"layer_map": [[3, 1]]}, r"`layer_map` must pair .* got \[3, 1\]"),
        ({"layer_map": [[-1, 1]]}, r"`layer_map` must pair .* got \[-1, 1\]"),
        ({"layer_map": [[1]]}, r"`layer_map` must pair .* got \[1\]"),
        ({"relation_map": [[0, 1]]}, r"`relation_map` must pair .* counted from 1, got \[0, 1\]"),
        (
            {"relation_weight": 1.0, "relation_heads": 3},
            r"`relation_heads` must divide the attention widths \[16, 32\], got 3",
        ),
        ({"relation_weight": 1.0, "relation_heads": 0}, "`relation_heads` must divide .* got 0"),
        ({"attention_weight": 1.0, "layer_map": [[0, 0], [2, 0]]}, "`attention_weight` needs a pair of layers"),
        (
            {"loss_terms": {"mine": LossTerm(print, weight=-1.0)}},
            "'mine' in `loss_terms` must not be negative, got -1.0",
        ),
        ({"attention_weight": 1.0, "teacher_cache": "cache"}, "set `teacher_cache=None` to use attention"),
        ({"relation_weight": 1.0, "teacher_cache": "cache"}, "set `teacher_cache=None` to use attention or relation"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, make_student(), make_teacher(), **settings)
    assert not (tmp_path / "run").exists()


def named(names, **fields):
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}} | fields


@pytest.mark.parametrize(
    ("of_student", "of_teacher", "message"),
    [
        ({}, {"vocab_size": 70}, "`vocab_size` 60, the teacher 70: .* Prune the vocabulary"),
        ({}, {"num_labels": 4}, "take a teacher that was fine-tuned on this task"),
        (named("ab", num_labels=2), named("abc", num_labels=3), r"labels \['a', 'b'\], the teacher \['a', 'b', 'c'\]"),
        (named("ab", num_labels=2), named("ba", num_labels=2), "they must agree in name and order"),
        (named("ab", num_labels=2), named("ac", num_labels=2), "they must agree in name and order"),
    ],
    ids=["vocabularies", "numbers_of_labels", "label_sets", "label_order", "label_names"],
)
def test_models_that_do_not_fit_each_other_are_refused(of_student, of_teacher, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, make_student(**of_student), make_teacher(**of_teacher))


def test_labels_without_names_match_any_names(tmp_path):
    make_trainer(tmp_path, make_student(**named("abc")), make_teacher())


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_attention_maps_need_eager_attention(role, tmp_path):
    models = {"student": make_student(), "teacher": make_teacher()}
    models[role].set_attn_implementation("sdpa")
    with pytest.raises(
        ValueError, match=f"`attention_weight` needs attention maps, which the {role}'s 'sdpa' attention"
    ):
        make_trainer(tmp_path, *models.values(), attention_weight=1.0)
    make_trainer(tmp_path, *models.values(), hidden_state_weight=1.0)


def test_a_teacher_of_another_head_teaches_all_but_logits(tmp_path):
    student, teacher = make_student(num_labels=2), make_teacher("masked_lm")
    rows = make_rows().remove_columns("labels")
    with pytest.raises(
        ValueError, match="student is a SmBertForSequenceClassification, the teacher a SmBertForMaskedLM"
    ):
        make_trainer(tmp_path, student, teacher)
    trainer = make_trainer(tmp_path, student, teacher, **NO_TERM | {"relation_weight": 1.0})
    assert 0 < loss_on(trainer, rows) < torch.inf


def test_teachers_must_be_of_the_students_tasks(tmp_path):
    with pytest.raises(ValueError, match=r"teachers are for the tasks \['one'\], the student for \['one', 'two'\]"):
        make_trainer(tmp_path, make_tasks().student, {"one": make_teacher()})
    with pytest.raises(ValueError, match="`teacher_model` is an empty list"):
        make_trainer(tmp_path, make_student(), [])


def test_a_cache_is_for_one_task(tmp_path):
    tasks = make_tasks()
    with pytest.raises(ValueError, match=r"`teacher_cache` needs a `datasets.Dataset` of one task"):
        make_trainer(
            tmp_path, tasks.student, tasks.teachers, tasks.rows, collator=tasks.collator, teacher_cache=str(tmp_path)
        )


def test_hard_labels_need_labels(tmp_path):
    trainer = make_trainer(tmp_path, make_student(), make_teacher())
    with pytest.raises(ValueError, match="`hard_label_weight` needs rows with labels: set it to 0"):
        loss_on(trainer, make_rows().remove_columns("labels"))


def test_a_cache_that_the_disk_has_no_room_for_is_done_without(tmp_path, monkeypatch, caplog):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("compactbert.training.teacher.shutil.disk_usage", lambda path: usage)
    terms = NO_TERM | {"cosine_weight": 1.0}
    trainer = make_trainer(tmp_path, make_student(), make_teacher(), **terms, teacher_cache=str(tmp_path / "cache"))
    assert "the teacher runs in every step instead" in caplog.text
    assert trainer.caches == {}
    assert list((tmp_path / "cache").glob("[!.]*")) == []
    assert loss_on(trainer, make_rows()).item() > 0
