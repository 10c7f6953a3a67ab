"""Running exported models: what an ONNX folder holds, and how it is called."""

import importlib
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput


INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# By runtime; where Transformers.js and optimum look for them.
FILES = {
    "onnx": "onnx/model.onnx",
    "onnx-int8": "onnx/model_int8.onnx",
    "onnx-int8-static": "onnx/model_int8_static.onnx",
}


class OnnxClassifier(nn.Module):
    """
    An exported folder, called as a model of transformers is.

    Args:
        folder (`Path`): What `export` wrote.
        config ([`~transformers.PreTrainedConfig`]): Its configuration.
        runtime (`str`): A key of [`FILES`].

    Raises:
        ValueError: if the folder has no such file, or ONNX Runtime is missing.
    """

    def __init__(self, folder: Path, config: PreTrainedConfig, runtime: str):
        super().__init__()
        file = folder / FILES[runtime]
        if not file.is_file():
            raise ValueError(
                f"{str(folder)!r} has no {FILES[runtime]!r} for the runtime {runtime!r}: write it with "
                f"`compactbert export`."
            )
        # Where and as what it takes and gives.
        self.config, self.device, self.dtype = config, torch.device("cpu"), torch.float32
        self.file_size = file.stat().st_size
        options = library("onnxruntime").SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = library("onnxruntime").InferenceSession(str(file), options)

    def forward(self, **batch: Tensor) -> SequenceClassifierOutput:
        """Logits of a batch, with whichever labels its head has."""
        ids = batch["input_ids"]
        missing = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        inputs = {name: (missing | batch)[name].numpy() for name in INPUTS}
        return SequenceClassifierOutput(logits=torch.from_numpy(self.session.run(None, inputs)[0]))


def library(name: str) -> ModuleType:
    """An optional library.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f'ONNX needs {name}: run `pip install "compactbert[onnx]"` ({error}).') from error


__all__ = ["FILES", "INPUTS", "OnnxClassifier", "library"]
