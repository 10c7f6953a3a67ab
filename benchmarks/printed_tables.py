"""The tables of the MobileBERT-MD article and of the SmBERT paper, as printed and as found here:
`benchmarks/printed_tables.json`.

    python benchmarks/printed_tables.py run
    python benchmarks/printed_tables.py show

`run` counts parameters (BERT's with its pooler, as printed) and multiply-accumulates of 1x128 tokens, and takes from
the other benchmarks what they measured. Accuracies are of other data and smaller models, so shares are compared.
"""

import json
from pathlib import Path
from typing import Any

import compress_minilm
import smbert_speed
import torch
import typer
from results import Results
from transformers import AutoModel, PreTrainedConfig

from compactbert.compression import count_macs, count_parameters
from compactbert.presets import load_preset
from modeling_mobilebert_md import MobileBertMdConfig
from modeling_smbert import SmBertConfig


RESULTS = Results(__file__)
BERT_BASE = {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
BERT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
TINYBERT = {
    "hidden_size": 312,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "attention_head_size": 26,
    "intermediate_size": 1200,
}
# A model's printed millions of parameters and thousand millions of FLOPs (two a multiply-accumulate), where they are.
SIZES: dict[str, tuple[PreTrainedConfig, float | None, float | None]] = {
    "BERT-large": (SmBertConfig(**BERT_LARGE), 334, 42.2),
    "BERT-base": (SmBertConfig(**BERT_BASE), 109, 22.5),
    "DistilBERT": (SmBertConfig(**BERT_BASE | {"num_hidden_layers": 6}), 62.2, 11.3),
    "TinyBERT": (SmBertConfig(**TINYBERT), 14.5, 1.2),
    "IB-BERT-large": (load_preset("ib_bert/ib-bert-large"), 293, None),
    "MobileBERT": (load_preset("mobilebert_md/uniform-128"), 25.3, 3.1),
    "MobileBERT-MD": (load_preset("mobilebert_md/mobilebert-md"), 31.8, None),
    "BERT-3": (SmBertConfig(**BERT_BASE | {"num_hidden_layers": 3}), 45.7, None),
    "SmBERT": (load_preset("smbert/smbert"), 38.6, None),
}
# Eight layers of one width, in millions.
BLOCKS = {64: 4.2, 128: 8.4, 256: 16.8}
# SmBERT's tables 4 (averages over five test sets) and 5 (F1 on MRPC's dev set), and what stands beside them here.
TASKS, MRPC_F1 = "average of five tasks", "F1 on MRPC"
PRINTED_QUALITY = {
    TASKS: {"BERT-base": 81.3, "BERT-3": 73.9, "SmBERT": 76.4},
    MRPC_F1: {"BERT-base": 0.850, "BERT-3": 0.762, "DistilBERT-3": 0.753, "Theseus-3": 0.789, "SmBERT": 0.858},
}
TEACHER = "BERT-base"
OURS = {
    "BERT-3": "first three layers, fine-tuned",
    "DistilBERT-3": "logits distillation",
    "Theseus-3": "Theseus",
    "SmBERT": "smbert",
}
# SmBERT's table 6, milliseconds of a batch of 32x512.
PRINTED_LATENCY = {"BERT-base": 831.83, "SmBERT": 136.14}
app = typer.Typer()


def counts_of(config: PreTrainedConfig) -> dict[str, int]:
    with torch.device("meta"):
        counted = count_parameters(AutoModel.from_config(config))
    pooler = counted["head"] if config.model_type == "smbert" else 0
    return {"parameters": counted["embedding"] + counted["encoder"] + pooler, "macs": count_macs(config, 1, 128)}


@app.command()
def run():
    RESULTS.record(("sizes",), {name: counts_of(config) for name, (config, *_) in SIZES.items()})
    blocks = {}
    for width in BLOCKS:
        config = MobileBertMdConfig(num_hidden_layers=8, intra_bottleneck_size=width, embedding_size=width)
        with torch.device("meta"):
            blocks[str(width)] = count_parameters(AutoModel.from_config(config))["encoder"]
    RESULTS.record(("blocks",), blocks)
    table = compress_minilm.Table(read("compress_minilm"))
    quality = {TASKS: shares(table, "accuracy", table.tasks), MRPC_F1: shares(table, "f1", ["mrpc"])}
    RESULTS.record(("quality",), quality)
    RESULTS.record(("speed",), smbert_speed.ratios(read("smbert_speed")))
    show()


def read(name: str) -> dict[str, Any]:
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text())


def shares(table: compress_minilm.Table, metric: str, tasks: list[str]) -> dict[str, float]:
    """What each of our methods keeps of the teacher's average over tasks."""
    averages = {name: table.averages(method, tasks, metric) for name, method in OURS.items()}
    return {name: average / whole for name, (average, whole) in averages.items()}


def render(results: dict) -> str:
    """The README's tables."""
    lines = ["| parameters, FLOPs of 128 tokens | printed | counted here |", "|---|---|---|"]
    for name, (_, parameters, flops) in SIZES.items():
        found = results["sizes"][name]
        printed = f"{parameters} M" + (f", {flops} G" if flops else "")
        lines.append(f"| {name} | {printed} | {found['parameters'] / 1e6:.1f} M, {2 * found['macs'] / 1e9:.1f} G |")
    for width, parameters in BLOCKS.items():
        found = results["blocks"][str(width)] / 1e6
        lines.append(f"| eight layers of MobileBERT-{width} | {parameters} M | {found:.1f} M |")
    lines += ["", "| kept of the whole model's quality | printed | here |", "|---|---|---|"]
    for table, printed in PRINTED_QUALITY.items():
        for name in OURS:
            if name in printed:
                share = printed[name] / printed[TEACHER]
                lines.append(f"| {name}, {table} | {share:.1%} | {results['quality'][table][name]:.1%} |")
    lines += ["", "| BERT-base's time over SmBERT's, 32x512 | printed | here |", "|---|---|---|"]
    printed_ratio = PRINTED_LATENCY["BERT-base"] / PRINTED_LATENCY["SmBERT"]
    for attention, ratios in results["speed"].items():
        found = ratios["32x512"]
        cell = f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"
        lines.append(f"| {attention} | {printed_ratio:.2f} | {cell} |")
    return "\n".join(lines)


@app.command()
def show():
    print(render(RESULTS.read()))


if __name__ == "__main__":
    app()
