"""Saved folders in a Python that does not have our packages."""

import json

import pytest
import torch
from families import ARCHITECTURES, FAMILIES, TASKS, build, inputs_for, tensors_of
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer, pipeline

from compactbert.hub import classify_in_clean_process, run_without_packages


LOAD_ALL = """
import json, sys, torch, transformers
from pathlib import Path
result = {}
for name, inputs in torch.load(sys.argv[2]).items():
    auto_class = getattr(transformers, Path(name).name)
    model = auto_class.from_pretrained(f"{sys.argv[1]}/{name}", trust_remote_code=True).eval()
    output = model(**inputs)
    result[name] = {
        "module": type(model).__module__,
        "tensors": {k: v.tolist() for k, v in output.items() if isinstance(v, torch.Tensor)},
    }
print(json.dumps(result))
"""


# Processes cost more than all that they load.
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_auto_class_loads_in_a_clean_process(architecture, tmp_path):
    heads = {"AutoModel": "Model", **{f"AutoModelFor{task}": f"For{task}" for task in TASKS}}
    expected, inputs = {}, {}
    for family in FAMILIES:
        for auto_name, name in heads.items() if family.startswith(architecture) else ():
            model, folder = build(family, name), f"{family}/{auto_name}"
            model.save_pretrained(tmp_path / folder)
            inputs[folder] = inputs_for(model)
            expected[folder] = tensors_of(model(**inputs[folder]))
    torch.save(inputs, tmp_path / "inputs.pt")
    loaded = json.loads(run_without_packages(LOAD_ALL, str(tmp_path), str(tmp_path / "inputs.pt")).splitlines()[-1])
    assert loaded.keys() == expected.keys()
    for folder, found in loaded.items():
        assert found["module"].startswith("transformers_modules.")
        for key, value in expected[folder].items():
            torch.testing.assert_close(torch.tensor(found["tensors"][key]), value)


@pytest.mark.long
def test_any_auto_class_loads_a_checkpoint_of_another_head(tmp_path):
    build("ib_bert-stages", "ForMaskedLM").save_pretrained(tmp_path)
    code = """
import sys, transformers
for auto_name in transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True).auto_map:
    if auto_name != "AutoConfig":
        print(type(getattr(transformers, auto_name).from_pretrained(sys.argv[1], trust_remote_code=True)).__name__)
"""
    names = run_without_packages(code, str(tmp_path)).split()
    assert sorted(names) == sorted(["IbBertModel", *(f"IbBertFor{task}" for task in TASKS)])


def test_a_remote_model_saves_its_code_again(tmp_path):
    build("mobilebert_md-stages", "ForSequenceClassification").save_pretrained(tmp_path / "first")
    code = """
import sys
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
model.save_pretrained(sys.argv[2])
"""
    run_without_packages(code, str(tmp_path / "first"), str(tmp_path / "second"))
    first, second = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("first", "second"))
    assert first == second
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["auto_map"] == json.loads((tmp_path / "first" / "config.json").read_text())["auto_map"]


@pytest.mark.parametrize(
    ("family", "code_files"),
    [
        ("mobilebert_md-stages", ["configuration_mobilebert_md.py", "modeling_mobilebert_md.py"]),
        ("smbert-uneven", ["configuration_smbert.py", "modeling_smbert.py"]),
        (
            "ib_bert-uniform",
            [
                "configuration_ib_bert.py",
                "configuration_mobilebert_md.py",
                "modeling_ib_bert.py",
                "modeling_mobilebert_md.py",
            ],
        ),
    ],
)
def test_a_saved_folder_holds_what_it_needs_and_no_more(family, code_files, tmp_path):
    build(family, "ForMaskedLM").save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*code_files, "config.json", "model.safetensors"])


def test_without_trust_the_code_is_refused(tmp_path):
    build("smbert-uniform").save_pretrained(tmp_path)
    code = """
import sys
from transformers import AutoModel
AutoModel.from_pretrained(sys.argv[1], trust_remote_code=False)
"""
    with pytest.raises(RuntimeError, match="custom code"):
        run_without_packages(code, str(tmp_path))


@pytest.mark.parametrize("trust_remote_code", [None, True])
def test_the_installed_class_wins(tmp_path, trust_remote_code):
    model = build("smbert-uniform", "ForSequenceClassification")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
    assert type(loaded) is type(model)
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)) is type(model.config)


TEXTS = ["a first text", "and another"]
CLASSIFY_ALL = """
import json, sys
from pathlib import Path
from transformers import pipeline
classify = {folder.name: pipeline("text-classification", str(folder), trust_remote_code=True)
    for folder in Path(sys.argv[1]).iterdir()}
print(json.dumps({name: [type(one.model).__name__, one(json.loads(sys.argv[2]))] for name, one in classify.items()}))
"""


def save_classifier(family, tokenizer, folder):
    """A saved model: its class, and what it says of the texts here."""
    model = build(family, "ForSequenceClassification", vocab_size=len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return type(model).__name__, pipeline("text-classification", model=str(folder))(TEXTS)


def assert_alike(here, there):
    assert [row["label"] for row in there] == [row["label"] for row in here]
    assert [row["score"] for row in there] == pytest.approx([row["score"] for row in here])


@pytest.mark.long
def test_pipelines_of_every_family_work_in_a_clean_process(tmp_path, minilm_tokenizer):
    expected = {family: save_classifier(family, minilm_tokenizer, tmp_path / family) for family in FAMILIES}
    found = json.loads(run_without_packages(CLASSIFY_ALL, str(tmp_path), json.dumps(TEXTS)).splitlines()[-1])
    assert found.keys() == expected.keys()
    for family, (name, rows) in expected.items():
        assert found[family][0] == name
        assert_alike(rows, found[family][1])


def test_a_classifier_is_tried_in_a_clean_process(tmp_path, minilm_tokenizer):
    name, rows = save_classifier("ib_bert-stages", minilm_tokenizer, tmp_path)
    there = classify_in_clean_process(tmp_path, TEXTS)
    assert there["class"] == name
    assert_alike(rows, there["rows"])


@pytest.mark.parametrize(
    ("name", "task", "text", "answers"),
    [
        # The most probable words, what each of two tokens is, and the vectors of two tokens between [CLS] and [SEP].
        ("ForMaskedLM", "fill-mask", "a [MASK] text", 5),
        ("ForTokenClassification", "token-classification", "a text", 2),
        ("Model", "feature-extraction", "a text", 4),
    ],
)
def test_other_pipelines_answer(name, task, text, answers, tmp_path, minilm_tokenizer):
    build("mobilebert_md-stages", name, vocab_size=len(minilm_tokenizer)).save_pretrained(tmp_path)
    minilm_tokenizer.save_pretrained(tmp_path)
    found = pipeline(task, model=str(tmp_path))(text)
    assert len(found[0] if name == "Model" else found) == answers


def test_the_tokenizer_is_berts(tmp_path, minilm_tokenizer):
    build("mobilebert_md-stages", vocab_size=len(minilm_tokenizer)).save_pretrained(tmp_path)
    minilm_tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "BertTokenizer"
    # A folder with nothing but the vocabulary: the model type tells.
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text(
        "".join(f"{word}\n" for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"))
    )
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is BertTokenizer


@pytest.mark.parametrize("package", ["compactbert", "modeling_mobilebert_md", "modeling_smbert"])
def test_the_clean_process_really_lacks_our_packages(package):
    with pytest.raises(RuntimeError, match=f"No module named '{package}'"):
        run_without_packages(f"import {package}")
