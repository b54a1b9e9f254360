"""Limits how many products with the same value of a field are picked."""

from collections.abc import Collection, Mapping
from typing import Any

from retrieval.search.filters.tree import Filter, OneOf, some

MaxPer = tuple[tuple[str, int], ...]  # fields, and how many products may have the same value of each


class ValueCounts:
    """Counts the values of products that are picked. Of a list, each value counts, and counts once."""

    def __init__(self, max_per: MaxPer):
        self._limits: list[tuple[str, int, dict[str, int]]] = [(field, limit, {}) for field, limit in max_per]

    def pick(self, fields: Mapping[str, Any]) -> bool:
        """Pick the product with these fields, if none of its values is full, and tell whether it is picked."""
        found = []
        for field, limit, counts in self._limits:  # Comprehensions would take half as long again for one value.
            values = _values(fields.get(field))
            for value in values:
                if counts.get(value, 0) >= limit:
                    return False
            found.append((values, counts))
        for values, counts in found:
            for value in values:
                counts[value] = counts.get(value, 0) + 1
        return True

    def full(self) -> Filter:
        """Return the filter that lets the products through that can no longer be picked."""
        return some(
            OneOf(field, frozenset(value for value, count in counts.items() if count >= limit))
            for field, limit, counts in self._limits
        )


def _values(value: Any) -> Collection[str]:
    """Return the values in a field: none where it is missing, and those of a list but null."""
    if isinstance(value, list):
        return {*value} - {None}
    return () if value is None else (value,)
