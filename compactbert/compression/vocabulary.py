"""Removing the tokens that a model's texts do not need.

Token embeddings are much of a small model, 61% of the default SmBERT, and a domain or a language uses a part of them.
Cutting them is TextPruner's vocabulary pruning (https://huggingface.co/papers/2203.15996): the network stays as it is,
so a text whose tokens are all kept gets the same output. Added here: a word that needs a dropped token is spelled with
smaller ones, down to characters, and BPE and Unigram tokenizers split kept texts exactly as before.
"""

import copy
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..convert.encoders import rebuild
from ..structure import FAMILIES


TOKENIZER_MODELS = ("WordPiece", "Unigram", "BPE")
BYTE = re.compile("<0x[0-9A-F]{2}>")
WORD_START = "▁"  # SentencePiece's sign for the space before a word
# The weights with one entry per token, by the end of their names, and the axis that counts the tokens.
TOKEN_AXES = {
    "embeddings.word_embeddings.weight": 0,
    "cls.predictions.decoder.weight": 0,
    "cls.predictions.decoder.bias": 0,
    "cls.predictions.bias": 0,
    "cls.predictions.dense.weight": 1,  # the part of MobileBERT's table that is not tied to the embeddings
}


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> np.ndarray:
    """
    How often each token occurs, without truncation and without the special tokens that a model's input has.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            With a WordPiece, Unigram or BPE model of the `tokenizers` library. Not changed.
        texts (iterable of `str`):
            Read once, in batches.

    Returns:
        `np.ndarray` of shape `(highest id + 1,)`: Occurrences by token id.

    Raises:
        ValueError: for another kind of tokenizer, or a single string as `texts`.

    Example:

    ```python
    >>> from compactbert.compression import count_tokens
    >>> from compactbert.convert import load_pretrained

    >>> _, tokenizer = load_pretrained("my-bert", "")
    >>> int(count_tokens(tokenizer, ["good film", "good story"])[tokenizer.convert_tokens_to_ids("good")])
    2

    ```
    """
    if isinstance(texts, str):
        raise ValueError("`texts` must be an iterable of strings, got a single string: put it into a list.")
    backend = _copy_backend(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    num_ids = max(tokenizer.get_vocab().values()) + 1
    counts = np.zeros(num_ids, dtype=np.int64)
    remaining = iter(texts)
    while batch := list(islice(remaining, 1000)):
        encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        ids = np.concatenate([np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings])
        counts += np.bincount(ids, minlength=num_ids)
    return counts


def prune_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str] | None = None,
    *,
    keep: Iterable[str] = (),
    min_count: int = 1,
    size: int | None = None,
    importance: np.ndarray | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A model and its tokenizer with fewer tokens. A text whose tokens are all kept is split into the same tokens and gets
    the same output. Always kept, whatever `texts` says:

    * special and added tokens, the unknown token, and those that the configuration names (`pad_token_id`);
    * single characters, at the start of a word and inside it: ASCII, and those of the tokens in `texts` and `keep`, so
      that a word of these characters is spelled, not unknown. Of byte-level BPE and byte fallback, all bytes;
    * of BPE, the smaller tokens that a kept token is merged from; of Unigram, the piece with the lowest score, which
      the score of an unknown character hangs on.

    Tokens keep their order. Rows of the model that the tokenizer has no token for are dropped.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            One of our models, with any head. Not changed; weights are copied.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer, with a WordPiece, Unigram or BPE model of the `tokenizers` library. Not changed.
        texts (iterable of `str`, *optional*):
            What the model is for. Read once.
        keep (iterable of `str`, *optional*, defaults to `()`):
            Further tokens to keep, spelled as in the vocabulary (`"##ing"`).
        min_count (`int`, *optional*, defaults to 1):
            Drop tokens that occur less often in `texts`.
        size (`int`, *optional*):
            Tokens to keep in all. The most frequent ones fill what the tokens above leave; of equally frequent ones,
            those with the lowest id. The vocabulary is smaller if fewer tokens occur `min_count` times.
        importance (`np.ndarray` of shape `(vocab_size,)`, *optional*):
            Scores by token id, such as [`Importance`]'s `vocabulary`, that decide in place of the counts which of the
            tokens that occur `size` keeps.

    Returns:
        `tuple`: The model, of the same class with a smaller `config.vocab_size`, and the tokenizer, of the same class.

    Raises:
        ValueError: for a model of another family, another kind of tokenizer, a tokenizer with more ids than the model,
            neither `texts` nor `keep`, a token in `keep` that the vocabulary lacks, or a `size` that is too small.

    Example:

    ```python
    >>> from compactbert.compression.vocabulary import prune_vocabulary
    >>> from compactbert.convert import load_pretrained

    >>> model, tokenizer = load_pretrained("minilm", "")
    >>> model, tokenizer = prune_vocabulary(model, tokenizer, ["Return the cube root of a number."], size=1000)
    >>> tokenizer.tokenize("the cube tube")
    ['the', 'cube', 't', '##u', '##b', '##e']

    ```
    """
    state = json.loads(_copy_backend(tokenizer).to_str())
    vocab = tokenizer.get_vocab()
    _check_fit(model, vocab)
    if isinstance(keep, str):
        raise ValueError(f"`keep` must be an iterable of tokens, got a single string: write `[{keep!r}]`.")
    keep = set(keep)
    if unknown := sorted(keep - vocab.keys()):
        raise ValueError(
            f"`keep` must name tokens of the vocabulary, got {unknown[:3]}: `tokenizer.tokenize(text)` gives the "
            f"tokens of a text."
        )
    if min_count < 1:
        raise ValueError(
            f"`min_count` must be at least 1, got {min_count}: to keep unseen tokens, name them in `keep`."
        )
    if importance is not None and importance.shape != (model.config.vocab_size,):
        raise ValueError(
            f"`importance` must have a score for each of the model's {model.config.vocab_size} tokens, got shape "
            f"{importance.shape}: score this model."
        )
    ids_to_counts = count_tokens(tokenizer, () if texts is None else texts)
    counts = {token: int(ids_to_counts[index]) for token, index in vocab.items() if ids_to_counts[index]}
    if not counts and not keep:
        raise ValueError("`texts` or `keep` must name at least one token, got none: pass the texts the model is for.")

    sources = _merge_sources(state["model"])
    named = {index: token for token, index in vocab.items()}
    required = keep | _required_tokens(state, tokenizer) | _alphabet(state, vocab, keep | counts.keys())
    required |= {named[index] for index in _special_ids(model.config).values() if index in named}
    kept = _with_sources(required, sources)
    if size is not None and size < len(kept):
        raise ValueError(
            f"`size` must be at least {len(kept)}, the special tokens, single characters and tokens in `keep` that are "
            f"always kept; got {size}."
        )
    frequent = [token for token, count in counts.items() if count >= min_count]
    scores = ids_to_counts if importance is None else importance
    for token in sorted(frequent, key=lambda token: (-scores[vocab[token]], vocab[token])):
        added = _with_sources({token}, sources) - kept
        if size is None or len(kept) + len(added) <= size:
            kept |= added

    new_ids = {token: index for index, token in enumerate(sorted(kept, key=vocab.__getitem__))}
    _prune_state(state, new_ids)
    pruned_tokenizer = _rebuild_tokenizer(tokenizer, state, new_ids)
    return _prune_model(model, [vocab[token] for token in new_ids]), pruned_tokenizer


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
    >>> from compactbert.compression import hide_tokens
    >>> from compactbert.convert import load_pretrained

    >>> _, tokenizer = load_pretrained("my-bert", "")
    >>> hide_tokens(tokenizer, 0.99, seed=0).tokenize("good film")
    ['g', '##o', '##o', '##d', 'f', '##i', '##l', '##m']

    ```
    """
    state = json.loads(_copy_backend(tokenizer).to_str())
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
        model["merges"] = [[left, right] for left, right, merged in _merges(model) if merged not in hidden]
    else:
        # Ids are places in the list: nothing is taken out. Spelled with any other pieces a text scores better.
        worst = min(score for _, score in model["vocab"])
        model["vocab"] = [
            [piece, (len(piece) + 1) * worst if piece in hidden else score] for piece, score in model["vocab"]
        ]
    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.model = Tokenizer.from_str(json.dumps(state)).model
    return changed


def _copy_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    found = type(tokenizer).__name__
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        kind = type(tokenizer.backend_tokenizer.model).__name__
        if kind in TOKENIZER_MODELS:
            return copy.deepcopy(tokenizer.backend_tokenizer)
        found += f" with a {kind} model"
    raise ValueError(
        f"`tokenizer` must have a WordPiece, Unigram or BPE model of the `tokenizers` library, got {found}: use a "
        f"tokenizer that has one, such as `PreTrainedTokenizerFast(tokenizer_object=...)`."
    )


def _check_fit(model: PreTrainedModel, vocab: dict[str, int]) -> None:
    config = model.config
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"`model` must be of one of the families {FAMILIES}, got {config.model_type!r}: turn it into one with "
            f"`compactbert.convert.from_transformers`."
        )
    if (highest := max(vocab.values())) >= config.vocab_size:
        raise ValueError(
            f"`tokenizer` must have ids below the model's `vocab_size` of {config.vocab_size}, got {highest}: use the "
            f"model's own tokenizer, or `model.resize_token_embeddings`."
        )


def _special_ids(config: PreTrainedConfig) -> dict[str, int]:
    return {name: value for name, value in vars(config).items() if name.endswith("_token_id") and value is not None}


def _processor_parts(state: dict[str, Any]) -> list[dict[str, Any]]:
    processor = state["post_processor"] or {}
    return processor.get("processors", [processor])


def _required_tokens(state: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Tokens that the tokenizer refers to by name or id, and that keep its splits as they are."""
    required = {token["content"] for token in state["added_tokens"]}.union(tokenizer.all_special_tokens)
    for part in _processor_parts(state):
        required.update(token for special in part.get("special_tokens", {}).values() for token in special["tokens"])
        required.update(part[name][0] for name in ("sep", "cls") if name in part)
    if state["padding"]:
        required.add(state["padding"]["pad_token"])
    model = state["model"]
    if model["type"] == "Unigram":
        # An unknown character scores 10 less than the worst piece. Without that piece it would score better, and a text
        # of kept tokens could be split at it.
        required.add(min(model["vocab"], key=lambda piece: piece[1])[0])
        if model["unk_id"] is not None:
            required.add(model["vocab"][model["unk_id"]][0])
    else:
        required.add(model["unk_token"])
    return required & tokenizer.get_vocab().keys()


def _alphabet(state: dict[str, Any], vocab: dict[str, int], seen: Iterable[str]) -> set[str]:
    """The tokens that words are spelled with when nothing longer fits."""
    model = state["model"]
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    texts = {token: token.removeprefix(prefix).removesuffix(suffix) for token in vocab}
    characters = {WORD_START}.union(*(texts[token] for token in seen))
    if "ByteLevel" in json.dumps([state["normalizer"], state["pre_tokenizer"]]):
        characters.update(pre_tokenizers.ByteLevel.alphabet())
    alphabet = {token for token, text in texts.items() if len(text) == 1 and (text.isascii() or text in characters)}
    if model.get("byte_fallback"):
        alphabet.update(token for token in vocab if BYTE.fullmatch(token))
    return alphabet


def _merges(model: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Left part, right part and result of every merge of a BPE model; nothing for others."""
    prefix = model.get("continuing_subword_prefix") or ""
    for left, right in model.get("merges", ()):
        yield left, right, left + right[len(prefix) :]


def _merge_sources(model: dict[str, Any]) -> dict[str, set[str]]:
    sources: dict[str, set[str]] = {}
    for left, right, merged in _merges(model):
        sources.setdefault(merged, set()).update((left, right))
    return sources


def _with_sources(tokens: set[str], sources: dict[str, set[str]]) -> set[str]:
    """`tokens` and all tokens they are merged from. By every merge, not just the first: which one makes a token depends
    on the word around it."""
    complete: set[str] = set()
    pending = set(tokens)
    while pending:
        token = pending.pop()
        complete.add(token)
        pending |= sources.get(token, set()) - complete
    return complete


def _prune_state(state: dict[str, Any], new_ids: dict[str, int]) -> None:
    """Rewrites the contents of a `tokenizer.json` in place, for the tokens in `new_ids`."""
    model = state["model"]
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            model["unk_id"] = new_ids[model["vocab"][model["unk_id"]][0]]
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] in new_ids]
    else:
        model["vocab"] = {token: new_ids[token] for token in model["vocab"] if token in new_ids}
    if model["type"] == "BPE":
        model["merges"] = [[left, right] for left, right, merged in _merges(model) if merged in new_ids]
    for token in state["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    for part in _processor_parts(state):
        for special in part.get("special_tokens", {}).values():
            special["ids"] = [new_ids[token] for token in special["tokens"]]
        for name in ("sep", "cls"):
            if name in part:
                part[name][1] = new_ids[part[name][0]]
    if state["padding"]:
        state["padding"]["pad_id"] = new_ids[state["padding"]["pad_token"]]


def _rebuild_tokenizer(
    tokenizer: PreTrainedTokenizerBase, state: dict[str, Any], new_ids: dict[str, int]
) -> PreTrainedTokenizerBase:
    # Through a folder, since a class may build its backend anew from it: what is returned is what a user reloads.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
        pruned = type(tokenizer).from_pretrained(folder)
    pruned.name_or_path = tokenizer.name_or_path
    found = json.loads(pruned.backend_tokenizer.to_str())["model"]
    is_same = all(found[name] == value for name, value in state["model"].items() if name != "vocab")
    if not is_same or pruned.get_vocab() != new_ids:
        name = type(tokenizer).__name__
        raise ValueError(
            f"`tokenizer` must reload from a saved folder as it is, but {name} builds another one: wrap it as "
            f"`PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)`."
        )
    return pruned


def _prune_model(model: PreTrainedModel, rows: list[int]) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    config.vocab_size = len(rows)
    for name, index in _special_ids(config).items():
        setattr(config, name, rows.index(index) if index in rows else None)
    state_dict = model.state_dict()
    for name, weight in state_dict.items():
        for ending, axis in TOKEN_AXES.items():
            if name.endswith(ending):
                state_dict[name] = weight.index_select(axis, torch.tensor(rows, device=weight.device))
    return rebuild(model, type(model), config, state_dict)


__all__ = ["count_tokens", "hide_tokens", "prune_vocabulary"]
