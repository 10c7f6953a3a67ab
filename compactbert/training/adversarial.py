"""Training on the worst disturbance of the embeddings within a small distance: FGM and FreeLB."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


Method = Literal["fgm", "freelb"]


class Disturbance:
    """
    What is added to the word embeddings of a batch, one vector for every token.

    Args:
        embeddings (`nn.Module`): The model's word embeddings.
        epsilon (`float`): The longest a row's disturbance may be (Euclidean, over all its tokens).
    """

    def __init__(self, embeddings: nn.Module, epsilon: float):
        self.embeddings, self.epsilon = embeddings, epsilon
        self.value: Tensor | None = None

    @contextmanager
    def applied(self, random: bool = False) -> Iterator[None]:
        """Adds it within this context; it begins as zero, or at random, as soon as the embeddings are read."""

        def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            if self.value is None:
                value = torch.empty_like(output).uniform_(-1, 1) if random else torch.zeros_like(output)
                # Within the distance, as each of so many coordinates is at most one.
                self.value = value.mul_(self.epsilon / output[0].numel() ** 0.5).requires_grad_()
            return output + self.value

        hook = self.embeddings.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def climb(self, step: float) -> None:
        """Moves every row along its gradient by `step`, and back to within the distance."""
        assert self.value is not None
        assert self.value.grad is not None
        direction = nn.functional.normalize(self.value.grad.flatten(1), dim=1)
        moved = self.value.detach().flatten(1) + step * direction
        lengths = moved.norm(dim=1, keepdim=True).clamp_min(self.epsilon)
        self.value = (moved * (self.epsilon / lengths)).view_as(self.value).requires_grad_()


def adversarial_step(
    backward: Callable[[float], Tensor],
    embeddings: nn.Module,
    method: Method,
    epsilon: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """
    The gradients of a batch, adversarial ones among them.

    FGM (https://huggingface.co/papers/1605.07725) adds the loss at the undisturbed embeddings and the one `epsilon`
    along its gradient. FreeLB (https://huggingface.co/papers/1909.11764) begins at random, climbs the loss in `steps`
    of `step_size`, and takes the mean of the losses on the way.

    Args:
        backward (callable):
            Computes the loss of the batch and the gradients of so many times that loss, and returns it.
        embeddings (`nn.Module`):
            The model's word embeddings.
        method (`"fgm"` or `"freelb"`), epsilon (`float`), steps (`int`), step_size (`float`):
            As above.

    Returns:
        The loss.
    """
    disturbance = Disturbance(embeddings, epsilon)
    if method == "fgm":
        with disturbance.applied():
            loss = backward(1.0)
            disturbance.climb(epsilon)
            return loss + backward(1.0)
    losses = []
    with disturbance.applied(random=True):
        for step in range(steps):
            if step:
                disturbance.climb(step_size)
            losses.append(backward(1 / steps))
    return torch.stack(losses).sum()


__all__ = ["Disturbance", "Method", "adversarial_step"]
