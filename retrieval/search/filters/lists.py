"""Evaluates filters by the inverted lists of the fields that they are over."""

from collections.abc import Mapping
from functools import reduce

import numpy as np

from retrieval.search.filters.postings import Bitmap, Postings, complement_of, pack
from retrieval.search.filters.tree import Compare, Every, Exists, Filter, Not, OneOf, Some
from retrieval.search.filters.values import Shown, ValueCounts


class InvertedLists:
    """Those of each filterable field of some products. A field without lists has a value in none of them."""

    def __init__(self, postings: Mapping[str, Postings], product_count: int):
        self.postings, self._count = postings, product_count

    def evaluate(self, tree: Filter) -> Bitmap:
        """Return the products that a filter lets through."""
        match tree:
            case OneOf(field, values):
                return self.postings[field].one_of(values) if field in self.postings else self._nothing()
            case Compare(field, order, operand):
                return self.postings[field].compare(order, operand) if field in self.postings else self._nothing()
            case Exists(field):
                return self.postings[field].all() if field in self.postings else self._nothing()
            case Not(inner):
                return complement_of(self.evaluate(inner), self._count)
            case Some(members):
                return reduce(np.bitwise_or, map(self.evaluate, members))
            case Every(members):
                return reduce(np.bitwise_and, map(self.evaluate, members), pack(np.ones(self._count, np.bool_)))

    def value_counts(self, field: str, shown: Shown) -> list[ValueCounts]:
        """Return how many products that are shown have each value of a field, in one part; in none without lists."""
        postings = self.postings.get(field)
        return [ValueCounts(postings, postings.counts(shown))] if postings else []

    def _nothing(self) -> Bitmap:
        return pack(np.zeros(self._count, np.bool_))
