"""From text to token indices."""

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from tokenizers import Encoding, Tokenizer
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from .tasks import Task


logger = logging.get_logger(__name__)
IGNORED_LABEL = -100


def length_limit(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """`max_length` in tokens, but no more than the model and its tokenizer take.

    Raises:
        ValueError: if `max_length` leaves no room for text between the special tokens.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import length_limit

    >>> model, tokenizer = load_pretrained("my-bert", "")
    >>> length_limit(model.config, tokenizer, 512)
    64

    ```
    """
    limit = min(max_length, config.max_position_embeddings, tokenizer.model_max_length)
    if limit < 4:
        raise ValueError(f"`max_length` must be at least 4 tokens, got {limit}.")
    return limit


def encode_texts(
    columns: list[list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, Any]], list[Encoding], int]:
    """
    Encodes rows of text, text pairs or token lists, without padding.

    Args:
        columns (list of one or two columns):
            Texts of equal number, or lists of tokens.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        max_length (`int`):
            Longest input in tokens; what is beyond is cut off, from the longer text of a pair first.

    Returns:
        The inputs of each row, its encoding (words and characters that the tokens came from), and the number of rows
        that were cut.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import encode_texts

    >>> _, tokenizer = load_pretrained("my-bert", "")
    >>> features, _, truncated = encode_texts([["good film", "a good, good film"]], tokenizer, max_length=6)
    >>> [len(row["input_ids"]) for row in features], truncated
    ([4, 6], 1)

    ```
    """
    is_split = bool(columns[0]) and isinstance(columns[0][0], list)
    texts = columns if is_split else [[str(text) for text in column] for column in columns]
    encoded = tokenizer(
        *texts, truncation=True, max_length=max_length, is_split_into_words=is_split, return_attention_mask=True
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    features = [{name: encoded[name][i] for name in names} for i in range(len(columns[0]))]
    encodings = encoded.encodings or []
    return features, encodings, sum(bool(encoding.overflowing) for encoding in encodings)


def encode_task(
    task: Task, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, int]:
    """
    Encodes a split of a task with its labels. In token classification a word's first token carries its label.

    Returns:
        The dataset, with columns `input_ids`, `attention_mask`, `labels`, `length`, ..., and the number of
        rows that were cut to `max_length` tokens.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import encode_task, load_task

    >>> task, (_, tokenizer) = load_task("reviews.csv"), load_pretrained("my-bert", "")
    >>> rows, truncated = encode_task(task, task.evaluation, tokenizer, max_length=32)
    >>> rows.column_names
    ['input_ids', 'token_type_ids', 'attention_mask', 'labels', 'length']

    ```
    """
    columns = [dataset[column][:] for column in task.text_columns]
    features, encodings, truncated = encode_texts(columns, tokenizer, max_length)
    for i, (feature, labels) in enumerate(zip(features, dataset[task.label_column][:], strict=True)):
        if task.problem == "token_classification":
            labels = [labels[word] if word is not None else IGNORED_LABEL for word in first_words(encodings[i])]
        feature["labels"] = labels
        feature["length"] = len(feature["input_ids"])
    if truncated:
        logger.warning(f"{truncated} of {len(features)} texts were cut to {max_length} tokens.")
    return Dataset.from_list(features), truncated


def first_words(encoding: Encoding) -> list[int | None]:
    """For every token the index of the word it starts, `None` where it starts none.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import encode_texts, first_words

    >>> _, tokenizer = load_pretrained("my-bert", "")
    >>> _, encodings, _ = encode_texts([["unwatchable film"]], tokenizer, max_length=16)
    >>> first_words(encodings[0])
    [None, 0, None, None, 1, None]

    ```
    """
    words = encoding.word_ids
    return [word if word != before else None for before, word in zip([None, *words[:-1]], words, strict=True)]


def hide_tokens(tokenizer: PreTrainedTokenizerBase, share: float, seed: int) -> PreTrainedTokenizerBase:
    """
    A tokenizer that does without a random part of its tokens, and spells words that need them with smaller ones. Read
    so, training texts teach a model to read words that it has no token for. MaxMatch-Dropout
    (https://huggingface.co/papers/2209.04126) draws anew for every word; here a token is hidden in all texts or none.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            With a WordPiece, Unigram or BPE model of the `tokenizers` library. Not changed.
        share (`float`):
            How likely a token is hidden. Special tokens and single characters never are.
        seed (`int`):
            Of the draw.

    Returns:
        A tokenizer of the same class, whose tokens have the ids they had.

    Raises:
        ValueError: for another kind of tokenizer.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import hide_tokens

    >>> _, tokenizer = load_pretrained("my-bert", "")
    >>> hide_tokens(tokenizer, 0.99, seed=0).tokenize("good film")
    ['g', '##o', '##o', '##d', 'f', '##i', '##l', '##m']

    ```
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        name = type(tokenizer).__name__
        raise ValueError(f"`tokenizer` must be of the `tokenizers` library for tokens to be hidden, got {name}.")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    vocab = tokenizer.get_vocab()
    drawn = np.random.default_rng(seed).random(len(vocab)) < share
    tokens = [token for token, is_drawn in zip(sorted(vocab, key=vocab.__getitem__), drawn, strict=True) if is_drawn]
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    hidden = {token for token in tokens if len(token.removeprefix(prefix).removesuffix(suffix)) > 1}
    hidden -= {token["content"] for token in state["added_tokens"]}
    if model["type"] == "WordPiece":
        model["vocab"] = {token: index for token, index in model["vocab"].items() if token not in hidden}
    elif model["type"] == "BPE":
        # What is never merged is never seen.
        cut = len(prefix)
        model["merges"] = [pair for pair in model["merges"] if pair[0] + pair[1][cut:] not in hidden]
    elif model["type"] == "Unigram":
        # Ids are places in the list: nothing is taken out. Spelled with any other pieces a text scores better.
        worst = min(score for _, score in model["vocab"])
        model["vocab"] = [
            [piece, (len(piece) + 1) * worst if piece in hidden else score] for piece, score in model["vocab"]
        ]
    else:
        raise ValueError(f"Tokens can be hidden from WordPiece, Unigram and BPE, got a model of kind {model['type']}.")
    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.model = Tokenizer.from_str(json.dumps(state)).model
    return changed


def data_collator(task: Task, tokenizer: PreTrainedTokenizerBase) -> Callable:
    """Pads a batch to its longest row.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import data_collator, encode_task, load_task

    >>> task, (_, tokenizer) = load_task("reviews.csv"), load_pretrained("my-bert", "")
    >>> rows, _ = encode_task(task, task.evaluation, tokenizer, max_length=32)
    >>> batch = data_collator(task, tokenizer)(list(rows))
    >>> batch["input_ids"].shape == (len(rows), max(rows["length"]))
    True

    ```
    """
    if task.problem == "token_classification":
        return DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED_LABEL)
    return DataCollatorWithPadding(tokenizer)


__all__ = [
    "IGNORED_LABEL",
    "data_collator",
    "encode_task",
    "encode_texts",
    "first_words",
    "hide_tokens",
    "length_limit",
]
