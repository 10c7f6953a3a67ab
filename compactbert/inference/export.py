"""Models for other runtimes: ONNX, in float32 and int8."""

import contextlib
import importlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging as transformers_logging

from .fusion import fuse


logger = transformers_logging.get_logger(__name__)
Int8 = Literal["dynamic", "static"]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Where Transformers.js and optimum look for them.
FILES = {"fp32": "onnx/model.onnx", "dynamic": "onnx/model_int8.onnx", "static": "onnx/model_int8_static.onnx"}
RUNTIMES = {"onnx": "fp32", "onnx-int8": "dynamic", "onnx-int8-static": "static"}
# Of the largest output. What differs by more is no export.
MAX_ERROR = 1e-5
CHECKED_SHAPES = ((1, 1), (1, 2), (3, 9), (2, 32))
OPSET = 18


def export_onnx(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    *,
    int8: Sequence[Int8] = (),
    calibration: Sequence[dict[str, list[int]]] = (),
) -> dict[str, Any]:
    """
    Writes a classifier as ONNX, from its fused graph, for any number of rows and tokens, and checks it in ONNX Runtime.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model of one of our families for sequence or token classification. Not changed; exported in float32.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Saved beside it.
        output_dir (`str` or `Path`):
            Folder to write `onnx/model.onnx`, the configuration and the tokenizer to. Must not exist, or be empty; it
            appears when it is complete.
        int8 (list of `"dynamic"` and `"static"`, *optional*):
            Write int8 models too: `onnx/model_int8.onnx`, whose activations are scaled as they come, and
            `onnx/model_int8_static.onnx`, whose activations are scaled as they were in `calibration`.
        calibration (list of `dict`, *optional*):
            Encoded rows, for `"static"`.

    Returns:
        `dict`: `files`, `bytes` of each, and `max_error` of the float32 model, as a share of the largest output, over
        batches from 1x1 to 3x9 with and without padding. Written to `export.json` too.

    Raises:
        ValueError: for a model that cannot be fused, an unknown kind of int8, `"static"` without rows, an `output_dir`
            that is taken, a missing library, or an export that computes something else.
    """
    runtime = _library("onnxruntime")
    _library("onnxscript")
    output_dir = Path(output_dir)
    if unknown := sorted(set(int8) - set(get_args(Int8))):
        raise ValueError(f"`int8` must be of {get_args(Int8)}, got {unknown}.")
    if "static" in int8 and not calibration:
        raise ValueError('`int8="static"` needs `calibration`: rows of the kind that the model will see.')
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{str(output_dir)!r} exists: choose another `output_dir`, or remove it.")
    partial = output_dir.with_name(f"{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "onnx").mkdir(parents=True)
    try:
        fused = fuse(model.cpu().float())
        program = _trace(fused)
        program.save(str(partial / FILES["fp32"]))
        report: dict[str, Any] = {"max_error": _check(fused, runtime.InferenceSession(str(partial / FILES["fp32"])))}
        for kind in int8:
            _quantize(partial, kind, tokenizer, calibration)
        written = [FILES["fp32"], *(FILES[kind] for kind in int8)]
        report |= {"files": written, "bytes": {name: (partial / name).stat().st_size for name in written}}
        model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "export.json").write_text(json.dumps(report, indent=2) + "\n")
        if output_dir.exists():
            output_dir.rmdir()
        partial.replace(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


class _Logits(nn.Module):
    """The model as ONNX sees it: three tensors in, one out."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, **inputs).logits


def _trace(fused: PreTrainedModel) -> Any:
    ids = torch.ones(2, 8, dtype=torch.long)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    dynamic = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in INPUTS}
    with _quiet():
        return torch.onnx.export(
            _Logits(fused),
            (ids, mask, torch.zeros_like(ids)),
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(INPUTS),
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of operators of other libraries that are not there."""
    noisy = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)


@torch.inference_mode()
def _check(fused: PreTrainedModel, session: Any) -> float:
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for rows, tokens in CHECKED_SHAPES:
        tokens = min(tokens, fused.config.max_position_embeddings)
        ids = torch.randint(1, fused.config.vocab_size, (rows, tokens), generator=generator)
        mask = torch.ones_like(ids)
        if rows > 1 and tokens > 2:
            mask[0, tokens // 2 :] = 0
        batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        expected = fused(**batch).logits.numpy()
        found = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    if not worst <= MAX_ERROR:
        raise ValueError(
            f"The exported model differs from the original by {worst:.1e} of its largest output, over {MAX_ERROR}; "
            f"this torch or ONNX Runtime does not fit: see `constraints.txt` for versions that were tried."
        )
    return worst


def _quantize(
    folder: Path, kind: Int8, tokenizer: PreTrainedTokenizerBase, calibration: Sequence[dict[str, list[int]]]
) -> None:
    quantization = _library("onnxruntime.quantization")
    source, target = (str(folder / FILES[name]) for name in ("fp32", kind))
    prepared = folder / "prepared.onnx"
    with _quiet():
        quantization.shape_inference.quant_pre_process(source, str(prepared), skip_symbolic_shape=True)
        options = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
        if kind == "dynamic":
            quantization.quantize_dynamic(str(prepared), target, **options)
        else:
            reader = _reader(quantization.CalibrationDataReader, tokenizer, calibration)
            quantization.quantize_static(
                str(prepared), target, reader, op_types_to_quantize=["MatMul", "Gemm", "Gather"], **options
            )
    prepared.unlink()


def _reader(base: type, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, list[int]]]) -> Any:
    # A class of its own: what it derives from comes with the library.
    class Reader(base):
        def __init__(self):
            self.rows = iter(rows)

        def get_next(self):
            row = next(self.rows, None)
            if row is None:
                return None
            padded = tokenizer.pad([row], return_tensors="np")
            return {name: np.asarray(padded.get(name, np.zeros_like(padded["input_ids"]))) for name in INPUTS}

    return Reader()


class OnnxClassifier(nn.Module):
    """
    An exported folder, called as a model of transformers is.

    Args:
        folder (`Path`): What [`export_onnx`] wrote.
        config ([`~transformers.PreTrainedConfig`]): Its configuration.
        runtime (`str`): A key of [`RUNTIMES`].

    Raises:
        ValueError: if the folder has no such file, or ONNX Runtime is missing.
    """

    def __init__(self, folder: Path, config: PreTrainedConfig, runtime: str):
        super().__init__()
        file = folder / FILES[RUNTIMES[runtime]]
        if not file.is_file():
            raise ValueError(
                f"{str(folder)!r} has no {FILES[RUNTIMES[runtime]]!r} for the runtime {runtime!r}: write it with "
                f"`compactbert export`."
            )
        self.config, self.device = config, torch.device("cpu")
        options = _library("onnxruntime").SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = _library("onnxruntime").InferenceSession(str(file), options)

    def forward(self, **batch: Tensor) -> SequenceClassifierOutput:
        """Logits of a batch, with whichever labels its head has."""
        inputs = {name: batch.get(name, torch.zeros_like(batch["input_ids"])).numpy() for name in INPUTS}
        return SequenceClassifierOutput(logits=torch.from_numpy(self.session.run(None, inputs)[0]))


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f'ONNX needs {name}: run `pip install "compactbert[onnx]"` ({error}).') from error


__all__ = ["RUNTIMES", "OnnxClassifier", "export_onnx"]
