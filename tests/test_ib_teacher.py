import numpy as np
import pytest
import torch
from families import assert_same, build, inputs_for, snapshot

from compactbert.training import make_ib_bert


WIDTH, MAP = 32, 48


def make_source(**fields):
    """A BERT whose last LayerNorm has a feature without weight; the weights of all are random, around 1."""
    model = build("smbert-uniform", "ForPreTraining", **fields)
    model.set_attn_implementation("eager")
    norms = [module for module in model.modules() if type(module).__name__.endswith("LayerNorm")]
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(0.5 + torch.rand_like(norm.weight))
        model.base_model.encoder.layer[-1].output.LayerNorm.weight[5] = 0.0
    return model


def look(model, inputs):
    with torch.no_grad():
        outputs = model.base_model(**inputs, output_hidden_states=True, output_attentions=True)
    return outputs.hidden_states, outputs.attentions


@pytest.mark.parametrize("map_size", [WIDTH, MAP, 4 * WIDTH])
def test_the_teacher_computes_what_the_model_does(map_size):
    source = make_source()
    before = snapshot(source)
    made = make_ib_bert(source, map_size, embedding_size=WIDTH)
    made.set_attn_implementation("eager")
    inputs = inputs_for(source)
    kept = inputs["attention_mask"].bool()
    (ours, our_attentions), (theirs, their_attentions) = look(made, inputs), look(source, inputs)
    assert len(ours) == len(theirs) == 4
    for state, expected in zip(ours, theirs, strict=True):
        assert state.shape[-1] == map_size
        torch.testing.assert_close(state[kept][:, :WIDTH], expected[kept], rtol=1e-3, atol=2e-3)
        assert not state[kept][:, WIDTH:].any()
    for maps, expected in zip(our_attentions, their_attentions, strict=True):
        torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3)
    assert_same(before, source.state_dict())
    assert made.config.model_type == "ib_bert"
    assert not made.training
    assert make_ib_bert(source.train(), map_size, WIDTH).training


def test_the_teacher_is_saved_and_read_back(tmp_path):
    made = make_ib_bert(make_source(), MAP, WIDTH)
    made.save_pretrained(tmp_path)
    again = type(made).from_pretrained(tmp_path).eval()
    inputs = inputs_for(made)
    with torch.no_grad():
        assert torch.equal(made(**inputs).prediction_logits, again(**inputs).prediction_logits)


def embedded(model, tokens):
    """What token embeddings contribute to the state, beside their mean over the features that LayerNorm removes."""
    embeddings = model.base_model.embeddings
    words = embeddings.word_embeddings.weight.detach().double()
    if hasattr(embeddings, "embedding_transformation"):
        size = words.shape[1]
        matrix = embeddings.embedding_transformation.weight.detach().double()
        assert not matrix[:, :size].any()
        assert not matrix[:, 2 * size :].any()
        words = words @ matrix[:, size : 2 * size].T + embeddings.embedding_transformation.bias.detach().double()
        words = words[:, :WIDTH]
    return (words - words.mean(-1, keepdim=True)).numpy()[tokens]


@pytest.mark.parametrize("rank", [1, 8, 20])
def test_a_low_rank_is_the_best_approximation(rank):
    source = make_source()
    table = source.base_model.embeddings.word_embeddings.weight.detach().double().numpy()
    made = make_ib_bert(source, MAP, rank)
    assert made.config.embedding_size == rank
    # Eckart and Young: the singular values that are left out, of the table around its mean.
    mean = table.mean(0)
    u, s, v = np.linalg.svd(table - mean, full_matrices=False)
    best = mean + (u[:, :rank] * s[:rank]) @ v[:rank]
    expected = best - best.mean(-1, keepdims=True)
    np.testing.assert_allclose(embedded(made, slice(None)), expected, atol=1e-5)


def test_frequent_tokens_are_kept_better():
    source = make_source()
    counts = torch.ones(source.config.vocab_size, dtype=torch.long)
    frequent = [7, 30, 31]
    counts[frequent] = 100_000
    target = embedded(source, slice(None))
    errors = []
    for given in (None, counts):
        found = embedded(make_ib_bert(source, MAP, 4, given), slice(None))
        errors.append(((found - target) ** 2).sum(-1))
    assert (errors[1][frequent] < 0.05 * errors[0][frequent]).all()
    assert errors[1].sum() > errors[0].sum()


def test_more_rank_keeps_more():
    source, inputs = make_source(), inputs_for(make_source())
    expected = look(source, inputs)[0][-1]
    errors = []
    for rank in (4, 16, WIDTH):
        states = look(make_ib_bert(source, MAP, rank), inputs)[0][-1][..., :WIDTH]
        errors.append((states - expected).pow(2).mean().item())
    assert errors[0] > errors[1] > errors[2]


def test_heads_may_have_any_size():
    source = make_source(num_attention_heads=3, attention_head_size=8, intermediate_size=10)
    made = make_ib_bert(source, MAP, WIDTH)
    inputs = inputs_for(source)
    states, expected = (look(model, inputs)[0][-1] for model in (made, source))
    torch.testing.assert_close(states[..., :WIDTH], expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("mobilebert_md-uniform", (MAP, 20), "Expected a BERT in the form of SmBERT, got 'mobilebert_md'"),
        ("smbert-uneven", (MAP, 20), r"Expected layers of one size .*, got \[\(3, 8, 10\)"),
        ("smbert-uniform", (24, 20), "got 20, 32 and 24: a state must fit"),
        ("smbert-uniform", (MAP, 33), "got 33, 32 and 48"),
        ("smbert-uniform", (MAP, 0), "got 0, 32 and 48"),
        ("smbert-uniform", (MAP, 20, torch.ones(59)), "`token_counts` must have 60 numbers, got 59"),
    ],
)
def test_models_that_cannot_become_a_teacher_are_refused(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_ib_bert(build(family), *arguments)
