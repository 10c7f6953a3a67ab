"""Names that are the same, names that are not, and why."""

import random

import pytest


pytest.importorskip("anyascii", reason='needs pip install ".[spaces]"')

from screening.index import NameIndex
from screening.lists import Entry
from screening.matching import DEFAULT_THRESHOLD, Customer, Screener, explain_name, name_similarity
from screening.names import parse_name, sound_of


def similarity(first, second):
    return name_similarity(parse_name(first), parse_name(second))


SAME = [
    ("KARPOV, Pavel", "Pavel Karpov"),
    ("Павел Карпов", "KARPOV, Pavel"),
    ("Щербаков Юрий", "Yuri Shcherbakov"),
    ("صدام حسين التكريتي", "SADDAM HUSSEIN AL-TIKRITI"),
    ("عبد الله احمد", "Abdullah Ahmed"),
    ("习近平", "Xi Jinping"),
    ("김정은", "Kim Jong Un"),
    ("Bill Clinton", "William Clinton"),
    ("J. Robert Smith", "John Robert Smith"),
    ("Mohammed Hussain", "Muhammad Husein"),
    ("José Núñez", "JOSE NUNEZ"),
    ("Van Der Berg, Jan", "Jan Vanderberg"),
    ("ABDUL RAHMAN, Mohamad Iqbal", "ABDURRAHMAN, Mohamad Iqbal"),
    ("SARMAYEH BANK", "Sarmaye Bank Ltd"),
    ("Mohamed Salah Ghaly", "Mohamed Salah"),
]
DIFFERENT = [
    ("Pavel Karpov", "Pavel Durov"),
    ("John Smith", "John"),
    ("Mesut Yilmaz", "Mustafa Yilmaz"),
    ("Иван Петров", "Ivan Sidorov"),
    ("Maria Garcia Lopez", "Maria Hernandez Ruiz"),
    ("Ali Hassan", "Ali Rahimi"),
    ("Bank of Cyprus", "Bank of Valletta"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_name_is_above_the_threshold(first, second):
    assert similarity(first, second) >= DEFAULT_THRESHOLD
    assert similarity(first, second) == pytest.approx(similarity(second, first), abs=0.03)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_names_are_below_the_threshold(first, second):
    assert similarity(first, second) < DEFAULT_THRESHOLD


def test_order_and_punctuation_do_not_count():
    assert similarity("AL-TIKRITI, Saddam", "saddam al tikriti") == 1.0


@pytest.mark.parametrize("words", [("saddam", "sdam"), ("yevgeny", "evgenii"), ("khalid", "kalid"), ("zh", "j")])
def test_one_sound_is_written_in_many_ways(words):
    assert len({sound_of(word) for word in words}) == 1


def test_every_pair_of_words_is_explained():
    features = explain_name(parse_name("Павел A. Карпоф"), parse_name("KARPOV, Pavel Bob"))
    kinds = {feature.name: feature for feature in features}
    assert kinds["word: equal"].text.startswith("pavel / pavel")
    assert kinds["word: encoder"].text.startswith("Карпоф / karpov")
    assert [feature.text for feature in features if feature.name == "words without counterpart"] == [
        "customer: a",
        "list: bob",
    ]
    assert kinds["transliterated"].effect < 0
    assert "word: nickname" in {
        feature.name for feature in explain_name(parse_name("Bill Lee"), parse_name("William Lee"))
    }


LISTED = Entry("own", "1", "person", ("KARPOV, Pavel", "Pavlik"), ("1977-08-27",), ("RU",))


def score(**fields):
    found = Screener([LISTED]).screen(Customer("c", "Pavel Karpof", **fields))
    return found[0].score if found else 0.0


def test_birth_date_and_country_qualify():
    plain = score()
    assert score(birth_date="1977-08-27") > score(birth_date="1977") > plain
    assert score(birth_date="1978") == plain
    assert score(birth_date="1950") < plain
    assert score(country="Russian Federation") > plain > score(country="BR")
    assert score(kind="person") == plain > score(kind="vessel")


def test_the_same_birth_date_does_not_lift_another_name():
    assert not Screener([LISTED]).screen(Customer("c", "Pavel Durov", birth_date="1977-08-27", country="RU"))


def test_an_alias_of_either_side_counts():
    screener = Screener([LISTED])
    assert screener.screen(Customer("c", "Pavlik"))[0].listed_name == "Pavlik"
    assert screener.screen(Customer("c", "Somebody Else", ("Pavel Karpov",)))[0].customer_name == "Pavel Karpov"


def test_thresholds_are_per_list():
    entries = [LISTED, Entry("other", "1", "person", ("KARPOV, Pavel",))]
    customer = Customer("c", "Pavel Karpof")
    assert {match.entry.list_name for match in Screener(entries).screen(customer)} == {"own", "other"}
    strict = Screener(entries, {"own": 1.0})
    assert [match.entry.list_name for match in strict.screen(customer)] == ["other"]
    with pytest.raises(ValueError, match="'own' must be between 0.5 and 1, got 0.1"):
        Screener(entries, {"own": 0.1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": " ", "name": "Ann"}, "`id`"),
        ({"id": "1" * 101, "name": "Ann"}, "an `id` of at most 100 characters, got 101"),
        ({"id": "1", "name": "..."}, "`name` with letters"),
        ({"id": "1", "name": "Ann" * 1000}, "at most 500 characters"),
        ({"id": "1", "name": "Ann", "kind": "dog"}, "`kind`"),
        ({"id": "1", "name": "Ann", "birth_date": "yesterday"}, "birth date"),
    ],
)
def test_customers_that_cannot_be_screened_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Customer(**fields)


def test_nothing_to_screen_against_is_no_error():
    assert Screener([]).screen(Customer("c", "Ann Lee")) == []


def made_up_names(count, seed):
    rng = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]

    def word():
        return "".join(rng.choice(syllables) for _ in range(rng.randint(2, 3)))

    return [f"{word()} {word()}" for _ in range(count)]


def test_the_index_finds_what_a_full_comparison_finds():
    listed = [parse_name(name) for name in dict.fromkeys(made_up_names(1500, seed=0))]
    index = NameIndex(listed)
    rng = random.Random(1)
    for name in rng.sample(listed, 40):
        first, second = name.words
        # A letter lost, and the order turned round.
        query = parse_name(f"{second} {first[:2]}{first[3:]}")
        wanted = {place for place, other in enumerate(listed) if name_similarity(query, other) >= DEFAULT_THRESHOLD}
        assert wanted
        assert wanted <= set(index.search(query).tolist())


def test_names_that_many_bear_are_all_reported():
    entries = [Entry("own", str(number), "person", ("Mohammed Ali",)) for number in range(300)]
    assert len(Screener(entries).screen(Customer("c", "Ali Mohammed"))) == 300


def test_hostile_names_are_only_names():
    listed = Entry("own", "1", "person", ("<script>alert(1)</script>", "=1+1", "a" * 5000))
    screener = Screener([listed])
    (match,) = screener.screen(Customer("c", "<script>alert(1)</script>"))
    assert (match.score, match.listed_name) == (1.0, "<script>alert(1)</script>")
    for name in ("a" * 500, "a " * 200, "\u202eevil name", "\x00 null"):
        assert screener.screen(Customer("c", name)) == []
