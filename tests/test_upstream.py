"""transformers' own common model tests over every class of the three families.

They are not in transformers' wheel but in its source distribution. `.ci/run` unpacks the one of the installed version
and names the folder in `TRANSFORMERS_SOURCE`; without it these tests skip.
"""

import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers

import modeling_mobilebert_md
import modeling_smbert
from modeling_smbert.configuration_smbert import TASKS


SOURCE = os.environ.get("TRANSFORMERS_SOURCE")
pytestmark = pytest.mark.upstream
if SOURCE is None:
    pytest.skip("TRANSFORMERS_SOURCE does not name transformers' source distribution", allow_module_level=True)


def import_upstream():
    """Imports the common tests. The source distribution lacks three modules they import; what those would add (tests of
    generation and of exporters, defaults of removed configuration fields) does not concern encoders."""
    package = types.ModuleType("tests")
    package.__path__ = [str(Path(SOURCE) / "tests")]
    sys.modules["tests"] = package
    missing = {
        "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "utils.test_configuration_utils": {"config_common_kwargs": {}},
    }
    for name, members in missing.items():
        parent = types.ModuleType(f"tests.{name.split('.')[0]}")
        parent.__path__ = []
        sys.modules[parent.__name__] = parent
        module = types.ModuleType(f"tests.{name}")
        vars(module).update(members)
        sys.modules[module.__name__] = module
    common = importlib.import_module("tests.test_modeling_common")
    with mock.patch("transformers.utils.direct_transformers_import", return_value=transformers):
        configuration = importlib.import_module("tests.test_configuration_common")
    # The common tests look classes up by name in the tables of the library's own models.
    for auto_name, table in (
        ("", common.MODEL_MAPPING_NAMES),
        ("ForMultipleChoice", common.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES),
        ("ForQuestionAnswering", common.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
        ("ForSequenceClassification", common.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        ("ForNextSentencePrediction", common.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES),
        ("ForTokenClassification", common.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
        ("ForMaskedLM", common.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    ):
        for prefix, model_type in (("MobileBertMd", "mobilebert_md"), ("IbBert", "ib_bert"), ("SmBert", "smbert")):
            table[model_type] = prefix + (auto_name or "Model")
    return common, configuration


common, configuration = import_upstream()
TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 64,
    "type_vocab_size": 16,
    "initializer_range": 0.02,
}
MOBILE = TINY | {"embedding_size": 16, "intra_bottleneck_size": 24}
STAGES = {1: {"intra_bottleneck_size": 16, "num_feedforward_networks": 2, "intermediate_size": 20}}
UNEVEN = {1: {"attention_head_size": 6, "intermediate_size": 20}}


class ModelTester:
    """What the common tests ask of a model: a tiny configuration and a batch."""

    batch_size, seq_length, num_choices, is_training = 13, 7, 4, True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def __init__(self, config_class, fields):
        self.config_class, self.fields = config_class, fields

    def get_config(self):
        return self.config_class(**self.fields)

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, self.seq_length)
        return self.get_config(), {
            "input_ids": common.ids_tensor(shape, self.fields["vocab_size"]),
            "attention_mask": common.random_attention_mask(shape),
            "token_type_ids": common.ids_tensor(shape, self.fields["type_vocab_size"]),
        }


def make_test(package, prefix, fields):
    config_class = getattr(package, f"{prefix}Config")

    class ModelTest(common.ModelTesterMixin, unittest.TestCase):
        all_model_classes = tuple(
            getattr(package, f"{prefix}{name}") for name in ("Model", *(f"For{task}" for task in TASKS))
        )
        _torch_compile_train_cls = getattr(package, f"{prefix}ForMaskedLM")
        test_can_init_all_missing_weights_before_2023 = True

        def setUp(self):
            self.model_tester = ModelTester(config_class, fields)

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            if return_labels and model_class.__name__.endswith("ForPreTraining"):
                inputs["labels"] = torch.zeros(self.model_tester.batch_size, self.model_tester.seq_length).long()
                inputs["next_sentence_label"] = torch.zeros(self.model_tester.batch_size).long()
            return inputs

        def test_config(self):
            configuration.ConfigTester(self, config_class=config_class, hidden_size=37).run_common_tests()

    return ModelTest


class MobileBertMdUniformTest(make_test(modeling_mobilebert_md, "MobileBertMd", MOBILE)):
    pass


class MobileBertMdStagesTest(make_test(modeling_mobilebert_md, "MobileBertMd", MOBILE | {"per_layer_config": STAGES})):
    pass


class IbBertUniformTest(make_test(modeling_mobilebert_md, "IbBert", MOBILE | {"intra_bottleneck_size": 64})):
    pass


class SmBertUniformTest(make_test(modeling_smbert, "SmBert", TINY | {"attention_head_size": None})):
    pass


class SmBertUnevenTest(make_test(modeling_smbert, "SmBert", TINY | {"per_layer_config": UNEVEN})):
    pass
