"""PEFT's own tests of encoders, over tiny models of the three families and over a BERT beside them.

They are not in PEFT's wheel but in its source distribution, whose folder `PEFT_SOURCE` names; without it these tests
skip. They take some six minutes on two cores, and are run by hand.
"""

import functools
import importlib
import os
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch
from peft import FrodConfig
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from compactbert.adapters import get_peft_model
from modeling_mobilebert_md import (
    IbBertConfig,
    IbBertForSequenceClassification,
    MobileBertMdConfig,
    MobileBertMdForSequenceClassification,
)
from modeling_smbert import SmBertConfig, SmBertForSequenceClassification


SOURCE = os.environ.get("PEFT_SOURCE")
pytestmark = pytest.mark.upstream
if SOURCE is None:
    pytest.skip("PEFT_SOURCE does not name PEFT's source distribution", allow_module_level=True)

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
MOBILE = SIZES | {"embedding_size": 32, "num_feedforward_networks": 2}
STAGES = {"intra_bottleneck_size": 64, "per_layer_config": {1: {"intra_bottleneck_size": 32}}}
# PEFT's tests know by "Bert" in a name what is not for encoders.
MODELS = {
    "Bert": (BertForSequenceClassification, BertConfig, SIZES),
    "SmBert": (SmBertForSequenceClassification, SmBertConfig, SIZES | {"attention_head_size": 16}),
    "MobileBertMd": (
        MobileBertMdForSequenceClassification,
        MobileBertMdConfig,
        MOBILE | {"intra_bottleneck_size": 32},
    ),
    "MobileBertMd-stages": (MobileBertMdForSequenceClassification, MobileBertMdConfig, MOBILE | STAGES),
    "IbBert": (IbBertForSequenceClassification, IbBertConfig, MOBILE | {"intra_bottleneck_size": 128}),
}


def import_upstream(name):
    """One of PEFT's test modules. They name diffusers, which tests of encoders do not need."""
    if "peft_tests" not in sys.modules:
        package = types.ModuleType("peft_tests")
        package.__path__ = [str(Path(SOURCE) / "tests")]
        sys.modules["peft_tests"] = package
        diffusers = types.ModuleType("diffusers")
        diffusers.StableDiffusionPipeline = object
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "diffusers", diffusers)
            importlib.import_module("peft_tests.testing_common")
    module = importlib.import_module(f"peft_tests.{name}")
    for place in (module, sys.modules["peft_tests.testing_common"]):
        # PEFT's own cannot know that a prompt is as wide as the token embeddings.
        place.get_peft_model = get_peft_model
    return module


def make_models():
    """Folders of tiny models, by name, and what keeps them on the disk."""
    place = tempfile.TemporaryDirectory()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(SIZES["vocab_size"] - 5))]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)})
    for name, (model_class, config_class, sizes) in MODELS.items():
        torch.manual_seed(0)
        model_class(config_class(**sizes)).save_pretrained(Path(place.name, name))
        tokenizer.save_pretrained(Path(place.name, name))
    return {name: str(Path(place.name, name)) for name in MODELS}, place


def over_our_models(test_class):
    """PEFT's class of tests, with our models in the place of its own."""

    def redirected(function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            config_class = kwargs.get("config_cls")
            if config_class is FrodConfig and kwargs["model_id"] == FOLDERS["MobileBertMd-stages"]:
                pytest.skip("FRoD decomposes the matrices of all layers together, and these differ in shape.")
            return function(*args, **kwargs)

        run.pytestmark = [mark for mark in getattr(function, "pytestmark", []) if mark.args[:1] != ("model_id",)]
        if len(run.pytestmark) < len(getattr(function, "pytestmark", [])):
            run = pytest.mark.parametrize("model_id", FOLDERS.values(), ids=FOLDERS)(run)
        return run

    tests = {name: redirected(member) for name, member in vars(test_class).items() if name.startswith("test_")}
    return type(f"{test_class.__name__}OverOurs", (test_class,), tests)


FOLDERS, _place = make_models()
feature_extraction = import_upstream("test_feature_extraction_models")
seq_classifier = import_upstream("test_seq_classifier")
token_qa = import_upstream("test_token_classification_qa")
# Two tests take the first model of the list.
feature_extraction.PEFT_FEATURE_EXTRACTION_MODELS_TO_TEST[0] = FOLDERS["MobileBertMd"]
seq_classifier.PEFT_SEQ_CLS_MODELS_TO_TEST[0] = FOLDERS["MobileBertMd"]
TestFeatureExtraction = over_our_models(feature_extraction.TestPeftFeatureExtractionModel)
TestSequenceClassification = over_our_models(seq_classifier.TestSequenceClassificationModels)
TestTokenClassification = over_our_models(token_qa.TestTokenClassificationModels)
TestQuestionAnswering = over_our_models(token_qa.TestQuestionAnsweringModels)
