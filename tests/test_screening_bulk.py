"""Files of customers: the results of one-by-one, resumed where they were interrupted."""

import functools
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')
import pyarrow
import pyarrow.parquet

from screening import bulk
from screening.database import Database
from screening.lists import Entry
from screening.matching import Customer, Screener
from screening.store import import_list


screen = functools.partial(bulk.screen_parquet, progress=False)
SPACE = Path(__file__).parent.parent / "spaces" / "name_screening"
LISTED = [
    Entry("own", "1", "person", ("KARPOV, Pavel", "Pavlik"), ("1977-08-27",), ("RU",)),
    Entry("own", "2", "person", ("LEE, Anna",)),
    Entry("other", "3", "organisation", ("SARMAYEH BANK",), (), ("IR",)),
]
ROWS = [
    {"id": "1", "name": "Павел Карпов", "aliases": None, "birth_date": "1977", "country": "RU"},
    {"id": "2", "name": "Nobody Here", "aliases": ["Pavlik"], "birth_date": None, "country": None},
    {"id": "3", "name": "Sarmaye Bank Ltd", "aliases": None, "birth_date": None, "country": "Iran"},
    {"id": "4", "name": "Thomas Lindqvist", "aliases": None, "birth_date": "1962-07-30", "country": "SE"},
    {"id": "5", "name": "Anna Lee", "aliases": [], "birth_date": None, "country": None},
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "customers.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.parquet"


def one_by_one(screener):
    found = []
    for row in ROWS:
        customer = Customer(
            row["id"], row["name"], tuple(row["aliases"] or ()), "", row["birth_date"] or "", row["country"] or ""
        )
        for match in screener.screen(customer):
            features = [asdict(feature) for feature in match.features]
            found.append((customer.id, match.entry.list_name, match.entry.source_id, match.score, features))
    return found


def results(target):
    rows = pyarrow.parquet.read_table(target).to_pylist()
    names = ("customer_id", "list_name", "source_id", "score")
    return [(*(row[name] for name in names), json.loads(row["features"])) for row in rows]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_a_file_gives_what_one_by_one_gives(source, target, tmp_path, batch_size):
    screener = Screener(LISTED)
    counts = screen(source, target, screener, batch_size=batch_size)
    assert counts == {"customers": 5, "customers_with_matches": 4, "matches": 4}
    assert results(target) == one_by_one(screener)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["customers.parquet", "out.parquet"]


class StopsAt(Screener):
    """Fails at a customer, and counts those before."""

    def __init__(self, entries, stop):
        super().__init__(entries)
        self.stop = stop
        self.screened = []

    def screen(self, customer):
        if customer.id == self.stop:
            raise KeyboardInterrupt
        self.screened.append(customer.id)
        return super().screen(customer)


def test_an_interrupted_job_goes_on_where_it_was(source, target):
    with pytest.raises(KeyboardInterrupt):
        screen(source, target, StopsAt(LISTED, "4"), batch_size=1)
    assert not target.exists()
    rest = StopsAt(LISTED, "")
    screen(source, target, rest, batch_size=1)
    assert rest.screened == ["4", "5"]
    assert results(target) == one_by_one(Screener(LISTED))


def test_ray_gives_the_same(source, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason='needs pip install "ray[data]"')
    screener = Screener(LISTED)
    here = screen(source, tmp_path / "here.parquet", screener, batch_size=2)
    options = {"batch_size": 2, "engine": "ray"}

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "write_part", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            screen(source, tmp_path / "ray.parquet", screener, **options)
        # What an interrupted job has left is begun anew.
        monkeypatch.undo()
        there = screen(source, tmp_path / "ray.parquet", screener, **options)
    finally:
        ray.shutdown()
    assert there == here
    assert pyarrow.parquet.read_table(tmp_path / "ray.parquet").equals(
        pyarrow.parquet.read_table(tmp_path / "here.parquet")
    )


def test_an_engine_that_is_not_there_is_said(source, target, monkeypatch):
    with pytest.raises(ValueError, match="`engine` must be one of"):
        screen(source, target, Screener(LISTED), engine="spark")
    monkeypatch.setattr(bulk.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs pip install"):
        screen(source, target, Screener(LISTED), engine="ray")


def test_parts_of_another_job_are_not_taken(source, target):
    with pytest.raises(KeyboardInterrupt):
        screen(source, target, StopsAt(LISTED, "4"), batch_size=1)
    others = [(Screener(LISTED[:2]), 1), (Screener(LISTED, {"own": 0.9}), 1), (Screener(LISTED), 2)]
    for screener, batch_size in others:
        with pytest.raises(ValueError, match="parts of another job"):
            screen(source, target, screener, batch_size=batch_size)


def test_a_result_is_not_overwritten(source, target):
    target.write_text("precious")
    with pytest.raises(ValueError, match="exists"):
        screen(source, target, Screener(LISTED))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "1", "nome": "Ann"}], "columns id and name, got no name"),
        ([{"id": "1", "name": "Ann"}, {"id": "1", "name": "Bob"}], "every `id` once"),
        ([{"id": "1", "name": "Ann"}, {"id": "2", "name": None}], "row 2: expected a `name`"),
        ([{"id": "1", "name": "Ann", "birth_date": "1/2/1970"}], "row 1: expected a birth date"),
    ],
)
def test_a_file_that_cannot_be_screened_says_where_before_the_work(target, tmp_path, rows, message):
    source = tmp_path / "customers.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    with pytest.raises(ValueError, match=message):
        screen(source, target, Screener(LISTED))
    assert [path.name for path in tmp_path.iterdir()] == ["customers.parquet"]


def test_something_else_than_parquet_is_refused(target, tmp_path):
    (tmp_path / "x.parquet").write_text("id,name")
    with pytest.raises(ValueError, match="expected a parquet file"):
        screen(tmp_path / "x.parquet", target, Screener(LISTED))


def test_no_match_is_an_empty_file(source, target):
    counts = screen(source, target, Screener([LISTED[2]], {"other": 1.0}))
    assert counts["matches"] == 0
    assert pyarrow.parquet.read_schema(target).names == bulk.SCHEMA.names


def test_the_command_screens_against_the_database(source, target, tmp_path):
    url = f"sqlite:///{tmp_path}/screening.db"
    command = [sys.executable, "-m", "screening.bulk", str(source), str(target), "--database", url]
    empty = subprocess.run(command, cwd=SPACE, capture_output=True, text=True)
    assert empty.returncode == 2
    assert "import one first" in empty.stderr
    import_list(Database(url), LISTED[:2], officer="anna")
    done = subprocess.run(command, cwd=SPACE, capture_output=True, text=True, check=True)
    assert done.stdout == "5 customers, 3 with 3 matches\n"
    # The file's names are nowhere in what it prints.
    assert "Karpov" not in done.stdout + done.stderr
