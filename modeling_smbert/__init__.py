# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""SmBERT for transformers. Importing this package registers it with the `Auto*` classes; models saved afterwards carry
their code and load anywhere with `trust_remote_code=True`."""

import transformers

from . import configuration_smbert, modeling_smbert
from .configuration_smbert import *
from .modeling_smbert import *


transformers.AutoConfig.register(SmBertConfig.model_type, SmBertConfig, exist_ok=True)
transformers.AutoTokenizer.register(SmBertConfig, tokenizer_class=transformers.BertTokenizer, exist_ok=True)
# `register_for_auto_class` makes `save_pretrained` copy the code into the saved folder.
SmBertConfig.register_for_auto_class()
for _auto_name, _reference in configuration_smbert.AUTO_MAP.items():
    if _auto_name != "AutoConfig":
        _model_class = getattr(modeling_smbert, _reference.split(".")[1])
        _model_class.register_for_auto_class(_auto_name)
        getattr(transformers, _auto_name).register(SmBertConfig, _model_class, exist_ok=True)

__all__ = [*configuration_smbert.__all__, *modeling_smbert.__all__]
