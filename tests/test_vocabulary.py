import json
import random

import numpy as np
import pytest
import torch
from families import TASKS, assert_same, build, snapshot, tensors_of
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from compactbert.compression.vocabulary import count_tokens, hide_tokens, prune_vocabulary


SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [prefix + letter for prefix in ("", "##") for letter in "abcdefghilnorstuvé"]
WORDS = ["the", "cat", "dog", "runs", "sleeps", "over", "red", "fence", "##s", "##ed", "##ing", "café"]
TEXTS = ["the cat runs", "the dog runs over the red fence", "the dogs"]
CORPUS = [
    "a model without the tokens that its texts do not need is a smaller model",
    "words that nobody has seen are spelled with characters and are not unknown",
    "the smaller tokens that a token is merged from have to stay as well",
    "naïve façades über alles, señor",
]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def json_of(backend):
    return json.loads(backend.to_str())


def wordpiece_tokenizer(**options):
    vocab = list(dict.fromkeys([*SPECIAL, *LETTERS, *WORDS]))
    return BertTokenizer(vocab={token: i for i, token in enumerate(vocab)}, strip_accents=False, **options)


def bpe_tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*ROBERTA_SPECIAL, "<mask>"], initial_alphabet=alphabet
    )
    backend.train_from_iterator(CORPUS, trainer)
    merges = [tuple(merge) for merge in json_of(backend)["model"]["merges"]]
    return RobertaTokenizer(vocab=backend.get_vocab(), merges=merges)


def unigram_tokenizer():
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=ROBERTA_SPECIAL)
    backend.train_from_iterator(CORPUS, trainer)
    return XLMRobertaTokenizer(vocab=[*map(tuple, json_of(backend)["model"]["vocab"]), ("<mask>", 0.0)])


TOKENIZERS = {"wordpiece": wordpiece_tokenizer, "bpe": bpe_tokenizer, "unigram": unigram_tokenizer}


def small_model(tokenizer, name="Model", family="smbert-uneven", **fields):
    return build(family, name, vocab_size=len(tokenizer), **fields)


def tokens_of(tokenizer, *texts):
    return tokenizer.convert_ids_to_tokens(tokenizer(*texts)["input_ids"])


def random_texts(count=300):
    """New sentences of the corpus's words, whole and cut, and of what it lacks."""
    generator = random.Random(0)
    words = " ".join(CORPUS).split()
    for _ in range(count):
        chosen = generator.choices(words, k=4)
        cut = generator.randrange(1, 4)
        yield " ".join([*chosen[:2], chosen[2][:cut] + chosen[3][cut:], generator.choice(["", "☃", "zq"])])


@pytest.mark.parametrize("family", ["mobilebert_md-stages", "ib_bert-uniform", "smbert-uneven"])
@pytest.mark.parametrize("name", ["Model", *(f"For{task}" for task in TASKS)])
def test_texts_of_kept_tokens_get_the_same_output(family, name):
    tokenizer = wordpiece_tokenizer()
    model = small_model(tokenizer, name, family)
    pruned, pruned_tokenizer = prune_vocabulary(model, tokenizer, TEXTS)
    dropped = {"[unused0]", "sleeps", "##ed", "##ing", "café", "é", "##é"}
    assert tokenizer.get_vocab().keys() - pruned_tokenizer.get_vocab().keys() == dropped

    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    pruned_inputs = pruned_tokenizer(TEXTS, padding=True, return_tensors="pt")
    if name == "ForMultipleChoice":
        inputs, pruned_inputs = ({k: v[None] for k, v in batch.items()} for batch in (inputs, pruned_inputs))
    with torch.no_grad():
        outputs, pruned_outputs = tensors_of(model(**inputs)), tensors_of(pruned(**pruned_inputs))
    kept = tokenizer.convert_tokens_to_ids(pruned_tokenizer.convert_ids_to_tokens(range(len(pruned_tokenizer))))
    assert kept == sorted(kept)
    assert outputs.keys() == pruned_outputs.keys()
    for key, expected in outputs.items():
        if expected.shape[-1] == len(tokenizer):
            expected = expected[..., kept]
        torch.testing.assert_close(pruned_outputs[key], expected, rtol=1e-6, atol=1e-6)

    config = model.config
    width = getattr(config, "embedding_size", config.hidden_size)
    head = 1 + config.hidden_size - width if name in ("ForMaskedLM", "ForPreTraining") else 0
    assert model.num_parameters() - pruned.num_parameters() == len(dropped) * (width + head)
    assert type(pruned) is type(model)
    assert pruned.config.to_dict() == config.to_dict() | {"vocab_size": len(pruned_tokenizer)}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_kept_texts_are_split_as_before(kind):
    tokenizer = TOKENIZERS[kind]()
    _, pruned = prune_vocabulary(small_model(tokenizer), tokenizer, CORPUS[1:3])
    assert type(pruned) is type(tokenizer)
    vocab = pruned.get_vocab()
    assert sorted(vocab.values()) == list(range(len(pruned)))
    compared = skipped = 0
    for text in random_texts():
        tokens = tokens_of(tokenizer, text, "the " + text)
        if set(tokens) <= vocab.keys():
            compared += 1
            assert tokens_of(pruned, text, "the " + text) == tokens
        else:
            skipped += 1
    assert compared > 20
    assert skipped > 10


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_saved_folder_reloads_as_it_was(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.model_max_length = 24
    model = small_model(tokenizer, "ForMaskedLM", "mobilebert_md-stages", pad_token_id=tokenizer.pad_token_id)
    pruned, pruned_tokenizer = prune_vocabulary(model, tokenizer, CORPUS[:2])
    pruned.save_pretrained(tmp_path)
    pruned_tokenizer.save_pretrained(tmp_path)
    reloaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    reloaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(reloaded_tokenizer) is type(tokenizer)
    for field in ("model_max_length", "special_tokens_map", "model_input_names"):
        assert getattr(reloaded_tokenizer, field) == getattr(pruned_tokenizer, field) == getattr(tokenizer, field)
    assert reloaded_tokenizer.get_vocab() == pruned_tokenizer.get_vocab()
    assert reloaded.config.pad_token_id == reloaded_tokenizer.pad_token_id
    texts = list(random_texts(20))
    inputs = reloaded_tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    expected = pruned_tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    with torch.no_grad():
        assert torch.equal(reloaded(**inputs).logits, pruned(**expected).logits)


def test_case_and_accents_are_treated_as_before(tmp_path):
    tokenizer = wordpiece_tokenizer(do_lower_case=False)
    _, pruned = prune_vocabulary(small_model(tokenizer), tokenizer, TEXTS)
    pruned.save_pretrained(tmp_path)
    for loaded in (pruned, AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded.do_lower_case is False
        assert loaded.tokenize("The the") == ["[UNK]", "the"]


def test_a_real_tokenizer(minilm_tokenizer):
    model = small_model(minilm_tokenizer, "ForMaskedLM")
    pruned, tokenizer = prune_vocabulary(model, minilm_tokenizer, ["Return the cube root of a number."], keep=["tube"])
    assert pruned.config.vocab_size == len(tokenizer) == 148
    assert tokenizer.tokenize("the Cubes' tube") == ["the", "cube", "##s", "'", "tube"]
    assert tokenizer.name_or_path == minilm_tokenizer.name_or_path


def test_an_unseen_word_is_spelled():
    tokenizer = wordpiece_tokenizer()
    model = small_model(tokenizer)
    _, pruned = prune_vocabulary(model, tokenizer, TEXTS)
    assert pruned.tokenize("sleeps") == ["[UNK]"]  # no p in this vocabulary
    assert pruned.tokenize("faced") == ["f", "##a", "##c", "##e", "##d"]

    for kind in ("bpe", "unigram"):
        tokenizer = TOKENIZERS[kind]()
        _, pruned = prune_vocabulary(small_model(tokenizer), tokenizer, ["a"])
        tokens = pruned.tokenize("smaller")
        assert pruned.unk_token not in tokens
        assert max(map(len, tokens)) == 1
        assert pruned.convert_tokens_to_string(tokens).strip() == "smaller"


def test_characters_stay_if_ascii_or_seen():
    tokenizer = wordpiece_tokenizer()
    model = small_model(tokenizer)
    _, unseen = prune_vocabulary(model, tokenizer, ["the cat"])
    assert {"v", "##v"} <= unseen.get_vocab().keys()
    assert unseen.tokenize("é") == ["[UNK]"]
    _, seen = prune_vocabulary(model, tokenizer, ["the café"], min_count=2)
    assert seen.tokenize("éa café") == ["é", "##a", "c", "##a", "##f", "##é"]


def test_bytes_stay():
    tokenizer = bpe_tokenizer()
    _, pruned = prune_vocabulary(small_model(tokenizer), tokenizer, ["the"])
    assert pruned.decode(pruned("日本 ☃", add_special_tokens=False)["input_ids"]) == "日本 ☃"

    byte_pieces = [(f"<0x{value:02X}>", -9.0) for value in range(256)]
    pieces = [("<unk>", 0.0), ("▁", -1.0), ("▁the", -1.0), ("▁a", -1.0), *byte_pieces]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    _, pruned = prune_vocabulary(small_model(tokenizer), tokenizer, ["the"])
    assert len(pruned) == len(tokenizer) - 1
    assert pruned.tokenize("é") == ["▁", "<0xC3>", "<0xA9>"]


def test_bpe_keeps_what_a_token_is_merged_from():
    tokenizer = bpe_tokenizer()
    (token,) = tokenizer.tokenize(" smaller")
    _, pruned = prune_vocabulary(small_model(tokenizer), tokenizer, keep=[token])
    assert pruned.tokenize(" smaller") == [token]
    merges = json_of(pruned.backend_tokenizer)["model"]["merges"]
    assert 0 < len(merges) < 10
    assert {left + right for left, right in merges} <= pruned.get_vocab().keys()


def test_bpe_with_a_prefix_merges_to_the_same_tokens():
    vocab = ["[UNK]", "a", "b", "c", "##a", "##b", "##c", "ab", "abc", "ac", "##bc"]
    merges = [("##b", "##c"), ("a", "##b"), ("a", "##bc"), ("a", "##c")]
    ids = {token: i for i, token in enumerate(vocab)}
    backend = Tokenizer(models.BPE(ids, merges, unk_token="[UNK]", continuing_subword_prefix="##"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    _, pruned = prune_vocabulary(small_model(tokenizer), tokenizer, ["abc"])
    assert tokenizer.get_vocab().keys() - pruned.get_vocab().keys() == {"ab", "ac"}
    assert pruned.tokenize("abc ac ab") == ["abc", "a", "##c", "a", "##b"]


def test_unknown_characters_score_as_before():
    # Without "zz", "é" alone would score -30 instead of -55, and unknown + "bcd" win over "éb" + "cd".
    scores = {"xx": -3.0, "<unk>": 0.0, "éb": -20.0, "cd": -20.0, "bcd": -1.0, "zz": -45.0}
    backend = Tokenizer(models.Unigram(list(scores.items()), unk_id=1))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert tokenizer.tokenize("ébcd") == ["éb", "cd"]
    model = small_model(tokenizer, pad_token_id=None)
    _, pruned = prune_vocabulary(model, tokenizer, keep=["éb", "cd", "bcd"])
    assert pruned.tokenize("ébcd") == ["éb", "cd"]
    assert pruned("☃")["input_ids"] == [pruned.unk_token_id] == [0]


@pytest.mark.parametrize(
    "processor",
    [
        processors.Sequence(
            [processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 5)])]
        ),
        processors.BertProcessing(("</s>", 5), ("<s>", 1)),
    ],
    ids=["template", "bert"],
)
def test_added_tokens_and_inserted_tokens_get_their_new_ids(processor):
    backend = Tokenizer(models.WordPiece({"x": 0, "<s>": 1, "y": 2, "[UNK]": 3, "é": 4, "</s>": 5}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processor
    backend.enable_padding(pad_id=5, pad_token="</s>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    tokenizer.add_tokens([AddedToken("NEW WORD")])
    model = small_model(tokenizer, "ForMaskedLM", pad_token_id=5)
    pruned, pruned_tokenizer = prune_vocabulary(model, tokenizer, ["x"])
    assert pruned_tokenizer.get_vocab() == {"x": 0, "<s>": 1, "y": 2, "[UNK]": 3, "</s>": 4, "NEW WORD": 5}
    assert json_of(pruned_tokenizer.backend_tokenizer)["padding"]["pad_id"] == pruned.config.pad_token_id == 4
    assert pruned_tokenizer("x NEW WORD y")["input_ids"] == [1, 0, 5, 2, 4]
    assert torch.equal(pruned.get_input_embeddings().weight, model.get_input_embeddings().weight[[0, 1, 2, 3, 5, 6]])


def test_rows_without_a_token_are_dropped():
    tokenizer = wordpiece_tokenizer()
    model = build("smbert-uneven", vocab_size=64 + len(tokenizer), pad_token_id=60 + len(tokenizer))
    pruned, pruned_tokenizer = prune_vocabulary(model, tokenizer, TEXTS, keep=tokenizer.get_vocab())
    assert pruned.config.vocab_size == len(pruned_tokenizer) == len(tokenizer)
    assert pruned.config.pad_token_id is None


def test_min_count_size_and_keep_decide_what_stays():
    tokenizer = wordpiece_tokenizer()
    model = small_model(tokenizer)
    always = set(SPECIAL) - {"[unused0]"} | {token for token in LETTERS if token.isascii()}

    def kept(**arguments):
        pruned, pruned_tokenizer = prune_vocabulary(model, tokenizer, **arguments)
        assert pruned.config.vocab_size == len(pruned_tokenizer)
        return pruned_tokenizer.get_vocab().keys() - always

    assert kept(texts=TEXTS) == {"the", "cat", "dog", "runs", "over", "red", "fence"}
    assert kept(texts=TEXTS, min_count=2) == {"the", "dog", "runs"}
    assert kept(texts=(text for text in TEXTS), min_count=4) == {"the"}
    # "the" occurs four times, "dog" and "runs" twice, the others once: of those, "cat" has the lowest id.
    for size, expected in enumerate([set(), {"the"}, {"the", "dog"}, {"the", "dog", "runs"}], start=len(always)):
        assert kept(texts=TEXTS, size=size) == expected
    assert kept(texts=TEXTS, size=len(always) + 4) == {"the", "dog", "runs", "cat"}
    assert kept(texts=TEXTS, size=1000) == kept(texts=TEXTS)
    assert kept(texts=TEXTS, size=len(always) + 2, keep=["sleeps"]) == {"sleeps", "the"}
    assert kept(keep=["sleeps", "café"]) == {"sleeps", "café", "é", "##é"}
    # Scores decide in place of counts, among the tokens that occur.
    vocab = tokenizer.get_vocab()
    importance = np.zeros(model.config.vocab_size)
    importance[[vocab["fence"], vocab["red"], vocab["sleeps"]]] = 3.0, 2.0, 9.0
    assert kept(texts=TEXTS, size=len(always) + 2, importance=importance) == {"fence", "red"}
    with pytest.raises(ValueError, match="`importance` must have a score for each"):
        kept(texts=TEXTS, importance=importance[1:])


def test_bpe_fills_the_size_with_whole_families():
    tokenizer = bpe_tokenizer()
    model = small_model(tokenizer)
    smallest = len(prune_vocabulary(model, tokenizer, ["a"], min_count=9)[1])
    for size in range(smallest, smallest + 12):
        _, pruned = prune_vocabulary(model, tokenizer, CORPUS, size=size)
        assert len(pruned) <= size
        merges = json_of(pruned.backend_tokenizer)["model"]["merges"]
        assert len(merges) == len(pruned) - smallest
    assert len(merges) > 8


def test_dtype_mode_and_attention_carry_over():
    tokenizer = wordpiece_tokenizer()
    model = build("mobilebert_md-uniform", vocab_size=len(tokenizer)).train().to(torch.bfloat16)
    model.set_attn_implementation("eager")
    model.pooler = None
    pruned, _ = prune_vocabulary(model, tokenizer, TEXTS)
    assert pruned.training
    assert {k: v.dtype for k, v in pruned.state_dict().items()} == {k: v.dtype for k, v in model.state_dict().items()}
    assert pruned.config._attn_implementation == "eager"
    assert pruned.pooler is None


def test_the_arguments_stay_as_they_are():
    tokenizer = wordpiece_tokenizer()
    model = small_model(tokenizer, "ForMaskedLM")
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=4)
    before = tokenizer.backend_tokenizer.to_str(), dict(tokenizer.init_kwargs), model.config.to_dict()
    weights = snapshot(model)
    pruned, _ = prune_vocabulary(model, tokenizer, TEXTS)
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.init_kwargs, model.config.to_dict()) == before
    with torch.no_grad():
        pruned.get_input_embeddings().weight.zero_()
    assert_same(model.state_dict(), weights)


def test_tokens_are_counted_without_special_tokens_and_truncation():
    tokenizer = wordpiece_tokenizer()
    tokenizer(["the"], padding="max_length", truncation=True, max_length=3)
    counts = count_tokens(tokenizer, (text for text in TEXTS * 400))
    assert counts.shape == (len(tokenizer),)
    named = {tokenizer.convert_ids_to_tokens(int(i)): int(counts[i]) / 400 for i in np.flatnonzero(counts)}
    assert named == {"the": 4, "cat": 1, "dog": 2, "runs": 2, "over": 1, "red": 1, "fence": 1, "##s": 1}
    assert not count_tokens(tokenizer, []).any()
    assert not count_tokens(tokenizer, [""]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`texts` or `keep` must name at least one token, got none: pass the texts"),
        ({"texts": []}, "`texts` or `keep` must name"),
        ({"texts": "the cat"}, "`texts` must be an iterable of strings, got a single string: put it into a list"),
        ({"keep": "the"}, r"`keep` must be an iterable of tokens, got a single string: write `\['the'\]`"),
        ({"keep": ["the", "mouse"]}, r"`keep` must name tokens of the vocabulary, got \['mouse'\]"),
        ({"texts": ["the"], "min_count": 0}, "`min_count` must be at least 1, got 0"),
        ({"keep": ["the"], "size": 39}, "`size` must be at least 40, .* got 39"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    tokenizer = wordpiece_tokenizer()
    with pytest.raises(ValueError, match=message):
        prune_vocabulary(small_model(tokenizer), tokenizer, **arguments)


def test_models_and_tokenizers_that_do_not_fit_are_refused():
    tokenizer = wordpiece_tokenizer()
    size = len(tokenizer)
    with pytest.raises(ValueError, match=f"ids below the model's `vocab_size` of {size - 1}, got {size - 1}: use the"):
        prune_vocabulary(build("smbert-uneven", vocab_size=size - 1), tokenizer, TEXTS)
    bert = BertModel(BertConfig(vocab_size=size, hidden_size=12, num_hidden_layers=1, intermediate_size=4))
    with pytest.raises(ValueError, match="got 'bert': turn it into one with `compactbert.convert.from_transformers`"):
        prune_vocabulary(bert, tokenizer, TEXTS)
    model = small_model(tokenizer)
    with pytest.raises(ValueError, match="`tokenizer` must have a WordPiece, Unigram or BPE model .* ByT5Tokenizer:"):
        prune_vocabulary(model, ByT5Tokenizer(), TEXTS)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    with pytest.raises(ValueError, match="got TokenizersBackend with a WordLevel model"):
        count_tokens(words, TEXTS)
    # From a folder, BertTokenizer makes its backend anew, with words of up to 100 characters.
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, max_input_chars_per_word=3))
    odd = BertTokenizer(tokenizer_object=backend)
    with pytest.raises(ValueError, match="must reload from a saved folder as it is, but BertTokenizer builds another"):
        prune_vocabulary(model, odd, ["a"])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_are_spelled_without_hidden_tokens(kind):
    tokenizer = TOKENIZERS[kind]()
    before, texts = json_of(tokenizer.backend_tokenizer), list(random_texts())
    vocab, hidden = tokenizer.get_vocab(), hide_tokens(tokenizer, 1.0, seed=0)
    for text in texts:
        tokens = tokens_of(hidden, text)
        assert [vocab[token] for token in tokens] == hidden(text)["input_ids"]
        assert all(len(token.removeprefix("##")) == 1 for token in tokens if token not in tokenizer.all_special_tokens)
        if "☃" not in text and kind != "wordpiece":
            assert hidden.decode(hidden(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
    assert json_of(tokenizer.backend_tokenizer) == before


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_share_of_the_tokens_is_hidden_by_the_seed(kind):
    tokenizer, texts = TOKENIZERS[kind](), list(random_texts())

    def used(share, seed):
        hidden = hide_tokens(tokenizer, share, seed)
        return {token for text in texts for token in tokens_of(hidden, text)}

    whole = {token for text in texts for token in tokens_of(tokenizer, text)}
    assert used(0.0, 0) == whole
    assert used(0.4, 0) == used(0.4, 0)
    several = {token for token in whole if len(token.removeprefix("##")) > 1} - {*tokenizer.all_special_tokens}
    hidden = [len(several - used(0.4, seed)) / len(several) for seed in range(10)]
    assert len(set(hidden)) > 1
    # BPE loses what hidden tokens are parts of, too.
    assert 0.3 < sum(hidden) / len(hidden) < (0.7 if kind == "bpe" else 0.5)


def test_tokens_of_other_tokenizers_are_not_hidden(minilm_tokenizer):
    with pytest.raises(ValueError, match="of the `tokenizers` library, got ByT5Tokenizer"):
        hide_tokens(ByT5Tokenizer(), 0.1, seed=0)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="with a WordLevel model"):
        hide_tokens(words, 0.1, seed=0)
