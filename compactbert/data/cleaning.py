"""Cleaning of text: markup, white space, full-width forms, and on request digits, punctuation and case."""

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, get_args

from datasets import Dataset

from .tasks import check_columns


Language = Literal["en", "zh"]
HAN = "\u4e00-\u9fff"
HIDDEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
# Within a word these say nothing; every other tag ends one.
INLINE_TAG = re.compile(r"</?(?:a|abbr|b|code|em|font|i|mark|small|span|strong|sub|sup|u)\b[^<>]*>", re.IGNORECASE)
# Not `<.*?>`: "x < 3 and y > 2" is text.
TAG = re.compile(r"<[/!]?[a-zA-Z][^<>]*>")
INVISIBLE = re.compile("[\u200b\u2060\ufeff\x00-\x08\x0e-\x1f\x7f]")
# Letters and digits alone: full-width punctuation is how Chinese is written.
FULL_WIDTH = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
APOSTROPHE = re.compile("(?<=\\w)['\u2019](?=\\w)")
PUNCTUATION: dict[Language, re.Pattern] = {
    "en": re.compile(r"[^\w\s]|_"),
    "zh": re.compile(f"[^{HAN}a-zA-Z0-9\\s]"),
}
SPACE_IN_CHINESE = re.compile(f"(?<=[{HAN}])\\s+(?=[{HAN}])")


def clean_text(
    text: str,
    *,
    language: Language = "en",
    html_tags: bool = True,
    full_width: bool = True,
    digits: bool = False,
    punctuation: bool = False,
    lower: bool = False,
) -> str:
    """
    A text without what is no part of it.

    Runs of white space become a space, and invisible characters go.

    Args:
        text (`str`):
            The text.
        language (`"en"` or `"zh"`, *optional*, defaults to `"en"`):
            In Chinese, spaces between its characters go, and `punctuation` leaves its characters, Latin letters and
            Arabic digits alone.
        html_tags (`bool`, *optional*, defaults to `True`):
            Take tags, comments and scripts out, and turn entities into characters.
        full_width (`bool`, *optional*, defaults to `True`):
            Make full-width letters and digits plain ones.
        digits (`bool`, *optional*, defaults to `False`):
            Take numbers out.
        punctuation (`bool`, *optional*, defaults to `False`):
            Take everything out but letters, digits and white space.
        lower (`bool`, *optional*, defaults to `False`):
            Make it lower case.

    Raises:
        ValueError: for another language.

    Example:

    ```python
    >>> from compactbert.data import clean_text

    >>> clean_text("<p>Not <b>b</b>ad &amp; cheap:<br/> 3 of 5!</p>", digits=True, punctuation=True)
    'Not bad cheap of'

    ```
    """
    if language not in get_args(Language):
        raise ValueError(f"`language` must be one of {get_args(Language)}, got {language!r}.")
    if html_tags:
        text = TAG.sub(" ", INLINE_TAG.sub("", HIDDEN.sub(" ", text)))
        text = html.unescape(text)
    text = INVISIBLE.sub("", text)
    if full_width:
        text = FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    if digits:
        text = re.sub(r"\d+", " ", text)
    if punctuation:
        text = PUNCTUATION[language].sub(" ", APOSTROPHE.sub("", text))
    if lower:
        text = text.lower()
    if language == "zh":
        text = SPACE_IN_CHINESE.sub("", text)
    # Also the ideographic space, U+3000.
    return " ".join(text.split())


def clean(dataset: Dataset, text_columns: Sequence[str] = ("text",), **options: Any) -> tuple[Dataset, dict[str, int]]:
    """
    Cleans columns of a table; rows without text afterwards are left out.

    Args:
        dataset ([`~datasets.Dataset`]):
            The table.
        text_columns (list of `str`, *optional*, defaults to `("text",)`):
            Columns of texts, or of token lists, in which no token is lost: what nothing is left of stays as it is.
        options:
            Of [`clean_text`].

    Returns:
        The table, and how many `rows` there were, were `changed` and are `left`.

    Raises:
        TypeError: for an unknown option.
        ValueError: for another language, or if a column is missing or has missing values.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from compactbert.data import clean

    >>> table, report = clean(Dataset.from_dict({"text": ["<b>Good</b>  film", "<br>"]}), lower=True)
    >>> table["text"][:], report
    (['good film'], {'rows': 2, 'changed': 2, 'left': 1})

    ```
    """
    check_columns(dataset, text_columns, "The table")

    def cleaned(value: Any) -> Any:
        if isinstance(value, list):
            return [clean_text(token, **options) or token for token in value]
        return clean_text(str(value), **options)

    changed = [False] * len(dataset)
    empty = [False] * len(dataset)
    for column in text_columns:
        before = dataset[column][:]
        after = [cleaned(value) for value in before]
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            changed[i] |= old != new
            empty[i] |= not new
        names, new_name = dataset.column_names, f"{column}, cleaned"
        # Added before the other goes: a table without columns has no rows.
        dataset = dataset.add_column(new_name, after).remove_columns(column)
        dataset = dataset.rename_column(new_name, column).select_columns(names)
    kept = dataset.select([i for i, nothing in enumerate(empty) if not nothing])
    return kept, {"rows": len(dataset), "changed": sum(changed), "left": len(kept)}


__all__ = ["HAN", "Language", "clean", "clean_text"]
