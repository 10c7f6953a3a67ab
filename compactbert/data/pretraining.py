"""Pre-training data: plain text, tokenised once into memory-mapped files, packed and masked as BERT's.

Masked language modelling (MLM, of whole words if wanted) and next sentence prediction (NSP) as in BERT
(https://huggingface.co/papers/1810.04805). A sample depends on the corpus, the seed, the epoch and its index alone, and
so do its masks: a run that continues sees exactly the samples that were left.
"""

import copy
import glob
import gzip
import hashlib
import json
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from pyarrow.lib import ArrowInvalid
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from ..files import new_folder, write_text
from .encoding import IGNORED_LABEL


logger = logging.get_logger(__name__)
TEXT_SUFFIXES = (".txt", ".txt.gz")
TABLE_SUFFIXES = (".jsonl", ".parquet")
# Longer lines, in bytes, are taken for data that is not text. A line of a jsonl file is a whole document.
MAX_LINE, MAX_ROW = 1_000_000, 100_000_000
# Sentences that are tokenised at once.
BATCH_SENTENCES = 4000
SHORT_SHARE = 0.1
MIN_SEQUENCE_LENGTH, MAX_SEQUENCE_LENGTH = 8, 65_535
INDEX = "index.json"
# A sample of sentence pairs: its first sentence, how many there are, and the length that it was to have.
PAIR = np.dtype([("first", np.int64), ("sentences", np.uint16), ("target", np.uint16)])
# Where a sentence ends: at a mark before a space and what begins with no lower-case ASCII letter, unless the mark
# belongs to an initial or a common abbreviation; and at a mark of a script that writes no space after it.
SENTENCE_END = re.compile(
    r"""[.!?](?<!\b[^\W\d_]\.)(?<!\b(?:Dr|Jr|Mr|Mt|No|Sr|St|vs)\.)(?<!\b(?:Col|Gen|Gov|Lt\.|Mrs|Rev|Sen)\.)
    [.!?]*["'”’»)\]]*\s+(?=["'“‘«(\[]*[^\Wa-z_])|[。！？][。！？]*[”’」』）]*|[।؟۔]\s*""",  # noqa: RUF001
    re.VERBOSE,
)
Split = Literal["train", "held_out"]


def build_corpus(
    sources: str | Path | Iterable[Any],
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    *,
    sequence_length: int = 128,
    next_sentence: bool = True,
    held_out: float = 0.01,
    shard_tokens: int = 2**26,
    seed: int = 42,
) -> "Corpus":
    """
    Tokenises text once, for any number of runs. Where `output_dir` holds the corpus of the same text and settings
    already, it is only checked: the text is read but not tokenised. The folder appears when it is complete; a build
    that was killed begins anew, and of two at the same time one waits for the other.

    Documents: in a text file, blank lines stand between documents and a line is a sentence or a paragraph; in a text
    file without blank lines between text every line is a document. In a table or stream every row is one. Lines are
    split into sentences by punctuation.

    Args:
        sources (`str`, `Path`, a list of them, or an iterable of `{"text": str}`):
            Files (`.txt`, `.txt.gz`, and `.jsonl` and `.parquet` with a column `text`), folders of such files,
            patterns (`"wiki/**/*.txt"`), or rows such as those of a [`~datasets.IterableDataset`], read once.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer, with a `[CLS]` and a `[SEP]`. Not changed.
        output_dir (`str` or `Path`):
            Folder of the corpus, new or empty.
        sequence_length (`int`, *optional*, defaults to 128):
            Tokens of a sample with its special tokens, at most.
        next_sentence (`bool`, *optional*, defaults to `True`):
            Samples are pairs of segments, the second of which follows the first in the text or comes from another
            document, as often. Otherwise samples are full sequences that run on over the ends of documents.
        held_out (`float`, *optional*, defaults to 0.01):
            Share of documents that are kept from training. A hash of its text decides, so a document and its copies are
            on the same side in every corpus, whatever the seed. 0 keeps none.
        shard_tokens (`int`, *optional*, defaults to 2**26):
            Tokens of a file.
        seed (`int`, *optional*, defaults to 42):
            Of the lengths of pairs and of what [`PretrainingDataset`] draws.

    Returns:
        [`Corpus`]

    Raises:
        ValueError: for a wrong argument; a source that is missing, empty, binary, not UTF-8, damaged or has an endless
            line; too few documents; an `output_dir` that holds something else. What was there before is left as it is.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import AutoTokenizer
    >>> from compactbert.convert import minilm_path
    >>> from compactbert.data.pretraining import PretrainingCollator, build_corpus

    >>> tokenizer = AutoTokenizer.from_pretrained(minilm_path())
    >>> rows = [{"text": f"This is page {i}. Here is its end."} for i in range(10)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     corpus = build_corpus(rows, tokenizer, f"{folder}/corpus", held_out=0)
    ...     batch = PretrainingCollator(tokenizer)([corpus.train[0], corpus.train[1]])
    >>> len(corpus.train), list(batch)
    (10, ['input_ids', 'attention_mask', 'token_type_ids', 'labels', 'next_sentence_label', 'sample_id'])

    ```
    """
    folder = Path(output_dir)
    _check_arguments(sequence_length, held_out, shard_tokens, seed)
    settings = {
        "sequence_length": sequence_length,
        "next_sentence": bool(next_sentence),
        "held_out": held_out,
        "shard_tokens": shard_tokens,
        "seed": seed,
        "tokenizer": _fingerprint(tokenizer),
    }
    documents = _Documents(sources)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            return _find(folder, settings, documents)
        with new_folder(folder) as partial:
            _build(partial, settings, documents, tokenizer)
    return Corpus.open(folder)


def _check_arguments(sequence_length: int, held_out: float, shard_tokens: int, seed: int) -> None:
    if not MIN_SEQUENCE_LENGTH <= sequence_length <= MAX_SEQUENCE_LENGTH:
        raise ValueError(
            f"`sequence_length` must be from {MIN_SEQUENCE_LENGTH} to {MAX_SEQUENCE_LENGTH}, got {sequence_length}."
        )
    if not 0 <= held_out < 1:
        raise ValueError(f"`held_out` is a share of the documents, 0 or more and below 1, got {held_out}.")
    if shard_tokens < 1:
        raise ValueError(f"`shard_tokens` must be at least 1, got {shard_tokens}.")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}.")


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"`tokenizer` must be one of the `tokenizers` library, got {type(tokenizer).__name__}: use one, such as "
            f"`PreTrainedTokenizerFast(tokenizer_object=...)`."
        )
    for name in ("cls_token", "sep_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"`tokenizer` has no `{name}`, which packing needs: set it.")
    return tokenizer.backend_tokenizer


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of all that decides which ids a text becomes."""
    state = json.loads(_backend(tokenizer).to_str())
    parts = [state[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
    parts += [tokenizer.cls_token_id, tokenizer.sep_token_id]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _find(folder: Path, settings: Mapping[str, Any], documents: "_Documents") -> "Corpus":
    corpus = Corpus.open(folder)
    found = corpus.settings
    changed = [
        f"`{name}` ({found.get(name)}, not {value})" for name, value in settings.items() if found.get(name) != value
    ]
    if not changed:
        for _ in tqdm(documents, desc="Checking the text", unit=" documents"):
            pass
        if documents.digest.hexdigest() == corpus.index["digest"]:
            return corpus
        changed = ["the text"]
    raise ValueError(
        f"`output_dir` {str(folder)!r} holds a corpus that differs in {'; '.join(changed)}: choose another folder, or "
        f"delete it, or load it as it is with `Corpus.open`."
    )


def _build(
    folder: Path, settings: Mapping[str, Any], documents: "_Documents", tokenizer: PreTrainedTokenizerBase
) -> None:
    backend = copy.deepcopy(_backend(tokenizer))
    backend.no_truncation()
    backend.no_padding()
    dtype = np.dtype(np.uint16 if max(tokenizer.get_vocab().values()) < 2**16 else np.uint32)
    splits = ("train", "held_out") if settings["held_out"] else ("train",)
    writers = {split: _SplitWriter(folder / split, settings, dtype) for split in splits}
    for document in _tokenize(tqdm(documents, desc="Tokenising", unit=" documents"), backend):
        split = "held_out" if _hash_share(document.text) < settings["held_out"] else "train"
        writers[split].add(document)
    counts = {split: len(writer.documents) - 1 for split, writer in writers.items()}
    # The second segment of a pair may have to come from another document.
    needed = 2 if settings["next_sentence"] else 1
    if min(counts.values()) < needed:
        raise ValueError(
            f"Each split needs {needed} documents or more, got {counts}: give more text or another share `held_out` (0 "
            f"holds out none). In a text file blank lines stand between documents."
        )
    if documents.skipped:
        logger.warning(f"{documents.skipped} rows have no text and were left out.")
    index = {
        "digest": documents.digest.hexdigest(),
        "settings": settings,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "splits": {split: writer.finish() for split, writer in writers.items()},
    }
    write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _hash_share(text: str) -> float:
    """A number in [0, 1) that only the text decides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


class _Documents:
    """The documents of all sources, as lists of lines, with a digest of those that have been read."""

    def __init__(self, sources: str | Path | Iterable[Any]):
        if isinstance(sources, str | Path):
            sources = [sources]
        self.digest = hashlib.sha256()
        self.skipped = 0
        self.rows: Iterable[Any] = sources
        self.files: list[Path] = []
        if isinstance(sources, Sequence) and all(isinstance(source, str | Path) for source in sources):
            self.files = list(dict.fromkeys(chain.from_iterable(map(_expand, sources))))
            if not self.files:
                raise ValueError("`sources` is empty: name files, folders or patterns, or give rows of text.")
        # What is wrong with the beginning of a file is told before work begins.
        for path in self.files:
            next(self._read_file(path))
        self.skipped = 0

    def __iter__(self) -> Iterator[list[str]]:
        for document in self._read():
            self.digest.update(f"{len(document)}\n".encode())
            self.digest.update("\n".join([*document, ""]).encode())
            yield document

    def _read(self) -> Iterator[list[str]]:
        if not self.files:
            yield from self._read_rows(self.rows, "`sources`")
        for path in self.files:
            yield from self._read_file(path)

    def _read_file(self, path: Path) -> Iterator[list[str]]:
        if path.name.endswith(TEXT_SUFFIXES):
            return _read_text(path)
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
        return self._read_rows(rows, repr(str(path)))

    def _read_rows(self, rows: Iterable[Any], source: str) -> Iterator[list[str]]:
        has_text = False
        for i, row in enumerate(rows):
            text = row.get("text", i) if isinstance(row, Mapping) else row
            if not isinstance(text, str | None) or not isinstance(row, Mapping):
                raise ValueError(f"Row {i} of {source} must be a `{{'text': str}}`, got {str(row)[:80]!r}.")
            # JSON can spell halves of characters, which no tokenizer takes.
            lines = (text or "").encode("utf-8", "replace").decode().split("\n")
            if document := [line.strip() for line in lines if line.strip()]:
                has_text = True
                yield document
            else:
                self.skipped += 1
        if not has_text:
            raise ValueError(f"{source} has no row with text.")


def _expand(source: str | Path) -> list[Path]:
    path = Path(source)
    suffixes = TEXT_SUFFIXES + TABLE_SUFFIXES
    if path.is_file():
        if not path.name.endswith(suffixes):
            raise ValueError(f"{str(path)!r} is of another kind: expected a file that ends with one of {suffixes}.")
        return [path]
    candidates = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    found = sorted(file for file in candidates if file.name.endswith(suffixes) and file.is_file())
    if not found:
        raise ValueError(f"{str(path)!r} names no file, and no folder or pattern of files that end with {suffixes}.")
    return found


def _read_text(path: Path) -> Iterator[list[str]]:
    blocks = (is_text for is_text, _ in groupby(_lines(path, MAX_LINE), key=bool) if is_text)
    num_blocks = len(list(islice(blocks, 2)))
    if num_blocks == 0:
        raise ValueError(f"{str(path)!r} is empty: expected text.")
    for is_text, block in groupby(_lines(path, MAX_LINE), key=bool):
        if is_text:
            yield from [list(block)] if num_blocks > 1 else ([line] for line in block)


def _lines(path: Path, limit: int) -> Iterator[str]:
    """Lines without the space around them, read no further than `limit` bytes at a time."""
    name = repr(str(path))
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            for number, line in enumerate(iter(lambda: file.readline(limit + 1), b""), start=1):
                if b"\0" in line:
                    raise ValueError(f"{name} is not text, line {number} has a zero byte: save it as UTF-8 text.")
                if len(line) > limit:
                    raise ValueError(
                        f"Line {number} of {name} is longer than {limit:,} bytes: break the text into lines, such as "
                        f"one for each paragraph."
                    )
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 (byte {error.object[error.start]:#x} in line {number}): if it is text, convert it, "
            f"for example with `iconv -f latin1 -t utf8`."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{name} is not a complete gzip file: {error}. Copy or download it again.") from error


def _json_rows(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_lines(path, MAX_ROW), start=1):
        if line:
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"Line {number} of {str(path)!r} is not JSON: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise ValueError(f"it has no column 'text', only {file.schema_arrow.names}: rename the column.")
            for batch in file.iter_batches(batch_size=1000, columns=["text"]):
                yield from batch.to_pylist()
    except (ArrowInvalid, OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be used: {error}") from error


def split_sentences(line: str) -> list[str]:
    """Sentences of a line of text, without the space between them."""
    ends = [match.end() for match in SENTENCE_END.finditer(line)]
    sentences = (line[start:end].strip() for start, end in zip([0, *ends], [*ends, len(line)], strict=True))
    return [sentence for sentence in sentences if sentence]


@dataclass
class _TokenizedDocument:
    text: str
    ids: np.ndarray
    word_starts: np.ndarray
    sentence_lengths: np.ndarray


def _tokenize(documents: Iterable[list[str]], backend: Tokenizer) -> Iterator[_TokenizedDocument]:
    batch: list[tuple[str, list[str]]] = []
    num_sentences = 0
    for lines in documents:
        batch.append(("\n".join(lines), [sentence for line in lines for sentence in split_sentences(line)]))
        num_sentences += len(batch[-1][1])
        if num_sentences >= BATCH_SENTENCES:
            yield from _tokenize_batch(batch, backend)
            batch, num_sentences = [], 0
    yield from _tokenize_batch(batch, backend)


def _tokenize_batch(batch: list[tuple[str, list[str]]], backend: Tokenizer) -> Iterator[_TokenizedDocument]:
    sentences = [sentence for _, document in batch for sentence in document]
    # Not the fast variant: it does not know which word a token belongs to.
    encodings = backend.encode_batch(sentences, add_special_tokens=False)
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), dtype=np.int64)
    # An added token belongs to no word.
    words = (-1 if word is None else word for encoding in encodings for word in encoding.word_ids)
    word_ids = np.fromiter(words, dtype=np.int64, count=len(ids))
    word_starts = (np.diff(word_ids, prepend=-1) != 0) | (word_ids == -1)
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    ends = lengths.cumsum()
    word_starts[(ends - lengths)[lengths > 0]] = True
    sentence = token = 0
    for text, document in batch:
        own = lengths[sentence : sentence + len(document)]
        own_tokens = slice(token, token + int(own.sum()))
        # Of text such as control characters nothing is left.
        if len(ids[own_tokens]):
            yield _TokenizedDocument(text, ids[own_tokens], word_starts[own_tokens], own[own > 0])
        sentence, token = sentence + len(document), own_tokens.stop


class _SplitWriter:
    """Writes the documents of a split: `tokens-*.npy` and `word_starts-*.npy` (a bit for each token), the offsets of
    sentences in tokens and of documents in sentences, and for sentence pairs `samples.npy`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], dtype: np.dtype):
        self.folder, self.settings, self.dtype = folder, settings, dtype
        self.rng = np.random.default_rng(settings["seed"])
        self.sentences, self.documents = array("q", [0]), array("q", [0])
        self.samples = bytearray()
        self.buffer: list[tuple[np.ndarray, np.ndarray]] = []
        self.num_buffered = self.num_shards = 0
        folder.mkdir(parents=True)

    def add(self, document: _TokenizedDocument) -> None:
        longest = self.settings["sequence_length"] - 3
        lengths: list[int] = []
        for length in document.sentence_lengths.tolist():
            # Nothing of a sentence that is longer than a sequence may be lost.
            lengths += [longest] * (length // longest) + [length % longest] * (length % longest > 0)
        if self.settings["next_sentence"]:
            self.samples += self._plan_pairs(lengths).tobytes()
        self.sentences.extend((self.sentences[-1] + np.cumsum(lengths)).tolist())
        self.documents.append(len(self.sentences) - 1)
        self.buffer.append((document.ids.astype(self.dtype), document.word_starts))
        self.num_buffered += len(document.ids)
        if self.num_buffered >= self.settings["shard_tokens"]:
            self._flush(self.settings["shard_tokens"])

    def _plan_pairs(self, lengths: list[int]) -> np.ndarray:
        """The runs of sentences that make a pair: as many as fill a sequence, or now and then a shorter one."""
        longest = self.settings["sequence_length"] - 3
        base, first, filled, pairs = len(self.sentences) - 1, 0, 0, []
        target = self._draw_target(longest)
        for i, length in enumerate(lengths, start=1):
            filled += length
            if filled >= target or i == len(lengths):
                pairs.append((base + first, i - first, target))
                first, filled, target = i, 0, self._draw_target(longest)
        return np.array(pairs, dtype=PAIR)

    def _draw_target(self, longest: int) -> int:
        return int(self.rng.integers(2, longest)) if self.rng.random() < SHORT_SHARE else longest

    def _flush(self, size: int) -> None:
        """Writes shards of `size` tokens and keeps the rest."""
        ids, word_starts = (np.concatenate(arrays) for arrays in zip(*self.buffer, strict=True))
        for start in range(0, len(ids) - size + 1, size):
            np.save(self.folder / f"tokens-{self.num_shards:05d}.npy", ids[start : start + size])
            bits = np.packbits(word_starts[start : start + size])
            np.save(self.folder / f"word_starts-{self.num_shards:05d}.npy", bits)
            self.num_shards += 1
        rest = slice(start + size, None)
        self.buffer = [(ids[rest].copy(), word_starts[rest].copy())]
        self.num_buffered = len(ids[rest])

    def finish(self) -> dict[str, int]:
        """Writes what is left and returns the counts."""
        if self.num_buffered:
            self._flush(self.num_buffered)
        np.save(self.folder / "sentences.npy", np.frombuffer(self.sentences, dtype=np.int64))
        np.save(self.folder / "documents.npy", np.frombuffer(self.documents, dtype=np.int64))
        num_documents, num_tokens = len(self.documents) - 1, self.sentences[-1]
        # Full sequences: the tokens, and a separator between documents.
        num_samples = -(-(num_tokens + num_documents - 1) // (self.settings["sequence_length"] - 2))
        if self.settings["next_sentence"]:
            samples = np.frombuffer(self.samples, dtype=PAIR)
            np.save(self.folder / "samples.npy", samples)
            num_samples = len(samples)
        return {
            "documents": num_documents,
            "sentences": len(self.sentences) - 1,
            "tokens": num_tokens,
            "samples": num_samples,
        }


@dataclass
class Corpus:
    """A folder that [`build_corpus`] has made: samples to train on, and others, from documents of their own, to
    evaluate on (`None` where nothing was held out). `index` has its settings and counts.

    Example:

    ```python
    >>> from compactbert.data import Corpus

    >>> corpus = Corpus.open("my-corpus")
    >>> corpus.settings["sequence_length"], len(corpus.train) > 0
    (32, True)

    ```
    """

    folder: Path
    index: dict[str, Any]
    train: "PretrainingDataset"
    held_out: "PretrainingDataset | None"

    @classmethod
    def open(cls, folder: str | Path) -> "Corpus":
        """Opens a corpus without reading its text again.

        Raises:
            ValueError: if the folder is not a corpus or is damaged.
        """
        folder = Path(folder)
        index = _read_index(folder)
        held_out = PretrainingDataset(folder, "held_out") if "held_out" in index["splits"] else None
        return cls(folder, index, PretrainingDataset(folder, "train"), held_out)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of [`build_corpus`] that decide what samples are, and a fingerprint of the tokenizer."""
        return self.index["settings"]

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises a `ValueError` unless the corpus was made with this tokenizer."""
        if _fingerprint(tokenizer) != self.settings["tokenizer"]:
            raise ValueError(
                f"The corpus {str(self.folder)!r} was made with another tokenizer: use that one, or build a corpus "
                f"with this one in another folder."
            )


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is not a corpus, it has no `{INDEX}`: make one with `build_corpus`.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        index["settings"], index["splits"]["train"], index["digest"]  # noqa: B018
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is not the index of a corpus: build it again in another folder.") from error
    return index


class PretrainingDataset(Dataset):
    """
    The samples of a split of a [`Corpus`], without padding and masks: `input_ids`, `token_type_ids`, `word_starts`
    (whether a token starts a word), `sample_id` (the index), `epoch` and, of sentence pairs, `next_sentence_label` (1
    where the second segment comes from another document).

    A pair is packed as BERT's. Of the sentences of a sample some are the first segment; the others are the second one,
    or leave their place to sentences of another document. What is too long is cut at either end. Unlike BERT's, those
    others are not put back, so that an index means the same text in every epoch; each epoch draws anew where segments
    end and which are exchanged.

    Args:
        folder (`Path`): Of the corpus.
        split (`str`): `"train"` or `"held_out"`.

    Raises:
        ValueError: if files are missing or damaged.

    Example:

    ```python
    >>> from compactbert.data import Corpus

    >>> sorted(Corpus.open("my-corpus").train[0])
    ['epoch', 'input_ids', 'next_sentence_label', 'sample_id', 'token_type_ids', 'word_starts']

    ```
    """

    def __init__(self, folder: Path, split: Split):
        self.folder, self.split = folder, split
        index = _read_index(folder)
        self.settings, self.counts = index["settings"], index["splits"][split]
        self.cls_token_id, self.sep_token_id = index["cls_token_id"], index["sep_token_id"]
        self.sequence_length = self.settings["sequence_length"]
        size, num_tokens = self.settings["shard_tokens"], self.counts["tokens"]
        sizes = [min(size, num_tokens - start) for start in range(0, num_tokens, size)]
        self.tokens = [self._load(f"tokens-{i:05d}", n) for i, n in enumerate(sizes)]
        self.word_start_bits = [self._load(f"word_starts-{i:05d}", -(-n // 8)) for i, n in enumerate(sizes)]
        self.sentences = self._load("sentences", self.counts["sentences"] + 1)
        self.documents = self._load("documents", self.counts["documents"] + 1)
        self.samples = self._load("samples", self.counts["samples"]) if self.settings["next_sentence"] else None
        # Shared with the processes of a `DataLoader`, also those that outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _load(self, name: str, length: int) -> np.ndarray:
        path = self.folder / self.split / f"{name}.npy"
        try:
            values = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{str(path)!r} of the corpus cannot be read ({error}): build it again.") from error
        if len(values) != length:
            raise ValueError(f"{str(path)!r} of the corpus has not {length} entries: build it again.")
        return values

    def __reduce__(self):
        # Another process maps the files itself; a pickled memory map is all of its contents.
        return PretrainingDataset, (self.folder, self.split), {"_epoch": self._epoch}

    def set_epoch(self, epoch: int) -> None:
        """Draws segments, and [`PretrainingCollator`] masks, anew for an epoch. transformers' `Trainer` calls this at
        the start of an epoch, but not where it continues within one (accelerate 1.x): a callback has to."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.counts["samples"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Index {index} is out of range for {len(self)} samples.")
        epoch = int(self._epoch)
        sample: dict[str, Any] = {"sample_id": int(index), "epoch": epoch}
        if self.samples is None:
            segments = self._sequence(index)
        else:
            rng = np.random.default_rng((self.settings["seed"], epoch, index))
            segments, sample["next_sentence_label"] = self._pair(index, rng)
        return sample | self._pack(segments)

    def _pair(self, index: int, rng: np.random.Generator) -> tuple[list[tuple[int, int]], int]:
        """The ranges of tokens of two segments, and whether the second one is from another document."""
        assert self.samples is not None
        first, num_sentences, target = self.samples[index].item()
        num_first = int(rng.integers(1, num_sentences)) if num_sentences > 1 else 1
        middle = first + num_first
        segment = self._token_range(first, middle)
        is_random = num_sentences == 1 or bool(rng.random() < 0.5)
        if is_random:
            follower = self._random_segment(first, target - (segment[1] - segment[0]), rng)
        else:
            follower = self._token_range(middle, first + num_sentences)
        return _cut(segment, follower, self.sequence_length - 3, rng), int(is_random)

    def _token_range(self, first: int, last: int) -> tuple[int, int]:
        return int(self.sentences[first]), int(self.sentences[last])

    def _random_segment(self, sentence: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
        """Sentences of another document than that of `sentence`: as many as reach `length`, one or more."""
        own = bisect_right(self.documents, sentence) - 1
        document = int(rng.integers(len(self.documents) - 2))
        document += document >= own
        first = int(rng.integers(self.documents[document], self.documents[document + 1]))
        last = int(self.documents[document + 1])
        wanted = int(self.sentences[first]) + max(length, 1)
        last = min(last, first + int(np.searchsorted(self.sentences[first : last + 1], wanted)))
        return self._token_range(first, last)

    def _sequence(self, index: int) -> list[tuple[int, int]]:
        """The ranges of tokens of the documents in a part of the text in which separators stand between them."""
        size = self.sequence_length - 2
        position, stop = index * size, (index + 1) * size
        document = bisect_right(range(len(self.documents) - 1), position, key=self._document_start) - 1
        ranges = []
        while document < len(self.documents) - 1 and self._document_start(document) < stop:
            # Positions count the separators before a document, tokens do not.
            first, last = self._token_range(self.documents[document], self.documents[document + 1])
            begin, end = max(first, position - document), min(last, stop - document)
            if begin < end:
                ranges.append((begin, end))
            document += 1
        return ranges

    def _document_start(self, document: int) -> int:
        return int(self.sentences[self.documents[document]]) + document

    def _pack(self, segments: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        length = 1 + sum(end - start + 1 for start, end in segments)
        input_ids = np.full(length, self.sep_token_id, dtype=np.int64)
        token_type_ids = np.zeros(length, dtype=np.int64)
        word_starts = np.zeros(length, dtype=bool)
        input_ids[0] = self.cls_token_id
        place = 1
        for i, (start, end) in enumerate(segments):
            own = slice(place, place + end - start)
            input_ids[own], word_starts[own] = self._read(start, end)
            # What is left of a word that was cut counts as one.
            word_starts[place] = True
            if i and self.samples is not None:
                token_type_ids[place : own.stop + 1] = 1
            place = own.stop + 1
        return {"input_ids": input_ids, "token_type_ids": token_type_ids, "word_starts": word_starts}

    def _read(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        size = self.settings["shard_tokens"]
        ids, word_starts = [], []
        for shard in range(start // size, -(-end // size)):
            first, last = max(start - shard * size, 0), min(end - shard * size, size)
            ids.append(self.tokens[shard][first:last])
            bits = np.unpackbits(self.word_start_bits[shard][first // 8 : -(-last // 8)])
            word_starts.append(bits[first % 8 :][: last - first])
        return np.concatenate(ids), np.concatenate(word_starts)


def _cut(
    segment: tuple[int, int], follower: tuple[int, int], limit: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Shortens the longer one, token by token from a random end, until both have no more than `limit` tokens."""
    lengths = [end - start for start, end in (segment, follower)]
    if sum(lengths) <= limit:
        return [segment, follower]
    first = min(lengths[0], max(limit - lengths[1], (limit + 1) // 2))
    cut = []
    for (start, _), length, kept in zip((segment, follower), lengths, (first, limit - first), strict=True):
        start += int(rng.binomial(length - kept, 0.5))
        cut.append((start, start + kept))
    return cut


class PretrainingCollator:
    """
    Pads samples of a [`PretrainingDataset`] on the right and masks tokens for MLM: of those that are chosen 80 % become
    `[MASK]`, 10 % a random token and 10 % stay. Special and unknown tokens are never chosen. Masks depend on the seed,
    the sample and the epoch alone, not on the batch.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            That of the corpus, with a `[MASK]` and a `[PAD]`.
        mlm_probability (`float`, *optional*, defaults to 0.15):
            Share of tokens to predict.
        max_predictions (`int`, *optional*):
            Most tokens to predict in a sample; MobileBERT has 20.
        whole_word (`bool`, *optional*, defaults to `True`):
            Choose all tokens of a word or none.
        seed (`int`, *optional*, defaults to 42):
            Of the masks.

    Raises:
        ValueError: for a wrong argument.

    Example:

    ```python
    >>> from compactbert.convert import load_pretrained
    >>> from compactbert.data import Corpus, PretrainingCollator

    >>> collator = PretrainingCollator(load_pretrained("my-bert", "")[1], mlm_probability=0.5)
    >>> batch = collator([Corpus.open("my-corpus").train[i] for i in range(4)])
    >>> batch["labels"].shape == batch["input_ids"].shape
    True

    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mlm_probability: float = 0.15,
        max_predictions: int | None = None,
        whole_word: bool = True,
        seed: int = 42,
    ):
        if not 0 < mlm_probability < 1:
            raise ValueError(f"`mlm_probability` must be above 0 and below 1, got {mlm_probability}.")
        if max_predictions is not None and max_predictions < 1:
            raise ValueError(f"`max_predictions` must be at least 1, or `None` for no limit, got {max_predictions}.")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}.")
        for name in ("mask_token", "pad_token"):
            if getattr(tokenizer, name) is None:
                raise ValueError(f"`tokenizer` has no `{name}`, which masking and padding need: set it.")
        self.mlm_probability, self.max_predictions = mlm_probability, max_predictions
        self.whole_word, self.seed = whole_word, seed
        self.mask_token_id, self.pad_token_id = tokenizer.mask_token_id, tokenizer.pad_token_id
        ids = sorted(tokenizer.get_vocab().values())
        self.is_special = np.zeros(ids[-1] + 1, dtype=bool)
        self.is_special[tokenizer.all_special_ids] = True
        self.ordinary_ids = np.array([i for i in ids if not self.is_special[i]])

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `token_type_ids`, `labels` (-100 where nothing is predicted), `sample_id` and,
        of sentence pairs, `next_sentence_label`."""
        shape = len(samples), max(len(sample["input_ids"]) for sample in samples)
        batch = {
            "input_ids": np.full(shape, self.pad_token_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
            "labels": np.full(shape, IGNORED_LABEL, dtype=np.int64),
        }
        for i, sample in enumerate(samples):
            length = len(sample["input_ids"])
            masked, labels = self._mask(sample)
            batch["input_ids"][i, :length] = masked
            batch["attention_mask"][i, :length] = 1
            batch["token_type_ids"][i, :length] = sample["token_type_ids"]
            batch["labels"][i, :length] = labels
        for name in ("next_sentence_label", "sample_id"):
            if name in samples[0]:
                batch[name] = np.array([sample[name] for sample in samples], dtype=np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _mask(self, sample: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        # The last number keeps these draws apart from those of a dataset with the same seed.
        rng = np.random.default_rng((self.seed, sample["epoch"], sample["sample_id"], 1))
        input_ids = sample["input_ids"]
        chosen = self._choose(input_ids, sample["word_starts"], rng)
        labels = np.full(len(input_ids), IGNORED_LABEL, dtype=np.int64)
        labels[chosen] = input_ids[chosen]
        kind = rng.random(len(chosen))
        replacements = np.where(kind < 0.8, self.mask_token_id, rng.choice(self.ordinary_ids, len(chosen)))
        masked = input_ids.copy()
        masked[chosen] = np.where(kind < 0.9, replacements, input_ids[chosen])
        return masked, labels

    def _choose(self, input_ids: np.ndarray, word_starts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions of the tokens to predict: words in random order, leaving out those that are too many."""
        maskable = np.flatnonzero(~self.is_special[input_ids])
        words = word_starts.cumsum()[maskable] if self.whole_word else maskable
        starts = np.flatnonzero(np.diff(words, prepend=-1))
        ends = np.append(starts[1:], len(maskable))
        left = max(1, round(len(maskable) * self.mlm_probability))
        left = left if self.max_predictions is None else min(left, self.max_predictions)
        chosen: list[np.ndarray] = []
        for word in rng.permutation(len(starts)).tolist():
            if ends[word] - starts[word] <= left:
                chosen.append(maskable[starts[word] : ends[word]])
                left -= len(chosen[-1])
                if not left:
                    break
        return np.concatenate(chosen) if chosen else maskable[:0]


__all__ = ["Corpus", "PretrainingCollator", "PretrainingDataset", "build_corpus", "split_sentences"]
