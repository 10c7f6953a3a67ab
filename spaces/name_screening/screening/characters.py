"""The characters of a name as the numbers that an encoder reads, whatever the script."""

import unicodedata
from collections.abc import Callable


# Parts of names are shorter; what is longer is cut off.
MAX_CHARACTERS = 32
PADDING = 0


class Characters:
    """
    Numbers characters by a table that is stored with the encoder. What the table lacks is read in Latin letters, so
    that no script is lost. Accents, voicing marks and the sounds of a Korean syllable are characters of their own.

    Args:
        known (`str`): The table; the first character has the number 1.
        read (callable): The Latin letters for a character.

    Example:
        >>> Characters("abc", {"\u0431": "b"}.get).ids("A\u0431")
        [1, 2]
    """

    def __init__(self, known: str, read: Callable[[str], str | None]):
        self.numbers = {character: number for number, character in enumerate(known, start=PADDING + 1)}
        self.read = read

    def ids(self, text: str) -> list[int]:
        """The numbers of a text's characters; empty where nothing of it can be read."""
        found: list[int] = []
        for character in unicodedata.normalize("NFKD", text.casefold()):
            if character in self.numbers:
                found.append(self.numbers[character])
            else:
                found += self.read_ids(character)
        return found[:MAX_CHARACTERS]

    def read_ids(self, character: str) -> list[int]:
        """The numbers of the Latin letters for a character."""
        letters = (self.read(character) or "").lower()
        return [self.numbers[letter] for letter in letters if letter in self.numbers]


__all__ = ["MAX_CHARACTERS", "PADDING", "Characters"]
