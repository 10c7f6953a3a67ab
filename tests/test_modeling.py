import copy

import pytest
import torch
from families import ALL_CLASSES, FAMILIES, build, inputs_for, tensors_of
from torch.nn import functional

import modeling_smbert
from compactbert import structure


classes = pytest.mark.parametrize(("family", "name"), ALL_CLASSES, ids=lambda value: value)
families = pytest.mark.parametrize("family", FAMILIES)
with_head = pytest.mark.parametrize(("family", "name"), [c for c in ALL_CLASSES if c[1] != "Model"], ids=lambda v: v)


def assert_same_outputs(actual, expected, **tolerance):
    assert tensors_of(actual)
    torch.testing.assert_close(tensors_of(actual), tensors_of(expected), **tolerance)


def gradients_of(model):
    return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}


def test_every_family_is_tested():
    assert {name.split("-")[0] for name in FAMILIES} == set(structure.FAMILIES)


@classes
def test_save_and_load_give_the_same_outputs(family, name, tmp_path):
    model = build(family, name)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    inputs = inputs_for(model)
    assert loaded.config == model.config
    assert_same_outputs(loaded(**inputs), model(**inputs))


@classes
def test_tuple_output_equals_dict_output(family, name):
    model = build(family, name)
    inputs = inputs_for(model)
    torch.testing.assert_close(model(**inputs, return_dict=False), tuple(model(**inputs).values()))


@classes
def test_weights_that_a_checkpoint_lacks_are_initialised_as_new_ones(family, name):
    model = build(family, name)
    torch.manual_seed(0)
    built = type(model)(copy.deepcopy(model.config))
    loaded = type(model).from_pretrained(None, config=copy.deepcopy(model.config), state_dict={}).state_dict()
    for key, value in built.state_dict().items():
        other = loaded[key]
        assert value.shape == other.shape
        # Constant weights must be equal, random ones drawn with the same spread.
        if value.std() == 0 or value.numel() < 2:
            assert torch.equal(value, other), key
        else:
            assert 0.5 < (other.std() / value.std()) < 2, key


@classes
def test_buffers_are_restored_from_meta(family, name):
    model = build(family, name)
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    empty.to_empty(device="cpu")
    empty.init_weights()
    torch.testing.assert_close(dict(empty.named_buffers()), dict(model.named_buffers()), rtol=0, atol=0)


@classes
@pytest.mark.parametrize("side", ["left", "right"])
def test_eager_equals_sdpa(family, name, side):
    model = build(family, name)
    inputs = inputs_for(model)
    if side == "left":
        inputs = {key: value.flip(-1) for key, value in inputs.items()}
    sdpa = model(**inputs)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert all(m.config._attn_implementation == "eager" for m in model.modules() if hasattr(m, "config"))
    assert_same_outputs(model(**inputs), sdpa, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@families
@torch.no_grad()  # flex attention has no backward on a CPU
def test_flex_attention_equals_sdpa(family):
    model = build(family)
    inputs = inputs_for(model)
    keep = inputs["attention_mask"].bool()
    expected = model(**inputs).last_hidden_state[keep]
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(**inputs).last_hidden_state[keep], expected, rtol=1e-4, atol=1e-5)


@classes
def test_a_row_of_a_batch_equals_the_row_alone(family, name):
    model = build(family, name)
    inputs = inputs_for(model)
    alone = model(**{key: value[1:2] for key, value in inputs.items()})
    row = {key: value[1:2] for key, value in model(**inputs).items()}
    assert_same_outputs(alone, row, rtol=1e-4, atol=1e-5)


@classes
def test_inputs_embeds_equal_input_ids(family, name):
    model = build(family, name)
    inputs = inputs_for(model)
    expected = model(**inputs)
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert_same_outputs(model(**inputs), expected)


@classes
def test_inputs_must_be_given_once(family, name):
    model = build(family, name)
    inputs = inputs_for(model)
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="Exactly one of"):
        model(**inputs, inputs_embeds=embedded)
    with pytest.raises(ValueError, match="Exactly one of"):
        model(attention_mask=inputs["attention_mask"])


@with_head
def test_every_parameter_gets_a_gradient(family, name):
    model = build(family, name).train()
    model(**inputs_for(model, labels=True)).loss.backward()
    assert gradients_of(model).keys() == dict(model.named_parameters()).keys()


@with_head
def test_gradient_checkpointing_gives_the_same_gradients(family, name):
    model = build(family, name).train()
    inputs = inputs_for(model, labels=True)
    model(**inputs).loss.backward()
    expected = gradients_of(model)
    model.zero_grad()
    # Its name from 5.22 on; older versions have the other.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    calls = []
    model.base_model.encoder.layer[0].attention.register_forward_hook(lambda *args: calls.append(1))
    model(**inputs).loss.backward()
    assert len(calls) == 2, "once forward, once more on the way back"
    torch.testing.assert_close(gradients_of(model), expected)


@classes
def test_hidden_states_and_attentions_are_recorded(family, name):
    model = build(family, name)
    model.set_attn_implementation("eager")
    inputs = inputs_for(model)
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    layers = model.config.per_layer_config
    assert len(output.hidden_states) == len(layers) + 1
    rows = inputs["input_ids"].shape[:-1].numel()
    assert [a.shape for a in output.attentions] == [(rows, layer.num_attention_heads, 9, 9) for layer in layers]


@pytest.mark.parametrize("name", ["ForMaskedLM", "ForPreTraining"])
@families
def test_decoder_is_tied_to_the_embeddings(family, name, tmp_path):
    model = build(family, name)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    untied = build(family, name, tie_word_embeddings=False)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


@classes
@pytest.mark.parametrize(("size", "multiple", "expected"), [(50, None, 50), (61, 8, 64), (None, 16, 64)])
def test_resize_token_embeddings(family, name, size, multiple, expected):
    model = build(family, name)
    inputs = inputs_for(model)
    inputs["input_ids"] = inputs["input_ids"].clamp(max=40)
    before = tensors_of(model(**inputs))
    model.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == expected
    kept = min(expected, 60)
    for key, after in tensors_of(model(**inputs)).items():
        torch.testing.assert_close(after[..., :kept], before[key][..., :kept])
        if before[key].shape[-1] == 60:
            assert after.shape[-1] == expected


@pytest.mark.parametrize("family", [family for family in FAMILIES if "per_layer_config" not in FAMILIES[family][2]])
def test_spelling_out_the_global_sizes_per_layer_changes_nothing(family):
    model = build(family)
    fields = ["num_attention_heads", "intermediate_size"]
    spelled = {i: {field: getattr(model.config, field) for field in fields} for i in range(3)}
    other = build(family, per_layer_config=spelled)
    inputs = inputs_for(model)
    assert_same_outputs(other(**inputs), model(**inputs))


@pytest.mark.long
@families
def test_torch_compile_fullgraph(family):
    torch.compiler.reset()
    model = build(family, "ForSequenceClassification")
    inputs = inputs_for(model)
    # The backend traces the whole graph but runs it eagerly: compiling it costs minutes and proves no more.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_outputs(compiled(**inputs), model(**inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.long
# Without gradients SmBERT could take another way.
@pytest.mark.parametrize(("family", "gradients"), [*((f, True) for f in FAMILIES), ("smbert-uneven", False)])
def test_torch_export_with_dynamic_batch_and_length(family, gradients, monkeypatch):
    monkeypatch.setattr(modeling_smbert.modeling_smbert, "TOKENS_AT_A_TIME", 8)
    model = build(family, "ForSequenceClassification")
    inputs = inputs_for(model)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.set_grad_enabled(gradients):
        program = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, dynamic)).module()
    for batch_size, length in ((3, 9), (2, 5), (5, 20)):
        other = inputs_for(model, batch_size, length)
        torch.testing.assert_close(program(**other).logits, model(**other).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "rows"), [(3, [2, 2, 1]), (20, [1] * 5)])
def test_a_large_batch_goes_through_smberts_feed_forward_network_in_parts(length, rows, monkeypatch):
    model = build("smbert-uneven")
    monkeypatch.setattr(modeling_smbert.modeling_smbert, "TOKENS_AT_A_TIME", 8)
    inputs, parts = inputs_for(model, 5, length), []
    model.encoder.layer[0].intermediate.register_forward_hook(lambda module, args, output: parts.append(len(output)))
    with torch.no_grad():
        found = model(**inputs)
    assert parts == rows
    parts.clear()
    whole = model(**inputs)
    assert parts == [5], "with gradients there is nothing to gain"
    assert_same_outputs(found, whole)


@families
def test_too_long_input_is_refused(family):
    model = build(family)
    with pytest.raises(ValueError, match="41 tokens long, but `max_position_embeddings` is 40"):
        model(torch.ones(1, 41, dtype=torch.long))


@families
def test_shapes_can_be_tried_out_on_the_meta_device(family):
    model = build(family).to("meta")
    assert model(torch.ones(2, 5, dtype=torch.long, device="meta")).last_hidden_state.shape == (2, 5, 32)


@families
def test_pooler_is_optional(family):
    package, prefix, _ = FAMILIES[family]
    model = getattr(package, f"{prefix}Model")(build(family).config, add_pooling_layer=False)
    assert model(**inputs_for(model)).pooler_output is None


@pytest.mark.parametrize(
    ("problem_type", "labels", "loss"),
    [
        ("regression", torch.tensor([[0.5], [1.0], [-1.0]]), functional.mse_loss),
        ("single_label_classification", torch.tensor([0, 2, 1]), functional.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]]),
            functional.binary_cross_entropy_with_logits,
        ),
    ],
)
@families
def test_the_problem_is_told_from_the_labels(family, problem_type, labels, loss):
    model = build(family, "ForSequenceClassification", num_labels=1 if problem_type == "regression" else 3)
    output = model(**inputs_for(model), labels=labels)
    assert model.config.problem_type == problem_type
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


def test_pretraining_loss_is_the_sum_of_the_losses_asked_for():
    model = build("mobilebert_md-stages", "ForPreTraining")
    inputs = inputs_for(model, labels=True)
    both = model(**inputs).loss
    next_sentence_label = inputs.pop("next_sentence_label")
    masked_lm = model(**inputs).loss
    del inputs["labels"]
    next_sentence = model(**inputs, next_sentence_label=next_sentence_label).loss
    torch.testing.assert_close(both, masked_lm + next_sentence)
    assert model(**inputs).loss is None


@pytest.mark.parametrize("family", ["mobilebert_md-uniform", "mobilebert_md-stages", "ib_bert-stages"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_invariant_trigram(family, side, implementation):
    model = build(family, padding_invariant_trigram=True, attn_implementation=implementation)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0] = torch.randn(20)
    length = 7
    input_ids = torch.randint(1, 60, (2, length), generator=torch.Generator().manual_seed(0))
    expected = model(input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state
    for padding in (1, 2, 30):
        pads = (padding, 0) if side == "left" else (0, padding)
        mask = functional.pad(torch.ones_like(input_ids), pads)
        position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
        padded = functional.pad(input_ids, pads)
        output = model(padded, attention_mask=mask, position_ids=position_ids).last_hidden_state[mask.bool()]
        # 1e-6 of the largest value: padding may change the order of summation, nothing else.
        assert (output - expected.flatten(0, 1)).abs().max() < 1e-6 * expected.abs().max()


def test_trigram_sees_the_pad_embedding_by_default():
    model = build("mobilebert_md-uniform")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0] = torch.randn(20)
    input_ids = torch.tensor([[5, 6, 7]])
    padded = torch.tensor([[5, 6, 7, 0]])
    alone = model(input_ids).last_hidden_state
    with_padding = model(padded, attention_mask=torch.tensor([[1, 1, 1, 0]])).last_hidden_state[:, :3]
    assert (alone - with_padding).abs().max() > 1e-3


def test_padding_invariant_trigram_needs_to_know_the_padding():
    model = build("mobilebert_md-padding_invariant", attn_implementation="eager")
    with pytest.raises(ValueError, match="`padding_invariant_trigram` needs an `attention_mask`"):
        model(torch.ones(1, 4, dtype=torch.long), attention_mask=torch.zeros(1, 1, 4, 4))


def test_value_reads_only_its_share_of_the_feature_map():
    model = build("mobilebert_md-uniform", per_layer_config={0: {"value_input_size": 12}})
    attention = model.encoder.layer[0].attention.self
    assert attention.value.in_features == 12
    layer_input = torch.randn(1, 4, 32)
    changed = layer_input.clone()
    changed[..., 12:] += 1
    query = torch.randn(1, 4, 16)
    torch.testing.assert_close(attention(query, query, layer_input)[0], attention(query, query, changed)[0])


def test_flash_attention_depends_on_the_head_size():
    assert build("smbert-uniform")._supports_flash_attn
    assert not build("smbert-uneven")._supports_flash_attn
