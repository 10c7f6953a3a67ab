"""Models for other runtimes: ONNX, in float32 and int8."""

import contextlib
import copy
import json
import logging
import platform
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import encode_task, length_limit, load_task
from ..files import new_folder
from .fusion import fuse
from .onnx import FILES, INPUTS, library
from .prediction import head_of, load_for_inference, merged


Int8 = Literal["dynamic", "static"]
RUNTIME_OF = {"dynamic": "onnx-int8", "static": "onnx-int8-static"}
# Of the largest output. What differs by more is no export.
MAX_ERROR = 1e-5
CHECKED_SHAPES = ((1, 1), (1, 2), (3, 9), (2, 32))
OPSET = 18
PRODUCTS = ["MatMul", "Gemm"]


def export(
    model: str | Path,
    output_dir: str | Path,
    *,
    to: str = "onnx",
    int8: Sequence[Int8] = (),
    task: str | None = None,
    rows: int = 128,
    max_length: int = 128,
    data_dir: str | Path | None = None,
    seed: int = 42,
    trust_remote_code: bool = False,
    **task_options: Any,
) -> dict[str, Any]:
    """
    Writes a fine-tuned model for another runtime; see [`export_onnx`] for the folder and what is returned.

    Args:
        model (`str` or `Path`):
            Folder or Hub repository of a model, or an adapter, for sequence or token classification.
        output_dir (`str` or `Path`):
            Where to write. Must not exist, or be empty.
        to (`str`, *optional*, defaults to `"onnx"`):
            The format; there is one.
        int8 (list of `"dynamic"` and `"static"`, *optional*):
            See [`export_onnx`].
        task (`str`, *optional*), rows (`int`, *optional*, defaults to 128):
            A fixed sample of so many of this task's training rows calibrates `"static"`.
        max_length (`int`, *optional*, defaults to 128), data_dir, seed, trust_remote_code, task_options:
            As in [`~compactbert.finetune`].

    Raises:
        ValueError: as [`export_onnx`], for another format, or if the model or task cannot be read.

    Example:

    ```python
    >>> from compactbert.inference import export

    >>> export("my-model", "reviews-onnx")["files"]
    ['onnx/model.onnx']

    ```
    """
    if to != "onnx":
        raise ValueError(f"`to` must be 'onnx', got {to!r}.")
    head = head_of(model, trust_remote_code)
    loaded: Any
    loaded, tokenizer = load_for_inference(model, head, trust_remote_code)
    loaded = merged(loaded)
    sample: list[dict[str, Any]] = []
    if task is not None:
        loaded_task = load_task(task, data_dir, **task_options)
        dataset = loaded_task.evaluation if loaded_task.train is None else loaded_task.train
        dataset = dataset.shuffle(seed=seed).select(range(min(rows, len(dataset))))
        encoded, _ = encode_task(loaded_task, dataset, tokenizer, length_limit(loaded.config, tokenizer, max_length))
        sample = [{name: row[name] for name in row if name not in ("labels", "length")} for row in encoded]
    return export_onnx(loaded, tokenizer, output_dir, int8=int8, calibration=sample)


def export_onnx(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    output_dir: str | Path,
    *,
    int8: Sequence[Int8] = (),
    calibration: Sequence[dict[str, list[int]]] = (),
) -> dict[str, Any]:
    """
    Writes a model as ONNX, from its fused graph, for any number of rows and tokens, and checks it in ONNX Runtime.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model of one of our families for sequence or token classification, which gives `logits`, or without a
            head, which gives `last_hidden_state`. Not changed; exported in float32.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Saved beside it. Calibration needs one.
        output_dir (`str` or `Path`):
            Folder to write `onnx/model.onnx`, the configuration and the tokenizer to. Must not exist, or be empty; it
            appears when it is complete.
        int8 (list of `"dynamic"` and `"static"`, *optional*):
            Write int8 models too: `onnx/model_int8.onnx`, whose activations are scaled as they come, and
            `onnx/model_int8_static.onnx`, whose activations are scaled as they were in `calibration`. `"dynamic"`
            needs no calibration and is as fast and as good where both were measured.
        calibration (list of `dict`, *optional*):
            Encoded rows, for `"static"`.

    Returns:
        `dict`: `files`, `bytes` of each, and `max_error` of the float32 model, as a share of the largest output, over
        batches from 1x1 to 2x32 with and without padding; of int8 the `weight_bits`, which are 7 where this machine is
        an x86 without VNNI. Written to `export.json` too.

    Raises:
        ValueError: for a model that cannot be fused, an unknown kind of int8, `"static"` without rows, an `output_dir`
            that is taken, a missing library, or an export that computes something else.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.inference import export_onnx

    >>> model, tokenizer = load_pretrained("my-model", "ForSequenceClassification")
    >>> export_onnx(model, tokenizer, "reviews-onnx")["max_error"] < 1e-5
    True

    ```
    """
    runtime = library("onnxruntime")
    library("onnxscript")
    output_dir = Path(output_dir)
    if unknown := sorted(set(int8) - set(get_args(Int8))):
        raise ValueError(f"`int8` must be of {get_args(Int8)}, got {unknown}.")
    if "static" in int8 and (tokenizer is None or not calibration):
        raise ValueError(
            '`int8="static"` needs `calibration`, rows of the kind that the model will see, and `tokenizer`; `export` '
            "takes both from a `task` (`--task`): name one."
        )
    with new_folder(output_dir) as partial:
        (partial / "onnx").mkdir()
        model = copy.deepcopy(model).to(device="cpu", dtype=torch.float32)  # type: ignore[call-arg]
        fused = fuse(model)
        program = _trace(fused)
        program.save(str(partial / FILES["onnx"]))
        report: dict[str, Any] = {"max_error": _check(fused, runtime.InferenceSession(str(partial / FILES["onnx"])))}
        for kind in int8:
            _quantize(partial, kind, tokenizer, calibration)
        written = [FILES["onnx"], *(FILES[RUNTIME_OF[kind]] for kind in int8)]
        if int8:
            report["weight_bits"] = _weight_bits()
        report |= {"files": written, "bytes": {name: (partial / name).stat().st_size for name in written}}
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        (partial / "export.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


class _Outputs(nn.Module):
    """The model as ONNX sees it: three tensors in, one out."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, **inputs)[0]


def _trace(fused: PreTrainedModel) -> Any:
    ids = torch.ones(2, 8, dtype=torch.long)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    dynamic = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in INPUTS}
    with _quiet():
        program: Any = torch.onnx.export(
            _Outputs(fused),
            (ids, mask, torch.zeros_like(ids)),
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(INPUTS),
            output_names=["last_hidden_state" if fused.base_model is fused else "logits"],
            opset_version=OPSET,
            verbose=False,
        )
    # Where every operation was written: paths of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    return program


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
        expected = fused(**batch)[0].numpy()
        found = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    if not worst <= MAX_ERROR:
        raise ValueError(
            f"The exported model differs from the original by {worst:.1e} of its largest output, over {MAX_ERROR}; "
            f"this torch or ONNX Runtime does not fit: see `constraints.txt` for versions that were tried."
        )
    return worst


def _quantize(
    folder: Path, kind: Int8, tokenizer: PreTrainedTokenizerBase | None, calibration: Sequence[dict[str, list[int]]]
) -> None:
    quantization = library("onnxruntime.quantization")
    prepared = folder / "prepared.onnx"
    with _quiet():
        quantization.shape_inference.quant_pre_process(
            str(folder / FILES["onnx"]), str(prepared), skip_symbolic_shape=True
        )
        target = folder / FILES[RUNTIME_OF[kind]]
        if kind == "static":
            assert tokenizer is not None  # `export_onnx` has asked for it.
            quantize_static(prepared, target, tokenizer, calibration)
        else:
            quantization.quantize_dynamic(
                str(prepared),
                str(target),
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=_weight_bits() < 8,
            )
    prepared.unlink()


def quantize_static(
    source: Path,
    target: Path,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Sequence[dict[str, list[int]]],
    **changes: Any,
) -> None:
    """
    Writes an ONNX model as int8, with scales of its activations from encoded rows. Products with weights take int8 and
    give float32, which costs no time and spares the residual sums their rounding; attention's own products stay as they
    are. Activations have no sign: with one, the products are several times as slow on x86.

    Args:
        source (`Path`), target (`Path`):
            Files: of a float32 model without names for shapes, as `quant_pre_process` leaves it; of the int8 model.
        changes:
            Further arguments of ONNX Runtime's `quantize_static`, or others.
    """
    quantization = library("onnxruntime.quantization")
    options: dict[str, Any] = {
        "op_types_to_quantize": [*PRODUCTS, "Gather"],
        "nodes_to_exclude": _products_of_activations(source),
        "per_channel": True,
        "weight_type": quantization.QuantType.QInt8,
        "reduce_range": _weight_bits() < 8,
        "activation_type": quantization.QuantType.QUInt8,
        "extra_options": {"OpTypesToExcludeOutputQuantization": PRODUCTS},
    }
    reader = _reader(quantization.CalibrationDataReader, tokenizer, calibration)
    quantization.quantize_static(str(source), str(target), reader, **options | changes)


def _weight_bits() -> int:
    """x86 without VNNI adds two products in 16 bits, which weights of 8 bits can overflow."""
    return 7 if platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_vnni_supported() else 8


def _products_of_activations(file: Path) -> list[str]:
    """Of queries and keys, and of probabilities and values."""
    graph = library("onnx").load(str(file)).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in PRODUCTS and node.input[1] not in weights]


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


__all__ = ["export", "export_onnx"]
