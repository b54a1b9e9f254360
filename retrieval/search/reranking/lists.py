"""Makes the list of a side that is shown of the products that qualify: limits by value, then diversity, then k."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.tree import Filter
from retrieval.search.reranking.diversity import pick_diverse
from retrieval.search.reranking.limits import ValueCounts, Values
from retrieval.search.reranking.request import ListOptions

_GROWTH = 4


class Ranked(NamedTuple):
    """Products in the order of a side: catalogue `positions` (m,) and cosine `scores` (m,).

    `is_all` tells that no other product qualifies.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    is_all: bool = False

    def within(self, sign: float, bound: float) -> "Ranked":
        """Return the products whose scores, times the side's sign, reach the bound times it."""
        count = int(np.count_nonzero(sign * self.scores >= sign * bound))
        return Ranked(self.positions[:count], self.scores[:count], self.is_all or count < len(self.scores))

    def take(self, places: slice | NDArray[Any]) -> "Ranked":
        return Ranked(self.positions[places], self.scores[places], self.is_all)


class Products(Protocol):
    """What is known of products by catalogue position (m,)."""

    def values_of(self, positions: Sequence[int], names: tuple[str, ...]) -> Iterable[Values]:
        """Yield the values of each product in the fields of these names."""

    def vectors_of(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the unit vectors (m, d)."""


Search = Callable[[int, Filter], Ranked]  # A number of products, and a filter that lets through what to leave out.


def make_list(found: Ranked, sign: float, options: ListOptions, products: Products, search: Search) -> Ranked:
    """Return the list that the first `options.depth` products that qualify lead to, or all where there are fewer.

    `sign` is 1 for the best side and -1 for the worst. `search` is asked for the first products of those that a filter
    does not let through, where more are needed.
    """
    if options.max_per:
        found = _limit(found, sign, options, products, search)
    if options.diversity:
        pool = found.take(slice(options.wanted))
        vectors = products.vectors_of(pool.positions)
        found = pool.take(pick_diverse(vectors, sign * pool.scores, options.k, options.diversity))
    return found.take(slice(options.k))


def _limit(found: Ranked, sign: float, options: ListOptions, products: Products, search: Search) -> Ranked:
    """Return the first products wanted of which no more have a value than may.

    Products are picked in order. Where too few are found, those without a value that is full by then are searched, at a
    depth that grows fourfold. So each search finds a product to pick or ends it, and a list of n of p products takes at
    most 1 + log4(p / n) of them, the last of which scores all products that are left.
    """
    counts, ahead = ValueCounts(options.max_per), options.wanted
    names = tuple(field for field, _ in options.max_per)
    picked: dict[int, float] = {}
    while True:
        positions = found.positions.tolist()
        values = products.values_of(positions, names)
        for position, score, each in zip(positions, found.scores.tolist(), values, strict=True):
            if position not in picked and counts.pick(each):
                picked[position] = score
                if len(picked) == options.wanted:
                    break
        if len(picked) == options.wanted or found.is_all:
            break
        ahead *= _GROWTH
        found = search(len(picked) + ahead, counts.full())
    in_order, scores = np.array([*picked], np.int64), np.array([*picked.values()], np.float64)
    # A later search of an approximate index may find what an earlier one has missed.
    order = np.lexsort((in_order, -sign * scores)) if ahead > options.wanted else slice(None)
    return Ranked(in_order, scores).take(order)
