"""Quantization-aware training: a model that computes as its int8 export will, while its weights stay what they are.

Weights are rounded per output channel and symmetrically, the inputs of linear layers between the smallest and the
largest value of the batch, embeddings between those of their table; torch passes gradients through the rounding as if
it were not there (https://huggingface.co/papers/1712.05877). ONNX Runtime's dynamic int8 does just this, see
[`~compactbert.inference.export_onnx`].
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN


# Below it a scale would be none.
EPSILON = torch.finfo(torch.float32).eps


class RoundedLinear(nn.Linear):
    """A linear layer that computes with 8 bits. It has no parameters of its own: nothing of it is ever saved."""

    def forward(self, input: Tensor) -> Tensor:
        """As in a linear layer."""
        return nn.functional.linear(_rounded(input, input), _rounded_rows(self.weight), self.bias)


class RoundedEmbedding(nn.Embedding):
    """The same for a table."""

    def forward(self, input: Tensor) -> Tensor:
        """As in a table."""
        return _rounded(super().forward(input), self.weight)


def emulate_int8(model: nn.Module) -> None:
    """Makes all linear layers and embeddings of a model compute with 8 bits, in training and in evaluation. What is
    saved of it is a plain model."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = RoundedLinear
        elif isinstance(module, nn.Embedding):
            module.__class__ = RoundedEmbedding


def cut_relus(model: PreTrainedModel) -> None:
    """
    Replaces ReLU by ReLU6 in a model and its configuration, so that large values take no room among the 256.

    Raises:
        ValueError: if the model's feed-forward networks have another activation.
    """
    activation = model.config.hidden_act
    if activation not in ("relu", "relu6"):
        raise ValueError(f"`relu6` needs a model whose `hidden_act` is 'relu', and this one's is {activation!r}.")
    model.config.hidden_act = "relu6"
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, ACT2FN["relu6"])


def _rounded(values: Tensor, range_of: Tensor) -> Tensor:
    """The nearest of 256 values, of which one is 0, between the smallest and the largest of a tensor."""
    low, high = range_of.detach().float().aminmax()
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / 255).clamp_min(EPSILON)
    zero_point = (-low / scale).round().int()
    return torch.fake_quantize_per_tensor_affine(values.float(), scale, zero_point, 0, 255).to(values.dtype)


def _rounded_rows(weight: Tensor) -> Tensor:
    """For every row the nearest of 255 values on both sides of 0."""
    scales = (weight.detach().float().abs().amax(1) / 127).clamp_min(EPSILON)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scales, zeros, 0, -127, 127).to(weight.dtype)


__all__ = ["RoundedEmbedding", "RoundedLinear", "cut_relus", "emulate_int8"]
