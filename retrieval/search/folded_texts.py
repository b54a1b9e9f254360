"""Finds texts that contain another, whatever case, accents and Unicode form either is written in."""

import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

_SEPARATOR = b"\n"  # No folded text has one, as all white space in it is single spaces.
_PIECE_BYTES = 2**18  # The longest piece that other threads wait for.


class FoldedTexts:
    """Texts by their number, folded and kept in memory: about as many bytes as they have, and eight a text."""

    def __init__(self, texts: Iterable[str]):
        encoded = [_SEPARATOR + fold(text) for text in texts]
        self._starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)[:-1]
        self._content = b"".join([*encoded, _SEPARATOR])

    def containing(self, text: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the numbers of the texts that contain another, each once, in parts of one rank.

        Those that begin with it are of rank 0, those with a word that does of rank 1, and the others of rank 2. Ranks
        rise, and so do the numbers of each.
        """
        folded = fold(text)
        if not folded:
            yield 0, np.arange(len(self._starts))
            return
        is_new = np.ones(len(self._starts), np.bool_)
        for rank, before in enumerate((_SEPARATOR, b" ", b"")):
            for found in self._find(before + folded):
                new = found[is_new[found]]
                is_new[new] = False
                if len(new):
                    yield rank, new

    def _find(self, pattern: bytes) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of the texts in which the bytes are, in rising order, piece by piece."""
        for start in range(0, len(self._content) - 1, _PIECE_BYTES):
            places, end = [], min(start + _PIECE_BYTES, len(self._content) - 1)
            place = self._content.find(pattern, start, end + len(pattern) - 1)
            while place >= 0:
                places.append(place)
                next_text = self._content.find(_SEPARATOR, place + 1)
                place = self._content.find(pattern, next_text, end + len(pattern) - 1)
            yield np.searchsorted(self._starts, places, "right") - 1


def fold(text: str) -> bytes:
    """Return a text in UTF-8 without case, accents and differences of Unicode form, its white space single spaces."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    return " ".join(text.casefold().split()).encode(errors="surrogatepass")
