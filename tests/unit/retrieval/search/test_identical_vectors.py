"""Products with the same unit vector share an index row, and are answered as if each had its own."""

import numpy as np
import pytest

from retrieval.vectors import unit_vectors
from tests.support.indexes import check_exact, group_identical, index_over

EAST, NORTH, SOUTH = [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]


def answers(vectors: list[list[float]], user: list[float], k: int) -> list[list[int]]:
    return [
        side.positions[0].tolist() for side in index_over(np.array(vectors)).search(unit_vectors(np.array([user])), k)
    ]


def test_groups_follow_the_catalogue() -> None:
    first_products, groups = group_identical(unit_vectors(np.array([NORTH, EAST, NORTH, [-3.0, 4.0], EAST, NORTH])))
    assert first_products.tolist() == [0, 1, 3]
    assert groups.starts.tolist() == [0, 3, 5, 6]
    assert groups.products.tolist() == [0, 2, 5, 1, 4, 3]
    assert (groups.row_count, groups.product_count) == (3, 6)


@pytest.mark.parametrize(
    "vectors",
    [[[1, 0.0], [1, -0.0]], [[3, 4], [6, 8], [3e-300, 4e-300], [3e300, 4e300]], [[1, 1e-60], [1, -1e-60], [1, 0]]],
    ids=["either zero", "scaled", "too small for a float32"],
)
def test_vectors_of_one_direction_share_a_row(vectors: list[list[float]]) -> None:
    assert index_over(np.array(vectors)).groups.row_count == 1
    everyone = list(range(len(vectors)))
    assert answers(vectors, EAST, 10) == [everyone, everyone]


def test_opposite_vectors_do_not_share_a_row() -> None:
    assert index_over(np.array([NORTH, SOUTH])).groups.row_count == 2
    assert answers([NORTH, SOUTH], NORTH, 1) == [[0], [1]]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 8, 9])
def test_a_group_larger_than_k_gives_its_first_products(k: int) -> None:
    vectors = [SOUTH, EAST, EAST, NORTH, EAST, EAST, SOUTH, EAST]
    assert answers(vectors, EAST, k) == [[1, 2, 4, 5, 7, 0, 3, 6][:k], [0, 3, 6, 1, 2, 4, 5, 7][:k]]


def test_groups_of_equal_score_are_merged_by_position() -> None:
    assert answers([NORTH, SOUTH, SOUTH, NORTH, EAST, SOUTH, NORTH], EAST, 5) == [[4, 0, 1, 2, 3], [0, 1, 2, 3, 5]]


@pytest.mark.parametrize("k", [1, 10, 499, 500, 501, 999, 1000, 1200])
def test_a_catalogue_half_of_whose_products_are_identical_is_answered_exactly(k: int) -> None:
    draw = np.random.default_rng(5)
    vectors = draw.normal(size=(1000, 16))
    vectors[draw.permutation(1000)[:500]] = vectors[0]
    index = index_over(vectors)
    assert index.groups.row_count in (500, 501)
    check_exact(index, vectors, np.concatenate([draw.normal(size=(6, 16)), vectors[:1], -vectors[:1]]), k)


@pytest.mark.parametrize("group", [2, 7, 100])
def test_a_catalogue_of_groups_is_answered_exactly(group: int) -> None:
    draw = np.random.default_rng(group)
    distinct = draw.normal(size=(60, 5))
    vectors = np.repeat(distinct, group, axis=0)[draw.permutation(60 * group)]
    index = index_over(vectors * draw.choice([0.5, 1.0, 2.0, 1024.0], (len(vectors), 1)))
    assert index.groups.row_count == 60
    for k in (1, 10, group, 3 * group + 1):
        check_exact(index, vectors, draw.normal(size=(5, 5)), k)


def test_the_same_products_in_groups_or_alone_get_the_same_scores() -> None:
    draw = np.random.default_rng(6)
    vectors, users = draw.normal(size=(300, 301)), unit_vectors(draw.normal(size=(30, 301)))
    alone = index_over(vectors).search(users, 10)
    twice = index_over(np.concatenate([vectors, vectors])).search(users, 20)
    for one, two in zip(alone, twice, strict=True):
        assert two.scores.tolist() == np.repeat(one.scores, 2, axis=1).tolist()
        assert (np.sort(two.positions % 300, axis=1) == np.sort(np.repeat(one.positions, 2, axis=1), axis=1)).all()
