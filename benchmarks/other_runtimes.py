"""A classifier in runtimes that the package has no command for, tried: does it run there, and compute the same?

    pip install openvino && python benchmarks/other_runtimes.py openvino zoo/smbert-sst2
    pip install executorch && python benchmarks/other_runtimes.py executorch zoo/smbert-sst2 [--int8] [--task sst2]

Prints the size of the file, the largest difference from torch as a share of the largest output, and a task's score.
Tried on x86 with OpenVINO 2026.4.1 and ExecuTorch 1.5.1 (torch 2.13, torchao 0.18): see README.md. ExecuTorch takes one
shape a file here, and the unfused model with eager attention: its lowering of what torch traces of
`scaled_dot_product_attention` ends with an error about strides. Its quantizer takes no arithmetic on indices, such as
transformers' of masks, so the mask is made before. ExecuTorch needs the versions of torch and torchao that it names.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import nn

from compactbert.data import encode_task, load_task, score_logits
from compactbert.inference import export_onnx, load_for_inference


LENGTH = 64
TEXTS = ["A warm, funny and moving film.", "Dull and long."]
app = typer.Typer()


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        mask = -1e4 * (1 - attention_mask[:, None, None, :].float())
        return self.model(input_ids=input_ids, attention_mask=mask.expand(-1, -1, input_ids.shape[1], -1)).logits


def load(folder: Path):
    model, tokenizer = load_for_inference(folder, "ForSequenceClassification")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model, tokenizer, batch, model(**batch).logits.numpy()


def tell(size: int, found, expected) -> None:
    difference = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    print(f"{size / 1e6:.1f} MB, difference {difference:.1e}")


@app.command()
def openvino(folder: Path):
    import openvino

    model, tokenizer, batch, expected = load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(model, tokenizer, Path(scratch) / "exported")
        file = Path(scratch) / "exported" / "onnx" / "model.onnx"
        # Where a processor has bfloat16, OpenVINO would use it.
        compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        tell(
            file.stat().st_size, compiled({name: tensor.numpy() for name, tensor in batch.items()})["logits"], expected
        )


@app.command()
def executorch(folder: Path, int8: bool = False, task: str | None = None, data_dir: Path | None = None):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    model, tokenizer, *_ = load(folder)
    model.set_attn_implementation("eager")

    def padded(texts: dict) -> tuple[torch.Tensor, torch.Tensor]:
        batch = tokenizer.pad(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")
        return batch["input_ids"], batch["attention_mask"]

    inputs = padded(tokenizer(TEXTS[:1]))
    traced: Any = Logits(model).eval()
    expected = traced(*inputs).detach().numpy()
    if int8:
        # Scales of activations as they come: nothing is calibrated, but the observers must have seen something.
        config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        quantizer = xnnpack_quantizer.XNNPACKQuantizer().set_global(config)
        traced = prepare_pt2e(torch.export.export(traced, inputs).module(), quantizer)
        traced(*inputs)
        traced = convert_pt2e(traced)
    program = torch.export.export(traced, inputs)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    method = Runtime.get().load_program(lowered.buffer).load_method("forward")
    assert method is not None
    tell(len(lowered.buffer), method.execute(list(inputs))[0], expected)
    if task is not None:
        loaded = load_task(task, data_dir)
        rows, _ = encode_task(loaded, loaded.evaluation, tokenizer, LENGTH)
        names = ("input_ids", "attention_mask")
        # Copied, for the runtime writes the next row's to the same place.
        logits = [np.array(method.execute(list(padded({name: [row[name]] for name in names})))[0])[0] for row in rows]
        print(score_logits(loaded, logits, rows["labels"]))


if __name__ == "__main__":
    app()
