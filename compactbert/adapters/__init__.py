"""Adapters: PEFT on our models, and bottleneck adapters beside its methods. Importing this fills PEFT's tables."""

from . import tables
from .bottleneck import BottleneckConfig
from .loading import load_adapter
from .methods import adapter_config, fit_config, get_peft_model, list_methods


tables.register()

__all__ = ["BottleneckConfig", "adapter_config", "fit_config", "get_peft_model", "list_methods", "load_adapter"]
