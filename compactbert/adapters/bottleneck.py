"""Bottleneck adapters (Houlsby et al., https://huggingface.co/papers/1902.00751; Pfeiffer et al.,
https://huggingface.co/papers/2005.00247) as a PEFT method, `BOTTLENECK`: the library for them, `adapters`, does not run
on transformers 5 (1.3.0 asks for 4.57)."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers.activations import ACT2FN


PEFT_TYPE = "BOTTLENECK"
# Which outputs an adapter follows: the feed-forward network's that ends a layer, or every block's.
TARGETS = {"pfeiffer": r".*\.layer\.\d+\.output\.dense", "houlsby": r".*\.layer\.\d+\..*output\.dense"}


@dataclass
class BottleneckConfig(PeftConfig):
    """
    Configuration of bottleneck adapters: after a block's last linear layer, down to a few features, an activation, and
    back up, added to what came in.

    Args:
        bottleneck_size (`int`, *optional*, defaults to 32):
            Features in the middle.
        non_linearity (`str`, *optional*, defaults to `"gelu"`):
            The activation, as transformers names it.
        variant (`"pfeiffer"` or `"houlsby"`, *optional*, defaults to `"pfeiffer"`):
            An adapter after each layer's feed-forward network, or also after attention (and after each of MobileBERT's
            stacked networks). Says what `target_modules` are if they are not given.
        target_modules (`str` or list of `str`, *optional*), exclude_modules (`str` or list of `str`, *optional*):
            The linear layers that adapters follow, as in PEFT's other methods.
        modules_to_save (list of `str`, *optional*):
            Modules that are trained and saved whole.
        init_weights (`bool`, *optional*, defaults to `True`):
            Begin as the identity.

    Example:

    ```python
    >>> from compactbert.adapters import BottleneckConfig, get_peft_model
    >>> from compactbert.convert import load_pretrained

    >>> model, _ = load_pretrained("my-model", "ForSequenceClassification")
    >>> adapted = get_peft_model(model, BottleneckConfig(task_type="SEQ_CLS", bottleneck_size=8, variant="houlsby"))
    >>> adapted.active_peft_config.bottleneck_size
    8

    ```
    """

    bottleneck_size: int = 32
    non_linearity: str = "gelu"
    variant: str = "pfeiffer"
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    init_weights: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if self.bottleneck_size < 1:
            raise ValueError(f"`bottleneck_size` must be at least 1, got {self.bottleneck_size}.")
        if self.non_linearity not in ACT2FN:
            raise ValueError(f"`non_linearity` must be one of {sorted(ACT2FN)}, got {self.non_linearity!r}.")
        if self.variant not in TARGETS:
            raise ValueError(f"`variant` must be one of {sorted(TARGETS)}, got {self.variant!r}.")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer with the adapters that follow it."""

    adapter_layer_names = ("bottleneck_adapters",)

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: BottleneckConfig):
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.bottleneck_adapters = nn.ModuleDict()
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Adds an adapter."""
        down = nn.Linear(self.out_features, config.bottleneck_size)
        up = nn.Linear(config.bottleneck_size, self.out_features)
        if config.init_weights:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.bottleneck_adapters[adapter_name] = nn.Sequential(down, ACT2FN[config.non_linearity], up)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the layer computes, through the active adapters one after the other."""
        output = self.base_layer(hidden_states, *args, **kwargs)
        if self.disable_adapters:
            return output
        for name in self.active_adapters:
            if name in self.bottleneck_adapters:
                adapter: Any = self.bottleneck_adapters[name]
                output = output + adapter(output.to(adapter[0].weight.dtype)).to(output.dtype)
        return output


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters. They are not linear: there is nothing to merge them into."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            peft_config.target_modules = TARGETS[peft_config.variant]
        return peft_config

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, nn.Linear):
            raise ValueError(
                f"Bottleneck adapters follow linear layers, but {current_key!r} is {type(target).__name__}."
            )
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError("Bottleneck adapters are not linear and cannot be merged into the base's weights.")


__all__ = ["BottleneckConfig", "BottleneckLayer", "BottleneckModel"]
