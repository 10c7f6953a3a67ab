"""A finished folder, read: what it is, how it was made, what was measured; and what is known of tasks and bases."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import ADAPTER_CONFIG_NAME

from .convert import MINILM_ON_HUB
from .presets import list_presets
from .structure import FAMILIES, adapter_head


RECORDS = ("report.json", "metrics.json")
# A field of PEFT's file.
BASE = "base_model_name_or_path"
# By the suffix of the class: the Hub's name of the task, and what such a model does.
HEADS = {
    "ForSequenceClassification": ("text-classification", "classifies texts"),
    "ForTokenClassification": ("token-classification", "labels words"),
    "ForMaskedLM": ("fill-mask", "predicts masked words"),
    "ForPreTraining": ("fill-mask", "predicts masked words and whether a text follows another"),
    "ForQuestionAnswering": ("question-answering", "finds answers in a text"),
    "ForNextSentencePrediction": ("text-classification", "tells whether a text follows another"),
    "ForMultipleChoice": ("multiple-choice", "chooses among answers"),
    "Model": ("feature-extraction", "encodes texts"),
}
LANGUAGE_MODELS = ("ForMaskedLM", "ForPreTraining", "Model")
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}


@dataclass
class Folder:
    """A finished folder, read."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] | None = None
    config: PreTrainedConfig | None = None

    @classmethod
    def read(cls, path: str | Path) -> "Folder":
        """
        Raises:
            ValueError: if it holds neither a model of our families nor an adapter for one of their heads.
        """
        path = Path(path)
        record: dict[str, Any] = next(
            (json.loads((path / name).read_text()) for name in RECORDS if (path / name).is_file()), {}
        )
        if (path / ADAPTER_CONFIG_NAME).is_file():
            adapter = json.loads((path / ADAPTER_CONFIG_NAME).read_text())
            adapter_head(adapter, path)
            return cls(path, record, adapter)
        if not (path / "config.json").is_file():
            raise ValueError(
                f"{str(path)!r} is no model or adapter: it has neither a 'config.json' nor an {ADAPTER_CONFIG_NAME!r}. "
                f"Give a folder that `compactbert compress`, `transfer`, `finetune` or `adapt` left."
            )
        model_type = json.loads((path / "config.json").read_text()).get("model_type")
        if model_type not in FAMILIES:
            raise ValueError(
                f"{str(path)!r} is a {model_type!r} model: expected one of {FAMILIES}. Convert it with "
                f"`compactbert.convert.from_transformers`, or push it with transformers' own `push_to_hub`."
            )
        return cls(path, record, None, AutoConfig.from_pretrained(path))

    @property
    def head(self) -> str:
        """Suffix of the class."""
        if self.adapter is not None:
            return adapter_head(self.adapter, self.path)
        assert self.config is not None
        name = (self.config.architectures or ["Model"])[0]
        return next(head for head in HEADS if name.endswith(head))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the run that made it."""
        return self.record.get("settings", {})

    @property
    def task(self) -> str | None:
        """The task's name, or the name of a file."""
        return self.record.get("task")

    @property
    def base(self) -> str | None:
        """The Hub's name of what it was made from; `None` if that is a folder, or unknown."""
        if self.adapter is not None:
            base = self.adapter[BASE]
        else:
            base = self.record["base_model"] if "base_model" in self.record else self.settings.get("model")
        if base == "minilm":
            return MINILM_ON_HUB
        if base in list_presets():
            return None  # An architecture, whose weights were new.
        return base if base and base.count("/") == 1 and not Path(base).is_absolute() else None

    @property
    def scores(self) -> dict[str, float]:
        """What was measured of these very weights: of several seeds, the first one's."""
        if "points" in self.record:
            return {name: spread["values"][0] for name, spread in result_point(self.record)["metrics"].items()}
        return dict(self.record.get("metrics", {}))

    @property
    def split(self) -> str:
        """The rows that the scores are of."""
        return self.record.get("split") or self.record.get("measured_on", "held-out rows")

    @property
    def rows(self) -> int | None:
        """How many they are."""
        rows = self.record.get("rows")
        return rows if isinstance(rows, int) or rows is None else rows.get(self.split)

    @property
    def stages(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Kind and settings of the stages of the recipe that it was compressed by."""
        recipe = self.settings.get("recipe")
        stages = recipe["stages"] if isinstance(recipe, Mapping) else []
        return [(kind, fields) for stage in stages for kind, fields in stage.items()]

    @property
    def longest(self) -> int | None:
        """The longest input of its training, or that it can take."""
        lengths = [fields["max_length"] for _, fields in self.stages if "max_length" in fields]
        known = [self.settings.get("max_length"), *lengths[-1:], getattr(self.config, "max_position_embeddings", None)]
        return next((length for length in known if length), None)

    @property
    def is_rounded(self) -> bool:
        """Whether weights are stored in half precision."""
        return any(size < 4 * count for count, size in self.tensors.values())

    @cached_property
    def tensors(self) -> dict[str, tuple[int, int]]:
        """Elements and bytes of every stored tensor, from the files' headers."""
        sizes = {}
        for file in sorted(self.path.glob("*.safetensors")):
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 (not a dict)
                    tensor = stored.get_slice(name)
                    count = math.prod(tensor.get_shape())
                    sizes[name] = (count, count * BYTES[tensor.get_dtype()])
        return sizes


def result_point(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of a compression's report, the point of the finished model."""
    return [point for point in report["points"] if point["kind"] == "stage"][-1]


def teacher_point(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of a compression's report, the point of the teacher."""
    stages = (point for point in report["points"] if point["kind"] == "stage")
    return next(point for point in stages if point["name"] == report["teacher"])


@cache
def known_facts() -> dict[str, Any]:
    """What cards say of bases, families, papers, tasks and texts that many people use: `configs/cards/facts.yaml`."""
    return yaml.safe_load(files("compactbert.configs").joinpath("cards/facts.yaml").read_text(encoding="utf-8"))


def task_facts(task: str | None) -> dict[str, Any]:
    """What is known of a task by its name; empty for a file."""
    return known_facts()["tasks"].get((task or "").split("/")[0], {})


def license_of(base: str | None) -> str | None:
    """The licence of a model on the Hub, where it is known here."""
    return known_facts()["bases"].get(base, {}).get("licence")


def languages_of(base: str | None) -> tuple[str, ...]:
    """The languages of a model on the Hub, where they are known here."""
    return tuple(known_facts()["bases"].get(base, {}).get("languages", ()))


__all__ = [
    "BASE",
    "HEADS",
    "LANGUAGE_MODELS",
    "RECORDS",
    "Folder",
    "known_facts",
    "languages_of",
    "license_of",
    "result_point",
    "task_facts",
    "teacher_point",
]
