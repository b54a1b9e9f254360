"""Searches a build, and makes lists of what is found, as the service does."""

import sys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.build import Build
from retrieval.artifact.products import parse_ids
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.index import one_thread
from retrieval.search.reranking.limits import ProductValues, Values
from retrieval.search.reranking.lists import Ranked
from retrieval.search.reranking.request import ListOptions, Request
from retrieval.search.reranking.user_lists import Found, UserLists
from retrieval.vectors import unit_vectors


class ListMaker:
    """Makes the lists of users of one build. Safe to use from many threads."""

    max_matches = sys.maxsize

    def __init__(self, build: Build):
        self._build, self._values = build, ProductValues(build.products.__getitem__)

    @one_thread()
    def lists_of(self, options: ListOptions, vectors: NDArray[np.float64]) -> tuple[list[Ranked], list[Ranked]]:
        """Return the list of each side of each user with a vector (n, d), who all have the same options."""
        units, request = unit_vectors(vectors), options.request()
        best, worst = list[Ranked](), list[Ranked]()
        for start in range(0, len(units), request.max_users):
            some = units[start : start + request.max_users]
            lists = UserLists(request, [options] * len(some), some, self._ask, self._ids_of, self)
            found = lists.find()
            for row in range(len(some)):
                first, last = lists.lists_of(found, row)
                best.append(first)
                worst.append(last)
        return best, worst

    def values_of(self, positions: Sequence[int], names: tuple[str, ...]) -> Iterable[Values]:
        return self._values.of(positions, names)

    def vectors_of(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._build.vectors(positions)

    def _ids_of(self, positions: NDArray[np.int64]) -> list[str]:
        return parse_ids(self._build.products.prefixes(positions))

    def _ask(self, units: NDArray[np.float32], request: Request) -> Found:
        query = request.filter or EVERYTHING
        return self._build.search_matching(units, request.depth, query, request.excluded, request.without)
