# Copyright 2026 The compactbert authors. Licensed under the Apache License, Version 2.0.
"""MobileBERT-multi-dimension and IB-BERT for transformers. Importing this package registers both with the `Auto*`
classes; models saved afterwards carry their code and load anywhere with `trust_remote_code=True`."""

import transformers

from . import configuration_ib_bert, configuration_mobilebert_md, modeling_ib_bert, modeling_mobilebert_md
from .configuration_ib_bert import *
from .configuration_mobilebert_md import *
from .modeling_ib_bert import *
from .modeling_mobilebert_md import *


for _config_class, _auto_map, _modeling in (
    (MobileBertMdConfig, configuration_mobilebert_md.AUTO_MAP, modeling_mobilebert_md),
    (IbBertConfig, configuration_ib_bert.AUTO_MAP, modeling_ib_bert),
):
    transformers.AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    transformers.AutoTokenizer.register(_config_class, tokenizer_class=transformers.BertTokenizer, exist_ok=True)
    # `register_for_auto_class` makes `save_pretrained` copy the code into the saved folder.
    _config_class.register_for_auto_class()
    for _auto_name, _reference in _auto_map.items():
        if _auto_name != "AutoConfig":
            _model_class = getattr(_modeling, _reference.split(".")[1])
            _model_class.register_for_auto_class(_auto_name)
            getattr(transformers, _auto_name).register(_config_class, _model_class, exist_ok=True)

__all__ = [*configuration_ib_bert.__all__, *configuration_mobilebert_md.__all__]
__all__ += [*modeling_ib_bert.__all__, *modeling_mobilebert_md.__all__]
