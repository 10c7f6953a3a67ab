"""Names across scripts: the encoder that comes with the Space, what it finds, and how it is trained."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')

from modeling_smbert import SmBertModel
from screening import matching
from screening.characters import Characters
from screening.encoder import FOLDER, EncodedIndex, NameEncoder
from screening.lists import Entry
from screening.matching import DEFAULT_THRESHOLD, Customer, Screener, explain_name, name_similarity
from screening.names import divisions, parse_name


# One name in many scripts, those that the encoder has not learned among them.
NAMES = [
    "clinton",
    "Клинтон",
    "克林顿",
    "クリントン",
    "클린턴",
    "كلينتون",
    "קלינטון",
    "Κλίντον",
    "კლინტონი",
    "คลินตัน",
    "क्लिंटन",
]


@pytest.fixture(scope="module")
def training():
    """The benchmark that trains the encoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        yield importlib.import_module("name_encoder")


def test_the_encoder_computes_what_the_model_does(training):
    encoder = NameEncoder(FOLDER)
    model = SmBertModel.from_pretrained(FOLDER, add_pooling_layer=False, dtype=torch.float32).eval()
    ids = torch.from_numpy(training.padded([encoder.characters.ids(name) for name in NAMES]))
    with torch.inference_mode():
        expected = training.embed(model, ids).numpy()
    np.testing.assert_allclose(encoder.encode(NAMES), expected, atol=1e-5)
    # Whichever words are computed together.
    np.testing.assert_allclose(encoder.compute(NAMES[:1])[0], expected[0], atol=1e-5)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2 << 20


def test_no_script_is_lost():
    characters = NameEncoder(FOLDER).characters
    assert all(len(characters.ids(name)) > 3 or name == "克林顿" for name in NAMES)
    # What has no letter has no direction, and is like nothing.
    assert characters.ids("!?") == []
    assert not NameEncoder(FOLDER).encode(["!?"]).any()


def test_what_the_table_lacks_is_read_in_latin_letters():
    characters = Characters("abcde", {"\u10d1": "B", "\u10d2": "zz"}.get)
    assert characters.ids("A\u10d1\u10d2e?") == [1, 2, 5]
    assert len(Characters("a", str).ids("a" * 100)) == 32


def test_unspaced_names_are_divided():
    assert {name.words for name in divisions(parse_name("习近平"))} == {
        ("xijinping",),
        ("xi", "jinping"),
        ("xijin", "ping"),
        ("xi", "jin", "ping"),
    }
    assert divisions(parse_name("Xi Jinping")) == (parse_name("Xi Jinping"),)


ACROSS = [("Bill Clinton", "比尔·克林顿"), ("Nancy Pelosi", "Нэнси Пелоси"), ("Helmut Kohl", "ヘルムート・コール")]


@pytest.mark.parametrize(("latin", "other"), ACROSS)
def test_the_encoder_finds_what_the_rules_do_not(latin, other):
    entries = [Entry("own", "1", "person", (latin,)), Entry("own", "2", "person", ("Anna Lee",))]
    assert [match.entry.source_id for match in Screener(entries).screen(Customer("c", other))] == ["1"]
    features = explain_name(parse_name(other), parse_name(latin))
    assert any(feature.name == "word: encoder" and feature.text[0] in other for feature in features)
    names = parse_name(latin), parse_name(other)
    assert name_similarity(*names) >= DEFAULT_THRESHOLD
    # Nothing is written that the encoder could read.
    assert name_similarity(*(replace(name, written=()) for name in names)) < DEFAULT_THRESHOLD


def test_other_names_in_another_script_are_not_found():
    entries = [Entry("own", str(number), "person", (latin,)) for number, (latin, _) in enumerate(ACROSS)]
    for place, (_, other) in enumerate(ACROSS):
        assert [match.entry.source_id for match in Screener(entries).screen(Customer("c", other))] == [str(place)]


def test_an_entry_without_a_latin_name_is_found():
    screener = Screener(
        [Entry("own", "1", "person", ("比尔·克林顿",)), Entry("own", "2", "person", ("李安娜", "Anna Li"))]
    )
    assert [match.entry.source_id for match in screener.screen(Customer("c", "Bill Clinton"))] == ["1"]
    # The other has one, by which it is found.
    assert len(screener.other_names.rows) == 1


def test_names_of_one_script_never_meet_the_encoder(monkeypatch):
    def forbidden():
        raise AssertionError("the encoder was asked")

    monkeypatch.setattr(matching, "name_encoder", forbidden)
    monkeypatch.setattr("screening.encoder.name_encoder", forbidden)
    screener = Screener([Entry("own", "1", "person", ("KARPOV, Pavel", "Pavlik"))])
    assert screener.screen(Customer("c", "Pavel Karpof"))
    assert "latin_names" not in vars(screener)
    with pytest.raises(AssertionError, match="was asked"):
        screener.screen(Customer("c", "Нэнси Пелоси"))


def test_the_index_finds_names_by_their_words():
    names = [parse_name(name) for name in ("John Smith", "Clinton, Bill", "Hillary Clinton", "Pavel Karpov")]
    index = EncodedIndex(names, [0, 1, 2, 3])
    assert index.search(parse_name("比尔·克林顿"))[:2].tolist() == [1, 2]
    assert EncodedIndex(names, [3]).search(parse_name("Павел Карпов")).tolist() == [3]
    assert len(EncodedIndex([], []).search(parse_name("Павел"))) == 0


def test_the_same_name_twice_in_a_batch_is_no_other_name(training):
    torch.manual_seed(0)
    config = training.SmBertConfig(vocab_size=50, **training.SHAPE)
    model = training.SiameseEncoder(config).eval()
    ids = torch.randint(1, 50, (3, 8))
    # All sources alike: nothing is left to be told apart.
    assert float(model(ids[:1].expand(3, 8), ids)["loss"].detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(model(ids, ids.flip(1))["loss"].detach()) > 0.01


def write_pairs(folder):
    """Pairs as `names/translit` has them."""
    place = folder / "names" / "translit"
    place.mkdir(parents=True)
    letters = {"arabic": "ابتثجحخد", "chinese": "克林顿比尔奥巴马", "hebrew": "אבגדהוזח"}
    letters |= {"japanese": "アイウエオカキク", "korean": "가나다라마바사아", "russian": "абвгдежз"}
    random = np.random.default_rng(0)
    for language, script in letters.items():
        rows = random.integers(0, 8, (40, 5))
        table = pd.DataFrame({"src": ["".join("abcdefgh"[i] for i in row) for row in rows]})
        table["tgt"] = [" ".join(script[i] for i in row) for row in rows]
        table["split"] = ["train"] * 30 + ["dev"] * 10
        table.to_parquet(place / f"wd_{language}.parquet")


def test_training_leaves_a_folder_that_the_space_reads(training, tmp_path, monkeypatch):
    write_pairs(tmp_path)
    options = {"max_steps": 4, "max_minutes": 1.0, "batch_size": 16, "learning_rate": 1e-3, "neighbours": 4}
    training.train(tmp_path, tmp_path / "out", **options)
    made = json.loads((tmp_path / "out" / "training.json").read_text())
    assert made["steps"] == 4
    assert made["pairs"]["korean"] == 30
    assert all(0 <= share <= 1 for share in made["dev"].values())
    directions = NameEncoder(tmp_path / "out").encode(["abc", "克林顿"])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0, atol=1e-5)

    def forbidden(*_, **__):
        raise AssertionError("a step was made")

    # Called again, the finished run stands.
    monkeypatch.setattr(training.SiameseEncoder, "forward", forbidden)
    training.train(tmp_path, tmp_path / "out", **options)
    np.testing.assert_allclose(NameEncoder(tmp_path / "out").encode(["abc"]), directions[:1], atol=1e-5)


def test_training_ends_when_its_minutes_are_over(training, tmp_path):
    write_pairs(tmp_path)
    options = {"max_steps": 500, "max_minutes": 0.01, "batch_size": 8, "learning_rate": 1e-3, "neighbours": 1}
    training.train(tmp_path, tmp_path / "out", **options)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["steps"] < 500
