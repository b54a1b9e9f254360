"""Recall: the share of the exact k best (or worst) products that an index finds, and the users it is measured on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.manifest import RecallAtK
from retrieval.errors import BadQueries
from retrieval.records.console import readable
from retrieval.records.lenient_json import BadJson
from retrieval.records.rows import read_rows
from retrieval.records.vector_file import VectorFile
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIGNS, TOLERANCE, RowGroups
from retrieval.vectors import BadVector, read_vector, unit_vectors

MIN_USERS = 300  # With fewer, a recall of 0.99 cannot be told from one of 0.97.
_TUNING_USERS, _CONFIRMING_USERS, _MAX_SYNTHETIC_USERS = 300, 1000, 5000
_SEED = 1
_ONE_SIDED_95_PERCENT = 1.645
_BLOCK_USERS = 64  # This bounds the memory that exact scores take.

TopRows = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and rows (u, m) for each user, the highest first


def exact_top_rows(vectors: VectorFile, users: NDArray[np.float32], k: int) -> dict[str, TopRows]:
    """Compare every user (u, d) with every row, and keep the k highest of each side, or all there are.

    The worst side's scores are negated.
    """
    return {side: _top_rows(vectors, np.float32(sign) * users, min(k, vectors.rows)) for side, sign in SIGNS.items()}


def measure(
    index: ProductIndex, vectors: VectorFile, groups: RowGroups, users: NDArray[np.float32], ks: Sequence[int]
) -> dict[str, list[RecallAtK]]:
    """Search both sides for users (u, d) and compare what is found with the exact answers.

    Scores are computed from the vectors: an index may be wrong about its own.
    """
    recall: dict[str, list[RecallAtK]] = {}
    for side, (exact_scores, exact_rows) in exact_top_rows(vectors, users, max(ks)).items():
        recall[side] = []
        for k in ks:
            rows = index.groups.row_of(index.search_side(side, users, k).positions)
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


def synthetic_users(vectors: VectorFile, count: int, seed: int) -> NDArray[np.float32]:
    """Make user-like unit vectors (at most count, d): each points to the mean of a random handful of products.

    Groups whose members cancel out are left out; where all do, the first product stands in.
    """
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 6, size=count)
    members = vectors.take(draw.integers(0, vectors.rows, int(sizes.sum()))).astype(np.float64)
    means = np.stack([group.mean(axis=0) for group in np.split(members, sizes.cumsum()[:-1])])
    directed = means[means.any(axis=1)]
    return unit_vectors(directed if len(directed) else vectors.take(np.zeros(1, np.int64)))


def read_users(path: Path, dimension: int) -> NDArray[np.float32]:
    """Read the unit vectors (u, d) of a users file (`rows.py` says which formats). Raises BadQueries naming the row."""
    vectors = []
    for location, row in read_rows(path):
        try:
            if isinstance(row, BadJson):
                raise row
            vectors.append(read_vector(row.get("vector") if isinstance(row, dict) else None, dimension))
        except (BadJson, BadVector) as error:
            raise BadQueries(f"{path}: {location}: {error}") from error
    if not vectors:
        raise BadQueries(f"{path}: holds no users")
    return unit_vectors(np.stack(vectors))


@dataclass
class UserPool:
    """A source of users, each handed out once: `tuning` to choose an index with, `confirming` to check the choice.

    `draw` returns a number of unit vectors (u, d) from the first one given on.
    """

    source: str
    _size: int
    _draw: Callable[[int, int], NDArray[np.float32]]
    _used: int = 0

    @property
    def has_more(self) -> bool:
        """Tell whether there are users left to confirm another choice with."""
        return self._used + self._share(_CONFIRMING_USERS) <= self._size

    def tuning(self) -> NDArray[np.float32]:
        return self._take(self._share(_TUNING_USERS))

    def confirming(self) -> NDArray[np.float32]:
        """Return fresh users, while `has_more`."""
        return self._take(self._share(_CONFIRMING_USERS))

    def _share(self, count: int) -> int:
        return min(count, self._size // 3)

    def _take(self, count: int) -> NDArray[np.float32]:
        start, self._used = self._used, self._used + count
        return self._draw(start, count)


def user_pool(vectors: VectorFile, path: Path | None) -> UserPool:
    """Return the users of the file in random order, or synthetic ones where there is none or it has too few users."""
    source = "means of random products"
    if path is not None:
        users = np.random.default_rng(_SEED).permutation(read_users(path, vectors.dimension))
        if len(users) >= MIN_USERS:
            return UserPool(readable(path.name), len(users), lambda start, count: users[start : start + count])
        source += f", as {readable(path.name)} has only {len(users)} users of the {MIN_USERS} needed"
    return UserPool(
        source, _MAX_SYNTHETIC_USERS, lambda start, count: synthetic_users(vectors, count, seed=_SEED + start)
    )


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
