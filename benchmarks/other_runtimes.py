"""A classifier in runtimes that the package has no command for: does it run there, and compute the same?
`benchmarks/other_runtimes.json`.

    pip install openvino executorch
    python benchmarks/other_runtimes.py run --data-dir DATA [--model zoo/smbert-sst2]
    python benchmarks/other_runtimes.py show

On the evaluation rows of its task, one at a time and padded to 64 tokens: ExecuTorch takes one shape a file here, and
the unfused model with eager attention, for its lowering of what torch traces of `scaled_dot_product_attention` ends
with an error about strides. Its quantizer takes no arithmetic on indices, such as transformers' of masks, so the mask
is made before. ExecuTorch needs the versions of torch and torchao that it names.
"""

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from results import Results
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compactbert.cards import markdown_table
from compactbert.data import encode_task, load_task, score_logits
from compactbert.inference import export_onnx, load_for_inference
from compactbert.inference.onnx import FILES


RESULTS = Results(__file__)
TASK, LENGTH = "sst2", 64
INPUTS = ("input_ids", "attention_mask")
app = typer.Typer()

# Of a file's bytes, and what computes a padded row's logits with it.
Loaded = tuple[int, Callable[[dict[str, torch.Tensor]], Any]]


class Logits(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        mask = -1e4 * (1 - attention_mask[:, None, None, :].float())
        return self.model(input_ids=input_ids, attention_mask=mask.expand(-1, -1, input_ids.shape[1], -1)).logits


def plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: dict[str, torch.Tensor]) -> Loaded:
    return sum(tensor.nbytes for tensor in model.state_dict().values()), lambda row: model(**row).logits


def openvino(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: dict[str, torch.Tensor]) -> Loaded:
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(model, tokenizer, Path(scratch) / "exported")
        file = Path(scratch) / "exported" / FILES["onnx"]
        # Where a processor has bfloat16, OpenVINO would use it.
        compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        size = file.stat().st_size

    def compute(row):
        texts = {name: tensor.numpy() for name, tensor in row.items()}
        # Of a single sentence.
        return compiled(texts | {"token_type_ids": np.zeros_like(texts["input_ids"])})["logits"]

    return size, compute


def executorch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: dict[str, torch.Tensor], int8: bool = False
) -> Loaded:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    inputs = tuple(row[name] for name in INPUTS)
    traced: Any = Logits(model).eval()
    if int8:
        # Scales of activations as they come: nothing is calibrated, but the observers must have seen something.
        config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        quantizer = xnnpack_quantizer.XNNPACKQuantizer().set_global(config)
        traced = prepare_pt2e(torch.export.export(traced, inputs).module(), quantizer)
        traced(*inputs)
        traced = convert_pt2e(traced)
    program = torch.export.export(traced, inputs)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    loaded = Runtime.get().load_program(lowered.buffer)
    method = loaded.load_method("forward")
    assert method is not None

    def compute(row, kept=(lowered, loaded)):
        # Copied, for the runtime writes the next row's to the same place, and reads from what is `kept`.
        return np.array(method.execute([row[name] for name in INPUTS])[0])

    return len(lowered.buffer), compute


# With the packages that each is of.
RUNTIMES = {
    "torch": (plain, ("torch",)),
    "OpenVINO, float32": (openvino, ("openvino",)),
    "ExecuTorch with XNNPACK": (executorch, ("executorch", "torchao")),
    "ExecuTorch with XNNPACK, int8": (partial(executorch, int8=True), ("executorch", "torchao")),
}


@app.command()
@torch.no_grad()
def run(data_dir: Annotated[Path, typer.Option()], model: Path = Path("zoo/smbert-sst2")):
    loaded, tokenizer = load_for_inference(model, "ForSequenceClassification")
    task = load_task(TASK, data_dir)
    encoded, _ = encode_task(task, task.evaluation, tokenizer, LENGTH)
    padding = {"padding": "max_length", "max_length": LENGTH, "return_tensors": "pt"}
    rows = [dict(tokenizer.pad({name: [row[name]] for name in INPUTS}, **padding)) for row in encoded]
    expected = None
    for name, (load, packages) in RUNTIMES.items():
        size, compute = load(loaded, tokenizer, rows[0])
        logits = np.concatenate([np.asarray(compute(row)) for row in rows])
        expected = logits if expected is None else expected
        found = {
            "bytes": size,
            "difference": float(np.abs(logits - expected).max() / np.abs(expected).max()),
            "accuracy": score_logits(task, list(logits), encoded["labels"])["accuracy"],
            "versions": {package: version(package) for package in packages},
        }
        RESULTS.record((model.name, name), found)
    show()


def render(results: dict) -> str:
    """The README's table."""
    rows = [
        (
            f"{model}, {name}",
            ", ".join(f"{package} {number}" for package, number in found["versions"].items()),
            f"{found['bytes'] / 1e6:.1f}",
            f"{found['difference']:.0e}" if found["difference"] else "",
            f"{found['accuracy']:.3f}",
        )
        for model, runtimes in results.items()
        if model != "environment"
        for name, found in runtimes.items()
    ]
    return markdown_table(("", "version", "MB", "difference", f"accuracy, {TASK}"), rows)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
