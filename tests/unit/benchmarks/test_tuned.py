"""Rivals of the index benchmark get, on each side, the quickest settings that reach the recall wanted."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.index import tuned
from benchmarks.index.contestants import Rows, Vectors
from benchmarks.index.recall import KS, kth_scores
from benchmarks.index.sources import Users
from retrieval.search.ranking import SIGNS
from retrieval.vectors import unit_vectors

PRODUCTS = unit_vectors(np.random.default_rng(1).standard_normal((200, 6)) + 0.5)
QUERIES = unit_vectors(np.random.default_rng(2).standard_normal((30, 6)) + 2)
USERS = Users(QUERIES, {side: kth_scores(PRODUCTS, np.float32(sign) * QUERIES, KS) for side, sign in SIGNS.items()})


class Scan:
    """Scans all products for queries of positive sum at (cost, effort) of some effort, and for others at twice that."""

    label = "scan"

    def __init__(self, effort_needed: int, *ladders: range):
        self._needed = effort_needed
        self.ladders = [[(cost, effort) for effort in efforts] for cost, efforts in enumerate(ladders)]

    def find(self, queries: Vectors, k: int, settings: tuple[int, int]) -> Rows:
        needed = np.where(queries.sum(axis=1) > 0, self._needed, 2 * self._needed)
        nearest = np.argsort(-(queries @ PRODUCTS.T), axis=1)[:, :k]
        return np.where(settings[1] >= needed[:, np.newaxis], nearest, -1)

    def save(self, directory: Path) -> int:
        (directory / "index").write_bytes(b"12345")
        return 100


@pytest.mark.parametrize("needed", range(1, 11))
def test_each_side_gets_the_lowest_settings_that_reach_the_target(needed: int) -> None:
    rival = tuned.Tuned(Scan(needed, range(1, 22)), PRODUCTS, USERS)
    assert (rival.settings, rival.reaches) == (f"(0, {needed}) / (0, {2 * needed})", True)


def test_the_quickest_of_several_ladders_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "_seconds", lambda engine, queries, settings: -settings[0])
    rival = tuned.Tuned(Scan(3, range(1, 8), range(2, 8), range(1, 3)), PRODUCTS, USERS)
    assert (rival.settings, rival.reaches) == ("(1, 3) / (1, 6)", True)


def test_a_rival_that_misses_the_target_on_one_side_says_so() -> None:
    rival = tuned.Tuned(Scan(5, range(1, 9)), PRODUCTS, USERS)
    assert (rival.settings, rival.reaches) == ("(0, 5) / (0, 8)", False)


def test_a_rival_answers_both_sides_and_counts_its_bytes() -> None:
    rival = tuned.Tuned(Scan(1, range(1, 9)), PRODUCTS, USERS)
    order = np.argsort(-(QUERIES[:1] @ PRODUCTS.T), axis=1)
    best, worst = rival.search(QUERIES[:1], 5)
    np.testing.assert_array_equal(best, order[:, :5])
    np.testing.assert_array_equal(worst, order[:, :-6:-1])
    assert rival.size_bytes == 105
