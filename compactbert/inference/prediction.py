"""Bulk prediction: texts in, labels with scores out."""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from huggingface_hub.errors import StrictDataclassError
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Encoding
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file, logging

from ..convert import load_pretrained, resolve_model
from ..data import encode_texts, first_words, length_limit, read_table
from ..data.tasks import FILE_SUFFIXES, as_text, check_columns, check_text_columns, decode_utf8
from ..files import write_text
from .fusion import fuse
from .onnx import FILES as ONNX_FILES
from .onnx import OnnxClassifier


logger = logging.get_logger(__name__)
OUTPUT_SUFFIXES = (".csv", ".jsonl")
Runtime = Literal["torch", "fused", "onnx", "onnx-int8", "onnx-int8-static"]


@torch.inference_mode()
def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[dict[str, list[int]]],
    batch_size: int = 64,
) -> list[np.ndarray]:
    """
    Runs a model over encoded rows, longest first so that batches hold little padding.

    Args:
        model ([`~transformers.PreTrainedModel`]): A model whose output has `logits`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Pads the batches.
        features (list of `dict`): Rows as [`~compactbert.data.encode_texts`] makes them.
        batch_size (`int`, *optional*, defaults to 64): Rows at a time.

    Returns:
        Per row, in the order of `features`: float32 logits of shape `(num_labels,)`, or `(tokens, num_labels)`.

    Example:

    ```python
    >>> from compactbert.data import encode_texts
    >>> from compactbert.inference import load_for_inference, predict_logits

    >>> model, tokenizer = load_for_inference("my-model", "ForSequenceClassification")
    >>> features, _, _ = encode_texts([["A good film.", "Dull."]], tokenizer, max_length=32)
    >>> [logits.shape for logits in predict_logits(model, tokenizer, features)]
    [(2,), (2,)]

    ```
    """
    was_training = model.training
    model.eval()
    collator = DataCollatorWithPadding(tokenizer)
    order = sorted(range(len(features)), key=lambda i: -len(features[i]["input_ids"]))
    logits: list[np.ndarray] = [np.empty(0)] * len(features)
    for start in tqdm(range(0, len(order), batch_size), desc="Predicting", disable=len(order) <= batch_size):
        indices = order[start : start + batch_size]
        batch = {name: tensor.to(model.device) for name, tensor in collator([features[i] for i in indices]).items()}
        for i, row in zip(indices, model(**batch).logits.float().cpu().numpy(), strict=True):
            logits[i] = row
    model.train(was_training)
    return logits


def predict(
    model: str | Path,
    source: str | Path | Sequence[str] | Sequence[tuple[str, str]],
    output: str | Path | None = None,
    *,
    text_columns: Sequence[str] = ("text",),
    pairs: bool = False,
    max_length: int = 128,
    batch_size: int = 64,
    runtime: Runtime = "torch",
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """
    Labels texts.

    Args:
        model (`str` or `Path`):
            Folder or Hub repository of a model, or an adapter, for sequence or token classification.
        source (`str`, `Path` or list):
            A csv, jsonl or parquet file (lists of tokens are joined by spaces); any other file, read as one text per
            line; `"-"` for standard input, likewise; or a list of texts or pairs.
        output (`str` or `Path`, *optional*):
            A csv or jsonl file to write the rows to; it appears when it is complete.
        text_columns (list of `str`, *optional*, defaults to `("text",)`):
            One or two columns of a csv, jsonl or parquet file.
        pairs (`bool`, *optional*, defaults to `False`):
            Lines are two texts with a tab between them.
        max_length (`int`, *optional*, defaults to 128):
            Longest input in tokens; how many texts were longer is logged.
        batch_size (`int`, *optional*, defaults to 64):
            Texts at a time.
        runtime (`"torch"`, `"fused"`, `"onnx"`, `"onnx-int8"` or `"onnx-int8-static"`, *optional*, defaults to \
`"torch"`):
            `"fused"` computes the same faster, see [`fuse`]; the others run what [`export`] wrote.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Run the code of a repository that brings its own.

    Returns:
        Per text, in order: `text` (and `text_pair`) with `label` and `score` (its probability); for regression `score`
        alone; for multi-label classification `labels`, those of probability 0.5 or more, and `scores` of all; for token
        classification `entities` with `label`, `text`, `start` and `end` (characters) and `score`.

    Raises:
        ValueError: if the model or the input cannot be read, the input is empty or not UTF-8, or a column is missing.

    Example:

    ```python
    >>> import compactbert

    >>> rows = compactbert.predict("my-model", ["A warm, funny film.", "Dull."])
    >>> [sorted(row) for row in rows]
    [['label', 'score', 'text'], ['label', 'score', 'text']]

    ```
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if output is not None:
        if Path(output).suffix not in OUTPUT_SUFFIXES:
            raise ValueError(f"`output` must end in one of {OUTPUT_SUFFIXES}, got {str(output)!r}.")
        # Before the work, so that a place that cannot be written to is found now.
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    columns = _read_columns(source, text_columns, pairs)
    loaded, tokenizer = load_for_inference(model, head_of(model, trust_remote_code), trust_remote_code, runtime)
    limit = length_limit(loaded.config, tokenizer, max_length)
    features, encodings, truncated = encode_texts(columns, tokenizer, limit)
    if truncated:
        logger.warning(f"{truncated} of {len(features)} texts were cut to {limit} tokens.")
    rows = []
    for i, logits in enumerate(predict_logits(loaded, tokenizer, features, batch_size)):
        texts = dict(zip(("text", "text_pair"), (column[i] for column in columns), strict=False))
        rows.append(texts | _describe(loaded, logits, encodings[i], texts["text"]))
    if output is not None:
        write_rows(rows, Path(output))
    return rows


def load_for_inference(
    model: str | Path, head: str, trust_remote_code: bool = False, runtime: Runtime = "torch"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As [`~compactbert.convert.load_pretrained`], but an untrained head is refused, an adapter comes on its base, and
    the model computes in a runtime; on an accelerator if there is, but for ONNX.

    Example:

    ```python
    >>> from compactbert.inference import load_for_inference

    >>> model, tokenizer = load_for_inference("my-model", "ForSequenceClassification", runtime="fused")
    >>> type(model).__name__
    'SmBertForSequenceClassification'

    ```
    """
    loaded: Any
    if runtime not in get_args(Runtime):
        raise ValueError(f"`runtime` must be one of {get_args(Runtime)}, got {runtime!r}.")
    if runtime in ONNX_FILES:
        return _load_onnx(Path(model), runtime)  # type: ignore[return-value]
    if is_adapter(model):
        loaded, tokenizer = _adapters().load_adapter(model, head, trust_remote_code)
    else:
        loaded, tokenizer = load_pretrained(model, head, trust_remote_code, require_head=True)
    loaded = on_accelerator(loaded)
    return (fuse(merged(loaded), unpad=True) if runtime == "fused" else loaded), tokenizer


def on_accelerator(model: Any) -> Any:
    """The model on the machine's accelerator, if there is one: torch may be built for one that is not there."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return model if accelerator is None else model.to(accelerator)


def merged(model: Any) -> PreTrainedModel:
    """The base of an adapter with the adapter in its weights; a model without one as it is.

    Raises:
        ValueError: if the adapter's method cannot be merged.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    try:
        return model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise ValueError(f"The adapter has to be merged into its base for this runtime, and cannot: {error}") from error


def _load_onnx(folder: Path, runtime: str) -> tuple[OnnxClassifier, PreTrainedTokenizerBase]:
    if not folder.is_dir():
        raise ValueError(f"The runtime {runtime!r} runs a folder that `compactbert export` wrote, got {str(folder)!r}.")
    model = OnnxClassifier(folder, AutoConfig.from_pretrained(folder), runtime)
    return model, AutoTokenizer.from_pretrained(folder)


def is_adapter(model: str | Path) -> bool:
    """Whether a folder or repository holds an adapter, not a model."""
    try:
        return find_adapter_config_file(str(resolve_model(model))) is not None
    except OSError:
        # Neither is there.
        return False


def _adapters() -> ModuleType:
    try:
        return importlib.import_module("..adapters.loading", __package__)
    except ImportError as error:
        raise ValueError(f'Adapters need PEFT: run `pip install "compactbert[peft]"` ({error}).') from error


def head_of(model: str | Path, trust_remote_code: bool) -> str:
    """The suffix of the `Auto` class of a saved classifier or adapter.

    Raises:
        ValueError: if it cannot be read, or is for something else.
    """
    if is_adapter(model):
        return _adapters().head_of_adapter(model)
    try:
        config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"Cannot load {str(model)!r}: {error}") from error
    architecture = (config.architectures or ["a model without a head"])[0]
    for head in ("ForSequenceClassification", "ForTokenClassification"):
        if architecture.endswith(head):
            return head
    raise ValueError(
        f"{str(model)!r} is {architecture}: expected a model for sequence or token classification. Fine-tune it first."
    )


def _read_columns(source: Any, text_columns: Sequence[str], pairs: bool) -> list[list[str]]:
    if isinstance(source, str | Path) and Path(source).suffix in FILE_SUFFIXES:
        check_text_columns(text_columns)
        table = read_table(Path(source))
        check_columns(table, text_columns, str(source))
        return [[as_text(value) for value in table[column][:]] for column in text_columns]
    rows = _read_lines(source, pairs) if isinstance(source, str | Path) else list(source)
    if not rows:
        raise ValueError(f"There is nothing to predict: {str(source)[:80]!r} is empty.")
    if isinstance(rows[0], str):
        return [rows]
    if any(isinstance(row, str) or len(row) != 2 for row in rows):
        raise ValueError(f"`source` must hold texts, or pairs of two texts, got {rows[0]!r}.")
    return [list(column) for column in zip(*rows, strict=True)]


def _read_lines(source: str | Path, pairs: bool) -> list:
    if str(source) == "-":
        data = sys.stdin.buffer.read()
    elif Path(source).is_file():
        data = Path(source).read_bytes()
    else:
        raise ValueError(f"There is no file {str(source)!r}.")
    # Not splitlines(), which also splits at characters that occur inside texts.
    lines = [line.removesuffix("\r") for line in decode_utf8(data, str(source)).split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not pairs:
        return lines
    rows = [tuple(line.split("\t")) for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise ValueError(f"Line {number} of {str(source)!r} has {len(row)} texts: expected two with a tab between.")
    return rows


def _describe(model: PreTrainedModel, logits: np.ndarray, encoding: Encoding, text: str) -> dict[str, Any]:
    names: dict[int, str] = model.config.id2label  # type: ignore[assignment]
    if model.config.problem_type == "regression" or (logits.ndim == 1 and len(names) == 1):
        return {"score": float(logits[0])}
    if model.config.problem_type == "multi_label_classification":
        scores = {names[i]: float(score) for i, score in enumerate(1 / (1 + np.exp(-logits)))}
        return {"labels": [name for name, score in scores.items() if score >= 0.5], "scores": scores}
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    if logits.ndim == 1:
        best = int(probabilities.argmax())
        return {"label": names[best], "score": float(probabilities[best])}

    starts = [token for token, word in enumerate(first_words(encoding)) if word is not None]
    tags = [names[int(probabilities[token].argmax())] for token in starts]
    entities = []
    for label, first, last in get_entities(tags):
        start = encoding.offsets[starts[first]][0]
        last_word = encoding.word_ids[starts[last]]
        end = max(
            offsets[1] for offsets, word in zip(encoding.offsets, encoding.word_ids, strict=True) if word == last_word
        )
        score = float(np.mean([probabilities[starts[i]].max() for i in range(first, last + 1)]))
        entities.append({"label": label, "text": text[start:end], "start": start, "end": end, "score": score})
    return {"entities": entities}


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes rows as csv (lists and dicts in it as JSON) or jsonl; the file appears when it is complete."""
    if path.suffix == ".csv":
        cells = [
            {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in row.items()}
            for row in rows
        ]
        text = pd.DataFrame(cells).to_csv(index=False)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text)


__all__ = ["Runtime", "load_for_inference", "predict", "predict_logits", "write_rows"]
