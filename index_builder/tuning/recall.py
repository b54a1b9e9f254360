"""Recall: the share of the exact k best (or worst) products that an index finds."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.manifest import RecallAtK
from retrieval.records.vector_file import VectorFile
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, SIGNS, TOLERANCE, RowGroups

K, LARGE_K = 10, 100
_ONE_SIDED_95_PERCENT = 1.645
_BLOCK_USERS = 64  # This bounds the memory that exact scores take.

TopRows = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and rows (u, m) for each user, the highest first


@dataclass(frozen=True)
class Panel:
    """Users (u, d) with the exact answers to them: the top rows of each side, the worst side's scores negated."""

    users: NDArray[np.float32]
    exact: dict[str, TopRows]

    @classmethod
    def of(cls, vectors: VectorFile, users: NDArray[np.float32], depth: int = LARGE_K) -> Self:
        return cls(users, exact_top_rows(vectors, users, depth))

    def __add__(self, other: "Panel") -> "Panel":
        exact = {
            side: (np.concatenate([scores, other.exact[side][0]]), np.concatenate([rows, other.exact[side][1]]))
            for side, (scores, rows) in self.exact.items()
        }
        return Panel(np.concatenate([self.users, other.users]), exact)

    def queries(self, side: str) -> NDArray[np.float32]:
        """Return the users as an index of highest inner products is asked for this side."""
        return np.float32(SIGNS[side]) * self.users


def exact_top_rows(vectors: VectorFile, users: NDArray[np.float32], k: int) -> dict[str, TopRows]:
    """Compare every user (u, d) with every row, and keep the k highest of each side, or all there are.

    The worst side's scores are negated.
    """
    with _matrix_products():
        count = min(k, vectors.rows)
        return {side: _top_rows(vectors, np.float32(sign) * users, count) for side, sign in SIGNS.items()}


def measure(
    index: ProductIndex, vectors: VectorFile, groups: RowGroups, panel: Panel, ks: Sequence[int] = (K, LARGE_K)
) -> dict[str, list[RecallAtK]]:
    """Search both sides for the users of a panel and compare what is found with the exact answers.

    Scores are computed from the vectors: an index may be wrong about its own.
    """
    recall: dict[str, list[RecallAtK]] = {side: [] for side in SIDES}
    users = panel.users
    for k in ks:
        for side, found in zip(SIDES, index.search(users, k), strict=True):
            exact_scores, exact_rows = panel.exact[side]
            rows = index.groups.row_of(found.positions)
            parts = [slice(i, i + _BLOCK_USERS) for i in range(0, len(users), _BLOCK_USERS)]
            scores = np.concatenate([_scores_of(vectors, rows[part], users[part]) for part in parts])
            kth_scores = _kth_scores(exact_scores, exact_rows, groups, k)
            count = max(rows.shape[1], min(k, vectors.rows))
            recall[side].append(recall_at_k(SIGNS[side] * scores, kth_scores, count, k))
    return recall


def recall_at_k(scores: NDArray[np.floating], kth_scores: NDArray[np.float32], count: int, k: int) -> RecallAtK:
    """Return how many of `count` products each user's scores (u, m) reach the exact k-th (u, 1) with."""
    reached = (scores >= kth_scores - TOLERANCE).sum(axis=1)
    return summarise(np.minimum(reached, count) / count, k)


def summarise(recall_of_user: NDArray[np.floating], k: int) -> RecallAtK:
    """Return mean and lower bound of the recall of users (u,).

    One imagined user who misses a product keeps the bound below 1 where every user found everything.
    """
    padded = np.append(recall_of_user, 1.0 - 1.0 / k)
    error = float(padded.std(ddof=1)) / math.sqrt(len(padded))
    bound = max(0.0, float(padded.mean()) - _ONE_SIDED_95_PERCENT * error)
    return RecallAtK(k, len(recall_of_user), float(recall_of_user.mean()), bound)


@contextmanager
def _matrix_products() -> Iterator[None]:
    """Let FAISS compare some hundreds of users by a matrix product, which takes a quarter of the time of its scan."""
    threshold = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold


def _top_rows(vectors: VectorFile, users: NDArray[np.float32], k: int) -> TopRows:
    scores, rows = np.empty((len(users), 0), np.float32), np.empty((len(users), 0), np.int64)
    start = 0
    for block in vectors.blocks():
        block_scores, block_rows = faiss.knn(users, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.hstack([scores, block_scores]), np.hstack([rows, block_rows + start])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        start += len(block)
    return scores, rows


def _kth_scores(scores: NDArray[np.float32], rows: NDArray[np.int64], groups: RowGroups, k: int) -> NDArray[np.float32]:
    """Return the score (u, 1) of each user's k-th product, or of the last one, of the top rows (u, m)."""
    products = (groups.starts[rows + 1] - groups.starts[rows]).cumsum(axis=1)
    columns = np.minimum((products < k).sum(axis=1, keepdims=True), rows.shape[1] - 1)
    return np.take_along_axis(scores, columns, axis=1)


def _scores_of(vectors: VectorFile, rows: NDArray[np.int64], users: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the exact score of each user (u, d) with each of its rows (u, m)."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    return np.einsum("umd,ud->um", vectors.take(distinct)[inverse.reshape(rows.shape)], users)
