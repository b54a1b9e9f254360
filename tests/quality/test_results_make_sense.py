"""The sample users get food of the cuisines they love, and as worst matches they do not."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.artifact.build import Build
from service.recommender import Recommender
from tests.support.engines import engine_of
from tests.support.matches import answers_to, user_row
from tests.support.sample import SampleProducts, read_products

SIDES = ("best", "worst")
K = 10


@pytest.fixture(scope="module")
def products() -> SampleProducts:
    return read_products()


@pytest.fixture(scope="module")
def loved(products: SampleProducts, sample_users: list[dict[str, Any]]) -> NDArray[np.bool_]:
    """Whether a product (column) is of a cuisine that the likes of a user (row) come from."""
    return np.array([[row["cuisine"] in user["cuisines"] for row in products.rows] for user in sample_users])


@pytest.fixture(scope="module")
def found(
    sample_build: Build, products: SampleProducts, sample_users: list[dict[str, Any]]
) -> dict[str, NDArray[np.int64]]:
    """The catalogue positions (users, K) of each side's matches."""
    users = [user_row(user["name"], user["vector"], K) for user in sample_users]
    answers = [json.loads(answer) for answer in answers_to(Recommender(engine_of(sample_build)), users)]
    return {
        side: np.array([[products.positions[match["id"]] for match in answer[side]] for answer in answers])
        for side in SIDES
    }


@pytest.fixture(scope="module")
def longest_products_first(products: SampleProducts, sample_users: list[dict[str, Any]]) -> NDArray[np.int64]:
    """The best matches (users, K) by inner products of vectors as they are, which long vectors win."""
    inner_products = np.array([user["vector"] for user in sample_users]) @ products.vectors.T
    return np.argsort(-inner_products, axis=1, kind="stable")[:, :K]


def share_loved(loved: NDArray[np.bool_], matches: NDArray[np.int64]) -> float:
    return float(np.take_along_axis(loved, matches, axis=1).mean())


def test_most_best_matches_are_of_a_loved_cuisine(
    loved: NDArray[np.bool_], found: dict[str, NDArray[np.int64]]
) -> None:
    best = share_loved(loved, found["best"])
    assert best >= 0.6
    assert best >= 3 * loved.mean()


def test_the_first_match_is_of_a_loved_cuisine_for_three_users_in_four(
    loved: NDArray[np.bool_], found: dict[str, NDArray[np.int64]]
) -> None:
    assert share_loved(loved, found["best"][:, :1]) >= 0.75


def test_worst_matches_are_of_a_loved_cuisine_less_often_than_random_ones(
    loved: NDArray[np.bool_], found: dict[str, NDArray[np.int64]]
) -> None:
    assert share_loved(loved, found["worst"]) <= loved.mean()


def test_every_cuisine_finds_its_lovers(
    products: SampleProducts,
    sample_users: list[dict[str, Any]],
    loved: NDArray[np.bool_],
    found: dict[str, NDArray[np.int64]],
) -> None:
    for cuisine in {row["cuisine"] for row in products.rows}:
        lovers = [i for i, user in enumerate(sample_users) if cuisine in user["cuisines"]]
        assert share_loved(loved[lovers], found["best"][lovers]) >= 3 * loved[lovers].mean(), cuisine


def test_no_product_is_among_a_users_best_and_worst(found: dict[str, NDArray[np.int64]]) -> None:
    for best, worst in zip(found["best"], found["worst"], strict=True):
        assert set(best) & set(worst) == set()


def test_inner_products_of_raw_vectors_would_find_far_fewer_loved_products(
    loved: NDArray[np.bool_], found: dict[str, NDArray[np.int64]], longest_products_first: NDArray[np.int64]
) -> None:
    assert share_loved(loved, found["best"]) >= share_loved(loved, longest_products_first) + 0.2


def test_inner_products_of_raw_vectors_would_offer_the_same_few_products_to_all(
    found: dict[str, NDArray[np.int64]], longest_products_first: NDArray[np.int64]
) -> None:
    assert len(np.unique(found["best"])) >= 2 * len(np.unique(longest_products_first))
