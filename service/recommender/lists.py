"""The lists that users get of what their search has found, and of what further searches find for some of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.products import Prefixes, parse_prefixes
from retrieval.search.filters.tree import Filter
from retrieval.search.ranking import SIDES, SIGNS, Neighbours, SearchPath
from retrieval.search.reranking.lists import Ranked, make_list
from service.engines.base import FieldEngine
from service.recommender.users import Request, Search, User

Found = tuple[Neighbours, Neighbours, int]  # both sides, and how many products match
Ask = Callable[[NDArray[np.float32], Request], Found]  # an engine, about unit vectors (n, d)


@dataclass
class UserLists:
    """The lists of the users who share a search; `vectors` are their unit vectors (n, d).

    `engine` is the one that is asked, where it knows the fields of products. `paths` are the ways of all searches for a
    side, where the engine says them.
    """

    search: Search
    vectors: NDArray[np.float32]
    ask: Ask
    prefixes: Prefixes
    engine: FieldEngine | None
    paths: dict[str, list[SearchPath]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def find(self) -> Found:
        """Search for all users."""
        best, worst, matched = self.ask(self.vectors, self.search.request)
        self._note_path(SIDES[0], best)
        self._note_path(SIDES[1], worst)
        return best, worst, matched

    def list_of(self, side: str, found: Neighbours, row: int) -> Ranked:
        """Return a user's list of one side, of what `find` has found."""
        user = self.search.users[row]
        first = self._qualifying(side, user, found, row, self.search.request.depth)
        if self.engine is None or not user.is_reranked:
            return first.take(slice(user.k)) if len(first.positions) > user.k else first
        deepen = partial(self._search_deeper, side, row, self.engine.max_matches)
        return make_list(first, SIGNS[side], user.list_options, self.engine, deepen)

    def _search_deeper(self, side: str, row: int, max_depth: int, count: int, without: Filter) -> Ranked:
        """Return a user's first products without those of a filter: `count` of them, and as many as are excluded.

        They are fewer where the engine finds no more: any search deeper than the list is long leads further.
        """
        user, request = self.search.users[row], self.search.request
        depth = min(max_depth, count + request.depth - user.list_options.depth)
        best, worst, _ = self.ask(self.vectors[row : row + 1], replace(request, depth=depth, without=without))
        found = best if side == SIDES[0] else worst
        self._note_path(side, found)
        return self._qualifying(side, user, found, 0, depth)

    def _note_path(self, side: str, found: Neighbours) -> None:
        if found.path:
            self.paths[side].append(found.path)

    def _qualifying(self, side: str, user: User, found: Neighbours, row: int, depth: int) -> Ranked:
        """Return those of a user's first `depth` products that are not excluded, as far as their scores may go."""
        positions, scores = found.positions[row], found.scores[row]
        if len(positions) and positions[-1] < 0:  # An approximate engine pads what it did not find.
            count = int(np.count_nonzero(positions >= 0))
            positions, scores = positions[:count], scores[:count]
        is_all = len(positions) < depth
        if user.exclude:
            kept = [product["id"] not in user.exclude for product in parse_prefixes(self.prefixes(positions))]
            positions, scores = positions[kept], scores[kept]
        ranked = Ranked(positions, scores, is_all)
        bound = user.min_score if side == SIDES[0] else user.max_score
        return ranked if bound is None else ranked.within(SIGNS[side], bound)
