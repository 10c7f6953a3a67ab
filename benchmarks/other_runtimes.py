"""A classifier in runtimes that the package has no command for, tried: does it run there, and compute the same?

    pip install openvino && python benchmarks/other_runtimes.py openvino zoo/smbert-sst2
    pip install executorch && python benchmarks/other_runtimes.py executorch zoo/smbert-sst2

Prints the size of the file and the largest difference from torch, as a share of the largest output. Tried on x86 with
OpenVINO 2026.4.1 and ExecuTorch 1.5.1 (torch 2.13): see README.md. ExecuTorch takes one shape a file here, and the
unfused model with eager attention: its lowering of what torch traces of `scaled_dot_product_attention` ends with an
error about strides. ExecuTorch needs the versions of torch and torchao that it names.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import typer
from torch import nn

from compactbert.inference import export_onnx, load_for_inference


TEXTS = ["A warm, funny and moving film.", "Dull and long."]
app = typer.Typer()


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


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
def executorch(folder: Path):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    model, _, batch, expected = load(folder)
    model.set_attn_implementation("eager")
    inputs = (batch["input_ids"], batch["attention_mask"])
    program = torch.export.export(Logits(model).eval(), inputs)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    method = Runtime.get().load_program(lowered.buffer).load_method("forward")
    assert method is not None
    tell(len(lowered.buffer), method.execute(list(inputs))[0], expected)


if __name__ == "__main__":
    app()
