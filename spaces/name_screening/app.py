"""Screen names against public lists, and clear the alerts: the page for officers."""

import os


# Before gradio is imported: what is screened here concerns nobody else. Gradio's history of runs would keep names, and
# passwords, in the browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from desk import (
    ALERT_COLUMNS,
    AUDIT_COLUMNS,
    FILE_COLUMNS,
    LOG_COLUMNS,
    MATCH_COLUMNS,
    MODEL_COLUMNS,
    PERSON_COLUMNS,
    QUEUES,
    REASON_COLUMNS,
    SIDE_COLUMNS,
    VERSION_COLUMNS,
    Desk,
    choose_alert,
    log_out,
    open_database,
)
from screening.accounts import Accounts
from screening.lists import KINDS
from screening.matching import DEFAULT_THRESHOLD
from screening.news import load_classifier, load_person_finder
from screening.photos import CUSTOMER, ENTRY, SIDES, load_photo_model
from screening.review import CLEAR, MATCH


LAUNCH = {"max_file_size": "64mb", "run_history": False, "enable_monitoring": False, "footer_links": ["api"]}
# How often Gradio looks for files that were uploaded or made for download, and the age at which it deletes them, in
# seconds.
DELETE_FILES = (600, 3600)
NEWS = (
    "Prosecutors in Moscow said on Monday that Pavel Karpov and Aleksey Belan had been questioned. "
    "Their lawyer, Maria Lindqvist, declined to comment."
)
FIRST_PASS = """Whether a text concerns crime or money laundering is judged by the model named under **In force**: in a
checkout of the project `smbert-lora-crime-news`, whose training labels came from a list of words, not from persons. A
probability of at most 0.1 means irrelevant. By a reader's labels of 300 texts that is what it says of 0.0% of the
relevant ones and of 65.7% of the others (README, First pass over news).
"""
INTRODUCTION = """# Name screening
Screens customers against published lists (OFAC, the UN, politically exposed persons, lists of your own), explains every
score, and keeps what two officers decide. Looking is open; changing anything needs a login. Names that are typed in
under **Screen** are not kept.
"""


def table(columns: list[str], name: str, **options: object) -> gr.Dataframe:
    """A table of text and numbers that cannot be edited."""
    return gr.Dataframe(headers=columns, label=name, type="array", interactive=False, wrap=True, **options)


def build_screen(desk: Desk) -> None:
    """The tab that screens one customer."""
    with gr.Row():
        name = gr.Textbox(label="Name", placeholder="In any script and order", elem_id="name")
        aliases = gr.Textbox(label="Other names", placeholder="With ; between")
        kind = gr.Dropdown(["", *KINDS], label="Kind", value="")
        birth_date = gr.Textbox(label="Born", placeholder="1977-08-27 or 1977")
        country = gr.Textbox(label="Country", placeholder="Name or code")
    button = gr.Button("Screen", variant="primary", elem_id="screen")
    matches = table(MATCH_COLUMNS, "Matches", elem_id="matches")
    reasons = table(REASON_COLUMNS, "Why", elem_id="reasons")
    gr.Examples(
        [
            ["Pavel Karpow", "", "person", "1977", "RU"],
            ["Алексей Белан", "", "person", "", ""],
            ["بسام أحمد الحصري", "", "person", "1971", "SY"],
            ["Sarmaye Bank Ltd", "", "organisation", "", "IR"],
        ],
        [name, aliases, kind, birth_date, country],
    )
    inputs = [name, aliases, kind, birth_date, country]
    gr.on([button.click, name.submit], desk.screen, inputs, [matches, reasons], api_name="screen")


def build_news(desk: Desk) -> None:
    """The tab that looks for listed persons in news."""
    gr.Markdown(FIRST_PASS)
    text = gr.Textbox(label="News", lines=8, placeholder="An article in English", elem_id="news")
    button = gr.Button("Read", variant="primary", elem_id="read-news")
    said = gr.Textbox(label="Result", interactive=False, elem_id="news-result")
    persons = table(PERSON_COLUMNS, "Persons", elem_id="persons")
    gr.Examples([[NEWS]], [text])
    button.click(desk.read_news, text, [said, persons], api_name="read_news")


def build_file(desk: Desk, session: gr.State) -> None:
    """The tab that screens a file of customers."""
    gr.Markdown("csv or parquet with the columns `id` and `name`, and `aliases`, `kind`, `birth_date`, `country`.")
    customers = gr.File(label="Customers", file_types=[".csv", ".parquet", ".gz"], elem_id="customers")
    save = gr.Checkbox(label="Save the customers and raise alerts (needs a login)")
    button = gr.Button("Screen the file", variant="primary", elem_id="screen-file")
    summary = gr.Textbox(label="Result", interactive=False, elem_id="file-summary")
    download = gr.DownloadButton("Save all matches as csv")
    found = table(FILE_COLUMNS, "Matches", elem_id="file-matches")
    outputs = [summary, found, download]
    button.click(desk.screen_file, [customers, save, session], outputs, api_name="screen_file")


def build_alerts(desk: Desk, session: gr.State, page: gr.Blocks) -> None:
    """The tab with the queue of alerts."""
    queue = gr.Radio(list(QUEUES), value=next(iter(QUEUES)), label="Alerts", elem_id="queue")
    widths = ["6%", "7%", "10%", "9%", "14%", "12%", "7%", "14%", "6%", "8%", "7%"]
    alerts = table(ALERT_COLUMNS, "Click a row to review it", elem_id="alerts", max_height=320, column_widths=widths)
    with gr.Row():
        alert_id = gr.Number(label="Alert", precision=0, minimum=0, elem_id="alert-id")
        status = gr.Textbox(label="Status", interactive=False, elem_id="status")
        revision = gr.Number(label="Revision you see", precision=0, interactive=False)
    advice = gr.Textbox(
        label="Advice of the second-level review, and the fields without which it would be another",
        interactive=False,
        lines=2,
        elem_id="advice",
    )
    sides = table(SIDE_COLUMNS, "Both sides", elem_id="sides", column_widths=["12%", "40%", "48%"])
    reasons = table(REASON_COLUMNS[1:], "Why", elem_id="why", column_widths=["22%", "10%", "68%"])
    with gr.Accordion("Photographs", open=False, elem_id="photographs"), gr.Row():
        images = [
            gr.Image(label=f"The {side}'s photograph", interactive=False, height=240, elem_id=f"photo-{side}")
            for side in (CUSTOMER, ENTRY)
        ]
        with gr.Column():
            compared = gr.Textbox(label="Comparison", interactive=False, elem_id="compared")
            side = gr.Radio(list(SIDES), value=CUSTOMER, label="Of the", elem_id="photo-side")
            photo = gr.File(
                label="JPEG, PNG or WebP", file_types=[".jpg", ".jpeg", ".png", ".webp"], height=120, elem_id="photo"
            )
            attach = gr.Button("Attach, or remove without a file", elem_id="attach")
            attached = gr.Textbox(label="Result", interactive=False, elem_id="attached")
    log = table(LOG_COLUMNS, "Decided so far", elem_id="log")
    with gr.Row():
        decision = gr.Radio([CLEAR, MATCH], label="Decision", elem_id="decision")
        reason = gr.Textbox(label="Reason", elem_id="reason")
    button = gr.Button("Decide", variant="primary", elem_id="decide")
    decided = gr.Textbox(label="Result", interactive=False, elem_id="decided")
    with gr.Row():
        export = gr.Button("Make a csv of these alerts")
        exported = gr.DownloadButton("Save the csv")
    shown = [status, revision, advice, sides, reasons, log]
    page.load(desk.show_queue, queue, alerts, api_visibility="private")
    queue.change(desk.show_queue, queue, alerts, api_name="alerts")
    export.click(desk.export_queue, queue, exported, api_name="export_alerts")
    photographs = [*images, compared]
    chosen = alerts.select(choose_alert, None, alert_id, api_visibility="private")
    chosen.then(desk.show_alert, alert_id, shown, api_visibility="private").then(
        desk.show_photos, alert_id, photographs, api_visibility="private"
    )
    alert_id.submit(desk.show_alert, alert_id, shown, api_name="alert")
    alert_id.submit(desk.show_photos, alert_id, photographs, api_name="photographs")
    attach.click(desk.attach, [alert_id, side, photo, session], attached, api_name="attach").success(
        desk.show_photos, alert_id, photographs, api_visibility="private"
    )
    done = button.click(desk.decide_alert, [alert_id, revision, decision, reason, session], decided, api_name="decide")
    done.success(desk.show_queue, queue, alerts, api_visibility="private").then(
        desk.show_alert, alert_id, shown, api_visibility="private"
    )


def build_lists(desk: Desk, session: gr.State, page: gr.Blocks) -> None:
    """The tab with the lists and the settings."""
    gr.Markdown(
        "OFAC's `sdn.csv` with `alt.csv`, the UN's consolidated XML, or csv, parquet or JSON lines with the columns "
        "`id` and `name`; plain or gzip. A file that cannot be read changes nothing."
    )
    versions = table(VERSION_COLUMNS, "Versions", elem_id="versions")
    with gr.Row():
        types = [".csv", ".xml", ".parquet", ".json", ".jsonl", ".gz"]
        main = gr.File(label="List", file_types=types, elem_id="list")
        alternates = gr.File(label="OFAC alternate names", file_types=[".csv", ".gz"])
        with gr.Column():
            list_name = gr.Textbox(label="Name of the list", placeholder="OFAC SDN", elem_id="list-name")
            confirm = gr.Checkbox(label="More than half of the entries were taken off the list")
            button = gr.Button("Import", variant="primary", elem_id="import")
    result = gr.Textbox(label="Result", interactive=False, elem_id="import-result")
    with gr.Row():
        current = gr.Code(label="Settings", language="json", interactive=False)
        with gr.Column():
            threshold = gr.Slider(0.5, 1.0, DEFAULT_THRESHOLD, step=0.01, label="Threshold of the list named above")
            advice_only = gr.Checkbox(True, label="AI only advises: it clears nothing by itself")
            reason = gr.Textbox(label="Reason")
            with gr.Row():
                set_threshold = gr.Button("Set the threshold")
                set_advice = gr.Button("Set what AI may do")
    page.load(desk.show_versions, None, versions, api_name="versions")
    page.load(desk.show_settings, None, current, api_name="settings")
    inputs = [main, alternates, list_name, confirm, session]
    imported = button.click(desk.load_list, inputs, result, api_name="import_list")
    imported.success(desk.show_versions, None, versions, api_visibility="private")
    for changed in (
        set_threshold.click(
            desk.set_threshold, [list_name, threshold, reason, session], result, api_name="set_threshold"
        ),
        set_advice.click(desk.set_advice_only, [advice_only, reason, session], result, api_name="set_advice_only"),
    ):
        changed.success(desk.show_settings, None, current, api_visibility="private")


def build_models(desk: Desk, session: gr.State, tab: gr.Tab) -> None:
    """The tab with the models of the second-level review."""
    gr.Markdown(
        "Decisions of two officers train a challenger. It waits `10 + max(60 - min(days since it was last wrong, 30) - "
        "alerts it passed / 100, 0)` days and replaces the champion only if its AUC on the same held-out decisions is "
        "better. `auc` is cross-validated; below `threshold` a model advises to clear."
    )
    models = table(MODEL_COLUMNS, "Models", elem_id="models")
    learn = gr.Button("Train, or put in force what is due", elem_id="learn")
    with gr.Row():
        version = gr.Textbox(label="Former version", placeholder="public-1", elem_id="model-version")
        reason = gr.Textbox(label="Reason", elem_id="model-reason")
        back = gr.Button("Roll back to it", elem_id="roll-back")
    result = gr.Textbox(label="Result", interactive=False, elem_id="model-result")
    tab.select(desk.show_models, None, models, api_name="models")
    for changed in (
        learn.click(desk.learn_now, session, result, api_name="learn"),
        back.click(desk.roll_back_model, [version, reason, session], result, api_name="roll_back"),
    ):
        changed.success(desk.show_models, None, models, api_visibility="private")


def build_audit(desk: Desk, page: gr.Blocks) -> None:
    """The tab with the log."""
    refresh = gr.Button("Refresh", elem_id="refresh-audit")
    widths = ["4%", "14%", "8%", "14%", "5%", "20%", "21%", "7%", "7%"]
    lines = table(AUDIT_COLUMNS[:-1], "The log can only grow", elem_id="audit", max_height=600, column_widths=widths)
    with gr.Row():
        export = gr.Button("Make a csv of the whole log", elem_id="export-audit")
        exported = gr.DownloadButton("Save the csv", elem_id="audit-file")
    page.load(desk.show_audit, None, lines, api_visibility="private")
    refresh.click(desk.show_audit, None, lines, api_name="audit")
    export.click(desk.export_audit, None, exported, api_name="export_audit")


def build(desk: Desk) -> gr.Blocks:
    """The page on a desk."""
    with gr.Blocks(title="Name screening", delete_cache=DELETE_FILES) as page:
        session = gr.State({})
        gr.Markdown(INTRODUCTION)
        state = gr.Textbox(label="In force", interactive=False, elem_id="state")
        page.load(desk.show_state, None, state, api_name="state")
        with gr.Row():
            who = gr.Textbox("Not logged in", label="Officer", interactive=False, elem_id="who")
            name = gr.Textbox(label="Name", elem_id="login-name")
            password = gr.Textbox(label="Password", type="password", elem_id="login-password")
            with gr.Column(min_width=120):
                enter = gr.Button("Log in", elem_id="log-in")
                leave = gr.Button("Log out")
        gr.on(
            [enter.click, password.submit], desk.log_in, [name, password], [session, who, password], api_name="log_in"
        )
        leave.click(log_out, None, [session, who, password], api_name="log_out")
        with gr.Tab("Screen"):
            build_screen(desk)
        with gr.Tab("News"):
            build_news(desk)
        with gr.Tab("File"):
            build_file(desk, session)
        with gr.Tab("Alerts"):
            build_alerts(desk, session, page)
        with gr.Tab("Lists"):
            build_lists(desk, session, page)
        with gr.Tab("Models") as tab:
            build_models(desk, session, tab)
        with gr.Tab("Audit"):
            build_audit(desk, page)
    return page


demo = build(Desk(open_database(), Accounts(), load_classifier(), load_photo_model(), load_person_finder()))


if __name__ == "__main__":
    demo.queue(default_concurrency_limit=4).launch(**LAUNCH)
