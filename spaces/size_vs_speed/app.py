"""Small models and large ones, measured side by side on the visitor's own text: the page."""

import os


# Before gradio is imported: what is typed here concerns nobody else. Gradio's history of runs would keep it in the
# browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from measuring import COLUMNS, MAX_CHARACTERS, Models, find_models


LAUNCH = {"mcp_server": True, "run_history": False, "enable_monitoring": False, "footer_links": ["api"]}
# How often Gradio looks for pictures that it made, and the age at which it deletes them, in seconds.
DELETE_FILES = (600, 3600)
# On first open: of the zoo, models of different shapes (of others, all), and what they are compared with.
FIRST, BESIDE = ("smbert-sst2", "mobilebert-md-small"), ["MiniLM-L6", "BERT-base"]
INTRODUCTION = f"""# Size against speed
How long do models take for **your** text on **this** machine? Choose some, and they take turns at reading it: every
figure below is of this measurement, made just now, and the next one will differ a little. Texts have at most
{MAX_CHARACTERS:,} characters and are not kept.

BERT-base, DistilBERT, MiniLM-L6 and MobileBERT are the architectures of transformers with random weights: how fast a
model is does not depend on its weights. How good a model is does: it is shown where the model's own card says it, with
what it was measured on.
"""
TEXT = "A warm, funny and moving film, if a little too long: the first hour could have been twenty minutes."


def build(models: Models) -> gr.Blocks:
    """The page on some models. It opens with a measurement."""
    names = models.names()
    first = [name for name in models.places if name in FIRST] or [*models.places]
    with gr.Blocks(title="Size against speed", delete_cache=DELETE_FILES) as page:
        gr.Markdown(INTRODUCTION)
        text = gr.Textbox(TEXT, label="Text", lines=3, elem_id="text")
        chosen = gr.CheckboxGroup(names, value=[*first, *BESIDE], label="Models", elem_id="models")
        button = gr.Button("Measure", variant="primary", elem_id="measure")
        table = gr.Dataframe(
            headers=list(COLUMNS),
            column_widths=list(COLUMNS.values()),
            label="Measured",
            interactive=False,
            wrap=True,
            elem_id="table",
        )
        said = gr.Markdown(elem_id="said")
        picture = gr.Image(
            label="Latency against parameters and quality",
            show_label=False,
            format="png",
            # Not the button that sends it to others.
            buttons=["download", "fullscreen"],
            elem_id="picture",
        )
        gr.Examples([["Great!"], [TEXT], [" ".join([TEXT] * 10)]], [text])
        # Two measurements at a time would be in each other's way.
        turn = {"concurrency_limit": 1, "concurrency_id": "processor"}
        outputs = [table, picture, said]
        button.click(models.measure, [text, chosen], outputs, api_name="measure", **turn)
        page.load(models.measure, [text, chosen], outputs, api_visibility="private", **turn)
    return page


demo = build(Models(find_models()))


if __name__ == "__main__":
    demo.launch(**LAUNCH)
