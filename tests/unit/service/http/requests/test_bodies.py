"""Bytes of bodies to values."""

import json
import math
from typing import Any

import pytest

from service.errors import BadBody
from service.http.requests.text import read_json
from service.http.requests.user_reader import _split_array, split_lines


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"name": "ann"}', {"name": "ann"}),
        (b" [1, 2]\n", [1, 2]),
        (b"7", 7),
        (b"null", None),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"[1e400, -Infinity]", [math.inf, -math.inf]),
    ],
    ids=repr,
)
def test_a_body_is_read_as_json(body: bytes, value: Any) -> None:
    assert read_json(body) == value


@pytest.mark.parametrize("value", [{"name": "ann", "k": 2}, [1, "a"], {"name": "\ud800"}, None], ids=repr)
def test_json_sent_as_a_json_string_is_decoded_once_more(value: Any) -> None:
    assert read_json(json.dumps(json.dumps(value)).encode()) == value


def test_json_encoded_three_times_stays_a_string() -> None:
    assert read_json(json.dumps(json.dumps(json.dumps({"name": "ann"}))).encode()) == '{"name": "ann"}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty, JSON is expected"),
        (b" \r\n\t", "the body is empty, JSON is expected"),
        (b'{"name": "\xff"}', "the body is not UTF-8: invalid start byte at byte 10"),
        (b"[1, 2", "the body is not JSON: Expecting ',' delimiter: line 1 column 6 (char 5)"),
        (b"{} {}", "the body is not JSON: Extra data: line 1 column 4 (char 3)"),
        (b'"ann"', "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'""', "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 200_000, "the body is nested too deeply"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_that_is_not_json_is_refused_saying_where(body: bytes, message: str) -> None:
    with pytest.raises(BadBody) as error:
        read_json(body)
    assert str(error.value) == message


def test_lines_are_split_at_line_feeds_and_blank_ones_skipped() -> None:
    assert split_lines(b'\n{"a": 1}\r\n  \n\r\n[2\n3') == [b'{"a": 1}\r', b"[2", b"3"]
    assert split_lines(b" \n") == []


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b'[{"a":1}]', [b'{"a":1}']),
        (b' [{"a":1},{"b":2}, {"c":3}]\n', [b'{"a":1}', b'{"b":2}', b' {"c":3}']),
        (b'[{"a":"},"}]', [b'{"a":"}', b'"}']),
        (b'[{"a":"}"}]', None),
        (b'[{"a":1} ,{"b":2}]', None),
        (b'[{"a":{}}]', None),
        (b"[]", None),
        (b"[{}, 1]", None),
        (b'{"a":1}', None),
        (b'"[{}]"', None),
        (b"", None),
    ],
    ids=repr,
)
def test_an_array_is_split_where_braces_say_so(body: bytes, texts: list[bytes] | None) -> None:
    assert _split_array(body, 9) == texts
