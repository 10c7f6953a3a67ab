"""The terms of a distillation loss, as pure functions.

All compute in float32, are means over rows or over the tokens that `mask` keeps, and are zero where student and teacher
agree (but for the released variants of MobileBERT's, see [`Variant`]). `mask` is 1 for tokens and 0 for padding, of
shape `(batch, seq)`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


# Where MobileBERT's losses come from: its paper, or one of the two released implementations, which differ from it and
# from each other (google-research/mobilebert and tensorflow/models' official/projects/mobilebert).
Variant = Literal["paper", "google-research", "model-garden"]
# The released factors of the three parts of feature map transfer.
MAP_FACTOR, MEAN_FACTOR, VARIANCE_FACTOR = 100.0, 5000.0, 5.0


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    """
    T² · KL(softmax(z_t / T) ‖ softmax(z_s / T)): Hinton et al. (https://huggingface.co/papers/1503.02531), section 2.
    The factor keeps the gradients' size independent of the temperature T.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `(batch, classes)` or `(batch, seq, classes)`): z.
        temperature (`float`): T.
        mask (`torch.Tensor` of shape `(batch, seq)`): With logits per token; `None` otherwise.
    """
    student = nn.functional.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = nn.functional.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * _masked_mean((teacher.exp() * (teacher - student)).sum(-1), mask)


def binary_soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """[`soft_target_loss`] for several labels per text: every logit of shape `(batch, labels)` is a decision of its
    own, and the divergences of a text's decisions add up."""
    # A decision is a softmax over the logit and zero.
    student, teacher = (torch.stack([z, torch.zeros_like(z)], dim=-1) for z in (student_logits, teacher_logits))
    return soft_target_loss(student, teacher, temperature, None) * student_logits.shape[-1]


def consistency_loss(one_logits: Tensor, other_logits: Tensor) -> Tensor:
    """
    The mean of KL(p ‖ q) and KL(q ‖ p), for every prediction by itself: what R-Drop
    (https://huggingface.co/papers/2106.14448) adds for two passes that differ in dropout.

    Args:
        one_logits, other_logits (`torch.Tensor` of shape `(..., classes)`): Of the two passes.
    """
    one, other = (nn.functional.log_softmax(logits.float(), dim=-1) for logits in (one_logits, other_logits))
    return 0.5 * ((one.exp() - other.exp()) * (one - other)).sum(-1)


def cosine_loss(student_states: Tensor, teacher_states: Tensor, mask: Tensor) -> Tensor:
    """1 - cos(h_s, h_t) per token, states of shape `(batch, seq, width)`: DistilBERT
    (https://huggingface.co/papers/1910.01108), section 2."""
    similarity = nn.functional.cosine_similarity(student_states.float(), teacher_states.float(), dim=-1)
    return _masked_mean(1 - similarity, mask)


def hidden_state_loss(student_states: Tensor, teacher_states: Tensor, mask: Tensor, relative: bool = False) -> Tensor:
    """Mean squared difference of hidden states of shape `(batch, seq, width)`: TinyBERT
    (https://huggingface.co/papers/1909.10351), equation 8. `relative` divides it by the teacher's mean square, for
    networks such as MobileBERT whose states are not normalised and reach 2.5e7."""
    student, teacher = student_states.float(), teacher_states.float()
    loss = _masked_mean((student - teacher).pow(2).mean(-1), mask)
    if relative:
        loss = loss / _masked_mean(teacher.pow(2).mean(-1), mask).clamp_min(torch.finfo(torch.float32).tiny)
    return loss


def attention_loss(student_probs: Tensor, teacher_probs: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the attention distributions of every token, averaged over heads: MiniLM
    (https://huggingface.co/papers/2002.10957), section 3.1. Probabilities of shape `(batch, heads, seq, seq)`; where
    the numbers of heads differ, the heads' mean distributions are compared."""
    student, teacher = student_probs.float(), teacher_probs.float()
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    tiny = torch.finfo(torch.float32).tiny
    divergence = teacher * (teacher.clamp_min(tiny).log() - student.clamp_min(tiny).log())
    return _masked_mean(divergence.sum(-1).mean(1), mask)


def feature_map_transfer_loss(
    student_map: Tensor,
    teacher_map: Tensor,
    mask: Tensor,
    variant: Variant = "paper",
    teacher_maps: Sequence[Tensor] | None = None,
) -> Tensor:
    """
    MobileBERT's feature map transfer (https://huggingface.co/papers/2004.02984, section 3.4) of one layer.

    * `"paper"`: 1/(T N) Σ_t Σ_n (H^tr - H^st)², over T tokens and N features.
    * `"model-garden"`: 100 times that of the maps after a layer normalisation without parameters, plus 5000 times the
      squared difference of a token's means over the features, plus 5 times the absolute difference of its variances.
    * `"google-research"`: the same, but mean and variance of the student are compared with those of *all* the teacher's
      layers, the embeddings' output included (the code takes the list where the layer's map was meant).

    The released code counts padding too; here `mask` leaves it out in every variant.

    Args:
        student_map, teacher_map (`torch.Tensor` of shape `(batch, seq, hidden)`): Outputs of the two layers.
        teacher_maps (list of `torch.Tensor` of that shape): All maps of the teacher; for `"google-research"` only.
    """
    if variant == "paper":
        return hidden_state_loss(student_map, teacher_map, mask)
    student, teacher = student_map.float(), teacher_map.float()
    width = student.shape[-1:]
    normalised = [nn.functional.layer_norm(states, width) for states in (student, teacher)]
    loss = MAP_FACTOR * hidden_state_loss(normalised[0], normalised[1], mask)
    whole = teacher_maps if variant == "google-research" and teacher_maps is not None else [teacher]
    means = [(student.mean(-1) - states.float().mean(-1)).pow(2) for states in whole]
    variances = [(_variance(student) - _variance(states.float())).abs() for states in whole]
    loss = loss + MEAN_FACTOR * _masked_mean(torch.stack(means).mean(0), mask)
    return loss + VARIANCE_FACTOR * _masked_mean(torch.stack(variances).mean(0), mask)


def attention_transfer_loss(
    student_probs: Tensor, teacher_probs: Tensor, mask: Tensor, variant: Variant = "paper"
) -> Tensor:
    """
    MobileBERT's attention transfer (https://huggingface.co/papers/2004.02984, section 3.4) of one layer: 1/(T A) Σ_t
    Σ_a KL(a^tr ‖ a^st) over T tokens and A heads. Both released implementations leave out the teacher's entropy, which
    is a constant: the same gradients, but no longer zero where the two agree.

    Where the teacher has a multiple of the student's heads, each of the student's meets the mean of as many
    neighbouring heads of the teacher.

    Args:
        student_probs, teacher_probs (`torch.Tensor` of shape `(batch, heads, seq, seq)`): Attention probabilities.
    """
    student = student_probs.float()
    teacher = teacher_probs.float().unflatten(1, (student.shape[1], -1)).mean(2)
    loss = attention_loss(student, teacher, mask)
    if variant != "paper":
        entropy = torch.special.entr(teacher).sum(-1).mean(1)
        loss = loss + _masked_mean(entropy, mask)
    return loss


def pretraining_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    ground_truth_ratio: float = 0.5,
    temperature: float = 1.0,
    variant: Variant = "paper",
) -> Tensor:
    """
    The masked language modelling part of MobileBERT's pre-training distillation
    (https://huggingface.co/papers/2004.02984, section 3.4): α L_MLM + (1 - α) L_KD, with L_KD = T² KL(teacher ‖
    student). The released code mixes labels and the teacher's probabilities into one target of a cross-entropy, which
    adds the teacher's entropy: the same gradients at T = 1, the only temperature that it was run with.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `(predictions, vocab)`): At the masked positions. The
            teacher's may be `None` if α is 1.
        labels (`torch.Tensor` of shape `(predictions,)`): The tokens that were masked.
        ground_truth_ratio (`float`): α.
        temperature (`float`): T.
    """
    # A batch may have no masked tokens, whose mean would not be a number.
    predictions = torch.ones_like(labels)
    hard = nn.functional.cross_entropy(student_logits.float(), labels, reduction="none")
    loss = ground_truth_ratio * _masked_mean(hard, predictions)
    if teacher_logits is None or ground_truth_ratio == 1.0:
        return loss
    soft = soft_target_loss(student_logits, teacher_logits, temperature, predictions)
    if variant != "paper":
        teacher = nn.functional.softmax(teacher_logits.float() / temperature, dim=-1)
        soft = soft + temperature**2 * _masked_mean(torch.special.entr(teacher).sum(-1), predictions)
    return loss + (1 - ground_truth_ratio) * soft


def relation_loss(student_vectors: Tensor, teacher_vectors: Tensor, relation_heads: int, mask: Tensor) -> Tensor:
    """
    KL(R_t ‖ R_s) of the relations R = softmax(A Aᵀ / √d) of a text's queries, keys or values with each other:
    MiniLMv2 (https://huggingface.co/papers/2012.15828), section 3.1. The vectors of all heads are laid side by side
    and cut into `relation_heads` parts of d features, so student and teacher may differ in heads and width.

    Args:
        student_vectors, teacher_vectors (`torch.Tensor` of shape `(batch, seq, width)`): A; of any two widths that are
            multiples of `relation_heads`.
    """
    student = _relations(student_vectors.float(), relation_heads, mask)
    teacher = _relations(teacher_vectors.float(), relation_heads, mask)
    return _masked_mean((teacher.exp() * (teacher - student)).sum(-1).mean(1), mask)


def _relations(vectors: Tensor, relation_heads: int, mask: Tensor) -> Tensor:
    parts = vectors.unflatten(-1, (relation_heads, -1)).transpose(1, 2)  # (batch, relation_heads, seq, d)
    scores = parts @ parts.transpose(2, 3) / parts.shape[-1] ** 0.5
    # Not minus infinity: its difference with itself is not a number.
    scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(scores.dtype).min)
    return nn.functional.log_softmax(scores, dim=-1)


def _variance(states: Tensor) -> Tensor:
    return states.var(-1, correction=0)


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    kept = mask.to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp_min(1.0)


__all__ = [
    "Variant",
    "attention_loss",
    "attention_transfer_loss",
    "binary_soft_target_loss",
    "consistency_loss",
    "cosine_loss",
    "feature_map_transfer_loss",
    "hidden_state_loss",
    "pretraining_distillation_loss",
    "relation_loss",
    "soft_target_loss",
]
