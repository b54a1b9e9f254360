"""What becomes of the bytes of a request, good JSON or not."""

import json

import pytest

from tests.support.api import JSON, NDJSON, VECTOR, Api, Fault, array, user_json, user_text, vector_text

EMPTY = "the body is empty, JSON is expected"
TOO_DEEP = "the body is nested too deeply"
NOT_UTF8 = "the body is not UTF-8: invalid start byte at byte 10"


@pytest.mark.parametrize("path", ["/infer", "/batch"])
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        pytest.param(None, EMPTY, id="none"),
        pytest.param(b"", EMPTY, id="empty"),
        pytest.param(b" \r\n\t ", EMPTY, id="blank"),
        pytest.param(b'{"name": "\xff"}', NOT_UTF8, id="not UTF-8"),
        pytest.param(
            b"[[1, 2", "the body is not JSON: Expecting ',' delimiter: line 1 column 7 (char 6)", id="truncated"
        ),
        pytest.param(b"name=ann", "the body is not JSON: Expecting value: line 1 column 1 (char 0)", id="a form"),
        pytest.param(b"{}\n{}", "the body is not JSON: Extra data: line 2 column 1 (char 3)", id="two values"),
        pytest.param(b'"ann"', "the body is not JSON: Expecting value: line 1 column 1 (char 0)", id="a plain string"),
    ],
)
def test_a_body_that_is_not_json_is_refused_saying_where(api: Api, path: str, body: bytes | None, detail: str) -> None:
    api.refuse(body, 400, detail, path)


def test_a_body_cut_off_inside_a_vector_is_refused(api: Api) -> None:
    body = user_json()[:-2]
    at = len(body)
    api.refuse(body, 400, f"the body is not JSON: Expecting ',' delimiter: line 1 column {at + 1} (char {at})")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"[]", "a list"),
        (array([user_json()]), "a list"),
        (b"7", "a number"),
        (b"NaN", "a number"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b'"7"', "a number"),
        (json.dumps(json.dumps(json.dumps({}))).encode(), "a string"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_json_that_is_no_object_is_no_user(api: Api, body: bytes, found: str) -> None:
    api.refuse_user(body, Fault("", "type", f"a user must be an object, not {found}"))


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        NDJSON,
        "multipart/form-data; boundary=x",
        "x",
        "application/json; charset=latin-1",
    ],
)
def test_a_single_user_is_read_as_json_whatever_the_content_type(api: Api, content_type: str) -> None:
    assert api.infer(user_json(name="é"), content_type).body == api.infer(user_json(name="é")).body


def test_a_batch_sent_as_curl_sends_it_is_read_as_json(api: Api) -> None:
    answer = api.post("/batch", array([user_json()]), "application/x-www-form-urlencoded")
    assert answer.headers["Content-Type"] == JSON
    assert answer.body == api.batch(array([user_json()])).body


def test_a_user_encoded_twice_is_answered_like_one_encoded_once(api: Api) -> None:
    assert api.infer(json.dumps(user_json().decode()).encode()).body == api.infer(user_json()).body


def test_a_batch_encoded_twice_is_answered_like_one_encoded_once(api: Api) -> None:
    batch = array([user_json(), user_json(k=2)])
    assert api.batch(json.dumps(batch.decode()).encode()).body == api.batch(batch).body


def test_a_user_encoded_three_times_is_refused(api: Api) -> None:
    body = json.dumps(json.dumps(user_json().decode())).encode()
    api.refuse_user(body, Fault("", "type", "a user must be an object, not a string"))


def test_a_byte_order_mark_is_skipped(api: Api) -> None:
    assert api.infer(b"\xef\xbb\xbf" + user_json()).body == api.infer(user_json()).body


def test_unknown_fields_are_ignored(api: Api) -> None:
    more = user_text(likes='["tea", NaN, {"a": 9e999}]', K='"x"', best="[]")
    assert api.infer(more).body == api.infer(user_json()).body


def test_of_duplicate_keys_the_last_counts(api: Api) -> None:
    body = b'{"name": 7, "vector": null, ' + user_json(name="bob").removeprefix(b"{")
    assert api.infer(body).body == api.infer(user_json(name="bob")).body


def test_integers_are_as_good_as_floats(api: Api) -> None:
    whole = [round(number * 1000) for number in VECTOR]
    assert api.infer(user_json(vector=whole)).body == api.infer(user_json(vector=[float(n) for n in whole])).body


@pytest.mark.parametrize("levels", [5_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("path", ["/infer", "/batch"])
def test_deep_nesting_is_refused_wherever_it_stands(
    api: Api, path: str, opening: str, closing: str, levels: int
) -> None:
    deep = opening * levels + "1" + closing * levels
    users = [
        deep.encode(),
        (opening * levels).encode(),
        user_text(likes=deep),
        user_text(vector=deep),
        user_text(vector=vector_text(deep)),
    ]
    bodies = [array([user]) for user in users] if path == "/batch" else users
    for body in [*bodies, json.dumps(deep).encode()]:
        api.refuse(body, 400, TOO_DEEP, path)


def test_an_unknown_field_may_be_nested_a_few_hundred_deep(api: Api) -> None:
    assert api.infer(user_text(likes="[" * 500 + "]" * 500)).body == api.infer(user_json()).body
