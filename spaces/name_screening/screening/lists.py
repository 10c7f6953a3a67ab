"""Published lists, read into entries: OFAC, the UN, politically exposed persons, and lists of one's own."""

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow
import pyarrow.parquet
from babel import Locale
from lxml import etree


Source = str | Path | bytes
KINDS = ("person", "organisation", "vessel", "aircraft")
# Of identifiers and names of lists, as the database keeps them.
MAX_ID = 100
# Unpacked: a small file that unpacks to much more is not a list.
MAX_BYTES = 1 << 29
OFAC_COLUMNS = 12
OFAC_ALTERNATE_COLUMNS = 5
OFAC_EMPTY = "-0-"
OFAC_KINDS = {"individual": "person", "vessel": "vessel", "aircraft": "aircraft", OFAC_EMPTY: "organisation"}
# Programs from before files had a length end them with this character.
OLD_END_OF_FILE = "\x1a"
MONTH_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec"
MONTHS = {month: place for place, month in enumerate(MONTH_NAMES.split(), start=1)}
DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
WRITTEN_DATE = re.compile(
    r"(?:(\d{1,2}) )?(?:([A-Z][a-z]{2})[a-z]* )?(\d{4})(?: to (?:\d{1,2} )?(?:[A-Z][a-z]+ )?(\d{4}))?"
)
# Names of countries on the lists that are not the usual ones.
COUNTRY_NAMES = {
    "burma": "MM",
    "cabo verde": "CV",
    "congo democratic republic of the": "CD",
    "democratic people's republic of korea": "KP",
    "democratic republic of the congo": "CD",
    "czech republic": "CZ",
    "england": "GB",
    "great britain": "GB",
    "hong kong": "HK",
    "iran islamic republic of": "IR",
    "ivory coast": "CI",
    "korea north": "KP",
    "korea south": "KR",
    "macao": "MO",
    "macedonia": "MK",
    "myanmar": "MM",
    "northern ireland": "GB",
    "palestinian": "PS",
    "republic of korea": "KR",
    "republic of moldova": "MD",
    "russian federation": "RU",
    "saint kitts and nevis": "KN",
    "scotland": "GB",
    "state of palestine": "PS",
    "swaziland": "SZ",
    "syrian arab republic": "SY",
    "the gambia": "GM",
    "timor leste": "TL",
    "turkey": "TR",
    "uk": "GB",
    "united kingdom of great britain and northern ireland": "GB",
    "united republic of tanzania": "TZ",
    "united states of america": "US",
    "usa": "US",
    "venezuela bolivarian republic of": "VE",
    "viet nam": "VN",
    "wales": "GB",
}


class ListError(ValueError):
    """A list that cannot be read; the message says where and what was expected."""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One listed person, organisation, vessel or aircraft.

    Args:
        list_name (`str`): The list that holds it.
        source_id (`str`): Its identifier there.
        kind (`str`): One of `KINDS`.
        names (`tuple` of `str`): The main name first, then aliases.
        birth_dates (`tuple` of `str`, *optional*): As `1948-12-10`, `1948-12`, `1948` or `1973/1974`.
        countries (`tuple` of `str`, *optional*): Two-letter codes; other text where the country is not known.
        remarks (`str`, *optional*): What else the list says, for the officer.
        news (`str`, *optional*): News about a politically exposed person.
    """

    list_name: str
    source_id: str
    kind: str
    names: tuple[str, ...]
    birth_dates: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    remarks: str = ""
    news: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes when anything about the entry changes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def read_bytes(source: Source) -> bytes:
    """The content of a file, unpacked if it is gzip."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(MAX_BYTES + 1)
        except (OSError, EOFError) as error:
            raise ListError(f"The file is a broken gzip file ({error}): download it again.") from error
    if len(data) > MAX_BYTES:
        raise ListError(f"The file is larger than {MAX_BYTES >> 20} MiB: it is not one of these lists.")
    return data


def read_text(source: Source) -> str:
    """The text of a file in UTF-8 or, as OFAC's older files, in Latin-1."""
    data = read_bytes(source)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_rows(source: Source, columns: int, what: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file without a header, stripped, each with its line number."""
    reader = csv.reader(io.StringIO(read_text(source), newline=""), strict=True)
    try:
        for row in reader:
            row = [cell.strip() for cell in row]
            if not any(row) or row == [OLD_END_OF_FILE]:
                continue
            if len(row) != columns:
                raise ListError(f"{what}, line {reader.line_num}: expected {columns} columns, got {len(row)}.")
            if not row[0].isdecimal():
                raise ListError(
                    f"{what}, line {reader.line_num}: expected a number in the first column, got {row[0][:40]!r}."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ListError(f"{what}, line {reader.line_num}: expected quoted csv ({error}).") from error


def read_ofac(main: Source, alternates: Source | None = None, *, list_name: str = "OFAC SDN") -> list[Entry]:
    """
    The specially designated nationals of the US Treasury.

    Args:
        main (path or `bytes`): `sdn.csv`, plain or gzip.
        alternates (path or `bytes`, *optional*): `alt.csv`, the other names.
        list_name (`str`, *optional*, defaults to `"OFAC SDN"`): Name of the list.

    Raises:
        ListError: naming the file, the line, and what was expected there.
    """
    aliases: dict[str, list[str]] = {}
    if alternates is not None:
        for line, row in read_rows(alternates, OFAC_ALTERNATE_COLUMNS, "OFAC alternate names"):
            if row[3] in ("", OFAC_EMPTY):
                raise ListError(f"OFAC alternate names, line {line}: expected a name in column 4, got nothing.")
            aliases.setdefault(row[0], []).append(row[3])
    entries: dict[str, Entry] = {}
    for line, row in read_rows(main, OFAC_COLUMNS, "OFAC SDN"):
        number, name, kind, remarks = row[0], row[1], row[2], "" if row[11] == OFAC_EMPTY else row[11]
        if kind not in OFAC_KINDS:
            raise ListError(f"OFAC SDN, line {line}: expected a type of {sorted(OFAC_KINDS)}, got {kind[:40]!r}.")
        if name in ("", OFAC_EMPTY):
            raise ListError(f"OFAC SDN, line {line}: expected a name in column 2, got nothing.")
        if number in entries:
            raise ListError(f"OFAC SDN, line {line}: entry {number} is there twice.")
        weak = re.findall(r"a\.k\.a\. '([^']+)'", remarks)
        entries[number] = Entry(
            list_name,
            number,
            OFAC_KINDS[kind],
            unique(name, *aliases.get(number, ()), *weak),
            unique(*(written_date(text) for text in re.findall(r"DOB (?:circa )?([^;.]*)", remarks))),
            unique(*(country_code(text) for text in re.findall(r"(?:nationality|citizen) ([^;.]*)", remarks))),
            remarks,
        )
    unknown = aliases.keys() - entries.keys()
    if unknown and len(unknown) > len(aliases) / 2:
        raise ListError(
            f"OFAC alternate names: {len(unknown)} of {len(aliases)} entries they belong to are not in the main file: "
            "give both files of one day."
        )
    return checked(entries.values(), "OFAC SDN")


def read_un(source: Source, *, list_name: str = "UN") -> list[Entry]:
    """
    The consolidated list of the UN Security Council (XML).

    Raises:
        ListError: naming the line and what was expected there.
    """
    options = {"resolve_entities": False, "load_dtd": False, "no_network": True}
    entries: dict[str, Entry] = {}
    try:
        elements = etree.iterparse(
            io.BytesIO(read_bytes(source)), events=("end",), tag=("INDIVIDUAL", "ENTITY"), **options
        )
        for _, element in elements:
            entry = read_un_entry(element, list_name)
            if entry.source_id in entries:
                raise ListError(f"UN list, line {element.sourceline}: {entry.source_id} is there twice.")
            entries[entry.source_id] = entry
            element.clear()
    except etree.XMLSyntaxError as error:
        raise ListError(f"UN list, line {error.lineno}: expected well-formed XML ({error.msg}).") from error
    if elements.root is None or elements.root.tag != "CONSOLIDATED_LIST":
        raise ListError("UN list, line 1: expected a CONSOLIDATED_LIST.")
    return checked(entries.values(), "UN list")


def read_un_entry(element: etree._Element, list_name: str) -> Entry:
    """One `INDIVIDUAL` or `ENTITY` of the UN's list."""

    def texts(path: str) -> list[str]:
        return [found.text.strip() for found in element.iterfind(path) if found.text and found.text.strip()]

    reference = "".join(texts("REFERENCE_NUMBER"))
    parts = [text for part in ("FIRST", "SECOND", "THIRD", "FOURTH") for text in texts(f"{part}_NAME")]
    for field, value in (("REFERENCE_NUMBER", reference), ("FIRST_NAME", parts)):
        if not value:
            raise ListError(f"UN list, line {element.sourceline}: expected a {field} in the {element.tag}.")
    born = []
    for birth in element.iterfind("INDIVIDUAL_DATE_OF_BIRTH"):
        values = {child.tag: child.text.strip() for child in birth if child.text}
        if values.get("FROM_YEAR") and values.get("TO_YEAR"):
            born.append(f"{values['FROM_YEAR']}/{values['TO_YEAR']}")
        else:
            born.append((values.get("DATE") or values.get("YEAR") or "")[:10])
    dates = unique(*born)
    try:
        for date in dates:
            check_date(date)
    except ValueError as error:
        raise ListError(f"UN list, line {element.sourceline}: {error}") from error
    return Entry(
        list_name,
        reference,
        "person" if element.tag == "INDIVIDUAL" else "organisation",
        unique(" ".join(parts), *texts("NAME_ORIGINAL_SCRIPT"), *texts(f"{element.tag}_ALIAS/ALIAS_NAME")),
        dates,
        unique(*(country_code(text) for text in texts("NATIONALITY/VALUE"))),
        " ".join(texts("COMMENTS1")),
    )


def read_table(source: Source, *, list_name: str, kind: str = "person") -> list[Entry]:
    """
    A list of one's own, or of politically exposed persons: parquet, csv with a header, or JSON lines.

    Args:
        source (path or `bytes`): Columns `id` and `name` or `names`, and where there are some `aliases`, `kind`,
            `birth_date`, `country`, `remarks` and `news`. Several values in a cell are a list (parquet) or stand with
            `;` between. JSON lines are records as OpenSanctions publishes them for Senzing.
        list_name (`str`): Name of the list.
        kind (`str`, *optional*, defaults to `"person"`): For rows that do not say.

    Raises:
        ListError: naming the line and what was expected there.
    """
    data = read_bytes(source)
    entries: dict[str, Entry] = {}
    for line, row in table_rows(data):
        place = f"{list_name}, line {line}"
        number = text_of(row.get("id"))
        names = unique(*cells(row.get("name")), *cells(row.get("names")), *cells(row.get("aliases")))
        given_kind = text_of(row.get("kind")) or kind
        for field, found in (("id", number), ("name", names)):
            if not found:
                raise ListError(f"{place}: expected something in `{field}`, got nothing.")
        if given_kind not in KINDS:
            raise ListError(f"{place}: expected a `kind` of {list(KINDS)}, got {given_kind[:40]!r}.")
        if number in entries:
            raise ListError(f"{place}: the `id` {number[:40]!r} is there twice.")
        try:
            dates = unique(*(check_date(text) for text in cells(row.get("birth_date"))))
        except ValueError as error:
            raise ListError(f"{place}: {error}") from error
        countries = unique(*(country_code(text) for text in cells(row.get("country"))))
        remarks = text_of(row.get("remarks")) or text_of(row.get("legislature"))
        entries[number] = Entry(
            list_name, number, given_kind, names, dates, countries, remarks, text_of(row.get("news"))
        )
    return checked(entries.values(), list_name)


def table_rows(data: bytes) -> Iterator[tuple[int, Mapping[str, object]]]:
    """The rows of a parquet, csv or JSON lines file, each with its line (parquet: row) number."""
    if data[:4] == b"PAR1":
        try:
            yield from enumerate(pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist(), start=1)
        except pyarrow.ArrowException as error:
            raise ListError(f"The file is a broken parquet file ({error}): download it again.") from error
        return
    text = read_text(data)
    if text.lstrip()[:1] == "{":
        for line, record in enumerate(text.split("\n"), start=1):
            if record.strip():
                try:
                    yield line, senzing_row(json.loads(record))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise ListError(f"Line {line}: expected a JSON record with RECORD_ID and NAMES.") from error
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    fields = {(field or "").strip() for field in reader.fieldnames or ()}
    if "id" not in fields or not fields & {"name", "names"}:
        raise ListError(f"Line 1: expected the columns id and name, got {', '.join(sorted(fields))[:80]!r}.")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ListError(f"Line {reader.line_num}: expected {len(fields)} columns, got more or fewer.")
            yield reader.line_num, {field.strip(): cell for field, cell in row.items()}
    except csv.Error as error:
        raise ListError(f"Line {reader.line_num}: expected csv ({error}).") from error


def senzing_row(record: Mapping) -> dict[str, object]:
    """A record of OpenSanctions' Senzing export as a row of `read_table`."""
    return {
        "id": record["RECORD_ID"],
        "names": [name.get("NAME_FULL") or name["NAME_ORG"] for name in record["NAMES"]],
        "kind": "organisation" if record.get("RECORD_TYPE") == "ORGANIZATION" else "person",
        "birth_date": [date["DATE_OF_BIRTH"] for date in record.get("DATES", ()) if "DATE_OF_BIRTH" in date],
        "country": [text for country in record.get("COUNTRIES", ()) for text in country.values()],
        "remarks": ", ".join(risk["TOPIC"] for risk in record.get("RISKS", ()) if "TOPIC" in risk),
    }


def read_list(source: Source, alternates: Source | None = None, *, list_name: str) -> list[Entry]:
    """A list of any of these formats, told apart by what is in the file."""
    data = read_bytes(source)
    head = data[:1024].lstrip(b"\xef\xbb\xbf \r\n\t")
    if alternates is not None or re.match(rb'"?\d+"?,"', head):
        return read_ofac(data, alternates, list_name=list_name)
    if head.startswith(b"<"):
        return read_un(data, list_name=list_name)
    return read_table(data, list_name=list_name)


def checked(entries: Iterable[Entry], what: str) -> list[Entry]:
    """The entries, unless there are none, or one has an identifier or its list a name that is too long to be kept."""
    found = list(entries)
    if not found:
        raise ListError(f"{what}: expected at least one entry, got none.")
    for text in (found[0].list_name, *(entry.source_id for entry in found)):
        if len(text) > MAX_ID:
            raise ListError(
                f"{what}: the list's name and identifiers have at most {MAX_ID} characters, got {len(text)}: "
                f"{text[:40]!r}..."
            )
    return found


def unique(*texts: str) -> tuple[str, ...]:
    """The texts that are not empty, in their order, each once."""
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def text_of(cell: object) -> str:
    """A cell of a table as text."""
    return "" if cell is None else str(cell).strip()


def cells(cell: object) -> tuple[str, ...]:
    """The values of a cell that may hold several."""
    if cell is None:
        return ()
    return unique(*(map(str, cell) if isinstance(cell, list | tuple) else str(cell).split(";")))


def check_date(text: str) -> str:
    """
    A birth date as `1948-12-10`, `1948-12`, `1948` or `1973/1974`.

    Raises:
        ValueError: for anything else.
    """
    text = text.strip()
    parts = text.split("/")
    for part in parts:
        match = DATE.fullmatch(part)
        if (
            len(parts) > 2
            or not match
            or int(match[2] or 1) not in range(1, 13)
            or int(match[3] or 1) not in range(1, 32)
        ):
            raise ValueError(f"expected a birth date such as 1948-12-10, 1948 or 1973/1974, got {text[:40]!r}.")
    return text


def written_date(text: str) -> str:
    """`10 Dec 1948` -> `1948-12-10`; a span of years as `1973/1974`; empty where there is no year."""
    match = WRITTEN_DATE.search(text)
    if not match:
        return ""
    day, month, year, last_year = match.groups()
    if last_year:
        return year if last_year == year else f"{year}/{last_year}"
    if month and month.lower() in MONTHS:
        return f"{year}-{MONTHS[month.lower()]:02}" + (f"-{int(day):02}" if day else "")
    return year


@lru_cache(maxsize=1)
def territories() -> dict[str, str]:
    """Two-letter codes of the countries by English name and by code."""
    names = {plain_country(name): code for code, name in Locale("en").territories.items() if code.isalpha()}
    return {**names, **{code.lower(): code for code in names.values()}, **COUNTRY_NAMES}


def plain_country(name: str) -> str:
    """A country's name without case and punctuation."""
    return " ".join(re.sub(r"[(),.]", " ", name.lower()).replace("&", "and").split())


@lru_cache(maxsize=4096)
def country_code(name: str) -> str:
    """The two-letter code of a country given by name or code; the text as it is where it is not known."""
    return territories().get(plain_country(name), name.strip())


__all__ = [
    "KINDS",
    "Entry",
    "ListError",
    "check_date",
    "country_code",
    "read_list",
    "read_ofac",
    "read_table",
    "read_un",
]
