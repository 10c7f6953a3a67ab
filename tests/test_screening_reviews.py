"""Lists in versions, alerts, two officers who must agree, and a log that can only grow."""

import csv
import io
import os
import threading
from dataclasses import replace

import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')
import sqlalchemy
from sqlalchemy import delete, select, update

from screening import store
from screening.database import Database, alerts, audit, entries, metadata
from screening.fields import public_model
from screening.lists import Entry, ListError
from screening.matching import RULES_VERSION, Customer
from screening.news import Verdict
from screening.review import (
    ReviewError,
    change_setting,
    decide,
    get_alert,
    list_alerts,
    read_audit,
    read_versions,
    to_csv,
)
from screening.store import import_list, load_watchlist, rescreen, save_customers


KARPOV = Entry("own", "1", "person", ("KARPOV, Pavel",), ("1977-08-27",))
LEE = Entry("own", "2", "person", ("LEE, Anna",))
CUSTOMER = Customer("c1", "Pavel Karpov", birth_date="1977-08-27")
# A URL of an empty PostgreSQL database; every table of the screening in it is dropped.
POSTGRES = os.environ.get("SCREENING_TEST_POSTGRES", "")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        yield Database(f"sqlite:///{tmp_path}/screening.db")
        return
    if not POSTGRES:
        pytest.skip("needs SCREENING_TEST_POSTGRES, the URL of a PostgreSQL database for tests")
    engine = sqlalchemy.create_engine(POSTGRES)
    metadata.drop_all(engine)
    made = Database(POSTGRES)
    yield made
    made.engine.dispose()


@pytest.fixture
def alert(database):
    """One alert in its first review."""
    import_list(database, [KARPOV, LEE], officer="anna")
    assert save_customers(database, [CUSTOMER], officer="anna") == (1, 1)
    return list_alerts(database)[0]


def review(database, alert_id, officer, decision):
    revision = get_alert(database, alert_id)["revision"]
    return decide(database, alert_id, officer=officer, decision=decision, reason="because", revision=revision)


def actions(database):
    return [line["action"] for line in reversed(read_audit(database))]


def test_an_import_is_a_version(database):
    first = import_list(database, [KARPOV, LEE], officer="anna", sha256="a" * 64)
    assert (first.version, first.added, first.changed, first.removed) == (1, 2, 0, 0)
    assert import_list(database, [KARPOV, LEE], officer="anna").version is None
    changed = import_list(database, [replace(KARPOV, remarks="dead"), replace(LEE, source_id="3")], officer="bob")
    assert (changed.version, changed.added, changed.changed, changed.removed) == (2, 1, 1, 1)
    assert [version["imported_by"] for version in read_versions(database)] == ["bob", "anna"]
    in_force = load_watchlist(database).screener.entries
    assert {(entry.source_id, entry.remarks) for entry in in_force} == {("1", "dead"), ("3", "")}
    with database.reading() as connection:
        then = select(entries.c.source_id).where(entries.c.added_in <= 1)
        then = then.where(entries.c.removed_in.is_(None) | (entries.c.removed_in > 1))
        assert set(connection.execute(then).scalars()) == {"1", "2"}


def test_a_failed_import_changes_nothing(database, monkeypatch):
    import_list(database, [KARPOV, LEE], officer="anna")
    before = (read_versions(database), read_audit(database), load_watchlist(database).screener.entries)

    def fail(*_, **__):
        raise RuntimeError("the machine stops here")

    monkeypatch.setattr(store, "record", fail)
    with pytest.raises(RuntimeError, match="stops here"):
        import_list(database, [replace(KARPOV, remarks="dead"), LEE], officer="anna")
    assert (read_versions(database), read_audit(database), load_watchlist(database).screener.entries) == before


def test_a_list_that_lost_most_entries_needs_a_word(database):
    many = [replace(LEE, source_id=str(number)) for number in range(10)]
    import_list(database, many, officer="anna")
    with pytest.raises(ListError, match="6 of 10 entries are not in this file"):
        import_list(database, many[:4], officer="anna")
    assert import_list(database, many[:4], officer="anna", confirm_removals=True).removed == 6
    with pytest.raises(ListError, match="one list"):
        import_list(database, [KARPOV, replace(LEE, list_name="other")], officer="anna")


def test_two_officers_close_an_alert(database, alert):
    assert review(database, alert["id"], "anna", "clear") == "second review"
    with pytest.raises(ReviewError, match="'anna' made the first review"):
        review(database, alert["id"], "anna", "clear")
    assert review(database, alert["id"], "bob", "clear") == "cleared"
    with pytest.raises(ReviewError, match="now at 'cleared'"):
        review(database, alert["id"], "carl", "match")
    lines = get_alert(database, alert["id"])["log"]
    assert [(line["who"], line["action"], line["reason"]) for line in lines] == [
        ("anna", "first review: clear", "because"),
        ("bob", "second review: clear", "because"),
    ]
    assert {(line["rules_version"], line["model_version"]) for line in lines} == {
        (RULES_VERSION, public_model().version)
    }
    assert all(line["at"].startswith("20") for line in lines)


def test_officers_who_disagree_start_again(database, alert):
    review(database, alert["id"], "anna", "clear")
    assert review(database, alert["id"], "bob", "match") == "first review"
    # Bob's no is not a first review: whoever comes next makes it.
    assert review(database, alert["id"], "bob", "match") == "second review"
    assert review(database, alert["id"], "anna", "match") == "confirmed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "maybe"}, "`decision`"),
        ({"reason": "  "}, "`reason`"),
        ({"reason": "x" * 3000}, "`reason`"),
        ({"officer": ""}, "`officer`"),
        ({"alert_id": 99}, "no alert 99"),
        ({"revision": 7}, "another officer was faster"),
    ],
)
def test_a_decision_that_may_not_be_is_refused(database, alert, change, message):
    arguments = {"alert_id": alert["id"], "officer": "anna", "decision": "clear", "reason": "because", "revision": 1}
    with pytest.raises(ReviewError, match=message):
        decide(database, **{**arguments, **change})
    assert get_alert(database, alert["id"])["status"] == "first review"
    assert get_alert(database, alert["id"])["log"] == []


def test_of_officers_at_the_same_time_one_decides_and_none_is_lost(database):
    import_list(database, [KARPOV], officer="anna")
    save_customers(database, [replace(CUSTOMER, id=f"c{number}") for number in range(4)], officer="anna")
    numbers = [alert["id"] for alert in list_alerts(database)]
    outcomes = []
    start = threading.Barrier(6)

    def officer(name):
        start.wait()
        for number in numbers:
            try:
                status = decide(database, number, officer=name, decision="clear", reason=name, revision=1)
                outcomes.append((number, name, status))
            except ReviewError:
                pass

    threads = [threading.Thread(target=officer, args=(f"officer{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _, _ in outcomes) == sorted(numbers)
    for number, name, _ in outcomes:
        found = get_alert(database, number)
        assert (found["first_officer"], found["revision"]) == (name, 2)
        assert [line["who"] for line in found["log"]] == [name]


def test_customers_saved_at_the_same_time_are_all_saved(database):
    import_list(database, [KARPOV], officer="anna")
    names = [[replace(CUSTOMER, id=f"{thread}-{number}") for number in range(5)] for thread in range(4)]
    threads = [
        threading.Thread(target=save_customers, args=(database, batch), kwargs={"officer": "x"}) for batch in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list_alerts(database)) == 20


def close(database, alert_id):
    review(database, alert_id, "anna", "clear")
    review(database, alert_id, "bob", "clear")


def test_a_cleared_pair_stays_cleared_until_a_side_changes(database, alert):
    close(database, alert["id"])
    assert save_customers(database, [CUSTOMER], officer="anna") == (0, 0)
    change_setting(database, "threshold:own", 0.6, officer="anna", reason="try")
    assert rescreen(database) == 0
    import_list(database, [KARPOV, LEE, replace(LEE, source_id="9")], officer="anna")
    assert rescreen(database) == 0
    # The list's side.
    import_list(database, [replace(KARPOV, remarks="also known in Riga"), LEE], officer="anna")
    assert rescreen(database) == 1
    (again,) = list_alerts(database)
    close(database, again["id"])
    # The customer's side.
    assert save_customers(database, [replace(CUSTOMER, country="RU")], officer="anna") == (1, 1)
    assert get_alert(database, alert["id"])["status"] == "cleared"


def test_an_entry_off_the_list_and_on_again_stays_cleared(database, alert):
    close(database, alert["id"])
    import_list(database, [LEE], officer="anna")
    import_list(database, [KARPOV, LEE], officer="anna")
    assert rescreen(database) == 0
    (found,) = list_alerts(database, statuses=["cleared"])
    assert found["stale"] == ""


def test_customers_are_screened_when_a_list_changes(database):
    save_customers(database, [CUSTOMER, Customer("c2", "Anna Lee")], officer="anna")
    import_list(database, [LEE], officer="anna")
    assert rescreen(database) == 1
    assert rescreen(database) == 0
    import_list(database, [LEE, KARPOV], officer="anna")
    assert rescreen(database) == 1
    assert {alert["customer_id"] for alert in list_alerts(database)} == {"c1", "c2"}


def test_an_interrupted_screening_is_done_again(database, monkeypatch):
    save_customers(database, [CUSTOMER], officer="anna")
    import_list(database, [KARPOV], officer="anna")
    with monkeypatch.context() as patch:
        patch.setattr(store, "raise_alerts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rescreen(database)
    assert rescreen(database) == 1


def test_nothing_undecided_disappears(database, alert):
    # Off the list: the alert stays, and says so.
    import_list(database, [LEE], officer="anna")
    rescreen(database)
    (found,) = list_alerts(database)
    assert found["id"] == alert["id"]
    assert found["stale"] == "the entry has changed or is no longer listed"
    # Another name for the customer: the alert on the former name stays too.
    save_customers(database, [replace(CUSTOMER, name="Somebody Else")], officer="anna")
    assert "the customer has changed" in list_alerts(database)[0]["stale"]


def test_an_alert_gives_way_only_to_another_and_leaves_a_line(database, alert):
    review(database, alert["id"], "anna", "clear")
    save_customers(database, [replace(CUSTOMER, country="RU")], officer="anna")
    (current,) = list_alerts(database)
    assert current["id"] != alert["id"]
    former = get_alert(database, alert["id"])
    assert former["status"] == "superseded"
    assert former["log"][-1]["reason"].endswith(f"alert {current['id']} takes its place")
    # Back to what it was: nobody had decided that, so it is to be decided again.
    save_customers(database, [CUSTOMER], officer="anna")
    (current,) = list_alerts(database)
    assert (current["id"], current["status"], current["first_officer"]) == (alert["id"], "first review", None)
    assert review(database, alert["id"], "anna", "clear") == "second review"


@pytest.mark.parametrize("statement", [update(audit).values(who="nobody"), delete(audit)], ids=["update", "delete"])
def test_the_log_can_only_grow(database, alert, statement):
    review(database, alert["id"], "anna", "clear")
    before = read_audit(database)
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="can only grow"), database.writing() as connection:
        connection.execute(statement)
    assert read_audit(database) == before


def test_a_line_of_the_log_cannot_be_replaced(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/screening.db")
    import_list(database, [KARPOV], officer="anna")
    before = read_audit(database)
    replacing = (
        "INSERT OR REPLACE INTO audit SELECT id, at, 'nobody', action, alert_id, subject, reason, rules_version, "
    )
    with pytest.raises(sqlalchemy.exc.IntegrityError, match="can only grow"), database.writing() as connection:
        connection.exec_driver_sql(f"{replacing} model_version, details FROM audit")
    assert read_audit(database) == before


class KnowsCrime:
    version = "keyword-1"

    def judge(self, text):
        crime = "fraud" in text
        return Verdict(crime, 0.97 if crime else 0.02, text, self.version)


def test_the_first_pass_only_advises_unless_it_is_told_otherwise(database):
    gardener = replace(LEE, list_name="pep", news="She opened a garden.")
    banker = replace(KARPOV, list_name="pep", news="He was tried for fraud.")
    result = import_list(database, [gardener, banker], officer="anna", classifier=KnowsCrime())
    assert result.not_relevant == 1
    assert "first pass: not relevant" in actions(database)
    save_customers(database, [CUSTOMER, Customer("c2", "Anna Lee")], officer="anna")
    found = list_alerts(database)
    advice = {alert["customer_id"]: alert["features"][-1]["text"] for alert in found}
    assert advice["c1"] == "news relevant (0.97): He was tried for fraud. [keyword-1]"
    assert advice["c2"] == "news not relevant (0.02): She opened a garden. [keyword-1]"
    assert {alert["model_version"] for alert in found} == {"keyword-1"}

    change_setting(database, "advice_only", False, officer="anna", reason="the model is good")
    assert save_customers(database, [Customer("c3", "Anna Lee"), replace(CUSTOMER, id="c4")], officer="anna") == (2, 1)
    # What it had not dropped before is still to be decided.
    assert {alert["customer_id"] for alert in list_alerts(database)} == {"c1", "c2", "c4"}
    change_setting(database, "advice_only", True, officer="anna", reason="it is not")
    assert rescreen(database) == 1
    assert actions(database).count("setting") == 2


def test_without_a_model_all_news_is_kept(database):
    result = import_list(database, [replace(LEE, news="She opened a garden.")], officer="anna")
    assert result.not_relevant == 0
    assert save_customers(database, [Customer("c2", "Anna Lee")], officer="anna") == (1, 1)


def test_a_lower_threshold_finds_more(database):
    import_list(database, [KARPOV], officer="anna")
    save_customers(database, [Customer("c", "Karpov Ivan")], officer="anna")
    assert list_alerts(database) == []
    change_setting(database, "threshold:own", 0.55, officer="anna", reason="try")
    assert rescreen(database) == 1


@pytest.mark.parametrize(
    ("name", "value", "reason", "message"),
    [
        ("advice_only", "no", "x", "must be true or false, got 'no'"),
        ("threshold:own", 0.2, "x", "between 0.5 and 1, got 0.2"),
        ("threshold:own", True, "x", "between 0.5 and 1, got True"),
        ("threshold:", 0.8, "x", "must be `advice_only` or `threshold:<list>`"),
        ("colour", 1, "x", "must be `advice_only` or `threshold:<list>`"),
        ("advice_only", True, " ", "named officer who gives a reason"),
    ],
)
def test_a_setting_that_may_not_be_is_refused(database, name, value, reason, message):
    with pytest.raises(ReviewError, match=message):
        change_setting(database, name, value, officer="anna", reason=reason)
    assert actions(database) == []


def test_a_list_that_there_is_not_has_no_threshold(database):
    import_list(database, [KARPOV], officer="anna")
    with pytest.raises(ReviewError, match=r"no list 'Own': expected one of \['own'\]"):
        change_setting(database, "threshold:Own", 0.6, officer="anna", reason="try")
    assert actions(database) == ["import"]


def test_csv_holds_no_formula():
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"]
    others = ["plain", 'a "quoted", cell', "0.75", "", '{"a": "б"}']
    given = (*formulas, "plain", 'a "quoted", cell', 0.75, None, {"a": "б"})
    text = to_csv([{"cell": cell} for cell in given], ["cell"])
    (header,), *cells = csv.reader(io.StringIO(text, newline=""))
    assert header == "cell"
    assert [cell for (cell,) in cells] == [*(f"'{formula}" for formula in formulas), *others]


def test_another_kind_of_database_is_refused(monkeypatch):
    # Whether its driver is installed or not.
    monkeypatch.setattr("screening.database.create_engine", lambda url: sqlalchemy.create_mock_engine(url, print))
    with pytest.raises(ValueError, match="must be sqlite or postgresql, got 'mysql'"):
        Database("mysql://localhost/x")


def test_alerts_keep_what_was_compared(database, alert):
    with database.reading() as connection:
        row = connection.execute(select(alerts)).one()
    assert row.customer["name"] == "Pavel Karpov"
    assert row.rules_version == RULES_VERSION
    assert {feature["name"] for feature in row.features} >= {"name", "word: equal", "birth date"}
    assert get_alert(database, row.id)["entry"]["names"] == ["KARPOV, Pavel"]
