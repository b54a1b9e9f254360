"""The values of one field, brought together and ranked."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1

Chunk = tuple[list[int], list[Any]]  # catalogue positions, and the value of each product or its list of values


class InexactNumbers(ValueError):
    """Numbers that neither 64-bit integers nor 64-bit floats hold exactly."""


@dataclass(frozen=True)
class Column:
    """The distinct `values` of a field in rising order, texts in UTF-8, and all of its values as pairs.

    A pair is a product's catalogue position, in `products` (m,), and the rank of a value that it has, in `ranks` (m,).
    """

    values: list[bytes] | NDArray[Any]
    products: NDArray[np.int64]
    ranks: NDArray[np.int64]


def column_of(chunks: Iterable[Chunk], field_type: str) -> Column:
    """Return the column of a field's chunks. Raises InexactNumbers."""
    is_list, is_text = field_type.startswith("list of "), field_type.endswith("keyword")
    pairs = (_flatten(*chunk) if is_list else chunk for chunk in chunks)
    return _text_column(pairs) if is_text else _number_column(pairs)


def _flatten(products: list[int], lists: list[list[Any]]) -> Chunk:
    """Return a product for each element that is a value."""
    present = [[value for value in values if value is not None] for values in lists]
    return np.repeat(products, [*map(len, present)]).tolist(), [*chain.from_iterable(present)]


def _text_column(chunks: Iterable[Chunk]) -> Column:
    found: dict[str, int] = {}  # texts in the order in which they first come
    products, places = [], []
    for some, texts in chunks:
        products.append(np.array(some, np.int64))
        places.append(np.fromiter((found.setdefault(text, len(found)) for text in texts), np.int64, len(texts)))
    distinct = sorted(found)  # Code points are ordered as UTF-8 is.
    rank_of = np.empty(len(distinct), np.int64)
    rank_of[[found[text] for text in distinct]] = np.arange(len(distinct))
    return Column([text.encode() for text in distinct], np.concatenate(products), rank_of[np.concatenate(places)])


def _number_column(chunks: Iterable[Chunk]) -> Column:
    products, parts = [], []
    for some, numbers in chunks:
        products.append(np.array(some, np.int64))
        parts.append(_exact_array(numbers))
    if len({part.dtype for part in parts}) > 1:
        parts = [_exact_floats(part.tolist()) for part in parts]
    values, ranks = np.unique(np.concatenate(parts), return_inverse=True)
    return Column(values, np.concatenate(products), ranks)


def _exact_array(numbers: list[Any]) -> NDArray[Any]:
    """Return booleans as uint8, and numbers as int64 where all are whole, or else as float64."""
    if type(numbers[0]) is bool:
        return np.array(numbers, np.uint8)
    if all(type(number) is int or number.is_integer() for number in numbers):
        whole = [*map(int, numbers)]
        if min(whole) >= _MIN_INTEGER and max(whole) <= _MAX_INTEGER:
            return np.array(whole, np.int64)
    return _exact_floats(numbers)


def _exact_floats(numbers: list[int | float]) -> NDArray[np.float64]:
    if any(float(number) != number for number in numbers):
        raise InexactNumbers
    return np.array(numbers, np.float64)
