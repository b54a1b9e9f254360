"""Recall: the share of the exact k best (or worst) products that an index finds, measured on users."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_builder.index import ProductIndex
from index_builder.vectors import unit_vectors as normalise

TOLERANCE = 1e-5  # a product counts as found when its score is within this of the exact k-th score
_USERS_AT_ONCE = 64


@dataclass(frozen=True)
class Recall:
    """Mean recall at k of each side, over a number of users."""

    k: int
    users: int
    best: float
    worst: float


def measure_recall(
    index: ProductIndex, unit_vectors: NDArray[np.float32], users: NDArray[np.float32], k: int
) -> Recall:
    """Search for (u, d) unit user vectors and compare with exact scores against the whole catalogue (n, d)."""
    k = min(k, len(unit_vectors))
    found = index.search(users, k)
    exact = exact_kth_scores(unit_vectors, users, k)
    best, worst = (
        recall_at_kth_score(sign * _true_scores(unit_vectors, users, side.positions), kth_scores, k)
        for side, kth_scores, sign in zip(found, exact, (1.0, -1.0), strict=True)
    )
    return Recall(k, len(users), best, worst)


def recall_at_kth_score(scores: NDArray[np.floating], kth_scores: NDArray[np.float64], k: int) -> float:
    """Of k products wanted, the share whose true scores (n, found) reach the exact k-th score (n,) of their user."""
    return float(np.sum(scores >= kth_scores[:, None] - TOLERANCE) / (k * len(scores)))


def exact_kth_scores(
    unit_vectors: NDArray[np.float32], users: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The k-th highest score of each user, and the k-th highest negated score, by comparing with every product."""
    best, worst = [], []
    for start in range(0, len(users), _USERS_AT_ONCE):
        scores = users[start : start + _USERS_AT_ONCE] @ unit_vectors.T
        scores.partition((k - 1, scores.shape[1] - k), axis=1)
        best.append(scores[:, -k])
        worst.append(-scores[:, k - 1])
    return np.concatenate(best).astype(np.float64), np.concatenate(worst).astype(np.float64)


def synthetic_users(unit_vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """User-like unit vectors (at most count, d): each points to the mean of a random handful of products.

    Groups whose members cancel out are left out; where all do, the first product stands in.
    """
    draw = np.random.default_rng(seed)
    groups = (unit_vectors[draw.integers(0, len(unit_vectors), draw.integers(2, 6))] for _ in range(count))
    means = np.stack([group.mean(axis=0, dtype=np.float64) for group in groups])
    directed = means[means.any(axis=1)]
    return normalise(directed if len(directed) else unit_vectors[:1])


def _true_scores(
    unit_vectors: NDArray[np.float32], users: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The scores of what an index found, from the vectors themselves: an index may be wrong about its own."""
    return np.stack([unit_vectors[found] @ user for found, user in zip(positions, users, strict=True)])
