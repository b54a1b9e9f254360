"""Recall as the service promises it, by scores computed from the vectors: no contestant's own are believed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.search.ranking import TOLERANCE

KS = (10, 100)
_BLOCK_ROWS, _BLOCK_USERS = 65_536, 256

Vectors = NDArray[np.float32]


def kth_scores(products: Vectors, queries: Vectors, ks: Sequence[int]) -> Vectors:
    """Return each query's (u, d) exact k-th highest score among products (n, d) for each of the ks, (u, ks)."""
    deepest = min(max(ks), len(products))
    best = np.full((len(queries), 0), -np.inf, np.float32)
    for start in range(0, len(products), _BLOCK_ROWS):
        block = products[start : start + _BLOCK_ROWS]
        parts = [
            _highest(queries[i : i + _BLOCK_USERS] @ block.T, deepest) for i in range(0, len(queries), _BLOCK_USERS)
        ]
        best = _highest(np.hstack([best, np.concatenate(parts)]), deepest)
    return -np.sort(-best, axis=1)[:, [min(k, deepest) - 1 for k in ks]]


def recall(products: Vectors, queries: Vectors, found: NDArray[np.integer], kth: Vectors) -> float:
    """Return the share of the exact top k that each query's (u, d) found rows (u, k) are, in the mean; -1 is none."""
    scores = np.einsum("ukd,ud->uk", products[np.maximum(found, 0)], queries)
    return float(((scores >= kth[:, np.newaxis] - TOLERANCE) & (found >= 0)).mean())


def _highest(scores: Vectors, count: int) -> Vectors:
    """Return the highest scores (u, count) of each row, in any order; all where there are fewer."""
    return scores if scores.shape[1] <= count else np.partition(scores, -count, axis=1)[:, -count:]
