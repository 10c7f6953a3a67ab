import pytest
from families import build

from compactbert.benchmark import environment, measure_latency, parse_shape


@pytest.mark.parametrize("text", ["128", "1x", "x128", "0x128", "1x2x3", "axb", "-1x128", ""])
def test_a_shape_is_rows_times_tokens(text):
    assert parse_shape("32x128") == parse_shape("32X128") == (32, 128)
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
