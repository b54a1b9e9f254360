"""Searches a build, and makes lists of what is found, as the service does."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.build import Build
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.filters.tree import Filter
from retrieval.search.index import use_threads
from retrieval.search.ranking import SIDES, SIGNS, Neighbours
from retrieval.search.reranking.limits import Values
from retrieval.search.reranking.lists import ListOptions, Ranked, make_list
from retrieval.vectors import unit_vectors

_MAX_USERS_AT_ONCE, _MAX_MATCHES_AT_ONCE = 128, 1_000_000  # which bounds the memory of a search


class ListMaker:
    """Makes the lists of users who all have the same options; `matched` products match the filter."""

    def __init__(
        self,
        build: Build,
        options: ListOptions,
        bounds: Mapping[str, float | None],
        tree: Filter | None,
        excluded: Sequence[str],
        values_of: Callable[[Sequence[int], tuple[str, ...]], Iterable[Values]],
    ):
        self._build, self._options, self._bounds = build, options, bounds
        self.values_of = values_of
        self._mask = None if tree is None else build.filters.mask(tree)
        self.matched = build.manifest.products if self._mask is None else self._mask.matched
        if excluded:
            positions = build.products.positions(excluded)
            self._mask = build.filters.without(self._mask or build.filters.mask(EVERYTHING), positions[positions >= 0])

    def lists_of(self, vectors: NDArray[np.float64]) -> tuple[list[Ranked], list[Ranked]]:
        """Return the list of each side of each user with a vector (n, d)."""
        use_threads(1)
        units = unit_vectors(vectors)
        found: tuple[list[Ranked], list[Ranked]] = ([], [])
        depth = self._options.depth
        width = min(depth, self._build.manifest.products)
        at_once = max(1, min(_MAX_USERS_AT_ONCE, _MAX_MATCHES_AT_ONCE // max(1, width)))
        for start in range(0, len(units), at_once):
            some = units[start : start + at_once]
            sides = self._build.index.search(some, depth, self._mask)
            for side, neighbours, lists in zip(SIDES, sides, found, strict=True):
                for row in range(len(some)):
                    first = self._within(side, neighbours, row, depth)
                    deepen = partial(self._search_deeper, side, some[row : row + 1])
                    lists.append(make_list(first, SIGNS[side], self._options, self, deepen))
        return found

    def vectors_of(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._build.vectors(positions)

    def _search_deeper(self, side: str, unit: NDArray[np.float32], depth: int, without: Filter) -> Ranked:
        filters = self._build.filters
        mask = filters.but(self._mask or filters.mask(EVERYTHING), without)
        return self._within(side, self._build.index.search(unit, depth, mask)[SIDES.index(side)], 0, depth)

    def _within(self, side: str, found: Neighbours, row: int, depth: int) -> Ranked:
        """Return what a search for `depth` products has found for a user, as far as scores may go."""
        positions, scores = found.positions[row], found.scores[row]
        ranked, bound = Ranked(positions, scores, len(positions) < depth), self._bounds[side]
        return ranked if bound is None else ranked.within(SIGNS[side], bound)
