"""From text to token indices."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from tokenizers import Encoding
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
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


__all__ = ["IGNORED_LABEL", "data_collator", "encode_task", "encode_texts", "first_words", "length_limit"]
