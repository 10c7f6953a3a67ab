"""More training rows from those there are: words deleted, inserted, swapped or replaced. Labels stay right, those of
tokens too."""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from datasets import ClassLabel, Dataset
from tokenizers.models import WordPiece
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .cleaning import HAN
from .tasks import check_columns, check_not_empty, decode_utf8


Method = Literal["deletion", "insertion", "swap", "replacement"]
# Puts words at the masks of texts, in place.
Filler = Callable[[Sequence["Words"], random.Random], None]
WORD = re.compile(f"[{HAN}]|[^\\s{HAN}]+")
BETWEEN_HAN = re.compile(f"(?<=[{HAN}]) (?=[{HAN}])")


@dataclass
class Words:
    """The words of a text; with tags, if words have labels, and the places a language model is to fill, each with the
    word that it must not choose."""

    words: list[str]
    tags: list[Any] | None = None
    masks: dict[int, str] = field(default_factory=dict)

    def insert(self, place: int, word: str, tag: Any) -> None:
        """Puts a word before the one at `place`."""
        self.words.insert(place, word)
        if self.tags is not None:
            self.tags.insert(place, tag)
        self.masks = {i + (i >= place): before for i, before in self.masks.items()}

    def drop_unfilled(self) -> None:
        """Takes out inserted places that no word came to."""
        kept = [i for i, word in enumerate(self.words) if word or i not in self.masks]
        self.words = [self.words[i] for i in kept]
        self.tags = self.tags and [self.tags[i] for i in kept]


class MaskFiller:
    """
    Fills masked words with a masked language model, many texts at a time.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A model `ForMaskedLM`, of ours or of transformers.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, with a WordPiece model: others mark the words in their vocabulary.
        batch_size (`int`, *optional*, defaults to 64):
            Texts at a time.
        max_length (`int`, *optional*, defaults to 128):
            Longest input in tokens; masks beyond it keep their word.
        choices (`int`, *optional*, defaults to 10):
            Draw from so many of the likeliest words, by their probability.

    Raises:
        ValueError: if the tokenizer is of another kind or has no mask token.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import MaskFiller, augment, read_table

    >>> fill = MaskFiller(*load_pretrained("my-bert", "ForMaskedLM"))
    >>> _, report = augment(read_table("reviews.csv"), "replacement", fill=fill, share=0.3)
    >>> report["rows"]
    60

    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 64,
        max_length: int = 128,
        choices: int = 10,
    ):
        if tokenizer.mask_token is None:
            raise ValueError("The tokenizer of `model` has no mask token: choose a model for masked words.")
        backend = tokenizer.backend_tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else None
        if backend is None or not isinstance(backend.model, WordPiece):
            raise ValueError(
                f"`tokenizer` must have a WordPiece model of the `tokenizers` library, got {type(tokenizer).__name__}: "
                f"choose a model that has one, such as a BERT."
            )
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_size, self.choices = batch_size, choices
        self.max_length = min(max_length, model.config.max_position_embeddings, tokenizer.model_max_length)
        # Whole words alone: no special tokens, no parts of words, nothing but letters.
        tokens = tokenizer.convert_ids_to_tokens(list(range(model.config.vocab_size)))
        self.is_word = torch.tensor([bool(token) and token.isalpha() for token in tokens])
        self.is_word[tokenizer.all_special_ids] = False

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Words], chance: random.Random) -> None:
        """Fills the masks of texts, in place."""
        generator = torch.Generator().manual_seed(chance.getrandbits(62))
        for start in range(0, len(texts), self.batch_size):
            batch = [text for text in texts[start : start + self.batch_size] if text.masks]
            if not batch:
                continue
            encoded = self.tokenizer(
                [[self._shown(text, i) for i in range(len(text.words))] for text in batch],
                is_split_into_words=True,
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            )
            logits = self.model(**encoded.to(self.model.device)).logits.float().cpu()
            rows, columns = (encoded["input_ids"].cpu() == self.tokenizer.mask_token_id).nonzero(as_tuple=True)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                text, place = batch[row], encoded.word_ids(row)[column]
                # A text may have the mask token of its own.
                if place not in text.masks:
                    continue
                scores = logits[row, column].masked_fill(~self.is_word, float("-inf"))
                before = text.masks[place]
                scores[self.tokenizer.convert_tokens_to_ids([before, before.lower()])] = float("-inf")
                best = scores.topk(self.choices)
                chosen = torch.multinomial(best.values.softmax(0), 1, generator=generator)
                text.words[place] = self.tokenizer.convert_ids_to_tokens(best.indices[chosen].tolist())[0]

    def _shown(self, text: Words, i: int) -> str:
        return self.tokenizer.mask_token if i in text.masks else text.words[i]


def augment(
    dataset: Dataset,
    method: Method,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    *,
    share: float = 0.1,
    copies: int = 1,
    words: Mapping[str, Sequence[str]] | None = None,
    fill: Filler | None = None,
    outside: Any = None,
    seed: int = 42,
) -> tuple[Dataset, dict[str, int]]:
    """
    Adds changed copies of a table's rows (the operations of EDA, https://huggingface.co/papers/1901.11196).

    Args:
        dataset ([`~datasets.Dataset`]):
            The training rows.
        method (`"deletion"`, `"insertion"`, `"swap"` or `"replacement"`):
            What happens to words. New words come from `words` or `fill`.
        text_columns (list of `str`, *optional*, defaults to `("text",)`):
            Columns of texts, or one of token lists. A text without spaces, such as Chinese, is taken by the character.
        label_column (`str`, *optional*, defaults to `"label"`):
            Labels, which copies keep. Where tokens have labels, each label stays with its token, words within a span
            are at most replaced, and a word that is inserted is outside of spans.
        share (`float`, *optional*, defaults to 0.1):
            Share of a text's words that are changed; at least one is.
        copies (`int`, *optional*, defaults to 1):
            Changed copies of every row.
        words (`dict` of `str` to list of `str`, *optional*):
            Synonyms of words in lower case.
        fill (callable, *optional*):
            A [`MaskFiller`] in place of `words`.
        outside (`str` or `int`, *optional*):
            The label of tokens outside of spans; the default is `"O"`, by its name or its index.
        seed (`int`, *optional*, defaults to 42):
            Seed of every choice.

    Returns:
        The rows followed by their copies, and how many `rows` there were and copies were `added`; copies in which
        nothing changed are left out.

    Raises:
        ValueError: for an unknown method, a number out of range, words from nowhere or two places, a missing column, no
            rows, or token labels among which `outside` is not.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from compactbert.data import augment

    >>> table = Dataset.from_dict({"text": ["a good film"], "label": ["pos"]})
    >>> rows, report = augment(table, "replacement", words={"good": ["fine"]})
    >>> rows["text"][:], report
    (['a good film', 'a fine film'], {'rows': 1, 'added': 1})

    ```
    """
    check_columns(dataset, [*text_columns, label_column], "The table")
    check_not_empty(dataset, "The table")
    _check(method, share, copies, words, fill)
    tagged = isinstance(dataset[0][text_columns[0]], list)
    if tagged and outside is None and method != "replacement":
        outside = _outside(dataset, label_column)
    chance = random.Random(seed)
    changed = [dict(row) for _ in range(copies) for row in dataset]
    for column in text_columns:
        texts = [
            Words(list(row[column]), list(row[label_column]) if tagged else None)
            if isinstance(row[column], list)
            else Words(WORD.findall(str(row[column])))
            for row in changed
        ]
        for text in texts:
            _change(text, method, share, words, outside, chance)
        if fill is not None:
            fill(texts, chance)
            for text in texts:
                text.drop_unfilled()
        for row, text in zip(changed, texts, strict=True):
            if tagged:
                row[column], row[label_column] = text.words, text.tags
            # Not joined anew, where white space would differ.
            elif text.words != WORD.findall(str(row[column])):
                row[column] = BETWEEN_HAN.sub("", " ".join(text.words))
    originals = list(dataset)
    added = [row for i, row in enumerate(changed) if row != originals[i % len(originals)]]
    merged = Dataset.from_list(originals + added, features=dataset.features)
    return merged, {"rows": len(dataset), "added": len(added)}


def read_synonyms(path: Path) -> dict[str, list[str]]:
    """
    A word list: a JSON file such as `{"good": ["fine", "great"]}`.

    Raises:
        ValueError: if the file is missing or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    try:
        words = json.loads(decode_utf8(path.read_bytes(), str(path)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not a JSON file: {error}") from error
    lists = words.values() if isinstance(words, dict) else [None]
    if not all(isinstance(row, list) and row and all(isinstance(word, str) for word in row) for row in lists):
        raise ValueError(f'{str(path)!r} must hold words with lists of words, such as {{"good": ["fine", "great"]}}.')
    return {word.lower(): synonyms for word, synonyms in words.items()}


def _check(method: str, share: float, copies: int, words: Any, fill: Any) -> None:
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {get_args(Method)}, got {method!r}.")
    if not 0 < share < 1:
        raise ValueError(f"`share` must be above 0 and below 1, got {share}.")
    if copies < 1:
        raise ValueError(f"`copies` must be at least 1, got {copies}.")
    needed = method in ("insertion", "replacement")
    if (words is not None) + (fill is not None) != needed:
        takes = "either a word list or a model" if needed else "neither a word list nor a model"
        raise ValueError(f"`method` {method!r} takes {takes}.")


def _outside(dataset: Dataset, label_column: str) -> Any:
    """The label of tokens that belong to no span."""
    feature: Any = getattr(dataset.features[label_column], "feature", None)
    if isinstance(feature, ClassLabel) and "O" in feature.names:
        return feature.str2int("O")
    if any("O" in tags for tags in dataset[label_column][:] if tags and isinstance(tags[0], str)):
        return "O"
    raise ValueError(f"No label of column {label_column!r} is 'O': say with `outside` which one is outside of spans.")


def _change(
    text: Words,
    method: Method,
    share: float,
    synonyms: Mapping[str, Sequence[str]] | None,
    outside: Any,
    chance: random.Random,
) -> None:
    free = [i for i in range(len(text.words)) if text.tags is None or text.tags[i] == outside]
    count = max(1, round(share * len(text.words)))
    if method == "deletion":
        # At least a word is left.
        gone = set(chance.sample(free, min(count, len(free), len(text.words) - 1)) if text.words else ())
        text.words = [word for i, word in enumerate(text.words) if i not in gone]
        text.tags = text.tags and [tag for i, tag in enumerate(text.tags) if i not in gone]
    elif method == "swap":
        for _ in range(count if len(free) > 1 else 0):
            i, j = chance.sample(free, 2)
            text.words[i], text.words[j] = text.words[j], text.words[i]
    elif method == "replacement":
        candidates = [i for i, word in enumerate(text.words) if synonyms is None or word.lower() in synonyms]
        for i in chance.sample(candidates, min(count, len(candidates))):
            if synonyms is None:
                text.masks[i] = text.words[i]
            else:
                text.words[i] = chance.choice(synonyms[text.words[i].lower()])
    else:
        sources = [word.lower() for word in text.words if synonyms is not None and word.lower() in synonyms]
        for _ in range(count if sources or synonyms is None else 0):
            # Before a word outside of spans, or at the end: never within a span.
            places = [i for i in range(len(text.words)) if text.tags is None or text.tags[i] == outside]
            place = chance.choice([*places, len(text.words)])
            word = "" if synonyms is None else chance.choice(synonyms[chance.choice(sources)])
            text.insert(place, word, outside)
            if synonyms is None:
                text.masks[place] = ""


__all__ = ["MaskFiller", "Method", "augment", "read_synonyms"]
