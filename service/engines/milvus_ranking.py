"""Ranks what Milvus has found by scores of our own, as its are rounded otherwise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.search.ranking import UNITS, to_millionths

Hits = tuple[NDArray[np.int64], NDArray[np.float64]]  # positions and vectors of products as Milvus gave them


@dataclass(frozen=True)
class Ranked:
    """The positions and scores of the products nearest to one query, of so many that were scored, and how it went."""

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    scored: int
    path: str


def rank(hits: Hits, query: NDArray[np.float32], k: int, path: str) -> Ranked:
    """Return the k hits with the highest scores; equal ones in catalogue order."""
    positions, vectors = hits
    if not len(positions):
        return Ranked(positions, np.empty(0), 0, path)
    products = (vectors * query).sum(axis=1)  # Row by row: a matrix product rounds by the number of rows.
    millionths = to_millionths(products)
    order = np.lexsort((positions, -millionths))[:k]
    return Ranked(positions[order], millionths[order] / UNITS, len(positions), path)
