"""Vectors of any finite length have a direction, and only that counts."""

import numpy as np
import pytest

from tests.support.api import VECTOR, Api, user_json, user_text
from tests.support.oracle import Oracle
from tests.support.sample import SampleProducts


@pytest.mark.parametrize("exponent", [-300, -100, -30, 30, 100, 300])
def test_a_scaled_user_gets_the_same_answer(api: Api, exponent: int) -> None:
    scaled = "[" + ",".join(f"{number}e{exponent}" for number in VECTOR) + "]"
    assert api.infer(user_text(scaled)).body == api.infer(user_json()).body


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e308, 1.7976931348623157e308, 2.2250738585072014e-308, 5e-324], ids=str)
def test_numbers_at_the_edge_of_float_range_are_answered_like_ones(api: Api, size: float) -> None:
    signs = np.sign(VECTOR)
    assert api.infer(user_json(vector=(signs * size).tolist())).body == api.infer(user_json(vector=signs.tolist())).body


def test_denormals_of_different_sizes_keep_their_direction(api: Api, sample_products: SampleProducts) -> None:
    steps = np.round(np.array(VECTOR) * 1000)
    answer = api.infer(user_json(vector=(steps * 5e-324).tolist())).json
    for side in ("best", "worst"):
        positions = [sample_products.positions[match["id"]] for match in answer[side]]
        Oracle(sample_products.vectors).check(steps, side, positions, [match["score"] for match in answer[side]], 10)


def test_one_huge_number_leaves_its_axis_alone(api: Api) -> None:
    axis = [0.0] * 299 + [1.0]
    mixed = [1e-30] * 299 + [1e308]
    assert api.infer(user_json(vector=mixed)).body == api.infer(user_json(vector=axis)).body


def test_a_user_who_is_a_product_scores_it_with_one(api: Api, sample_products: SampleProducts) -> None:
    match = api.infer(user_json(vector=sample_products.vectors[100].tolist(), k=1)).json["best"][0]
    assert match == {"id": sample_products.rows[100]["id"], "name": sample_products.rows[100]["name"], "score": 1.0}


def test_an_opposite_user_gets_the_sides_exchanged(api: Api) -> None:
    there, back = (api.infer(user_json(vector=[sign * n for n in VECTOR])).json for sign in (1, -1))
    for side, other in (("best", "worst"), ("worst", "best")):
        assert [match["id"] for match in back[side]] == [match["id"] for match in there[other]]
        assert [match["score"] for match in back[side]] == [-match["score"] for match in there[other]]
