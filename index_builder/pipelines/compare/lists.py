"""Measures how the lists that users get from two builds differ: products, ranks and scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from index_builder.pipelines.compare.builds import MatchedProducts
from index_builder.report.facts import histogram, quantiles
from index_builder.tuning.recall import LARGE_K, K
from retrieval.artifact.build import Build
from retrieval.search.ranking import SIDES, Neighbours

_OVERLAP_EDGES = np.linspace(0.0, 1.0, 21)
_MAX_MOVE_BINS = 40
_DECIMALS = 6  # of a score


@dataclass(frozen=True)
class ListPair:
    """The lists of one user and side from both builds, as positions in B; a product that B lacks is -1."""

    of_a: NDArray[np.int64]
    of_b: NDArray[np.int64]
    scores_a: NDArray[np.float64]
    scores_b: NDArray[np.float64]

    @property
    def overlap(self) -> float:
        """The share of the longer list that both have; of two empty lists it is 1."""
        longest = max(len(self.of_a), len(self.of_b))
        return len(self.shared_ranks()[0]) / longest if longest else 1.0

    @property
    def is_same(self) -> bool:
        return np.array_equal(self.of_a, self.of_b)

    def shared_ranks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the products in both lists are in that of A, and in that of B."""
        known = np.flatnonzero(self.of_a >= 0)
        _, in_a, in_b = np.intersect1d(self.of_a[known], self.of_b, assume_unique=True, return_indices=True)
        return known[in_a], in_b


@dataclass(frozen=True)
class ComparedLists:
    """The lists of all users on one side, at one k."""

    pairs: list[ListPair]

    @classmethod
    def of(cls, a: Neighbours, b: Neighbours, products: MatchedProducts) -> Self:
        """Compare what is found in A and in B for the same users."""
        rows = zip(products.positions_in_b(a.positions), b.positions, a.scores, b.scores, strict=True)
        return cls([ListPair(*row) for row in rows])

    def overlaps(self) -> NDArray[np.float64]:
        """Return the overlap of each user (u,)."""
        return np.array([pair.overlap for pair in self.pairs])

    def same_share(self) -> float:
        """Return the share of users whose lists are the same in both builds."""
        return float(np.mean([pair.is_same for pair in self.pairs]))

    def moves(self) -> NDArray[np.int64]:
        """Return how many ranks each product in both lists moves, whichever way, of all users (m,)."""
        return np.concatenate([np.abs(in_b - in_a) for in_a, in_b in self._shared()])

    def shifts(self) -> NDArray[np.float64]:
        """Return the score in B less that in A of each product in both lists, of all users (m,)."""
        shared = zip(self.pairs, self._shared(), strict=True)
        return np.concatenate([pair.scores_b[in_b] - pair.scores_a[in_a] for pair, (in_a, in_b) in shared])

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Return all scores in the lists of each build."""
        return {
            "a": np.concatenate([pair.scores_a for pair in self.pairs]),
            "b": np.concatenate([pair.scores_b for pair in self.pairs]),
        }

    def _shared(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        return [pair.shared_ranks() for pair in self.pairs]


def compare_lists(a: Build, b: Build, products: MatchedProducts, users: NDArray[np.float32]) -> dict[str, Any]:
    """Search both builds for users with unit vectors (u, d), and return how lists differ, as JSON.

    `sides` holds for each side the overlap at ten and at a hundred, moves and shifts among a hundred, and the scores of
    ten. `histograms` are of them too.
    """
    first, deep = (_found(a, b, products, users, k) for k in (K, LARGE_K))
    sides = {side: _side_facts(*lists) for side, *lists in zip(SIDES, first, deep, strict=True)}
    return {"sides": sides, "histograms": _histograms(dict(zip(SIDES, first, strict=True)), deep)}


def _found(a: Build, b: Build, products: MatchedProducts, users: NDArray[np.float32], k: int) -> list[ComparedLists]:
    """Return the lists of each side."""
    sides = zip(a.index.search(users, k), b.index.search(users, k), strict=True)
    return [ComparedLists.of(of_a, of_b, products) for of_a, of_b in sides]


def _side_facts(first: ComparedLists, deep: ComparedLists) -> dict[str, Any]:
    moves = deep.moves()
    return {
        "overlap": [
            {"k": k, "same_lists": lists.same_share(), **_spread(lists.overlaps())}
            for k, lists in ((K, first), (LARGE_K, deep))
        ],
        "moves": {"unmoved": float(np.mean(moves == 0)) if len(moves) else None, **_spread(moves)},
        "shifts": _spread(deep.shifts()),
        "scores": {build: _spread(scores) for build, scores in first.scores().items()},
    }


def _spread(values: NDArray[Any]) -> dict[str, Any]:
    """Return the count, mean and quantiles of values (n,), where there are any."""
    if not len(values):
        return {"count": 0, "mean": None, "quantiles": {}}
    rounded = {name: round(value, _DECIMALS) for name, value in quantiles(values).items()}
    return {"count": len(values), "mean": round(float(values.mean()), _DECIMALS), "quantiles": rounded}


def _histograms(first: Mapping[str, ComparedLists], deep: list[ComparedLists]) -> dict[str, Any]:
    moves = {side: lists.moves() for side, lists in zip(SIDES, deep, strict=True)}
    end = max(int(of_side.max(initial=0)) for of_side in moves.values()) + 1
    step = math.ceil(end / _MAX_MOVE_BINS)
    return {
        "overlap": histogram({side: lists.overlaps() for side, lists in first.items()}, _OVERLAP_EDGES),
        "moves": histogram(moves, np.arange(0, end + step, step)),
        **{f"scores_{side}": histogram(lists.scores()) for side, lists in first.items()},
    }
