"""Recall: the share of the exact k best (or worst) products that an index finds, measured on users."""

import math
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.records.vector_file import UnitMatrix
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import TOLERANCE, RowGroups
from retrieval.vectors import unit_vectors

_ONE_SIDED_95_PERCENT = 1.645
_AT_ONCE = 64  # users, to bound memory


@dataclass(frozen=True)
class TopRows:
    """The rows of highest exact score for each user, highest first: scores, row numbers, and how many products
    stand up to each of them, all (u, m).
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    products: NDArray[np.int64]

    def kth_scores(self, k: int) -> NDArray[np.float32]:
        """The score (u,) of the k-th product, or of the last one."""
        reached = self.products >= k
        places = np.where(reached.any(axis=1), reached.argmax(axis=1), self.rows.shape[1] - 1)
        return np.take_along_axis(self.scores, places[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class ExactScores:
    """What comparing every user with every row finds; the worst side's scores are negated."""

    best: TopRows
    worst: TopRows


@dataclass(frozen=True)
class SideRecall:
    """Mean recall at k over `users`, and the bound that its true value exceeds with 95 % confidence."""

    k: int
    users: int
    mean: float
    lower_bound: float


def exact_scores(vectors: UnitMatrix, groups: RowGroups, users: NDArray[np.float32], k: int) -> ExactScores:
    """Compare every user (u, d) with every row, and keep the k highest on each side, or all there are."""
    k = min(k, vectors.rows)
    return ExactScores(*(_top_rows(vectors, groups, sign * users, k) for sign in (np.float32(1.0), np.float32(-1.0))))


def measure_side(
    index: ProductIndex, side: str, vectors: UnitMatrix, users: NDArray[np.float32], exact: ExactScores, k: int
) -> SideRecall:
    """Search one side for users (u, d) and hold what is found against the exact answers.

    Scores are computed from the vectors: an index may be wrong about its own.
    """
    found = index.search_side(side, users, k).positions
    rows = index.groups.row_of(found)
    scores = np.concatenate(
        [_scores_of(vectors, rows[i : i + _AT_ONCE], users[i : i + _AT_ONCE]) for i in range(0, len(users), _AT_ONCE)]
    )
    sign, top = (1.0, exact.best) if side == "best" else (-1.0, exact.worst)
    reached = sign * scores >= top.kth_scores(k)[:, None] - TOLERANCE
    return summarise(reached.sum(axis=1) / max(found.shape[1], min(k, vectors.rows)), k)


def summarise(recall_of_user: NDArray[np.floating], k: int) -> SideRecall:
    """Mean and lower bound of the recall of users (u,).

    One imagined user who misses a product keeps the bound below 1 where every user found everything.
    """
    padded = np.append(recall_of_user, 1.0 - 1.0 / k)
    error = float(padded.std(ddof=1)) / math.sqrt(len(padded))
    bound = max(0.0, float(padded.mean()) - _ONE_SIDED_95_PERCENT * error)
    return SideRecall(k, len(recall_of_user), float(recall_of_user.mean()), bound)


def synthetic_users(vectors: UnitMatrix, count: int, seed: int) -> NDArray[np.float32]:
    """User-like unit vectors (at most count, d): each points to the mean of a random handful of products.

    Groups whose members cancel out are left out; where all do, the first product stands in.
    """
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 6, size=count)
    members = vectors.take(draw.integers(0, vectors.rows, int(sizes.sum()))).astype(np.float64)
    means = np.stack([group.mean(axis=0) for group in np.split(members, sizes.cumsum()[:-1])])
    directed = means[means.any(axis=1)]
    return unit_vectors(directed if len(directed) else vectors.take(np.zeros(1, np.int64)))


def _top_rows(vectors: UnitMatrix, groups: RowGroups, users: NDArray[np.float32], k: int) -> TopRows:
    scores, rows = np.empty((len(users), 0), np.float32), np.empty((len(users), 0), np.int64)
    start = 0
    for block in vectors.blocks():
        block_scores, block_rows = faiss.knn(users, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.hstack([scores, block_scores]), np.hstack([rows, block_rows + start])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        start += len(block)
    return TopRows(scores, rows, (groups.starts[rows + 1] - groups.starts[rows]).cumsum(axis=1))


def _scores_of(vectors: UnitMatrix, rows: NDArray[np.int64], users: NDArray[np.float32]) -> NDArray[np.float32]:
    """The exact score of each user (u, d) with each of its rows (u, m)."""
    distinct, places = np.unique(rows, return_inverse=True)
    return np.einsum("umd,ud->um", vectors.take(distinct)[places.reshape(rows.shape)], users)
