"""Words in two scripts compared by a small SmBERT over characters, which comes with the Space; without torch."""

import json
from array import array
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from anyascii import anyascii
from safetensors.numpy import load_file

from .characters import Characters
from .names import Name, divisions


# Trained by benchmarks/name_encoder.py of the project this Space comes from.
FOLDER = Path(__file__).with_name("name_encoder")
# Words of equal length that are computed together, and words whose directions are kept.
BATCH, KEPT = 256, 1 << 18
# Candidates for a name: what a listed word has in common with one of its words at least, and how many.
MIN_COSINE = 0.6
MAX_WORDS, MAX_CANDIDATES = 64, 50
KEPT_SEARCHES = 1 << 15


class NameEncoder:
    """
    Gives words of any script a direction each: of words that are the same name in two scripts nearly the same.

    Args:
        folder (`Path`): A SmBERT as transformers saves it, and the table of its characters.
    """

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]
        self.weights = {
            name: value.astype(np.float32) for name, value in load_file(folder / "model.safetensors").items()
        }
        self.size = config["hidden_size"]
        table = json.loads((folder / "characters.json").read_text())
        self.characters = Characters(table["characters"], anyascii)
        self.known: dict[str, np.ndarray] = {}

    def encode(self, words: Sequence[str]) -> np.ndarray:
        """
        The directions of words, one a row; zeros for what has no letter.

        Args:
            words (sequence of `str`): In any script.
        """
        # Officers' requests come in threads: what one of them holds stays whole when another begins anew.
        known = self.known
        if missing := [word for word in dict.fromkeys(words) if word not in known]:
            if len(known) + len(missing) > KEPT:
                known = self.known = {}
                missing = list(dict.fromkeys(words))
            known.update(zip(missing, self.compute(missing), strict=True))
        return np.stack([known[word] for word in words])

    def cosine(self, first: str, second: str) -> float:
        """How near the directions of two words are, at most 1."""
        one, other = self.known.get(first), self.known.get(second)
        if one is None or other is None:
            one, other = self.encode((first, second))
        return float(one @ other)

    def compute(self, words: Sequence[str]) -> np.ndarray:
        """The same as `encode` without looking at what is known."""
        directions = np.zeros((len(words), self.size), dtype=np.float32)
        # Words of one length need no padding.
        by_length: dict[int, list[tuple[int, list[int]]]] = {}
        for place, word in enumerate(words):
            ids = self.characters.ids(word)
            by_length.setdefault(len(ids), []).append((place, ids))
        by_length.pop(0, None)
        for same in by_length.values():
            for start in range(0, len(same), BATCH):
                places, texts = zip(*same[start : start + BATCH], strict=True)
                mean = self.forward(np.array(texts)).mean(1)
                directions[list(places)] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return directions

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """The hidden states of SmBERT's last layer, for words of one length."""
        length = ids.shape[1]
        embeddings = "embeddings.{}.weight"
        hidden = self.weights[embeddings.format("word_embeddings")][ids]
        hidden = hidden + self.weights[embeddings.format("position_embeddings")][:length]
        hidden = self.normalize(hidden + self.weights[embeddings.format("token_type_embeddings")][0], "embeddings")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            query, key, value = (
                self.linear(hidden, f"{layer}.attention.self.{name}")
                .reshape(*hidden.shape[:2], self.heads, -1)
                .transpose(0, 2, 1, 3)
                for name in ("query", "key", "value")
            )
            scores = query @ key.swapaxes(2, 3) / np.float32(np.sqrt(query.shape[-1]))
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            context = (shares / shares.sum(-1, keepdims=True)) @ value
            context = context.transpose(0, 2, 1, 3).reshape(*hidden.shape[:2], -1)
            attended = self.linear(context, f"{layer}.attention.output.dense")
            hidden = self.normalize(attended + hidden, f"{layer}.attention.output")
            inner = np.maximum(self.linear(hidden, f"{layer}.intermediate.dense"), 0)
            hidden = self.normalize(self.linear(inner, f"{layer}.output.dense") + hidden, f"{layer}.output")
        return hidden

    def linear(self, hidden: np.ndarray, name: str) -> np.ndarray:
        """A layer of weights and biases."""
        return hidden @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normalize(self, hidden: np.ndarray, name: str) -> np.ndarray:
        """A LayerNorm."""
        hidden = hidden - hidden.mean(-1, keepdims=True)
        deviation = np.sqrt((hidden**2).mean(-1, keepdims=True) + np.float32(self.epsilon))
        return hidden / deviation * self.weights[f"{name}.LayerNorm.weight"] + self.weights[f"{name}.LayerNorm.bias"]


@lru_cache(maxsize=1)
def name_encoder() -> NameEncoder:
    """The encoder that comes with the Space."""
    return NameEncoder(FOLDER)


class EncodedIndex:
    """
    Finds the names whose words the encoder takes for those of a name in another script. Nothing is computed before the
    first search.

    Args:
        names (sequence of [`Name`]): The listed names.
        rows (sequence of `int`): Positions of those to search; results are such positions.
    """

    def __init__(self, names: Sequence[Name], rows: Sequence[int]):
        self.rows = np.array(rows, dtype=np.int32)
        places: dict[str, int] = {}
        owners, words = array("i"), array("i")
        for owner, row in enumerate(rows):
            name = names[row]
            for written, weight in zip(name.written, name.weights, strict=True):
                if written and weight == 1.0:
                    owners.append(owner)
                    words.append(places.setdefault(written, len(places)))
        self.words = list(places)
        places_of = np.frombuffer(words, dtype=np.int32)
        counts = np.bincount(places_of, minlength=len(places))
        # Names ordered by word: those that have a word are one slice.
        self.owners = np.frombuffer(owners, dtype=np.int32)[np.argsort(places_of, kind="stable")]
        self.starts = np.concatenate(([0], np.cumsum(counts)))
        self.found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.rarity = np.log1p(len(rows) / np.maximum(counts, 1)).astype(np.float32)

    @cached_property
    def directions(self) -> np.ndarray:
        """Those of all words."""
        return name_encoder().encode(self.words)

    def search(self, name: Name) -> np.ndarray:
        """
        Positions of the names most alike, best first.

        Args:
            name ([`Name`]): Looked up; one that is written without spaces is divided in all ways.
        """
        if not self.words:
            return np.empty(0, dtype=np.int64)
        best = np.zeros(len(self.rows), dtype=np.float32)
        for divided in divisions(name):
            written = [word for word, weight in zip(divided.written, divided.weights, strict=True) if weight == 1.0]
            if written:
                np.maximum(best, self.shared(written) / len(written), out=best)
        found = np.flatnonzero(best)
        found = found[np.lexsort((found, -best[found]))][:MAX_CANDIDATES]
        return self.rows[found]

    def shared(self, words: list[str]) -> np.ndarray:
        """How much of words, rare ones more, every name has."""
        total = np.zeros(len(self.rows), dtype=np.float32)
        for word in words:
            owners, shares = self.have(word)
            total[owners] += shares
        return total

    def have(self, word: str) -> tuple[np.ndarray, np.ndarray]:
        """The names that have a word in their own script, with how sure that is and how rare the word."""
        found = self.found
        if word not in found:
            if len(found) >= KEPT_SEARCHES:
                found = self.found = {}
            cosines = self.directions @ name_encoder().encode([word])[0]
            likeliest = np.flatnonzero(cosines >= MIN_COSINE)
            if len(likeliest) > MAX_WORDS:
                likeliest = likeliest[np.argpartition(-cosines[likeliest], MAX_WORDS)[:MAX_WORDS]]
            # Names that have several such words count once, by the likeliest.
            likeliest = likeliest[np.argsort(cosines[likeliest])]
            shares = {}
            for place in likeliest.tolist():
                share = cosines[place] * self.rarity[place]
                shares.update(dict.fromkeys(self.owners[self.starts[place] : self.starts[place + 1]].tolist(), share))
            owners = np.fromiter(shares, dtype=np.int32, count=len(shares))
            found[word] = owners, np.fromiter(shares.values(), dtype=np.float32, count=len(shares))
        return found[word]


__all__ = ["EncodedIndex", "NameEncoder", "name_encoder"]
