"""What PEFT's own tables must hold for our families to work with it as BERT does."""

from typing import Any

import torch
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.glora import GloraModel
from peft.tuners.glora.layer import GloraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import constants
from torch import nn
from transformers.cache_utils import DynamicCache

from ..structure import FAMILIES
from .bottleneck import PEFT_TYPE, BottleneckConfig, BottleneckModel


class SharedPrefix(DynamicCache):
    """Keys and values of prefix tuning for layers of any width: each layer reads the first heads x head size of the
    prefix's features, which must be as many as the widest layer's."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values (batch, heads, tokens, head size) with the prefix's before them."""
        prefix: Any = self.layers[layer_idx]
        return _after_prefix(prefix.keys, key_states), _after_prefix(prefix.values, value_states)


def _after_prefix(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    heads, head_size = states.shape[1], states.shape[3]
    features = prefix.transpose(1, 2).flatten(2)  # (batch, prefix, features)
    if features.shape[2] < heads * head_size:
        raise ValueError(
            f"The prefix has {features.shape[2]} features, but a layer's {heads} heads of {head_size} need "
            f"{heads * head_size}: set `token_dim` and `num_attention_heads`, or use "
            f"`compactbert.adapters.get_peft_model`, which does."
        )
    features = features[..., : heads * head_size].unflatten(2, (heads, head_size)).transpose(1, 2)
    return torch.cat([features.to(states.dtype), states], dim=2)


class GloraOverFullRange(GloraModel):
    """GLoRA, which takes no subclass of `nn.Linear`, with the one of our NoNorm models."""

    @staticmethod
    def _create_new_module(peft_config: Any, adapter_name: str, target: nn.Module, **kwargs: Any) -> GloraLinear:
        base_layer: Any = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        # By name: a model from remote code has a class of its own.
        if type(base_layer).__name__ == "FullRangeLinear":
            return GloraLinear(target, adapter_name, config=peft_config)
        return GloraModel._create_new_module(peft_config, adapter_name, target, **kwargs)


def register() -> None:
    """Gives our families the rows that `bert` has in PEFT's tables, whichever methods PEFT has, and adds bottleneck
    adapters to its methods. May be called again."""
    for name, table in vars(constants).items():
        if name.endswith("_MODULES_MAPPING") and "bert" in table:
            for family in FAMILIES:
                table.setdefault(family, table["bert"])
    for family in FAMILIES:
        # BERT has no row there. NoNorm's affine is under the same name.
        constants.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING.setdefault(family, ["LayerNorm"])
        constants.TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING[family] = SharedPrefix  # type: ignore[assignment]
    PEFT_TYPE_TO_TUNER_MAPPING[PeftType.GLORA] = GloraOverFullRange
    PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BottleneckConfig  # type: ignore[index]
    PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BottleneckModel  # type: ignore[index]
    PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = BottleneckModel.prefix  # type: ignore[index]


__all__ = ["SharedPrefix", "register"]
