"""Batches of one user a line are answered in kind."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.api import JSON, NDJSON, Answer, Api, check_problem, user_json


def send(api: Api, body: bytes, errors: int = 0) -> Answer:
    return api.batch(body, errors, NDJSON)


def failure(pointer: str, code: str, detail: str, name: str | None = None) -> dict[str, Any]:
    return {"name": name, "error": {"code": code, "detail": detail, "pointer": pointer}}


def test_a_line_gets_the_bytes_of_a_single_answer(api: Api, sample_users: list[dict[str, Any]]) -> None:
    bodies = [json.dumps(user).encode() for user in sample_users[:50]]
    expected = b"".join(api.infer(body).body + b"\n" for body in bodies)
    assert send(api, b"\n".join(bodies)).body == expected
    assert send(api, b"".join(body + b"\n" for body in bodies)).body == expected


@pytest.mark.parametrize("subtype", ["ndjson", "jsonl", "jsonlines", "x-jsonlines", "JSONL; charset=utf-8"])
def test_lines_have_several_names_and_are_answered_by_the_same(api: Api, subtype: str) -> None:
    answer = api.post("/batch", user_json() + b"\n{}\n", f"application/{subtype}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == f"application/{subtype.partition(';')[0].lower()}"
    assert answer.body == send(api, user_json() + b"\n{}\n", errors=1).body


@pytest.mark.parametrize("lines", [b"\n".join, b" \r\n".join, b"\r\n".join], ids=["lf", "space", "crlf"])
@pytest.mark.parametrize("content_type", [JSON, "text/plain", "application/x-www-form-urlencoded"])
def test_lines_by_another_name_are_refused_with_the_name_that_they_need(
    api: Api, lines: Callable[[list[bytes]], bytes], content_type: str
) -> None:
    detail = "the body is not JSON but JSON lines, which need Content-Type: application/x-ndjson"
    body = lines([user_json()] * 3)
    if b" \r\n" in body:
        detail = f"the body is not JSON: Extra data: line 2 column 1 (char {len(user_json()) + 3})"
    check_problem(api.post("/batch", body, content_type), 400, detail)


def test_lines_may_end_in_crlf(api: Api) -> None:
    answer = api.infer(user_json()).body + b"\n"
    assert send(api, user_json() + b"\r\n" + user_json() + b"\r\n").body == answer * 2


def test_blank_lines_are_skipped_and_not_counted(api: Api) -> None:
    answer = send(api, b"\n \r\n" + user_json() + b"\n\n\t\n" + user_json(k=0) + b"\n\n", errors=1)
    first, second = answer.body.splitlines()
    assert first == api.infer(user_json()).body
    assert json.loads(second) == failure("/1/k", "range", "k must be from 1 to 1000, not 0", "ann")


@pytest.mark.parametrize("body", [None, b"", b"\n", b" \r\n\n"], ids=repr)
def test_no_lines_get_no_lines(api: Api, body: bytes | None) -> None:
    assert send(api, body or b"").body == b""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"name":', failure("/1", "not_json", "the line is not JSON: Expecting value: line 1 column 9 (char 8)")),
        (b'{"name":"\xff"}', failure("/1", "not_json", "the line is not UTF-8: invalid start byte at byte 9")),
        (b"[" * 200_000, failure("/1", "not_json", "the line is nested too deeply")),
        (b'{"a":' * 5_000, failure("/1", "not_json", "the line is nested too deeply")),
        (b"{} {}", failure("/1", "not_json", "the line is not JSON: Extra data: line 1 column 4 (char 3)")),
        (b"[]", failure("/1", "type", "a user must be an object, not a list")),
        (b"7", failure("/1", "type", "a user must be an object, not a number")),
        (b"{}", failure("/1/name", "missing", "name is missing")),
        (b'{"name":"bob"}', failure("/1/vector", "missing", "vector is missing", "bob")),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_bad_line_fails_only_itself(api: Api, line: bytes, expected: dict[str, Any]) -> None:
    answer = send(api, user_json() + b"\n" + line + b"\n" + user_json(k=2), errors=1)
    first, second, third = answer.body.splitlines()
    assert first == api.infer(user_json()).body
    assert json.loads(second) == expected
    assert third == api.infer(user_json(k=2)).body


def test_only_bad_lines_are_all_answered(api: Api) -> None:
    answer = send(api, b"x\n{}\n", errors=2)
    assert [json.loads(line)["error"]["code"] for line in answer.body.splitlines()] == ["not_json", "missing"]
    api.check_alive()


def test_a_byte_order_mark_is_skipped(api: Api) -> None:
    assert send(api, b"\xef\xbb\xbf" + user_json()).body == api.infer(user_json()).body + b"\n"


def test_only_a_line_feed_ends_a_line(api: Api) -> None:
    name = "a\u2028b\u0085c"
    body = json.dumps(json.loads(user_json(name=name)), ensure_ascii=False, indent=1).replace("\n", "\r").encode()
    assert json.loads(send(api, body).body)["name"] == name


def test_parameters_of_the_content_type_change_nothing(api: Api) -> None:
    answer = api.post("/batch", user_json(), "Application/X-NDJSON; charset=utf-8")
    assert (answer.status, answer.headers["Content-Type"]) == (200, NDJSON)
    assert answer.body == api.infer(user_json()).body + b"\n"


def test_lines_beyond_the_limit_are_refused(api: Api) -> None:
    answer = api.post("/batch", b"{}\n" * 10_001, NDJSON)
    check_problem(answer, 413, "the batch has 10001 users, 10000 are allowed")
    api.check_alive()
