"""How much one request may ask for."""

import json

import numpy as np
import pytest

from service.settings import Limits
from tests.integration.conftest import ApiOver
from tests.support.api import NDJSON, VECTOR, Api, Fault, array, user_json
from tests.support.oracle import Oracle
from tests.support.sample import SampleProducts


@pytest.mark.parametrize("path", ["/infer", "/batch"])
def test_a_body_over_the_limit_is_refused_and_one_at_it_is_read(api_over: ApiOver, path: str) -> None:
    api, user = api_over(max_body_bytes=4096), user_json()
    body = (user if path == "/infer" else array([user])).ljust(4096)
    assert api.post(path, body).status == 200
    api.refuse(body + b" ", 413, "the body is larger than the 4096 bytes allowed", path)


def test_a_batch_over_the_limit_is_refused_and_one_at_it_is_answered(api_over: ApiOver) -> None:
    api = api_over(limits=Limits(max_batch=3))
    assert api.batch(array([user_json()] * 3)).body == array([api.infer(user_json()).body] * 3)
    api.refuse(array([user_json()] * 4), 413, "the batch has 4 users, 3 are allowed", "/batch")


def test_bad_users_count_towards_the_size_of_a_batch(api_over: ApiOver) -> None:
    api_over(limits=Limits(max_batch=3)).refuse(b"[1,2,3,4]", 413, "the batch has 4 users, 3 are allowed", "/batch")


def test_a_batch_over_ten_thousand_users_is_refused_by_default(api: Api) -> None:
    api.refuse(array([b"{}"] * 10_001), 413, "the batch has 10001 users, 10000 are allowed", "/batch")


def test_users_times_k_is_limited_to_a_million(api: Api) -> None:
    detail = "the batch asks for more than 1000000 matches a side (users x k)"
    api.refuse(array([user_json(k=1000)] * 1001), 413, detail, "/batch")


def test_users_times_k_adds_up_each_users_k(api_over: ApiOver) -> None:
    api = api_over(limits=Limits(users_times_k=9))
    bodies = [user_json(k=k) for k in (2, 3, 4)]
    assert api.batch(array(bodies)).body == array([api.infer(body).body for body in bodies])
    detail = "the batch asks for more than 9 matches a side (users x k)"
    api.refuse(array([*bodies, user_json(k=1)]), 413, detail, "/batch")


def test_diversity_counts_as_the_work_that_it_takes(api_over: ApiOver) -> None:
    api = api_over(limits=Limits(users_times_k=90))
    body = user_json(k=3, diversity=0.3)  # It picks from thirty products.
    assert api.batch(array([body] * 3)).body == array([api.infer(body).body] * 3)
    detail = (
        "the batch asks for more than 90 matches a side (users x k, where k counts ten times and more with diversity)"
    )
    api.refuse(array([*[body] * 3, user_json(k=1)]), 413, detail, "/batch")
    api.refuse(b"\n".join([body] * 4), 413, detail, "/batch", NDJSON)


@pytest.mark.parametrize("path", ["/infer", "/similar"])
def test_one_list_with_diversity_takes_no_more_work_than_a_batch(
    api_over: ApiOver, sample_products: SampleProducts, path: str
) -> None:
    api = api_over(limits=Limits(max_k=10**6))
    body = {"name": "ann", "vector": VECTOR, "ids": [sample_products.rows[0]["id"]]}
    assert api.post(path, json.dumps({**body, "k": 10**6}).encode()).status == 200
    assert api.post(path, json.dumps({**body, "k": 10, "diversity": 0.3}).encode()).status == 200
    detail = "k = 1000000 with diversity takes more work than 1000000 matches"
    api.refuse(json.dumps({**body, "k": 10**6, "diversity": 0.3}).encode(), 413, detail, path)


def test_bad_users_do_not_count_towards_users_times_k(api_over: ApiOver) -> None:
    api = api_over(limits=Limits(users_times_k=9))
    answer = api.batch(array([user_json(k=9), user_json(k=9, vector=[])]), errors=1)
    assert json.dumps(answer.json[0]) == json.dumps(api.infer(user_json(k=9)).json)


def test_k_defaults_to_ten(api: Api) -> None:
    assert api.infer(user_json()).body == api.infer(user_json(k=10)).body
    assert api.infer(user_json()).body != api.infer(user_json(k=11)).body


def test_the_default_and_the_greatest_k_are_settings(api_over: ApiOver) -> None:
    api = api_over(limits=Limits(default_k=4, max_k=5))
    assert api.infer(user_json()).body == api.infer(user_json(k=4)).body
    check = Fault("/k", "range", "k must be from 1 to 5, not 6")
    assert api.post("/infer", user_json(k=6)).json["errors"] == [vars(check)]


@pytest.mark.parametrize("k", [2459, 2460, 2461, 5000])
def test_a_k_at_or_beyond_the_catalogue_gives_the_whole_of_it(
    api_over: ApiOver, sample_products: SampleProducts, k: int
) -> None:
    answer = api_over(limits=Limits(max_k=5000)).infer(user_json(k=k)).json
    oracle = Oracle(sample_products.vectors)
    for side in ("best", "worst"):
        positions = [sample_products.positions[match["id"]] for match in answer[side]]
        oracle.check(np.array(VECTOR), side, positions, [match["score"] for match in answer[side]], k)
