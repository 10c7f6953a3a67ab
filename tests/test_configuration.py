import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, build
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

from compactbert.compression import count_macs
from compactbert.presets import list_presets, load_preset
from modeling_mobilebert_md import IbBertConfig, MobileBertMdConfig, MobileBertMdModel
from modeling_smbert import SmBertConfig, SmBertModel


def network(width):
    """Parameters of a feed-forward network of 512 and its norm."""
    return (width + 1) * 512 + (512 + 1) * width + 2 * width


# From the specification's parameter-count study.
PARAMETERS = {
    "ib_bert/ib-bert-large": 294_205_184,
    # The embeddings are 128 wider, and so is what the trigram reads of each of three tokens.
    "ib_bert/ib-bert-large-embedding256": 294_205_184 + 128 * 30522 + 3 * 128 * 512,
    "mobilebert_md/mobilebert-md": 32_728_064,
    # Eight layers of a width have as many feed-forward networks fewer: each has two matrices, biases and a NoNorm.
    "mobilebert_md/mobilebert-md-1.9g": 32_728_064 - 8 * (3 * network(256) + 3 * network(128) + 2 * network(64)),
    "mobilebert_md/mobilebert-md-2.2g": 32_728_064 - 8 * (3 * network(256) + 2 * network(128)),
    "mobilebert_md/mobilebert-md-2.6g": 32_728_064 - 8 * (2 * network(256) + network(128)),
    "mobilebert_md/mobilebert-md-embedding128": 28_624_640,
    "mobilebert_md/mobilebert-md-reversed": 32_728_064,
    # 8 layers whose value reads 256 features fewer: 8 * 256 * 64 weights less.
    "mobilebert_md/mobilebert-md-value256": 32_728_064 - 8 * 256 * 64,
    # Counted by hand: embeddings, and two layers of each width (bottlenecks, attention, two FFNs of 512, the way back).
    "mobilebert_md/mobilebert-md-small": 30522 * 256
    + (512 + 2 + 3 * 256 + 1 + 2) * 512
    + 2
    * sum(
        2 * (512 + 3) * d
        + 2 * (d + 1) * d
        + (512 + 1) * d
        + (d + 3) * d
        + 2 * ((d + 1) * 512 + (512 + 3) * d)
        + (d + 3) * 512
        for d in (256, 128, 64)
    ),
    "mobilebert_md/tiny": 15_485_696,
    "mobilebert_md/uniform-128": 24_581_888,
    "smbert/smbert": 38_608_128,
    # 3 layers of 8 heads of 32, FFN 1024: counted by hand from the shapes.
    "smbert/smbert-minilm": (30522 + 512 + 2 + 2) * 384
    + 3 * (3 * (384 + 1) * 256 + (256 + 1) * 384 + (384 + 1) * 1024 + (1024 + 1) * 384 + 4 * 384)
    + (384 + 1) * 384,
}


def test_every_preset_is_counted():
    assert list_presets() == sorted(PARAMETERS)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name.endswith("g")])
def test_presets_are_named_by_their_work(name):
    macs = count_macs(load_preset(name), 1, 128)
    assert f"{macs / 1e9:.1f}g" == name.rpartition("-")[2]
    # Less than MobileBERT's, with 24 layers in three widths.
    assert macs < count_macs(load_preset("mobilebert_md/uniform-128"), 1, 128)
    layers = load_preset(name).per_layer_config
    assert [layer.true_hidden_size for layer in layers] == [256] * 8 + [128] * 8 + [64] * 8


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_presets(name):
    # SmBERT's published count includes the pooler, the others' do not.
    config = load_preset(name)
    with torch.device("meta"):
        model = AutoModel.from_config(config, add_pooling_layer=name.startswith("smbert"))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_default_configurations_are_the_published_models():
    assert MobileBertMdConfig() == load_preset("mobilebert_md/mobilebert-md") == MobileBertMdConfig.from_stages()
    assert IbBertConfig() == load_preset("ib_bert/ib-bert-large")
    assert SmBertConfig() == load_preset("smbert/smbert")


def test_stages_from_input_to_output():
    config = MobileBertMdConfig()
    assert [layer.intra_bottleneck_size for layer in config.per_layer_config] == 8 * [256] + 8 * [128] + 8 * [64]
    assert [layer.head_size for layer in config.per_layer_config] == 8 * [64] + 8 * [32] + 8 * [16]


@pytest.mark.parametrize(
    ("fields", "widths"),
    [
        ({"num_hidden_layers": 2}, [128, 128]),
        ({"intra_bottleneck_size": 64}, 24 * [64]),
        ({"per_layer_config": {0: {"intra_bottleneck_size": 32}}}, [32] + 23 * [128]),
        ({"num_hidden_layers": 3, "intra_bottleneck_size": 16}, [16, 16, 16]),
    ],
)
def test_giving_any_layout_field_replaces_the_stages(fields, widths):
    config = MobileBertMdConfig(**fields)
    assert [layer.intra_bottleneck_size for layer in config.per_layer_config] == widths
    assert config.embedding_size == 256


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family, tmp_path):
    config = build(family).config
    config.save_pretrained(tmp_path)
    loaded = type(config).from_pretrained(tmp_path)
    assert loaded == config
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert config == type(config)(**config.to_dict())
    assert config != type(config)()


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (MobileBertMdConfig, {"intra_bottleneck_size": 130}, r"`intra_bottleneck_size` \(130\) must be a multiple"),
        (MobileBertMdConfig, {"num_attention_heads": 3}, r"Layer 0: `intra_bottleneck_size` \(256\) must be a mult"),
        (
            MobileBertMdConfig,
            {"per_layer_config": {5: {"num_attention_heads": 3}}},
            r"Layer 5: `intra_bottleneck_size` \(128\) must be a multiple",
        ),
        (MobileBertMdConfig, {"per_layer_config": {30: {"intermediate_size": 3}}}, r"got \[30\]"),
        (
            MobileBertMdConfig,
            {"per_layer_config": {2: {"hidden_size": 64}}},
            r"layer 2 sets \['hidden_size'\], which cannot differ",
        ),
        (MobileBertMdConfig, {"value_input_size": 513}, r"`value_input_size` \(513\) must not exceed"),
        (
            MobileBertMdConfig,
            {"value_input_size": 64, "use_bottleneck_attention": True},
            "needs `use_bottleneck_attention=False`",
        ),
        (MobileBertMdConfig, {"num_feedforward_networks": 0}, "`num_feedforward_networks` must be at least 1, got 0"),
        (IbBertConfig, {"intra_bottleneck_size": 1022}, "must be a multiple of `num_attention_heads`"),
        (
            SmBertConfig,
            {"attention_head_size": None, "num_attention_heads": 7},
            r"`hidden_size` \(768\) must be a mult",
        ),
        (SmBertConfig, {"per_layer_config": {1: {"hidden_act": "relu"}}}, r"sets \['hidden_act'\]"),
        (SmBertConfig, {"max_position_embeddings": 0}, "`max_position_embeddings` must be at least 1"),
        (MobileBertMdConfig, {"hidden_dropout_prob": 3.0}, r"`hidden_dropout_prob` must lie in \[0, 1\], got 3.0"),
        (IbBertConfig, {"hidden_act": "foo"}, "`hidden_act` must be one of .*'gelu'.*, got 'foo'"),
        (SmBertConfig, {"num_attention_heads": 0}, "`num_attention_heads` must be at least 1, got 0"),
    ],
)
def test_contradictions_are_refused(config_class, fields, message):
    # What the checks raise comes wrapped by the library that calls them.
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        config_class(**fields)


@pytest.mark.parametrize(
    ("config_class", "field", "value"),
    [
        (MobileBertMdConfig, "hidden_size", "512"),
        (MobileBertMdConfig, "normalization_type", "batch_norm"),
        (SmBertConfig, "num_attention_heads", 8.5),
    ],
)
def test_wrong_types_are_refused(config_class, field, value):
    with pytest.raises(StrictDataclassError, match=f"Field '{field}' expected"):
        config_class(**{field: value})


@pytest.mark.parametrize("stages", [[], [(8,)], [(8, 0)], [(8, 256.0)], [(2, 64, 3)]])
def test_impossible_stages_are_refused(stages):
    with pytest.raises(ValueError, match="`stages` must be a non-empty list of pairs of positive integers"):
        MobileBertMdConfig.from_stages(stages)


def test_stages_and_layout_fields_exclude_each_other():
    with pytest.raises(ValueError, match=r"`stages` already sets \['num_hidden_layers'\]"):
        MobileBertMdConfig.from_stages([(2, 64)], num_hidden_layers=3)


def test_cutting_layers_off_a_configuration_is_refused_when_the_model_is_built(tmp_path):
    MobileBertMdConfig(vocab_size=10).save_pretrained(tmp_path)
    config = MobileBertMdConfig.from_pretrained(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match="describes layer 8, but `num_hidden_layers` is 4: drop the entries"):
        MobileBertMdModel(config)


def test_another_familys_configuration_is_refused(tmp_path):
    build("smbert-uniform").save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="configuration of a 'smbert' model, MobileBertMdConfig expects 'mobilebert_md'"
    ):
        MobileBertMdModel.from_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="compactbert.convert.from_transformers"):
        SmBertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "smbert", "hiden_size": 3}', r"sets unknown fields \['hiden_size'\]"),
        ('{"model_type": "smbert"', "is not valid JSON"),
        ('{"hidden_size": 3}', "must be an object with a known `model_type`, got None"),
        (
            '{"model_type": "mobilebert_md", "intra_bottleneck_size": 130}',
            "is not a possible architecture.*must be a mult",
        ),
        ('{"model_type": "smbart"}', "known `model_type`, got 'smbart'"),
    ],
)
def test_bad_presets_are_refused(text, message, tmp_path):
    path = tmp_path / "preset.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_preset(path)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="There is no preset or file 'mobilebert_md/huge'.*uniform-128"):
        load_preset("mobilebert_md/huge")


def test_presets_are_shipped_from_the_top_level_folder():
    folder = Path(__file__).parent.parent / "configs"
    assert list_presets() == sorted(f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.json"))
