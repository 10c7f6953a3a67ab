"""A saved adapter on its base: what it needs of the base is checked, and nothing in it is run."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, logging

from ..convert import MINILM_ON_HUB, Checkpoint, load_checkpoint
from ..structure import adapter_head


RECORD = "metrics.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")


def adapter_folder(model: str | Path) -> Path:
    """The folder of an adapter: itself, or a copy of what a repository on the Hub holds of it.

    Raises:
        ValueError: if there are pickles in it, or no weights.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(str(model), allow_patterns=["*.json", "*.txt", "*.safetensors", *PICKLES]))
    if pickles := sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)):
        raise ValueError(
            f"The adapter {str(model)!r} holds pickles ({', '.join(pickles)}), which can run code when they are "
            f"opened: save its weights as {ADAPTER_SAFE_WEIGHTS_NAME}, and remove them."
        )
    if not (folder / ADAPTER_SAFE_WEIGHTS_NAME).is_file():
        raise ValueError(f"The adapter {str(model)!r} has no weights: {ADAPTER_SAFE_WEIGHTS_NAME} is not there.")
    return folder


def read_adapter(model: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """An adapter's configuration, and what [`~compactbert.adapt`] recorded of its base (empty for others' adapters).

    Raises:
        ValueError: if it cannot be read, names no base, or is for a task that is not one of ours.
    """
    folder = adapter_folder(model)
    try:
        config = json.loads((folder / ADAPTER_CONFIG_NAME).read_text())
        record = json.loads((folder / RECORD).read_text()) if (folder / RECORD).is_file() else {}
    except ValueError as error:
        raise ValueError(f"The adapter {str(model)!r} cannot be read: {error}") from error
    if not config.get("base_model_name_or_path"):
        raise ValueError(
            f"The adapter {str(model)!r} does not say which model it is for: set `base_model_name_or_path` in its "
            f"{ADAPTER_CONFIG_NAME}."
        )
    adapter_head(config, model)
    return config, record.get("base", {})


def head_of_adapter(model: str | Path) -> str:
    """The suffix of the `Auto` class of the model that an adapter is for."""
    return adapter_head(read_adapter(model)[0], model)


def load_adapter(
    model: str | Path, head: str, trust_remote_code: bool = False
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """
    An adapter on the base it names, for inference, with its tokenizer.

    Args:
        model (`str` or `Path`):
            A folder or a repository on the Hub with an `adapter_config.json`. Its base is the folder or repository that
            it names, or one of that name beside it.
        head (`str`):
            The `Auto` class's suffix: `"ForSequenceClassification"` or `"ForTokenClassification"`.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a base that brings its own.

    Raises:
        ValueError: if the adapter or its base is missing or cannot be read, the adapter holds a pickle, is for another
            head, or does not fit the base: another family, other shapes, or other weights than it was trained on.

    Example:

    ```python
    >>> from compactbert.adapters import load_adapter

    >>> model, tokenizer = load_adapter("my-adapter", "ForSequenceClassification")
    >>> type(model).__name__
    'PeftModelForSequenceClassification'

    ```
    """
    config, recorded = read_adapter(model)
    folder = adapter_folder(model)
    base_name = config["base_model_name_or_path"]
    if recorded.get("name") == "minilm" and base_name == MINILM_ON_HUB:
        base_name = "minilm"
    elif not Path(base_name).exists():
        # As in the zoo, a base of the Hub may lie beside the adapter; whether it is that one is checked below.
        beside = folder.parent / Path(base_name).name
        base_name = str(beside) if (beside / "config.json").is_file() else base_name
    if adapter_head(config, model) != head:
        raise ValueError(f"The adapter {str(model)!r} is for the task {config['task_type']}, not for {head}.")
    verbosity = logging.get_verbosity()
    # The head that is missing in the base comes with the adapter.
    logging.set_verbosity_error()
    try:
        base = load_checkpoint(base_name, head, trust_remote_code, **_config_fields(recorded))
    except ValueError as error:
        raise ValueError(
            f"The adapter {str(model)!r} needs its base {base_name!r}: {error} If the base is elsewhere now, change "
            f"`base_model_name_or_path` in {ADAPTER_CONFIG_NAME}."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    _check_base(model, base, base_name, recorded)
    try:
        stored = load_peft_weights(str(folder))
        adapted = PeftModel.from_pretrained(base.model, str(folder))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"The weights of the adapter {str(model)!r} are corrupt or cut short: {error}") from error
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The adapter {str(model)!r} does not fit its base {base_name!r}: {error}") from error
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if odd := sorted(stored.keys() ^ expected.keys()):
        raise ValueError(
            f"The adapter {str(model)!r} does not fit its base {base_name!r}: {len(odd)} tensors are in one of them "
            f"only, such as {odd[0]!r}."
        )
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder) if has_tokenizer else base.tokenizer
    return adapted.eval(), tokenizer


def _config_fields(recorded: dict[str, Any]) -> dict[str, Any]:
    fields = dict(recorded.get("config_fields", {}))
    if "id2label" in fields:
        # JSON has no numbers as keys.
        fields["id2label"] = {int(number): name for number, name in fields["id2label"].items()}
    return fields


def _check_base(model: str | Path, base: Checkpoint, base_name: str, recorded: dict[str, Any]) -> None:
    family = base.model.config.model_type
    if recorded.get("model_type", family) != family:
        raise ValueError(
            f"The adapter {str(model)!r} is for a {recorded['model_type']!r} model, but {base_name!r} is a {family!r}."
        )
    if "fingerprint" in recorded and recorded["fingerprint"] != fingerprint(base.model, base.new_weights):
        raise ValueError(
            f"The adapter {str(model)!r} was trained on other weights than those in {base_name!r}: put that base back, "
            f"or train the adapter again."
        )


def fingerprint(model: PreTrainedModel, new_weights: Collection[str] = ()) -> str:
    """A digest of the weights of a model without its head, and without those that no checkpoint gave it."""
    digest = hashlib.sha256()
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    for name, tensor in model.base_model.state_dict().items():
        if f"{prefix}{name}" not in new_weights:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


__all__ = ["adapter_folder", "fingerprint", "head_of_adapter", "load_adapter", "read_adapter"]
