"""Lists and customers into the database, and the alerts that follow."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from .database import (
    Database,
    advice,
    alerts,
    customers,
    entries,
    list_versions,
    models,
    now,
    record,
    settings,
)
from .fields import Advice, FieldModel, field_values, public_model
from .lists import Entry, ListError
from .matching import DEFAULT_THRESHOLD, RULES_VERSION, Customer, Match, Screener
from .news import NewsClassifier


ADVICE_ONLY = "advice_only"
# The version of the model of the second-level review that is in force; the one that comes with the Space where it
# names none that is stored.
CHAMPION = "champion"
THRESHOLD = "threshold:"
# The version up to which every customer has been screened; 0 asks for all.
SCREENED_THROUGH = "screened_through"
FIRST_REVIEW, SECOND_REVIEW = "first review", "second review"
CLEARED, CONFIRMED, SUPERSEDED = "cleared", "confirmed", "superseded"
# Cleared by the second-level review alone: an officer may decide it at any time.
AI_CLEARED = "cleared by AI"
UNDECIDED = (FIRST_REVIEW, SECOND_REVIEW)
# Customers per transaction.
BATCH = 500
SYSTEM = "system"
NO_MODEL = "absent"


@dataclass(frozen=True)
class ImportResult:
    """What an import changed; `version` is `None` where it changed nothing."""

    version: int | None
    entries: int
    added: int
    changed: int
    removed: int
    not_relevant: int


@dataclass(frozen=True)
class Watchlist:
    """The entries that are in force with the settings in force, ready to screen, and the state they were read in."""

    screener: Screener
    entry_ids: Mapping[tuple[str, str], int]
    first_pass: Mapping[tuple[str, str], dict[str, Any]]
    model: FieldModel
    advice_only: bool
    state: tuple[int, str]


def entry_of(content: Mapping[str, Any]) -> Entry:
    """An entry as it was stored."""
    tuples: dict[str, Any] = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
    return Entry(**{**content, **tuples})


def customer_of(content: Mapping[str, Any]) -> Customer:
    """A customer as it was stored."""
    return Customer(**{**content, "aliases": tuple(content["aliases"])})


def fingerprint_of(customer: Customer) -> str:
    """Changes when anything about the customer changes."""
    return hashlib.sha256(json.dumps(asdict(customer), sort_keys=True).encode()).hexdigest()[:32]


def read_settings(connection: Connection) -> dict[str, Any]:
    """All settings; without a decision of an officer, AI only advises."""
    stored = {row.name: row.value for row in connection.execute(select(settings))}
    return {ADVICE_ONLY: True, SCREENED_THROUGH: 0, **stored}


def write_setting(connection: Connection, name: str, value: object) -> None:
    """Sets one setting."""
    changed = connection.execute(update(settings).where(settings.c.name == name).values(value=value))
    if not changed.rowcount:
        connection.execute(insert(settings).values(name=name, value=value))


def latest_version(connection: Connection) -> int:
    """The number of the last import of any list; 0 before the first."""
    return connection.execute(select(func.max(list_versions.c.id))).scalar() or 0


def in_force(list_name: str | None = None) -> Any:
    """The condition that an entry is on its list now."""
    condition = entries.c.removed_in.is_(None)
    return condition if list_name is None else condition & (entries.c.list_name == list_name)


def import_list(
    database: Database,
    new: Sequence[Entry],
    *,
    officer: str,
    sha256: str = "",
    classifier: NewsClassifier | None = None,
    confirm_removals: bool = False,
) -> ImportResult:
    """
    Makes these entries the current version of their list, in one transaction; `rescreen` then finds what is due.

    Args:
        database ([`Database`]): Where to.
        new (list of [`Entry`]): The whole list, all of one `list_name`.
        officer (`str`): Who imports.
        sha256 (`str`, *optional*): Of the file.
        classifier ([`NewsClassifier`], *optional*): Judges the news of entries that are new or have changed.
        confirm_removals (`bool`, *optional*, defaults to `False`): Import a list that lacks more than half of the
            entries of the last version.

    Raises:
        ListError: if the list is empty, of several lists, or lacks so many.
    """
    names = {entry.list_name for entry in new}
    if len(names) != 1:
        raise ListError(f"Expected the entries of one list, got those of {len(names)}.")
    list_name = names.pop()
    by_id = {entry.source_id: entry for entry in new}
    if len(by_id) != len(new):
        raise ListError(f"{list_name}: expected every entry once, got {len(new) - len(by_id)} twice.")
    fingerprints = {number: entry.fingerprint for number, entry in by_id.items()}
    with database.reading() as connection:
        known = stored_states(connection, list_name)
    fresh = [number for number in by_id if known.get(number, (0, ""))[1] != fingerprints[number]]
    verdicts = judge_news([by_id[number] for number in fresh], classifier)
    with database.writing() as connection:
        known = stored_states(connection, list_name)
        fresh = [number for number in by_id if known.get(number, (0, ""))[1] != fingerprints[number]]
        removed = [number for number in known if number not in by_id]
        if len(removed) > len(known) / 2 and not confirm_removals:
            raise ListError(
                f"{list_name}: {len(removed)} of {len(known)} entries are not in this file. If they were taken off the "
                "list, confirm the removals; if not, the file is incomplete."
            )
        added = sum(number not in known for number in fresh)
        counts = {"entries": len(new), "added": added, "changed": len(fresh) - added, "removed": len(removed)}
        if not fresh and not removed:
            return ImportResult(None, **counts, not_relevant=0)
        version = insert_version(connection, list_name, officer, sha256, counts)
        gone = [{"row": known[number][0]} for number in (*removed, *fresh) if number in known]
        if gone:
            connection.execute(update(entries).where(entries.c.id == bindparam("row")).values(removed_in=version), gone)
        rows = [
            {
                "list_name": list_name,
                "source_id": number,
                "fingerprint": fingerprints[number],
                "content": asdict(by_id[number]),
                "first_pass": verdicts.get(number),
                "added_in": version,
            }
            for number in fresh
        ]
        if rows:
            connection.execute(insert(entries), rows)
        model = classifier.version if classifier else NO_MODEL
        dropped = {number: verdict for number, verdict in verdicts.items() if not verdict["relevant"]}
        record(
            connection,
            officer,
            "import",
            f"{list_name} version {version}",
            "",
            rules_version=RULES_VERSION,
            model_version=model,
            details={**counts, "sha256": sha256},
        )
        for number, verdict in dropped.items():
            record(
                connection,
                SYSTEM,
                "first pass: not relevant",
                f"{list_name}/{number}",
                verdict["reason"],
                rules_version=RULES_VERSION,
                model_version=verdict["model"],
                details={"score": verdict["score"]},
            )
    return ImportResult(version, **counts, not_relevant=len(dropped))


def stored_states(connection: Connection, list_name: str) -> dict[str, tuple[int, str]]:
    """Row and fingerprint of every entry that is on a list now."""
    columns = select(entries.c.source_id, entries.c.id, entries.c.fingerprint).where(in_force(list_name))
    return {row.source_id: (row.id, row.fingerprint) for row in connection.execute(columns)}


def insert_version(connection: Connection, list_name: str, officer: str, sha256: str, counts: Mapping[str, int]) -> int:
    """A new version of a list."""
    values = {"list_name": list_name, "imported_at": now(), "imported_by": officer, "sha256": sha256, **counts}
    key = connection.execute(insert(list_versions).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def judge_news(new: Iterable[Entry], classifier: NewsClassifier | None) -> dict[str, dict[str, Any]]:
    """What the classifier says of the entries that have news."""
    if classifier is None:
        return {}
    return {entry.source_id: asdict(classifier.judge(entry.news)) for entry in new if entry.news}


def load_watchlist(database: Database, *, added_after: int = 0) -> Watchlist:
    """
    Reads the entries in force.

    Args:
        database ([`Database`]): Where from.
        added_after (`int`, *optional*, defaults to 0): Only those that came in a version after this one.
    """
    found: dict[tuple[str, str], tuple[int, Entry]] = {}
    first_pass = {}
    with database.reading() as connection:
        state = state_of(connection)
        current = read_settings(connection)
        model = champion(connection)
        query = select(entries).where(in_force(), entries.c.added_in > added_after).order_by(entries.c.id)
        for row in connection.execute(query):
            if row.first_pass and not row.first_pass["relevant"] and not current[ADVICE_ONLY]:
                continue
            key = (row.list_name, row.source_id)
            found[key] = (row.id, entry_of(row.content))
            if row.first_pass:
                first_pass[key] = row.first_pass
    thresholds = {name.removeprefix(THRESHOLD): value for name, value in current.items() if name.startswith(THRESHOLD)}
    screener = Screener((entry for _, entry in found.values()), thresholds)
    entry_ids = {key: row for key, (row, _) in found.items()}
    return Watchlist(screener, entry_ids, first_pass, model, current[ADVICE_ONLY], state)


def champion(connection: Connection) -> FieldModel:
    """The model of the second-level review that is in force."""
    version = read_settings(connection).get(CHAMPION)
    stored = connection.execute(select(models.c.parameters).where(models.c.version == version)).scalar()
    return FieldModel.from_dict(stored) if stored else public_model()


def state_of(connection: Connection) -> tuple[int, str]:
    """Changes when a list or a setting that screening depends on changes."""
    current = {name: value for name, value in read_settings(connection).items() if name != SCREENED_THROUGH}
    return latest_version(connection), json.dumps(current, sort_keys=True)


def save_customers(
    database: Database, new: Iterable[Customer], *, officer: str, progress: Callable[[int], None] | None = None
) -> tuple[int, int]:
    """
    Saves customers, new or changed, and screens them in the same transactions.

    Args:
        database ([`Database`]): Where to.
        new (iterable of [`Customer`]): A customer with a known `id` replaces it.
        officer (`str`): Who saves.
        progress (callable, *optional*): Is told how many are done.

    Returns:
        `tuple`: Customers that are new or have changed, and alerts raised.
    """
    watchlist = load_watchlist(database)
    saved = raised = done = 0
    for batch in batches(new):
        # A list may have changed meanwhile: what is saved must have been screened against what is in force.
        while True:
            matches = [(customer, watchlist.screener.screen(customer)) for customer in batch]
            with database.writing() as connection:
                if state_of(connection) == watchlist.state:
                    changed = [pair for pair in matches if upsert_customer(connection, pair[0])]
                    raised += sum(raise_alerts(connection, watchlist, *pair) for pair in changed)
                    saved += len(changed)
                    subject = f"{len(changed)} of {len(batch)} customers are new or have changed"
                    record(connection, officer, "customers", subject, "", rules_version=RULES_VERSION)
                    break
            watchlist = load_watchlist(database)
        done += len(batch)
        if progress:
            progress(done)
    return saved, raised


def batches(new: Iterable[Customer]) -> Iterator[list[Customer]]:
    """The customers in lists of `BATCH`."""
    rest = iter(new)
    while batch := list(islice(rest, BATCH)):
        yield batch


def upsert_customer(connection: Connection, customer: Customer) -> bool:
    """Saves a customer; whether that changed anything."""
    fingerprint = fingerprint_of(customer)
    values = {"fingerprint": fingerprint, "content": asdict(customer), "changed_at": now()}
    query = select(customers.c.fingerprint).where(customers.c.id == customer.id)
    known = connection.execute(query).scalar()
    if known is None:
        connection.execute(insert(customers).values(id=customer.id, **values))
    elif known != fingerprint:
        connection.execute(update(customers).where(customers.c.id == customer.id).values(**values))
    return known != fingerprint


def rescreen(database: Database, *, progress: Callable[[int], None] | None = None) -> int:
    """
    Screens all customers against what has changed in the lists since the last time, or against everything after a
    setting has changed. Where it was interrupted, the next call does it again: it raises no alert twice.

    Returns:
        `int`: Alerts raised.
    """
    with database.reading() as connection:
        through = read_settings(connection)[SCREENED_THROUGH]
        version = latest_version(connection)
    if through >= version:
        return 0
    watchlist = load_watchlist(database, added_after=through)
    raised = done = 0
    for batch in stored_customers(database):
        screened = [(customer, fingerprint, watchlist.screener.screen(customer)) for customer, fingerprint in batch]
        if any(found for _, _, found in screened):
            with database.writing() as connection:
                for customer, fingerprint, found in screened:
                    # Who has changed meanwhile has been screened then.
                    if found and unchanged(connection, customer.id, fingerprint):
                        raised += raise_alerts(connection, watchlist, customer, found)
        done += len(batch)
        if progress:
            progress(done)
    with database.writing() as connection:
        # Unless a setting has changed meanwhile, which asks for all again.
        if state_of(connection)[1] == watchlist.state[1]:
            write_setting(connection, SCREENED_THROUGH, watchlist.state[0])
        subject = f"{done} customers against {len(watchlist.screener.entries)} entries: {raised} alerts"
        record(connection, SYSTEM, "screening", subject, "", rules_version=RULES_VERSION)
    return raised


def stored_customers(database: Database) -> Iterator[list[tuple[Customer, str]]]:
    """All customers with their fingerprints, in batches."""
    last = ""
    while True:
        with database.reading() as connection:
            query = select(customers).where(customers.c.id > last).order_by(customers.c.id).limit(BATCH)
            batch = [(customer_of(row.content), row.fingerprint) for row in connection.execute(query)]
        if not batch:
            return
        yield batch
        last = batch[-1][0].id


def unchanged(connection: Connection, customer_id: str, fingerprint: str) -> bool:
    """Whether a customer is still what it was."""
    query = select(customers.c.fingerprint).where(customers.c.id == customer_id)
    return connection.execute(query).scalar() == fingerprint


def raise_alerts(connection: Connection, watchlist: Watchlist, customer: Customer, matches: Sequence[Match]) -> int:
    """One alert for each match whose pair has none in its present state; how many."""
    return sum(raise_alert(connection, watchlist, customer, match) for match in matches)


def raise_alert(connection: Connection, watchlist: Watchlist, customer: Customer, match: Match) -> bool:
    """Raises an alert, unless this state of the pair has one; an undecided one of an older state gives way."""
    entry = match.entry
    key = (entry.list_name, entry.source_id)
    features = [asdict(feature) for feature in match.features]
    verdict = watchlist.first_pass.get(key)
    if verdict:
        word = "relevant" if verdict["relevant"] else "not relevant"
        text = f"news {word} ({verdict['score']:.2f}): {verdict['reason']} [{verdict['model']}]"
        features.append({"name": "first pass", "effect": 0.0, "text": text})
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = {
        "customer_id": customer.id,
        "customer_fingerprint": fingerprint_of(customer),
        "customer": asdict(customer),
        "entry_id": watchlist.entry_ids[key],
        "list_name": entry.list_name,
        "source_id": entry.source_id,
        "entry_fingerprint": entry.fingerprint,
        "score": match.score,
        "customer_name": match.customer_name,
        "listed_name": match.listed_name,
        "features": features,
        "rules_version": RULES_VERSION,
        "model_version": verdict["model"] if verdict else NO_MODEL,
        "created_at": now(),
        "status": FIRST_REVIEW,
        "revision": 1,
    }
    statement = dialect.insert(alerts).values(**values).on_conflict_do_nothing().returning(alerts.c.id)
    raised = connection.execute(statement).scalar()
    if raised is None:
        raised = reopen_superseded(connection, values)
    if raised is None:
        return False
    pair = (alerts.c.customer_id == customer.id, alerts.c.list_name == key[0], alerts.c.source_id == key[1])
    older = select(alerts.c.id).where(*pair, alerts.c.id != raised, alerts.c.status.in_((*UNDECIDED, AI_CLEARED)))
    for alert_id in connection.execute(older).scalars().all():
        reason = f"the customer or the entry has changed: alert {raised} takes its place"
        change_status(connection, alert_id, SUPERSEDED, values, reason)
    advised = advise(connection, watchlist.model, raised, customer, entry, match.customer_name, match.listed_name)
    if advised.clear and not watchlist.advice_only:
        reason = f"likely a match: {advised.probability:.4f}; {'; '.join(advised.reasons)}"
        change_status(connection, raised, AI_CLEARED, values, reason, model=advised.model)
    return True


def advise(
    connection: Connection,
    model: FieldModel,
    alert_id: int,
    customer: Customer,
    entry: Entry,
    customer_name: str,
    listed_name: str,
) -> Advice:
    """Asks the second-level review about an alert, and keeps what it says."""
    advised = model.advise(field_values(customer, entry, customer_name, listed_name))
    connection.execute(insert(advice).values(alert_id=alert_id, at=now(), **asdict(advised)))
    return advised


def advise_undecided(connection: Connection, model: FieldModel) -> None:
    """Asks a model that is new in force about all that waits for review."""
    query = select(alerts, entries.c.content).join(entries, alerts.c.entry_id == entries.c.id)
    for alert in connection.execute(query.where(alerts.c.status.in_(UNDECIDED))).all():
        sides = customer_of(alert.customer), entry_of(alert.content)
        advise(connection, model, alert.id, *sides, alert.customer_name, alert.listed_name)


def latest_advice() -> Any:
    """The last advice on every alert, as a table to join."""
    last = select(func.max(advice.c.id)).group_by(advice.c.alert_id)
    return select(advice).where(advice.c.id.in_(last)).subquery("latest")


def reopen_cleared(connection: Connection, who: str, reason: str, *, model: str = "") -> int:
    """Sends what AI has cleared, or one model of it, to the first review; how many alerts."""
    latest = latest_advice()
    query = select(alerts).join(latest, latest.c.alert_id == alerts.c.id).where(alerts.c.status == AI_CLEARED)
    if model:
        query = query.where(latest.c.model == model)
    found = connection.execute(query).all()
    for alert in found:
        change_status(connection, alert.id, FIRST_REVIEW, dict(alert._mapping), reason, who=who)
    return len(found)


def reopen_superseded(connection: Connection, values: Mapping[str, Any]) -> int | None:
    """The alert for a state that the pair is in again, if nobody had decided it when another took its place."""
    state = ("customer_id", "customer_fingerprint", "list_name", "source_id", "entry_fingerprint")
    same = (alerts.c[name] == values[name] for name in state)
    alert = connection.execute(select(alerts.c.id, alerts.c.entry_id, alerts.c.status).where(*same)).one()
    # The same entry may have been off the list in between.
    if alert.entry_id != values["entry_id"]:
        connection.execute(update(alerts).where(alerts.c.id == alert.id).values(entry_id=values["entry_id"]))
    if alert.status != SUPERSEDED:
        return None
    change_status(connection, alert.id, FIRST_REVIEW, values, "the customer and the entry are as they were")
    return alert.id


def change_status(
    connection: Connection,
    alert_id: int,
    status: str,
    values: Mapping[str, Any],
    reason: str,
    *,
    who: str = SYSTEM,
    model: str = "",
) -> None:
    """Moves an alert without a decision of an officer, which leaves a line in the log."""
    changes = {"status": status, "first_officer": None, "first_decision": None, "revision": alerts.c.revision + 1}
    connection.execute(update(alerts).where(alerts.c.id == alert_id).values(**changes))
    subject = subject_of(values["list_name"], values["source_id"], values["customer_id"])
    record(
        connection,
        who,
        status,
        subject,
        reason,
        rules_version=RULES_VERSION,
        model_version=model,
        alert_id=alert_id,
    )


def subject_of(list_name: str, source_id: str, customer_id: str) -> str:
    """How the audit log calls a pair."""
    return f"{customer_id} / {list_name}/{source_id}"


__all__ = [
    "ADVICE_ONLY",
    "DEFAULT_THRESHOLD",
    "ImportResult",
    "Watchlist",
    "import_list",
    "load_watchlist",
    "rescreen",
    "save_customers",
]
