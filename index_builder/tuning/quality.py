"""Measures what the lists of a build are like: which products they reach, how alike they are, and how they score."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_builder.tuning.users import UserPool
from retrieval.artifact.products import Prefixes, parse_prefixes
from retrieval.artifact.quality import MIN_NEAR_COSINE, NearDuplicates, Quality, SideQuality
from retrieval.records.vector_file import VectorFile
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, Neighbours, RowGroups

_QUANTILES, _HUNDREDTHS = np.linspace(0.0, 1.0, 21), np.linspace(0.0, 1.0, 101)
_MAX_SAMPLED_ROWS, _ROWS_AT_ONCE, _SEED = 10_000, 256, 4
_HUBS, _PAIRS = 10, 10

Take = Callable[[NDArray[np.int64]], NDArray[np.float32]]  # the vectors (m, d) of catalogue positions (m,)


@dataclass(frozen=True)
class QualityReport:
    """The quality of a build, and by name the products of each side that are listed most, and the nearest pairs.

    `answers` are the lists that were looked at. `lorenz` says of each side which share of all places in lists the
    products have that are listed least: of none of them first, and of one hundredth more each time.
    """

    quality: Quality
    hubs: dict[str, list[dict[str, Any]]]
    near_pairs: list[dict[str, Any]]
    lorenz: dict[str, list[float]]
    answers: tuple[Neighbours, Neighbours]


def measure_quality(
    index: ProductIndex, groups: RowGroups, vectors: VectorFile, pool: UserPool, k: int, prefixes: Prefixes
) -> QualityReport:
    """Search for users of a pool, and look at what they are shown."""
    users = pool.held_out()
    answers = index.search(users, k)
    counts = {
        side: np.bincount(found.positions.ravel(), minlength=groups.product_count)
        for side, found in zip(SIDES, answers, strict=True)
    }
    rows = groups.row_of(np.arange(groups.product_count))
    sides = {
        side: _side_quality(found, counts[side], lambda positions: index.vectors(rows[positions]))
        for side, found in zip(SIDES, answers, strict=True)
    }
    near_duplicates, pairs = find_near_duplicates(vectors)
    quality = Quality(k, len(users), pool.name, pool.is_synthetic, **sides, near_duplicates=near_duplicates)
    hubs = {side: _hubs(of_side, prefixes) for side, of_side in counts.items()}
    lorenz = {side: lorenz_curve(of_side) for side, of_side in counts.items()}
    return QualityReport(quality, hubs, [_pair(groups, *pair, prefixes) for pair in pairs], lorenz, answers)


def _side_quality(found: Neighbours, counts: NDArray[np.int64], take: Take) -> SideQuality:
    return SideQuality(
        coverage=float(np.count_nonzero(counts) / len(counts)),
        gini=gini(counts),
        hubness=skewness(counts),
        largest_share=float(counts.max() / len(found.positions)),
        ild=float(np.mean([intra_list_distance(take(listed)) for listed in found.positions])),
        first_scores=np.quantile(found.scores[:, 0], _QUANTILES).tolist(),
        last_scores=np.quantile(found.scores[:, -1], _QUANTILES).tolist(),
    )


def gini(counts: NDArray[np.int64]) -> float:
    """Return how unevenly counts (n,), not all of them 0, are distributed, from 0 to 1 - 1/n."""
    n = len(counts)
    ranks = np.arange(1, n + 1)
    return float(2 * (ranks * np.sort(counts)).sum() / (n * counts.sum()) - (n + 1) / n)


def lorenz_curve(counts: NDArray[np.int64]) -> list[float]:
    """Return which share of all counts (n,), not all of them 0, the lowest 0, 1, 2 … 100 % of them make up."""
    sums = np.concatenate(([0], np.cumsum(np.sort(counts))))
    return np.interp(_HUNDREDTHS * len(counts), np.arange(len(sums)), sums / sums[-1]).tolist()


def skewness(counts: NDArray[np.int64]) -> float:
    """Return the third standardised moment of counts (n,), and 0 where all are the same."""
    deviations = counts - counts.mean()
    variance = float((deviations**2).mean())
    return float((deviations**3).mean() / variance**1.5) if variance else 0.0


def intra_list_distance(unit_vectors: NDArray[np.float32]) -> float:
    """Return the mean of 1 - cosine over all pairs of unit vectors (k, d); 0 where there is no pair."""
    k, listed = len(unit_vectors), unit_vectors.astype(np.float64)
    if k < 2:
        return 0.0
    total = listed.sum(axis=0)
    return float(1.0 - (total @ total - (listed**2).sum()) / (k * (k - 1)))


def find_near_duplicates(vectors: VectorFile) -> tuple[NearDuplicates, list[tuple[int, int, float]]]:
    """Count pairs of distinct vectors that are nearly the same, and return the rows and cosines of the nearest ones."""
    rows = np.arange(vectors.rows)
    if vectors.rows > _MAX_SAMPLED_ROWS:
        rows = np.sort(np.random.default_rng(_SEED).choice(vectors.rows, _MAX_SAMPLED_ROWS, replace=False))
    sample = vectors.take(rows)
    is_near, pair_count, nearest = np.zeros(len(rows), np.bool_), 0, (np.empty((0, 2), np.int64), np.empty(0))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        cosines = sample[start : start + _ROWS_AT_ONCE] @ sample[start:].T
        are_near = np.triu(cosines >= MIN_NEAR_COSINE, 1)
        is_near[start : start + len(cosines)] |= are_near.any(axis=1)
        is_near[start:] |= are_near.any(axis=0)
        pair_count += int(np.count_nonzero(are_near))
        pairs, of_pairs = _nearest_pairs(cosines, are_near)
        nearest = _first_pairs(np.concatenate([nearest[0], pairs + start]), np.concatenate([nearest[1], of_pairs]))
    shown = zip(rows[nearest[0]], nearest[1], strict=True)
    found = NearDuplicates(len(rows), int(is_near.sum()), pair_count)
    return found, [(int(one), int(other), min(1.0, float(cosine))) for (one, other), cosine in shown]


def _nearest_pairs(
    cosines: NDArray[np.float32], are_near: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest pairs (m, 2) of those that `are_near` (r, c), and their cosines, in order."""
    of_pairs = cosines[are_near]
    if len(of_pairs) > _PAIRS:  # Where all vectors are nearly the same, the list of all pairs would fill the memory.
        are_near = are_near & (cosines >= np.partition(of_pairs, -_PAIRS)[-_PAIRS])
    pairs = np.argwhere(are_near)
    return _first_pairs(pairs, cosines[tuple(pairs.T)])


def _first_pairs(pairs: NDArray[np.int64], cosines: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    first = np.argsort(-cosines, kind="stable")[:_PAIRS]
    return pairs[first], cosines[first]


def _hubs(counts: NDArray[np.int64], prefixes: Prefixes) -> list[dict[str, Any]]:
    """Return the products that are listed most, with the number of their lists."""
    most = np.argsort(-counts, kind="stable")[:_HUBS]
    return [
        {**product, "lists": int(count)}
        for product, count in zip(parse_prefixes(prefixes(most)), counts[most], strict=True)
        if count
    ]


def _pair(groups: RowGroups, one: int, other: int, cosine: float, prefixes: Prefixes) -> dict[str, Any]:
    """Return the first products of two rows with the cosine of their vectors."""
    positions = groups.products[groups.starts[[one, other]]]
    return {"products": parse_prefixes(prefixes(positions)), "cosine": round(cosine, 6)}
