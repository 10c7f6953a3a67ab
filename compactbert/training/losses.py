"""The terms of a distillation loss, as pure functions.

All compute in float32, are means over rows or over the tokens that `mask` keeps, and are zero where student and teacher
agree. `mask` is 1 for tokens and 0 for padding, of shape `(batch, seq)`.
"""

import torch
from torch import Tensor, nn


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


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    kept = mask.to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp_min(1.0)


__all__ = [
    "attention_loss",
    "binary_soft_target_loss",
    "cosine_loss",
    "hidden_state_loss",
    "relation_loss",
    "soft_target_loss",
]
