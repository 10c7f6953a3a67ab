"""What the page does for its visitors and officers."""

import hashlib
import html
import io
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from screening.accounts import Accounts
from screening.bulk import customer_row, match_row
from screening.database import Database
from screening.learning import learn, read_models, roll_back
from screening.lists import read_bytes, read_list, table_rows
from screening.matching import RULES_VERSION, Customer, Match
from screening.news import PERSON_VARIABLE, NewsClassifier, PersonFinder
from screening.photos import CUSTOMER, ENTRY, PhotoModel, attach_photo, describe_photos, photos_of
from screening.review import (
    change_setting,
    count_alerts,
    current_settings,
    decide,
    get_alert,
    list_alerts,
    read_audit,
    read_versions,
    to_csv,
)
from screening.store import (
    ADVICE_ONLY,
    AI_CLEARED,
    CLEARED,
    CONFIRMED,
    FIRST_REVIEW,
    SECOND_REVIEW,
    SUPERSEDED,
    SYSTEM,
    THRESHOLD,
    Watchlist,
    import_list,
    load_watchlist,
    rescreen,
    save_customers,
    state_of,
)


SAMPLE = Path(__file__).parent / "sample"
# Gone when the program ends.
SCRATCH = tempfile.TemporaryDirectory(prefix="screening-")
# How long a file made for download is kept.
KEPT_SECONDS = 600
MAX_FILE_CUSTOMERS = 20_000
MAX_TEXT, MAX_NEWS = 300, 20_000
SESSION_SECONDS = 8 * 3600
SHOWN_ROWS = 500
MAX_EXPORT = 1_000_000
QUEUES = {
    "to review": (FIRST_REVIEW, SECOND_REVIEW),
    "first review": (FIRST_REVIEW,),
    "second review": (SECOND_REVIEW,),
    "cleared by AI": (AI_CLEARED,),
    "closed": (CLEARED, CONFIRMED, SUPERSEDED),
}
MATCH_COLUMNS = ["match", "score", "list", "id", "kind", "listed name", "born", "countries"]
PERSON_COLUMNS = ["person", "is a name", *MATCH_COLUMNS[1:6]]
REASON_COLUMNS = ["match", "what", "effect", "in words"]
FILE_COLUMNS = ["customer_id", "customer_name", "score", "list_name", "source_id", "listed_name"]
ALERT_COLUMNS = ["alert", "score", "status", "customer", "name", "list", "id", "listed name", "first", "since then"]
ALERT_COLUMNS += ["likely a match"]
SIDE_COLUMNS = ["field", "customer", "list"]
AUDIT_COLUMNS = ["id", "at", "who", "action", "alert_id", "subject", "reason"]
AUDIT_COLUMNS += ["rules_version", "model_version", "details"]
LOG_COLUMNS = ["at", "who", "action", "reason"]
MODEL_COLUMNS = ["version", "state", "algorithm", "trained_at", "decisions", "auc", "held_out_auc", "threshold"]
MODEL_COLUMNS += ["passed", "wrong", "days left"]
VERSION_COLUMNS = ["id", "list_name", "imported_at", "imported_by", "entries", "added", "changed", "removed"]


def open_database() -> Database:
    """The database that `SCREENING_DATABASE` names; without it one that holds the sample and goes with the program."""
    if os.environ.get("SCREENING_DATABASE"):
        return Database()
    database = Database(f"sqlite:///{SCRATCH.name}/sample.db")
    sample = read_list(SAMPLE / "sdn.csv", SAMPLE / "alt.csv", list_name="OFAC SDN (sample)")
    import_list(database, sample, officer="sample")
    save_customers(database, read_customers((SAMPLE / "customers.csv").read_bytes(), "customers.csv"), officer="sample")
    return database


def read_customers(data: bytes, name: str) -> list[Customer]:
    """The customers of an uploaded csv or parquet file."""
    found: dict[str, Customer] = {}
    for line, row in table_rows(read_bytes(data)):
        customer = customer_row(row, f"{name}, line {line}")
        if customer.id in found:
            raise ValueError(f"{name}, line {line}: the `id` {customer.id[:40]!r} is there twice.")
        found[customer.id] = customer
        if len(found) > MAX_FILE_CUSTOMERS:
            raise ValueError(
                f"{name}: more than {MAX_FILE_CUSTOMERS:,} customers. Screen larger files with "
                "`python -m screening.bulk`."
            )
    return list(found.values())


def friendly(function: Callable) -> Callable:
    """Turns what a user did wrong into a message on the page; names in it are text there."""

    @wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return wrapped


def require_officer(session: dict) -> str:
    """Who is logged in."""
    if not session or time.time() - session["since"] > SESSION_SECONDS:
        raise ValueError("This needs a login: looking is open, changing is not.")
    return session["officer"]


def require_alert(alert_id: float | None) -> int:
    """The alert that is chosen; a number field gives a float."""
    if not alert_id:
        raise ValueError("Choose an alert in the table first.")
    return int(alert_id)


def short(text: str | None, field: str) -> str:
    """The text of a field, unless it is longer than any name."""
    if len(text or "") > MAX_TEXT:
        raise ValueError(f"`{field}` has at most {MAX_TEXT} characters, got {len(text or ''):,}.")
    return (text or "").strip()


def log_out() -> tuple[dict, str, str]:
    """Logs the officer out."""
    return {}, "Not logged in", ""


def table_row(number: int, match: Match) -> list:
    """A match as a row of the page's table."""
    entry = match.entry
    born, countries = ", ".join(entry.birth_dates), ", ".join(entry.countries)
    return [number, match.score, entry.list_name, entry.source_id, entry.kind, match.listed_name, born, countries]


def csv_file(name: str, text: str) -> str:
    """A file to download."""
    folder = tempfile.mkdtemp(dir=SCRATCH.name)
    path = Path(folder) / name
    path.write_text(text, encoding="utf-8-sig")
    # Gradio has made a copy by then, which it deletes itself.
    timer = threading.Timer(KEPT_SECONDS, shutil.rmtree, (folder, True))
    timer.daemon = True
    timer.start()
    return str(path)


def describe(advised: dict) -> str:
    """The second-level review's advice in a line."""
    word = "clear" if advised["clear"] else "review with care"
    return f"{word}: {advised['probability']:.1%} likely to be a match [{advised['model']}]"


def choose_alert(event: gr.SelectData) -> int:
    """The number of the alert whose row was clicked."""
    return int(event.row_value[0])


class Desk:
    """
    What the page does, on one database.

    Args:
        database ([`Database`]): Lists, customers and alerts.
        accounts ([`Accounts`]): Who may change them.
        classifier ([`NewsClassifier`], *optional*): The first pass over news.
        photo_model ([`PhotoModel`], *optional*): Compares photographs.
        finder ([`PersonFinder`], *optional*): Finds persons in news.
    """

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        classifier: NewsClassifier | None = None,
        photo_model: PhotoModel | None = None,
        finder: PersonFinder | None = None,
    ):
        self.database = database
        self.accounts = accounts
        self.classifier = classifier
        self.photo_model = photo_model
        self.finder = finder
        self.loading = threading.Lock()
        self.learning = threading.Lock()
        self.loaded: Watchlist | None = None

    def watchlist(self) -> Watchlist:
        """The entries in force; read again when a list or a setting has changed."""
        with self.database.reading() as connection:
            state = state_of(connection)
        with self.loading:
            if self.loaded is None or self.loaded.state != state:
                self.loaded = load_watchlist(self.database)
            return self.loaded

    def show_state(self) -> str:
        """What is screened against, and what waits for review."""
        entries = self.watchlist().screener.entries
        lists = ", ".join(sorted({entry.list_name for entry in entries})) or "no list"
        waiting = count_alerts(self.database)
        model = self.classifier.version if self.classifier else "none"
        return (
            f"{len(entries):,} entries of {lists}; {waiting:,} alerts to review; {RULES_VERSION}; "
            f"model of the first pass over news: {model}"
        )

    @friendly
    def log_in(self, name: str, password: str) -> tuple[dict, str, str]:
        """Logs an officer in."""
        if self.accounts.path is None:
            raise ValueError("Nobody can log in here: no accounts are set up (README, Officers).")
        name = short(name, "name")
        if not self.accounts.check(name, password or ""):
            raise ValueError("This name and password do not belong together.")
        return {"officer": name, "since": time.time()}, f"Logged in: {html.escape(name)}", ""

    @friendly
    def screen(self, name: str, aliases: str, kind: str, birth_date: str, country: str) -> tuple[list, list]:
        """Screens one person or body; nothing of it is kept.

        Args:
            name: Name in any script and order.
            aliases: Other names, with ; between.
            kind: person, organisation, vessel, aircraft or empty.
            birth_date: 1948-12-10, 1948 or empty.
            country: Name or two-letter code, or empty.
        """
        others = tuple(alias for alias in short(aliases, "aliases").split(";") if alias.strip())
        born, country = short(birth_date, "birth_date"), short(country, "country")
        customer = Customer("page", short(name, "name"), others, kind or "", born, country)
        matches = self.watchlist().screener.screen(customer)
        reasons = [
            [number, feature.name, feature.effect, feature.text]
            for number, match in enumerate(matches, start=1)
            for feature in match.features
        ]
        return [table_row(number, match) for number, match in enumerate(matches, start=1)], reasons

    @friendly
    def read_news(self, text: str) -> tuple[str, list]:
        """Finds the persons that news names, and the entries they may be; nothing of it is kept.

        Args:
            text: At most 20,000 characters.
        """
        if self.finder is None:
            raise ValueError(f"No model finds persons here: set {PERSON_VARIABLE} (README, First pass over news).")
        if len(text or "") > MAX_NEWS:
            raise ValueError(f"`text` has at most {MAX_NEWS:,} characters, got {len(text):,}.")
        if not (text or "").strip():
            raise ValueError("`text` is empty: paste some news.")
        persons, screener = self.finder.find(text), self.watchlist().screener
        rows, listed = [], 0
        for person, probability in persons:
            matches = screener.screen(Customer("page", person, kind="person"))
            listed += bool(matches)
            found = [table_row(0, match)[1:6] for match in matches] or [[None, "", "", "", ""]]
            rows += [[person, probability, *cells] for cells in found]
        said = f"{len(persons)} persons are named; {listed} of them may be listed."
        if self.classifier:
            verdict = self.classifier.judge(text)
            relevance = "Relevant" if verdict.relevant else "Not relevant"
            said += f" {relevance} to crime or money laundering ({verdict.score:.2f}): {verdict.reason}"
        return said, rows

    @friendly
    def screen_file(self, path: str | None, save: bool, session: dict, progress: Any = gr.Progress()) -> tuple:  # noqa: B008
        """Screens a csv or parquet file of customers; kept only if an officer asks for it."""
        if not path:
            raise ValueError("Choose a file first.")
        officer = require_officer(session) if save else ""
        customers = read_customers(Path(path).read_bytes(), Path(path).name)
        screener = self.watchlist().screener
        rows, hit = [], 0
        for customer in progress.tqdm(customers, desc="screening"):
            matches = screener.screen(customer)
            hit += bool(matches)
            rows += [match_row(customer, match) for match in matches]
        summary = f"{len(customers):,} customers screened, {hit:,} with {len(rows):,} matches."
        if save:
            saved, raised = save_customers(self.database, customers, officer=officer)
            summary += f" Saved: {saved:,} new or changed, {raised:,} new alerts."
        shown = [[row[column] for column in FILE_COLUMNS] for row in rows[:SHOWN_ROWS]]
        return summary, shown, csv_file("matches.csv", to_csv(rows, [*FILE_COLUMNS, "features", "rules_version"]))

    def show_queue(self, queue: str) -> list[list]:
        """The alerts of a queue, the highest scores first."""
        return [
            [
                alert["id"],
                alert["score"],
                alert["status"],
                alert["customer_id"],
                alert["customer_name"],
                alert["list_name"],
                alert["source_id"],
                alert["listed_name"],
                alert["first_officer"] or "",
                alert["stale"],
                "" if alert["probability"] is None else f"{alert['probability']:.1%}",
            ]
            for alert in list_alerts(self.database, statuses=QUEUES[queue], limit=SHOWN_ROWS)
        ]

    @friendly
    def show_alert(self, alert_id: float | None) -> tuple:
        """One alert: both sides, the reasons for its score, and what has been decided."""
        alert = get_alert(self.database, require_alert(alert_id))
        customer, entry = alert["customer"], alert["entry"]
        sides = [
            ["name", customer["name"], entry["names"][0]],
            ["other names", "; ".join(customer["aliases"]), "; ".join(entry["names"][1:])],
            ["kind", customer["kind"], entry["kind"]],
            ["born", customer["birth_date"], ", ".join(entry["birth_dates"])],
            ["country", customer["country"], ", ".join(entry["countries"])],
            ["remarks", "", entry["remarks"]],
        ]
        reasons = [[feature["name"], feature["effect"], feature["text"]] for feature in alert["features"]]
        advised = alert["advice"]
        advice = f"{describe(advised)}\n" + "\n".join(advised["reasons"]) if advised else "none was asked for"
        log = [[line["at"], line["who"], line["action"], line["reason"]] for line in alert["log"]]
        return alert["status"], alert["revision"], advice, sides, reasons, log

    @friendly
    def show_photos(self, alert_id: float | None) -> tuple:
        """The photographs of both sides of an alert, and what the model says of them."""
        found = photos_of(self.database, get_alert(self.database, require_alert(alert_id)))
        images = [Image.open(io.BytesIO(found[side])) if side in found else None for side in (CUSTOMER, ENTRY)]
        return *images, describe_photos(found, self.photo_model)

    @friendly
    def attach(self, alert_id: float | None, side: str, path: str | None, session: dict) -> str:
        """Attaches a photograph to one side of an alert; without a file it takes the one away that is there."""
        officer, chosen = require_officer(session), require_alert(alert_id)
        data = Path(path).read_bytes() if path else b""
        attach_photo(self.database, chosen, side or "", data, officer=officer)
        return f"Alert {chosen}: the photograph of the {side} is {'attached' if data else 'removed'}."

    @friendly
    def decide_alert(
        self, alert_id: float | None, revision: float | None, decision: str, reason: str, session: dict
    ) -> str:
        """Records the decision of the officer who is logged in."""
        officer = require_officer(session)
        if not alert_id or not revision:
            raise ValueError("Choose an alert in the table first.")
        status = decide(
            self.database,
            int(alert_id),
            officer=officer,
            decision=decision or "",
            reason=reason or "",
            revision=int(revision),
        )
        if status in (CLEARED, CONFIRMED):
            threading.Thread(target=self.learn, daemon=True).start()
        return f"Alert {int(alert_id)}: {status}"

    def learn(self, officer: str = SYSTEM) -> str:
        """Trains a challenger or puts it in force where that is due; one at a time."""
        if not self.learning.acquire(blocking=False):
            return "A model is being trained."
        try:
            return learn(self.database, officer=officer)
        finally:
            self.learning.release()

    @friendly
    def learn_now(self, session: dict) -> str:
        """The same for an officer who does not wait until the next alert is closed."""
        return self.learn(require_officer(session))

    def show_models(self) -> list[list]:
        """The models of the second-level review, the latest first."""
        rows = []
        for model in read_models(self.database):
            numbers = [model["auc"], model["held_out_auc"], model["threshold"]]
            rounded = ["" if number is None else round(number, 4) for number in numbers]
            left = math.ceil(model["left"]) if "left" in model else ""
            names = ("version", "state", "algorithm", "trained_at", "decisions")
            waits = [model.get("passed", ""), model.get("wrong", ""), left]
            rows.append([*(model[name] for name in names), *rounded, *waits])
        return rows

    @friendly
    def roll_back_model(self, version: str, reason: str, session: dict) -> str:
        """Puts a former model in force again."""
        officer = require_officer(session)
        version = short(version, "version")
        reopened = roll_back(self.database, version, officer=officer, reason=reason or "")
        return f"{version} is in force; {reopened:,} alerts that were cleared by AI are in the first review."

    @friendly
    def load_list(self, main: str | None, alternates: str | None, list_name: str, confirm: bool, session: dict) -> str:
        """Imports a list and screens every customer against what has changed in it."""
        officer = require_officer(session)
        if not main:
            raise ValueError("Choose the file of a list first.")
        name = short(list_name, "list name")
        if not name:
            raise ValueError("Give the list a name.")
        data = Path(main).read_bytes()
        entries = read_list(data, Path(alternates).read_bytes() if alternates else None, list_name=name)
        result = import_list(
            self.database,
            entries,
            officer=officer,
            sha256=hashlib.sha256(data).hexdigest(),
            classifier=self.classifier,
            confirm_removals=confirm,
        )
        raised = rescreen(self.database)
        if result.version is None:
            return f"{result.entries:,} entries: nothing has changed."
        return (
            f"Version {result.version}: {result.entries:,} entries, {result.added:,} added, "
            f"{result.changed:,} changed, {result.removed:,} removed, news of {result.not_relevant:,} not relevant; "
            f"{raised:,} new alerts."
        )

    def show_versions(self) -> list[list]:
        """The imports of all lists, the latest first."""
        return [[version[column] for column in VERSION_COLUMNS] for version in read_versions(self.database)]

    @friendly
    def set_threshold(self, list_name: str, threshold: float, reason: str, session: dict) -> str:
        """Sets from which score on a list raises alerts, and screens every customer again."""
        officer, name = require_officer(session), f"{THRESHOLD}{short(list_name, 'list name')}"
        change_setting(self.database, name, threshold, officer=officer, reason=reason or "")
        return f"{rescreen(self.database):,} new alerts."

    @friendly
    def set_advice_only(self, value: bool, reason: str, session: dict) -> str:
        """Sets whether AI only advises, and screens every customer again."""
        change_setting(self.database, ADVICE_ONLY, value, officer=require_officer(session), reason=reason or "")
        return f"{rescreen(self.database):,} new alerts."

    def show_settings(self) -> str:
        """The settings in force."""
        return json.dumps(current_settings(self.database), indent=1, ensure_ascii=False)

    def show_audit(self) -> list[list]:
        """The latest lines of the log."""
        lines = read_audit(self.database, limit=SHOWN_ROWS)
        return [[str(line[column] or "") for column in AUDIT_COLUMNS[:-1]] for line in lines]

    def export_audit(self) -> str:
        """The whole log as csv."""
        return csv_file("audit.csv", to_csv(read_audit(self.database, limit=None), AUDIT_COLUMNS))

    def export_queue(self, queue: str) -> str:
        """A queue as csv."""
        alerts = list_alerts(self.database, statuses=QUEUES[queue], limit=MAX_EXPORT)
        return csv_file("alerts.csv", to_csv(alerts, list(alerts[0]) if alerts else ["id"]))
