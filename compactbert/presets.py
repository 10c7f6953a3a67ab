"""Named architectures: the JSON files under `configs/`."""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig


def list_presets() -> list[str]:
    """Names of the shipped architectures, such as `"mobilebert_md/tiny"`.

    Example:

    ```python
    >>> from compactbert.presets import list_presets

    >>> {"ib_bert/ib-bert-large", "mobilebert_md/tiny", "smbert/smbert"} <= set(list_presets())
    True

    ```
    """
    root = files("compactbert.configs")
    families = [family for family in root.iterdir() if family.is_dir() and family.name in CONFIG_MAPPING]
    return sorted(
        f"{family.name}/{file.name.removesuffix('.json')}"
        for family in families
        for file in family.iterdir()
        if file.name.endswith(".json")
    )


def load_preset(name_or_path: str | Path) -> PreTrainedConfig:
    """
    Configuration of a named architecture, or of a JSON file of your own.

    Args:
        name_or_path (`str` or `Path`):
            A name from [`list_presets`], or the path of a JSON file with a `model_type` and fields of its
            configuration.

    Raises:
        ValueError: if there is no such preset, the file is not a JSON object, its `model_type` is unknown, it sets a
            field that the configuration does not have (transformers would ignore it), or its fields contradict each
            other.

    Example:

    ```python
    >>> from compactbert.presets import load_preset

    >>> load_preset("smbert/smbert").num_hidden_layers
    3

    ```
    """
    shipped = files("compactbert.configs").joinpath(f"{name_or_path}.json")
    path = Path(name_or_path)
    if not shipped.is_file() and not path.is_file():
        raise ValueError(f"There is no preset or file {str(name_or_path)!r}; the presets are {list_presets()}.")
    try:
        fields = json.loads((shipped if shipped.is_file() else path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The preset {str(name_or_path)!r} is not valid JSON: {error}.") from error
    if not isinstance(fields, dict) or fields.get("model_type") not in CONFIG_MAPPING:
        model_type = fields.get("model_type") if isinstance(fields, dict) else None
        raise ValueError(
            f"The preset {str(name_or_path)!r} must be an object with a known `model_type`, got {model_type!r}."
        )
    config_class = CONFIG_MAPPING[fields.pop("model_type")]
    known = {field.name for field in dataclasses.fields(config_class)} | {"per_layer_config"}
    if unknown := sorted(fields.keys() - known):
        raise ValueError(
            f"The preset {str(name_or_path)!r} sets unknown fields {unknown}; {config_class.__name__} has "
            f"{sorted(known)}."
        )
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"The preset {str(name_or_path)!r} is not a possible architecture: {error}") from error


__all__ = ["list_presets", "load_preset"]
