"""The second-level review: fields, models as numbers, clearing that is never silent, and learning from decisions."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')
import numpy as np
import pyarrow.parquet
from sklearn.base import clone
from sqlalchemy import insert, select

from screening import learning
from screening.database import Database, advice, models
from screening.fields import FieldModel, field_values, public_model
from screening.learning import (
    ALGORITHMS,
    MIN_AUC,
    PUBLIC_ROWS,
    Decisions,
    learn,
    parameters_of,
    read_models,
    recall_interval,
    roll_back,
    safe_threshold,
    train_model,
    wait_days,
    waiting_of,
)
from screening.lists import Entry
from screening.matching import Customer
from screening.photos import attach_photo
from screening.review import ReviewError, change_setting, decide, get_alert, list_alerts, read_audit
from screening.store import champion, import_list, rescreen, save_customers, write_setting


RESULTS = Path(__file__).parent.parent / "benchmarks" / "name_screening.json"
KARPOV = Entry("own", "1", "person", ("KARPOV, Pavel", "Pavlik"), ("1977-08-27",), ("RU",))
SAME_DAY = Customer("same", "Pavel Karpov", birth_date="1977-08-27", country="RU")
ELSEWHERE = Customer("other", "Pavel Karpow", birth_date="1951-01-02", country="Sweden")

SYLLABLES = ("ba", "ke", "dim", "fo", "gul", "pri", "sa", "tor", "ven", "mu", "lix", "ho")


def by_birth(version="birth"):
    """A model by hand: born in the same year is a match, else not."""
    fields = tuple(field_values(SAME_DAY, KARPOV, "Pavel Karpov", "KARPOV, Pavel"))
    weights = tuple(8.0 if name == "born in the same year" else 0.0 for name in fields)
    notes = {"auc": {"logistic regression": 0.99}}
    usual = (0.0,) * len(fields)
    return FieldModel(version, "logistic regression", fields, 0.5, usual, -4.0, weights, notes=notes)


def store_champion(database, model):
    with database.writing() as connection:
        values = {"version": model.version, "state": "champion", "trained_at": "2026-01-01T00:00:00.000+00:00"}
        connection.execute(insert(models).values(**values, decisions=0, parameters=model.to_dict()))
        write_setting(connection, "champion", model.version)


@pytest.fixture
def database(tmp_path):
    made = Database(f"sqlite:///{tmp_path}/screening.db")
    import_list(made, [KARPOV], officer="setup")
    return made


def review(database, alert_id, decision):
    for officer in ("anna", "bob"):
        revision = get_alert(database, alert_id)["revision"]
        decide(database, alert_id, officer=officer, decision=decision, reason="because", revision=revision)


@pytest.mark.parametrize(
    ("last_days", "passed", "days"),
    [(0, 0, 70), (30, 0, 40), (30, 1000, 30), (30, 3000, 10), (100, 0, 40), (10, 2000, 40), (0, 7000, 10)],
)
def test_the_waiting_time_is_that_of_the_formula(last_days, passed, days):
    assert wait_days(last_days, passed) == days


def test_fields_say_what_is_alike():
    fields = field_values(SAME_DAY, KARPOV, "Pavel Karpov", "KARPOV, Pavel")
    assert fields["likeness of the names"] == fields["customer's words covered"] == 1.0
    assert (fields["equal words"], fields["born on the same day"]) == (2, 1.0)
    assert (fields["same country"], fields["other country"]) == (1, 0)
    other = field_values(replace(ELSEWHERE, aliases=("Павлик Ивáнов",)), KARPOV, "Павлик Иванов", "Pavlik")
    assert (other["customer's words left"], other["years between births"]) == (1, 26)
    assert (other["same country"], other["other country"]) == (0, 1)
    nothing = field_values(Customer("c", "Pavel"), KARPOV, "Pavel", "KARPOV, Pavel")
    assert {nothing[name] for name in ("born in the same year", "years between births", "other country")} == {0}
    # A name that many people have says less.
    assert field_values(Customer("c", "Ali"), KARPOV, "Ali", "Ali")["rarity of the shared words"] < 5
    assert nothing["rarity of the shared words"] > 5


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_a_model_is_what_scikit_learn_has_fitted(name):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(300, 4)).astype(np.float32)
    labels = (rows[:, 0] * rows[:, 1] + rows[:, 2] + 0.3 * generator.normal(size=300) > 0.5).astype(int)
    fitted = clone(ALGORITHMS[name]).fit(rows, labels)
    made = FieldModel("v", name, tuple("abcd"), 0.5, (0.0,) * 4, **parameters_of(fitted))
    loaded = FieldModel.from_dict(json.loads(json.dumps(made.to_dict())))
    np.testing.assert_allclose(loaded.probabilities(rows), fitted.predict_proba(rows)[:, 1], atol=1e-6)


def test_the_best_algorithm_is_kept_and_its_threshold_keeps_the_recall():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(1500, 3)).clip(max=0.9).astype(np.float32)
    labels = ((rows[:, 0] > 0) ^ (rows[:, 1] > 0)).astype(int)
    made = train_model(
        rows, labels, [str(i // 3) for i in range(1500)], version="v", fields=["a", "b", "likeness of the names"]
    )
    areas = made.notes["auc"]
    assert made.auc == max(areas.values()) > 0.97
    # No line tells these apart.
    assert areas["logistic regression"] < 0.6
    assert made.algorithm != "logistic regression"
    fresh = generator.normal(size=(2000, 3)).clip(max=0.9)
    same = (fresh[:, 0] > 0) ^ (fresh[:, 1] > 0)
    assert (made.probabilities(fresh[same]) >= made.threshold).mean() >= 0.985


def test_few_matches_show_no_recall_and_clear_nothing():
    assert safe_threshold(np.full(300, 0.9)) == 0.0
    many = np.linspace(0.1, 1.0, 2000)
    threshold = safe_threshold(many)
    assert 0.1 < threshold < many[20]
    assert recall_interval(int((many >= threshold).sum()), 2000)[0] >= 0.99


def test_the_public_model_is_the_one_that_was_measured():
    measured = json.loads(RESULTS.read_text())["review"]
    model = public_model()
    assert measured["algorithm"] == model.algorithm
    assert measured["threshold"] == model.threshold
    assert model.auc == max(measured["cross_validated_auc"].values()) >= MIN_AUC
    assert pyarrow.parquet.read_schema(PUBLIC_ROWS).names == [*model.fields, "label", "entry"]
    assert set(model.fields) == set(field_values(SAME_DAY, KARPOV, "Pavel Karpov", "KARPOV, Pavel"))
    # Neither the order nor the script of a name says that it is somebody else's.
    belan = Entry("own", "2", "person", ("BELAN, Aleksey Alekseyevich", "BELAN, Aleksei"), ("1987-06-27",), ("LV",))
    in_cyrillic = Customer("c", "Алексей Белан", birth_date="1987", country="LV")
    assert not model.advise(field_values(in_cyrillic, belan, "Алексей Белан", "BELAN, Aleksei")).clear
    right = model.advise(field_values(SAME_DAY, KARPOV, "Pavel Karpov", "KARPOV, Pavel"))
    wrong = model.advise(field_values(ELSEWHERE, KARPOV, "Pavel Karpow", "KARPOV, Pavel"))
    assert right.probability > 0.9 > 0.5 > wrong.probability
    assert not right.clear
    assert any(reason.startswith("years between births: 26") for reason in wrong.reasons)


def test_advice_stands_beside_every_alert_and_decides_nothing(database):
    store_champion(database, by_birth())
    save_customers(database, [SAME_DAY, ELSEWHERE], officer="anna")
    same, other = list_alerts(database)
    assert (same["status"], other["status"]) == ("first review", "first review")
    assert (same["probability"], other["probability"]) == (0.982, 0.018)
    found = get_alert(database, other["id"])["advice"]
    assert (found["clear"], found["model"]) == (True, "birth")
    assert get_alert(database, same["id"])["advice"]["reasons"] == ["born in the same year: 1 (+0.96)"]
    review(database, other["id"], "clear")
    lines = get_alert(database, other["id"])["log"]
    assert {(line["model_version"], line["details"]["probability"]) for line in lines} == {("birth", 0.018)}


@pytest.fixture
def cleared(database):
    """Two alerts with AI clearing switched on: one in its first review, one cleared by AI."""
    store_champion(database, by_birth())
    change_setting(database, "advice_only", False, officer="anna", reason="the model is good")
    save_customers(database, [SAME_DAY, ELSEWHERE], officer="anna")
    (found,) = list_alerts(database, statuses=["cleared by AI"])
    return found


def test_clearing_is_switched_on_by_an_officer_and_never_silent(database, cleared):
    assert [alert["customer_id"] for alert in list_alerts(database)] == ["same"]
    assert cleared["customer_id"] == "other"
    (line,) = get_alert(database, cleared["id"])["log"]
    assert (line["who"], line["action"], line["model_version"]) == ("system", "cleared by AI", "birth")
    assert line["reason"].startswith("likely a match: 0.0180")
    # It is an officer's whenever one wants it.
    review(database, cleared["id"], "match")
    assert get_alert(database, cleared["id"])["status"] == "confirmed"


def test_advice_only_takes_back_what_was_cleared(database, cleared):
    change_setting(database, "advice_only", True, officer="anna", reason="an error was found")
    found = get_alert(database, cleared["id"])
    assert found["status"] == "first review"
    assert (found["log"][-1]["who"], found["log"][-1]["action"]) == ("anna", "first review")
    assert rescreen(database) == 0


def test_an_alert_that_ai_cleared_gives_way_to_a_newer_state(database, cleared):
    save_customers(database, [replace(ELSEWHERE, birth_date="1977")], officer="anna")
    assert get_alert(database, cleared["id"])["status"] == "superseded"
    assert {alert["customer_id"] for alert in list_alerts(database)} == {"same", "other"}


def decisions_of(labels, closed_at="2026-02-01T00:00:00.000+00:00"):
    fields = by_birth().fields
    rows = np.zeros((len(labels), len(fields)), dtype=np.float32)
    rows[:, fields.index("born in the same year")] = labels
    return Decisions(rows, np.array(labels), tuple(str(i) for i in range(len(labels))), (closed_at,) * len(labels))


def test_a_challenger_waits_longer_when_it_was_wrong():
    trained, at = "2026-01-31T00:00:00.000+00:00", "2026-02-21T00:00:00.000+00:00"
    right = decisions_of([1] * 5 + [0] * 200)
    assert waiting_of(by_birth(), trained, right, at) == {"passed": 200, "wrong": 0, "wait": 47, "left": 26}
    before = decisions_of([0] * 200, closed_at="2026-01-30T00:00:00.000+00:00")
    assert waiting_of(by_birth(), trained, before, at) == {"passed": 0, "wrong": 0, "wait": 49, "left": 28}
    wrong = replace(right, labels=1 - right.labels)
    assert waiting_of(by_birth(), trained, wrong, at) == {"passed": 0, "wrong": 200, "wait": 50, "left": 29}


@pytest.fixture
def taught(database, monkeypatch):
    """Thirty closed alerts; models that are quick to train."""
    monkeypatch.setattr(learning, "MIN_DECISIONS", 30)
    monkeypatch.setattr(learning, "MIN_COMPARED", 2)
    monkeypatch.setattr(learning, "ALGORITHMS", {"logistic regression": ALGORITHMS["logistic regression"]})
    syllables = random.Random(0)
    names = [" ".join("".join(syllables.choices(SYLLABLES, k=3)) for _ in range(2)) for _ in range(30)]
    entries = [replace(KARPOV, source_id=str(number), names=(name,)) for number, name in enumerate(names)]
    import_list(database, entries, officer="setup", confirm_removals=True)
    births = ("1977", "1951")
    customers = [Customer(f"c{number}", name, birth_date=births[number % 2]) for number, name in enumerate(names)]
    save_customers(database, customers, officer="setup")
    for alert in list_alerts(database):
        review(database, alert["id"], "match" if alert["customer"]["birth_date"] == "1977" else "clear")
    return database


def later(days):
    """So many days after a time by which all that the tests decide is decided."""
    return (datetime(2126, 1, 1, tzinfo=UTC) + timedelta(days)).isoformat(timespec="milliseconds")


def test_decisions_train_a_challenger_that_replaces_the_champion_when_better(taught):
    # The champion believes nobody.
    worse = replace(by_birth("worse"), weights=tuple(-weight for weight in by_birth().weights))
    store_champion(taught, worse)
    assert learn(taught, officer="anna", at=later(0)).startswith("learned-2 waits: AUC 0.9")
    assert learn(taught, at=later(5)).startswith("learned-2 waits for another 60.0 days")
    latest = read_models(taught, at=later(5))[0]
    assert (latest["version"], latest["state"], latest["wait"]) == ("learned-2", "challenger", 65)
    with taught.reading() as connection:
        assert champion(connection).version == "worse"
    assert "learned-2 is in force: AUC" in learn(taught, at=later(60))
    with taught.reading() as connection:
        assert champion(connection).version == "learned-2"
    states = {model["version"]: model["state"] for model in read_models(taught)}
    assert states == {"learned-2": "champion", "worse": "former", "public-1": "former"}
    actions = [(line["action"], line["who"], line["subject"]) for line in read_audit(taught)[:2]]
    assert actions == [("model: in force", "system", "learned-2"), ("model: trained", "anna", "learned-2")]
    assert "more decisions are needed" in learn(taught, at=later(60))


def test_a_challenger_that_is_not_better_is_rejected(taught):
    store_champion(taught, by_birth())
    learn(taught, at=later(0))
    assert "learned-2 is rejected: AUC" in learn(taught, at=later(60))
    with taught.reading() as connection:
        assert champion(connection).version == "birth"


def test_a_model_below_the_bar_is_not_kept(taught, monkeypatch):
    monkeypatch.setattr(learning, "MIN_AUC", 1.01)
    assert learn(taught, at=later(0)).startswith("learned-1 is rejected")
    assert "more decisions are needed" in learn(taught, at=later(60))


def test_without_held_out_decisions_of_both_kinds_a_challenger_goes_on_waiting(taught, monkeypatch):
    monkeypatch.setattr(learning, "MIN_COMPARED", 100)
    learn(taught, at=later(0))
    assert "waits for 100 held-out decisions" in learn(taught, at=later(60))


def test_no_model_learns_from_what_is_held_out(taught, monkeypatch):
    seen = []
    monkeypatch.setattr(learning, "train_model", lambda *given, **_: seen.append(given) or by_birth("learned-1"))
    learn(taught)
    with taught.reading() as connection:
        decisions = learning.read_decisions(connection)
    groups = seen[0][2][len(learning.public_rows()[2]) :]
    assert 0 < decisions.held_out.sum() < 30
    assert set(groups).isdisjoint(decisions[decisions.held_out].groups)
    assert len(groups) == 30 - decisions.held_out.sum()


def test_a_photograph_makes_no_decision_newer(database, monkeypatch):
    save_customers(database, [SAME_DAY], officer="setup")
    (alert,) = list_alerts(database)
    review(database, alert["id"], "match")
    monkeypatch.setattr("screening.database.now", lambda: later(0))
    attach_photo(database, alert["id"], "customer", b"", officer="anna")
    with database.reading() as connection:
        (closed_at,) = learning.read_decisions(connection).closed_at
    assert closed_at < later(0) == read_audit(database)[0]["at"]


def test_an_officer_rolls_a_model_back_with_a_reason(database, cleared):
    with pytest.raises(ReviewError, match="named officer who gives a reason"):
        roll_back(database, "public-1", officer="anna", reason=" ")
    with pytest.raises(ReviewError, match="Only a model that was in force before"):
        roll_back(database, "birth", officer="anna", reason="because")
    assert roll_back(database, "public-1", officer="anna", reason="it cleared Mr Karpow") == 1
    found = get_alert(database, cleared["id"])
    assert (found["status"], found["advice"]["model"]) == ("first review", "public-1")
    assert found["log"][-1]["reason"] == "birth was rolled back"
    (line,) = [line for line in read_audit(database) if line["action"] == "model: rolled back"]
    assert (line["who"], line["reason"], line["details"]) == ("anna", "it cleared Mr Karpow", {"from": "birth"})
    assert roll_back(database, "birth", officer="bob", reason="it was right") == 0
    with database.reading() as connection:
        assert champion(connection).version == "birth"
        asked = connection.execute(select(advice.c.model).where(advice.c.alert_id == cleared["id"])).scalars().all()
    assert asked == ["birth", "public-1", "birth"]
