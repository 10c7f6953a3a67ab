import json
import sys
from functools import partial

import pytest
import torch
from families import build
from transformers import BertConfig, DistilBertConfig, ElectraConfig

from compactbert.benchmark import _peak_gflops, bench, benchmark_rows, measure_latency, parse_shape, peak_mb
from compactbert.provenance import environment


def test_a_shape_is_rows_times_tokens():
    assert parse_shape("32x128") == parse_shape("32X128") == (32, 128)


@pytest.mark.parametrize("text", ["128", "1x", "x128", "0x128", "1x2x3", "axb", "-1x128", ""])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(ValueError, match="rows x tokens"):
        parse_shape(text)


def test_a_model_with_more_work_takes_longer():
    small = build("smbert-uniform", num_hidden_layers=1)
    large = build("smbert-uniform", num_hidden_layers=24)
    latencies = measure_latency({"small": small, "large": large}, [(1, 8), (8, 32)], rounds=9, warmup=1)
    for shape in ("1x8", "8x32"):
        low, median, high = (latencies["small"][shape][key] for key in ("low_ms", "median_ms", "high_ms"))
        assert 0 < low <= median <= high
        assert latencies["large"][shape]["median_ms"] > 3 * median


def test_rounds_stop_when_the_time_is_up():
    calls = []
    model = build("smbert-uniform")
    model.register_forward_hook(lambda *args: calls.append(1))
    measure_latency({"model": model}, [(1, 8)], rounds=1000, warmup=1, seconds=0.0)
    # One to warm up and the three below which there are no quartiles.
    assert len(calls) == 4


def test_a_shape_longer_than_a_model_takes_is_refused():
    with pytest.raises(ValueError, match=r"1x41 is longer than 'model' takes: 40 tokens"):
        measure_latency({"model": build("smbert-uniform")}, [(1, 41)])


def test_the_environment_says_what_a_figure_depends_on():
    assert {"torch", "transformers", "threads", "cores", "cpu_capability"} <= environment().keys()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_memory_of_a_task_is_what_the_process_grows_by():
    def work():
        torch.ones(2**24)  # 64 MB

    # So much at once makes the allocator give back what other tests have left: here, and not while it is measured.
    work()
    assert 60 < peak_mb(work) < 80


@pytest.fixture
def tiny(monkeypatch):
    """Models of everybody's shapes, tiny."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    known = {
        "bert-base": (BertConfig, sizes | {"vocab_size": 50}),
        "distilbert": (DistilBertConfig, {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 50}),
        "electra": (ElectraConfig, sizes | {"vocab_size": 50, "embedding_size": 16}),
    }
    monkeypatch.setattr("compactbert.benchmark.KNOWN", known)
    # A product of full size takes seconds where bfloat16 is emulated.
    monkeypatch.setattr("compactbert.benchmark._peak_gflops", partial(_peak_gflops, size=64))


@pytest.mark.usefixtures("tiny")
def test_models_are_compared_in_every_runtime(tmp_path):
    result = bench(
        ["bert-base", "distilbert"], tmp_path, runtimes=("eager", "fused", "sdpa-bf16"), shapes=[(2, 8)], rounds=3
    )
    names = [row["name"] for row in result["rows"]]
    assert names == [f"{m}, {r}" for m in ("bert-base", "distilbert") for r in ("eager", "fused", "sdpa-bf16")]
    first, fused, half = result["rows"][:3]
    assert first["ratio"]["2x8"]["median"] == 1.0
    assert fused["parameters"] == first["parameters"]
    assert half["bytes"] * 2 == first["bytes"]
    ratio = first["latency"]["2x8"]["median_ms"] / fused["latency"]["2x8"]["median_ms"]
    assert fused["ratio"]["2x8"]["median"] == pytest.approx(ratio)
    # 4 projections of 16x16, 2 of 16x16 in the FFN, scores and sums of 8 x 8 x 16; the pooler for each row.
    assert first["macs"]["2x8"] == 2 * 8 * (6 * 16 * 16 + 2 * 8 * 16) + 2 * 16 * 16
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == result["rows"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    header, rows = benchmark_rows(result)
    assert all(len(row) == len(header) for row in rows)


@pytest.mark.usefixtures("tiny")
def test_onnx_is_a_runtime_like_others():
    result = bench(["bert-base"], runtimes=("eager", "onnx-int8"), shapes=[(2, 8)], rounds=3)
    plain, int8 = result["rows"]
    assert (int8["name"], int8["parameters"]) == ("bert-base, onnx-int8", plain["parameters"])
    assert int8["macs"] == plain["macs"]
    # Of the file, which is not the product of anything.
    assert int8["bytes"] % plain["parameters"]
    share = plain["of_peak"]["2x8"] * plain["latency"]["2x8"]["low_ms"] / int8["latency"]["2x8"]["low_ms"]
    assert int8["of_peak"]["2x8"] == pytest.approx(share)


@pytest.mark.usefixtures("tiny")
def test_threads_are_set_for_the_measurement_alone(monkeypatch):
    before, seen = torch.get_num_threads(), []
    measure = measure_latency
    monkeypatch.setattr(
        "compactbert.benchmark.measure_latency",
        lambda *args, **kwargs: seen.append(torch.get_num_threads()) or measure(*args, **kwargs),
    )
    result = bench(["bert-base"], runtimes=["eager"], shapes=[(1, 4)], rounds=3, threads=before + 1)
    assert seen == [before + 1] == [result["environment"]["threads"]]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtimes": ["tensorrt"]}, "`runtimes` must be of"),
        ({"models": []}, "at least one model"),
        ({"baseline": "bert-base, fast"}, "`baseline` must be one of"),
        ({"shapes": [(1, 4000)]}, "1x4000 is longer"),
        ({"models": ["no-such-model"]}, "no-such-model"),
        ({"models": ["electra"], "runtimes": ["fused"]}, r"None of \['electra'\] runs in \['fused'\]"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_what_cannot_be_benchmarked(arguments, message):
    given = {"models": ["bert-base"], "runtimes": ["eager"], "shapes": [(1, 4)]} | arguments
    with pytest.raises(ValueError, match=message):
        bench(given.pop("models"), **given)
