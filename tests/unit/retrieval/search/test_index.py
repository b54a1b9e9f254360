"""An index answers both sides as exact NumPy does."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from retrieval.search.ranking import Neighbours
from retrieval.vectors import unit_vectors
from tests.support.indexes import check_exact, index_over


def as_lists(sides: tuple[Neighbours, Neighbours]) -> list[list[list]]:
    return [[side.positions.tolist(), side.scores.tolist()] for side in sides]


@pytest.mark.parametrize("k", [1, 2, 10, 99, 193, 194, 199, 200, 201, 5000])
def test_any_k_gives_the_exact_products(k: int) -> None:
    draw = np.random.default_rng(k)
    vectors, users = draw.normal(size=(200, 24)), draw.normal(size=(9, 24))
    check_exact(index_over(vectors), vectors, users, k)


@pytest.mark.parametrize("dimension", [2, 3, 7, 301, 1024])
@pytest.mark.parametrize("user_count", [1, 30])
def test_any_dimension_gives_the_exact_products(dimension: int, user_count: int) -> None:
    draw = np.random.default_rng(dimension)
    vectors, users = draw.normal(size=(500, dimension)), draw.normal(size=(user_count, dimension))
    check_exact(index_over(vectors), vectors, users, 10)


def test_vectors_far_from_the_origin_give_the_exact_products() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(loc=5, size=(3000, 50))
    check_exact(index_over(vectors), vectors, draw.normal(loc=5, size=(40, 50)), 10)


def test_lengths_of_vectors_do_not_matter() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(200, 8)) * 10.0 ** draw.integers(-300, 300, (200, 1))
    check_exact(index_over(vectors), vectors, draw.normal(size=(5, 8)) * 1e-30, 10)


@pytest.mark.parametrize("k", [1, 10])
def test_one_product_is_the_best_and_the_worst(k: int) -> None:
    found = index_over(np.array([[3.0, 4.0]])).search(unit_vectors(np.array([[1.0, 0.0], [-7.0, 0.0]])), k)
    assert as_lists(found) == [[[[0], [0]], [[0.6], [-0.6]]]] * 2


def test_scores_stay_within_one() -> None:
    vectors = np.random.default_rng(2).normal(size=(300, 301))
    best, worst = index_over(np.concatenate([vectors, -vectors])).search(unit_vectors(vectors), 1)
    assert best.scores.ravel().tolist() == [1.0] * 300
    assert worst.scores.ravel().tolist() == [-1.0] * 300
    assert best.positions.ravel().tolist() == list(range(300))
    assert worst.positions.ravel().tolist() == list(range(300, 600))


def test_a_score_of_zero_has_no_sign() -> None:
    for side in index_over(np.array([[1.0, 0.0], [-1.0, 0.0]])).search(np.array([[0.0, 1.0]], np.float32), 2):
        assert side.scores.tobytes() == np.zeros((1, 2)).tobytes()


@pytest.mark.parametrize(
    ("repeated", "sizes"), [(0, (1, 19, 20, 426, 427, 1000)), (200, (20, 427))], ids=["distinct", "half repeated"]
)
def test_a_user_gets_the_same_answer_alone_and_in_any_batch(repeated: int, sizes: tuple[int, ...]) -> None:
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(400, 300))
    vectors[:repeated] = vectors[0]
    users = unit_vectors(draw.normal(loc=0.05, size=(max(sizes), 300)))
    index = index_over(vectors)
    alone = [index.search(user[None], 10) for user in users]
    for size in sizes:
        for side, batch in enumerate(index.search(users[-size:], 10)):
            assert batch.positions.tolist() == [found[side].positions[0].tolist() for found in alone[-size:]]
            assert batch.scores.tolist() == [found[side].scores[0].tolist() for found in alone[-size:]]


def test_no_users_get_no_answers() -> None:
    found = index_over(np.eye(3)).search(np.empty((0, 3), np.float32), 2)
    assert [side.positions.shape for side in found] == [(0, 2), (0, 2)]


def test_eight_threads_at_once_get_what_one_gets() -> None:
    draw = np.random.default_rng(4)
    index = index_over(draw.normal(size=(2000, 48)))
    batches = [unit_vectors(draw.normal(size=(size, 48))) for size in (1, 2, 19, 20, 40, 1, 7, 33)]
    serial = [as_lists(index.search(batch, 10)) for batch in batches]
    together = Barrier(len(batches))

    def search(batch: np.ndarray) -> list[list[list[list]]]:
        together.wait(timeout=20)
        return [as_lists(index.search(batch, 10)) for _ in range(20)]

    with ThreadPoolExecutor(len(batches)) as pool:
        assert list(pool.map(search, batches)) == [[answer] * 20 for answer in serial]
