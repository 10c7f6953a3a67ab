"""The Space that measures models side by side: what it shows, refuses, and what a browser makes of it."""

import os
import statistics

import pytest
from families import build
from transformers import BertConfig


pytest.importorskip("gradio", reason='needs pip install ".[spaces]"')
import gradio
from gradio_client import Client
from gradio_client.exceptions import AppError
from pages import HAS_MCP, HOSTILE, assert_is_text, call_tool, field, loaded_app, opened, served

import measuring
from compactbert.hub import read_catalogue
from measuring import ROUNDS, WARMUP, Measured, Models, Quality, plot, read_quality, tabulate


TINY = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
CARD = """---
model-index:
- name: small
  results:
  - task: {type: text-classification}
    dataset: {name: sst2, type: nyu-mll/glue, split: validation}
    metrics:
    - {type: accuracy, value: 0.75}
    - {type: perplexity, value: 12.5}
---
# small
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory, minilm_tokenizer):
    """Two models, one of which says how good it is."""
    folder = tmp_path_factory.mktemp("models")
    for name, layers in (("small", 1), ("large", 12)):
        sizes = {"vocab_size": len(minilm_tokenizer), "max_position_embeddings": 64, "num_hidden_layers": layers}
        build("smbert-uniform", "ForSequenceClassification", **sizes).save_pretrained(folder / name)
        minilm_tokenizer.save_pretrained(folder / name)
    (folder / "small" / "README.md").write_text(CARD)
    return {name: str(folder / name) for name in ("small", "large")}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The Space's own program; of the known shapes, those that it opens with are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MiniLM-L6", "BERT-base"):
            patch.setitem(measuring.SHAPES, name, (BertConfig, TINY))
        with loaded_app("size_vs_speed", tmp_path_factory.mktemp("gradio")) as module:
            yield module


@pytest.fixture(scope="module")
def url(app, places):
    with served(app.build(Models(places)), **app.LAUNCH | {"mcp_server": HAS_MCP}) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def test_the_zoo_is_there_on_first_open(app):
    with served(app.demo, **app.LAUNCH | {"mcp_server": False}) as address:
        table, _, _ = Client(address, verbose=False).predict(app.TEXT, ["smbert-sst2"], api_name="/measure")
    name, parameters, tokens, *_, quality = table["data"][0]
    rows = read_catalogue()
    assert {*app.FIRST} <= {row["name"] for row in rows}
    (row,) = (row for row in rows if row["name"] == "smbert-sst2")
    assert (name, parameters, tokens) == ("smbert-sst2", round(row["parameters"] / 1e6, 2), 25)
    assert quality.startswith(f"accuracy {row['scores']['accuracy']:.3f}")


def test_models_are_measured_side_by_side(client):
    names = ["small", "large", "BERT-base"]
    table, picture, said = client.predict("It is good.", names, api_name="/measure")
    rows = {row[0]: row for row in table["data"]}
    assert set(rows) == set(names)
    # As many tokens as the text has: [CLS] it is good . [SEP]
    assert {row[2] for row in rows.values()} == {6}
    assert rows["small"][3] < rows["large"][3]
    assert rows["small"][6] == "accuracy 0.750 on sst2, validation; perplexity 12.500 on sst2, validation"
    assert rows["large"][6] == rows["BERT-base"][6] == "not known here"
    assert rows["large"][5] == 1.0
    assert os.path.getsize(picture) > 5000
    assert f"{ROUNDS} forward passes of each model, in turns, after {WARMUP} untimed ones" in said
    assert "1 thread of torch" in said


def test_models_of_its_own_come_before_the_shapes(places):
    assert Models(places).names() == ["small", "large", "BERT-base", "DistilBERT", "MiniLM-L6", "MobileBERT"]


def test_the_models_take_turns_and_the_figures_are_those_just_measured(monkeypatch):
    turns, clock = [], [0.0]

    def pass_of(name, seconds):
        def forward(input_ids):
            turns.append(name)
            clock[0] += seconds

        return forward

    class Progress:
        @staticmethod
        def tqdm(items, desc):
            return items

    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    loaded = {name: pass_of(name, seconds) for name, seconds in (("small", 0.002), ("large", 0.01))}
    times = measuring.take_turns(loaded, {"small": None, "large": None}, Progress)
    assert turns == ["small", "large"] * (WARMUP + ROUNDS)
    assert times == {"small": pytest.approx([2] * ROUNDS), "large": pytest.approx([10] * ROUNDS)}
    # What takes long is stopped.
    times = measuring.take_turns({"large": pass_of("large", 9.0)}, {"large": None}, Progress)
    assert len(times["large"]) == measuring.FEWEST_ROUNDS


def test_the_table_and_the_picture():
    quality = Quality("accuracy", 0.8, "sst2, test")
    rows = [
        Measured("slow $a$", 110_000_000, 8, [8.0, 10.0, 12.0], []),
        Measured("fast", 8_000_000, 9, [1.0, 2.0, 4.0], [quality]),
    ]
    low, median, high = statistics.quantiles([1.0, 2.0, 4.0], n=4)
    assert tabulate(rows) == [
        ["fast", 8.0, 9, median, f"{low:g}-{high:g}", 5.0, "accuracy 0.800 on sst2, test"],
        ["slow $a$", 110.0, 8, 10.0, "8-12", 1.0, "not known here"],
    ]
    assert plot(rows, ["fast"]).std() > 0
    assert plot(rows[:1], []).shape == plot(rows, []).shape


def test_qualities_are_what_a_card_says(places, tmp_path):
    assert [str(quality) for quality in read_quality(places["small"])][0] == "accuracy 0.750 on sst2, validation"
    assert read_quality(places["large"]) == []
    (tmp_path / "README.md").write_text("No front matter.")
    assert read_quality(str(tmp_path)) == []


def test_without_models_of_its_own_the_shapes_are_measured(app):
    models = Models({})
    assert models.encode("BERT-base", "It is good.").shape == (1, 6)
    table, _, _ = models.measure("It is good.", ["BERT-base"])
    assert [row[0] for row in table] == ["BERT-base"]


@pytest.mark.parametrize(
    ("text", "models", "message"),
    [
        ("", ["small"], "type some text first"),
        ("\x00", ["small"], "type some text first"),
        ("x" * (1 << 20), ["small"], "at most 2,000 characters, this has 1,048,576"),
        ("Fine", [], "choose one or more"),
        ("a " * 70, ["small"], "small reads at most 64 tokens, this text has 72"),
        ("Fine", ["acme/evil"], "not in the list of choices"),
    ],
)
def test_what_cannot_be_measured_is_said(client, text, models, message):
    with pytest.raises(AppError, match=message):
        client.predict(text, models, api_name="/measure")


def test_no_model_is_loaded_that_is_not_offered(places):
    with pytest.raises(gradio.Error, match="There is no model"):
        Models(places).measure("Fine", ["acme/evil"])


def test_nothing_is_told_to_others_or_kept(app, client):
    assert app.demo.analytics_enabled is False
    assert client.config["run_history"] is False


@pytest.mark.skipif(not HAS_MCP, reason="needs mcp")
def test_the_measurement_is_a_tool(url):
    tools, answer = call_tool(url, "measure", {"text": "Fine", "models": ["small"]})
    assert set(tools) == {"measure"}
    assert "accuracy 0.750" in answer


def test_a_browser_measures(browser, url):
    made, expect = browser
    with opened(made, url) as page:
        # On first open, what is chosen has been measured.
        for name in ("small", "large", "MiniLM-L6", "BERT-base"):
            expect(page.locator("#table")).to_contain_text(name)
        assert f"{ROUNDS} forward passes" in page.locator("#said").inner_text()
        picture = page.locator("#picture img").get_attribute("src")
        field(page, "text").fill(HOSTILE)
        for name in ("large", "MiniLM-L6"):
            page.locator("#models").get_by_label(name, exact=True).uncheck()
        page.locator("#measure").click()
        expect(page.locator("#table")).not_to_contain_text("MiniLM-L6")
        expect(page.locator("#table")).to_contain_text("accuracy 0.750 on sst2, validation")
        expect(page.locator("#picture img")).not_to_have_attribute("src", picture)
        handle = page.locator("#picture img").element_handle()
        page.wait_for_function("picture => picture.naturalWidth > 300", arg=handle)
        assert_is_text(page)
        for name in ("small", "BERT-base"):
            page.locator("#models").get_by_label(name, exact=True).uncheck()
        page.locator("#measure").click()
        expect(page.locator("body")).to_contain_text("choose one or more")
