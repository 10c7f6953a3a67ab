"""What officers do: two different ones must agree before an alert is closed, and everything leaves a line."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from .database import Database, advice, alerts, audit, customers, entries, list_versions, record
from .matching import RULES_VERSION
from .store import (
    ADVICE_ONLY,
    AI_CLEARED,
    CLEARED,
    CONFIRMED,
    FIRST_REVIEW,
    NO_MODEL,
    SCREENED_THROUGH,
    SECOND_REVIEW,
    THRESHOLD,
    UNDECIDED,
    latest_advice,
    read_settings,
    reopen_cleared,
    subject_of,
    write_setting,
)


CLEAR, MATCH = "clear", "match"
CLOSED_AS = {CLEAR: CLEARED, MATCH: CONFIRMED}
MAX_REASON = 2000
# What a spreadsheet would take for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class ReviewError(ValueError):
    """A decision that may not be taken; the message says why and what to do."""


def decide(database: Database, alert_id: int, *, officer: str, decision: str, reason: str, revision: int) -> str:
    """
    Records an officer's decision on an alert. The first review proposes; when another officer decides the same in the
    second, the alert is closed; when not, it goes back to the first review. On an alert that AI has cleared it is a
    first review.

    Args:
        database ([`Database`]): Where the alert is.
        alert_id (`int`): The alert.
        officer (`str`): Who decides.
        decision (`str`): `"clear"` or `"match"`.
        reason (`str`): Why, in the officer's words.
        revision (`int`): The alert's `revision` that the officer saw.

    Returns:
        `str`: The alert's status after it.

    Raises:
        ReviewError: if the alert has changed since, is closed, is not there, the officer is the first reviewer, or
            the decision or its reason is missing.
    """
    if decision not in CLOSED_AS:
        raise ReviewError(f"The `decision` must be one of {list(CLOSED_AS)}, got {decision!r}.")
    if not reason.strip() or len(reason) > MAX_REASON:
        raise ReviewError(f"The `reason` must have 1 to {MAX_REASON} characters, got {len(reason.strip())}.")
    if not officer.strip():
        raise ReviewError("The `officer` must be named: log in first.")
    with database.writing() as connection:
        alert = connection.execute(select(alerts).where(alerts.c.id == alert_id)).first()
        if alert is None:
            raise ReviewError(f"There is no alert {alert_id}.")
        if alert.revision != revision or alert.status not in (*UNDECIDED, AI_CLEARED):
            raise ReviewError(f"Alert {alert_id} is now at {alert.status!r}: another officer was faster. Look again.")
        if alert.status == SECOND_REVIEW and officer == alert.first_officer:
            raise ReviewError(f"{officer!r} made the first review of alert {alert_id}: the second needs somebody else.")
        status, changes = next_state(alert, officer, decision)
        where = (alerts.c.id == alert_id, alerts.c.revision == revision)
        done = connection.execute(update(alerts).where(*where).values(**changes, revision=revision + 1))
        if done.rowcount != 1:
            raise ReviewError(f"Alert {alert_id} has changed meanwhile: another officer was faster. Look again.")
        advised = last_advice(connection, alert_id)
        record(
            connection,
            officer,
            f"{alert.status}: {decision}",
            subject_of(alert.list_name, alert.source_id, alert.customer_id),
            reason.strip(),
            rules_version=alert.rules_version,
            model_version=models_of(alert, advised),
            alert_id=alert_id,
            details={
                "status": status,
                "score": alert.score,
                "revision": revision,
                "customer_fingerprint": alert.customer_fingerprint,
                "entry_fingerprint": alert.entry_fingerprint,
                "probability": advised.probability if advised else None,
            },
        )
    return status


def last_advice(connection: Connection, alert_id: int) -> Row | None:
    """What the second-level review said last of an alert; nothing of one that was raised before there was any."""
    return connection.execute(
        select(advice).where(advice.c.alert_id == alert_id).order_by(advice.c.id.desc()).limit(1)
    ).first()


def models_of(alert: Row, advised: Row | None) -> str:
    """The versions of the models whose advice an officer sees."""
    versions = [alert.model_version] if alert.model_version != NO_MODEL else []
    return "; ".join(versions + ([advised.model] if advised else [])) or NO_MODEL


def next_state(alert: Row, officer: str, decision: str) -> tuple[str, dict[str, Any]]:
    """The status that a decision leads to, and the columns that change."""
    if alert.status != SECOND_REVIEW:
        return SECOND_REVIEW, {"status": SECOND_REVIEW, "first_officer": officer, "first_decision": decision}
    if decision == alert.first_decision:
        return CLOSED_AS[decision], {"status": CLOSED_AS[decision]}
    return FIRST_REVIEW, {"status": FIRST_REVIEW, "first_officer": None, "first_decision": None}


def change_setting(database: Database, name: str, value: object, *, officer: str, reason: str) -> None:
    """
    Changes `advice_only` or a list's threshold (`threshold:<list>`); all customers are due for screening after it.

    Raises:
        ReviewError: for another name, a list that there is not, a value that is not possible, or a missing reason.
    """
    if name == ADVICE_ONLY:
        if not isinstance(value, bool):
            raise ReviewError(f"`{ADVICE_ONLY}` must be true or false, got {value!r}.")
    elif not name.startswith(THRESHOLD) or not name.removeprefix(THRESHOLD):
        raise ReviewError(f"The setting must be `{ADVICE_ONLY}` or `{THRESHOLD}<list>`, got {name!r}.")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 1:
        raise ReviewError(f"A threshold must be between 0.5 and 1, got {value!r}.")
    if not reason.strip() or not officer.strip():
        raise ReviewError("A setting is changed by a named officer who gives a reason.")
    with database.writing() as connection:
        lists = sorted(connection.execute(select(list_versions.c.list_name).distinct()).scalars())
        if name != ADVICE_ONLY and name.removeprefix(THRESHOLD) not in lists:
            raise ReviewError(f"There is no list {name.removeprefix(THRESHOLD)!r}: expected one of {lists}.")
        old = read_settings(connection).get(name)
        write_setting(connection, name, value)
        write_setting(connection, SCREENED_THROUGH, 0)
        if name == ADVICE_ONLY and value:
            reopen_cleared(connection, officer, f"AI only advises: {reason.strip()}")
        details = {"from": old, "to": value}
        record(connection, officer, "setting", name, reason.strip(), rules_version=RULES_VERSION, details=details)


def list_alerts(database: Database, *, statuses: Iterable[str] = UNDECIDED, limit: int = 500) -> list[dict[str, Any]]:
    """
    Alerts, the highest scores first, each with `stale`, what has changed since it was raised, and `probability`, what
    the second-level review says.
    """
    sides = alerts.join(entries, alerts.c.entry_id == entries.c.id)
    sides = sides.join(customers, alerts.c.customer_id == customers.c.id)
    latest = latest_advice()
    query = (
        select(alerts, entries.c.removed_in, customers.c.fingerprint.label("customer_now"), latest.c.probability)
        .select_from(sides.outerjoin(latest, latest.c.alert_id == alerts.c.id))
        .where(alerts.c.status.in_(list(statuses)))
        .order_by(alerts.c.score.desc(), alerts.c.id)
        .limit(limit)
    )
    with database.reading() as connection:
        return [with_staleness(row) for row in connection.execute(query)]


def count_alerts(database: Database, *, statuses: Iterable[str] = UNDECIDED) -> int:
    """How many alerts there are."""
    with database.reading() as connection:
        query = select(func.count()).select_from(alerts).where(alerts.c.status.in_(list(statuses)))
        return connection.execute(query).scalar_one()


def with_staleness(row: Row) -> dict[str, Any]:
    """An alert with what has changed since it was raised."""
    alert = dict(row._mapping)
    stale = []
    if alert.pop("removed_in") is not None:
        stale.append("the entry has changed or is no longer listed")
    if alert.pop("customer_now") != alert["customer_fingerprint"]:
        stale.append("the customer has changed")
    return {**alert, "stale": "; ".join(stale)}


def get_alert(database: Database, alert_id: int) -> dict[str, Any]:
    """
    One alert with the entry as it was listed, the last advice and the lines of the log about it.

    Raises:
        ReviewError: if it is not there.
    """
    with database.reading() as connection:
        alert = connection.execute(select(alerts).where(alerts.c.id == alert_id)).first()
        if alert is None:
            raise ReviewError(f"There is no alert {alert_id}.")
        entry = connection.execute(select(entries.c.content).where(entries.c.id == alert.entry_id)).scalar_one()
        lines = rows_of(connection, select(audit).where(audit.c.alert_id == alert_id).order_by(audit.c.id))
        advised = last_advice(connection, alert_id)
    return {**alert._mapping, "entry": entry, "advice": advised and dict(advised._mapping), "log": lines}


def read_audit(database: Database, *, limit: int | None = 500) -> list[dict[str, Any]]:
    """The log, the latest line first."""
    with database.reading() as connection:
        return rows_of(connection, select(audit).order_by(audit.c.id.desc()).limit(limit))


def read_versions(database: Database) -> list[dict[str, Any]]:
    """The imports of all lists, the latest first."""
    with database.reading() as connection:
        return rows_of(connection, select(list_versions).order_by(list_versions.c.id.desc()))


def current_settings(database: Database) -> dict[str, Any]:
    """The settings in force."""
    with database.reading() as connection:
        return read_settings(connection)


def rows_of(connection: Connection, query: Select) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries."""
    return [dict(row._mapping) for row in connection.execute(query)]


def safe_cell(value: object) -> str:
    """A value as a cell that no spreadsheet takes for a formula."""
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as csv for a spreadsheet: every cell quoted, none a formula."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    writer.writerows([safe_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


__all__ = [
    "CLEAR",
    "MATCH",
    "ReviewError",
    "change_setting",
    "count_alerts",
    "current_settings",
    "decide",
    "get_alert",
    "list_alerts",
    "read_audit",
    "read_versions",
    "to_csv",
]
