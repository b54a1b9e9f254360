"""The searchable index of a catalogue. The builder measures it, and the service serves it."""

from functools import lru_cache, partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.search.filters.masks import Mask
from retrieval.search.kinds import exact_rows, score_rows, search_parameters
from retrieval.search.ranking import (
    RANKING_ERROR,
    SIGNS,
    SPARE_NEIGHBOURS,
    Neighbours,
    RowGroups,
    positions_of,
    rank,
    rank_all,
    scores_of,
    to_millionths,
)
from retrieval.search.settings import SearchSettings, SideSettings

# FAISS ranks one query by a scan and many by a matrix product, which round differently. Where the rows left out could
# still tie with the k-th one, a search fetches more, twice at most. Where even these could, all rows are scored and
# compared, so that thousands of near-identical vectors cost four searches and no more.
_DEEPER_ROWS = (256, 4096)
_MAX_CANDIDATES = 1_000_000  # of all queries searched at once, which bounds the memory of a search
_MAX_CACHED_PARAMETERS = 64
# Exact scores of rows picked here and there cost several times as much a row as a scan of all in memory order.
_SCAN_ADVANTAGE = 8
_MIN_BLAS_QUERIES = 8  # from here on a matrix product takes less time than as many scans
_PAGE_BYTES = 4096


class ProductIndex:
    """Both sides of a catalogue's index. Safe to search from many threads: nothing in it changes after opening."""

    def __init__(self, best: faiss.Index, worst: faiss.Index | None, groups: RowGroups, settings: SideSettings):
        """`best` holds a unit vector a row of `groups`, `worst` its negation; without `worst`, the query is negated.

        Raises BadArtifact where an index does not fit the groups.
        """
        self.groups = groups
        self.dimension = int(best.d)
        faiss.cvar.distance_compute_blas_threshold = _MIN_BLAS_QUERIES * self.dimension
        self._sides = {
            "best": _Side("best", best, groups, settings.best),
            "worst": _Side("worst", best if worst is None else worst, groups, settings.worst, worst is None),
        }

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the unit vectors (m, d) of index rows (m,), as the best side keeps them."""
        return self._sides["best"].exact_rows.reconstruct_batch(rows)

    def warm(self) -> None:
        """Map every page of the vectors now; on demand, it would make the first searches several times slower."""
        for side in self._sides.values():
            codes = side.exact_rows.codes
            if codes.size():
                faiss.rev_swig_ptr(codes.data(), codes.size())[::_PAGE_BYTES].max()

    def search(
        self, unit_vectors: NDArray[np.float32], k: int, mask: Mask | None = None
    ) -> tuple[Neighbours, Neighbours]:
        """Return the k best and k worst products of each of (n, d) unit vectors; all products where k is more.

        With a mask, they are those of the products that it holds.
        """
        if mask and mask.matched < self.groups.product_count:
            return self._search_masked(unit_vectors, k, mask)
        keys = self._rank_nearest([(side, unit_vectors) for side in self._sides.values()], k, k + SPARE_NEIGHBOURS)
        users = len(unit_vectors)
        return _neighbours("best", keys[:users]), _neighbours("worst", keys[users:])

    def search_side(self, side: str, unit_vectors: NDArray[np.float32], k: int) -> Neighbours:
        """Return one of the two halves of `search`: "best" or "worst"."""
        return _neighbours(side, self._rank_nearest([(self._sides[side], unit_vectors)], k, k + SPARE_NEIGHBOURS))

    def _search_masked(self, unit_vectors: NDArray[np.float32], k: int, mask: Mask) -> tuple[Neighbours, Neighbours]:
        """Do what `search` does under a mask, from the scores of all rows."""
        k, chosen = min(k, mask.matched), mask.holds(self.groups.products)
        found = []
        for name, side in self._sides.items():
            scores = (to_millionths(side.score_all(query)) for query in (unit_vectors if k else ()))
            keys = [rank_all(millionths, self.groups, k, chosen) for millionths in scores]
            found.append(_neighbours(name, np.array(keys, np.int64).reshape(len(unit_vectors), k)))
        return found[0], found[1]

    def _rank_nearest(
        self, batches: "list[_Batch]", k: int, depth: int, deeper_rows: tuple[int, ...] = _DEEPER_ROWS
    ) -> NDArray[np.int64]:
        """Return the k nearest products of all batches' queries, one batch after the other, as sort keys (n, k).

        The `depth` nearest rows of each query are ranked, or more for the queries that need it.
        """
        k = min(k, self.groups.product_count)
        depth = min(depth, self.groups.row_count)
        size = max(1, _MAX_CANDIDATES // depth)
        if max(len(queries) for _, queries in batches) > size:
            parts = [(side, queries[i : i + size]) for side, queries in batches for i in range(0, len(queries), size)]
            return np.concatenate([self._rank_nearest([part], k, depth, deeper_rows) for part in parts])
        nearest = [side.nearest_rows(queries, depth) for side, queries in batches]
        rows, scores, bounds = nearest[0] if len(nearest) == 1 else map(np.concatenate, zip(*nearest, strict=True))
        keys = rank(rows, to_millionths(scores), self.groups, k)
        if depth < self.groups.row_count:
            unsettled = scores_of(keys[:, -1]) <= bounds + RANKING_ERROR
            if unsettled.any():
                rest, deeper = _select(batches, unsettled), max([2 * depth, *deeper_rows[:1]])
                if deeper_rows and deeper * _SCAN_ADVANTAGE < self.groups.row_count:
                    keys[unsettled] = self._rank_nearest(rest, k, deeper, deeper_rows[1:])
                else:
                    keys[unsettled] = self._rank_all(rest, k)
        return keys

    def _rank_all(self, batches: "list[_Batch]", k: int) -> NDArray[np.int64]:
        """Do what `_rank_nearest` does with the scores of all rows; a query at a time, which bounds the memory."""
        queries = [(side, query) for side, some in batches for query in some]
        return np.stack([rank_all(to_millionths(side.score_all(query)), self.groups, k) for side, query in queries])


class _Side:
    """Finds the rows of highest inner product in one FAISS index."""

    def __init__(
        self, name: str, index: faiss.Index, groups: RowGroups, settings: SearchSettings, negates_queries: bool = False
    ):
        if index.ntotal != groups.row_count:
            raise BadArtifact(f"{name}.faiss: holds {index.ntotal} vectors, the products table {groups.row_count}")
        rows = exact_rows(index)
        if rows is None:
            raise BadArtifact(f"{name}.faiss: a {type(index).__name__} does not keep the vectors themselves")
        self._owner = index  # FAISS's downcast views do not keep what they look at alive
        self._index: Any = faiss.downcast_index(index)
        self.exact_rows: Any = rows
        self._is_exact = self._index.this == rows.this
        self._groups, self._settings, self._negates_queries = groups, settings, negates_queries
        # FAISS's parameters go into each call. They are never set on the index, which threads share.
        self._parameters_for = lru_cache(_MAX_CACHED_PARAMETERS)(partial(search_parameters, self._index, settings))

    def nearest_rows(
        self, queries: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Return the `depth` nearest rows, their scores, both (n, depth), and a bound (n,) of all scores left out.

        A row that an approximate index could not find is -1, and what it left out may have any score.
        """
        if self._negates_queries:
            queries = -queries
        if self._is_exact or self._settings.candidates_for(depth) * _SCAN_ADVANTAGE >= self._groups.row_count:
            scores, rows = self.exact_rows.search(queries, depth)
            bounds = scores[:, -1].copy()
            if isinstance(self.exact_rows, faiss.IndexFlat):
                score_rows(self.exact_rows, queries, rows, scores)
        else:
            scores, rows = self._index.search(queries, depth, params=self._parameters_for(depth))
            bounds = np.where(rows[:, -1] < 0, np.float32(np.inf), scores[:, -1])
        return rows, scores, bounds

    def score_all(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of all rows with a query (d,), to the bit those that `nearest_rows` gives."""
        queries, count = -query[None] if self._negates_queries else query[None], self._groups.row_count
        if isinstance(self.exact_rows, faiss.IndexFlat):
            scores = np.empty((1, count), np.float32)
            score_rows(self.exact_rows, queries, np.arange(count)[None], scores)
            return scores[0]
        found, rows = self.exact_rows.search(queries, count)
        return found[0, np.argsort(rows[0])]


_Batch = tuple[_Side, NDArray[np.float32]]


def use_threads(count: int) -> None:
    """Limit each later search of the calling thread to this many threads."""
    faiss.omp_set_num_threads(count)


def _select(batches: list[_Batch], chosen: NDArray[np.bool_]) -> list[_Batch]:
    """Return the chosen queries of all batches; `chosen` counts them one batch after the other."""
    ends = np.cumsum([len(queries) for _, queries in batches])
    parts = [(side, queries[part]) for (side, queries), part in zip(batches, np.split(chosen, ends[:-1]), strict=True)]
    return [(side, queries) for side, queries in parts if len(queries)]


def _neighbours(side: str, keys: NDArray[np.int64]) -> Neighbours:
    return Neighbours(positions_of(keys), SIGNS[side] * scores_of(keys) + 0.0)
