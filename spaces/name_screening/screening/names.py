"""From a name as written to what is compared: Latin words, their weight and their sound."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from anyascii import anyascii
from nicknames import NickNamer


# Words that are in so many names that sharing or lacking them says little: particles, titles, legal forms.
COMMON = """
a al ad an as at el ul ar and abu bin ben bint ibn binti ould da das de del della der des di do dos du e i la las le
los of san st te the ter van vd von y
mr mrs ms miss dr eng prof sir lord hon sheikh shaykh shaikh sheik haji hajj hajji mullah mulla maulavi mawlawi sayed
sayyid seyed general gen colonel col major captain lt jr sr ii iii
ag aktsionernoe aktsionernoye anonima ao association bhd bv cia closed co compania company corp corporation cv
enterprise enterprises est establishment firm foundation fzco fze gmbh group holding holdings inc industries
international intl joint jsc kft kg liability limited llc llp ltd ltda mb nv oao obschestvo obshchestvo ogranichennoi
ogranichennoy ojsc ooo organisation organization otkrytoe otkrytoye otvetstvennostyu oy pao pjsc plc private pt pte
pty public pvt sa sal sarl sas sdn service services sl sociedad societe society spa srl stock trading zakrytoe
zakrytoye zao
"""
COMMON_WORDS = frozenset(COMMON.split())
COMMON_WEIGHT = 0.25
INITIAL_WEIGHT = 0.4
# Words written together with the next one, or with the one before, as often as not.
JOINED_TO_NEXT = frozenset({"abd", "abdal", "abdel", "abdol", "abdoul", "abdu", "abdul", "abdur"})
JOINED_TO_LAST = frozenset({"allah", "allh", "ullah"})
ARTICLES = frozenset({"al", "el", "il", "ul"})
# What the transliteration of single letters does not know: the long vowel, the ayn and the article of Arabic.
ARABIC = (
    (re.compile("[\u0622\u0623\u0625\u0627\u0639]"), "a"),
    (re.compile(r"\ba\u0644(?!\u0644\u0647\b)(?=\w{2,})"), "al "),
)
APOSTROPHES = re.compile(r"['`´ʻʼ‘’ʹʿʾ\"]")
WORDS = re.compile(r"[a-z0-9]+")
# What stands between words in any script.
SEPARATORS = re.compile(r"[\s.,;:/()=\-\u2010-\u2015\u00b7\u2022\u30fb]+")
# A name of so many characters of Chinese, Japanese or Korean may be several words; words are shorter.
EAST_ASIAN = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
UNSPACED, SHORT = re.compile(EAST_ASIAN + "{2,6}"), re.compile(EAST_ASIAN + "{1,2}")
# Spellings of one sound in the Latin transcriptions of other scripts, longest first.
SOUNDS = (
    ("shch", "s"),
    ("tsch", "s"),
    ("sch", "s"),
    ("dzh", "s"),
    ("ph", "f"),
    ("kh", "k"),
    ("gh", "g"),
    ("ch", "s"),
    ("sh", "s"),
    ("zh", "s"),
    ("dj", "s"),
    ("dz", "s"),
    ("ts", "s"),
    ("tz", "s"),
    ("cz", "s"),
    ("th", "t"),
    ("dh", "d"),
    ("ck", "k"),
    ("ce", "se"),
    ("ci", "si"),
    ("x", "ks"),
)
LETTERS = str.maketrans({"c": "k", "q": "k", "g": "k", "z": "s", "j": "s", "p": "b", "w": "v"})
# Letters that one transcription writes and another leaves out, but at the start of a word.
SILENT = frozenset("aeiouyhv")
VOWELS = frozenset("aeiouyh")


@dataclass(frozen=True, slots=True)
class Name:
    """
    A name as written and as it is compared.

    Args:
        text (`str`): As written.
        words (`tuple` of `str`): In Latin letters.
        weights (`tuple` of `float`): How much each word counts.
        core (`tuple` of `str`): The words that are not in many names; all of them where there is no other.
        written (`tuple` of `str`): The words in their own script; empty for one that is written together with the next.
    """

    text: str
    words: tuple[str, ...]
    weights: tuple[float, ...]
    core: tuple[str, ...]
    written: tuple[str, ...]

    @property
    def latin(self) -> str:
        """The compared words with spaces between."""
        return " ".join(self.words)


def latin(text: str) -> str:
    """`text` in lower-case ASCII letters."""
    text = unicodedata.normalize("NFKC", text)
    for letters, written in ARABIC:
        text = letters.sub(written, text)
    return APOSTROPHES.sub("", anyascii(text)).lower()


@lru_cache(maxsize=1 << 18)
def parse_name(text: str) -> Name:
    """
    What is compared of a name: its words in Latin letters, without punctuation, each with a weight.

    Args:
        text (`str`): The name in any script and order.

    Returns:
        [`Name`]: Without words where the text has no letter or digit.
    """
    words: list[str] = []
    written: list[str] = []
    prefix = own_prefix = ""
    for word, own in separate_words(text):
        if word in JOINED_TO_NEXT or (prefix and word in ARTICLES):
            prefix += word
            own_prefix += own
        elif word in JOINED_TO_LAST and words and not prefix:
            words[-1] += word
            written[-1] += own
        else:
            words.append(prefix + word)
            written.append(own_prefix + own)
            prefix = own_prefix = ""
    if prefix:
        words.append(prefix)
        written.append(own_prefix)
    weights = tuple(weight_of(word) for word in words)
    core = tuple(word for word, weight in zip(words, weights, strict=True) if weight == 1.0)
    return Name(text, tuple(words), weights, core or tuple(words), tuple(written))


def separate_words(text: str) -> Iterator[tuple[str, str]]:
    """The words of a text in Latin letters, each with what it is in its own script."""
    if is_latin(text):
        for word in WORDS.findall(latin(text)):
            yield word, word
        return
    for own in SEPARATORS.split(unicodedata.normalize("NFKC", text)):
        *before, last = WORDS.findall(latin(own)) or [""]
        for word in before:
            yield word, ""
        if last:
            yield last, own


@lru_cache(maxsize=1 << 18)
def is_latin(text: str) -> bool:
    """Whether every letter is of the Latin script, accents included."""
    return all(ord(letter) < 0x250 or 0x1E00 <= ord(letter) < 0x1F00 for letter in text if letter.isalpha())


def is_short(word: str) -> bool:
    """Whether a word is one or two characters of Chinese, Japanese or Korean."""
    return SHORT.fullmatch(word) is not None


@lru_cache(maxsize=1 << 16)
def divisions(name: Name) -> tuple[Name, ...]:
    """A name as written, and where it is written without spaces, as two and as three words."""
    text = name.text.strip()
    if not UNSPACED.fullmatch(text):
        return (name,)
    places = range(1, len(text))
    divided = [f"{text[:i]} {text[i:]}" for i in places]
    divided += [f"{text[:i]} {text[i:j]} {text[j:]}" for i in places for j in places if i < j]
    return (name, *map(parse_name, divided))


def weight_of(word: str) -> float:
    """How much a word counts within its name."""
    if word in COMMON_WORDS:
        return COMMON_WEIGHT
    return INITIAL_WEIGHT if len(word) == 1 else 1.0


@lru_cache(maxsize=1 << 18)
def sound_of(word: str) -> str:
    """
    The consonants of a word, those that transcriptions confuse written alike, without doubles; an initial vowel
    counts. `saddam` and `sdm` sound the same, so do `yevgeny` and `evgenii`.
    """
    for written, sound in SOUNDS:
        word = word.replace(written, sound)
    word = word.translate(LETTERS)
    rest = "".join(letter for letter in word[1:] if letter not in SILENT)
    key = ("a" if word[0] in VOWELS else word[0]) + rest
    return "".join(letter for place, letter in enumerate(key) if not place or letter != key[place - 1])


@lru_cache(maxsize=1)
def namer() -> NickNamer:
    """The table of English nicknames."""
    return NickNamer()


@lru_cache(maxsize=1 << 16)
def full_forms(word: str) -> frozenset[str]:
    """The given names that a word may be short for, itself among them."""
    return frozenset({word, *namer().canonicals_of(word)})


def are_nicknames(first: str, second: str) -> bool:
    """Whether one given name is short for the other, or both for the same."""
    return second in full_forms(first) or first in full_forms(second)
