"""Finds the rows that are probably nearest, by FAISS, in the codes or the graph of an approximate index."""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.search.kinds import is_graph, scanned_index, search_parameters
from retrieval.search.settings import SearchSettings, SideSettings

_MAX_CANDIDATES = 1_000_000  # of all queries searched at once, which bounds the memory of a search
# From 128,000 numbers on FAISS compares queries with the centres of lists by a matrix product, which rounds otherwise.
_MAX_NUMBERS = 100_000
_MAX_CACHED_PARAMETERS = 64


class Candidates:
    """Both sides of an approximate index. Safe to use from many threads: nothing in it changes after opening."""

    def __init__(self, best: faiss.Index, worst: faiss.Index | None, settings: SideSettings):
        """Scan the vectors in `best`, and their negation in `worst`; without `worst`, the query is negated."""
        self._owners = best, worst  # FAISS's downcast views do not keep what they look at alive.
        self._sides = settings.best, settings.worst
        self._transforms = list(_transforms(best))
        self._is_odd = all(isinstance(each, faiss.LinearTransform) and not each.have_bias for each in self._transforms)
        self._best: Any = scanned_index(best)
        self._worst: Any = self._best if worst is None else scanned_index(worst)
        self._is_negated = worst is not None
        # One call reads the codes once for both sides. It has one number of lists, and a graph is walked by each side.
        is_alike = settings.best.nprobe == settings.worst.nprobe and not is_graph(best)
        self._is_one_call = is_alike and not self._is_negated
        # FAISS's parameters go into each call. They are never set on the index, which threads share.
        self._parameters = lru_cache(_MAX_CACHED_PARAMETERS)(partial(search_parameters, self._best))

    def count_for(self, depth: int) -> int:
        """Return the number of candidates, of the side that has more, for the `depth` nearest rows."""
        return max(side.candidates_for(depth) for side in self._sides)

    def queries_at_once(self, depth: int) -> int:
        """Return for how many queries to look at a time."""
        return max(1, min(_MAX_CANDIDATES // self.count_for(depth), _MAX_NUMBERS // self._best.d) // 2)

    def find(self, queries: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
        """Return the candidates for the `depth` best rows of each query (n, d), then for the worst of each.

        The result (2n, m) has -1 for what was not found.
        """
        n, counts = len(queries), [side.candidates_for(depth) for side in self._sides]
        best = self._transformed(queries)
        worst = -best if self._is_odd else self._transformed(-queries)
        if self._is_one_call:
            rows = self._search(self._best, np.concatenate((best, worst)), max(counts), self._sides[0], depth)
        else:
            rows = np.full((2 * n, max(counts)), -1)
            rows[:n, : counts[0]] = self._search(self._best, best, counts[0], self._sides[0], depth)
            worst = -worst if self._is_negated else worst
            rows[n:, : counts[1]] = self._search(self._worst, worst, counts[1], self._sides[1], depth)
        rows[:n, counts[0] :] = rows[n:, counts[1] :] = -1
        return rows

    def _search(
        self, index: Any, queries: NDArray[np.float32], count: int, settings: SearchSettings, depth: int
    ) -> NDArray[np.int64]:
        _, rows = index.search(queries, count, params=self._parameters(settings, depth))
        return rows

    def _transformed(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return queries as the scanned index takes them; one by one, as a product of many rounds otherwise."""
        for transform in self._transforms:
            queries = np.concatenate([transform.apply(query[None]) for query in queries])
        return queries


def _transforms(index: faiss.Index) -> Iterator[faiss.VectorTransform]:
    """Yield what is done to a vector before it is scanned."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        yield from _transforms(index.base_index)
    elif isinstance(index, faiss.IndexPreTransform):
        yield from (faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size()))
        yield from _transforms(index.index)
