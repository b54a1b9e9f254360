"""Excluded products make room for the next best, on both sides."""

from typing import Any

import numpy as np
import pytest

from tests.support.api import Api, array, user_json
from tests.support.oracle import Oracle
from tests.support.sample import SampleProducts


def ids(answer: dict[str, Any], side: str) -> list[str]:
    return [match["id"] for match in answer[side]]


def check_without(
    products: SampleProducts, user: list[float], excluded: set[str], answer: dict[str, Any], k: int
) -> None:
    """Compare with exact NumPy over a catalogue that never held the excluded products."""
    kept = [i for i, row in enumerate(products.rows) if row["id"] not in excluded]
    position = {products.rows[i]["id"]: nth for nth, i in enumerate(kept)}
    oracle = Oracle(products.vectors[kept])
    for side in ("best", "worst"):
        scores = [match["score"] for match in answer[side]]
        oracle.check(np.array(user), side, [position[match] for match in ids(answer, side)], scores, k)


@pytest.mark.parametrize("count", [1, 5, 10, 50])
def test_the_excluded_best_are_replaced_from_below(
    api: Api, sample_products: SampleProducts, sample_users: list[dict[str, Any]], count: int
) -> None:
    for user in sample_users[:5]:
        first = api.infer(user_json(vector=user["vector"], k=count)).json
        excluded = [*ids(first, "best"), *ids(first, "worst")]
        answer = api.infer(user_json(vector=user["vector"], exclude=excluded)).json
        check_without(sample_products, user["vector"], set(excluded), answer, 10)


def test_all_but_three_excluded_leaves_three(
    api: Api, sample_products: SampleProducts, sample_users: list[dict[str, Any]]
) -> None:
    vector, excluded = sample_users[0]["vector"], [row["id"] for row in sample_products.rows[3:]]
    answer = api.infer(user_json(vector=vector, exclude=excluded)).json
    check_without(sample_products, vector, set(excluded), answer, 3)


def test_excluding_everything_gives_empty_lists(api: Api, sample_products: SampleProducts) -> None:
    body = user_json(exclude=[row["id"] for row in sample_products.rows])
    assert api.infer(body).body == b'{"name":"ann","best":[],"worst":[]}'


@pytest.mark.parametrize("exclude", [[], ["nope"], ["", "pizza-1", "\ud800", "PIZZA-01"], ["x"] * 5000], ids=len)
def test_unknown_ids_change_nothing(api: Api, exclude: list[str]) -> None:
    assert api.infer(user_json(exclude=exclude)).body == api.infer(user_json()).body


def test_duplicate_ids_count_once(api: Api) -> None:
    first = ids(api.infer(user_json()).json, "best")[0]
    assert api.infer(user_json(exclude=[first] * 3)).body == api.infer(user_json(exclude=[first])).body


def test_a_product_excluded_from_one_side_is_missing_on_the_other_too(
    api: Api, sample_products: SampleProducts
) -> None:
    everything = user_json(k=1000, exclude=[row["id"] for row in sample_products.rows[::2]])
    expected = {row["id"] for row in sample_products.rows[1::2]}
    answer = api.infer(everything).json
    assert {*ids(answer, "best"), *ids(answer, "worst")} <= expected
    assert len(ids(answer, "best")) == len(ids(answer, "worst")) == 1000


def test_an_exclude_list_is_its_own_users_alone(api: Api) -> None:
    first = ids(api.infer(user_json()).json, "best")[0]
    plain, excluding = user_json(), user_json(exclude=[first])
    batch = api.batch(array([plain, excluding, plain])).body
    assert batch == array([api.infer(body).body for body in (plain, excluding, plain)])
