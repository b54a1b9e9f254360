"""Recall is measured against exact answers, and tells the truth about a bad index."""

import numpy as np
import pytest

from index_builder.index import ProductIndex, build_index, group_identical
from index_builder.recall import Recall, exact_kth_scores, measure_recall, recall_at_kth_score, synthetic_users
from index_builder.vectors import unit_vectors
from tests.indexes import index_over


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


@pytest.mark.parametrize("k", [1, 10, 399, 400])
def test_the_exact_kth_scores_are_those_of_a_full_sort(k: int) -> None:
    units, users = drawn(k, users=130)
    ordered = np.sort(users.astype(np.float64) @ units.T.astype(np.float64), axis=1)
    best, worst = exact_kth_scores(units, users, k)
    np.testing.assert_allclose(best, ordered[:, -k], rtol=0, atol=1e-6)
    np.testing.assert_allclose(worst, -ordered[:, k - 1], rtol=0, atol=1e-6)


def test_the_share_counts_scores_within_the_tolerance() -> None:
    found = np.array([[0.9, 0.5], [0.500015, 0.4], [0.4999, 0.49995]])
    assert recall_at_kth_score(found, np.array([0.500005, 0.500005, 0.5]), k=2) == 3 / 6


@pytest.mark.parametrize("k", [1, 10, 400])
def test_an_exact_index_has_recall_one(k: int) -> None:
    units, users = drawn(k)
    assert measure_recall(index_over(units), units, users, k) == Recall(k, 100, 1.0, 1.0)


def test_k_is_at_most_the_catalogue() -> None:
    units, users = drawn(0, products=4)
    assert measure_recall(index_over(units), units, users, 10) == Recall(4, 100, 1.0, 1.0)


def test_an_approximate_index_has_the_recall_that_numpy_finds() -> None:
    units, users = drawn(1, products=4000, dimension=48)
    index = index_over(units, "HNSW4")
    recall = measure_recall(index, units, users, 10)
    assert [recall.best, recall.worst] == pytest.approx(recall_by_positions(index, units, users, 10), abs=0.002)
    assert max(recall.best, recall.worst) < 0.97


def test_products_missing_from_the_index_are_missed() -> None:
    units, users = drawn(2)
    index = index_over(units[:200])
    recall = measure_recall(index, units, users, 10)
    assert [recall.best, recall.worst] == pytest.approx(recall_by_positions(index, units, users, 10))
    assert 0.4 < recall.best < 0.6
    assert 0.4 < recall.worst < 0.6


def test_an_index_with_fewer_than_k_products_is_measured_against_k() -> None:
    units, users = drawn(3, products=20)
    index = index_over(units[:4])
    recall = measure_recall(index, units, users, 8)
    assert [recall.best, recall.worst] == pytest.approx(recall_by_positions(index, units, users, 8))


def test_an_index_that_names_the_wrong_products_finds_none() -> None:
    units, users = drawn(4)
    index = index_over(np.roll(units, 1, axis=0))
    recall = measure_recall(index, units, users, 10)
    assert [recall.best, recall.worst] == pytest.approx(recall_by_positions(index, units, users, 10))
    assert max(recall.best, recall.worst) < 0.2


def test_a_worst_side_that_was_never_negated_finds_none() -> None:
    units, users = drawn(5)
    best = build_index("Flat", units)
    recall = measure_recall(ProductIndex(best, best, group_identical(units)[1]), units, users, 10)
    assert (recall.best, recall.worst) == (1.0, 0.0)


def test_synthetic_users_are_unit_vectors_drawn_the_same_each_time() -> None:
    units, _ = drawn(6)
    users = synthetic_users(units, 50, seed=1)
    assert users.tobytes() == synthetic_users(units, 50, seed=1).tobytes()
    assert users.tobytes() != synthetic_users(units, 50, seed=2).tobytes()
    assert users.shape == (50, 16)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, rtol=0, atol=1e-6)


def test_products_that_cancel_out_make_no_user_without_direction() -> None:
    units = unit_vectors(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert set(map(tuple, synthetic_users(units, 100, seed=1).tolist())) == {(1.0, 0.0), (-1.0, 0.0)}
    assert synthetic_users(units[:1], 3, seed=1).tolist() == [[1.0, 0.0]] * 3


def test_where_every_group_cancels_out_the_first_product_stands_in() -> None:
    units = unit_vectors(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    alone = [synthetic_users(units, 1, seed).tolist() for seed in range(30)]
    assert {tuple(map(tuple, users)) for users in alone} == {((1.0, 0.0),), ((-1.0, 0.0),)}
