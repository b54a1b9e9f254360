"""Finds the rows that may score highest, and lowest, by scoring all rows once, or all that a mask holds."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.masks import Mask
from retrieval.search.stored_vectors import SCORING_ERROR, StoredVectors

_MARGIN = np.float32(1e-6 + 2 * SCORING_ERROR)  # Rows this close to the k-th one may share its score in millionths.
_MAX_SCORES = 2**22  # computed at a time, which bounds the memory of a scan
_PACED_SCORES = 2**13  # computed in one turn of a scan that gives way: less than a millisecond at 300 dimensions
_GROUP_ROWS, _MIN_GROUPS_PER_ROW = 64, 4
DENSE_SHARE = 0.7  # From there on, scoring all rows in their order takes less time than leaving some out.
_MAX_TIES = 1000  # that a query may have in a block; each costs memory for every query

Pace = Callable[[], AbstractContextManager[object]]  # A scan that gives way enters one for each turn.


def nearest_rows(
    vectors: StoredVectors, queries: NDArray[np.float32], k: int, mask: Mask | None = None, pace: Pace | None = None
) -> NDArray[np.int64]:
    """Return, of each query (n, d), the rows that may be among the k best, then of each those among the k worst.

    With a mask, they are of its rows. The result (2n, m) is filled with -1, and has nothing else for a query with very
    many such rows. Given a `pace`, the scan takes short turns.
    """
    n, max_scores = len(queries), _PACED_SCORES if pace else _MAX_SCORES
    rows_at_once = max(1, max_scores // max(1, n))
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    is_crowded = np.zeros(2 * n, bool)
    for row_of, scores in _scored_blocks(vectors, queries, rows_at_once, mask, pace or nullcontext):
        line, column = _outermost(scores, k)
        is_crowded |= np.bincount(line, minlength=2 * n) > 2 * k + _MAX_TIES
        found.append((line, row_of(column)))
        if is_crowded.any():
            found = [_without(is_crowded, *each) for each in found]
    return _side_by_side(2 * n, min(k, vectors.count), *map(np.concatenate, zip(*found, strict=True)))


def _scored_blocks(
    vectors: StoredVectors, queries: NDArray[np.float32], size: int, mask: Mask | None, pace: Pace
) -> Iterator[tuple[Callable[[NDArray[np.int64]], NDArray[np.int64]], NDArray[np.float32]]]:
    """Yield the scores (n, m) of each query (n, d) with some `size` rows, behind what turns a column into its row."""
    if mask:
        for rows in mask.row_blocks(size):
            start, stop = int(rows[0]), int(rows[-1]) + 1
            with pace():
                if len(rows) > DENSE_SHARE * (stop - start):
                    scores = np.take(vectors.score_range(queries, start, stop), rows - start, axis=1)
                else:
                    scores = vectors.score_rows(queries, rows)
            yield rows.__getitem__, scores
        return
    for start in range(0, vectors.count, size):
        with pace():
            scores = vectors.score_range(queries, start, min(start + size, vectors.count))
        yield partial(np.add, start), scores


def _outermost(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a line and a column of each of the scores (n, m) that may be among the k highest, or lowest, of their row.

    The highest ones of row i are in line i, the lowest ones in line n + i; all that may tie with the k-th are there.
    """
    n, m = scores.shape
    if m <= k:
        return np.divmod(np.arange(2 * scores.size), m)
    # The k-th highest of the groups' maxima does not exceed that of all, and few scores lie between.
    groups = m // _GROUP_ROWS
    grouped = scores[:, : groups * _GROUP_ROWS].reshape(n, _GROUP_ROWS, groups)
    if groups >= _MIN_GROUPS_PER_ROW * k:
        highest = np.concatenate((grouped.max(axis=1), -grouped.min(axis=1)))
    else:
        highest = np.concatenate((scores, -scores))
    # Half-precision vectors may be longer than 1. What scores more than 1 ranks as 1, and ties with all that does.
    highest.partition(highest.shape[1] - k, axis=1)
    kth = np.minimum(highest[:, -k, np.newaxis], 1) - _MARGIN
    above, below = np.flatnonzero(scores >= kth[:n]), np.flatnonzero(scores <= -kth[n:])
    return np.divmod(np.concatenate((above, below + scores.size)), m)


def _without(
    excluded: NDArray[np.bool_], lines: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    kept = ~excluded[lines]
    return lines[kept], rows[kept]


def _side_by_side(count: int, width: int, lines: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of each of `count` lines side by side, filled with -1 to `width` at least."""
    counts = np.bincount(lines, minlength=count)
    table = np.full((count, counts.max(initial=width)), -1)
    table[np.arange(table.shape[1]) < counts[:, np.newaxis]] = rows[np.argsort(lines, kind="stable")]
    return table
