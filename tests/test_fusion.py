import copy

import pytest
import torch
from families import ALL_CLASSES, FAMILIES, assert_same, build, inputs_for, snapshot
from transformers import BertConfig, BertModel, DynamicCache, pipeline

from compactbert.inference import fuse
from modeling_mobilebert_md import MobileBertMdConfig, MobileBertMdForMaskedLM, MobileBertMdModel


# Of the unfused float32 model's own error, against float64.
AT_MOST = 3
# With NoNorm and with LayerNorm; layers differ in both.
MIXED = ("mobilebert_md-stages", "smbert-uneven")


def errors(model, fused, batch):
    """Largest errors of both against float64, relative to the largest output."""
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        outputs, own, theirs = exact(**batch), model(**batch), fused(**batch)
    found = []
    for name, value in outputs.items():
        if torch.is_tensor(value) and name != "loss":
            kept = batch["attention_mask"].bool() if value.dim() == 3 and name == "last_hidden_state" else ...
            size = value[kept].abs().max()
            found.append([((other[name] - value)[kept].abs().max() / size).item() for other in (own, theirs)])
    assert found
    return torch.tensor(found).amax(0).tolist()


def deep(conditioned, **fields):
    """24 layers, as deep as MobileBERT, with NoNorms as training leaves them, or worse."""
    sizes = {"vocab_size": 60, "hidden_size": 32, "embedding_size": 20, "intermediate_size": 32} | fields
    torch.manual_seed(0)
    model = MobileBertMdModel(MobileBertMdConfig.from_stages([(8, 24), (8, 16), (8, 8)], **sizes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter.uniform_(0.9, 1.1) if conditioned else parameter.uniform_(0.5, 1.3)
                if not conditioned:
                    parameter[torch.rand(len(parameter)) < 0.05] *= -1
            elif name.endswith("LayerNorm.bias") or name.endswith("dense.weight"):
                parameter.normal_(0, 0.1)
    return model


@pytest.mark.parametrize(("family", "name"), ALL_CLASSES)
def test_every_head_gives_the_same_outputs(family, name):
    model = build(family, name)
    batch = inputs_for(model)
    assert not batch["attention_mask"].all(), "padding is part of the test"
    own, fused = errors(model, fuse(model), batch)
    assert fused <= AT_MOST * own + 1e-7


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("fields", [{}, {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False}])
def test_depth_and_bad_conditions_cost_no_precision(conditioned, fields):
    model = deep(conditioned, **fields)
    own, fused = errors(model, fuse(model), inputs_for(model))
    assert fused <= AT_MOST * own + 1e-7


def written_in(fused):
    """Where the stream did not go on as it was."""
    settled = [
        module
        for layer in fused.encoder.layer
        for module in (layer.settle, layer.settle_attention, *(network.settle for network in layer.networks))
    ]
    return [module for module in settled if module is not None]


def test_gains_of_zero_are_written_out():
    model = deep(True)
    layer = model.encoder.layer[3]
    with torch.no_grad():
        for norm in (layer.attention.output, layer.ffn[0].output, layer.output, layer.output.bottleneck):
            norm.LayerNorm.weight[:2] = 0
    fused = fuse(model)
    assert len(written_in(fused)) == 3
    own, error = errors(model, fused, inputs_for(model))
    assert error <= AT_MOST * own + 1e-7


def test_a_sound_stream_is_carried_through_many_layers():
    assert not written_in(fuse(deep(True)))


@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_the_model(family, unpad):
    model = build(family, "ForSequenceClassification")
    batch = inputs_for(model) | {"output_hidden_states": True}
    kept = batch["attention_mask"].bool()
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        # The original's layers have had their hooks before it is fused.
        expected, own = exact(**batch).hidden_states, model(**batch).hidden_states
    fused = fuse(model, unpad=unpad)
    found = fused(**batch).hidden_states
    assert len(found) == len(expected) == model.config.num_hidden_layers + 1
    for state, other, value in zip(found, own, expected, strict=True):
        error, allowed = ((s - value)[kept].abs().max() for s in (state, other))
        assert error <= AT_MOST * allowed + 1e-7
    assert "hidden_states" not in fused(**inputs_for(model))


def test_hidden_states_of_bad_conditions():
    model = deep(False)
    batch = {"input_ids": inputs_for(model)["input_ids"], "output_hidden_states": True}
    with torch.no_grad():
        expected, own = copy.deepcopy(model).double()(**batch).hidden_states, model(**batch).hidden_states
    found = fuse(model)(**batch).hidden_states
    for state, other, value in zip(found, own, expected, strict=True):
        assert (state - value).abs().max() <= AT_MOST * (other - value).abs().max() + 1e-6 * value.abs().max()


@pytest.mark.parametrize("family", ["mobilebert_md-uniform", "ib_bert-uniform", "smbert-uniform"])
def test_plain_products_and_packed_ones_agree(family):
    model = build(family)
    batch = inputs_for(model, batch_size=2)
    fused = fuse(model)
    packed = fused(**batch).last_hidden_state
    for module in fused.modules():
        if hasattr(module, "_packed"):
            module._packed = []
    torch.testing.assert_close(fused(**batch).last_hidden_state, packed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("family", MIXED)
def test_bfloat16_is_about_as_close_as_the_unfused_model(family, is_packed, monkeypatch):
    if not is_packed:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    elif not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("needs a processor with bfloat16")
    model = build(family, "ForSequenceClassification")
    batch = inputs_for(model)
    with torch.no_grad():
        exact = model(**batch).logits
        half = copy.deepcopy(model).bfloat16()
        own, fused = (other(**batch).logits.float() - exact for other in (half, fuse(half)))
    assert fused.abs().max() <= 4 * own.abs().max() + 2e-2 * exact.abs().max()


def test_the_model_is_not_changed_and_copies_of_the_fused_work():
    model = build("mobilebert_md-stages", "ForMaskedLM")
    before = snapshot(model)
    fused = fuse(model)
    batch = inputs_for(model, batch_size=2)
    assert torch.equal(copy.deepcopy(fused)(**batch).logits, fused(**batch).logits)
    assert_same(model.state_dict(), before)
    assert fuse(fused) is fused
    assert isinstance(fused, MobileBertMdForMaskedLM)


def test_it_compiles_to_a_single_graph():
    fused = fuse(build("mobilebert_md-uniform"))
    batch = inputs_for(fused, batch_size=2)
    compiled = torch.compile(fused, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(**batch).last_hidden_state, fused(**batch).last_hidden_state, rtol=1e-5, atol=1e-5
        )


def test_what_a_fused_model_refuses(tmp_path):
    fused = fuse(build("mobilebert_md-uniform"))
    with pytest.raises(ValueError, match="save the model that it was made of"):
        fused.save_pretrained(tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    with pytest.raises(ValueError, match="not trained"):
        fused.train()
    assert fused.eval() is fused
    batch = inputs_for(fused, batch_size=1)
    asked = {"output_attentions": True, "past_key_values": DynamicCache()}
    for name, value in asked.items():
        with pytest.raises(ValueError, match=f"no `{name}`"):
            fused(**batch, **{name: value})


def test_what_cannot_be_fused():
    with pytest.raises(ValueError, match="compactbert.convert.from_transformers"):
        fuse(BertModel(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)))
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        fuse(build("smbert-uniform").half())
    model = build("smbert-uniform")
    model.encoder.layer[0].attention.self.query.base_layer = torch.nn.Identity()
    with pytest.raises(ValueError, match="merge_and_unload"):
        fuse(model)


@pytest.mark.parametrize(("family", "name"), [c for c in ALL_CLASSES if c[0] in MIXED])
def test_no_work_on_padding_changes_nothing_but_padding(family, name):
    model = build(family, name)
    batch = inputs_for(model, batch_size=4)
    mask = batch["attention_mask"].fill_(1)
    # Rows of different lengths, two alike, one of them with a gap: the first token is read by the pooler.
    for row, kept in zip(mask.view(-1, mask.shape[-1]), ([0, 1, 2], [0, 1, 2, 3, 4], [0, 3, 4]), strict=False):
        row.fill_(0)[kept] = 1
    plain, unpadded = fuse(model), fuse(model, unpad=True)
    expected, found = plain(**batch), unpadded(**batch)
    for key, value in expected.items():
        if not torch.is_tensor(value):
            continue
        kept = mask.bool() if value.shape[:2] == mask.shape else ...
        torch.testing.assert_close(found[key][kept], value[kept], atol=1e-5, rtol=1e-4)


def test_padding_costs_no_products(monkeypatch):
    model = build("mobilebert_md-stages")
    seen = []
    fused = fuse(model, unpad=True)
    forward = type(fused.encoder.layer[0]).forward

    def count(self, rows, *rest):
        seen.append(len(rows))
        return forward(self, rows, *rest)

    monkeypatch.setattr(type(fused.encoder.layer[0]), "forward", count)
    ids = torch.ones(3, 7, dtype=torch.long)
    mask = torch.zeros(3, 7, dtype=torch.long)
    for row, length in enumerate((2, 7, 0)):
        mask[row, :length] = 1
    states = fused(ids, attention_mask=mask).last_hidden_state
    assert set(seen) == {9}
    assert states.shape == (3, 7, 32)
    assert (states[mask == 0] == 0).all()
    seen.clear()
    fused(ids)
    assert set(seen) == {21}


def test_a_mask_that_is_more_than_padding_is_kept():
    model = build("smbert-uneven")
    ids = torch.randint(1, 60, (2, 6))
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    states = [fuse(model, unpad=unpad)(ids, attention_mask=mask).last_hidden_state for unpad in (False, True)]
    torch.testing.assert_close(*states)


@pytest.mark.parametrize("family", ["smbert-uneven", "mobilebert_md-padding_invariant"])
def test_a_pipeline_in_batches_gives_what_texts_give_one_by_one(family, minilm_tokenizer):
    model = build(family, "ForSequenceClassification", vocab_size=len(minilm_tokenizer))
    texts = ["a", "b c d e f g", "two words", "and a somewhat longer text", "b c d e f g"]
    for batch_size in (1, 2, 5):
        classify = pipeline(
            "text-classification", model=fuse(model, unpad=True), tokenizer=minilm_tokenizer, batch_size=batch_size
        )
        for text, row in zip(texts, classify(texts), strict=True):
            scores = model(**minilm_tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
            assert row["label"] == model.config.id2label[int(scores.argmax())]
            assert row["score"] == pytest.approx(scores.max().item(), abs=1e-5)
