"""The fields of a build's products on disk: their names, and the inverted lists of those to filter by.

One file holds all arrays, and another says where each lies. A catalogue whose products have an id, a name and a vector
alone has neither.
"""

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.language import Vocabulary
from retrieval.search.filters.lists import InvertedLists
from retrieval.search.filters.postings import Numbers, Postings, Texts

DIRECTORY, ARRAYS = "fields.json", "fields.bin"
FIELD_FILES = (DIRECTORY, ARRAYS)
NAMES, NOT_FILTERABLE, FILTERABLE = "names", "not_filterable", "filterable"  # the keys of the directory
CONTENT, CONTENT_STARTS, NUMBERS = "content", "content_starts", "numbers"  # the arrays of texts, and of numbers
STARTS, PRODUCTS, BITMAPS = "starts", "products", "bitmaps"  # the arrays of postings
_ALIGNMENT = 64

Arrays = dict[str, NDArray[Any]]
Places = dict[str, tuple[str, int, int]]  # the dtype of each array, its first byte and its length


class ArrayWriter:
    """Writes arrays one behind the other into the file of a build's fields."""

    def __init__(self, directory: Path):
        self._file = (directory / ARRAYS).open("wb")

    def append(self, **arrays: NDArray[Any] | Iterable[NDArray[Any]]) -> Places:
        """Write arrays (n,), given whole or in parts, and return where they lie."""
        return {
            name: self._write([array] if isinstance(array, np.ndarray) else array) for name, array in arrays.items()
        }

    def close(self) -> None:
        self._file.close()

    def _write(self, parts: Iterable[NDArray[Any]]) -> tuple[str, int, int]:
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        start, count, dtype = self._file.tell(), 0, "|u1"
        for part in parts:
            self._file.write(np.ascontiguousarray(part).data)
            count, dtype = count + part.size, part.dtype.str
        return dtype, start, count


def open_fields(
    directory: Path, facts: Iterable[FieldFacts], product_count: int, may_lack_values: bool = False
) -> tuple[Vocabulary, InvertedLists]:
    """Map the fields of a build's products, with these filterable ones.

    Raises BadArtifact where the files do not fit together, or lack the lists of a field, unless they may.
    """
    path = directory / DIRECTORY
    if not path.exists():
        return Vocabulary({}, {}, ()), InvertedLists({}, product_count)
    try:
        found = orjson.loads(path.read_bytes())
        with (directory / ARRAYS).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        filterable = {each.name: each for each in facts}
        listed = [name for name in filterable if name in found[FILTERABLE] or not may_lack_values]
        arrays = {name: _map_arrays(content, found[FILTERABLE][name]) for name in listed}
        postings = {name: _postings(of_field, product_count) for name, of_field in arrays.items()}
        names = _texts(_map_arrays(content, found[NAMES]))
        return Vocabulary(filterable, found[NOT_FILTERABLE], names), InvertedLists(postings, product_count)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{path}: does not describe {ARRAYS}: {error!r}") from error


def _map_arrays(content: mmap.mmap, places: Places) -> Arrays:
    return {name: np.frombuffer(content, dtype, count, start) for name, (dtype, start, count) in places.items()}


def _postings(arrays: Arrays, product_count: int) -> Postings:
    values = Numbers(arrays[NUMBERS]) if NUMBERS in arrays else _texts(arrays)
    bitmaps = arrays[BITMAPS].reshape(-1, -(-product_count // 8))
    if len(arrays[STARTS]) != len(values) + 1 or arrays[STARTS][-1] != len(arrays[PRODUCTS]):
        raise ValueError(f"{len(values)} values, {len(arrays[STARTS])} starts and {len(arrays[PRODUCTS])} products")
    return Postings(values, arrays[STARTS], arrays[PRODUCTS], bitmaps, product_count)


def _texts(arrays: Arrays) -> Texts:
    return Texts(arrays[CONTENT], arrays[CONTENT_STARTS])
