import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from compactbert.training.losses import (
    attention_loss,
    attention_transfer_loss,
    binary_soft_target_loss,
    cosine_loss,
    feature_map_transfer_loss,
    hidden_state_loss,
    pretraining_distillation_loss,
    relation_loss,
    soft_target_loss,
)


BATCH, SEQ, WIDTH, HEADS, CLASSES = 3, 7, 12, 4, 5
# float32 against float64, on losses of size one.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
MASK = torch.ones(BATCH, SEQ, dtype=torch.long)
MASK[0, 4:] = 0
MASK[2, 6:] = 0
KEPT = MASK.numpy().astype(bool)
LABELS = torch.tensor([2, 0, 4])
VARIANTS = ("paper", "google-research", "model-garden")


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits(seed):
    return random(BATCH, CLASSES, seed=seed)


def states(seed, width=WIDTH):
    return random(BATCH, SEQ, width, seed=seed)


def probabilities(seed, heads=HEADS):
    """Attention maps that give padding nothing."""
    scores = random(BATCH, heads, SEQ, SEQ, seed=seed)
    return scores.masked_fill(MASK[:, None, None] == 0, -torch.inf).softmax(-1)


# Every loss that has a mask, of a student and a teacher as a seed makes them.
MASKED = {
    "soft_target": (
        lambda seed: random(BATCH, SEQ, CLASSES, seed=seed),
        lambda s, t, m: soft_target_loss(s, t, 2.0, m),
    ),
    "cosine": (states, cosine_loss),
    "hidden_state": (states, hidden_state_loss),
    "attention": (probabilities, attention_loss),
    "relation": (states, lambda s, t, m: relation_loss(s, t, 3, m)),
    "feature_map": (states, feature_map_transfer_loss),
    "feature_map_model_garden": (states, lambda s, t, m: feature_map_transfer_loss(s, t, m, "model-garden")),
    "feature_map_google": (
        states,
        lambda s, t, m: feature_map_transfer_loss(s, t, m, "google-research", teacher_maps=[2 * t, t, -t]),
    ),
    "attention_transfer": (probabilities, attention_transfer_loss),
    "attention_transfer_released": (probabilities, lambda s, t, m: attention_transfer_loss(s, t, m, "model-garden")),
}
# Cross-entropies, and a layer that is compared with all layers.
NEVER_ZERO = ("feature_map_google", "attention_transfer_released")
UNMASKED = {
    "soft_target_of_texts": (logits, lambda s, t, m: soft_target_loss(s, t, 2.0, None)),
    "binary_soft_target": (logits, lambda s, t, m: binary_soft_target_loss(s, t, 2.0)),
    "pretraining_distillation": (logits, lambda s, t, m: pretraining_distillation_loss(s, t, LABELS, 0.0, 2.0)),
}
each_masked_loss = pytest.mark.parametrize("name", MASKED)
each_loss = pytest.mark.parametrize("name", MASKED | UNMASKED)


def divergence(student, teacher):
    """KL(teacher ‖ student) over the last axis, of logits in float64."""
    student, teacher = log_softmax(student, -1), log_softmax(teacher, -1)
    return (np.exp(teacher) * (teacher - student)).sum(-1)


def as_numpy(*tensors):
    return [tensor.numpy().astype(np.float64) for tensor in tensors]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_targets_of_texts_agree_with_numpy(temperature):
    student, teacher = as_numpy(logits(0), logits(1))
    expected = temperature**2 * divergence(student / temperature, teacher / temperature).mean()
    np.testing.assert_allclose(soft_target_loss(logits(0), logits(1), temperature, None), expected, **CLOSE)


def test_soft_targets_of_tokens_agree_with_numpy():
    one, other = random(BATCH, SEQ, CLASSES, seed=0), random(BATCH, SEQ, CLASSES, seed=1)
    student, teacher = as_numpy(one, other)
    expected = 9 * divergence(student / 3, teacher / 3)[KEPT].mean()
    np.testing.assert_allclose(soft_target_loss(one, other, 3.0, MASK), expected, **CLOSE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_binary_soft_targets_agree_with_numpy(temperature):
    student, teacher = (1 / (1 + np.exp(-z / temperature)) for z in as_numpy(logits(0), logits(1)))
    per_label = teacher * np.log(teacher / student) + (1 - teacher) * np.log((1 - teacher) / (1 - student))
    expected = temperature**2 * per_label.sum(-1).mean()
    np.testing.assert_allclose(binary_soft_target_loss(logits(0), logits(1), temperature), expected, **CLOSE)


def test_cosine_agrees_with_numpy():
    student, teacher = as_numpy(states(0), states(1))
    norms = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    expected = (1 - (student * teacher).sum(-1) / norms)[KEPT].mean()
    np.testing.assert_allclose(cosine_loss(states(0), states(1), MASK), expected, **CLOSE)


def test_hidden_states_agree_with_numpy():
    student, teacher = as_numpy(states(0), states(1))
    expected = ((student - teacher)[KEPT] ** 2).mean()
    np.testing.assert_allclose(hidden_state_loss(states(0), states(1), MASK), expected, **CLOSE)


@pytest.mark.parametrize("teacher_heads", [HEADS, 6], ids=["same_heads", "other_heads"])
def test_attention_agrees_with_numpy(teacher_heads):
    student, teacher = as_numpy(probabilities(0), probabilities(1, teacher_heads))
    if teacher_heads != HEADS:
        student, teacher = student.mean(1, keepdims=True), teacher.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(teacher > 0, teacher * np.log(teacher / student), 0.0)
    expected = terms.sum(-1).mean(1)[KEPT].mean()
    np.testing.assert_allclose(
        attention_loss(probabilities(0), probabilities(1, teacher_heads), MASK), expected, **CLOSE
    )


@pytest.mark.parametrize("teacher_width", [WIDTH, 18], ids=["same_width", "other_width"])
def test_relations_agree_with_numpy(teacher_width):
    student, teacher = as_numpy(states(0), states(1, teacher_width))
    expected = []
    for row in range(BATCH):
        tokens = KEPT[row]
        for head in range(3):
            scores = []
            for vectors in (student, teacher):
                size = vectors.shape[-1] // 3
                part = vectors[row, tokens, head * size : (head + 1) * size]
                scores.append(part @ part.T / np.sqrt(size))
            expected.append(divergence(*scores))
    # Heads of a row have equally many tokens, so the mean over heads and then tokens is the mean over all.
    expected = np.concatenate(expected).mean()
    np.testing.assert_allclose(relation_loss(states(0), states(1, teacher_width), 3, MASK), expected, **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_feature_map_transfer_agrees_with_numpy(variant):
    others = [states(2), states(1), states(3)]
    student, teacher, *maps = as_numpy(states(0), states(1), *others)
    if variant == "paper":
        expected = sum(((student - teacher)[i, j] ** 2).sum() for i, j in np.argwhere(KEPT)) / (KEPT.sum() * WIDTH)
    else:

        def normalised(x):
            # Layer normalisation's epsilon.
            return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

        compared = maps if variant == "google-research" else [teacher]
        mean = np.mean([(student.mean(-1) - other.mean(-1))[KEPT] ** 2 for other in compared])
        variance = np.mean([np.abs(student.var(-1) - other.var(-1))[KEPT] for other in compared])
        difference = ((normalised(student) - normalised(teacher))[KEPT] ** 2).mean()
        expected = 100 * difference + 5000 * mean + 5 * variance
    loss = feature_map_transfer_loss(states(0), states(1), MASK, variant, teacher_maps=others)
    np.testing.assert_allclose(loss, expected, **CLOSE)


@pytest.mark.parametrize("teacher_heads", [HEADS, 3 * HEADS], ids=["same_heads", "groups"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_transfer_agrees_with_numpy(variant, teacher_heads):
    student, teacher = as_numpy(probabilities(0), probabilities(1, teacher_heads))
    size = teacher_heads // HEADS
    total = 0.0
    for row, token in np.argwhere(KEPT):
        for head in range(HEADS):
            target = teacher[row, head * size : (head + 1) * size, token].mean(0)
            seen = target > 0
            entropy = (target * np.log(target, where=seen, out=np.zeros_like(target))).sum()
            cross = -(target[seen] * np.log(student[row, head, token][seen])).sum()
            total += cross + (entropy if variant == "paper" else 0.0)
    loss = attention_transfer_loss(probabilities(0), probabilities(1, teacher_heads), MASK, variant)
    np.testing.assert_allclose(loss, total / (KEPT.sum() * HEADS), **CLOSE)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pretraining_distillation_agrees_with_numpy(variant, ratio, temperature):
    student, teacher = as_numpy(logits(0), logits(1))
    target = softmax(teacher / temperature, -1)
    soft = -(target * log_softmax(student / temperature, -1)).sum(-1).mean()
    if variant == "paper":
        soft += (target * np.log(target)).sum(-1).mean()
    hard = -log_softmax(student, -1)[range(BATCH), LABELS].mean()
    expected = ratio * hard + (1 - ratio) * temperature**2 * soft
    loss = pretraining_distillation_loss(logits(0), logits(1), LABELS, ratio, temperature, variant)
    np.testing.assert_allclose(loss, expected, **CLOSE)


def test_the_released_distillation_is_a_cross_entropy_with_mixed_targets():
    mixed = 0.5 * torch.nn.functional.one_hot(LABELS, CLASSES) + 0.5 * logits(1).softmax(-1)
    expected = torch.nn.functional.cross_entropy(logits(0), mixed)
    loss = pretraining_distillation_loss(logits(0), logits(1), LABELS, variant="google-research")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_without_masked_tokens_there_is_no_loss(ratio):
    student = torch.zeros(0, CLASSES, requires_grad=True)
    loss = pretraining_distillation_loss(student, torch.zeros(0, CLASSES), LABELS[:0], ratio)
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize(
    "released",
    [
        lambda s, t, v: attention_transfer_loss(s.softmax(-1), t.softmax(-1), torch.ones(1, SEQ), v),
        lambda s, t, v: pretraining_distillation_loss(
            s.flatten(0, 2), t.flatten(0, 2), torch.ones(28).long(), 0.5, 1, v
        ),
    ],
    ids=["attention_transfer", "pretraining_distillation"],
)
def test_the_teachers_entropy_changes_no_gradient(released):
    gradients = []
    for variant in VARIANTS:
        student = random(1, HEADS, SEQ, SEQ, seed=0).requires_grad_()
        released(student, random(1, HEADS, SEQ, SEQ, seed=1), variant).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # The teacher says 3/4 and 1/4, the student 1/2 and 1/2.
        (
            soft_target_loss(torch.zeros(1, 2), torch.tensor([[np.log(3.0), 0.0]]), 1.0, None),
            0.75 * np.log(3) - np.log(2),
        ),
        (hidden_state_loss(torch.zeros(1, 2, 2), torch.ones(1, 2, 2) * 3, torch.ones(1, 2)), 9.0),
        (cosine_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-2.0, 0.0]]]), torch.ones(1, 1)), 2.0),
        (attention_loss(torch.full((1, 1, 2, 2), 0.5), torch.eye(2)[None, None], torch.ones(1, 2)), np.log(2)),
    ],
    ids=["soft_target", "hidden_state", "cosine", "attention"],
)
def test_values_by_hand(loss, expected):
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in MASKED | UNMASKED if name not in NEVER_ZERO])
def test_a_student_that_equals_its_teacher_has_no_loss(name):
    make, loss = (MASKED | UNMASKED)[name]
    value = loss(make(0), make(0), MASK)
    # The cosine of a vector with itself rounds.
    assert abs(value.item()) < 1e-6
    assert loss(make(0), make(1), MASK).item() > 0.01


@each_masked_loss
def test_padding_changes_nothing(name):
    make, loss = MASKED[name]
    student, teacher = make(0), make(1)
    padding = MASK == 0
    if name.startswith("attention"):
        padding = padding[:, None].expand(-1, HEADS, -1)
    other_student, other_teacher = student.clone(), teacher.clone()
    other_student[padding], other_teacher[padding] = 7.0, 9.0
    assert torch.equal(loss(student, teacher, MASK), loss(other_student, other_teacher, MASK))


@each_masked_loss
def test_a_padded_batch_has_the_loss_of_its_rows_without_padding(name):
    make, loss = MASKED[name]
    student, teacher = make(0), make(1)
    total = 0.0
    for row, length in enumerate(MASK.sum(1).tolist()):
        cut = (slice(row, row + 1), slice(None), slice(length), slice(length)) if name.startswith("attention") else None
        cut = cut or (slice(row, row + 1), slice(length))
        total += length * loss(student[cut], teacher[cut], torch.ones(1, length))
    torch.testing.assert_close(loss(student, teacher, MASK), total / MASK.sum(), rtol=1e-6, atol=1e-6)


@each_masked_loss
def test_a_batch_of_padding_alone_has_no_loss(name):
    make, loss = MASKED[name]
    student = make(0).requires_grad_()
    value = loss(student, make(1), torch.zeros_like(MASK))
    assert value == 0
    value.backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


@each_loss
def test_gradients_are_finite_and_reach_the_student_alone(name):
    make, loss = (MASKED | UNMASKED)[name]
    # Logits and scores that a softmax turns into zeros and ones.
    scale = 1.0 if name.startswith("attention") else 50.0
    student, teacher = (make(0) * scale).requires_grad_(), make(1) * scale
    loss(student, teacher, MASK).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0


def test_at_a_high_temperature_soft_targets_are_the_squared_difference_of_centred_logits():
    # Hinton et al., section 2.1, and Kim et al. (arXiv:2105.08919): the limit is |centred difference|² / 2C. It is
    # approached like 1/T; float32 carries T = 100 with four digits.
    student, teacher = logits(0), logits(1)
    difference = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = difference.pow(2).sum(-1).mean() / (2 * CLASSES)
    assert soft_target_loss(student, teacher, 100.0, None).item() == pytest.approx(limit.item(), rel=1e-2)
    assert soft_target_loss(student, teacher, 1.0, None).item() != pytest.approx(limit.item(), rel=1e-2)


def test_several_labels_are_decisions_of_their_own():
    # The loss of a text is the sum of those of its labels, and a label's does not see the others.
    student, teacher = logits(0), logits(1)
    alone = sum(binary_soft_target_loss(student[:, [i]], teacher[:, [i]], 2.0) for i in range(CLASSES))
    torch.testing.assert_close(binary_soft_target_loss(student, teacher, 2.0), alone)


def test_relations_do_not_depend_on_the_width_but_on_the_relations():
    # The same vectors beside zeros, with the factor that makes up for the wider heads.
    narrow, teacher = states(0, 4), states(1, 4)
    wide = torch.cat([narrow, torch.zeros_like(narrow)], dim=-1) * 2**0.25
    torch.testing.assert_close(
        relation_loss(wide, teacher, 1, MASK), relation_loss(narrow, teacher, 1, MASK), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_loss
def test_half_precision_inputs_are_computed_in_float32(name, dtype):
    make, loss = (MASKED | UNMASKED)[name]
    student, teacher = make(0).to(dtype), make(1).to(dtype)
    value = loss(student, teacher, MASK)
    assert value.dtype == torch.float32
    assert value == loss(student.float(), teacher.float(), MASK)


def test_a_relative_difference_does_not_depend_on_the_scale():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, generator=generator)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    kept = mask.bool()
    expected = (student - teacher)[kept].pow(2).mean() / teacher[kept].pow(2).mean()
    for scale in (1.0, 2.5e7):
        loss = hidden_state_loss(scale * student, scale * teacher, mask, relative=True)
        torch.testing.assert_close(loss, expected)
