"""The public names: typed, described, and each with an example that runs as a user would run it."""

import doctest
import importlib
import inspect
import json
import os
import shutil
import sys

import pytest
from tqdm.auto import tqdm

import compactbert
import modeling_mobilebert_md
import modeling_smbert
from compactbert.data import build_corpus
from compactbert.training import ib_teacher
from modeling_smbert import SmBertConfig, SmBertForPreTraining


MODULES = [compactbert, *(getattr(compactbert, name) for name in compactbert._MODULES)]
PUBLIC = {
    f"{value.__module__}.{name}": value
    for module in MODULES
    for name, value in ((name, getattr(module, name)) for name in module.__all__)
    # Constants are described where they are defined.
    if inspect.isclass(value) or inspect.isroutine(value)
}
# Beside the public names, those whose docstrings have examples all the same.
FURTHER = ("compactbert.provenance.command_line",)
for package, name in ((modeling_mobilebert_md, "MobileBertMdConfig"), (modeling_smbert, "SmBertConfig")):
    PUBLIC[f"{package.__name__}.{name}"] = getattr(package, name)
# The demo takes minutes: `test_readme.py` runs a short one. TensorFlow's checkpoint is not there.
ELSEWHERE = ("compactbert.recipes.demonstration.demo", "compactbert.convert.tf1.from_tf1")
SPACE = "---\ntitle: Reviews\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\nlicense: apache-2.0\n---\n"
STUDENT = {
    "model_type": "mobilebert_md",
    "hidden_size": 64,
    "embedding_size": 32,
    "intra_bottleneck_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory, minilm_tokenizer):
    """What the examples find where they run: tiny models, a table, texts, a Space."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.chdir(home)
        sizes = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "attention_head_size": 16}
        config = SmBertConfig(
            **sizes, vocab_size=len(minilm_tokenizer), intermediate_size=128, max_position_embeddings=64
        )
        SmBertForPreTraining(config).save_pretrained("my-bert")
        minilm_tokenizer.save_pretrained("my-bert")
        rows = [f"the film is {'good' if i % 2 else 'bad'} {i % 7},{'pos' if i % 2 else 'neg'}" for i in range(60)]
        (home / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
        (home / "texts.txt").write_text("\n\n".join(f"This is text {i}. Here is its end." for i in range(40)))
        (home / "student.json").write_text(json.dumps(STUDENT))
        compactbert.finetune("my-bert", "reviews.csv", "my-model", epochs=1, max_length=32)
        compactbert.adapt("my-model", "reviews.csv", "my-adapter", epochs=1, max_length=32)
        build_corpus("texts.txt", minilm_tokenizer, "my-corpus", sequence_length=32, held_out=0)
        ib_teacher("my-bert", "my-corpus", "my-teacher", feature_map_size=64, embedding_size=32, max_steps=1)
        (home / "my-space").mkdir()
        (home / "my-space" / "README.md").write_text(SPACE)
        (home / "my-space" / "app.py").write_text("import gradio\n")
        (home / "my-space" / "requirements.txt").write_text("transformers>=5.20\n")
    return home


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_are_typed_and_have_an_example(name):
    value = PUBLIC[name]
    signature = inspect.signature(value)
    untyped = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
    assert not untyped
    assert inspect.isclass(value) or signature.return_annotation is not inspect.Signature.empty
    assert doctest.DocTestParser().get_examples(value.__doc__)


@pytest.mark.parametrize("name", sorted({*PUBLIC, *FURTHER} - set(ELSEWHERE)))
def test_example(name, home, tmp_path, monkeypatch):
    # Links, as nothing is changed in place.
    shutil.copytree(home, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # The Trainer says the loss where examples show what a call returns.
    monkeypatch.setattr(tqdm, "write", lambda *args, **kwargs: None)
    module, _, attribute = name.rpartition(".")
    docstring = getattr(importlib.import_module(module), attribute).__doc__
    test = doctest.DocTestParser().get_doctest(docstring, {}, name, None, None)
    assert not [example for example in test.examples if example.options]
    assert doctest.DocTestRunner().run(test, out=sys.stderr.write).failed == 0
