"""Bytes to values and answers to bytes."""

import json
import math
from typing import Any

import pytest

from index_builder.lenient_json import BadJson
from service.engines.base import Match
from service.errors import BadBody
from service.payload import read_json, read_ndjson, write_array, write_json, write_ndjson
from service.recommender import Recommendation

ANN = Recommendation("ann", [Match("p1", "Éclair", 0.5)], [])
ANN_BYTES = '{"name":"ann","best":[{"id":"p1","name":"Éclair","score":0.5}],"worst":[]}'.encode()


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


def test_lines_are_read_each_for_itself_and_blank_ones_skipped() -> None:
    values = read_ndjson(b'\n{"a": 1}\r\n  \n\r\n[2\n\xff\n3')
    assert [value for value in values if not isinstance(value, BadJson)] == [{"a": 1}, 3]
    assert [str(value) for value in values[1:3]] == [
        "not JSON: Expecting ',' delimiter: line 1 column 3 (char 2)",
        "not UTF-8: invalid start byte at byte 0",
    ]
    assert len(values) == 4


def test_an_answer_is_written_as_compact_utf8_in_the_order_of_its_fields() -> None:
    assert write_json(ANN) == ANN_BYTES


def test_a_lone_surrogate_is_written_as_its_escape() -> None:
    answer = Recommendation("\ud800", [Match("p1", "Pie", 0.5)], [])
    assert write_json(answer) == rb'{"name":"\ud800","best":[{"id":"p1","name":"Pie","score":0.5}],"worst":[]}'


def test_an_array_holds_each_answer_as_it_is_written_alone() -> None:
    odd = Recommendation("\udfff", [], [])
    assert write_array([ANN, odd, ANN]) == b"[" + ANN_BYTES + b"," + write_json(odd) + b"," + ANN_BYTES + b"]"
    assert write_array([]) == b"[]"


def test_lines_hold_each_answer_as_it_is_written_alone() -> None:
    assert write_ndjson([ANN, ANN]) == ANN_BYTES + b"\n" + ANN_BYTES + b"\n"
    assert write_ndjson([]) == b""
