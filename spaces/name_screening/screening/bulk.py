"""Screens a parquet file of customers, however many: in batches, resumable, with the results of one-by-one.

python -m screening.bulk customers.parquet matches.parquet
python -m screening.bulk customers.parquet matches.parquet --engine ray
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet
from tqdm import tqdm

from .database import Database
from .lists import cells, text_of
from .matching import RULES_VERSION, Customer, Match, Screener
from .store import load_watchlist


BATCH_SIZE = 10_000
# Where the customers are screened: in this process, or on the processors of Ray (`pip install "ray[data]"`).
ENGINES = ("local", "ray")
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


def screen_batch(customers: list[Customer], screener: Screener) -> pyarrow.Table:
    """The matches of a batch."""
    rows = [match_row(customer, match) for customer in customers for match in screener.screen(customer)]
    return pyarrow.Table.from_pylist(rows, schema=SCHEMA)


class RayScreener:
    """
    Screens batches in a process of Ray.

    Args:
        reference (`ray.ObjectRef`): The screener, which Ray keeps once a machine.
    """

    def __init__(self, reference: Any):
        import ray

        self.screener: Screener = ray.get(reference)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        customers = [customer_row(row, "a batch") for row in batch.to_pylist()]
        return screen_batch(customers, self.screener)


def screen_with_ray(source: Path, screener: Screener, batch_size: int, progress: bool) -> Iterator[pyarrow.Table]:
    """The matches of a file in its order, found by as many processes as Ray has processors."""
    # What is screened here concerns nobody else.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    import ray.data

    if not ray.is_initialized():
        # Where the processes find this package.
        places = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, places))}
        ray.init(
            num_cpus=max(2, os.cpu_count() or 2),
            runtime_env={"env_vars": paths},
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = progress
    context.execution_options.preserve_order = True
    # One processor reads.
    processes = ray.data.ActorPoolStrategy(size=max(1, int(ray.cluster_resources()["CPU"]) - 1))
    columns = [name for name in COLUMNS if name in pyarrow.parquet.read_schema(source).names]
    customers = ray.data.read_parquet(str(source.resolve())).select_columns(columns)
    matches = customers.map_batches(
        RayScreener,
        fn_constructor_args=[ray.put(screener)],
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=processes,
    )
    for table in matches.iter_batches(batch_size=None, batch_format="pyarrow"):
        # Blocks without a match have lost their columns.
        if len(table):
            yield table.select(SCHEMA.names).cast(SCHEMA)


def identity(source: Path, screener: Screener, batch_size: int, engine: str) -> str:
    """What results depend on: the file, the entries, the thresholds, the rules; and what the parts do."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    for entry in screener.entries:
        digest.update(entry.fingerprint.encode())
    digest.update(json.dumps([screener.thresholds, RULES_VERSION, batch_size, engine], sort_keys=True).encode())
    return digest.hexdigest()


def screen_parquet(
    source: str | Path,
    target: str | Path,
    screener: Screener,
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
    engine: str = "local",
) -> dict[str, int]:
    """
    Screens every customer of a parquet file. After an interruption, the same call goes on where it was; on Ray, which
    replaces processes that fail, it begins anew. Both give the same.

    Args:
        source (path): Parquet with `id` and `name`, and where known `aliases`, `kind`, `birth_date`, `country`.
        target (path): Parquet of the matches; it appears when it is complete. The parts are kept beside it until then,
            in `<target>.partial`.
        screener ([`Screener`]): What to screen against.
        batch_size (`int`, *optional*, defaults to 10,000): Customers per part.
        progress (`bool`, *optional*, defaults to `True`): Whether to draw a progress bar.
        engine (`str`, *optional*, defaults to `"local"`): `"local"` or `"ray"`.

    Returns:
        `dict`: `customers`, `customers_with_matches` and `matches`.

    Raises:
        ValueError: if the source cannot be read, or the target or parts of another job are there, or Ray is not.
    """
    if engine not in ENGINES:
        raise ValueError(f"The `engine` must be one of {list(ENGINES)}, got {engine!r}.")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError('The `engine` "ray" needs pip install "ray[data]".')
    source, target = Path(source), Path(target)
    if target.exists():
        raise ValueError(f"{target.name} exists: choose another target, or remove it.")
    total = check_customers(source)
    parts = target.with_name(f"{target.name}.partial")
    start_or_resume(parts, identity(source, screener, batch_size, engine))
    counts = {"customers": total, "customers_with_matches": 0, "matches": 0}
    if engine == "ray":
        for part in parts.glob("*.parquet"):
            part.unlink()
        for number, table in enumerate(screen_with_ray(source, screener, batch_size, progress)):
            write_part(parts / f"{number:06}.parquet", table)
    else:
        with tqdm(total=total, unit="customer", disable=not progress) as bar:
            for number, batch in enumerate(read_batches(source, batch_size)):
                part = parts / f"{number:06}.parquet"
                if not part.exists():
                    write_part(part, screen_batch(batch, screener))
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
                f"{parts.name} holds parts of another job: the customers, a list, a threshold, the batch size or the "
                "engine has changed. Remove it to start again."
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    name.write_text(job)


def write_part(part: Path, table: pyarrow.Table) -> None:
    """Writes one part; it appears when it is complete."""
    partial = part.with_suffix(".writing")
    pyarrow.parquet.write_table(table, partial, compression="zstd")
    partial.replace(part)


def main() -> None:
    """Screens a file from the terminal against the lists of a database."""
    parser = argparse.ArgumentParser(description="Screen a parquet file of customers.")
    parser.add_argument("source", type=Path, help="parquet with id, name, and aliases, kind, birth_date, country")
    parser.add_argument("target", type=Path, help="parquet of the matches")
    parser.add_argument("--database", help="SQLAlchemy URL; SCREENING_DATABASE by default")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--engine", choices=ENGINES, default="local", help='ray needs pip install "ray[data]"')
    given = parser.parse_args()
    screener = load_watchlist(Database(given.database)).screener
    try:
        if not screener.entries:
            raise ValueError("The database holds no list: import one first.")
        counts = screen_parquet(given.source, given.target, screener, batch_size=given.batch_size, engine=given.engine)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print("{customers:,} customers, {customers_with_matches:,} with {matches:,} matches".format(**counts))  # noqa: T201


if __name__ == "__main__":
    main()


__all__ = ["screen_parquet"]
