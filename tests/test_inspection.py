"""Looking into a model."""

import json

import numpy as np
import pytest
from families import build
from typer.testing import CliRunner

import compactbert
from compactbert.cli import app
from compactbert.inspection import (
    attention_maps,
    attention_statistics,
    embed_texts,
    inspect,
    plot_attention,
    plot_losses,
    project,
)


TEXTS = ["a good film", "it is a very long and very bad film", "music"]


@pytest.fixture(scope="module", params=["smbert-uneven", "mobilebert_md-stages", "ib_bert-uniform"])
def model(request, minilm_tokenizer):
    return build(request.param, "ForSequenceClassification", vocab_size=len(minilm_tokenizer))


def test_attention_maps_are_probabilities_of_every_head(model, minilm_tokenizer):
    model.train()
    tokens, maps = attention_maps(model, minilm_tokenizer, "a good film")
    assert tokens == ["[CLS]", "a", "good", "film", "[SEP]"]
    assert [m.shape for m in maps] == [(layer.num_attention_heads, 5, 5) for layer in model.config.per_layer_config]
    assert all(np.allclose(m.sum(-1), 1, atol=1e-5) for m in maps)
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    assert len(plot_attention(tokens, maps).axes) == 3
    assert len(plot_attention(tokens, maps, layer=1).axes) == len(maps[1])


def test_attention_statistics_are_those_of_the_maps_one_by_one(model, minilm_tokenizer):
    statistics = attention_statistics(model, minilm_tokenizer, TEXTS, batch_size=2)
    maps = [attention_maps(model, minilm_tokenizer, text)[1] for text in TEXTS]
    # MobileBERT's last token sees the padding, which moves its maps by little.
    near = 1e-6 if model.config.model_type == "smbert" else 0.05
    for i, layer in enumerate(statistics):
        values = np.concatenate([of_text[i].flatten() for of_text in maps])
        entropies = np.concatenate([-(of_text[i] * np.log(of_text[i])).sum(-1).flatten() for of_text in maps])
        assert layer["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert layer["variance"] == pytest.approx(values.var(), rel=near, abs=1e-7)
        assert layer["entropy"] == pytest.approx(entropies.mean(), rel=near)


def test_embeddings_do_not_depend_on_padding(minilm_tokenizer):
    model = build("smbert-uneven", vocab_size=len(minilm_tokenizer))
    together = embed_texts(model, minilm_tokenizer, TEXTS)
    alone = np.concatenate([embed_texts(model, minilm_tokenizer, [text]) for text in TEXTS])
    assert together.shape == (3, 32)
    assert np.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_groups_stay_apart_in_two_dimensions(method):
    generator = np.random.default_rng(0)
    groups = [generator.normal(size=(20, 8)) + 20 * i for i in range(2)]
    points = project(np.concatenate(groups), method)
    assert points.shape == (40, 2)
    assert np.allclose(points, project(np.concatenate(groups), method))
    one, other = points[:20], points[20:]
    distance = np.linalg.norm(one.mean(0) - other.mean(0))
    assert distance > 2 * max(np.linalg.norm(group - group.mean(0), axis=1).max() for group in (one, other))


def test_a_fine_tuned_model_is_drawn(tiny_model, reviews, tmp_path):
    trained = tmp_path / "trained"
    compactbert.finetune(tiny_model, str(reviews), trained, epochs=3, learning_rate=3e-3, batch_size=16, max_length=16)
    losses = json.loads((trained / "metrics.json").read_text())["losses"]
    assert [entry["step"] for entry in losses if "loss" in entry] == [12, 24, 36]
    assert [entry["step"] for entry in losses if "eval_loss" in entry] == [12, 24, 36]
    assert {"learning_rate", "eval_accuracy"} <= {name for entry in losses for name in entry}
    figure = plot_losses(losses)
    first, second = figure.axes[0].lines
    assert list(first.get_ydata()) == [entry["loss"] for entry in losses if "loss" in entry]
    assert list(second.get_xdata()) == [12, 24, 36]

    output = tmp_path / "seen"
    options = ["--task", str(reviews), "--output", str(output), "--rows", "10", "--layer", "1"]
    result = CliRunner().invoke(app, ["inspect", "--model", str(trained), *options])
    assert result.exit_code == 0, result.output
    pictures = ["attention.png", "attention_statistics.png", "embeddings.png", "losses.png"]
    assert sorted(path.name for path in output.iterdir()) == sorted([*pictures, "inspection.json"])
    assert all((output / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert len(json.loads((output / "inspection.json").read_text())["attention"]) == 3


def test_a_text_is_enough(tiny_model, tmp_path):
    result = inspect(tiny_model, tmp_path / "seen", text="a good film")
    assert result["files"] == ["attention.png", "attention_statistics.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Name a `task` or give a `text`"),
        ({"text": "x", "layer": 3}, "`layer` must be from 0 to 2, got 3"),
        ({"task": "REVIEWS", "projection": "umap"}, "`method` must be one of"),
        ({"task": "REVIEWS", "rows": 2}, "at least 3 texts"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tiny_model, reviews, tmp_path, options, message):
    options = {name: str(reviews) if value == "REVIEWS" else value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        inspect(tiny_model, tmp_path / "seen", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.csv"]
