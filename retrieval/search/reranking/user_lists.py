"""The lists that users get of what their search has found, and of what further searches find for some of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.tree import Filter
from retrieval.search.ranking import SIDES, SIGNS, Neighbours, SearchPath
from retrieval.search.reranking.lists import Products, Ranked, make_list
from retrieval.search.reranking.request import ListOptions, Request

Found = tuple[Neighbours, Neighbours, int]  # both sides, and how many products match
Ask = Callable[[NDArray[np.float32], Request], Found]  # a search, for unit vectors (n, d)
IdsOf = Callable[[NDArray[np.int64]], Sequence[str]]  # the id of the product at each catalogue position (m,)


class SearchedProducts(Products, Protocol):
    """What is known of the products that a search finds, `max_matches` of them a side at most."""

    max_matches: int


@dataclass
class UserLists:
    """The lists of users with these `options` each, and unit `vectors` (n, d), who share a search: the same `request`.

    `products` are None where nothing is known of them, so that no list is reranked. `paths` are the ways of all
    searches for a side, where they are told.
    """

    request: Request
    options: Sequence[ListOptions]
    vectors: NDArray[np.float32]
    ask: Ask
    ids_of: IdsOf
    products: SearchedProducts | None
    paths: dict[str, list[SearchPath]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def find(self) -> Found:
        """Search for all users."""
        best, worst, matched = self.ask(self.vectors, self.request)
        self._note_path(SIDES[0], best)
        self._note_path(SIDES[1], worst)
        return best, worst, matched

    def lists_of(self, found: Found, row: int) -> tuple[Ranked, Ranked]:
        """Return both lists of a user, of what `find` has found."""
        return self._list(SIDES[0], found[0], row), self._list(SIDES[1], found[1], row)

    def _list(self, side: str, found: Neighbours, row: int) -> Ranked:
        options = self.options[row]
        first = self._qualifying(side, options, found, row, self.request.depth)
        if self.products is None or not options.is_reranked:
            return first.take(slice(options.k)) if len(first.positions) > options.k else first
        deepen = partial(self._search_deeper, side, row, self.products.max_matches)
        return make_list(first, SIGNS[side], options, self.products, deepen)

    def _search_deeper(self, side: str, row: int, max_depth: int, count: int, without: Filter) -> Ranked:
        """Return a user's first products without those of a filter: `count` of them, and as many as are excluded.

        They are fewer where the search finds no more: any search deeper than the list is long leads further.
        """
        options = self.options[row]
        depth = min(max_depth, count + self.request.depth - options.depth)
        best, worst, _ = self.ask(self.vectors[row : row + 1], replace(self.request, depth=depth, without=without))
        found = best if side == SIDES[0] else worst
        self._note_path(side, found)
        return self._qualifying(side, options, found, 0, depth)

    def _note_path(self, side: str, found: Neighbours) -> None:
        if found.path:
            self.paths[side].append(found.path)

    def _qualifying(self, side: str, options: ListOptions, found: Neighbours, row: int, depth: int) -> Ranked:
        """Return those of a user's first `depth` products that are not excluded, as far as their scores may go."""
        positions, scores = found.positions[row], found.scores[row]
        if len(positions) and positions[-1] < 0:  # An approximate search pads what it did not find.
            count = int(np.count_nonzero(positions >= 0))
            positions, scores = positions[:count], scores[:count]
        is_all = len(positions) < depth
        if options.exclude and not self.request.excluded:
            kept = [each not in options.exclude for each in self.ids_of(positions)]
            positions, scores = positions[kept], scores[kept]
        ranked = Ranked(positions, scores, is_all)
        bound = options.min_score if side == SIDES[0] else options.max_score
        return ranked if bound is None else ranked.within(SIGNS[side], bound)
