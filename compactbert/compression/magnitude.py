"""Magnitude pruning: the smallest weights become zero, by torch's own functions. Zeros alone make nothing smaller or
faster: shapes stay, and dense products multiply by zero like by anything else. [`prune`] removes what it prunes."""

from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from transformers import PreTrainedModel

from ..structure import layers_of


def zero_weights(model: PreTrainedModel, share: float, structured: bool = False) -> dict[nn.Parameter, Tensor]:
    """
    Sets the smallest weights of every matrix of the layers to zero, in place. Embeddings, norms, biases and the
    head stay.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model with layers under `encoder.layer`.
        share (`float`):
            Share of a matrix that becomes zero.
        structured (`bool`, *optional*, defaults to `False`):
            Zero whole rows (outputs), those of the smallest Euclidean norm, in place of single weights.

    Returns:
        `dict`: for every weight a mask of what is kept, to keep the zeros while training goes on.

    Raises:
        ValueError: if `share` is not above 0 and below 1.

    Example:

    ```python
    >>> from compactbert.compression import zero_weights
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> model = SmBertModel(SmBertConfig(vocab_size=100, hidden_size=64, attention_head_size=8))
    >>> masks = zero_weights(model, share=0.75)
    >>> masks[model.encoder.layer[0].output.dense.weight].float().mean().item()
    0.25

    ```
    """
    if not 0 < share < 1:
        raise ValueError(f"`share` must be above 0 and below 1, got {share}.")
    masks = {}
    for module in layers_of(model).modules():
        if isinstance(module, nn.Linear):
            if structured:
                torch_prune.ln_structured(module, "weight", amount=share, n=2, dim=0)
            else:
                torch_prune.l1_unstructured(module, "weight", amount=share)
            mask = module.weight_mask
            torch_prune.remove(module, "weight")
            masks[module.weight] = mask
    return masks  # type: ignore[return-value]


__all__ = ["zero_weights"]
