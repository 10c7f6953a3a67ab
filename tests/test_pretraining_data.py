import gzip
import json
import os
import pickle
import re
import shutil
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import BertTokenizer, PreTrainedTokenizerFast

from compactbert.data import Corpus, PretrainingCollator, build_corpus
from compactbert.data.pretraining import MAX_LINE, split_sentences


DATA = os.environ.get("COMPACTBERT_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="COMPACTBERT_DATA does not name a folder of datasets")
VERBS = ["finds", "loses", "takes", "gives", "makes", "breaks", "opens", "closes", "buys", "sells"]
NOUNS = ["a door", "an unforgettable day", "the last train", "some old houses", "nothing"]


def document(i: int, num_sentences: int = 30) -> str:
    """Sentences that are all different, in no other document."""
    return " ".join(
        f"Page {i} {VERBS[j % 10]} {NOUNS[j % 5]} {'and ' * (j % 7)}in line {j}." for j in range(num_sentences)
    )


ROWS = [{"text": document(i)} for i in range(40)]


def build(folder: Path, tokenizer, rows=ROWS, **settings) -> Corpus:
    return build_corpus(rows, tokenizer, folder, **({"sequence_length": 64, "held_out": 0.2} | settings))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, minilm_tokenizer):
    return build(tmp_path_factory.mktemp("corpus") / "pairs", minilm_tokenizer)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, minilm_tokenizer):
    return build(tmp_path_factory.mktemp("corpus") / "packed", minilm_tokenizer, next_sentence=False)


def plain(sample) -> dict:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in sample.items()}


def samples_of(dataset) -> list[dict]:
    return [plain(sample) for sample in dataset]


def segments(sample, tokenizer) -> list[str]:
    """Texts between the special tokens, as tokens between spaces."""
    tokens = tokenizer.convert_ids_to_tokens(sample["input_ids"])
    assert tokens[0] == "[CLS]"
    assert tokens[-1] == "[SEP]"
    return [f" {segment.strip()} " for segment in " ".join(tokens[1:]).split("[SEP]")[:-1]]


def pages(text: str) -> set[int]:
    return {int(number) for number in re.findall(r" page (\d+) ", text)}


def tokenized(tokenizer, rows=ROWS) -> list[str]:
    return [f" {' '.join(tokenizer.tokenize(row['text']))} " for row in rows]


def test_pairs_are_neighbours_or_from_two_documents(corpus, minilm_tokenizer):
    texts = tokenized(minilm_tokenizer)
    neighbours = 0
    for i in range(len(corpus.train)):
        sample = corpus.train[i]
        first, second = segments(sample, minilm_tokenizer)
        assert len(sample["input_ids"]) <= 64
        length = len(first.split()) + 2
        assert sample["token_type_ids"].tolist() == [0] * length + [1] * (len(sample["input_ids"]) - length)
        [own] = [text for text in texts if first in text]
        if sample["next_sentence_label"]:
            assert second not in own
            assert any(second in text for text in texts)
        elif len(sample["input_ids"]) < 64:
            assert first + second.lstrip() in own
            neighbours += 1
        else:
            assert second in own
    assert neighbours > 20


def test_pairs_have_the_shares_of_bert(tmp_path, minilm_tokenizer):
    corpus = build(tmp_path / "corpus", minilm_tokenizer, [{"text": document(i, 300)} for i in range(20)], held_out=0)
    samples = samples_of(corpus.train)
    assert len(samples) > 900
    assert 0.45 < np.mean([sample["next_sentence_label"] for sample in samples]) < 0.6
    # A run of sentences that was to fill a sequence is too short only where a document ends.
    assert 0.07 < np.mean(corpus.train.samples["target"] < 61) < 0.13
    assert np.mean([len(sample["input_ids"]) for sample in samples]) > 55


def test_every_sentence_is_in_one_run(corpus):
    train = corpus.train
    ends = train.samples["first"] + train.samples["sentences"]
    assert train.samples["first"].tolist() == [0, *ends[:-1]]
    assert ends[-1] == corpus.index["splits"]["train"]["sentences"]


def test_a_sentence_without_end_is_not_lost(tmp_path, minilm_tokenizer):
    rows = [{"text": " ".join(f"{start}{i}" for i in range(200))} for start in "ab"]
    corpus = build(tmp_path / "corpus", minilm_tokenizer, rows, sequence_length=16, held_out=0)
    tokens = sum(len(minilm_tokenizer.tokenize(row["text"])) for row in rows)
    assert corpus.train.sentences[-1] == tokens
    assert np.diff(corpus.train.sentences).max() == 13
    assert {len(sample["input_ids"]) for sample in samples_of(corpus.train)} == {16}


def test_full_sequences_run_on_over_documents(packed, minilm_tokenizer):
    samples = samples_of(packed.train)
    assert {len(sample["input_ids"]) for sample in samples[:-1]} <= {63, 64}
    assert all("next_sentence_label" not in sample and not any(sample["token_type_ids"]) for sample in samples)
    text = "".join(segment for sample in samples for segment in segments(sample, minilm_tokenizer))
    held_out = "".join(segment for s in samples_of(packed.held_out) for segment in segments(s, minilm_tokenizer))
    texts = tokenized(minilm_tokenizer)
    assert text.split() == "".join(t for i, t in enumerate(texts) if i not in pages(held_out)).split()
    # Separators stand where documents end, and nowhere twice.
    borders = sum(len(pages(a) & pages(b)) == 0 for s in samples for a, b in pairwise(segments(s, minilm_tokenizer)))
    inner = sum(len(segments(sample, minilm_tokenizer)) - 1 for sample in samples)
    assert borders == inner
    assert inner > 15
    assert not any("[SEP] [SEP]" in minilm_tokenizer.decode(sample["input_ids"]) for sample in samples)


@pytest.mark.parametrize("next_sentence", [True, False])
def test_small_files_hold_the_same_samples(tmp_path, corpus, packed, minilm_tokenizer, next_sentence):
    shards = build(tmp_path / "corpus", minilm_tokenizer, shard_tokens=101, next_sentence=next_sentence)
    assert len(shards.train.tokens) > 100
    assert samples_of(shards.train) == samples_of((corpus if next_sentence else packed).train)


def test_words_begin_where_the_tokenizer_begins_them(corpus, minilm_tokenizer):
    pieces = 0
    for i in range(len(corpus.train)):
        sample = corpus.train[i]
        tokens = minilm_tokenizer.convert_ids_to_tokens(sample["input_ids"])
        for before, token, starts in zip(["", *tokens], tokens, sample["word_starts"], strict=False):
            # A word that was cut begins with what is left of it.
            begins = not token.startswith("##") or before in ("[CLS]", "[SEP]")
            assert starts == (begins and token not in ("[CLS]", "[SEP]"))
            pieces += token.startswith("##")
    assert pieces > 10


def test_a_sample_depends_on_seed_epoch_and_index(tmp_path, corpus, minilm_tokenizer):
    again = build(tmp_path / "again", minilm_tokenizer)
    assert samples_of(again.train) == samples_of(corpus.train)
    copy = pickle.loads(pickle.dumps(again.train))
    first = samples_of(again.train)
    again.train.set_epoch(1)
    second = samples_of(again.train)
    assert len(pickle.dumps(again.train)) < 2000
    assert samples_of(copy) == first
    assert [sample["epoch"] for sample in second] == [1] * len(first)
    changed = [a["input_ids"] != b["input_ids"] for a, b in zip(first, second, strict=True)]
    assert np.mean(changed) > 0.5
    labels = [[sample["next_sentence_label"] for sample in samples] for samples in (first, second)]
    assert labels[0] != labels[1]
    again.train.set_epoch(0)
    assert samples_of(again.train) == first
    other = build(tmp_path / "other", minilm_tokenizer, seed=1)
    assert samples_of(other.train)[:5] != first[:5]


def test_workers_that_stay_see_the_epoch(corpus, minilm_tokenizer):
    loader = DataLoader(
        corpus.train, 16, collate_fn=PretrainingCollator(minilm_tokenizer), num_workers=1, persistent_workers=True
    )
    collator = PretrainingCollator(minilm_tokenizer)
    try:
        for epoch in (0, 1):
            corpus.train.set_epoch(epoch)
            labels = next(iter(loader))["labels"]
            assert torch.equal(labels, collator([corpus.train[i] for i in range(16)])["labels"])
    finally:
        corpus.train.set_epoch(0)


def test_held_out_documents_are_fixed_and_never_trained_on(tmp_path, corpus, minilm_tokenizer):
    def pages_of(split):
        return {page for sample in samples_of(split) for page in pages(" ".join(segments(sample, minilm_tokenizer)))}

    train, held_out = pages_of(corpus.train), pages_of(corpus.held_out)
    assert not train & held_out
    assert train | held_out == set(range(40))
    more = [{"text": document(i)} for i in range(-1, -30, -1)]
    other = build(tmp_path / "other", minilm_tokenizer, more + ROWS[::-1] + ROWS, seed=1)
    also_held_out = pages_of(other.held_out)
    assert also_held_out >= held_out
    assert not also_held_out & train
    assert build(tmp_path / "all", minilm_tokenizer, held_out=0).held_out is None


def masked(corpus, tokenizer, **options):
    batch = PretrainingCollator(tokenizer, **options)([corpus.train[i] for i in range(len(corpus.train))])
    original = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
    return batch, original


def test_the_collator_pads_and_masks(corpus, minilm_tokenizer):
    batch, original = masked(corpus, minilm_tokenizer)
    num_samples = len(corpus.train)
    for name in ("input_ids", "attention_mask", "token_type_ids", "labels"):
        assert batch[name].shape == (num_samples, 64)
    assert batch["sample_id"].tolist() == list(range(num_samples))
    for i, sample in enumerate(samples_of(corpus.train)):
        length = len(sample["input_ids"])
        assert original[i, :length].tolist() == sample["input_ids"]
        assert batch["token_type_ids"][i, :length].tolist() == sample["token_type_ids"]
        assert batch["next_sentence_label"][i] == sample["next_sentence_label"]
        assert batch["attention_mask"][i].tolist() == [1] * length + [0] * (64 - length)
        assert (batch["input_ids"][i, length:] == minilm_tokenizer.pad_token_id).all()
        assert (batch["labels"][i, length:] == -100).all()
    chosen = batch["labels"] >= 0
    special = torch.isin(original, torch.tensor(minilm_tokenizer.all_special_ids))
    assert not (chosen & special).any()
    assert not torch.isin(batch["input_ids"][chosen], torch.tensor(minilm_tokenizer.all_special_ids[:4])).any()
    assert 0.13 < chosen.sum() / (batch["attention_mask"].bool() & ~special).sum() < 0.17


def test_of_the_chosen_tokens_eight_in_ten_are_masks(corpus, minilm_tokenizer):
    batch, original = masked(corpus, minilm_tokenizer, mlm_probability=0.9)
    chosen = batch["labels"] >= 0
    assert chosen.sum() > 5000
    is_mask = batch["input_ids"][chosen] == minilm_tokenizer.mask_token_id
    is_kept = batch["input_ids"][chosen] == original[chosen]
    assert abs(is_mask.float().mean() - 0.8) < 0.02
    assert abs(is_kept.float().mean() - 0.1) < 0.015
    replaced = batch["input_ids"][chosen][~is_mask & ~is_kept]
    assert len(replaced.unique()) > 0.9 * len(replaced)


def test_whole_words(corpus, minilm_tokenizer):
    def parts_of_words(whole_word):
        batch, original = masked(corpus, minilm_tokenizer, whole_word=whole_word)
        parts = whole = 0
        for ids, labels in zip(original.tolist(), batch["labels"].tolist(), strict=True):
            tokens = minilm_tokenizer.convert_ids_to_tokens(ids)
            for token, before, label, label_before in zip(tokens[1:], tokens, labels[1:], labels, strict=False):
                if token.startswith("##") and before not in ("[CLS]", "[SEP]"):
                    parts += (label >= 0) != (label_before >= 0)
                    whole += label >= 0 and label_before >= 0
        return parts, whole

    parts, whole = parts_of_words(whole_word=True)
    assert parts == 0
    assert whole > 0
    assert parts_of_words(whole_word=False)[0] > 0


def test_no_more_predictions_than_the_limit(corpus, minilm_tokenizer):
    counts = (masked(corpus, minilm_tokenizer, max_predictions=3)[0]["labels"] >= 0).sum(dim=1)
    assert counts.max() == 3
    assert counts.float().mean() > 2.5


def test_masks_depend_on_the_sample_not_on_the_batch(corpus, minilm_tokenizer):
    batch, _ = masked(corpus, minilm_tokenizer)
    torch.manual_seed(1)
    np.random.seed(1)
    some = PretrainingCollator(minilm_tokenizer)([corpus.train[i] for i in (7, 3)])
    for row, i in enumerate((7, 3)):
        length = int(some["attention_mask"][row].sum())
        for name in ("input_ids", "labels"):
            assert torch.equal(some[name][row, :length], batch[name][i, :length])
    sample = corpus.train[3]
    anew = PretrainingCollator(minilm_tokenizer)([sample | {"epoch": 1}, sample | {"sample_id": 4}])["labels"]
    other = PretrainingCollator(minilm_tokenizer, seed=1)([sample])["labels"]
    length = len(sample["input_ids"])
    for labels in (*anew, *other):
        assert not torch.equal(labels, batch["labels"][3, :length])


def test_unknown_words_are_not_predicted(tmp_path, minilm_tokenizer):
    rows = [{"text": f"{document(i)} {'☃' * 3}"} for i in range(4)]
    corpus = build(tmp_path / "corpus", minilm_tokenizer, rows, held_out=0)
    batch, original = masked(corpus, minilm_tokenizer, mlm_probability=0.99)
    assert (original == minilm_tokenizer.unk_token_id).any()
    assert not (batch["labels"] == minilm_tokenizer.unk_token_id).any()


def write(path: Path, texts: list[str]) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame({"text": texts}).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in texts))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n\n".join(texts).encode()))
    else:
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n \r\n\r\n".join(texts).encode())
    return path


@pytest.mark.parametrize(
    ("name", "pattern"), [("x.txt", ""), ("x.txt.gz", "/**/*"), ("x.jsonl", "/deep"), ("x.parquet", "/*/*.parquet")]
)
def test_the_same_documents_from_files(tmp_path, corpus, minilm_tokenizer, name, pattern):
    (tmp_path / "deep").mkdir()
    path = write(tmp_path / "deep" / name, [row["text"] for row in ROWS])
    made = build(tmp_path / "corpus", minilm_tokenizer, [f"{tmp_path}{pattern}", path])
    assert made.index == corpus.index


@pytest.mark.parametrize("kind", ["dataset", "stream", "generator"])
def test_the_same_documents_from_rows(tmp_path, corpus, minilm_tokenizer, kind):
    dataset = Dataset.from_list(ROWS)
    rows = {"dataset": dataset, "stream": dataset.to_iterable_dataset(), "generator": iter(ROWS)}[kind]
    made = build(tmp_path / "corpus", minilm_tokenizer, rows)
    assert made.index == corpus.index
    assert samples_of(made.train) == samples_of(corpus.train)


def test_a_line_is_a_document_where_no_blank_lines_are(tmp_path, corpus, minilm_tokenizer):
    path = tmp_path / "x.txt"
    path.write_text("\n\n" + "\n".join(row["text"] for row in ROWS) + "\n\n")
    assert build(tmp_path / "lines", minilm_tokenizer, path).index == corpus.index
    path.write_text("One.\nTwo.\n\nThree. Four.\n")
    counts = build(tmp_path / "blocks", minilm_tokenizer, path, held_out=0).index["splits"]["train"]
    assert (counts["documents"], counts["sentences"]) == (2, 4)


def test_rows_without_text_are_left_out(tmp_path, corpus, minilm_tokenizer, caplog):
    path = write(tmp_path / "x.parquet", [None, " \n", *(row["text"] for row in ROWS)])
    assert build(tmp_path / "corpus", minilm_tokenizer, path).index == corpus.index
    assert "2 rows have no text" in caplog.text


def test_a_half_character_is_no_obstacle(tmp_path, minilm_tokenizer):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "A \\ud83d b."}\n{"text": "c"}\n')
    assert build(tmp_path / "corpus", minilm_tokenizer, path, held_out=0).index["splits"]["train"]["documents"] == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"", "'.*x.txt' is empty"),
        ("x.txt", b" \n\n \n", "is empty"),
        ("x.txt.gz", gzip.compress(b""), "is empty"),
        ("x.txt", b"text\n\n\x89PNG\r\n\x1a\n\0\0\0", "not UTF-8 .*0x89 in line 3"),
        ("x.txt", "text".encode("utf-16"), "line 1 has a zero byte"),
        ("x.txt", b"text\n\n\0text", "line 3 has a zero byte"),
        ("x.txt", b"text\n\n" + b"word " * (MAX_LINE // 5 + 1), "Line 3 of .* is longer than 1,000,000 bytes"),
        ("x.txt.gz", b"not gzip", "not a complete gzip file"),
        (
            "x.txt.gz",
            gzip.compress(Random(0).randbytes(9999).hex().encode())[:-2000],
            "not a complete gzip file",
        ),
        ("x.csv", b"text\nx", "of another kind"),
        ("x.jsonl", b'{"text": "x"}\n{"text"', "Line 2 of .* is not JSON"),
        ("x.jsonl", b'{"text": "x"}\n{"body": "x"}', "Row 1 of .* must be a"),
        ("x.jsonl", b'{"text": 5}', "Row 0 of .* must be a"),
        ("x.jsonl", b'{"text": ""}', "no row with text"),
        ("x.parquet", b"PAR1 not", "cannot be used"),
        ("folder", None, "names no file"),
        ("*.csv", None, "names no file"),
    ],
    # Names that are the same in every worker: a file's bytes are not (gzip writes the time).
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_bad_files(tmp_path, minilm_tokenizer, name, content, message):
    good = write(tmp_path / "good.txt", [row["text"] for row in ROWS])
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "corpus", minilm_tokenizer, [good, tmp_path / name])
    assert not (tmp_path / "corpus").exists()
    assert not (tmp_path / "corpus.new").exists()


def test_a_table_without_the_column(tmp_path, minilm_tokenizer):
    pd.DataFrame({"body": ["x"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"no column 'text', only \['body'\]"):
        build(tmp_path / "corpus", minilm_tokenizer, tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, "`sources` is empty"),
        (["a", {"text": "b"}], {}, "Row 0 of `sources` must be"),
        (ROWS[:1], {"held_out": 0}, r"needs 2 documents or more, got \{'train': 1\}"),
        (ROWS, {"held_out": 1e-9}, "'held_out': 0"),
        (ROWS, {"held_out": 1.0}, "`held_out` is a share"),
        (ROWS, {"sequence_length": 7}, "`sequence_length` must be from 8"),
        (ROWS, {"shard_tokens": 0}, "`shard_tokens`"),
        (ROWS, {"seed": -1}, "`seed`"),
    ],
)
def test_wrong_arguments(tmp_path, minilm_tokenizer, rows, settings, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "corpus", minilm_tokenizer, rows, **settings)
    assert not (tmp_path / "corpus").exists()


def test_wrong_tokenizers(tmp_path, corpus, minilm_tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=minilm_tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no `cls_token`"):
        build(tmp_path / "corpus", bare)
    with pytest.raises(ValueError, match="no `mask_token`"):
        PretrainingCollator(bare)
    with pytest.raises(ValueError, match="of the `tokenizers` library, got object"):
        build(tmp_path / "corpus", object())
    cased = BertTokenizer(vocab=minilm_tokenizer.get_vocab(), do_lower_case=False)
    with pytest.raises(ValueError, match="made with another tokenizer"):
        corpus.check_tokenizer(cased)
    minilm_tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
    again("some text", truncation=True, max_length=4, padding="max_length")
    corpus.check_tokenizer(again)


@pytest.mark.parametrize("options", [{"mlm_probability": 0}, {"max_predictions": 0}, {"seed": -1}])
def test_wrong_collator_options(minilm_tokenizer, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        PretrainingCollator(minilm_tokenizer, **options)


def times(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_corpus_is_found_again(tmp_path, minilm_tokenizer, monkeypatch):
    folder = tmp_path / "corpus"
    folder.mkdir()
    build(folder, minilm_tokenizer)
    before = times(folder)
    monkeypatch.setattr("compactbert.data.pretraining._build", None)
    assert build(folder, minilm_tokenizer).index == Corpus.open(folder).index
    with pytest.raises(ValueError, match=r"differs in `sequence_length` \(64, not 32\); `seed` \(42, not 1\)"):
        build(folder, minilm_tokenizer, sequence_length=32, seed=1)
    with pytest.raises(ValueError, match="differs in the text"):
        build(folder, minilm_tokenizer, ROWS[:-1])
    assert times(folder) == before


def test_what_is_not_a_corpus_stays(tmp_path, minilm_tokenizer):
    (tmp_path / "mine").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ValueError, match="is not a corpus"):
            build(folder, minilm_tokenizer)
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_interrupted_build_leaves_nothing(tmp_path, corpus, minilm_tokenizer):
    def rows():
        yield from ROWS
        raise KeyboardInterrupt

    folder = tmp_path / "corpus"
    with pytest.raises(KeyboardInterrupt):
        build(folder, minilm_tokenizer, rows(), shard_tokens=100)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    # What a killed process leaves.
    (tmp_path / "corpus.new" / "train").mkdir(parents=True)
    (tmp_path / "corpus.new" / "train" / "tokens-00009.npy").write_bytes(b"half")
    assert build(folder, minilm_tokenizer).index == corpus.index
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == [folder]


@pytest.mark.parametrize("name", ["tokens-00000", "word_starts-00000", "sentences", "documents", "samples"])
def test_damaged_files_are_named(tmp_path, corpus, name):
    folder = tmp_path / "corpus"
    shutil.copytree(corpus.folder, folder)
    path = folder / "train" / f"{name}.npy"
    whole = path.read_bytes()
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ValueError, match=f"{name}.npy' of the corpus has not"):
        Corpus.open(folder)
    for content in (whole[:-1], whole[:20], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.npy' of the corpus cannot be read"):
            Corpus.open(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name}.npy' of the corpus cannot be read"):
        Corpus.open(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(ValueError, match="is not the index of a corpus"):
        Corpus.open(folder)


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("It ends. Another one? Yes!", ["It ends.", "Another one?", "Yes!"]),
        ("Mr. J. R. Smith met Dr. No in the U.S.", ["Mr. J. R. Smith met Dr. No in the U.S."]),
        ("The U.S. Army vs. Navy game.", ["The U.S. Army vs. Navy game."]),
        ("It cost 3.5 million, e.g. for paint. 12 came.", ["It cost 3.5 million, e.g. for paint.", "12 came."]),
        ('"Stop." "Why?" he said. (So it was.) Then...', ['"Stop."', '"Why?" he said.', "(So it was.)", "Then..."]),
        ("Él vino. Ésa fue.", ["Él vino.", "Ésa fue."]),
        ("他来了。「为什么？」他走了！", ["他来了。", "「为什么？」", "他走了！"]),
        ("The dog sat . It ran .", ["The dog sat .", "It ran ."]),
        ("यह है। वह था।", ["यह है।", "वह था।"]),
        (" no end ", ["no end"]),
        ("", []),
    ],
)
def test_sentences(line, sentences):
    assert split_sentences(line) == sentences


@needs_data
def test_chinese_text(tmp_path):
    tokenizer = BertTokenizer(vocab=str(next(Path(DATA, "vocab").glob("*chinese*"))))
    with gzip.open(Path(DATA, "text", "wikipedia_zh_sample.txt.gz"), "rt", encoding="utf-8") as file:
        (tmp_path / "zh.txt").write_text("".join(next(file) for _ in range(500)), encoding="utf-8")
    corpus = build(tmp_path / "corpus", tokenizer, tmp_path / "zh.txt", sequence_length=128)
    batch, original = masked(corpus, tokenizer)
    assert (original == tokenizer.unk_token_id).float().mean() < 0.05
    assert corpus.index["splits"]["train"]["sentences"] > 5 * corpus.index["splits"]["train"]["documents"]
    assert 0.13 < (batch["labels"] >= 0).sum() / batch["attention_mask"].sum() < 0.16


@needs_data
def test_real_text(tmp_path, minilm_tokenizer):
    corpus = build(tmp_path / "corpus", minilm_tokenizer, f"{DATA}/text/wikitext2_valid_tokens.txt.gz")
    assert corpus.index["splits"]["train"]["tokens"] > 150_000
    sample = corpus.train[len(corpus.train) - 1]
    assert len(segments(sample, minilm_tokenizer)) == 2
