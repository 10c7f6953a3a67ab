"""Type text and see what small models make of it, and how they look at it: the page."""

import os


# Before gradio is imported: what is typed here concerns nobody else. Gradio's history of runs would keep it in the
# browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from reading import MASK, MAX_CHARACTERS, MAX_DRAWN_TOKENS, Models, find_models


LAUNCH = {"mcp_server": True, "run_history": False, "enable_monitoring": False, "footer_links": ["api"]}
# How often Gradio looks for pictures that it made, and the age at which it deletes them, in seconds.
DELETE_FILES = (600, 3600)
# One processor, one job at a time.
TURN: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "processor"}
INTRODUCTION = f"""# Fill masks and classify
Small BERTs, read by this machine's processor. Texts have at most {MAX_CHARACTERS:,} characters and are not kept. Every
button is also an endpoint of the [API](?view=api) and a tool for MCP clients.
"""
NOBODY = """No model of this Space does this. Add one: set the variable `MODEL_ID` to its folder or repository (several
with commas between). It needs `{head}` in the `architectures` of its `config.json`."""
NO_MODELS = "This Space has no models. Set the variable `MODEL_ID` to their folders or repositories, commas between."
NO_LOSSES = """No model of this Space brings the losses of its training: they are in the `metrics.json` that `finetune`
and `transfer` of compactbert leave beside the weights."""
# Of the zoo, what the texts below are for.
FIRST = ("smbert-sst2", "smbert", "smbert-conll2003")
REVIEW = "A warm, funny and moving film, if a little too long."
SENTENCE = f"He is an American {MASK} player."
NEWS = "Angela Merkel met Barack Obama in Berlin, where Siemens has its headquarters."
CONTEXT = "SmBERT has three layers. It was compressed from a MiniLM of six layers, and reads 512 tokens."
TEXTS = """The film was wonderful.
A moving and funny story.
I have never been so bored.
What a waste of time!
The train leaves at nine.
Trains to Berlin run every hour."""


# A function of the page, and what goes in and comes out.
Call = tuple[Callable, list, list]


def connect(function: Callable, title: str, inputs: list, outputs: list, examples: Sequence[list] = ()) -> Call:
    """A button that calls a function, as an endpoint and a tool of the function's name."""
    button = gr.Button(title, variant="primary", elem_id=function.__name__)
    button.click(function, inputs, outputs, api_name=function.__name__, **TURN)
    for output in outputs:
        output.render()
    if examples:
        gr.Examples([*map(list, examples)], inputs[: len(examples[0])])
    return function, inputs, outputs


def choose(names: list[str]) -> gr.Dropdown:
    """The choice of a model."""
    return gr.Dropdown(names, value=next((name for name in FIRST if name in names), names[0]), label="Model")


def picture(label: str, **options: Any) -> gr.Image:
    """A place for a picture, with nothing over it and no button that sends it anywhere."""
    buttons = ["download", "fullscreen"]
    return gr.Image(label=label, show_label=False, format="png", buttons=buttons, render=False, **options)


def build_masks(models: Models, names: list[str]) -> Call:
    """The tab that guesses words."""
    inputs = [gr.Textbox(SENTENCE, label=f"Text with {MASK} in it", lines=3, elem_id="masked"), choose(names)]
    filled = gr.HighlightedText(label="Filled in", elem_id="filled", render=False)
    headers = ["mask", "word", "probability"]
    rows = gr.Dataframe(headers=headers, label="Candidates", interactive=False, elem_id="candidates", render=False)
    examples = [[SENTENCE], [f"They won the national {MASK} in 2015."], [f"The film was {MASK} by Steven {MASK}."]]
    return connect(models.fill_mask, "Fill in", inputs, [filled, rows], examples)


def build_classes(models: Models, names: list[str]) -> Call:
    """The tab that classifies."""
    text = gr.Textbox(REVIEW, label="Text", lines=3, elem_id="text")
    second = gr.Textbox("", label="Second text, for models that compare two", elem_id="second")
    label = gr.Label(label="Classes", elem_id="classes", render=False)
    examples = [
        [REVIEW, ""],
        ["Two hours that I will never get back.", ""],
        ["The shop closes at six.", "The shop is open all night."],
    ]
    return connect(models.classify, "Classify", [text, second, choose(names)], [label], examples)


def build_entities(models: Models, names: list[str]) -> Call:
    """The tab that finds names."""
    inputs = [gr.Textbox(NEWS, label="Text", lines=3, elem_id="news"), choose(names)]
    entities = gr.HighlightedText(label="Entities", elem_id="entities", render=False)
    examples = [[NEWS], ["The United Nations were founded in San Francisco."], ["Nobody was there."]]
    return connect(models.find_entities, "Find entities", inputs, [entities], examples)


def build_answers(models: Models, names: list[str]) -> Call:
    """The tab that answers questions."""
    question = gr.Textbox("What was SmBERT compressed from?", label="Question", elem_id="question")
    context = gr.Textbox(CONTEXT, label="Context", lines=5, elem_id="context")
    answer = gr.Textbox(label="Answer", interactive=False, elem_id="found", render=False)
    probability = gr.Number(label="Probability", interactive=False, render=False)
    marked = gr.HighlightedText(label="Where", elem_id="marked", render=False)
    examples = [["How many layers has SmBERT?", CONTEXT], ["How much does it read?", CONTEXT]]
    inputs = [question, context, choose(names)]
    return connect(models.answer, "Answer", inputs, [answer, probability, marked], examples)


def build_attention(models: Models, names: list[str]) -> Call:
    """The tab that draws attention."""
    text = gr.Textbox(REVIEW, label=f"Text of up to {MAX_DRAWN_TOKENS} tokens", elem_id="looked-at")
    with gr.Row():
        model = choose(names)
        layer = gr.Number(0, label="Layer, from 0", precision=0, elem_id="layer")
        head = gr.Number(0, label="Head, from 0; -1 for the mean of all", precision=0, elem_id="head")
    outputs = [picture("Attention", elem_id="attention"), picture("In all layers", elem_id="spread")]
    return connect(models.draw_attention, "Draw attention", [text, model, layer, head], outputs)


def build_embeddings(models: Models, names: list[str]) -> Call:
    """The tab that draws texts as points."""
    inputs = [gr.Textbox(TEXTS, label="Texts, one a line", lines=6, elem_id="texts"), choose(names)]
    outputs = [picture("Embeddings", elem_id="embeddings")]
    return connect(models.draw_embeddings, "Draw embeddings", inputs, outputs)


def build_losses(models: Models, names: list[str]) -> Call:
    """The tab that draws how models were trained."""
    return connect(models.draw_losses, "Draw losses", [choose(names)], [picture("Losses", elem_id="losses")])


HEAD_TABS = [
    ("Masked words", "ForMaskedLM", build_masks),
    ("Sentiment and classes", "ForSequenceClassification", build_classes),
    ("Entities", "ForTokenClassification", build_entities),
    ("Answers", "ForQuestionAnswering", build_answers),
]
LOOKS = [("Attention", build_attention), ("Embeddings", build_embeddings)]


def build(models: Models) -> gr.Blocks:
    """The page on some models. It opens on the first thing that one of them can do, done."""
    tabs = [(title, build_tab, models.names(head), NOBODY.format(head=head)) for title, head, build_tab in HEAD_TABS]
    tabs += [(title, build_tab, models.names(), NO_MODELS) for title, build_tab in LOOKS]
    tabs.append(("Losses", build_losses, list(models.losses), NO_LOSSES))
    opens = next((title for title, _, names, _ in tabs if names), None)
    with gr.Blocks(title="Fill masks and classify", delete_cache=DELETE_FILES) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tabs(selected=opens):
            for title, build_tab, names, nobody in tabs:
                with gr.Tab(title, id=title):
                    if not names:
                        gr.Markdown(nobody)
                        continue
                    call = build_tab(models, names)
                    if title == opens:
                        page.load(*call, api_visibility="private", **TURN)
    return page


demo = build(Models(find_models()))


if __name__ == "__main__":
    demo.launch(**LAUNCH)
