"""The Space that fills masks, classifies and shows how: its answers, refusals, and what a browser makes of it."""

import json
import os
import re

import pytest
import torch
from families import build


pytest.importorskip("gradio", reason='needs pip install ".[spaces]"')
import gradio
from gradio_client import Client
from gradio_client.exceptions import AppError
from pages import HAS_MCP, HOSTILE, assert_is_text, call_tool, field, loaded_app, opened, served

from reading import LONGEST_ANSWER, Models, check_text, find_models


LABELS = {
    "ForSequenceClassification": ["dull", "great"],
    "ForTokenClassification": ["O", "B-PER"],
}
CONTEXT = "The bank closes at six."


@pytest.fixture(scope="module")
def models(tmp_path_factory, minilm_tokenizer):
    """Random models of four heads whose biases say what they answer, and one of losses, without a head."""
    folder = tmp_path_factory.mktemp("models")
    for head in ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"):
        fields = {"vocab_size": len(minilm_tokenizer), "max_position_embeddings": 64}
        model = build("smbert-uniform", head, **fields, id2label=dict(enumerate(LABELS.get(head, ["a", "b"]))))
        with torch.no_grad():
            if head in LABELS:
                model.classifier.bias.copy_(torch.tensor([0.0, 20.0]))
            if head == "ForMaskedLM":
                model.get_output_embeddings().bias[minilm_tokenizer.convert_tokens_to_ids("paris")] = 100
        model.save_pretrained(folder / head.lower())
        minilm_tokenizer.save_pretrained(folder / head.lower())
    losses = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0, "eval_loss": 1.5}]
    (folder / "model" / "metrics.json").write_text(json.dumps({"losses": losses}))
    return Models({path.name: str(path) for path in sorted(folder.iterdir())})


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The Space's own program, on the zoo."""
    with loaded_app("fill_mask_and_classify", tmp_path_factory.mktemp("gradio")) as module:
        yield module


@pytest.fixture(scope="module")
def url(app, models):
    with served(app.build(models), **app.LAUNCH | {"mcp_server": HAS_MCP}) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def test_the_zoo_is_there_on_first_open(app):
    with served(app.demo, **app.LAUNCH | {"mcp_server": False}) as address:
        client = Client(address, verbose=False)
        label = client.predict(app.REVIEW, "", "smbert-sst2", api_name="/classify")
        _, words = client.predict("She [MASK] born in 1975.", "smbert", api_name="/fill_mask")
        entities = client.predict(app.NEWS, "smbert-conll2003", api_name="/find_entities")
    chosen = {block.value for block in app.demo.blocks.values() if getattr(block, "label", "") == "Model"}
    assert chosen == {"smbert-sst2", "smbert", "smbert-conll2003"}
    assert words["data"][0][1] == "was"
    assert {"PER", "LOC"} <= {piece["class_or_confidence"] for piece in entities}
    assert label["label"] == "positive"
    assert label["confidences"][0]["confidence"] > 0.9


def test_models_are_those_that_the_variable_names(models, monkeypatch):
    folder = models.places["model"]
    monkeypatch.setenv("MODEL_ID", f" {folder}, acme/reviews ,")
    assert find_models() == {"model": folder, "acme/reviews": "acme/reviews"}
    monkeypatch.setenv("MODEL_ID", f"{folder},{folder}/")
    with pytest.raises(ValueError, match="two models of the name 'model'"):
        find_models()


def test_masks_are_filled(client):
    filled, rows = client.predict("[MASK] is  in [MASK]!", "formaskedlm", api_name="/fill_mask")
    assert [piece["token"] for piece in filled if piece["token"]] == ["paris", " is  in ", "paris", "!"]
    assert [piece["class_or_confidence"] for piece in filled].count("100%") == 2
    assert [row[0] for row in rows["data"]] == [1] * 5 + [2] * 5
    assert rows["data"][0][1] == "paris"


def test_texts_and_pairs_are_classified(client, models, monkeypatch):
    assert client.predict("Fine", "", "forsequenceclassification", api_name="/classify")["label"] == "great"
    one, two = (models.classify("Fine", second, "forsequenceclassification") for second in ("", "Not fine"))
    assert one != two
    config = models.load("forsequenceclassification").model.config
    monkeypatch.setattr(config, "problem_type", "regression")
    assert re.fullmatch(r"-?\d+\.\d\d; -?\d+\.\d\d", models.classify("Fine", "", "forsequenceclassification"))


def test_entities_are_where_they_are_in_the_text(client):
    pieces = client.predict("Ann met  Bob", "fortokenclassification", api_name="/find_entities")
    assert [piece["token"] for piece in pieces if piece["class_or_confidence"] == "PER"] == ["Ann", "met", "Bob"]
    assert "".join(piece["token"] for piece in pieces) == "Ann met  Bob"


def test_the_most_probable_span_of_the_context_is_the_answer(client, models):
    found, probability, marked = client.predict("When?", CONTEXT, "forquestionanswering", api_name="/answer")
    assert found in CONTEXT
    assert [piece["token"] for piece in marked if piece["class_or_confidence"] == "answer"] == [found]
    chosen = models.load("forquestionanswering")
    encoded = chosen.encode("When?", CONTEXT)
    with torch.no_grad():
        output = chosen.model(**encoded)
    starts, ends = output.start_logits[0].softmax(-1), output.end_logits[0].softmax(-1)
    first = 1 + encoded["input_ids"][0].tolist().index(chosen.tokenizer.sep_token_id)
    last = len(starts) - 2
    spans = [(i, j) for i in range(first, last + 1) for j in range(i, min(last + 1, i + LONGEST_ANSWER))]
    assert probability == pytest.approx(max(float(starts[i] * ends[j]) for i, j in spans), abs=1e-4)


def test_pictures_are_drawn(client, models):
    pictures = [
        *client.predict("Costs $5 or $6 $", "model", 2, -1, api_name="/draw_attention"),
        client.predict("$\\frac$ one\n$$\n\n" + HOSTILE, "model", api_name="/draw_embeddings"),
        client.predict("model", api_name="/draw_losses"),
    ]
    assert all(os.path.getsize(picture) > 5000 for picture in pictures)
    for name in models.names():
        assert models.draw_embeddings("a\nb\nc", name).shape == (600, 900, 4)


LONG = "x" * (1 << 20)


@pytest.mark.parametrize(
    ("endpoint", "inputs", "message"),
    [
        ("fill_mask", ("", "formaskedlm"), "type some text first"),
        ("fill_mask", (LONG, "formaskedlm"), "at most 2,000 characters, this has 1,048,576"),
        ("fill_mask", ("no mask", "formaskedlm"), r"write \[MASK\] where"),
        ("fill_mask", ("[MASK] " * 200, "formaskedlm"), "reads at most 64 tokens, this text has 202"),
        ("classify", ("\x00\x00", "", "forsequenceclassification"), "type some text first"),
        ("classify", ("Fine", LONG, "forsequenceclassification"), "Second text: at most"),
        ("find_entities", (" \n ", "fortokenclassification"), "type some text first"),
        ("answer", ("When?", "", "forquestionanswering"), "Context: type some text"),
        ("answer", ("When?", "now " * 100, "forquestionanswering"), "reads at most 64 tokens"),
        ("draw_attention", ("a " * 61, "model", 0, 0), "is drawn for at most 60 tokens, this text has 63"),
        ("draw_attention", ("a", "model", 3, 0), "has the layers 0 to 2"),
        ("draw_attention", ("a", "model", 0, 4), "has the heads 0 to 3"),
        ("draw_embeddings", ("one\ntwo", "model"), "expected 3 to 100 lines, got 2"),
        ("draw_embeddings", ("a\n" * 101, "model"), "expected 3 to 100 lines, got 101"),
        ("classify", ("Fine", "", "acme/evil"), "not in the list of choices"),
    ],
)
def test_what_cannot_be_read_is_said(client, endpoint, inputs, message):
    with pytest.raises(AppError, match=message):
        client.predict(*inputs, api_name=f"/{endpoint}")


def test_odd_text_is_read(models):
    for text in ("a\x00b", "\ud800 half", "\u200b", "日本語 🙂", "$" * 20, HOSTILE):
        assert models.classify(text, "", "forsequenceclassification")["great"] > 0.9
        assert models.find_entities(text, "fortokenclassification")["text"] == check_text(text, "Text")
        assert models.answer(text, text, "forquestionanswering")[0] in check_text(text, "Context")
    models.draw_attention("日本語 🙂 $ $", "model", 0, 0)
    assert len(check_text("a\x00\ud800b\tc\nd", "Text")) == 8


def test_no_model_is_loaded_that_is_not_offered(models):
    with pytest.raises(gradio.Error, match="There is no model"):
        models.classify("Fine", "", "acme/evil")


def test_tabs_without_a_model_say_how_to_add_one(app, models):
    for places, tabs in (({}, 6), ({"model": models.places["model"]}, 4)):
        texts = [str(part["props"].get("value")) for part in app.build(Models(places)).config["components"]]
        assert len([text for text in texts if "`MODEL_ID`" in text]) == tabs


def test_nothing_is_told_to_others_kept_or_logged(app, client, capfd, caplog):
    assert app.demo.analytics_enabled is False
    assert client.config["run_history"] is False
    client.predict("Quilligan", "", "forsequenceclassification", api_name="/classify")
    client.predict("Quilligan 日本", "model", 0, 0, api_name="/draw_attention")
    with pytest.raises(AppError):
        client.predict("Quilligan", "formaskedlm", api_name="/fill_mask")
    written = capfd.readouterr()
    for text in (written.out, written.err, caplog.text):
        assert "Quilligan" not in text
        assert "Glyph" not in text


@pytest.mark.skipif(not HAS_MCP, reason="needs mcp")
def test_every_button_is_a_tool(url):
    arguments = {"text": "Fine", "second_text": "", "model": "forsequenceclassification"}
    tools, answer = call_tool(url, "classify", arguments)
    assert set(tools) == {
        *("fill_mask", "classify", "find_entities", "answer"),
        *("draw_attention", "draw_embeddings", "draw_losses"),
    }
    assert "sentiment" in tools["classify"].description
    assert "great" in answer


@pytest.fixture(scope="module")
def page(browser, url):
    made, expect = browser
    with opened(made, url) as page:
        # Filled in when the page's own program runs: what is typed before is lost.
        expect(page.locator("#filled")).to_contain_text("paris")
        yield page, expect


# Tab, what to type where, the button, and where the page then shows what.
ACTIONS = {
    "Masked words": ({"masked": f"{HOSTILE} is [MASK]"}, "fill_mask", "filled", HOSTILE),
    "Sentiment and classes": ({"text": HOSTILE, "second": "two"}, "classify", "classes", "great"),
    "Entities": ({"news": HOSTILE + " Ann"}, "find_entities", "entities", "PER"),
    "Answers": ({"question": "When?", "context": HOSTILE}, "answer", "marked", "answer"),
}


@pytest.mark.parametrize("tab", ACTIONS)
def test_a_browser_reads_text(page, tab):
    page, expect = page
    typed, button, shown, text = ACTIONS[tab]
    page.get_by_role("tab", name=tab).click()
    for name, value in typed.items():
        field(page, name).fill(value)
    page.locator(f"#{button}").click()
    expect(page.locator(f"#{shown}")).to_contain_text(text)
    assert_is_text(page)


PICTURES = {
    "Attention": ({"looked-at": "Ann has $5 and $6", "layer": "1", "head": "-1"}, "draw_attention", "attention"),
    "Embeddings": ({"texts": "one\n$two$\n" + HOSTILE}, "draw_embeddings", "embeddings"),
    "Losses": ({}, "draw_losses", "losses"),
}


@pytest.mark.parametrize("tab", PICTURES)
def test_a_browser_draws(page, tab):
    page, expect = page
    typed, button, shown = PICTURES[tab]
    page.get_by_role("tab", name=tab).click()
    for name, value in typed.items():
        field(page, name).fill(value)
    page.locator(f"#{button}").click()
    picture = page.locator(f"#{shown} img")
    expect(picture).to_be_visible()
    page.wait_for_function("picture => picture.naturalWidth > 300", arg=picture.element_handle())
    assert_is_text(page)


def test_a_browser_takes_an_example_and_shows_what_is_wrong(page):
    page, expect = page
    page.get_by_role("tab", name="Sentiment and classes").click()
    page.get_by_text("Two hours that I will never get back.").click()
    expect(field(page, "text")).to_have_value("Two hours that I will never get back.")
    field(page, "text").fill("")
    page.locator("#classify").click()
    expect(page.locator("body")).to_contain_text("type some text first")
