"""Contrastive training of sentence embeddings."""

import json

import pandas as pd
import pytest
import torch
from families import assert_same, build
from safetensors.torch import load_file
from typer.testing import CliRunner

from compactbert.cli import app
from compactbert.hub import run_without_packages
from compactbert.training.embeddings import train_embeddings


SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "max_length": 16}
# Of the rows that mean the same; see `pairs`.
COLUMNS = {"text_columns": ["first", "second"], "positive": "same"}
WORDS = [("car", "auto"), ("film", "movie"), ("big", "large"), ("quick", "fast"), ("stone", "rock"), ("sea", "ocean")]


def save(family, folder, tokenizer):
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "hidden_dropout_prob": 0.1}
    build(family, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, minilm_tokenizer):
    return save("smbert-uneven", tmp_path_factory.mktemp("base") / "model", minilm_tokenizer)


@pytest.fixture
def pairs(tmp_path):
    """Rows that mean the same and rows that do not."""
    rows = [(f"the {one}", f"a {other}", "same") for one, other in WORDS]
    rows += [(f"the {WORDS[i][0]}", f"a {WORDS[i - 1][1]}", "other") for i in range(len(WORDS))]
    path = tmp_path / "pairs.csv"
    pd.DataFrame(rows * 4, columns=["first", "second", "label"]).to_csv(path, index=False)
    return path


def similarities(folder):
    """Of texts that mean the same, and of those that do not."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), trust_remote_code=True)
    first, second = (model.encode([pair[i] for pair in WORDS], convert_to_tensor=True) for i in (0, 1))
    found = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=-1)
    same = found.diagonal().mean().item()
    return same, ((found.sum() - found.trace()) / (found.numel() - len(WORDS))).item()


@pytest.mark.parametrize("method", ["pairs", "margin"])
def test_texts_that_mean_the_same_come_near_each_other(base, pairs, tmp_path, method):
    report = train_embeddings(base, str(pairs), tmp_path / "out", method=method, **COLUMNS, **SETTINGS | {"epochs": 15})
    # A tenth is held out, as for every task without an evaluation split; half of the rest mean the same.
    assert report["rows"] == {"margin": 43, "pairs": 22}[method]
    assert report["settings"]["margin"] == 0.5
    # Of a file its name: where it lay is nobody's business.
    assert "/" not in report["task"]
    assert "/" not in report["settings"]["task"]
    before, after = similarities(base), similarities(tmp_path / "out")
    assert after[0] - after[1] > before[0] - before[1] + 0.1


def test_simcse_draws_texts_apart(base, tmp_path):
    texts = [f"{kind} {word}" for pair in WORDS for word in pair for kind in ("the", "a", "one", "this")]
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join([*texts, *texts]) + "\n")
    report = train_embeddings(base, str(tmp_path / "texts.csv"), tmp_path / "out", **SETTINGS)
    assert (report["rows"], report["steps"]) == (48, 9)
    assert similarities(tmp_path / "out")[1] < similarities(base)[1]


@pytest.mark.long
def test_the_result_loads_without_our_packages(minilm_tokenizer, pairs, tmp_path):
    base = save("mobilebert_md-stages", tmp_path / "base", minilm_tokenizer)
    train_embeddings(base, str(pairs), tmp_path / "out", method="pairs", max_steps=1, **COLUMNS, **SETTINGS)
    files = [path for path in (tmp_path / "out").rglob("*.json") if path.name != "metrics.json"]
    assert str(tmp_path) not in "".join(path.read_text() for path in files)
    code = """
import sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True)
print(type(model[0].auto_model).__module__.split(".")[0], model.encode(["the car"]).tolist())
"""
    printed = run_without_packages(code, str(tmp_path / "out")).splitlines()[-1]
    module, values = printed.split(" ", 1)
    assert module == "transformers_modules"
    from sentence_transformers import SentenceTransformer

    here = SentenceTransformer(str(tmp_path / "out"), trust_remote_code=True).encode(["the car"])
    assert torch.allclose(torch.tensor(json.loads(values)), torch.tensor(here), atol=1e-5)


def test_a_stopped_run_continues_to_the_same_weights(base, pairs, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("compactbert.training.embeddings.SAVE_STEPS", 2)
    # The last step lies within an epoch.
    options = COLUMNS | SETTINGS | {"method": "margin", "max_steps": 8}
    train_embeddings(base, str(pairs), tmp_path / "whole", **options)
    save, saved = SentenceTransformer.save_pretrained, []

    def stop_at_the_third(*arguments, **options):
        saved.append(arguments)
        return stop() if len(saved) == 3 else save(*arguments, **options)

    def stop():
        raise InterruptedError

    # At a checkpoint, then at the report after the last step.
    for place, stopping in (
        ("sentence_transformers.SentenceTransformer.save_pretrained", stop_at_the_third),
        ("compactbert.training.embeddings.environment", stop),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, stopping)
            with pytest.raises(InterruptedError):
                train_embeddings(base, str(pairs), tmp_path / "stopped", **options)
        assert list((tmp_path / "stopped.partial").glob("checkpoint-*"))
    report = train_embeddings(base, str(pairs), tmp_path / "stopped", **options)
    assert report["steps"] == 8
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert_same(whole, stopped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "triplet"}, "`method` must be one of"),
        ({"temperature": 0}, "`temperature` must be positive"),
        ({"method": "pairs", "text_columns": ["first"]}, "needs two columns of text"),
        ({"method": "margin", "positive": "equal"}, r"`positive` must be one of the classes \['other', 'same'\]"),
    ],
)
def test_what_does_not_fit_is_refused(base, pairs, tmp_path, options, message):
    options = {"text_columns": ["first", "second"]} | options
    with pytest.raises(ValueError, match=message):
        train_embeddings(base, str(pairs), tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_simcse_without_dropout_is_refused(tiny_model, reviews, tmp_path):
    with pytest.raises(ValueError, match="'simcse' needs dropout, and the model has none"):
        train_embeddings(tiny_model, str(reviews), tmp_path / "out")


def test_the_command(base, pairs, tmp_path):
    columns = ["--text-column", "first", "--text-column", "second", "--method", "pairs", "--positive", "same"]
    output = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "report.json")]
    result = CliRunner().invoke(
        app, ["train-embeddings", "--model", str(base), "--task", str(pairs), *columns, *output]
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "report.json").read_text())["method"] == "pairs"
    assert (tmp_path / "out" / "modules.json").is_file()
