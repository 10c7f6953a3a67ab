"""Automatic learning: officers' decisions train a challenger, which waits, and replaces the champion if it is better.

python -m screening.learning --database sqlite:///screening.db
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import sklearn
from scipy.stats import beta
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sqlalchemy import Connection, Row, func, insert, select, update

from .database import Database, alerts, audit, entries, models, now, record
from .fields import LIKENESS, FieldModel, field_values, public_model
from .matching import RULES_VERSION
from .review import ReviewError
from .store import (
    CHAMPION,
    CLEARED,
    CONFIRMED,
    SECOND_REVIEW,
    SYSTEM,
    advise_undecided,
    champion,
    customer_of,
    entry_of,
    reopen_cleared,
    write_setting,
)


# The rows that the public model has learned from, numbers only; decisions are added to them.
PUBLIC_ROWS = Path(__file__).with_name("public_rows.parquet")
ALGORITHMS = {
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "random forest": RandomForestClassifier(100, max_depth=10, min_samples_leaf=5, random_state=0),
    "gradient boosting": GradientBoostingClassifier(n_estimators=150, max_depth=4, subsample=0.8, random_state=0),
}
# A model is kept only from here on.
MIN_AUC = 0.92
FOLDS = 5
# Of those who are who the list means, the share that clearing may not fall below, and how sure that must be.
MIN_RECALL, CONFIDENCE = 0.99, 0.95
# Decisions before the first challenger, and between one that was not better and the next.
MIN_DECISIONS = 100
# One in so many entries is held out: no model learns from its decisions, all are compared by them.
HELD_OUT = 5
# Of each kind of decision, before two models are compared.
MIN_COMPARED = 10
CHALLENGER, IN_FORCE, FORMER, REJECTED = "challenger", "champion", "former", "rejected"


def wait_days(last_days: float, passed: float) -> float:
    """
    How long a new model must wait before it may replace the champion, between 10 and 70 days.

    Args:
        last_days (`float`): Days since it was last wrong, or since it was trained.
        passed (`float`): Alerts that it advised to clear and that officers cleared.
    """
    return 10 + max(60 - min(last_days, 30) - passed / 100, 0)


def recall_interval(found: int, total: int) -> tuple[float, float]:
    """The interval of Clopper and Pearson for a share."""
    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, found, total - found + 1) if found else 0.0
    high = beta.ppf(1 - tail, found + 1, total - found) if found < total else 1.0
    return float(low), float(high)


def safe_threshold(probabilities: np.ndarray) -> float:
    """
    The highest threshold that these probabilities of true matches show to keep the recall; 0, which clears nothing,
    where there are too few of them to show it.
    """
    total = len(probabilities)
    enough = takewhile(lambda missed: recall_interval(total - missed, total)[0] >= MIN_RECALL, range(total))
    missed = max(enough, default=None)
    return 0.0 if missed is None else float(np.sort(probabilities)[missed])


def out_of_fold(algorithm: str, rows: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Probabilities by models that have not seen the row's entry."""
    found = np.empty(len(rows))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(rows, labels, groups):
        fitted = clone(ALGORITHMS[algorithm]).fit(rows[train], labels[train])
        found[test] = fitted.predict_proba(rows[test])[:, 1]
    return found


def train_model(
    rows: np.ndarray, labels: np.ndarray, groups: Sequence[str], *, version: str, fields: Sequence[str]
) -> FieldModel:
    """
    Compares the algorithms by cross-validation grouped by entry, and fits the best one to all rows.

    Args:
        rows (`numpy.ndarray`): One a pair, the fields in their order.
        labels (`numpy.ndarray`): 1 where both sides are the same person or body, else 0.
        groups (list of `str`): The entry of each pair.
        version (`str`): What the log will call the model.
        fields (list of `str`): Names of the columns.

    Returns:
        [`FieldModel`]: With the area under the curve of every algorithm in its notes.
    """
    rows = np.asarray(rows, dtype=np.float32)
    found = {name: out_of_fold(name, rows, labels, groups) for name in ALGORITHMS}
    areas = {name: float(roc_auc_score(labels, scores)) for name, scores in found.items()}
    best = max(areas, key=areas.__getitem__)
    fitted = clone(ALGORITHMS[best]).fit(rows, labels)
    # Matches whose names are equal are easy: they may not make up for the others.
    hard = (labels == 1) & (rows[:, list(fields).index(LIKENESS)] < 1)
    return FieldModel(
        version,
        best,
        tuple(fields),
        safe_threshold(found[best][hard]),
        tuple(np.median(rows[labels == 0], axis=0).tolist()),
        **parameters_of(fitted),
        notes={"auc": areas, "rows": len(rows), "matches": int(labels.sum()), "scikit-learn": sklearn.__version__},
    )


def parameters_of(fitted: Any) -> dict[str, Any]:
    """What a fitted classifier has learned, as the numbers of a [`FieldModel`]."""
    if isinstance(fitted, Pipeline):
        scaler, linear = fitted[0], fitted[-1]
        weights = linear.coef_[0] / scaler.scale_
        return {"start": float(linear.intercept_[0] - weights @ scaler.mean_), "weights": tuple(weights.tolist())}
    if isinstance(fitted, RandomForestClassifier):
        count = len(fitted.estimators_)
        shares = [tree.tree_.value[:, 0, 1] / tree.tree_.value[:, 0].sum(1) / count for tree in fitted.estimators_]
        trees = [tree.tree_ for tree in fitted.estimators_]
        return {"start": 0.0, "logistic": False, "trees": tuple(map(tree_numbers, trees, shares))}
    prior = fitted.init_.class_prior_[1]
    trees = [tree.tree_ for tree in fitted.estimators_[:, 0]]
    values = [fitted.learning_rate * tree.value[:, 0, 0] for tree in trees]
    return {"start": float(np.log(prior / (1 - prior))), "trees": tuple(map(tree_numbers, trees, values))}


def tree_numbers(tree: Any, values: np.ndarray) -> dict[str, list]:
    """The nodes of a tree of scikit-learn."""
    return {
        "field": np.maximum(tree.feature, 0).tolist(),
        "limit": tree.threshold.tolist(),
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "value": values.tolist(),
    }


@dataclass(frozen=True)
class Decisions:
    """What two officers agreed on: the pair's fields, 1 for a match, the entry, and when."""

    rows: np.ndarray
    labels: np.ndarray
    groups: tuple[str, ...]
    closed_at: tuple[str, ...]

    @property
    def held_out(self) -> np.ndarray:
        """Which of them no model may learn from."""
        return np.array([hashlib.sha256(group.encode()).digest()[0] % HELD_OUT == 0 for group in self.groups], bool)

    def __getitem__(self, chosen: np.ndarray) -> "Decisions":
        kept = np.flatnonzero(chosen)
        groups, closed = (tuple(column[place] for place in kept) for column in (self.groups, self.closed_at))
        return Decisions(self.rows[kept], self.labels[kept], groups, closed)


def read_decisions(connection: Connection) -> Decisions:
    """All alerts that two officers have closed. What AI has cleared teaches nothing."""
    # Photographs are attached to closed alerts too, which leaves later lines.
    lines = select(audit.c.alert_id, func.max(audit.c.at).label("closed_at"))
    closed = lines.where(audit.c.action.startswith(SECOND_REVIEW)).group_by(audit.c.alert_id).subquery()
    query = (
        select(alerts, entries.c.content, closed.c.closed_at)
        .join(entries, alerts.c.entry_id == entries.c.id)
        .join(closed, alerts.c.id == closed.c.alert_id)
        .where(alerts.c.status.in_((CLEARED, CONFIRMED)))
        .order_by(alerts.c.id)
    )
    found = list(connection.execute(query))
    fields = public_model().fields
    rows = [values_of(alert, fields) for alert in found]
    return Decisions(
        np.array(rows, dtype=np.float32).reshape(len(rows), len(fields)),
        np.array([alert.status == CONFIRMED for alert in found], dtype=int),
        tuple(f"{alert.list_name}/{alert.source_id}" for alert in found),
        tuple(alert.closed_at for alert in found),
    )


def values_of(alert: Row, fields: Sequence[str]) -> list[float]:
    """The fields of an alert's pair, as it was when the alert was raised."""
    values = field_values(customer_of(alert.customer), entry_of(alert.content), alert.customer_name, alert.listed_name)
    return [values[name] for name in fields]


@lru_cache(maxsize=1)
def public_rows() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows, labels and entries that the public model has learned from."""
    table = pyarrow.parquet.read_table(PUBLIC_ROWS)
    rows = np.column_stack([table[name].to_numpy() for name in public_model().fields])
    return rows, table["label"].to_numpy().astype(int), tuple(table["entry"].to_pylist())


def area(model: FieldModel, decisions: Decisions) -> float | None:
    """The area under the curve of a model on decisions; `None` where there are too few of one kind."""
    matches = int(decisions.labels.sum())
    if min(matches, len(decisions.labels) - matches) < MIN_COMPARED:
        return None
    return float(roc_auc_score(decisions.labels, model.probabilities(decisions.rows)))


def days_between(first: str, second: str) -> float:
    """Days from one time of the log to another."""
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds() / 86400


def waiting_of(model: FieldModel, trained_at: str, decisions: Decisions, at: str) -> dict[str, float]:
    """How a model that waits has done since it was trained, and how many days it still has to wait."""
    since = decisions[np.array([closed > trained_at for closed in decisions.closed_at], bool)]
    clears = model.probabilities(since.rows) < model.threshold
    wrong = [closed for closed, missed in zip(since.closed_at, clears & (since.labels == 1), strict=True) if missed]
    passed = int((clears & (since.labels == 0)).sum())
    last_days = days_between(max([trained_at, *wrong]), at)
    wait = wait_days(last_days, passed)
    return {"passed": passed, "wrong": len(wrong), "wait": wait, "left": max(0.0, wait - days_between(trained_at, at))}


def learn(database: Database, *, officer: str = SYSTEM, at: str | None = None) -> str:
    """
    Does what is due: puts a challenger that has waited in force if it is better than the champion, or trains one.

    Args:
        database ([`Database`]): Where the decisions are.
        officer (`str`, *optional*): Who asks for it; nobody when it runs by itself.
        at (`str`, *optional*): The time, now by default.

    Returns:
        `str`: What was done, or what is missing.
    """
    at = at or now()
    with database.reading() as connection:
        waiting = connection.execute(select(models).where(models.c.state == CHALLENGER)).first()
        last = connection.execute(select(models.c.decisions).order_by(models.c.id.desc()).limit(1)).scalar() or 0
        decisions = read_decisions(connection)
        current = champion(connection)
    if waiting:
        return judge_challenger(database, waiting, current, decisions, officer, at)
    missing = last + MIN_DECISIONS - len(decisions.labels)
    if missing > 0:
        return f"{missing} more decisions are needed before a model is trained."
    return train_challenger(database, decisions, officer, at)


def train_challenger(database: Database, decisions: Decisions, officer: str, at: str) -> str:
    """Trains a model on the public rows and the decisions that are not held out."""
    taught = decisions[~decisions.held_out]
    rows, labels, groups = public_rows()
    with database.reading() as connection:
        count = connection.execute(select(func.count()).select_from(models)).scalar_one()
    version = f"learned-{count + 1}"
    trained = train_model(
        np.concatenate([rows, taught.rows]),
        np.concatenate([labels, taught.labels]),
        (*groups, *taught.groups),
        version=version,
        fields=public_model().fields,
    )
    kept = trained.auc >= MIN_AUC
    result = f"{'waits' if kept else 'is rejected'}: AUC {trained.auc:.4f}, {MIN_AUC} is needed"
    with database.writing() as connection:
        if connection.execute(select(models.c.id).where(models.c.version == version)).first():
            return f"{version} has been trained meanwhile."
        connection.execute(
            insert(models).values(
                version=version,
                state=CHALLENGER if kept else REJECTED,
                trained_at=at,
                decisions=len(decisions.labels),
                parameters=trained.to_dict(),
            )
        )
        log(
            connection,
            officer,
            "model: trained",
            version,
            f"{len(taught.labels)} decisions added; {result}",
            trained.notes,
        )
    return f"{version} {result}."


def judge_challenger(
    database: Database, waiting: Row, current: FieldModel, decisions: Decisions, officer: str, at: str
) -> str:
    """Puts a challenger in force or rejects it, if it has waited and there is enough to compare by."""
    model = FieldModel.from_dict(waiting.parameters)
    left = waiting_of(model, waiting.trained_at, decisions, at)["left"]
    if left > 0:
        return f"{model.version} waits for another {left:.1f} days."
    compared = decisions[decisions.held_out]
    own, other = area(model, compared), area(current, compared)
    if own is None or other is None:
        return f"{model.version} waits for {MIN_COMPARED} held-out decisions of each kind to be compared by."
    better = own > other
    reason = f"AUC {own:.4f}, the champion's {other:.4f}, on the same held-out decisions"
    with database.writing() as connection:
        same = (models.c.version == model.version, models.c.state == CHALLENGER)
        done = connection.execute(update(models).where(*same).values(state=IN_FORCE if better else REJECTED))
        if done.rowcount != 1 or champion(connection).version != current.version:
            raise ReviewError("The models have changed meanwhile: look again.")
        if better:
            put_in_force(connection, model, current)
        log(connection, officer, "model: in force" if better else "model: rejected", model.version, reason, None)
    return f"{model.version} is {'in force' if better else 'rejected'}: {reason}."


def put_in_force(connection: Connection, model: FieldModel, former: FieldModel) -> None:
    """Makes a model the champion; what waits for review gets its advice."""
    for version, state in ((former.version, FORMER), (model.version, IN_FORCE)):
        connection.execute(update(models).where(models.c.version == version).values(state=state))
    write_setting(connection, CHAMPION, model.version)
    advise_undecided(connection, model)


def roll_back(database: Database, version: str, *, officer: str, reason: str) -> int:
    """
    Puts a former model in force again. What the present one has cleared by itself goes to the first review.

    Args:
        database ([`Database`]): Where the models are.
        version (`str`): A former model, or the public one.
        officer (`str`): Who does it.
        reason (`str`): Why.

    Returns:
        `int`: Alerts that went to the first review.

    Raises:
        ReviewError: if that was never in force, is so now, or the reason is missing.
    """
    if not reason.strip() or not officer.strip():
        raise ReviewError("A model is rolled back by a named officer who gives a reason.")
    with database.writing() as connection:
        current = champion(connection)
        query = select(models.c.parameters).where(models.c.version == version, models.c.state == FORMER)
        stored = connection.execute(query).scalar()
        if stored is None and (version != public_model().version or version == current.version):
            raise ReviewError(f"Only a model that was in force before can be rolled back to, got {version[:40]!r}.")
        log(connection, officer, "model: rolled back", version, reason.strip(), {"from": current.version})
        reopened = reopen_cleared(connection, officer, f"{current.version} was rolled back", model=current.version)
        put_in_force(connection, FieldModel.from_dict(stored) if stored else public_model(), current)
    return reopened


def log(
    connection: Connection, who: str, action: str, version: str, reason: str, details: Mapping[str, Any] | None
) -> None:
    """A line about a model."""
    record(
        connection, who, action, version, reason, rules_version=RULES_VERSION, model_version=version, details=details
    )


def read_models(database: Database, *, at: str | None = None) -> list[dict[str, Any]]:
    """All models, the latest first: state, areas under the curve, and how the one that waits is doing."""
    at = at or now()
    with database.reading() as connection:
        stored = list(connection.execute(select(models).order_by(models.c.id.desc())))
        decisions = read_decisions(connection)
        current = champion(connection)
    compared = decisions[decisions.held_out]
    state = IN_FORCE if current.version == public_model().version else FORMER
    known = [(FieldModel.from_dict(row.parameters), row.state, row.trained_at, row.decisions) for row in stored]
    return [
        {
            "version": model.version,
            "state": state,
            "trained_at": trained_at,
            "decisions": count,
            "algorithm": model.algorithm,
            "auc": model.auc,
            "held_out_auc": area(model, compared),
            "threshold": model.threshold,
            **(waiting_of(model, trained_at, decisions, at) if state == CHALLENGER else {}),
        }
        for model, state, trained_at, count in (*known, (public_model(), state, "", 0))
    ]


def main() -> None:
    """Learns from the terminal, for a timetable such as cron."""
    parser = argparse.ArgumentParser(description="Train a challenger, or put it in force when it is due and better.")
    parser.add_argument("--database", help="SQLAlchemy URL; SCREENING_DATABASE by default")
    given = parser.parse_args()
    print(learn(Database(given.database)))  # noqa: T201


if __name__ == "__main__":
    main()


__all__ = ["learn", "read_models", "recall_interval", "roll_back", "train_model", "wait_days"]
