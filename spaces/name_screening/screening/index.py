"""Which listed names are worth comparing with a name: an inverted index over pieces of names."""

from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from .names import Name, sound_of


# Postings read for one name. Above it the rarest pieces decide, which hold nearly all of the weight.
MAX_POSTINGS = 400_000
MAX_CANDIDATES = 100
# Below this cosine two names share a common word at most.
MIN_SIMILARITY = 0.2


@lru_cache(maxsize=1 << 17)
def pieces_of_word(word: str) -> tuple[str, ...]:
    """Three letters each, ends marked, and the sound of the whole word."""
    marked = f"^{word}$"
    return (*(marked[place : place + 3] for place in range(len(marked) - 2)), f"~{sound_of(word)}")


def pieces_of(name: Name) -> set[str]:
    """What the index knows of a name: pieces of its words, and of the sound of the whole."""
    pieces = {piece for word in name.words for piece in pieces_of_word(word)}
    sound = "".join(sound_of(word) for word in name.words)
    pieces.update(f"~~{sound[place : place + 3]}" for place in range(len(sound) - 2))
    return pieces


class NameIndex:
    """
    Finds the names that share rare pieces with a given one, whatever their number, order and script.

    Args:
        names (iterable of [`Name`]): The listed names; results are their positions.
    """

    def __init__(self, names: Iterable[Name]):
        self.pieces: dict[str, int] = {}
        owners, rows, count = array("i"), array("i"), 0
        for row, name in enumerate(names):
            count = row + 1
            for piece in pieces_of(name):
                owners.append(self.pieces.setdefault(piece, len(self.pieces)))
                rows.append(row)
        piece_ids = np.frombuffer(owners, dtype=np.int32)
        name_ids = np.frombuffer(rows, dtype=np.int32)
        counts = np.bincount(piece_ids, minlength=len(self.pieces))
        weights = (np.log1p(count / np.maximum(counts, 1)) ** 2).astype(np.float32)
        norms = np.sqrt(np.bincount(name_ids, weights=weights[piece_ids], minlength=count))
        # Names ordered by piece: the postings of a piece are one slice.
        order = np.argsort(piece_ids, kind="stable")
        self.postings = name_ids[order]
        self.starts = np.concatenate(([0], np.cumsum(counts)))
        self.weights = weights
        self.norms = np.maximum(norms, 1e-6).astype(np.float32)

    def __len__(self) -> int:
        return len(self.norms)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.postings.nbytes + self.starts.nbytes + self.weights.nbytes + self.norms.nbytes

    def search(self, name: Name) -> np.ndarray:
        """
        Positions of the names most alike, best first.

        Args:
            name ([`Name`]): Looked up.

        Returns:
            `numpy.ndarray`: At most `MAX_CANDIDATES` positions.
        """
        pieces = pieces_of(name)
        known = sorted((self.pieces[piece] for piece in pieces if piece in self.pieces), key=self.posting_count)
        if not known:
            return np.empty(0, dtype=np.int64)
        # Pieces that no listed name has weigh as much as the rarest.
        unknown = (len(pieces) - len(known)) * float(np.log1p(len(self)) ** 2)
        norm = np.sqrt(unknown + self.weights[known].sum())
        slices = list(self.slices(known))
        found = np.concatenate([self.postings[start:stop] for _, start, stop in slices])
        weights = np.repeat(
            [self.weights[piece] for piece, _, _ in slices], [stop - start for _, start, stop in slices]
        )
        similarity = np.bincount(found, weights=weights, minlength=len(self)).astype(np.float32)
        similarity /= self.norms * norm
        candidates = np.flatnonzero(similarity >= MIN_SIMILARITY)
        if len(candidates) > MAX_CANDIDATES:
            keep = np.argpartition(-similarity[candidates], MAX_CANDIDATES)[:MAX_CANDIDATES]
            candidates = candidates[keep]
        return candidates[np.lexsort((candidates, -similarity[candidates]))]

    def posting_count(self, piece: int) -> int:
        """How many names have a piece."""
        return int(self.starts[piece + 1] - self.starts[piece])

    def slices(self, pieces: list[int]) -> Iterator[tuple[int, int, int]]:
        """Pieces with the slice of their postings, rarest first, as many as may be read."""
        total = 0
        for piece in pieces:
            start, stop = int(self.starts[piece]), int(self.starts[piece + 1])
            if total and total + stop - start > MAX_POSTINGS:
                return
            total += stop - start
            yield piece, start, stop


__all__ = ["NameIndex"]
