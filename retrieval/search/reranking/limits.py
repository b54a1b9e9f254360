"""Limits how many products with the same value of a field are picked."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import repeat
from sys import intern
from typing import Any

from retrieval.search.filters.tree import Filter, OneOf, some
from retrieval.search.reranking.fields import pick_fields

MaxPer = tuple[tuple[str, int], ...]  # fields, and how many products may have the same value of each
Values = Sequence[Collection[str]]  # the values of a product in each of some fields, each value once

_MAX_KEPT_PRODUCTS = 2**14  # A line takes several times as long to read and parse as to look up.


class ProductValues:
    """The values of fields of products, of which those read last are kept. Safe to use from many threads."""

    def __init__(self, product_at: Callable[[int], dict[str, Any]]):
        """`product_at` returns all fields of the product at a catalogue position."""
        self._kept = lru_cache(_MAX_KEPT_PRODUCTS)(partial(_read, product_at))

    def of(self, positions: Iterable[int], names: tuple[str, ...]) -> Iterator[Values]:
        """Yield the values of each product in the fields of these names, which are read as they are asked for."""
        return map(self._kept, positions, repeat(names))


def _read(product_at: Callable[[int], dict[str, Any]], position: int, names: tuple[str, ...]) -> Values:
    return values_in(pick_fields(product_at(position), names), names)


def values_in(fields: Mapping[str, Any], names: tuple[str, ...]) -> Values:
    """Return the values in the fields of these names."""
    return [_values(fields.get(name)) for name in names]


class ValueCounts:
    """Counts the values of products that are picked."""

    def __init__(self, max_per: MaxPer):
        self._limits: list[tuple[str, int, dict[str, int]]] = [(field, limit, {}) for field, limit in max_per]

    def pick(self, values: Values) -> bool:
        """Pick the product with these values in the fields, if none is full, and tell whether it is picked."""
        for of_field, (_, limit, counts) in zip(values, self._limits, strict=True):
            for value in of_field:
                if counts.get(value, 0) >= limit:
                    return False
        for of_field, (_, _, counts) in zip(values, self._limits, strict=True):
            for value in of_field:
                counts[value] = counts.get(value, 0) + 1
        return True

    def full(self) -> Filter:
        """Return the filter that lets the products through that can no longer be picked."""
        return some(
            OneOf(field, frozenset(value for value, count in counts.items() if count >= limit))
            for field, limit, counts in self._limits
        )


def _values(value: Any) -> Collection[str]:
    """Return the values in a field: none where it is missing, and those of a list but null.

    Equal ones are one string, so that what is kept of many products takes little memory.
    """
    if isinstance(value, list):
        return frozenset(intern(each) for each in value if each is not None)
    return () if value is None else (intern(value),)
