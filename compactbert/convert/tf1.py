"""TensorFlow 1 checkpoints of google-research's MobileBERT, its TINY variant and their teacher, IB-BERT.

The variables have the names of our parameters in other words, and matrices lie transposed. What its configuration file
leaves out has the defaults of that code, not ours.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_mobilebert_md import (
    IbBertConfig,
    IbBertForPreTraining,
    MobileBertMdConfig,
    MobileBertMdForPreTraining,
)


CONFIG_NAMES = ("mobilebert_config.json", "bert_config.json")
# `BertConfig` of google-research's modeling.py; an embedding or a bottleneck without a size is as wide as the map.
CONFIG_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "type_vocab_size": 16,
    "trigram_input": False,
    "use_bottleneck": False,
    "use_bottleneck_attention": False,
    "key_query_shared_bottleneck": False,
    "num_feedforward_networks": 1,
    "normalization_type": "layer_norm",
    "classifier_activation": True,
}
# Parts of our parameters' names, replaced one after the other.
RENAMES = {
    "mobilebert.": "bert.",
    ".layer.": ".layer_",
    ".ffn.": ".ffn_layer_",
    "_embeddings.weight": "_embeddings",
    "LayerNorm.weight": "LayerNorm.gamma",
    "LayerNorm.bias": "LayerNorm.beta",
    "predictions.bias": "predictions.output_bias",
    "predictions.dense.weight": "predictions.extra_output_weights",
    "seq_relationship.weight": "seq_relationship.output_weights",
    "seq_relationship.bias": "seq_relationship.output_bias",
    ".weight": ".kernel",
    ".": "/",
}
TRANSPOSED = ("/kernel", "/extra_output_weights")
# What training saves beside the model: steps, the optimizer's slots and, where it distils, the teacher and the norms in
# its losses.
NOT_OF_THE_MODEL = re.compile(
    r"^global_step$|^beta[12]_power$|/(adam_[mv]|lamb_[mv]|(Adam|LAMB)\w*)$|^(teacher|(hidden|attention)_distill_\d+)/"
)
MODEL_CLASSES: dict[str, type[PreTrainedModel]] = {
    "mobilebert_md": MobileBertMdForPreTraining,
    "ib_bert": IbBertForPreTraining,
}


def from_tf1(path: str | Path, config: PreTrainedConfig | str | Path | None = None) -> PreTrainedModel:
    """
    The model in a TensorFlow 1 checkpoint of google-research's MobileBERT, with its pre-training heads:
    `MobileBertMdForPreTraining`, or `IbBertForPreTraining` where query, key and value read the feature map. Every
    variable of the checkpoint finds its place and every parameter its variable; what training saves beside the model
    (steps, optimizer, teacher) is left out.

    Needs TensorFlow: `pip install "compactbert[tf]"`.

    Args:
        path (`str` or `Path`):
            The checkpoint: the path of its files without `.index` and `.data-...`, or a folder that holds one.
        config (`~transformers.PreTrainedConfig`, `str` or `Path`, *optional*):
            Configuration of ours, or the path of google-research's JSON file; by default the `mobilebert_config.json`
            or `bert_config.json` beside the checkpoint.

    Raises:
        ValueError: if there is no checkpoint or configuration, TensorFlow is missing, or the checkpoint lacks a
            variable that the configuration asks for, has one more, or one of another shape.

    Example:

    ```python
    >>> from compactbert.convert import from_tf1

    >>> model = from_tf1("mobilebert_uncased/mobilebert_variables.ckpt")  # doctest: +SKIP

    ```
    """
    prefix = _find_checkpoint(Path(path))
    if not isinstance(config, PreTrainedConfig):
        config = _read_config(_find_config(prefix) if config is None else Path(config))
    if config.model_type not in MODEL_CLASSES:
        raise ValueError(
            f"`config` must be a `MobileBertMdConfig` or an `IbBertConfig`, got {type(config).__name__}: the "
            f"checkpoints hold no other models."
        )
    found = _read_variables(prefix)
    model = MODEL_CLASSES[config.model_type](config)
    variables = tf1_variables(model)
    _check_variables(found, variables, prefix)
    for name, parameter in variables.items():
        parameter.copy_(found[name])
    return model.eval()


def tf1_variables(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """
    The parameters of a model as the variables of google-research's MobileBERT: by their names there, and in the layout
    they have there.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A `MobileBertMdForPreTraining` or `IbBertForPreTraining`. The variables are views of its parameters.

    Raises:
        ValueError: if `model` is of another class.

    Example:

    ```python
    >>> from compactbert.convert import tf1_variables
    >>> from modeling_mobilebert_md import MobileBertMdConfig, MobileBertMdForPreTraining

    >>> model = MobileBertMdForPreTraining(MobileBertMdConfig.from_stages([(1, 64)], vocab_size=100))
    >>> tf1_variables(model)["bert/embeddings/word_embeddings"].shape
    torch.Size([100, 256])

    ```
    """
    if type(model) not in MODEL_CLASSES.values():
        raise ValueError(
            f"Expected a `MobileBertMdForPreTraining` or an `IbBertForPreTraining`, got {type(model).__name__}: only "
            f"they have all the variables of a checkpoint."
        )
    variables = {}
    # Tied parameters come once, under the name of the embedding and of the head's own bias.
    for key, parameter in model.named_parameters():
        name = key
        for old, new in RENAMES.items():
            name = name.replace(old, new)
        # The head has a LayerNorm in either case.
        if model.config.normalization_type == "no_norm" and name.startswith("bert/"):
            name = name.replace("/LayerNorm/", "/FakeLayerNorm/")
        variables[name] = parameter.detach().t() if name.endswith(TRANSPOSED) else parameter.detach()
    return variables


def _check_variables(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], prefix: Path) -> None:
    remedy = "Is its configuration the one it was trained with?"
    if missing := [name for name in expected if name not in found]:
        raise ValueError(
            f"The checkpoint '{prefix}' lacks {len(missing)} of the model's variables, such as {missing[0]!r}. {remedy}"
        )
    if leftover := sorted(found.keys() - expected.keys()):
        raise ValueError(
            f"The model has no place for {len(leftover)} of the variables of the checkpoint '{prefix}', such as "
            f"{leftover[0]!r}. {remedy}"
        )
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"The variable {name!r} of the checkpoint '{prefix}' has shape {list(found[name].shape)}, the model's "
                f"has {list(tensor.shape)}. {remedy}"
            )


def _find_checkpoint(path: Path) -> Path:
    if path.is_dir():
        indexes = sorted(path.glob("*.index"))
        if len(indexes) != 1:
            names = [index.stem for index in indexes]
            raise ValueError(
                f"The folder '{path}' must hold one TensorFlow checkpoint, but holds {names or 'none'}: give the path "
                f"of one, without `.index`."
            )
        return indexes[0].with_suffix("")
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise ValueError(f"There is no TensorFlow checkpoint '{prefix}': expected the file '{prefix}.index'.")
    return prefix


def _find_config(prefix: Path) -> Path:
    for name in CONFIG_NAMES:
        if prefix.with_name(name).is_file():
            return prefix.with_name(name)
    raise ValueError(
        f"There is neither {' nor '.join(CONFIG_NAMES)} beside the checkpoint '{prefix}': pass the configuration as "
        f"`config`."
    )


def _read_config(path: Path) -> PreTrainedConfig:
    """Our configuration of the network that google-research's JSON file describes."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read the configuration '{path}': {error}.") from error
    if not isinstance(given, dict) or "vocab_size" not in given:
        raise ValueError(f"The configuration '{path}' must be an object with a `vocab_size`.")
    known = {field.name for field in dataclasses.fields(MobileBertMdConfig)}
    if unknown := sorted(given.keys() - known):
        raise ValueError(
            f"The configuration '{path}' sets {unknown}, which google-research's MobileBERT does not have."
        )
    fields: dict[str, Any] = CONFIG_DEFAULTS | given
    for name in ("embedding_size", "intra_bottleneck_size"):
        fields[name] = fields.get(name) or fields["hidden_size"]
    if fields["hidden_act"] == "gelu":
        # There, GELU is its approximation.
        fields["hidden_act"] = "gelu_pytorch_tanh"
    reads_map = not (fields["use_bottleneck_attention"] or fields["key_query_shared_bottleneck"])
    config_class = IbBertConfig if fields["use_bottleneck"] and reads_map else MobileBertMdConfig
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"The configuration '{path}' is not a possible architecture: {error}") from error


def _read_variables(prefix: Path) -> dict[str, torch.Tensor]:
    """The model's variables in a checkpoint, by name."""
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        raise ValueError('Reading the checkpoint needs TensorFlow: run `pip install "compactbert[tf]"`.') from error
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if not NOT_OF_THE_MODEL.search(name)]
        return {name: torch.as_tensor(reader.get_tensor(name)) for name in names}
    except tensorflow.errors.OpError as error:
        raise ValueError(f"TensorFlow cannot read the checkpoint '{prefix}': {error}") from error


__all__ = ["from_tf1", "tf1_variables"]
