"""PEFT on our models: every method of its registry, as on BERT."""

import copy
import inspect
import json
import re
import shutil
import subprocess
import sys
import warnings

import pandas as pd
import peft
import pytest
import torch
import transformers
from datasets import Dataset
from families import ARCHITECTURES, SIZES, assert_same, build, inputs_for, perturb, snapshot
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import constants
from runs import TRAINER, stopped_at
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import compactbert
from compactbert.adapters import BottleneckConfig, adapter_config, fit_config, get_peft_model, list_methods
from compactbert.cards import render_card
from compactbert.hub import run_without_packages
from compactbert.inference import fuse
from compactbert.inference.prediction import merged
from compactbert.recipes.stages import prune_on_task
from compactbert.structure import FAMILIES
from compactbert.training import DistillationConfig, DistillationTrainer


# Wide enough for the ranks and blocks that PEFT's methods have by default.
WIDE = SIZES | {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 48}
MOBILE = WIDE | {"embedding_size": 32, "intra_bottleneck_size": 64, "num_feedforward_networks": 2}
PRUNED = {"attention_head_size": 16, "per_layer_config": {1: {"num_attention_heads": 2, "intermediate_size": 32}}}
# id -> (family, fields of the configuration)
MODELS = {
    "bert": ("", WIDE),
    "smbert": ("smbert-uniform", WIDE | {"attention_head_size": 32}),
    "smbert-pruned": ("smbert-uniform", WIDE | PRUNED),
    "mobilebert_md": ("mobilebert_md-uniform", MOBILE),
    "mobilebert_md-stages": (
        "mobilebert_md-uniform",
        MOBILE | {"per_layer_config": {1: {"intra_bottleneck_size": 32}}},
    ),
    "ib_bert": ("ib_bert-uniform", MOBILE | {"intra_bottleneck_size": 128}),
}
OURS = [name for name in MODELS if name != "bert"]
# What a method needs said at these sizes. A method that PEFT adds is tried without.
OPTIONS = {
    "ADALORA": {"total_step": 10, "init_r": 6, "target_r": 4},
    "C3A": {"block_size": 16},
    "CARTRIDGE": {"num_virtual_tokens": 4, "num_frozen_tokens": 1},
    "FOURIERFT": {"n_frequency": 50},
    "GRALORA": {"r": 8},
    "MISS": {"r": 8},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 3},
    "POLY": {"r": 4, "n_tasks": 3, "n_skills": 2, "n_splits": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PSOFT": {"r": 8},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2, 3]},
    "VBLORA": {"vector_length": 16, "num_vectors": 32},
    "WAVEFT": {"n_frequency": 50},
}
# What PEFT has for decoders alone, or for language models, and says of it.
NOT_ON_BERT = {
    "ADAPTION_PROMPT": "Unsupported model type",
    "CPT": "only supports task_type = CAUSAL_LM",
    "SHADOW": "decoder layers",
    # It mixes LoRA adapters, which may have no head of their own.
    "XLORA": "classifier.weight",
}
# FRoD decomposes the matrices of all layers together.
NOT_WITH_MIXED_WIDTHS = {"FROD"}
NEEDS_TASK_IDS = {"MULTITASK_PROMPT_TUNING", "POLY"}
METHODS = sorted(str(getattr(name, "value", name)) for name in PEFT_TYPE_TO_CONFIG_MAPPING)


def make(name, **fields):
    family, sizes = MODELS[name]
    if family:
        return build(family, "ForSequenceClassification", **sizes | fields)
    torch.manual_seed(0)
    return perturb(BertForSequenceClassification(BertConfig(**sizes))).eval()


def config_of(method, **options):
    return PEFT_TYPE_TO_CONFIG_MAPPING[method](task_type="SEQ_CLS", **OPTIONS.get(method, {}), **options)


def inputs_of(method, model, labels=False):
    inputs = inputs_for(model, labels=labels)
    return inputs | ({"task_ids": torch.tensor([0, 1, 2])} if method in NEEDS_TASK_IDS else {})


def adapt_on(method, model):
    """`model` with an adapter, trained three steps."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, config_of(method))
    inputs = inputs_of(method, model, labels=True)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], 1e-2)
    for step in range(3):
        optimizer.zero_grad()
        adapted(**inputs).loss.backward()
        optimizer.step()
        if method == "ADALORA":
            adapted.base_model.update_and_allocate(step)
    return adapted.eval()


@pytest.fixture(autouse=True)
def _quiet():
    # What PEFT says of layers it does not know (NoNorm), of tokens it cannot count, and of configurations it corrects.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [method for method in METHODS if method not in NOT_ON_BERT])
def test_every_method_trains_saves_reloads_and_merges(method, name, tmp_path):
    if name == "bert" and method == "LN_TUNING":
        pytest.skip("PEFT has no row for BERT there.")
    if method in NOT_WITH_MIXED_WIDTHS and name == "mobilebert_md-stages":
        pytest.skip("The method needs layers of one width.")
    model = make(name)
    base, inputs = copy.deepcopy(model), inputs_of(method, model)
    adapted = adapt_on(method, model)
    # OSF splits the weights it is given into factors, of which it trains the smaller.
    if method != "OSF":
        now = {re.sub(r"\.(base_layer|original_module)\b", "", key): value for key, value in model.state_dict().items()}
        assert_same(base.state_dict(), {key: now[key] for key in base.state_dict()})
    adapted.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    saved = {key.removeprefix("base_model.model.") for key in load_file(tmp_path / "adapter_model.safetensors")}
    assert saved & base.state_dict().keys() <= {"classifier.weight", "classifier.bias"}
    with torch.no_grad():
        before, after = base(**inputs_for(base)).logits, adapted(**inputs).logits
        assert (after - before).abs().max() > 1e-2
        reloaded = PeftModel.from_pretrained(base, tmp_path).eval()
        # AdaLoRA drops the ranks that it has set to zero, and so adds in another order.
        atol = 1e-6 if method == "ADALORA" else 0
        torch.testing.assert_close(reloaded(**inputs).logits, after, atol=atol, rtol=0)
        try:
            whole = reloaded.merge_and_unload()
        except (AttributeError, NotImplementedError):
            assert not merges(method)
            return
        assert merges(method)
        torch.testing.assert_close(whole(**inputs).logits, after, atol=1e-5, rtol=1e-4)


def merges(method):
    prompts = {"CARTRIDGE", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"}
    return method not in prompts | {"BOTTLENECK", "LILY", "POLY"}


@pytest.mark.parametrize("name", ["bert", "smbert"])
@pytest.mark.parametrize("method", NOT_ON_BERT)
def test_what_bert_cannot_do(method, name, tmp_path):
    model, options = make(name), {}
    if method == "XLORA":
        adapt_on("LORA", make(name)).save_pretrained(tmp_path)
        model.config.use_cache = False
        options = {"hidden_size": WIDE["hidden_size"], "adapters": {"0": str(tmp_path)}}
    with pytest.raises((AttributeError, KeyError, ValueError), match=NOT_ON_BERT[method]):
        get_peft_model(model, config_of(method, **options))


def test_the_tables_hold_ours_wherever_they_hold_bert():
    tables = [table for name, table in vars(constants).items() if name.endswith("_MODULES_MAPPING") and "bert" in table]
    assert len(tables) > 30
    for table in tables:
        for family in FAMILIES:
            assert table[family] == table["bert"]


CHECK_AFTER_IMPORT = """
from peft import LoraConfig, get_peft_model
from modeling_smbert import SmBertConfig, SmBertForSequenceClassification
model = SmBertForSequenceClassification(SmBertConfig(vocab_size=30, hidden_size=32, attention_head_size=8))
print(get_peft_model(model, LoraConfig(task_type="SEQ_CLS")).get_nb_trainable_parameters()[0])
"""


@pytest.mark.long
def test_importing_the_package_is_enough():
    code = f"import compactbert{CHECK_AFTER_IMPORT}"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(output.stdout) > 0


@pytest.mark.long
def test_without_peft_the_package_imports_and_adapters_say_what_is_missing(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    code = f"""
import sys
sys.modules["peft"] = None
import compactbert
try:
    compactbert.predict({str(tmp_path)!r}, ["x"])
except ValueError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "compactbert[peft]"' in output


LOAD_ALL = """
import copy, sys, warnings, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
warnings.simplefilter("ignore")
folder, methods = sys.argv[1], sys.argv[2:]
everything = torch.load(f"{folder}/inputs.pt")
base = AutoModelForSequenceClassification.from_pretrained(f"{folder}/base", trust_remote_code=True)
assert type(base).__module__.startswith("transformers_modules.")
for method in methods:
    model = PeftModel.from_pretrained(copy.deepcopy(base), f"{folder}/{method}").eval()
    inputs, expected = everything[method]
    with torch.no_grad():
        print(method, (model(**inputs).logits - expected).abs().max().item())
"""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_adapter_loads_with_peft_alone_on_a_remote_code_base(name, tmp_path):
    make(name).save_pretrained(tmp_path / "base")
    # These need our package: GLoRA for NoNorm models, as PEFT's takes no subclass of `nn.Linear`.
    absent = NOT_ON_BERT.keys() | {"BOTTLENECK"} | ({"GLORA"} if name == "mobilebert_md" else set())
    everything = {}
    for method in sorted(set(METHODS) - absent):
        model = make(name)
        adapted = adapt_on(method, model)
        adapted.save_pretrained(tmp_path / method)
        inputs = inputs_of(method, model)
        everything[method] = (inputs, adapted(**inputs).logits.detach())
    torch.save(everything, tmp_path / "inputs.pt")
    output = run_without_packages(LOAD_ALL, str(tmp_path), *everything)
    differences = dict(line.split() for line in output.splitlines())
    assert differences.keys() == everything.keys()
    assert {method: value for method, value in differences.items() if float(value) > 1e-6} == {}


@pytest.mark.parametrize(
    ("variant", "name", "adapters"),
    [("pfeiffer", "smbert", 2), ("houlsby", "smbert", 4), ("houlsby", "mobilebert_md", 6)],
)
def test_bottleneck_adapters_are_where_they_belong(variant, name, adapters):
    adapted = get_peft_model(make(name), BottleneckConfig(task_type="SEQ_CLS", variant=variant, bottleneck_size=8))
    places = [key for key, _ in adapted.named_modules() if key.endswith("bottleneck_adapters")]
    assert len(places) == adapters
    assert all(".output.dense." in place for place in places)
    assert any("attention" in place for place in places) == (variant == "houlsby")


def test_a_new_bottleneck_adapter_changes_nothing_and_can_be_switched_off():
    model = make("smbert")
    inputs = inputs_for(model)
    before = model(**inputs).logits
    adapted = get_peft_model(model, BottleneckConfig(task_type="SEQ_CLS")).eval()
    assert torch.equal(adapted(**inputs).logits, before)
    adapted.add_adapter("random", BottleneckConfig(task_type="SEQ_CLS", init_weights=False))
    adapted.set_adapter("random")
    adapted.eval()
    assert not torch.equal(adapted(**inputs).logits, before)
    with adapted.disable_adapter():
        assert torch.equal(adapted(**inputs).logits, before)
    with pytest.raises(NotImplementedError, match="not linear"):
        adapted.merge_and_unload()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bottleneck_size": 0}, "`bottleneck_size` must be at least 1"),
        ({"non_linearity": "bend"}, "`non_linearity` must be one of"),
        ({"variant": "parallel"}, "`variant` must be one of"),
    ],
)
def test_bad_bottlenecks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BottleneckConfig(**change)


def test_ours_is_called_as_peft_s():
    """It stands in for PEFT's function: the same arguments, in the same places."""
    assert (
        list(inspect.signature(get_peft_model).parameters)[:3]
        == list(inspect.signature(peft.get_peft_model).parameters)[:3]
    )
    assert list(get_peft_model(make("smbert"), config_of("LORA"), "first").peft_config) == ["first"]


@pytest.mark.parametrize(("name", "width"), [("smbert", 64), ("mobilebert_md", 32), ("ib_bert", 32), ("bert", 64)])
@pytest.mark.parametrize("config_class", [PromptTuningConfig, PromptEncoderConfig])
def test_prompts_are_as_wide_as_the_token_embeddings(config_class, name, width):
    config = config_class(task_type="SEQ_CLS", num_virtual_tokens=4)
    get_peft_model(make(name), config)
    assert config.token_dim == width


@pytest.mark.parametrize(
    ("name", "heads", "head_size"),
    [("smbert", 4, 32), ("smbert-pruned", 4, 16), ("mobilebert_md-stages", 4, 16), ("ib_bert", 4, 32)],
)
def test_a_prefix_fits_the_widest_layer(name, heads, head_size):
    config = fit_config(PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4), make(name))
    assert (config.num_attention_heads, config.token_dim) == (heads, heads * head_size)


@pytest.mark.parametrize("name", ["smbert-pruned", "mobilebert_md-stages", "ib_bert"])
def test_a_prefix_is_keys_and_values_of_every_layer(name):
    """What a layer reads is checked on its own attention: the first features of its share of the prefix."""
    model = make(name)
    adapted = get_peft_model(model, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)).eval()
    caches = {}

    def keep(module, arguments, keywords):
        caches[module.layer_idx] = keywords["past_key_values"]

    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.register_forward_pre_hook(keep, with_kwargs=True)
    logits = []
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        logits.append(adapted(**inputs_for(model)).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
    assert sorted(caches) == [0, 1]
    prefix = adapted.prompt_encoder["default"].embedding.weight.view(4, 2, 2, -1)
    for layer_idx, cache in caches.items():
        layer = model.config.per_layer_config[layer_idx]
        heads, size = layer.num_attention_heads, layer.head_size
        states = torch.zeros(3, heads, 9, size)
        key, value = cache.update(states, states, layer_idx)
        for kind, result in enumerate((key, value)):
            expected = prefix[:, layer_idx, kind, : heads * size].view(4, heads, size).transpose(0, 1)
            assert torch.equal(result[0, :, :4], expected)
            assert torch.equal(result[:, :, 4:], states)


@pytest.mark.parametrize("name", OURS)
def test_padding_does_not_see_or_change_a_prefix(name):
    model = make(name, **({} if name.startswith("smbert") else {"padding_invariant_trigram": True}))
    adapted = get_peft_model(model, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)).eval()
    inputs = inputs_for(model)
    row = {key: value[:1] for key, value in inputs.items()}
    assert row["attention_mask"].sum() == 6
    short = {key: value[:, :6] for key, value in row.items()}
    torch.testing.assert_close(adapted(**row).logits, adapted(**short).logits, atol=1e-5, rtol=1e-4)


def test_a_prefix_that_is_too_narrow_is_refused():
    from peft import get_peft_model as plain

    adapted = plain(make("ib_bert"), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4))
    with pytest.raises(ValueError, match="The prefix has 64 features, but a layer's 4 heads of 32 need 128"):
        adapted(**inputs_for(adapted.get_base_model()))


def test_prompt_and_p_tuning_together_are_saved_as_a_prompt(tmp_path):
    model = make("mobilebert_md")
    base = copy.deepcopy(model)
    configs = [
        PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
        PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=2, encoder_hidden_size=8),
    ]
    adapted = get_peft_model(model, configs)
    inputs = inputs_for(model, labels=True)
    adapted(**inputs).loss.backward()
    trained = {name for name, p in adapted.prompt_encoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[2] for name in trained} == {"0", "1"}
    assert any("mlp_head" in name for name in trained)
    after = adapted.eval()(**inputs).logits
    adapted.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["num_virtual_tokens"]) == ("PROMPT_TUNING", 5)
    reloaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(reloaded(**inputs).logits, after)
    with pytest.raises(ValueError, match="Only prompt and P-tuning can be joined"):
        get_peft_model(make("smbert"), [LoraConfig()])


def test_several_adapters_switch_merge_by_weight_and_mix_in_a_batch():
    model = make("smbert-pruned")
    inputs = inputs_for(model)
    base = model(**inputs).logits
    config = LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)
    adapted = get_peft_model(model, config, adapter_name="a").eval()
    adapted.add_adapter("b", copy.deepcopy(config))
    adapted.eval()
    logits = {"__base__": base}
    for name in ("a", "b"):
        adapted.set_adapter(name)
        logits[name] = adapted(**inputs).logits
    assert not torch.allclose(logits["a"], logits["b"])
    mixed = adapted(**inputs, adapter_names=["a", "b", "__base__"]).logits
    expected = torch.stack([logits[name][i] for i, name in enumerate(["a", "b", "__base__"])])
    torch.testing.assert_close(mixed, expected)


def test_adapters_merge_by_weight():
    # Without heads of their own, of which PEFT takes no mean.
    model = make("mobilebert_md-stages")
    inputs = inputs_for(model)
    config = LoraConfig(r=4, init_lora_weights=False)
    adapted = get_peft_model(model, config, adapter_name="a").eval()
    adapted.add_adapter("b", copy.deepcopy(config))
    adapted.add_weighted_adapter(["a", "b"], [0.75, 0.25], "both", combination_type="cat")
    layer = model.mobilebert.encoder.layer[0].attention.self.query
    delta = {name: layer.get_delta_weight(name) for name in ("a", "b", "both")}
    torch.testing.assert_close(delta["both"], 0.75 * delta["a"] + 0.25 * delta["b"], atol=1e-6, rtol=1e-5)
    adapted.set_adapter("both")
    expected = adapted.eval()(**inputs).logits
    torch.testing.assert_close(adapted.merge_and_unload()(**inputs).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(r=65), "The rank 65 is above the width of 'bert.encoder.layer.0.attention.self.query'"),
        (LoraConfig(r=49, target_modules=["output.dense"]), "48 to 64 features"),
        (LoraConfig(target_modules=["query", "qkv"]), "`target_modules` 'qkv' is not in SmBertForSequence"),
        (LoraConfig(target_modules=r".*\.q_proj"), r"is not in SmBertForSequenceClassification; its layers are"),
        (BottleneckConfig(target_modules=["nowhere"]), "`target_modules` 'nowhere'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_changed(config, message):
    model = make("smbert")
    before = str(model)
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, config)
    assert str(model) == before


def test_every_name_is_a_method():
    names = list_methods()
    assert {"lora", "adapter", "prompt", "p-tuning", "prefix", "ia3", "dora", "ln-tuning"} <= set(names)
    for name in names:
        options = {"adalora": {"total_step": 1}, "cpt": {"task_type": "CAUSAL_LM"}}.get(name, {})
        assert adapter_config(name, **options).peft_type in PEFT_TYPE_TO_TUNER_MAPPING


# The job


SETTINGS = {"epochs": 6, "batch_size": 8, "max_length": 16, "learning_rate": 3e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory, minilm_tokenizer):
    """A tiny base without pooler and head, as a masked language model leaves one."""
    folder = tmp_path_factory.mktemp("base") / "base"
    sizes = {"vocab_size": len(minilm_tokenizer), "max_position_embeddings": 64}
    build("mobilebert_md-stages", "ForMaskedLM", **sizes).save_pretrained(folder)
    minilm_tokenizer.save_pretrained(folder)
    return folder


def digest(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("method", ["lora", "adapter", "prompt+p-tuning", "prefix", "ia3", "adalora", "pissa"])
def test_adapt_evaluate_and_predict(method, base, reviews, tmp_path):
    before, output = digest(base), tmp_path / "out"
    options = {"r": 4} if method in ("lora", "pissa") else {}
    if method == "adalora":
        options = {"init_r": 4, "target_r": 2}
    # A random encoder has little that the others could use.
    learns = method in ("lora", "pissa")
    budget = {} if learns else {"max_steps": 20}
    report = compactbert.adapt(base, str(reviews), output, method=method, options=options, **budget, **SETTINGS)
    assert digest(base) == before
    assert report == json.loads((output / "metrics.json").read_text())
    if learns:
        assert report["metrics"]["accuracy"] > 0.9
    assert {path.name for path in output.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    # Neither the encoder nor the embeddings; the pooler is new, and so it belongs to the adapter.
    weights = load_file(output / "adapter_model.safetensors")
    assert sum(weight.nbytes for weight in weights.values()) == report["bytes"]["adapter"]
    assert any("pooler" in name for name in weights)
    assert report["parameters"]["trainable"] < report["parameters"]["full"] / 10
    assert report["bytes"]["full"] == 4 * report["parameters"]["full"]
    assert report["base"]["name"] == str(base)
    # PEFT has no bottleneck adapters, and no prefix for layers of different width.
    assert report["needs_package"] == (method in ("adapter", "prefix"))
    scores = compactbert.evaluate(output, task=str(reviews))
    assert scores["metrics"] == report["metrics"]
    rows = compactbert.predict(output, ["film is good", "ending is bad"])
    assert {row["label"] for row in rows} <= {"pos", "neg"}


@pytest.mark.long
def test_an_adapter_repository_names_its_base_task_and_targets(base, reviews, tmp_path, monkeypatch):
    # A folder is told in full: two names with a slash would be a repository on the Hub.
    monkeypatch.chdir(base.parent)
    compactbert.adapt(base.name, str(reviews), tmp_path / "out", max_steps=2, options={"r": 4}, **SETTINGS)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["task_type"] == "SEQ_CLS"
    assert sorted(config["target_modules"]) == ["query", "value"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`reviews.csv`" in card
    assert "`base`" in card
    assert str(tmp_path) not in card
    # As the card says, with PEFT alone.
    code = """
import sys
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
base = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=2, trust_remote_code=True)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
inputs = AutoTokenizer.from_pretrained(sys.argv[2])("film is good", return_tensors="pt")
print(model(**inputs).logits.softmax(-1).max().item())
"""
    score = float(run_without_packages(code, str(base), str(tmp_path / "out")))
    assert compactbert.predict(tmp_path / "out", ["film is good"])[0]["score"] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(("family", "alone"), [("Bert", True), ("Roberta", False)])
def test_a_base_of_transformers(family, alone, reviews, tmp_path, minilm_tokenizer):
    sizes = {name: WIDE[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = getattr(transformers, f"{family}Config")(vocab_size=len(minilm_tokenizer), pad_token_id=0, **sizes)
    getattr(transformers, f"{family}ForMaskedLM")(config).save_pretrained(tmp_path / "base")
    minilm_tokenizer.save_pretrained(tmp_path / "base")
    report = compactbert.adapt(tmp_path / "base", str(reviews), tmp_path / "out", max_steps=2, **SETTINGS)
    assert compactbert.evaluate(tmp_path / "out", task=str(reviews))["metrics"] == report["metrics"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("PEFT alone cannot load it" in card, "from peft import PeftModel" in card) == (not alone, alone)
    if alone:
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        adapted = PeftModel.from_pretrained(model, tmp_path / "out").eval()
        score = adapted(**minilm_tokenizer("film is good", return_tensors="pt")).logits.softmax(-1).max().item()
        assert compactbert.predict(tmp_path / "out", ["film is good"])[0]["score"] == pytest.approx(score, abs=1e-5)


def test_an_adapter_is_no_model_to_train(adapter, reviews, tmp_path):
    for train in (compactbert.finetune, compactbert.adapt):
        with pytest.raises(ValueError, match="holds an adapter, not a model"):
            train(adapter, str(reviews), tmp_path / "out")


def test_a_merged_adapter_is_a_plain_model(base, reviews, tmp_path):
    options = {"method": "lora", "options": {"r": 4}, "max_steps": 20}
    compactbert.adapt(base, str(reviews), tmp_path / "merged", merge=True, **options, **SETTINGS)
    compactbert.adapt(base, str(reviews), tmp_path / "adapter", **options, **SETTINGS)
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert (tmp_path / "merged" / "modeling_mobilebert_md.py").is_file()
    texts = ["film is good", "ending is bad"]
    merged, apart = (compactbert.predict(tmp_path / name, texts) for name in ("merged", "adapter"))
    for one, other in zip(merged, apart, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.parametrize("method", ["lora", "p-tuning"])
def test_a_run_that_stopped_continues_to_the_same_weights(method, base, reviews, tmp_path):
    settings = SETTINGS | {"method": method, "epochs": 2, "options": {"r": 4} if method == "lora" else {}}
    compactbert.adapt(base, str(reviews), tmp_path / "whole", **settings)
    with stopped_at(30):
        compactbert.adapt(base, str(reviews), tmp_path / "stopped", **settings)
    assert (tmp_path / "stopped.partial" / "checkpoint-23" / "trainable.safetensors").is_file()
    compactbert.adapt(base, str(reviews), tmp_path / "stopped", **settings)
    assert_same(*(load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped")))


def test_token_classification(tiny_model, tmp_path):
    table = pd.DataFrame({"text": [["good", "film"], ["bad", "film"]] * 50, "label": [["B-X", "O"], ["O", "O"]] * 50})
    for split in ("train", "test"):
        table.to_parquet(tmp_path / f"{split}.parquet")
    report = compactbert.adapt(tiny_model, str(tmp_path), tmp_path / "out", method="houlsby", **SETTINGS)
    assert report["metrics"]["seqeval_f1"] > 0.99
    good, bad = compactbert.predict(tmp_path / "out", ["good film", "bad film"])
    assert [entity["text"] for entity in good["entities"]] == ["good"]
    assert bad["entities"] == []
    with pytest.raises(ValueError, match="use `prefix` here"):
        compactbert.adapt(tiny_model, str(tmp_path), tmp_path / "prompt", method="prompt", **SETTINGS)


def test_an_adapter_on_a_pruned_model(finetuned, reviews, tmp_path):
    prune_on_task(finetuned, str(reviews), tmp_path / "pruned", heads=2, ffn=8)
    report = compactbert.adapt(tmp_path / "pruned", str(reviews), tmp_path / "out", options={"r": 4}, **SETTINGS)
    assert compactbert.evaluate(tmp_path / "out", task=str(reviews))["metrics"] == report["metrics"]
    assert report["metrics"]["accuracy"] > 0.9


def test_an_adapter_is_a_student_of_distillation(tmp_path):
    student, teacher = make("smbert"), perturb(make("smbert"))
    before = snapshot(student.bert)
    adapted = get_peft_model(student, LoraConfig(task_type="SEQ_CLS", r=4))
    rows = [{"input_ids": [1, 2 + i % 5, 3], "attention_mask": [1, 1, 1], "labels": i % 2} for i in range(16)]
    settings = TRAINER | {"output_dir": str(tmp_path), "max_steps": 4, "learning_rate": 1e-2}
    config = DistillationConfig(**settings, hidden_state_weight=1.0)
    trainer = DistillationTrainer(adapted, teacher, config, train_dataset=Dataset.from_list(rows))
    trainer.train()
    after = {key.replace(".base_layer", ""): value for key, value in student.bert.state_dict().items()}
    assert_same(before, {key: after[key] for key in before})
    query = student.bert.encoder.layer[0].attention.self.query
    assert query.lora_B["default"].weight.abs().max() > 0


# Bad input


@pytest.fixture(scope="module")
def adapter(base, shared_reviews, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "out"
    compactbert.adapt(base, str(shared_reviews), folder, max_steps=1, options={"r": 4}, **SETTINGS)
    return folder


def edit_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _pickle(folder, base):
    torch.save({}, folder / "adapter_model.bin")


def _missing_base(folder, base):
    edit_json(folder / "adapter_config.json", base_model_name_or_path="/nowhere/base")


def _no_base(folder, base):
    edit_json(folder / "adapter_config.json", base_model_name_or_path=None)


def _no_weights(folder, base):
    (folder / "adapter_model.safetensors").unlink()


def _cut_short(folder, base):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def _unreadable(folder, base):
    (folder / "adapter_config.json").write_text("{")


def _no_task(folder, base):
    edit_json(folder / "adapter_config.json", task_type="CAUSAL_LM")


def _other_weights(folder, base):
    other = folder.parent / "other"
    shutil.copytree(base, other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "query.weight" in name)
    save_file(weights | {name: weights[name] + 1}, other / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(other))


def _other_family(folder, base):
    build("smbert-uniform", vocab_size=30522).save_pretrained(folder.parent / "other")
    shutil.copy(base / "tokenizer.json", folder.parent / "other")
    shutil.copy(base / "tokenizer_config.json", folder.parent / "other")
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(folder.parent / "other"))


def _other_family_unrecorded(folder, base):
    _other_family(folder, base)
    (folder / "metrics.json").unlink()


def _missing_tensor(folder, base):
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_A" in name)
    del weights[name]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_pickle, r"holds pickles \(adapter_model.bin\), which can run code"),
        (_missing_base, "needs its base '/nowhere/base': Cannot load"),
        (_no_base, "does not say which model it is for"),
        (_no_weights, "has no weights: adapter_model.safetensors is not there"),
        (_cut_short, "are corrupt or cut short"),
        (_unreadable, "cannot be read"),
        (_no_task, "is for the task 'CAUSAL_LM'"),
        (_other_weights, "was trained on other weights than those in"),
        (_other_family, "is for a 'mobilebert_md' model, but .* is a 'smbert'"),
        (_other_family_unrecorded, "does not fit its base"),
        (_missing_tensor, "does not fit its base .*: 1 tensors are in one of them only"),
    ],
)
def test_spoilt_adapters_are_refused(spoil, message, adapter, base, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    spoil(tmp_path / "adapter", base)
    with pytest.raises(ValueError, match=message):
        compactbert.predict(tmp_path / "adapter", ["x"])


def test_a_card_of_an_adapter_for_another_task_is_refused(adapter, base, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    _no_task(tmp_path / "adapter", base)
    with pytest.raises(ValueError, match="is for the task 'CAUSAL_LM': expected one of"):
        render_card(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lorra"}, "`method` must be one of"),
        ({"method": "poly"}, "needs more than a task's rows"),
        ({"options": {"rank": 3}}, r"has no options \['rank'\]"),
        ({"options": {"r": 9}}, "The rank 9 is above the width"),
        ({"options": {"r": 4, "target_modules": ["q_proj"]}}, "`target_modules` 'q_proj' is not in"),
        ({"method": "prompt", "merge": True}, "adds tokens"),
        ({"method": "adapter", "merge": True}, "`merge` is not possible with the method 'adapter'"),
        ({"method": "prompt", "max_length": 60}, "set `max_length` to 44"),
        ({"epochs": 0}, "`epochs` must be positive"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"model": "/nowhere"}, "Cannot load '/nowhere'"),
    ],
)
def test_bad_arguments_leave_no_output(base, reviews, tmp_path, change, message):
    arguments = SETTINGS | {"model": base, "task": str(reviews), "output_dir": tmp_path / "out"} | change
    with pytest.raises(ValueError, match=message):
        compactbert.adapt(**arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reviews.csv"]


def test_a_saved_adapter_runs_fused(adapter):
    texts = ["good", "bad"]
    plain, fused = (compactbert.predict(adapter, texts, runtime=runtime) for runtime in ("torch", "fused"))
    assert [row["score"] for row in fused] == pytest.approx([row["score"] for row in plain], abs=1e-5)


def test_an_adapter_that_cannot_be_merged_says_so():
    model = build("smbert-uniform", "ForSequenceClassification")
    adapted = get_peft_model(model, BottleneckConfig(task_type="SEQ_CLS"))
    with pytest.raises(ValueError, match="has to be merged .* and cannot: Bottleneck adapters are not linear"):
        merged(adapted)


def test_an_adapter_is_merged_before_a_model_is_fused():
    model = build("mobilebert_md-stages", "ForSequenceClassification")
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False))
    with pytest.raises(ValueError, match="merge_and_unload"):
        fuse(adapted)
    with pytest.raises(ValueError, match="merge_and_unload"):
        fuse(adapted.base_model.model)
    batch = inputs_for(model, batch_size=2)
    with torch.no_grad():
        expected = adapted.eval()(**batch).logits
        found = fuse(adapted.merge_and_unload())(**batch).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
