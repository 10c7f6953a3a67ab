"""Lists as they are published, whole and broken."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')
import pyarrow
import pyarrow.parquet

from screening.lists import ListError, country_code, read_list, read_ofac, read_table, read_un


SDN = (
    '36,"AEROCARIBBEAN AIRLINES",-0- ,"CUBA",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- \r\n'
    '2674,"ABBAS, Abu","individual","SDGT",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,'
    '"DOB 10 Dec 1948; alt. DOB 1951 to 1953; alt. DOB 01 Jan 1960 to 31 Dec 1960; '
    "nationality Iran; a.k.a. 'THE UNCLE'.\"\r\n"
)
ALT = '2674,12,"aka","ZAYDAN, Muhammad",-0- \r\n36,13,"aka","AERO-CARIBBEAN",-0- \r\n\x1a'
UN = """<?xml version="1.0" encoding="UTF-8"?>
<CONSOLIDATED_LIST>
 <INDIVIDUALS>
  <INDIVIDUAL>
   <FIRST_NAME>ERIC</FIRST_NAME><SECOND_NAME>BADEGE</SECOND_NAME>
   <REFERENCE_NUMBER>CDi.001</REFERENCE_NUMBER>
   <NAME_ORIGINAL_SCRIPT>Эрик Бадеге</NAME_ORIGINAL_SCRIPT>
   <COMMENTS1>He fled.</COMMENTS1>
   <NATIONALITY><VALUE>Democratic Republic of the Congo</VALUE></NATIONALITY>
   <INDIVIDUAL_ALIAS><QUALITY/><ALIAS_NAME>Badge</ALIAS_NAME></INDIVIDUAL_ALIAS>
   <INDIVIDUAL_DATE_OF_BIRTH><TYPE_OF_DATE>BETWEEN</TYPE_OF_DATE><FROM_YEAR>1973</FROM_YEAR><TO_YEAR>1974</TO_YEAR>
   </INDIVIDUAL_DATE_OF_BIRTH>
  </INDIVIDUAL>
 </INDIVIDUALS>
 <ENTITIES>
  <ENTITY>
   <FIRST_NAME>ADF</FIRST_NAME><REFERENCE_NUMBER>CDe.001</REFERENCE_NUMBER>
   <ENTITY_ALIAS><ALIAS_NAME>Allied Democratic Forces</ALIAS_NAME></ENTITY_ALIAS>
  </ENTITY>
 </ENTITIES>
</CONSOLIDATED_LIST>
"""


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_ofac_is_read(pack):
    company, person = read_ofac(pack(SDN.encode()), pack(ALT.encode()))
    assert company.kind == "organisation"
    assert company.names == ("AEROCARIBBEAN AIRLINES", "AERO-CARIBBEAN")
    assert person.kind == "person"
    assert person.names == ("ABBAS, Abu", "ZAYDAN, Muhammad", "THE UNCLE")
    assert person.birth_dates == ("1948-12-10", "1951/1953", "1960")
    assert person.countries == ("IR",)


def test_ofac_in_latin_1_is_read():
    assert read_ofac(SDN.replace("Abu", "José").encode("latin-1"))[1].names[0] == "ABBAS, José"


@pytest.mark.parametrize(
    ("sdn", "message"),
    [
        (SDN + '99,"TOO, Short",-0- \r\n', "OFAC SDN, line 3: expected 12 columns, got 3"),
        (SDN.replace("36,", "x36,", 1), "line 1: expected a number in the first column, got 'x36'"),
        (SDN.replace('"individual"', '"robot"'), "line 2: expected a type of .* got 'robot'"),
        (SDN.replace('"ABBAS, Abu"', "-0- "), "line 2: expected a name in column 2"),
        (SDN + SDN, "line 3: entry 36 is there twice"),
        ("\x1a", "expected at least one entry"),
        (SDN[:-30], "expected"),
    ],
    ids=["columns", "number", "type", "name", "twice", "empty", "cut off"],
)
def test_broken_ofac_says_where(sdn, message):
    with pytest.raises(ListError, match=message):
        read_ofac(sdn.encode())


def test_alternate_names_of_another_list_are_refused():
    with pytest.raises(ListError, match="give both files of one day"):
        read_ofac(SDN.encode(), ALT.replace("2674,", "9999,").replace("36,", "9998,").encode())


def test_un_is_read():
    person, body = read_un(UN.encode())
    assert person.source_id == "CDi.001"
    assert person.kind == "person"
    assert person.names == ("ERIC BADEGE", "Эрик Бадеге", "Badge")
    assert person.birth_dates == ("1973/1974",)
    assert person.countries == ("CD",)
    assert body.kind == "organisation"
    assert body.names == ("ADF", "Allied Democratic Forces")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "UN list, line 19: expected well-formed XML"),
        (lambda text: text.replace("<REFERENCE_NUMBER>CDe.001</REFERENCE_NUMBER>", ""), "line 16: .*REFERENCE_NUMBER"),
        (lambda text: text.replace("CDe.001", "CDi.001"), "line 16: CDi.001 is there twice"),
        (lambda text: text.replace(">1974<", ">about 1974<"), "line 4: expected a birth date .* got '1973/about 1974'"),
        (lambda text: text.replace("CDe.001", "C" * 101), "at most 100 characters, got 101: 'CCC"),
        (lambda text: re.sub("CONSOLIDATED_LIST", "OTHER", text), "expected a CONSOLIDATED_LIST"),
        (lambda text: re.sub("<(INDIVIDUALS|ENTITIES)>.*</\\1>", "", text, flags=re.DOTALL), "at least one entry"),
    ],
    ids=["cut off", "reference", "twice", "birth date", "long", "root", "empty"],
)
def test_broken_un_says_where(change, message):
    with pytest.raises(ListError, match=message):
        read_un(change(UN).encode())


def test_xml_entities_are_not_expanded(tmp_path):
    (tmp_path / "secret").write_text("hidden")
    for entity in (f'SYSTEM "file://{tmp_path}/secret"', '"hidden"'):
        attack = UN.replace("<CONSOLIDATED", f"<!DOCTYPE x [<!ENTITY e {entity}>]><CONSOLIDATED", 1)
        person, _ = read_un(attack.replace(">He fled.<", ">&e;<").encode())
        assert (person.source_id, person.remarks) == ("CDi.001", "")


def test_a_table_is_read_from_csv_parquet_and_json_lines():
    text = (
        "id,name,aliases,kind,birth_date,country,news\n1,Ann Lee,A. Lee;Anna Li,person,1970-02-03,Iran,She was tried.\n"
    )
    (entry,) = read_table(text.encode(), list_name="own")
    assert entry.names == ("Ann Lee", "A. Lee", "Anna Li")
    assert (entry.birth_dates, entry.countries, entry.news) == (("1970-02-03",), ("IR",), "She was tried.")
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"id": ["p1"], "names": [["Ann Lee", "Энн Ли"]], "country": ["Abkhazia"]})
    pyarrow.parquet.write_table(table, sink)
    (entry,) = read_table(sink.getvalue().to_pybytes(), list_name="pep")
    assert (entry.names, entry.countries) == (("Ann Lee", "Энн Ли"), ("Abkhazia",))
    record = {"RECORD_ID": "Q1", "NAMES": [{"NAME_FULL": "Ann\u2028Lee"}], "DATES": [{"DATE_OF_BIRTH": "1970"}]}
    # What ends a line elsewhere does not end a record.
    (entry,) = read_table(json.dumps(record, ensure_ascii=False).encode(), list_name="pep")
    assert (entry.source_id, entry.birth_dates) == ("Q1", ("1970",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,nome\n1,x\n", "Line 1: expected the columns id and name"),
        ("id,name\n1,Ann\n2,Ann,3\n", "Line 3: expected 2 columns"),
        ("id,name\n1,Ann\n2,\n", "own, line 3: expected something in `name`"),
        ("id,name\n1,Ann\n1,Bob\n", "own, line 3: the `id` '1' is there twice"),
        ("id,name,kind\n1,Ann,dog\n", "own, line 2: expected a `kind`"),
        ("id,name,birth_date\n1,Ann,03/02/1970\n", "own, line 2: expected a birth date"),
        ("id,name,birth_date\n1,Ann,1970-13\n", "own, line 2: expected a birth date"),
        ('{"RECORD_ID": "1"}\n', "Line 1: expected a JSON record"),
        ("", "Line 1: expected the columns"),
        ("PAR1 and nothing", "broken parquet"),
        ("\x1f\x8b and nothing", "broken gzip"),
    ],
)
def test_a_broken_table_says_where(text, message):
    with pytest.raises(ListError, match=message):
        read_table(text.encode("latin-1"), list_name="own")


def test_a_list_with_a_long_name_is_refused():
    for text in (SDN, UN, "id,name\n1,Ann\n"):
        with pytest.raises(ListError, match="at most 100 characters, got 101"):
            read_list(text.encode(), list_name="n" * 101)


def test_formats_are_told_apart():
    assert read_list(SDN.encode(), list_name="a")[0].source_id == "36"
    assert read_list(UN.encode(), list_name="b")[0].source_id == "CDi.001"
    assert read_list(b"\xef\xbb\xbfid,name\n7,Ann\n", list_name="c")[0].source_id == "7"


def test_countries_are_one_code():
    assert {country_code(name) for name in ("Iran", "IR", "ir", "Iran (Islamic Republic of)")} == {"IR"}
    assert country_code("Atlantis") == "Atlantis"


@pytest.mark.skipif("COMPACTBERT_DATA" not in os.environ, reason="needs the lists under COMPACTBERT_DATA")
def test_the_real_lists_are_read():
    folder = Path(os.environ["COMPACTBERT_DATA"]) / "names"
    ofac = read_ofac(folder / "ofac_sdn.csv.gz", folder / "ofac_alt.csv.gz")
    un = read_un(folder / "un_consolidated.xml.gz")
    assert len(ofac) == 8976
    assert sum(entry.kind == "person" for entry in ofac) == 4620
    assert len(un) == 1003
    assert sum(entry.kind == "person" for entry in un) == 730
    assert len(read_table(folder / "opensanctions_us_congress_senzing.json.gz", list_name="congress")) > 1000
