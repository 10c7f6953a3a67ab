import json

import pytest
import torch
from PIL import Image

from compactbert.compression import count_macs, count_parameters
from compactbert.presets import load_preset
from compactbert.search import layout_rows, measure_layouts, search, search_layouts
from modeling_mobilebert_md import MobileBertMdConfig, MobileBertMdModel


# Models of a few thousand parameters.
TINY = {
    "widths": (8, 12, 16),
    "heads": (2,),
    "networks": (1, 2),
    "num_layers": 4,
    "num_stages": (1, 2),
    "vocab_size": 60,
    "hidden_size": 32,
    "embedding_size": 20,
    "max_position_embeddings": 40,
    "sequence_length": 16,
}


def parameters_of(config):
    with torch.device("meta"):
        return count_parameters(MobileBertMdModel(config, add_pooling_layer=False))["total"]


def test_the_published_settings_fit_the_budget_of_25_million():
    layouts = search_layouts(parameters=25e6, heads=(3, 4, 5, 6))
    uniform = {(layout.stages, layout.heads, layout.num_feedforward_networks) for layout in layouts}
    for width, heads, networks in ((192, 6, 1), (160, 5, 2), (128, 4, 4), (96, 3, 8)):
        assert (((24, width),), heads, networks) in uniform
    for layout in layouts:
        assert abs(layout.parameters / 25e6 - 1) <= 0.06
    # The one that became MobileBERT is the shipped preset.
    chosen = next(layout for layout in layouts if layout.name == "24x128/4/4")
    assert chosen.config() == load_preset("mobilebert_md/uniform-128")
    assert chosen.parameters == 24_581_888


@pytest.mark.parametrize("fields", [{}, {"intermediate_size": 30}, {"use_bottleneck_attention": True}])
def test_costs_are_those_of_the_models(fields):
    layouts = search_layouts(parameters=20e3, tolerance=10, **TINY | fields)
    # Per number of networks three widths, and three pairs of them.
    assert len(layouts) == 2 * (3 + 3)
    for layout in layouts:
        config = layout.config()
        assert layout.parameters == parameters_of(config)
        assert layout.macs == count_macs(config, 1, 16)
        expected = [width for length, width in layout.stages for _ in range(length)]
        assert [layer.intra_bottleneck_size for layer in config.per_layer_config] == expected
        inner = [fields.get("intermediate_size", 4 * width) for width in expected]
        assert [layer.intermediate_size for layer in config.per_layer_config] == inner
        assert (config.num_attention_heads, config.embedding_size) == (2, 20)


def test_the_nearest_come_first():
    layouts = search_layouts(parameters=15e3, tolerance=10, **TINY)
    misses = [abs(layout.parameters - 15e3) for layout in layouts]
    assert misses == sorted(misses)
    assert len(set(misses)) > 3
    # A budget of multiply-accumulates is one for a sequence of the given length.
    budget = layouts[0].macs
    assert search_layouts(macs=budget, tolerance=0, **TINY)[0] == layouts[0]
    assert search_layouts(macs=budget, tolerance=0, **TINY | {"sequence_length": 17}) == []


def test_of_two_budgets_both_must_be_met():
    by_parameters = search_layouts(parameters=15e3, tolerance=0.2, **TINY)
    macs = max(layout.macs for layout in by_parameters)
    both = search_layouts(parameters=15e3, macs=macs, tolerance=0.2, **TINY)
    assert 0 < len(both) < len(by_parameters)
    for layout in both:
        assert abs(layout.parameters / 15e3 - 1) <= 0.2
        assert abs(layout.macs / macs - 1) <= 0.2


def test_stages_get_narrower_and_share_what_is_left_over():
    layouts = search_layouts(parameters=20e3, tolerance=10, **TINY | {"num_layers": 5, "num_stages": (2, 3)})
    stages = {layout.stages for layout in layouts}
    assert stages == {
        ((3, 16), (2, 12)),
        ((3, 16), (2, 8)),
        ((3, 12), (2, 8)),
        ((2, 16), (2, 12), (1, 8)),
    }


def test_heads_divide_every_width():
    layouts = search_layouts(parameters=20e3, tolerance=10, **TINY | {"heads": (3, 5)})
    assert {layout.stages for layout in layouts} == {((4, 12),)}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"parameters": None}, "give `parameters`, `macs` or both"),
        ({"macs": -1}, "`macs` must be positive, got -1"),
        ({"tolerance": -0.1}, "`tolerance` must not be negative"),
        ({"widths": ()}, r"`widths` must be a list of positive integers, got \[\]"),
        ({"networks": (0, 1)}, r"`networks` must be a list of positive integers, got \[0, 1\]"),
        ({"num_stages": (5,)}, "`num_stages` asks for 5 stages of 4 layers"),
        ({"intra_bottleneck_size": 8}, r"does not take \['intra_bottleneck_size'\]: .* fields \[.*'vocab_size'"),
        ({"vocabulary": 8}, r"does not take \['vocabulary'\]"),
        ({"hidden_act": "nothing"}, "not a possible architecture"),
    ],
)
def test_impossible_searches_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        search_layouts(**{"parameters": 15e3} | TINY | choices)


def test_latency_is_that_of_each_layout():
    small, large = (
        search_layouts(parameters=1e5, tolerance=10, **TINY | {"num_layers": n, "num_stages": (1,)})[0] for n in (2, 32)
    )
    latencies = measure_layouts([large, small], [(1, 8)], rounds=9)
    assert latencies[0]["1x8"]["median_ms"] > 3 * latencies[1]["1x8"]["median_ms"]


def test_a_search_writes_its_table_and_its_picture(tmp_path):
    result = search(
        tmp_path / "found", shapes=[(1, 16), (2, 8)], limit=3, rounds=3, parameters=15e3, tolerance=0.5, **TINY
    )
    assert (len(result["layouts"]), result["budget"]) == (3, {"parameters": 15e3})
    assert result["fitting"] > 3
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["layouts.json", "layouts.png"]
    assert result["files"] == [str(tmp_path / "found" / name) for name in ("layouts.json", "layouts.png")]
    written = json.loads((tmp_path / "found" / "layouts.json").read_text())
    with Image.open(tmp_path / "found" / "layouts.png") as image:
        assert image.size == (1080, 660)
    for layout, row in zip(search_layouts(parameters=15e3, tolerance=0.5, **TINY), written["layouts"], strict=False):
        assert (row["name"], row["parameters"], row["macs"]) == (layout.name, layout.parameters, layout.macs)
        assert 0 < row["latency"]["2x8"]["low_ms"] <= row["latency"]["2x8"]["high_ms"]
        # A layout's entry is a preset.
        (tmp_path / "preset.json").write_text(json.dumps(row["preset"]))
        assert load_preset(tmp_path / "preset.json") == layout.config()
    header, rows = layout_rows(result)
    assert header == ("stages", "heads", "FFNs", "parameters", "GMACs", "ms 1x16", "ms 2x8")
    assert len(rows) == 3
    assert all(len(row) == len(header) for row in rows)
    assert rows[0][0].count("x") == len(result["layouts"][0]["stages"])


def test_a_search_without_files_or_without_a_layout():
    assert search(limit=1, rounds=3, shapes=[(1, 8)], parameters=15e3, tolerance=0.5, **TINY)["files"] == []
    with pytest.raises(ValueError, match=r"No layout fits the budget \{'macs': 1.0\}: allow more widths"):
        search(macs=1.0, **TINY)
    with pytest.raises(ValueError, match="`limit` must be at least 1, got 0"):
        search(limit=0, parameters=15e3, **TINY)


def test_the_layouts_are_models():
    layout = search_layouts(parameters=15e3, tolerance=10, **TINY)[0]
    config = layout.config()
    assert isinstance(config, MobileBertMdConfig)
    output = MobileBertMdModel(config)(torch.ones(1, 4, dtype=torch.long)).last_hidden_state
    assert output.shape == (1, 4, 32)
