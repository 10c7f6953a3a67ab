"""Screens a parquet file of customers, however many: in batches, resumable, with the results of one-by-one.

python -m screening.bulk customers.parquet matches.parquet
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet
from tqdm import tqdm

from .database import Database
from .lists import cells, text_of
from .matching import RULES_VERSION, Customer, Match, Screener
from .store import load_watchlist


BATCH_SIZE = 10_000
COLUMNS = ("id", "name", "aliases", "kind", "birth_date", "country")
SCHEMA = pyarrow.schema(
    [
        ("customer_id", pyarrow.string()),
        ("list_name", pyarrow.string()),
        ("source_id", pyarrow.string()),
        ("score", pyarrow.float64()),
        ("customer_name", pyarrow.string()),
        ("listed_name", pyarrow.string()),
        ("features", pyarrow.string()),
        ("rules_version", pyarrow.string()),
    ]
)


def customer_row(row: Mapping[str, object], place: str) -> Customer:
    """
    A customer from a row of a table.

    Raises:
        ValueError: naming the place and what was expected there.
    """
    texts = {name: text_of(row.get(name)) for name in ("id", "name", "kind", "birth_date", "country")}
    try:
        return Customer(aliases=cells(row.get("aliases")), **texts)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def match_row(customer: Customer, match: Match) -> dict[str, object]:
    """A match as a row of the output."""
    return {
        "customer_id": customer.id,
        "list_name": match.entry.list_name,
        "source_id": match.entry.source_id,
        "score": match.score,
        "customer_name": match.customer_name,
        "listed_name": match.listed_name,
        "features": json.dumps([asdict(feature) for feature in match.features], ensure_ascii=False),
        "rules_version": RULES_VERSION,
    }


def read_batches(source: Path, batch_size: int) -> Iterator[list[Customer]]:
    """The customers of a parquet file, a batch at a time."""
    file = pyarrow.parquet.ParquetFile(source)
    columns = [name for name in COLUMNS if name in file.schema_arrow.names]
    row_number = 0
    for batch in file.iter_batches(batch_size=batch_size, columns=columns):
        rows = batch.to_pylist()
        yield [customer_row(row, f"{source.name}, row {row_number + i}") for i, row in enumerate(rows, start=1)]
        row_number += len(rows)


def check_customers(source: Path) -> int:
    """
    Reads through the whole file before the work starts; how many customers there are.

    Raises:
        ValueError: naming the column or row that cannot be screened.
    """
    try:
        file = pyarrow.parquet.ParquetFile(source)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{source.name}: expected a parquet file ({error}).") from error
    if missing := {"id", "name"} - set(file.schema_arrow.names):
        raise ValueError(f"{source.name}: expected the columns id and name, got no {' and no '.join(sorted(missing))}.")
    ids = file.read(columns=["id"])["id"]
    if len(pyarrow.compute.unique(ids)) != len(ids):
        raise ValueError(f"{source.name}: expected every `id` once, got {len(ids)} rows with fewer.")
    for _ in read_batches(source, BATCH_SIZE):
        pass
    return len(ids)


def identity(source: Path, screener: Screener, batch_size: int) -> str:
    """What results depend on: the file, the entries, the thresholds, the rules."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    for entry in screener.entries:
        digest.update(entry.fingerprint.encode())
    digest.update(json.dumps([screener.thresholds, RULES_VERSION, batch_size], sort_keys=True).encode())
    return digest.hexdigest()


def screen_parquet(
    source: str | Path,
    target: str | Path,
    screener: Screener,
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> dict[str, int]:
    """
    Screens every customer of a parquet file. After an interruption, the same call goes on where it was.

    Args:
        source (path): Parquet with `id` and `name`, and where known `aliases`, `kind`, `birth_date`, `country`.
        target (path): Parquet of the matches; it appears when it is complete. The parts are kept beside it until then,
            in `<target>.partial`.
        screener ([`Screener`]): What to screen against.
        batch_size (`int`, *optional*, defaults to 10,000): Customers per part.
        progress (`bool`, *optional*, defaults to `True`): Whether to draw a progress bar.

    Returns:
        `dict`: `customers`, `customers_with_matches` and `matches`.

    Raises:
        ValueError: if the source cannot be read, or the target or parts of another job are there.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise ValueError(f"{target.name} exists: choose another target, or remove it.")
    total = check_customers(source)
    parts = target.with_name(f"{target.name}.partial")
    start_or_resume(parts, identity(source, screener, batch_size))
    counts = {"customers": total, "customers_with_matches": 0, "matches": 0}
    with tqdm(total=total, unit="customer", disable=not progress) as bar:
        for number, batch in enumerate(read_batches(source, batch_size)):
            part = parts / f"{number:06}.parquet"
            if not part.exists():
                rows = [match_row(customer, match) for customer in batch for match in screener.screen(customer)]
                write_part(part, rows)
            bar.update(len(batch))
    merged = parts / "all"
    with pyarrow.parquet.ParquetWriter(merged, SCHEMA, compression="zstd") as writer:
        for part in sorted(parts.glob("*.parquet")):
            table = pyarrow.parquet.read_table(part, schema=SCHEMA)
            counts["matches"] += len(table)
            counts["customers_with_matches"] += len(pyarrow.compute.unique(table["customer_id"]))
            writer.write_table(table)
    merged.replace(target)
    shutil.rmtree(parts)
    return counts


def start_or_resume(parts: Path, job: str) -> None:
    """Makes the folder of the parts, or finds that of the same job."""
    name = parts / "job"
    if parts.exists() and name.is_file():
        if name.read_text() != job:
            raise ValueError(
                f"{parts.name} holds parts of another job: the customers, a list, a threshold or the batch size has "
                "changed. Remove it to start again."
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    name.write_text(job)


def write_part(part: Path, rows: list[dict[str, object]]) -> None:
    """Writes one part; it appears when it is complete."""
    partial = part.with_suffix(".writing")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")
    partial.replace(part)


def main() -> None:
    """Screens a file from the terminal against the lists of a database."""
    parser = argparse.ArgumentParser(description="Screen a parquet file of customers.")
    parser.add_argument("source", type=Path, help="parquet with id, name, and aliases, kind, birth_date, country")
    parser.add_argument("target", type=Path, help="parquet of the matches")
    parser.add_argument("--database", help="SQLAlchemy URL; SCREENING_DATABASE by default")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    given = parser.parse_args()
    screener = load_watchlist(Database(given.database)).screener
    try:
        if not screener.entries:
            raise ValueError("The database holds no list: import one first.")
        counts = screen_parquet(given.source, given.target, screener, batch_size=given.batch_size)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("{customers:,} customers, {customers_with_matches:,} with {matches:,} matches".format(**counts))  # noqa: T201


if __name__ == "__main__":
    main()


__all__ = ["screen_parquet"]
