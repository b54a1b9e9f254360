"""Limits how many products with the same value of a field are picked."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from retrieval.search.filters.tree import Filter, OneOf, some

MaxPer = tuple[tuple[str, int], ...]  # fields, and how many products may have the same value of each


class ValueCounts:
    """Counts the values of products that are picked. A value of a list counts once, and so does each of its others."""

    def __init__(self, max_per: MaxPer):
        self._limits = [(field, limit, Counter[str]()) for field, limit in max_per]

    def pick(self, fields: Mapping[str, Any]) -> bool:
        """Pick the product with these fields, if none of its values is full, and tell whether it is picked."""
        values = [(_values(fields.get(field)), limit, counts) for field, limit, counts in self._limits]
        if any(counts[value] >= limit for of_field, limit, counts in values for value in of_field):
            return False
        for of_field, _, counts in values:
            counts.update(of_field)
        return True

    def full(self) -> Filter:
        """Return the filter that lets the products through that can no longer be picked."""
        return some(
            OneOf(field, frozenset(value for value, count in counts.items() if count >= limit))
            for field, limit, counts in self._limits
        )


def _values(value: Any) -> set[str]:
    """Return the values of a field: none where it is missing, and those in a list but null."""
    return {*value} - {None} if isinstance(value, list) else {value} - {None}
