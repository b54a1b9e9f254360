"""Batches: everyone gets what they would get alone."""

import json
from typing import Any

import pytest

from tests.support.api import Api, Fault, array, user_json, user_text, vector_text


def error_item(name: str | None, pointer: str, code: str, detail: str) -> bytes:
    item = {"name": name, "error": {"code": code, "detail": detail, "pointer": pointer}}
    return json.dumps(item, separators=(",", ":")).encode()


@pytest.fixture(scope="module")
def bodies(sample_users: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(user).encode() for user in sample_users]


@pytest.fixture(scope="module")
def alone(api: Api, bodies: list[bytes]) -> list[bytes]:
    """What each sample user gets from `/infer`."""
    return [api.infer(body).body for body in bodies]


@pytest.mark.parametrize("size", [1, 19, 20, 426, 427, 1000])
def test_a_batch_holds_what_each_user_gets_alone(api: Api, bodies: list[bytes], alone: list[bytes], size: int) -> None:
    assert api.batch(array(bodies[:size])).body == array(alone[:size])
    assert api.batch(array(bodies[-size:])).body == array(alone[-size:])


def test_users_of_different_k_and_exclude_get_what_they_get_alone(api: Api, sample_users: list[dict[str, Any]]) -> None:
    best = [match["id"] for match in api.infer(user_json(vector=sample_users[0]["vector"], k=60)).json["best"]]
    bodies = [
        user_json(name=user["name"], vector=user["vector"], k=(1, 2, 7, 100, 1000)[i % 5], exclude=best[: i % 60])
        for i, user in enumerate(sample_users[:120])
    ]
    assert api.batch(array(bodies)).body == array([api.infer(body).body for body in bodies])


def test_an_empty_batch_gets_an_empty_array(api: Api) -> None:
    assert api.batch(b" [ ] ").body == b"[]"


@pytest.mark.parametrize("body", [b"{}", user_json(), b"7", b"null", b"true", b'"7"'], ids=lambda body: repr(body)[:20])
def test_a_batch_must_be_an_array(api: Api, body: bytes) -> None:
    api.refuse_user(body, Fault("", "type", "a batch must be an array of users"), path="/batch")


@pytest.mark.parametrize("position", [0, 500, 999])
def test_one_bad_user_among_a_thousand_fails_alone(
    api: Api, bodies: list[bytes], alone: list[bytes], position: int
) -> None:
    sent, expected = bodies.copy(), alone.copy()
    sent[position] = user_json(name="mike", vector=[1.0, 2.0])
    expected[position] = error_item(
        "mike", f"/{position}/vector", "vector_dimension", "vector has 2 numbers, 300 are expected"
    )
    assert api.batch(array(sent), errors=1).body == array(expected)


def test_a_batch_of_only_bad_users_lists_them_all(api: Api) -> None:
    answer = api.batch(array([b"{}", user_json(name=7), user_json(name="bob", k=0)]), errors=3)
    assert answer.body == array(
        [
            error_item(None, "/0/name", "missing", "name is missing"),
            error_item(None, "/1/name", "type", "name must be a string, not a number"),
            error_item("bob", "/2/k", "range", "k must be from 1 to 1000, not 0"),
        ]
    )
    api.check_alive()


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (b"7", "a number"),
        (b"1e400", "a number"),
        (b'"ann"', "a string"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"[]", "a list"),
    ],
)
def test_an_item_that_is_no_object_fails_alone(api: Api, item: bytes, found: str) -> None:
    good = api.infer(user_json()).body
    expected = error_item(None, "/1", "type", f"a user must be an object, not {found}")
    assert api.batch(array([user_json(), item, user_json()]), errors=1).body == array([good, expected, good])


@pytest.mark.parametrize(
    ("number", "found"),
    [("NaN", "nan"), ("-Infinity", "-inf"), ("1e400", "inf"), ("9" * 400, "inf"), ("9" * 5000, "inf")],
    ids=["NaN", "-Inf", "1e400", "400 digits", "5,000 digits"],
)
def test_a_number_that_is_not_finite_fails_one_user_alone(api: Api, number: str, found: str) -> None:
    bad = user_text(vector_text(number), name='"bad"')
    good = api.infer(user_json()).body
    expected = error_item("bad", "/1/vector/0", "vector_not_finite", f"vector element 0 is not finite: {found}")
    assert api.batch(array([user_json(), bad, user_json()]), errors=1).body == array([good, expected, good])


def test_an_all_zero_vector_fails_one_user_alone(api: Api) -> None:
    bad = user_json(name="bad", vector=[0] * 300)
    expected = error_item("bad", "/0/vector", "vector_zero", "vector is all zeros, which has no direction")
    assert api.batch(array([bad, user_json()]), errors=1).body == array([expected, api.infer(user_json()).body])


def test_the_same_user_twice_is_answered_twice(api: Api) -> None:
    assert api.batch(array([user_json(), user_json()])).body == array([api.infer(user_json()).body] * 2)
