"""The searchable index of a catalogue. The builder measures it, and the service serves it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.search.candidates import Candidates
from retrieval.search.exact_scan import Pace, nearest_rows
from retrieval.search.filters.masks import Mask
from retrieval.search.filters.postings import members_of
from retrieval.search.kinds import is_exact
from retrieval.search.ranking import (
    NOTHING,
    SPARE_NEIGHBOURS,
    Neighbours,
    RowGroups,
    SearchPath,
    both_sides,
    cosines_of,
    may_tie,
    order_rows,
    positions_of,
    rank,
    rank_all,
    to_millionths,
)
from retrieval.search.settings import FilteredSettings, SideSettings, fewest_for_scan
from retrieval.search.stored_vectors import StoredVectors, open_vectors

# Candidates leave out rows that may tie with the k-th one. So a few rows more than k are ordered, and where they all
# tie, or nearly, the search is repeated for more, twice at most. Where even these tie, all rows are scored and
# compared, so that thousands of near-identical vectors cost four searches and no more.
_DEEPER_ROWS = (256, 4096)
_MAX_ORDERED_SCORES = 2**11  # So many take less time to put in order than to choose from first.
_MAX_SCANNING_QUERIES, _MAX_SCANNED_MATCHES = 64, 1_000_000  # at a time, which bounds the memory of a scan


class ProductIndex:
    """Both sides of a catalogue's index. Safe to search from many threads: nothing in it changes after opening.

    A search has three steps: find rows that may be among the nearest, score each of them with its vector, and rank
    them. The last two are the same for every kind of index, so that a user's answer is the same to the bit alone and in
    any batch. The worst side of a query is the best side of the negated query.
    """

    def __init__(
        self,
        index: faiss.Index,
        groups: RowGroups,
        settings: SideSettings,
        vectors: StoredVectors | None = None,
        filtered: Sequence[FilteredSettings] = (),
        uneven: Sequence[FilteredSettings] = (),
    ):
        """`index` holds a unit vector a row of `groups`; `vectors` are these, where it keeps nothing but their codes.

        `filtered` are the settings of searches under a mask, by rising share; others have the plain `settings`. A mask
        that `is_uneven` has the `uneven` ones, where there are any.
        Raises BadArtifact where it does not fit the groups, or where there are no vectors.
        """
        if index.ntotal != groups.row_count:
            raise BadArtifact(f"holds {index.ntotal} vectors, the products table {groups.row_count}")
        self.index, self.stored_vectors = index, open_vectors(index, otherwise=vectors)
        self.groups, self.dimension = groups, int(index.d)
        self._candidates = None if is_exact(index) else Candidates(index, settings, filtered, uneven)

    @property
    def is_exact(self) -> bool:
        """Whether every search scores all rows."""
        return self._candidates is None

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the unit vectors (m, d) of index rows (m,)."""
        return self.stored_vectors.take(rows)

    def warm(self) -> None:
        """Map every page of the vectors now, and look up what masks need: the first searches would take longer."""
        self.stored_vectors.warm()
        if self._candidates:
            self._candidates.warm()

    def search(
        self, unit_vectors: NDArray[np.float32], k: int, mask: Mask | None = None, pace: Pace | None = None
    ) -> tuple[Neighbours, Neighbours]:
        """Return the k best and k worst products of each of (n, d) unit vectors; all products where k is more.

        With a mask, they are those of the products that it holds. Each side has the path of the search. Given a `pace`,
        all rows are scored, whatever the kind, in short turns.
        """
        path = SearchPath("nothing matches")
        return neighbours_of(self.keys(unit_vectors, k, mask, path, pace), path)

    def keys(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        mask: Mask | None,
        path: SearchPath,
        pace: Pace | None = None,
    ) -> NDArray[np.int64]:
        """Do what `search` does, and return sort keys (2, n, k). `path` is told the way."""
        if mask and mask.matched == self.groups.product_count:
            mask = None
        k = min(k, mask.matched if mask else self.groups.product_count)
        if not k:
            return np.empty((2, len(unit_vectors), 0), np.int64)
        return self._search(unit_vectors, k, k + SPARE_NEIGHBOURS, _DEEPER_ROWS, mask, path, pace)

    def path(self, k: int, mask: Mask | None = None) -> str:
        """Return how a search finds what it scores: "candidates" of the index, or "exact" where it scores all rows."""
        row_count = mask.row_count if mask else self.groups.row_count
        return "candidates" if self._candidates_for(min(k + SPARE_NEIGHBOURS, row_count), mask) else "exact"

    def is_uneven(self, mask: Mask) -> bool:
        """Tell whether the rows of a mask are in some lists of the index rather than in others."""
        return self._candidates is not None and self._candidates.is_uneven(mask)

    def _search(
        self,
        queries: NDArray[np.float32],
        k: int,
        depth: int,
        deeper_rows: tuple[int, ...],
        mask: Mask | None,
        path: SearchPath,
        pace: Pace | None = None,
    ) -> NDArray[np.int64]:
        """Return the k best and the k worst products of each query (n, d), as sort keys (2, n, k).

        The first `depth` rows of each are ordered, or more for the queries that need it. `path` is told the way.
        """
        row_count = mask.row_count if mask else self.groups.row_count
        depth = min(depth, row_count)
        candidates = None if pace else self._candidates_for(depth, mask)
        at_once = candidates.queries_at_once(depth, mask) if candidates else _scanned_at_once(k)
        if len(queries) > at_once:
            starts = range(0, len(queries), at_once)
            parts = [self._search(queries[i : i + at_once], k, depth, deeper_rows, mask, path, pace) for i in starts]
            return np.concatenate(parts, axis=1)
        if candidates is None:
            path.take("matching rows" if mask else "exact", row_count, row_count)
            return self._rank_all(queries, k, mask, pace)
        name = "candidates" if deeper_rows == _DEEPER_ROWS else "deeper candidates"
        path.take(name, *candidates.counts_for(depth, mask))
        rows = self._order(both_sides(queries), candidates.find(queries, depth, mask), depth)
        keys = rank(rows, self.groups, k, mask.holds if mask else None)
        may_change, keys = may_tie(keys, rows), keys.reshape(2, -1, k)
        if not may_change.any():
            return keys
        is_unsettled = may_change.reshape(2, -1).any(axis=0)
        is_short = (rows[:, -1] == NOTHING).reshape(2, -1).any(axis=0)
        # More candidates are not found where there were too few, but farther ones where many tie.
        for chosen, left in ((is_short, ()), (is_unsettled & ~is_short, deeper_rows)):
            if chosen.any():
                deeper = max(2 * depth, left[0]) if left else row_count
                keys[:, chosen] = self._search(queries[chosen], k, deeper, left[1:], mask, path)
        return keys

    def _candidates_for(self, depth: int, mask: Mask | None) -> Candidates | None:
        """Return what finds candidates for the `depth` nearest rows, or None where scoring all rows takes less time."""
        candidates = self._candidates
        if candidates is None:
            return None
        if mask is None:
            return candidates if candidates.count_for(depth) < fewest_for_scan(self.groups.row_count) else None
        codes_per_row = self.stored_vectors.codes_per_number * self.dimension
        is_faster = candidates.takes_masks and candidates.picked_rows(depth, mask, codes_per_row) < mask.row_count
        return candidates if is_faster else None

    def _rank_all(
        self, queries: NDArray[np.float32], k: int, mask: Mask | None, pace: Pace | None
    ) -> NDArray[np.int64]:
        """Do what `_search` does with the scores of all rows, or of all that the mask holds."""
        row_count = mask.row_count if mask else self.groups.row_count
        if pace is None and len(queries) * row_count <= _MAX_ORDERED_SCORES:
            return self._rank_few(queries, k, mask)
        rows = nearest_rows(self.stored_vectors, queries, k, mask, pace)
        ordered = self._order(both_sides(queries), rows, self._ranked_rows(rows, k, mask))
        keys = rank(ordered, self.groups, k, mask.holds if mask else None).reshape(2, -1, k)
        if (is_crowded := rows[:, 0] < 0).any():
            for crowded in np.flatnonzero(is_crowded.reshape(2, -1).any(axis=0)):
                keys[:, crowded] = self._rank_every_row(queries[crowded], k, mask)
        return keys

    def _rank_few(self, queries: NDArray[np.float32], k: int, mask: Mask | None) -> NDArray[np.int64]:
        """Do what `_rank_all` does with all scores in order; one is computed for both sides."""
        of_mask = members_of(mask.rows) if mask else np.arange(self.groups.row_count)
        rows = np.tile(of_mask, (2 * len(queries), 1))
        scores = both_sides(self.stored_vectors.score(queries, rows[: len(queries)]))
        ordered = order_rows(rows, scores, self._ranked_rows(rows, k, mask))
        return rank(ordered, self.groups, k, mask.holds if mask else None).reshape(2, -1, k)

    def _ranked_rows(self, rows: NDArray[np.int64], k: int, mask: Mask | None) -> int:
        """Return how many of some rows (n, m) have to be ranked for the k first products.

        Of rows that tie, the first has the first product of all; but under a mask that one may not match.
        """
        is_in_order = mask is None or self.groups.row_count == self.groups.product_count
        return k if is_in_order else rows.shape[1]

    def _rank_every_row(self, query: NDArray[np.float32], k: int, mask: Mask | None) -> NDArray[np.int64]:
        """Return the k best and the k worst products of a query (d,), as sort keys (2, k)."""
        groups, rows = self.groups, np.arange(self.groups.row_count)
        if mask:
            rows = members_of(mask.rows)
            groups, _ = groups.matching(rows, mask.holds)
        millionths = to_millionths(self.stored_vectors.score(query[None], rows[None])[0])
        return np.stack([rank_all(sign * millionths, groups, k) for sign in (1, -1)])

    def _order(self, signed: NDArray[np.float32], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the first `count` rows of each query (n, d), of its own rows (n, m), as sort keys in order."""
        return order_rows(rows, self.stored_vectors.score(signed, rows), count)


def neighbours_of(keys: NDArray[np.int64], path: SearchPath) -> tuple[Neighbours, Neighbours]:
    """Return what sort keys (2, n, k) stand for, the k best and the k worst products of n queries."""
    best, worst = zip(positions_of(keys), cosines_of(keys), strict=True)
    return Neighbours(*best, path), Neighbours(*worst, path)


def _scanned_at_once(k: int) -> int:
    """Return for how many queries to scan all rows at a time."""
    return max(1, min(_MAX_SCANNING_QUERIES, _MAX_SCANNED_MATCHES // k))


def use_threads(count: int) -> None:
    """Limit each later search of the calling thread to this many threads."""
    faiss.omp_set_num_threads(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit searches of the calling thread to one thread meanwhile."""
    before = faiss.omp_get_max_threads()
    use_threads(1)
    try:
        yield
    finally:
        use_threads(before)
