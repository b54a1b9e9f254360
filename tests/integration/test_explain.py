"""An answer says how it was found, in the same bytes alone and in any batch."""

import json
from typing import Any

import pytest

from service.recommender import Recommender
from tests.integration.conftest import ApiOver
from tests.support.api import Api, array
from tests.support.engines import engine_of
from tests.support.fake_engine import compass
from tests.support.filter_oracle import matching
from tests.support.filtered import USER, FilteredProducts


@pytest.fixture(scope="module")
def products() -> FilteredProducts:
    return FilteredProducts()


@pytest.fixture(scope="module")
def flat(api_over: ApiOver, products: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> Api:
    return api_over(Recommender(engine_of(products.build(tmp_path_factory.mktemp("flat"), index="Flat"))))


def user(**options: Any) -> bytes:
    return json.dumps({"name": "ann", "vector": USER, **options}).encode()


def test_an_explained_answer_is_the_plain_one_with_a_member_more(flat: Api, products: FilteredProducts) -> None:
    rows = len({vector.tobytes() for vector in products.vectors})
    plain = flat.infer(user()).json
    explained = flat.infer(user(explain=True, exclude=["p0", "nothing", "p1", "p90"])).json
    assert explained.pop("explain") == {
        "path": "exact",
        "matched": 90,
        "candidates": {"best": rows, "worst": rows},
        "unknown_excluded": 2,
    }
    assert explained == flat.infer(user(exclude=["p0", "p1"])).json
    assert flat.infer(user(explain=False)).json == plain


def test_an_explained_filter_counts_what_matches(flat: Api, products: FilteredProducts) -> None:
    query = {"brand": {"$ne": "acme"}, "stock": True}
    matched = matching(products.fields, query)
    answer = flat.infer(user(explain=True, filter=query)).json
    explain = answer["explain"]
    assert (explain["matched"], answer["matched"]) == (len(matched), len(matched))
    assert explain["path"] == "matching rows"
    rows = len({products.vectors[position].tobytes() for position in matched})
    assert explain["candidates"] == {"best": rows, "worst": rows}


def test_explained_answers_are_the_same_alone_and_in_any_batch(flat: Api) -> None:
    bodies = [user(explain=True), user(), user(explain=True, k=3), user(explain=True, filter={"stock": True})]
    bodies += [user(explain=True, exclude=[name]) for name in ("p0", "nothing", "p1")]
    bodies += [*bodies, *bodies[::-1]]
    assert flat.batch(array(bodies)).body == array([flat.infer(body).body for body in bodies])


def test_similar_products_are_explained_too(flat: Api) -> None:
    answer = flat.post("/similar", json.dumps({"ids": ["p0"], "explain": True}).encode()).json
    assert answer["explain"]["path"] == "exact"
    assert answer["explain"]["unknown_excluded"] == 0


def test_explain_is_a_boolean(flat: Api) -> None:
    refused = flat.post("/infer", user(explain=1))
    assert (refused.status, refused.json["detail"]) == (422, "explain must be a boolean, not a number")


def test_an_engine_that_cannot_explain_says_so(api_over: ApiOver) -> None:
    api = api_over(Recommender(compass()))
    assert api.post("/infer", b'{"name":"ann","vector":[1,0],"explain":true}').status == 501
    plain = api.infer(b'{"name":"ann","vector":[1,0]}').body
    assert api.infer(b'{"name":"ann","vector":[1,0],"explain":false}').body == plain
