"""Recall is measured against exact answers, and tells the truth about a bad index."""

import numpy as np
import pytest

from index_builder.tuning.recall import Panel, exact_top_rows, measure, summarise
from index_builder.tuning.users import synthetic_users
from retrieval.artifact.manifest import RecallAtK
from retrieval.search.exact_scan import Pace
from retrieval.search.filters.masks import Mask
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import Neighbours, RowGroups
from retrieval.search.settings import SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index, group_identical, index_over, vector_file


def drawn(seed: int, products: int = 400, users: int = 100, dimension: int = 16) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return unit_vectors(draw.normal(size=(products, dimension))), unit_vectors(draw.normal(size=(users, dimension)))


def recall_by_positions(index: ProductIndex, units: np.ndarray, users: np.ndarray, k: int) -> list[float]:
    """The share of the k products returned whose own exact cosine reaches the exact k-th, for each side."""
    cosines = users.astype(np.float64) @ units.T.astype(np.float64)
    shares = []
    for sign, side in zip((1, -1), index.search(users, k), strict=True):
        kth = np.sort(sign * cosines, axis=1)[:, -k]
        reached = np.take_along_axis(sign * cosines, side.positions, axis=1) >= kth[:, None] - 1e-5
        shares.append(reached.sum() / (k * len(users)))
    return shares


class FixedIndex(ProductIndex):
    """An index that returns the same positions (u, k) for every search."""

    def __init__(self, groups: RowGroups, positions: np.ndarray):
        self.groups, self.positions = groups, positions

    def search(
        self, unit_vectors: np.ndarray, k: int, mask: Mask | None = None, pace: Pace | None = None
    ) -> tuple[Neighbours, Neighbours]:
        found = Neighbours(self.positions, np.zeros(self.positions.shape))
        return found, found


def measured(index: ProductIndex, units: np.ndarray, users: np.ndarray, k: int) -> list[RecallAtK]:
    """The best and the worst side's recall against the catalogue of these units."""
    with vector_file(units) as vectors:
        recall = measure(index, group_identical(units)[1], Panel.of(vectors, users, k), [k])
    return [*recall["best"], *recall["worst"]]


def means(index: ProductIndex, units: np.ndarray, users: np.ndarray, k: int) -> list[float]:
    return [side.mean for side in measured(index, units, users, k)]


def everything_found(k: int, users: int) -> RecallAtK:
    return summarise(np.ones(users), k)


@pytest.mark.parametrize("k", [1, 10, 399, 400])
def test_the_exact_kth_scores_are_those_of_a_full_sort(k: int) -> None:
    units, users = drawn(k, users=130)
    ordered = np.sort(users.astype(np.float64) @ units.T.astype(np.float64), axis=1)
    with vector_file(units) as vectors:
        exact = exact_top_rows(vectors, users, k)
    (best, rows), (worst, _) = exact["best"], exact["worst"]
    np.testing.assert_allclose(best, ordered[:, : -k - 1 : -1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(worst, -ordered[:, :k], rtol=0, atol=1e-6)
    cosines = users.astype(np.float64) @ units.T.astype(np.float64)
    np.testing.assert_allclose(np.take_along_axis(cosines, rows, axis=1), best, rtol=0, atol=1e-6)


def test_the_exact_kth_scores_of_a_catalogue_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.records.vector_file.BLOCK_ROWS", 7)
    test_the_exact_kth_scores_are_those_of_a_full_sort(10)


def test_scores_within_the_tolerance_count_as_found() -> None:
    angles = np.arccos(np.array([0.9, 0.500005, 0.499999, 0.4999, 0.1]))
    units, user = unit_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1)), np.eye(1, 2, dtype=np.float32)
    everything = RowGroups(np.arange(6), np.arange(5))
    for places, share in (([0, 1], 1.0), ([0, 2], 1.0), ([0, 3], 0.5), ([4, 3], 0.0)):
        stand_in = FixedIndex(everything, np.array([places]))
        with vector_file(units) as vectors:
            assert measure(stand_in, everything, Panel.of(vectors, user), [2])["best"][0].mean == share


@pytest.mark.parametrize("k", [1, 10, 400])
def test_an_exact_index_has_recall_one(k: int) -> None:
    units, users = drawn(k)
    assert measured(index_over(units), units, users, k) == [everything_found(k, 100)] * 2


def test_k_is_at_most_the_catalogue() -> None:
    units, users = drawn(0, products=4)
    assert measured(index_over(units), units, users, 10) == [everything_found(10, 100)] * 2


def test_an_approximate_index_has_the_recall_that_numpy_finds() -> None:
    units, users = drawn(1, products=4000, dimension=48)
    index = index_over(units, "HNSW4")
    recall = means(index, units, users, 10)
    assert recall == pytest.approx(recall_by_positions(index, units, users, 10), abs=0.002)
    assert max(recall) < 0.97


def test_products_missing_from_the_index_are_missed() -> None:
    units, users = drawn(2)
    index = index_over(units[:200])
    recall = means(index, units, users, 10)
    assert recall == pytest.approx(recall_by_positions(index, units, users, 10))
    assert 0.4 < recall[0] < 0.6
    assert 0.4 < recall[1] < 0.6


def test_an_index_with_fewer_than_k_products_is_measured_against_k() -> None:
    units, users = drawn(3, products=20)
    index = index_over(units[:4])
    assert means(index, units, users, 8) == pytest.approx(recall_by_positions(index, units, users, 8))


def test_products_of_a_nearer_group_that_are_passed_over_are_missed() -> None:
    """Ten products point east, ten north: for a user in the east, the ten in the north are none of the ten best."""
    units = np.eye(2, dtype=np.float32)
    groups = RowGroups(np.array([0, 10, 20]), np.arange(20))
    user = unit_vectors(np.array([[1.0, 0.1]]))
    with vector_file(units) as vectors:
        north = FixedIndex(groups, np.arange(10, 20)[None])
        assert measure(north, groups, Panel.of(vectors, user), [10])["best"][0].mean == 0.0


def test_an_index_that_names_the_wrong_products_finds_none() -> None:
    units, users = drawn(4)
    index = index_over(np.roll(units, 1, axis=0))
    recall = means(index, units, users, 10)
    assert recall == pytest.approx(recall_by_positions(index, units, users, 10))
    assert max(recall) < 0.2


def test_a_worst_side_that_is_the_best_finds_none() -> None:
    units, users = drawn(5)
    groups = group_identical(units)[1]
    best, _ = ProductIndex(faiss_index(units), groups, SideSettings()).search(users, 10)
    assert means(FixedIndex(groups, best.positions), units, users, 10) == [1.0, 0.0]


def users_from(units: np.ndarray, count: int, seed: int) -> np.ndarray:
    with vector_file(units) as vectors:
        return synthetic_users(vectors, count, seed)


def test_synthetic_users_are_unit_vectors_drawn_the_same_each_time() -> None:
    units, _ = drawn(6)
    users = users_from(units, 50, seed=1)
    assert users.tobytes() == users_from(units, 50, seed=1).tobytes()
    assert users.tobytes() != users_from(units, 50, seed=2).tobytes()
    assert users.shape == (50, 16)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, rtol=0, atol=1e-6)


def test_products_that_cancel_out_make_no_user_without_direction() -> None:
    units = unit_vectors(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert set(map(tuple, users_from(units, 100, seed=1).tolist())) == {(1.0, 0.0), (-1.0, 0.0)}
    assert users_from(units[:1], 3, seed=1).tolist() == [[1.0, 0.0]] * 3


def test_where_every_group_cancels_out_the_first_product_stands_in() -> None:
    units = unit_vectors(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    alone = [users_from(units, 1, seed).tolist() for seed in range(30)]
    assert {tuple(map(tuple, users)) for users in alone} == {((1.0, 0.0),), ((-1.0, 0.0),)}
