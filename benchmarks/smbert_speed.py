"""SmBERT against BERT-base, forward pass in fp32, the same attention on both sides: `benchmarks/smbert_speed.json`.

python benchmarks/smbert_speed.py
"""

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from compactbert.benchmark import measure_latency
from compactbert.provenance import environment
from modeling_smbert import SmBertConfig, SmBertModel


SHAPES = [(1, 128), (32, 512)]
# The paper's figure: 831.83 / 136.14 ms at 32x512.
REPORTED = 6.11
RESULTS = Path(__file__).with_suffix(".json")


def render(results: dict) -> str:
    """The README's table."""
    lines = ["| attention | 1x128 | 32x512 |", "|---|---|---|"]
    for attention, ratios in results["ratios"].items():
        cells = [f"{r['median']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for r in ratios.values()]
        lines.append(f"| {attention} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    ratios: dict[str, dict] = {}
    latencies: dict[str, dict] = {}
    for attention in ("eager", "sdpa"):
        options = {"attn_implementation": attention}
        torch.manual_seed(0)
        models = {"bert-base": BertModel(BertConfig(**options)), "smbert": SmBertModel(SmBertConfig(**options))}
        ratios[attention] = {}
        for shape in SHAPES:
            rounds, seconds = (40, 60.0) if shape[0] == 1 else (5, 600.0)
            latency = measure_latency(models, [shape], rounds=rounds, warmup=2, seconds=seconds)
            name = f"{shape[0]}x{shape[1]}"
            bert, small = latency["bert-base"][name], latency["smbert"][name]
            # Quartile against opposite quartile: the widest reading of the spread.
            ratios[attention][name] = {
                "median": bert["median_ms"] / small["median_ms"],
                "low": bert["low_ms"] / small["high_ms"],
                "high": bert["high_ms"] / small["low_ms"],
            }
            latencies.setdefault(attention, {})[name] = {"bert-base": bert, "smbert": small}
            print(attention, name, ratios[attention][name])
    results = {"ratios": ratios, "latencies": latencies, "reported": REPORTED, "environment": environment()}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(render(results))


if __name__ == "__main__":
    main()
