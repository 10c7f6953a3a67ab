"""What is kept: lists in versions, customers, alerts, settings, and a log that can only grow."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    select,
)

from .lists import MAX_ID


DEFAULT_URL = "sqlite:///screening.db"
# Seconds that a writer waits for another.
PATIENCE = 30
# Any number that no other program locks in the same PostgreSQL database.
WRITERS_LOCK = 0x5C2EE4

metadata = MetaData()
list_versions = Table(
    "list_versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("list_name", String(MAX_ID), nullable=False, index=True),
    Column("imported_at", String(32), nullable=False),
    Column("imported_by", String(100), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("entries", Integer, nullable=False),
    Column("added", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("removed", Integer, nullable=False),
)
# An entry is stored once per state it was in: a version of its list holds the rows added in it or before and removed
# after it, or never.
entries = Table(
    "entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("list_name", String(MAX_ID), nullable=False),
    Column("source_id", String(MAX_ID), nullable=False),
    Column("fingerprint", String(32), nullable=False),
    Column("content", JSON, nullable=False),
    # What the first pass says of the news: null without news or model, else relevant, score, reason and model.
    Column("first_pass", JSON(none_as_null=True)),
    Column("added_in", ForeignKey("list_versions.id"), nullable=False),
    Column("removed_in", ForeignKey("list_versions.id")),
    Index("entries_of_list", "list_name", "removed_in"),
    Index("entry_states", "list_name", "source_id"),
)
customers = Table(
    "customers",
    metadata,
    Column("id", String(MAX_ID), primary_key=True),
    Column("fingerprint", String(32), nullable=False),
    Column("content", JSON, nullable=False),
    Column("changed_at", String(32), nullable=False),
)
# One alert for each state of a pair: what was decided about it holds until either side changes.
alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("customer_id", ForeignKey("customers.id"), nullable=False, index=True),
    Column("customer_fingerprint", String(32), nullable=False),
    Column("customer", JSON, nullable=False),
    Column("entry_id", ForeignKey("entries.id"), nullable=False, index=True),
    Column("list_name", String(MAX_ID), nullable=False),
    Column("source_id", String(MAX_ID), nullable=False),
    Column("entry_fingerprint", String(32), nullable=False),
    Column("score", Float, nullable=False),
    Column("customer_name", Text, nullable=False),
    Column("listed_name", Text, nullable=False),
    Column("features", JSON, nullable=False),
    Column("rules_version", String(40), nullable=False),
    # The model of the first pass over the entry's news, or "absent".
    Column("model_version", String(200), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("status", String(20), nullable=False, index=True),
    Column("first_officer", String(100)),
    Column("first_decision", String(20)),
    # Raised by every change: a decision names the revision it was made on.
    Column("revision", Integer, nullable=False),
    UniqueConstraint("customer_id", "customer_fingerprint", "list_name", "source_id", "entry_fingerprint"),
)
# What the second-level review says of an alert, once for each model that has looked at it.
advice = Table(
    "advice",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("alert_id", ForeignKey("alerts.id"), nullable=False, index=True),
    Column("at", String(32), nullable=False),
    Column("model", String(200), nullable=False),
    Column("clear", Boolean, nullable=False),
    Column("probability", Float, nullable=False),
    Column("reasons", JSON, nullable=False),
)
# The models that were learned from decisions; the one that comes with the Space is not among them.
models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", String(40), nullable=False, unique=True),
    Column("state", String(20), nullable=False),
    Column("trained_at", String(32), nullable=False),
    # How many there were when it was trained.
    Column("decisions", Integer, nullable=False),
    Column("parameters", JSON, nullable=False),
)
# One of each customer and entry at most.
photos = Table(
    "photos",
    metadata,
    Column("side", String(20), primary_key=True),
    Column("key", String(220), primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("added_at", String(32), nullable=False),
)
settings = Table(
    "settings",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("value", JSON, nullable=False),
)
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", String(32), nullable=False),
    Column("who", String(100), nullable=False),
    Column("action", String(40), nullable=False),
    Column("alert_id", Integer, index=True),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rules_version", String(40), nullable=False),
    Column("model_version", String(200), nullable=False),
    Column("details", JSON, nullable=False),
    # SQLite reuses the number of a deleted last row otherwise, and nothing would show the gap.
    sqlite_autoincrement=True,
)
for statement in ("UPDATE", "DELETE"):
    event.listen(
        audit,
        "after_create",
        DDL(
            f"CREATE TRIGGER audit_no_{statement.lower()} BEFORE {statement} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log can only grow'); END"
        ).execute_if(dialect="sqlite"),
    )
# An INSERT OR REPLACE deletes without a trigger.
event.listen(
    audit,
    "after_create",
    DDL(
        "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) "
        "BEGIN SELECT RAISE(ABORT, 'the audit log can only grow'); END"
    ).execute_if(dialect="sqlite"),
)
event.listen(
    audit,
    "after_create",
    DDL(
        "CREATE OR REPLACE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log can only grow'; END $$"
    ).execute_if(dialect="postgresql"),
)
event.listen(
    audit,
    "after_create",
    DDL(
        "CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()"
    ).execute_if(dialect="postgresql"),
)


class Database:
    """
    A screening database; its tables are made where they are missing.

    Args:
        url (`str`, *optional*): SQLAlchemy URL of an SQLite or PostgreSQL database; `SCREENING_DATABASE`, else a file
            `screening.db` where the program runs.
    """

    def __init__(self, url: str | None = None):
        self.url = url or os.environ.get("SCREENING_DATABASE") or DEFAULT_URL
        self.engine: Engine = create_engine(self.url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", prepare_sqlite)
            event.listen(self.engine, "begin", begin_sqlite)
        elif self.engine.dialect.name != "postgresql":
            raise ValueError(f"The database must be sqlite or postgresql, got {self.engine.dialect.name!r}.")
        with self.writing() as connection:
            metadata.create_all(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the database."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all that is done in it is kept, or none of it. Writers wait for each other."""
        with self.engine.connect().execution_options(writing=True) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(WRITERS_LOCK)))
            yield connection


def prepare_sqlite(connection: Any, _: Any) -> None:
    """Readers do not wait for a writer, writers wait for each other, and SQLAlchemy says when to begin."""
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", f"busy_timeout = {PATIENCE * 1000}", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def begin_sqlite(connection: Connection) -> None:
    """A writer locks at once: what it has read is still true when it writes."""
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def record(
    connection: Connection,
    who: str,
    action: str,
    subject: str,
    reason: str,
    *,
    rules_version: str,
    model_version: str = "",
    alert_id: int | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Adds a line to the audit log, in the transaction of what it tells."""
    connection.execute(
        insert(audit).values(
            at=now(),
            who=who,
            action=action,
            alert_id=alert_id,
            subject=subject,
            reason=reason,
            rules_version=rules_version,
            model_version=model_version,
            details=json.loads(json.dumps(dict(details or {}))),
        )
    )


__all__ = [
    "Database",
    "advice",
    "alerts",
    "audit",
    "customers",
    "entries",
    "list_versions",
    "models",
    "now",
    "photos",
    "record",
    "settings",
]
