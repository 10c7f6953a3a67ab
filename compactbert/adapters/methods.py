"""Adapters by name, and on a model: what PEFT has to be told about ours, and what it does not check."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import (
    PeftConfig,
    PeftModel,
    PromptEncoder,
    PromptEncoderConfig,
    PromptLearningConfig,
    PromptTuningConfig,
    PromptTuningInit,
)
from peft import get_peft_model as peft_get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers import PreTrainedModel

from ..structure import FAMILIES, layer_shapes


# Names in use for methods that PEFT has under another name or as an option, and what it leaves without a default.
PROMPTS = {"num_virtual_tokens": 20}
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adapter": ("BOTTLENECK", {}),
    "houlsby": ("BOTTLENECK", {"variant": "houlsby"}),
    "dora": ("LORA", {"use_dora": True}),
    "rslora": ("LORA", {"use_rslora": True}),
    "pissa": ("LORA", {"init_lora_weights": "pissa"}),
    "olora": ("LORA", {"init_lora_weights": "olora"}),
    "prompt": ("PROMPT_TUNING", PROMPTS),
    "p-tuning": ("P_TUNING", PROMPTS | {"encoder_hidden_size": 128}),
    "prefix": ("PREFIX_TUNING", PROMPTS),
}
# Methods whose `r` is the rank of a matrix added to (or multiplied with) a layer's weight.
RANKS = {"LORA": "r", "ADALORA": "init_r", "LOHA": "r", "DELORA": "r", "HIRA": "r", "HRA": "r"}


def list_methods() -> list[str]:
    """Names that [`adapter_config`] takes: PEFT's own in lower case with dashes, and the usual ones of variants.

    Example:

    ```python
    >>> from compactbert.adapters import list_methods

    >>> {"lora", "adapter", "p-tuning"} <= set(list_methods())
    True

    ```
    """
    own = {_name_of(name).lower().replace("_", "-") for name in PEFT_TYPE_TO_CONFIG_MAPPING}
    return sorted(own | set(ALIASES))


def adapter_config(method: str, **options: Any) -> PeftConfig:
    """
    PEFT's configuration of a method.

    Args:
        method (`str`):
            A name from [`list_methods`], such as `"lora"`, `"adapter"`, `"prompt"`, `"p-tuning"`, `"prefix"`, `"ia3"`.
        options:
            Fields of that configuration, such as `r`, `target_modules` or `task_type`.

    Raises:
        ValueError: if there is no such method, or it has no such option or refuses its value.

    Example:

    ```python
    >>> from compactbert.adapters import adapter_config

    >>> adapter_config("dora", r=4, task_type="SEQ_CLS").use_dora
    True

    ```
    """
    if method not in list_methods():
        raise ValueError(f"`method` must be one of {list_methods()}, got {method!r}.")
    name, defaults = ALIASES.get(method, (method.upper().replace("-", "_"), {}))
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[name]  # type: ignore[index]
    fields = {field.name for field in dataclasses.fields(config_class)}
    if unknown := sorted(options.keys() - fields):
        raise ValueError(f"The method {method!r} has no options {unknown}: it has {sorted(fields)}.")
    try:
        return config_class(**defaults | options)
    except TypeError as error:
        raise ValueError(f"The method {method!r} refuses its options {options}: {error}") from error


def get_peft_model(
    model: PreTrainedModel,
    peft_config: PeftConfig | Sequence[PromptLearningConfig],
    adapter_name: str = "default",
    **kwargs: Any,
) -> PeftModel:
    """
    PEFT's `get_peft_model`, which it may replace for any model, with what PEFT cannot know about ours:

    * Prompt, P- and multitask prompt tuning get the width of the token embeddings, which in MobileBERT is not
      `hidden_size`; prefix tuning gets the heads and head size of the widest layer. Narrower layers read the first
      features of the same prefix.
    * A list of prompt and P-tuning configurations makes one prompt, each part learned in its own way. It is saved as an
      ordinary prompt tuning adapter.
    * A rank above a layer's width and target modules that are not there are errors.

    An adapter on what [`~compactbert.convert.from_transformers`] made is saved with
    `save_pretrained(folder, save_embedding_layers=False)`: PEFT would read the original's configuration as ours.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The base, which is changed in place as PEFT does.
        peft_config ([`~peft.PeftConfig`] or a list of them):
            The method. Widths given in it are kept.
        adapter_name (`str`, *optional*, defaults to `"default"`):
            Name of the adapter in the model.
        kwargs:
            Further arguments of PEFT's function.

    Raises:
        ValueError: for a rank or target modules that do not fit the model, or a list of anything but prompts.

    Example:

    ```python
    >>> from peft import PromptTuningConfig
    >>> from compactbert.adapters import get_peft_model
    >>> from modeling_mobilebert_md import MobileBertMdConfig, MobileBertMdForSequenceClassification

    >>> model = MobileBertMdForSequenceClassification(MobileBertMdConfig.from_stages([(1, 64), (1, 32)]))
    >>> prompts = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4))
    >>> prompts.peft_config["default"].token_dim
    256

    ```
    """
    if isinstance(peft_config, Sequence):
        return _with_joined_prompts(model, peft_config, adapter_name, **kwargs)
    fit_config(peft_config, model)
    return peft_get_peft_model(model, peft_config, adapter_name, **kwargs)


def fit_config(config: PeftConfig, model: PreTrainedModel) -> PeftConfig:
    """Fills in the widths that a prompt or prefix needs, in place, and checks ranks and target modules: for
    `PeftModel.add_adapter`, which takes a configuration. See [`get_peft_model`].

    Raises:
        ValueError: for a rank or target modules that do not fit the model.

    Example:

    ```python
    >>> from compactbert.adapters import adapter_config, fit_config
    >>> from compactbert.convert import load_pretrained

    >>> model, _ = load_pretrained("my-model", "ForSequenceClassification")
    >>> fit_config(adapter_config("prompt", task_type="SEQ_CLS"), model).token_dim == model.config.hidden_size
    True

    ```
    """
    if not isinstance(config, PromptLearningConfig):
        _check_targets(config, model)
    elif config.token_dim is None:
        if config.peft_type not in ("PREFIX_TUNING", "CARTRIDGE"):
            config.token_dim = model.get_input_embeddings().embedding_dim
        elif model.config.model_type in FAMILIES:
            widest = max(layer_shapes(model.config), key=lambda shape: shape.heads * shape.head_size)
            config.token_dim = widest.heads * widest.head_size
            config.num_attention_heads = widest.heads
    return config


def _check_targets(config: Any, model: PreTrainedModel) -> None:
    targets = getattr(config, "target_modules", None)
    if targets is None:
        rows = getattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "target_module_mapping", {})
        targets = rows.get(model.config.model_type)
    if targets is None or targets == "all-linear":
        return
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    # A string is an expression, a list has names or their ends.
    patterns = {targets: targets} if isinstance(targets, str) else {t: rf"(.*\.)?{re.escape(t)}" for t in targets}
    for target, pattern in patterns.items():
        if not any(re.fullmatch(pattern, name) for name, _ in model.named_modules()):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(f"`target_modules` {target!r} is not in {type(model).__name__}; its layers are {known}.")
    rank = getattr(config, RANKS.get(_name_of(config.peft_type), ""), None)
    for name, module in linear.items():
        narrow = rank is not None and rank > min(module.in_features, module.out_features)
        if narrow and any(re.fullmatch(pattern, name) for pattern in patterns.values()):
            raise ValueError(
                f"The rank {rank} is above the width of {name!r} ({module.in_features} to {module.out_features} "
                f"features): choose a smaller one, or other `target_modules`."
            )


def _name_of(peft_type: Any) -> str:
    """PEFT's types are an enumeration, to which ours is a mere string."""
    return str(getattr(peft_type, "value", peft_type))


class JoinedPrompts(nn.Module):
    """Prompts one after the other, each as its own method learns it."""

    def __init__(self, parts: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @property
    def embedding(self) -> nn.Embedding:
        """Where PEFT looks for the prompt's device."""
        return self.parts[0].embedding  # type: ignore[return-value]

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        """The prompt (batch, virtual tokens, token_dim)."""
        prompts = []
        for part in self.parts:
            embedding: Any = part.embedding
            prompts.append(part(torch.arange(embedding.num_embeddings, device=indices.device)[None]))
        return torch.cat(prompts, dim=1).expand(indices.shape[0], -1, -1)


def _with_joined_prompts(
    model: PreTrainedModel, configs: Sequence[PromptLearningConfig], adapter_name: str, **kwargs: Any
) -> PeftModel:
    if not configs or not all(isinstance(config, PromptTuningConfig | PromptEncoderConfig) for config in configs):
        names = [type(config).__name__ for config in configs]
        raise ValueError(f"Only prompt and P-tuning can be joined, got {names}.")
    whole = PromptTuningConfig(
        task_type=configs[0].task_type,
        num_virtual_tokens=sum(config.num_virtual_tokens for config in configs),
        prompt_tuning_init=PromptTuningInit.RANDOM,
        modules_to_save=configs[0].modules_to_save,
    )
    joined = get_peft_model(model, whole, adapter_name, **kwargs)
    parts: list[nn.Module] = []
    for config in configs:
        config.token_dim, config.num_transformer_submodules = whole.token_dim, whole.num_transformer_submodules
        encoder_class: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]  # type: ignore[index]
        is_encoder = issubclass(encoder_class, PromptEncoder)
        parts.append(encoder_class(config) if is_encoder else encoder_class(config, joined.word_embeddings))
    joined.prompt_encoder[joined.active_adapter] = JoinedPrompts(parts).to(joined.device)
    return joined


__all__ = ["JoinedPrompts", "adapter_config", "fit_config", "get_peft_model", "list_methods"]
