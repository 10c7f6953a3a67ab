"""The public names: typed, described, and each with an example that runs as a user would run it."""

import doctest
import importlib
import inspect
import os
import shutil
import sys

import pytest
from tqdm.auto import tqdm

import compactbert
import modeling_mobilebert_md
import modeling_smbert


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
