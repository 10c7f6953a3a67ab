import json

import pytest
import torch
import transformers
from families import TASKS, build, inputs_for, perturb, tensors_of
from transformers import BertConfig, DistilBertConfig, MobileBertConfig, RobertaConfig, XLMRobertaConfig

from compactbert.convert import from_transformers, load_checkpoint, load_pretrained, to_transformers


SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 24, "num_labels": 3}
BERT = SIZES | {"num_attention_heads": 4, "classifier_dropout": 0.2, "layer_norm_eps": 1e-7}
MOBILE = SIZES | {"embedding_size": 16, "intra_bottleneck_size": 16}
SOURCES = {
    "bert": ("Bert", BertConfig, BERT),
    "bert-untied": ("Bert", BertConfig, BERT | {"tie_word_embeddings": False}),
    "mobilebert": ("MobileBert", MobileBertConfig, MOBILE),
    "mobilebert-opt": ("MobileBert", MobileBertConfig, MOBILE | {"classifier_activation": False}),
    "mobilebert-without-opt": (
        "MobileBert",
        MobileBertConfig,
        MOBILE | {"normalization_type": "layer_norm", "hidden_act": "gelu", "layer_norm_eps": 1e-3},
    ),
    "mobilebert-tiny": (
        "MobileBert",
        MobileBertConfig,
        MOBILE | {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False},
    ),
    "mobilebert-attention-and-shared": ("MobileBert", MobileBertConfig, MOBILE | {"use_bottleneck_attention": True}),
    "mobilebert-no-bottleneck": ("MobileBert", MobileBertConfig, MOBILE | {"use_bottleneck": False}),
    "mobilebert-no-trigram": ("MobileBert", MobileBertConfig, MOBILE | {"trigram_input": False}),
}
# Families that are BERT under other names, which convert one way.
DISTIL = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "num_labels": 3}
SOURCES_ONE_WAY = {
    "roberta": ("Roberta", RobertaConfig, BERT),
    "roberta-untied": ("Roberta", RobertaConfig, BERT | {"tie_word_embeddings": False}),
    "roberta-pad-0": ("Roberta", RobertaConfig, BERT | {"pad_token_id": 0, "max_position_embeddings": 10}),
    "xlm-roberta": ("XLMRoberta", XLMRobertaConfig, BERT | {"type_vocab_size": 1, "max_position_embeddings": 11}),
    "distilbert": ("DistilBert", DistilBertConfig, DISTIL),
    "distilbert-untied": ("DistilBert", DistilBertConfig, DISTIL | {"tie_word_embeddings": False}),
    "distilbert-relu": ("DistilBert", DistilBertConfig, DISTIL | {"activation": "relu"}),
}
DISTILBERT_HEADS = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")
ROBERTA_HEADS = (*DISTILBERT_HEADS, "ForSequenceClassification", "ForMultipleChoice")
ONE_WAY = [
    (source, name)
    for source in SOURCES_ONE_WAY
    for name in (DISTILBERT_HEADS if source.startswith("distilbert") else ROBERTA_HEADS)
]


def build_source(source, name):
    prefix, config_class, fields = (SOURCES | SOURCES_ONE_WAY)[source]
    torch.manual_seed(0)
    # transformers' question answering heads work with two labels only.
    fields = fields | {"num_labels": 2} if name == "ForQuestionAnswering" else fields
    return perturb(getattr(transformers, f"{prefix}{name}")(config_class(**fields))).eval()


def assert_same_outputs(one, other, inputs):
    one, other = tensors_of(one(**inputs)), tensors_of(other(**inputs))
    assert one
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["Model", *(f"For{task}" for task in TASKS)])
@pytest.mark.parametrize("source", SOURCES)
def test_both_ways_with_identical_logits(source, name):
    theirs = build_source(source, name)
    ours = from_transformers(theirs)
    expected = "SmBert" if source.startswith("bert") else "MobileBertMd"
    assert type(ours).__name__ == f"{expected}{name}"
    inputs = inputs_for(theirs)
    assert_same_outputs(theirs, ours, inputs)
    back = to_transformers(ours)
    assert type(back) is type(theirs)
    assert_same_outputs(theirs, back, inputs)
    assert ours.config.id2label == theirs.config.id2label == back.config.id2label


def inputs_with_padding_tokens(model):
    """As `inputs_for`, with the model's padding token under the mask and nowhere else, and token types it has."""
    inputs = inputs_for(model)
    pad = model.config.pad_token_id
    tokens = inputs["input_ids"].where(inputs["input_ids"] != pad, 5)
    inputs["input_ids"] = tokens.where(inputs["attention_mask"].bool(), pad)
    inputs["token_type_ids"] %= getattr(model.config, "type_vocab_size", 2)
    return inputs


def predictions(model, inputs, **kwargs):
    """Outputs, of the tokens that are not padding."""
    mask = inputs["attention_mask"]
    outputs = tensors_of(model(**inputs, **kwargs))
    return {key: value[mask.bool()] if value.shape[:2] == mask.shape else value for key, value in outputs.items()}


@pytest.mark.parametrize(("source", "name"), ONE_WAY)
def test_bert_under_another_name_has_identical_logits(source, name, tmp_path):
    theirs = build_source(source, name)
    ours = from_transformers(theirs)
    assert type(ours).__name__ == f"SmBert{name}"
    assert ours.config.id2label == theirs.config.id2label
    ours.save_pretrained(tmp_path)
    inputs = inputs_with_padding_tokens(theirs)
    expected = predictions(theirs, inputs)
    for model in (ours, type(ours).from_pretrained(tmp_path), to_transformers(ours)):
        # A model without a pooler is loaded with a new one.
        actual = {key: value for key, value in predictions(model, inputs).items() if key in expected}
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_roberta_keeps_its_longest_input():
    ours = from_transformers(transformers.RobertaModel(RobertaConfig(**BERT, max_position_embeddings=514)))
    assert (ours.config.max_position_embeddings, ours.config.pad_token_id) == (512, 1)


def test_roberta_padded_on_the_left_needs_position_ids():
    theirs = build_source("roberta", "ForTokenClassification")
    inputs = {key: value.flip(-1) for key, value in inputs_with_padding_tokens(theirs).items()}
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    ours = predictions(from_transformers(theirs), inputs, position_ids=positions)
    torch.testing.assert_close(ours, predictions(theirs, inputs), rtol=1e-5, atol=1e-5)


def test_bert_keeps_its_shape():
    config = from_transformers(transformers.BertModel(BertConfig(vocab_size=10, num_hidden_layers=1))).config
    assert (config.num_attention_heads, config.attention_head_size, config.intermediate_size) == (12, 64, 3072)


def test_conversion_copies_weights():
    theirs = build_source("bert", "Model")
    ours = from_transformers(theirs)
    before = theirs.embeddings.word_embeddings.weight.clone()
    with torch.no_grad():
        ours.embeddings.word_embeddings.weight.zero_()
    assert torch.equal(theirs.embeddings.word_embeddings.weight, before)


def test_a_missing_pooler_stays_missing_and_the_type_is_kept():
    theirs = transformers.BertModel(BertConfig(**BERT), add_pooling_layer=False).bfloat16()
    ours = from_transformers(theirs)
    assert ours.pooler is None
    assert ours.dtype == torch.bfloat16
    assert to_transformers(ours).pooler is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: transformers.BertModel(BertConfig(**BERT, is_decoder=True)),
            "`is_decoder=True`: our models are encoders",
        ),
        (lambda: transformers.BertLMHeadModel(BertConfig(**BERT)), "Cannot convert BertLMHeadModel: expected"),
        (
            lambda: transformers.RobertaModel(RobertaConfig(**BERT, is_decoder=True)),
            "Cannot convert RobertaModel with `is_decoder=True`",
        ),
        (
            lambda: transformers.XLMRobertaForCausalLM(XLMRobertaConfig(**BERT)),
            "Cannot convert XLMRobertaForCausalLM: expected",
        ),
        (
            lambda: transformers.RobertaForMaskedLM(RobertaConfig(**BERT, hidden_act="relu")),
            "`hidden_act='relu'`: its head always uses gelu",
        ),
        (lambda: transformers.RobertaModel(RobertaConfig(**BERT, pad_token_id=None)), "`pad_token_id=None`"),
        (
            lambda: transformers.DistilBertForSequenceClassification(DistilBertConfig(**DISTIL)),
            "Cannot convert DistilBertForSequenceClassification: its head applies ReLU .*fine-tune",
        ),
        (
            lambda: transformers.DistilBertForMultipleChoice(DistilBertConfig(**DISTIL)),
            "Cannot convert DistilBertForMultipleChoice: its head applies ReLU",
        ),
        (
            lambda: transformers.ElectraModel(transformers.ElectraConfig(**SIZES, num_attention_heads=4)),
            "Cannot convert ElectraModel: expected .*`DistilBertModel`",
        ),
        (
            lambda: transformers.RobertaPreLayerNormModel(transformers.RobertaPreLayerNormConfig(**BERT)),
            "Cannot convert RobertaPreLayerNormModel",
        ),
        (
            lambda: transformers.MobileBertModel(MobileBertConfig(**MOBILE, key_query_shared_bottleneck=False)),
            "transformers cannot run it. Build an `IbBert",
        ),
        (lambda: build("smbert-uniform"), "Cannot convert SmBertModel"),
    ],
)
def test_what_cannot_come_says_why(model, message):
    with pytest.raises(ValueError, match=message):
        from_transformers(model())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: build("smbert-uneven"), r"its layers differ in \['attention_head_size', 'intermediate_size'"),
        (lambda: build("mobilebert_md-stages"), "its layers differ in"),
        (lambda: build("smbert-uniform", attention_head_size=5), "4 heads of 5 do not add up to its width 32"),
        (lambda: build("mobilebert_md-uniform", num_attention_heads=2, attention_head_size=4), "2 heads of 4"),
        (lambda: build("mobilebert_md-padding_invariant"), "`padding_invariant_trigram=True`"),
        (lambda: build("mobilebert_md-uniform", value_input_size=8), "`value_input_size=8`"),
        (lambda: build("ib_bert-uniform"), "query and key read the feature map"),
        (lambda: transformers.BertModel(BertConfig(**BERT)), "Cannot convert BertModel: expected an `SmBert"),
    ],
)
def test_what_cannot_go_says_why(model, message):
    with pytest.raises(ValueError, match=message):
        to_transformers(model())


def save(model, folder, minilm_tokenizer):
    model.save_pretrained(folder)
    minilm_tokenizer.save_pretrained(folder)


def test_load_pretrained_converts_and_reads_our_own(tmp_path, minilm_tokenizer):
    theirs = transformers.BertForMaskedLM(BertConfig(**BERT | {"vocab_size": len(minilm_tokenizer)}))
    save(theirs, tmp_path / "bert", minilm_tokenizer)
    ours = build("mobilebert_md-stages", "ForMaskedLM", vocab_size=len(minilm_tokenizer))
    save(ours, tmp_path / "ours", minilm_tokenizer)
    loaded, _ = load_pretrained(tmp_path / "bert", "ForSequenceClassification", num_labels=5)
    assert type(loaded).__name__ == "SmBertForSequenceClassification"
    assert loaded.num_labels == 5
    loaded, _ = load_pretrained(tmp_path / "ours", "ForTokenClassification")
    assert type(loaded).__name__ == "MobileBertMdForTokenClassification"


@pytest.mark.parametrize("source", ["roberta", "xlm-roberta", "distilbert"])
def test_load_pretrained_puts_a_new_head_on_the_other_families(source, tmp_path, minilm_tokenizer):
    prefix, config_class, fields = SOURCES_ONE_WAY[source]
    fields = fields | {"vocab_size": len(minilm_tokenizer)}
    theirs = getattr(transformers, f"{prefix}ForMaskedLM")(config_class(**fields)).eval()
    save(theirs, tmp_path, minilm_tokenizer)
    loaded, _, new_weights = load_checkpoint(tmp_path, "ForSequenceClassification", num_labels=5)
    assert type(loaded).__name__ == "SmBertForSequenceClassification"
    head = [f"{layer}.{kind}" for layer in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")]
    assert new_weights == set(head) <= loaded.state_dict().keys()
    assert (loaded.num_labels, loaded.training, loaded.config.name_or_path) == (5, False, str(tmp_path))
    inputs = inputs_with_padding_tokens(theirs)
    expected = predictions(theirs.base_model, inputs)["last_hidden_state"]
    actual = predictions(loaded.base_model, inputs)["last_hidden_state"]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="has no trained weights for"):
        load_pretrained(tmp_path, "ForSequenceClassification", require_head=True)


def test_weights_in_half_precision_arrive_in_float32(tmp_path, minilm_tokenizer):
    fields = {"vocab_size": len(minilm_tokenizer)}
    save(build("smbert-uniform", **fields).half(), tmp_path / "ours", minilm_tokenizer)
    save(transformers.BertModel(BertConfig(**BERT | fields)).bfloat16(), tmp_path / "theirs", minilm_tokenizer)
    for name in ("ours", "theirs"):
        assert {tensor.dtype for tensor in load_pretrained(tmp_path / name, "")[0].parameters()} == {torch.float32}


def test_a_trained_head_of_distilbert_is_not_dropped(tmp_path, minilm_tokenizer):
    config = DistilBertConfig(**DISTIL | {"vocab_size": len(minilm_tokenizer)})
    theirs = transformers.DistilBertForSequenceClassification(config)
    save(theirs, tmp_path / "theirs", minilm_tokenizer)
    with pytest.raises(ValueError, match="its head applies ReLU"):
        load_pretrained(tmp_path / "theirs", "ForSequenceClassification")
    # What the message advises.
    save(from_transformers(theirs.base_model), tmp_path / "ours", minilm_tokenizer)
    loaded, _ = load_pretrained(tmp_path / "ours", "ForSequenceClassification", num_labels=5)
    assert type(loaded).__name__ == "SmBertForSequenceClassification"


def test_corrupt_and_truncated_weights_are_refused(tmp_path, minilm_tokenizer):
    save(build("smbert-uniform"), tmp_path, minilm_tokenizer)
    weights = tmp_path / "model.safetensors"
    data = weights.read_bytes()
    for broken in (data[: len(data) // 2], b"\xff" * 100, b""):
        weights.write_bytes(broken)
        with pytest.raises(ValueError, match="corrupt or cut short"):
            load_pretrained(tmp_path, "ForSequenceClassification")


@pytest.mark.parametrize("head", ["", "ForSequenceClassification"])
def test_weights_of_another_shape_or_family_are_refused(head, tmp_path, minilm_tokenizer):
    save(build("smbert-uniform"), tmp_path, minilm_tokenizer)
    config = build("smbert-uniform", hidden_size=64).config
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"encoder differ in shape, such as .*32.* in the weights, .*64.* in the model"
    ):
        load_pretrained(tmp_path, head)
    build("mobilebert_md-uniform").config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not fit its configuration"):
        load_pretrained(tmp_path, head)


def test_the_head_of_another_task_is_replaced(tmp_path, minilm_tokenizer):
    fields = {"vocab_size": len(minilm_tokenizer), "num_labels": 3}
    save(build("smbert-uniform", "ForSequenceClassification", **fields), tmp_path, minilm_tokenizer)
    loaded, _ = load_pretrained(tmp_path, "ForSequenceClassification", num_labels=5)
    assert loaded.classifier.out_features == 5
    with pytest.raises(ValueError, match="has no trained weights for .*'classifier.weight'"):
        load_pretrained(tmp_path, "ForSequenceClassification", require_head=True, num_labels=5)


def test_impossible_configurations_and_corrupt_pickles_are_refused(tmp_path, minilm_tokenizer):
    save(build("smbert-uniform"), tmp_path, minilm_tokenizer)
    fields = json.loads((tmp_path / "config.json").read_text())
    for change in ({"hidden_size": "abc"}, {"num_attention_heads": 7}, {"hidden_act": "foo"}):
        (tmp_path / "config.json").write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=f"Cannot load (.|\\n)*{next(iter(change))}"):
            load_pretrained(tmp_path, "ForSequenceClassification")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(ValueError, match="corrupt or cut short"):
        load_pretrained(tmp_path, "ForSequenceClassification")


def test_attention_in_the_bottleneck_goes_both_ways_whatever_the_other_flag_says():
    ours = build("mobilebert_md-tiny", key_query_shared_bottleneck=True)
    assert_same_outputs(ours, to_transformers(ours), inputs_for(ours))


def test_missing_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Cannot load"):
        load_pretrained(tmp_path / "nowhere", "ForSequenceClassification")


def test_a_missing_or_foreign_tokenizer_is_refused(tmp_path, minilm_tokenizer):
    build("smbert-uniform").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer: save one there"):
        load_pretrained(tmp_path, "ForSequenceClassification")
    minilm_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 30522 tokens, but the model's `vocab_size` is 60"):
        load_pretrained(tmp_path, "ForSequenceClassification")
