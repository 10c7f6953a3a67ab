"""TensorFlow 1 checkpoints. TensorFlow itself is no dependency of the tests: a double hands out variables with the
names and shapes that google-research's code gives them."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import build, inputs_for, tensors_of
from transformers import AutoModelForPreTraining, MobileBertConfig, MobileBertForPreTraining

from compactbert.convert import from_tf1, tf1_variables
from compactbert.presets import load_preset
from modeling_mobilebert_md import IbBertConfig, IbBertForPreTraining, MobileBertMdConfig, MobileBertMdForPreTraining


# A folder of `tf1_varmap_<layout>.json`: the variables of the full-size checkpoints with their shapes.
VARIABLE_MAPS = os.environ.get("COMPACTBERT_TF1_MAPS")

# google-research's configuration files: what they set, and what they leave to the defaults of their code.
SHARED = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_size": 512,
    "initializer_range": 0.02,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 24,
    "type_vocab_size": 2,
    "vocab_size": 30522,
    "embedding_size": 128,
    "trigram_input": True,
    "use_bottleneck": True,
}
THIN = SHARED | {
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
    "intermediate_size": 512,
    "intra_bottleneck_size": 128,
    "normalization_type": "no_norm",
    "classifier_activation": False,
}
LAYOUTS = {
    "student_OPT": THIN | {"key_query_shared_bottleneck": True, "num_feedforward_networks": 4},
    "tiny_OPT": THIN | {"use_bottleneck_attention": True, "num_feedforward_networks": 2},
    "ib_teacher": SHARED
    | {"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "intermediate_size": 4096, "intra_bottleneck_size": 1024},
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 60,
    "embedding_size": 20,
    "max_position_embeddings": 40,
    "intermediate_size": 24,
    "intra_bottleneck_size": 16,
}


def variables_of(config):
    """Names and shapes of a checkpoint's variables, scope by scope as google-research's code creates them."""
    hidden, width, inner = config["hidden_size"], config["intra_bottleneck_size"], config["intermediate_size"]
    thin = config.get("normalization_type") == "no_norm"
    shapes = {}

    def dense(scope, rows, columns):
        shapes[f"{scope}/kernel"] = [rows, columns]
        shapes[f"{scope}/bias"] = [columns]

    def norm(scope, size, name="FakeLayerNorm" if thin else "LayerNorm"):
        shapes[f"{scope}/{name}/beta"] = shapes[f"{scope}/{name}/gamma"] = [size]

    shapes["bert/embeddings/word_embeddings"] = [config["vocab_size"], config["embedding_size"]]
    dense("bert/embeddings/embedding_transformation", 3 * config["embedding_size"], hidden)
    shapes["bert/embeddings/token_type_embeddings"] = [config["type_vocab_size"], hidden]
    shapes["bert/embeddings/position_embeddings"] = [config["max_position_embeddings"], hidden]
    norm("bert/embeddings", hidden)
    query_width = value_width = hidden
    if config.get("use_bottleneck_attention"):
        query_width = value_width = width
    elif config.get("key_query_shared_bottleneck"):
        query_width = width
    for i in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{i}"
        bottlenecks = ["input", "attention"] if config.get("key_query_shared_bottleneck") else ["input"]
        for name in bottlenecks:
            dense(f"{layer}/bottleneck/{name}/dense", hidden, width)
            norm(f"{layer}/bottleneck/{name}", width)
        dense(f"{layer}/attention/self/query", query_width, width)
        dense(f"{layer}/attention/self/key", query_width, width)
        dense(f"{layer}/attention/self/value", value_width, width)
        dense(f"{layer}/attention/output/dense", width, width)
        norm(f"{layer}/attention/output", width)
        extra = [f"{layer}/ffn_layer_{j}" for j in range(config.get("num_feedforward_networks", 1) - 1)]
        for network in [*extra, layer]:
            dense(f"{network}/intermediate/dense", width, inner)
            dense(f"{network}/output/dense", inner, width)
            norm(f"{network}/output", width)
        dense(f"{layer}/output/bottleneck/dense", width, hidden)
        norm(f"{layer}/output/bottleneck", hidden)
    if config.get("classifier_activation", True):
        dense("bert/pooler/dense", hidden, hidden)
    dense("cls/predictions/transform/dense", hidden, hidden)
    norm("cls/predictions/transform", hidden, "LayerNorm")
    shapes["cls/predictions/output_bias"] = [config["vocab_size"]]
    shapes["cls/predictions/extra_output_weights"] = [config["vocab_size"], hidden - config["embedding_size"]]
    shapes["cls/seq_relationship/output_weights"] = [2, hidden]
    shapes["cls/seq_relationship/output_bias"] = [2]
    return shapes


class Reader:
    """What `tf.train.load_checkpoint` returns."""

    def __init__(self, variables):
        self.variables = variables

    def get_variable_to_shape_map(self):
        return {name: list(array.shape) for name, array in self.variables.items()}

    def get_tensor(self, name):
        return self.variables[name]


class OpError(Exception):
    pass


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Writes the files of a checkpoint that the double of TensorFlow reads; returns its path."""
    readers = {}
    tensorflow = SimpleNamespace(
        train=SimpleNamespace(load_checkpoint=lambda path: readers[path]), errors=SimpleNamespace(OpError=OpError)
    )
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)

    def write(variables, config=None, name="mobilebert_variables.ckpt", config_name="bert_config.json"):
        prefix = tmp_path / name
        readers[str(prefix)] = Reader(variables)
        Path(f"{prefix}.index").touch()
        if config is not None:
            (tmp_path / config_name).write_text(json.dumps(config))
        return prefix

    return write


def random_variables(config, seed=0):
    generator = np.random.default_rng(seed)
    return {
        name: (0.2 * generator.standard_normal(shape) + name.endswith("gamma")).astype(np.float32)
        for name, shape in variables_of(config).items()
    }


def fill(model, variables):
    """Puts variables into a model of transformers' names, one by one along their scopes."""
    model.tie_weights()
    for name, array in variables.items():
        module = model
        *scopes, last = name.replace("FakeLayerNorm", "LayerNorm").split("/")
        if scopes[0] == "bert":
            scopes[0] = "mobilebert"
        for scope in scopes:
            part, _, number = scope.rpartition("_")
            if number.isdecimal():
                module = getattr(module, {"layer": "layer", "ffn_layer": "ffn"}[part])[int(number)]
            else:
                module = module[scope] if isinstance(module, torch.nn.ModuleDict) else getattr(module, scope)
        if last.endswith("_embeddings"):
            module, last = getattr(module, last), "weight"
        elif last == "extra_output_weights":
            module, last, array = module.dense, "weight", array.T
        elif last == "kernel":
            last, array = "weight", array.T
        parameter = {"gamma": "weight", "beta": "bias", "output_weights": "weight", "output_bias": "bias"}
        getattr(module, parameter.get(last, last)).data.copy_(torch.from_numpy(array))
    return model.eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rule_of_the_tests_is_that_of_the_checkpoints(layout):
    if VARIABLE_MAPS is None:
        pytest.skip("COMPACTBERT_TF1_MAPS does not name a folder of variable maps")
    expected = json.loads((Path(VARIABLE_MAPS) / f"tf1_varmap_{layout}.json").read_text())
    assert variables_of(LAYOUTS[layout]) == expected


@pytest.mark.parametrize(
    ("layout", "preset"),
    [
        ("student_OPT", "mobilebert_md/uniform-128"),
        ("tiny_OPT", "mobilebert_md/tiny"),
        ("ib_teacher", "ib_bert/ib-bert-large"),
    ],
)
def test_the_presets_have_exactly_the_variables_of_the_full_size_checkpoints(layout, preset):
    config = load_preset(preset)
    config.classifier_activation = LAYOUTS[layout].get("classifier_activation", True)
    with torch.device("meta"):
        model = AutoModelForPreTraining.from_config(config)
    model.tie_weights()
    assert {name: list(tensor.shape) for name, tensor in tf1_variables(model).items()} == variables_of(LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_read_in_full(layout, checkpoint):
    config = LAYOUTS[layout] | SMALL
    variables = random_variables(config)
    model = from_tf1(checkpoint(variables, config))
    assert type(model) is (IbBertForPreTraining if layout == "ib_teacher" else MobileBertMdForPreTraining)
    assert not model.training
    back = tf1_variables(model)
    assert back.keys() == variables.keys()
    for name, array in variables.items():
        np.testing.assert_array_equal(back[name].numpy(), array, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_are_those_of_the_same_weights_put_in_by_hand(layout, checkpoint):
    config = LAYOUTS[layout] | SMALL
    variables = random_variables(config)
    model = from_tf1(checkpoint(variables, config))
    if layout == "ib_teacher":
        # transformers' MobileBERT cannot express it.
        other = IbBertForPreTraining(IbBertConfig(**config | {"hidden_act": "gelu_pytorch_tanh"}))
    else:
        # The shared bottleneck, which transformers also builds where nothing reads it, has no variables.
        defaults = {"key_query_shared_bottleneck": False}
        other = MobileBertForPreTraining(MobileBertConfig(**defaults | config))
    inputs = inputs_for(model)
    with torch.no_grad():
        expected = tensors_of(fill(other, variables)(**inputs))
        actual = tensors_of(model(**inputs))
    assert actual.keys() == expected.keys() == {"prediction_logits", "seq_relationship_logits"}
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_what_the_configuration_file_leaves_out_has_its_own_defaults(checkpoint):
    config = LAYOUTS["ib_teacher"] | SMALL
    model = from_tf1(checkpoint(random_variables(config), config))
    # The GELU of google-research's code is the approximation.
    assert model.config.hidden_act == "gelu_pytorch_tanh"
    assert (model.config.normalization_type, model.config.num_feedforward_networks) == ("layer_norm", 1)
    assert model.config.classifier_activation


def test_the_configuration_comes_from_beside_from_a_file_or_as_ours(checkpoint, tmp_path):
    layout = LAYOUTS["tiny_OPT"] | SMALL
    variables = random_variables(layout)
    prefix = checkpoint(variables)
    with pytest.raises(ValueError, match=r"neither mobilebert_config.json nor bert_config.json beside"):
        from_tf1(prefix)
    (tmp_path / "uncased.json").write_text(json.dumps(layout))
    ours = MobileBertMdConfig(**layout, key_query_shared_bottleneck=False)
    checkpoint(variables, layout, config_name="mobilebert_config.json")
    models = [from_tf1(prefix), from_tf1(prefix, tmp_path / "uncased.json"), from_tf1(prefix, ours)]
    # A folder with one checkpoint, and the name that TensorFlow's scripts use.
    models += [from_tf1(tmp_path), from_tf1(f"{prefix}.index")]
    for model in models:
        assert model.config.intra_bottleneck_size == 16
        np.testing.assert_array_equal(
            tf1_variables(model)["cls/predictions/output_bias"], variables["cls/predictions/output_bias"]
        )
    with pytest.raises(
        ValueError, match="`config` must be a `MobileBertMdConfig` or an `IbBertConfig`, got SmBertConf"
    ):
        from_tf1(prefix, build("smbert-uniform").config)


def test_what_training_saves_beside_the_model_is_left_out(checkpoint):
    config = LAYOUTS["student_OPT"] | SMALL
    variables = random_variables(config)
    kernel = "bert/encoder/layer_0/output/dense/kernel"
    for name in ("global_step", f"{kernel}/adam_m", f"{kernel}/adam_v", f"{kernel}/LAMB_1", f"teacher/{kernel}"):
        variables[name] = np.zeros(3, dtype=np.float32)
    variables["hidden_distill_3/LayerNorm_1/beta"] = np.zeros(3, dtype=np.float32)
    model = from_tf1(checkpoint(variables, config))
    np.testing.assert_array_equal(tf1_variables(model)[kernel], variables[kernel])


def test_misfits_are_named(checkpoint):
    config = LAYOUTS["student_OPT"] | SMALL
    name = "bert/encoder/layer_1/ffn_layer_2/output/dense/kernel"
    complete = random_variables(config)
    with pytest.raises(ValueError, match=f"lacks 1 of the model's variables, such as '{name}'"):
        from_tf1(checkpoint({k: v for k, v in complete.items() if k != name}, config))
    with pytest.raises(ValueError, match="no place for 1 of the variables .* such as 'output_weights'"):
        from_tf1(checkpoint(complete | {"output_weights": np.zeros((2, 32))}, config))
    # A matrix that lies the other way.
    with pytest.raises(ValueError, match=rf"variable '{name}' .* has shape \[16, 24\], the model's has \[24, 16\]"):
        from_tf1(checkpoint(complete | {name: complete[name].T}, config))
    with pytest.raises(ValueError, match="lacks 46 of the model's variables, such as .*layer_2/"):
        from_tf1(checkpoint(complete), MobileBertMdConfig(**config | {"num_hidden_layers": 3}))


def test_missing_checkpoints_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"must hold one TensorFlow checkpoint, but holds none"):
        from_tf1(tmp_path)
    with pytest.raises(ValueError, match=r"There is no TensorFlow checkpoint .*model.ckpt-7': expected the file"):
        from_tf1(tmp_path / "model.ckpt-7")
    for step in (1, 2):
        checkpoint({}, name=f"model.ckpt-{step}")
    with pytest.raises(ValueError, match=r"holds \['model.ckpt-1', 'model.ckpt-2'\]: give the path of one"):
        from_tf1(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Cannot read the configuration"),
        ("[]", "must be an object with a `vocab_size`"),
        ('{"vocab_size": 60, "num_layers": 3}', r"sets \['num_layers'\], which google-research's MobileBERT does not"),
        ('{"vocab_size": 60, "num_attention_heads": 5}', "not a possible architecture"),
    ],
)
def test_wrong_configurations_are_refused(checkpoint, tmp_path, text, message):
    prefix = checkpoint({})
    (tmp_path / "bert_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_tf1(prefix)


def test_a_missing_library_and_its_errors_are_explained(checkpoint, monkeypatch):
    def refuse(path):
        raise OpError("checksum does not match")

    prefix = checkpoint({}, LAYOUTS["tiny_OPT"] | SMALL)
    monkeypatch.setattr(sys.modules["tensorflow"].train, "load_checkpoint", refuse)
    with pytest.raises(ValueError, match="TensorFlow cannot read the checkpoint .*: checksum does not match"):
        from_tf1(prefix)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match=r'needs TensorFlow: run `pip install "compactbert\[tf\]"`'):
        from_tf1(prefix)


def test_only_models_with_both_heads_have_all_variables():
    with pytest.raises(ValueError, match="got MobileBertMdForMaskedLM: only they have all the variables"):
        tf1_variables(build("mobilebert_md-uniform", "ForMaskedLM"))


def test_variables_are_views_of_the_parameters():
    model = build("ib_bert-stages", "ForPreTraining")
    tf1_variables(model)["bert/encoder/layer_1/attention/self/query/kernel"].zero_()
    assert not model.mobilebert.encoder.layer[1].attention.self.query.weight.any()
