"""The page: what it answers, what it refuses, and what a browser makes of it."""

import csv
import io
import re
from pathlib import Path

import pytest


pytest.importorskip("gradio", reason='needs pip install ".[spaces]"')
import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pages import HOSTILE, SPACES, assert_is_text, field, loaded_app, opened, served
from PIL import Image

from screening.accounts import COST, MAX_FAILURES, Accounts
from screening.database import Database
from screening.lists import Entry
from screening.matching import Customer
from screening.news import load_person_finder
from screening.review import current_settings, list_alerts, read_audit
from screening.store import import_list, save_customers


SPACE = SPACES / "name_screening"
PASSWORD = "correct horse battery"
NAME = f"{HOSTILE}Pavel Karpov"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The Space's own program, on the sample it brings."""
    with loaded_app("name_screening", tmp_path_factory.mktemp("gradio")) as module:
        yield module


@pytest.fixture(scope="module", autouse=True)
def cheap_hashes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COST, "n", 1 << 8)
        yield


@pytest.fixture(scope="module")
def accounts(tmp_path_factory):
    made = Accounts(tmp_path_factory.mktemp("accounts") / "accounts.json")
    for name in ("anna", "bob"):
        made.add(name, PASSWORD)
    return made


@pytest.fixture(scope="module")
def desk_and_url(app, accounts, tmp_path_factory):
    """One page for all tests, which bring a database each."""
    desk = app.Desk(Database(f"sqlite:///{tmp_path_factory.mktemp('none')}/none.db"), accounts)
    with served(app.build(desk), **app.LAUNCH | {"max_file_size": "1mb"}) as address:
        yield desk, address


@pytest.fixture
def desk(desk_and_url, tmp_path):
    """The desk with one alert, on a name that is hostile to pages."""
    desk, _ = desk_and_url
    desk.database = Database(f"sqlite:///{tmp_path}/screening.db")
    import_list(desk.database, [Entry("own", "1", "person", (NAME, "Karpov, Pavel"), ("1977",))], officer="setup")
    save_customers(desk.database, [Customer("c1", NAME), Customer("c2", "Thomas Lindqvist")], officer="setup")
    desk.loaded = None
    return desk


@pytest.fixture
def url(desk_and_url, desk):
    return desk_and_url[1]


@pytest.fixture
def client(url):
    return Client(url, verbose=False)


@pytest.fixture
def log_in(url):
    """Logs an officer in, as a visitor of their own."""

    def visit(name):
        made = Client(url, verbose=False)
        assert made.predict(name, PASSWORD, api_name="/log_in")[0] == f"Logged in: {name}"
        return made

    return visit


def test_the_sample_is_there_on_first_open(app):
    with served(app.demo, **app.LAUNCH) as address:
        client = Client(address, verbose=False)
        assert len(client.predict("to review", api_name="/alerts")["data"]) >= 5
        matches, reasons = client.predict("Павел Карпов", "", "person", "1977", "RU", api_name="/screen")
        assert matches["data"][0][5] == "KARPOV, Pavel"
        assert {row[1] for row in reasons["data"]} >= {"name", "word: equal", "birth year", "transliterated"}
        said, persons = client.predict(app.NEWS, api_name="/read_news")
        assert said.startswith(
            "3 persons are named; 2 of them may be listed. Relevant to crime or money laundering (0."
        )
        assert said.endswith(f": {app.NEWS.split('. ')[0]}.")
        listed = {row[0]: row[5:] for row in persons["data"]}
        assert listed["Pavel Karpov"] == ["person", "KARPOV, Pavel"]
        assert listed["Maria Lindqvist"] == ["", ""]


def test_looking_is_open(client):
    assert client.predict("Pavel Karpov", "", "", "", "", api_name="/screen")[0]["data"]
    assert client.predict("to review", api_name="/alerts")["data"][0][4] == NAME
    status, revision, *_ = client.predict(1, api_name="/alert")
    assert (status, revision) == ("first review", 1)
    assert client.predict(api_name="/audit")["data"]
    assert client.predict(api_name="/versions")["data"][0][1] == "own"


@pytest.mark.parametrize(
    "call",
    [
        ("/decide", 1, 1, "clear", "because"),
        ("/import_list", None, None, "own", False),
        ("/set_threshold", "own", 0.9, "because"),
        ("/set_advice_only", False, "because"),
        ("/learn",),
        ("/roll_back", "public-1", "because"),
        ("/attach", 1, "customer", None),
        ("/screen_file", handle_file(str(SPACE / "sample" / "customers.csv")), True),
    ],
    ids=lambda call: call[0],
)
def test_changing_needs_a_login(client, desk, call):
    before = read_audit(desk.database)
    with pytest.raises(AppError, match="needs a login"):
        client.predict(*call[1:], api_name=call[0])
    with pytest.raises(AppError, match="do not belong together"):
        client.predict(f"nobody{call[0][1:]}", "wrong password", api_name="/log_in")
    with pytest.raises(AppError, match="needs a login"):
        client.predict(*call[1:], api_name=call[0])
    assert read_audit(desk.database) == before


def test_a_login_is_of_one_visitor_and_ends(log_in, client, monkeypatch):
    anna = log_in("anna")
    with pytest.raises(AppError, match="needs a login"):
        client.predict(1, 1, "clear", "because", api_name="/decide")
    assert anna.predict(api_name="/log_out")[0] == "Not logged in"
    with pytest.raises(AppError, match="needs a login"):
        anna.predict(1, 1, "clear", "because", api_name="/decide")
    bob = log_in("bob")
    monkeypatch.setattr("desk.SESSION_SECONDS", -1)
    with pytest.raises(AppError, match="needs a login"):
        bob.predict(1, 1, "clear", "because", api_name="/decide")


def test_two_officers_close_an_alert_through_the_api(log_in, desk):
    anna, bob = log_in("anna"), log_in("bob")
    assert anna.predict(1, 1, "clear", "born elsewhere", api_name="/decide") == "Alert 1: second review"
    with pytest.raises(AppError, match="the second needs somebody else"):
        anna.predict(1, 2, "clear", "again", api_name="/decide")
    with pytest.raises(AppError, match="another officer was faster"):
        bob.predict(1, 1, "clear", "seen before", api_name="/decide")
    assert bob.predict(1, 2, "clear", "I agree", api_name="/decide") == "Alert 1: cleared"
    assert [line["who"] for line in read_audit(desk.database)[:2]] == ["bob", "anna"]


def test_the_models_are_shown_and_officers_keep_them_in_order(log_in, client):
    (row,) = client.predict(api_name="/models")["data"]
    assert row[:2] == ["public-1", "champion"]
    anna = log_in("anna")
    assert "more decisions are needed" in anna.predict(api_name="/learn")
    with pytest.raises(AppError, match="Only a model that was in force before"):
        anna.predict("public-1", "because", api_name="/roll_back")
    advice = client.predict(1, api_name="/alert")[2]
    assert re.match(r"(review with care|clear): [\d.]+% likely to be a match \[public-1\]\n\w", advice)


def test_settings_are_changed(log_in, desk):
    anna = log_in("anna")
    assert anna.predict("own", 0.9, "too many alerts", api_name="/set_threshold") == "0 new alerts."
    anna.predict(False, "the model is good", api_name="/set_advice_only")
    settings = current_settings(desk.database)
    assert (settings["threshold:own"], settings["advice_only"]) == (0.9, False)
    with pytest.raises(AppError, match="no list &#x27;other&#x27;"):
        anna.predict("other", 0.9, "too many alerts", api_name="/set_threshold")


def test_a_list_is_imported_and_a_broken_one_changes_nothing(log_in, desk, tmp_path):
    anna = log_in("anna")
    good, bad = tmp_path / "list.csv", tmp_path / "bad.csv"
    good.write_text("id,name\n1,Thomas Lindqvist\n")
    bad.write_text("id,name\n1,Thomas Lindqvist\n2,\n")
    text = anna.predict(handle_file(str(good)), None, "mine", False, api_name="/import_list")
    assert text.startswith("Version 2: 1 entries, 1 added")
    assert text.endswith("1 new alerts.")
    before = read_audit(desk.database)
    with pytest.raises(AppError, match="mine, line 3: expected something in `name`"):
        anna.predict(handle_file(str(bad)), None, "mine", False, api_name="/import_list")
    assert read_audit(desk.database) == before


def test_a_file_is_screened_and_saved_by_officers_only(log_in, client, desk, tmp_path):
    customers = tmp_path / "customers.csv"
    customers.write_text("id,name\nx1,Pavel Karpov\nx2,Nobody Here\n")
    summary, rows, download = client.predict(handle_file(str(customers)), False, api_name="/screen_file")
    assert summary == "2 customers screened, 1 with 1 matches."
    assert rows["data"][0][0] == "x1"
    assert len(list_alerts(desk.database)) == 1
    lines = list(csv.reader(io.StringIO(Path(download).read_text("utf-8-sig"))))
    assert lines[1][0] == "x1"
    summary, _, _ = log_in("anna").predict(handle_file(str(customers)), True, api_name="/screen_file")
    assert summary.endswith("Saved: 2 new or changed, 1 new alerts.")
    assert len(list_alerts(desk.database)) == 2


def test_uploads_are_limited_in_type_and_size(client, url, tmp_path):
    program = tmp_path / "customers.exe"
    program.write_text("id,name\n1,Ann\n")
    with pytest.raises(AppError, match="Invalid file type"):
        client.predict(handle_file(str(program)), False, api_name="/screen_file")
    # Not with Gradio's client, which measures the file itself.
    large = {"files": ("large.csv", b"x" * ((1 << 20) + 1))}
    assert httpx.post(f"{url}gradio_api/upload", files=large).status_code == 413


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", "", "", "", ""), "`name` with letters"),
        (("x" * 100_000, "", "", "", ""), "at most 300 characters"),
        (("Ann", "", "", "<b>1/2/1970</b>", ""), "&lt;b&gt;"),
    ],
    ids=["empty", "huge", "hostile"],
)
def test_what_cannot_be_screened_is_said(client, fields, message):
    with pytest.raises(AppError, match=message):
        client.predict(*fields, api_name="/screen")


def test_an_export_holds_no_formula(client, desk):
    save_customers(desk.database, [Customer("c3", "=Pavel Karpov")], officer="setup")
    text = Path(client.predict("to review", api_name="/export_alerts")).read_text("utf-8-sig")
    names = {line["customer_name"] for line in csv.DictReader(io.StringIO(text))}
    assert names == {NAME, "'=Pavel Karpov"}
    audit = Path(client.predict(api_name="/export_audit")).read_text("utf-8-sig")
    assert audit.startswith('"id","at","who"')


def test_names_are_in_no_log(client, capfd, caplog):
    client.predict("Xaverius Quilligan", "", "", "", "", api_name="/screen")
    with pytest.raises(AppError):
        client.predict("Xaverius Quilligan", "", "", "Quilligan", "", api_name="/screen")
    written = capfd.readouterr()
    for text in (written.out, written.err, caplog.text):
        assert "Quilligan" not in text


def test_nothing_is_told_to_others_or_kept(client, app):
    assert app.demo.analytics_enabled is False
    assert client.config["run_history"] is False


def test_passwords_are_hashed_and_guessing_is_stopped(tmp_path, monkeypatch):
    made = Accounts(tmp_path / "accounts.json")
    with pytest.raises(ValueError, match="12 to 200 characters"):
        made.add("anna", "short")
    with pytest.raises(ValueError, match="A name has"):
        made.add("an na", PASSWORD)
    made.add("anna", PASSWORD)
    assert PASSWORD not in made.path.read_text()
    assert made.path.stat().st_mode & 0o077 == 0
    assert made.check("anna", PASSWORD)
    assert not made.check("nobody", PASSWORD)
    for _ in range(MAX_FAILURES):
        assert not made.check("anna", "wrong password")
    with pytest.raises(ValueError, match="Too many failed attempts"):
        made.check("anna", PASSWORD)
    monkeypatch.setattr("screening.accounts.LOCKED_SECONDS", 0.0)
    assert made.check("anna", PASSWORD)
    made.path.unlink()
    assert not made.check("anna", PASSWORD)


def test_without_accounts_nobody_logs_in(client, desk, monkeypatch):
    monkeypatch.setattr(desk, "accounts", Accounts())
    assert not desk.accounts.check("anna", "")
    with pytest.raises(AppError, match="no accounts are set up"):
        client.predict("anna", PASSWORD, api_name="/log_in")


@pytest.fixture
def browser_page(browser, url):
    made, expect = browser
    with opened(made, url) as page:
        # Filled in by the page's own program: what is typed before it runs is lost.
        expect(field(page, "state")).to_have_value(re.compile("^1 entries of own; 1 alerts to review"))
        yield page, expect


def browser_log_in(page, expect, name):
    field(page, "login-name").fill(name)
    field(page, "login-password").fill(PASSWORD)
    page.locator("#log-in").click()
    expect(field(page, "who")).to_have_value(f"Logged in: {name}")


def test_a_browser_reads_news(browser_page, desk, monkeypatch):
    page, expect = browser_page
    monkeypatch.setattr(desk, "finder", load_person_finder())
    page.get_by_role("tab", name="News").click()
    field(page, "news").fill("Prosecutors in Moscow said that Pavel Karpov had been questioned.")
    page.locator("#read-news").click()
    expect(page.locator("#persons")).to_contain_text("Karpov, Pavel")
    expect(field(page, "news-result")).to_have_value(re.compile("^1 persons are named"))


def test_a_browser_screens_a_name(browser_page):
    page, expect = browser_page
    field(page, "name").fill("Pavel Karpow")
    page.locator("#screen").click()
    expect(page.locator("#reasons")).to_contain_text("karpow / karpov")
    field(page, "name").fill(NAME)
    page.locator("#screen").click()
    expect(page.locator("#matches")).to_contain_text(NAME)
    assert_is_text(page)
    assert "Karpow" not in page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")


def test_a_browser_reviews_an_alert(browser_page, desk):
    page, expect = browser_page
    page.get_by_role("tab", name="Alerts").click()
    for officer, status in (("anna", "second review"), ("bob", "cleared")):
        browser_log_in(page, expect, officer)
        page.locator("#alerts [role=gridcell]:visible", has_text="own").first.click()
        expect(page.locator("#sides")).to_contain_text(NAME)
        expect(page.locator("#why")).to_contain_text("word: equal")
        expect(field(page, "advice")).to_have_value(re.compile(r"likely to be a match \[public-1\]"))
        page.locator("#decision").get_by_text("clear", exact=True).click()
        field(page, "reason").fill("born elsewhere")
        page.locator("#decide").click()
        expect(field(page, "decided")).to_have_value(f"Alert 1: {status}")
    assert_is_text(page)
    page.get_by_role("tab", name="Audit").click()
    page.locator("#refresh-audit").click()
    expect(page.locator("#audit")).to_contain_text("second review: clear")
    assert list_alerts(desk.database) == []


def test_a_browser_imports_a_list_and_screens_a_file(browser_page, tmp_path):
    page, expect = browser_page
    names, customers = tmp_path / "list.csv", tmp_path / "customers.csv"
    names.write_text("id,name\n1,Thomas Lindqvist\n")
    customers.write_text("id,name\nx1,Tomas Lindqvist\n")
    browser_log_in(page, expect, "anna")
    page.get_by_role("tab", name="Lists").click()
    page.locator("#list input[type=file]").set_input_files(names)
    field(page, "list-name").fill("mine")
    expect(page.locator("#list")).to_contain_text("list")
    page.locator("#import").click()
    expect(field(page, "import-result")).to_have_value(re.compile("1 new alerts"))
    expect(page.locator("#versions")).to_contain_text("mine")
    page.get_by_role("tab", name="File").click()
    page.locator("#customers input[type=file]").set_input_files(customers)
    expect(page.locator("#customers")).to_contain_text("customers")
    page.locator("#screen-file").click()
    expect(field(page, "file-summary")).to_have_value("1 customers screened, 1 with 1 matches.")


def test_a_browser_asks_for_a_model(browser_page):
    page, expect = browser_page
    browser_log_in(page, expect, "anna")
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#models")).to_contain_text("public-1")
    page.locator("#learn").click()
    expect(field(page, "model-result")).to_have_value(re.compile("more decisions are needed"))
    field(page, "model-version").fill("public-1")
    field(page, "model-reason").fill("because")
    page.locator("#roll-back").click()
    expect(page.locator("body")).to_contain_text("Only a model that was in force before")


def test_a_browser_attaches_a_photograph(browser_page, tmp_path):
    page, expect = browser_page
    Image.new("RGB", (80, 60), "red").save(tmp_path / "face.png")
    browser_log_in(page, expect, "anna")
    page.get_by_role("tab", name="Alerts").click()
    page.locator("#alerts [role=gridcell]:visible", has_text="own").first.click()
    expect(page.locator("#sides")).to_contain_text(NAME)
    page.get_by_role("button", name="Photographs").click()
    expect(field(page, "compared")).to_have_value(re.compile("No model compares"))
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "face.png")
    expect(page.locator("#photo")).to_contain_text("face")
    page.locator("#attach").click()
    expect(field(page, "attached")).to_have_value(re.compile("customer is attached"))
    expect(page.locator("#photo-customer img")).to_be_visible()


def test_a_browser_shows_what_is_wrong_as_text(browser_page):
    page, expect = browser_page
    field(page, "name").fill(HOSTILE)
    page.get_by_label("Born").fill(HOSTILE)
    page.locator("#screen").click()
    expect(page.locator("body")).to_contain_text("expected a birth date")
    assert_is_text(page)
