"""The JSON that builder and service read."""

import json
import math
import tracemalloc
from itertools import islice
from typing import Any

import pytest

from retrieval.records import lenient_json
from retrieval.records.lenient_json import BadJson, LongJson, loads, loads_string, take_array


@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, -0.0, None, True, "é☕"]}, [], "text", 0, None, {"": {"nested": [[]]}}],
    ids=repr,
)
def test_ordinary_json_is_read_as_ever(value: Any) -> None:
    assert loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (b"Infinity", math.inf),
        (b"-Infinity", -math.inf),
        (b"1e400", math.inf),
        (b"-1e400", -math.inf),
        (b"7" * 5000, math.inf),
        (b"-" + b"7" * 5000, -math.inf),
        (b"1" + b"0" * 309, math.inf),
        (b"1e-400", 0.0),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_numbers_beyond_float_range_become_infinite(number: bytes, expected: float) -> None:
    assert loads(b'{"vector": [1, ' + number + b"]}") == {"vector": [1, expected]}


def test_nan_is_read_as_nan() -> None:
    [first, second] = loads(b"[NaN, 2]")
    assert math.isnan(first)
    assert second == 2


def test_integers_within_float_range_stay_integers_beside_a_nan() -> None:
    assert loads(b"[NaN, 12345678901234567890123]")[1] == 12345678901234567890123


def test_a_lone_surrogate_stays_in_its_string() -> None:
    assert loads(b'["\\ud83c"]') == ["\ud83c"]


def test_a_byte_order_mark_is_skipped() -> None:
    assert loads(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"hello", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[1] [2]", "not JSON: Extra data: line 1 column 5 (char 4)"),
        (b'{"a" 1}', "not JSON: Expecting ':' delimiter: line 1 column 6 (char 5)"),
        (b'["\xff"]', "not UTF-8: invalid start byte at byte 2"),
        (b'["\xed\xa0\x80"]', "not UTF-8: invalid continuation byte at byte 2"),
        (b"[" * 200_000, "nested too deeply"),
    ],
    ids=["nothing", "a word", "two values", "no colon", "a byte", "a surrogate in UTF-8", "200,000 brackets"],
)
def test_what_is_no_json_is_refused_saying_where(text: bytes, message: str) -> None:
    with pytest.raises(BadJson) as caught:
        loads(text)
    assert str(caught.value) == message


MEMBERS = ["{}", "[]", "0", "-12345.5e3", "true", "null", "NaN", '"é😀 ] , \\" x"', '{"a": [1, {"b": "]"}]}', "1" * 20]


@pytest.mark.parametrize("separator", [",", " ,\n "])
@pytest.mark.parametrize("window", [64, 65, 67, 70, 10_000])
def test_the_members_of_an_array_come_one_by_one(monkeypatch: pytest.MonkeyPatch, separator: str, window: int) -> None:
    monkeypatch.setattr(lenient_json, "_WINDOW_BYTES", window)
    text = f"\ufeff [{separator.join(MEMBERS * 20)} ]\n".encode()
    assert repr([*lenient_json.iterate_array(text)]) == repr(lenient_json.loads(text))


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        (b"[1,2", 1, "not JSON from byte 3 on"),
        (b"[1,2]]", 2, "not JSON from byte 5 on"),
        (b"[1,]", 1, "not JSON from byte 3 on"),
        (b"[1 2]", 0, "not JSON from byte 1 on"),
        (b'[1,"\xff"]', 0, "not UTF-8: invalid start byte at byte 4"),
        (b'["' + b"x" * 99 + b'"]', 0, "not JSON from byte 1 on, or has a value of more than 64 bytes there"),
        (b"[0," + b"[" * 99, 1, "not JSON from byte 3 on, or has a value of more than 64 bytes there"),
    ],
    ids=repr,
)
def test_an_array_is_read_up_to_what_is_not_json(
    monkeypatch: pytest.MonkeyPatch, text: bytes, read: int, message: str
) -> None:
    monkeypatch.setattr(lenient_json, "_WINDOW_BYTES", 64)
    members = lenient_json.iterate_array(text)
    assert len([*islice(members, read)]) == read
    with pytest.raises(lenient_json.BadJson) as error:
        next(members)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "[" + "{}," * 9999 + "{}]",
        "[" + "[]," * 9999 + "[]]",
        "[" + '{"a":0},' * 9999 + "[]]",
        "[" + ",".join(f"{n}.5" for n in range(300, 9999)) + "]",
        "[" + ",".join(f'"{n}"' for n in range(9999)) + "]",
        "{" + ",".join(f'"{n}":{n}' for n in range(300, 9999)) + "}",
        "[" + ",".join(f'{{"{n}":[{{"{n}":[]}}]}}' for n in range(9999)) + "]",
        '"' + "x" * 9999 + '"',
    ],
    ids=lambda text: text[:12],
)
def test_a_value_takes_no_more_memory_than_estimated(text: str) -> None:
    encoded = text.encode()
    lenient_json.loads(encoded)  # so that keys which orjson keeps are kept already
    tracemalloc.start()
    value = lenient_json.loads(encoded)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value
    assert taken <= lenient_json.value_bytes(encoded) <= 12 * taken


LONG_TEXT = "".join(f'{i}, "é\\\n\ud83c {{[' for i in range(100_000))  # quotes, line ends, lone surrogates


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("text", ["", "a", ",", LONG_TEXT], ids=["empty", "letter", "comma", "long"])
def test_a_string_is_decoded_as_if_it_were_parsed_at_once(text: str, ensure_ascii: bool) -> None:
    body = json.dumps(text, ensure_ascii=ensure_ascii).encode(errors="surrogatepass")
    if ensure_ascii or text != LONG_TEXT:
        assert loads_string(b" \n" + body + b"\r\n") == text.encode(errors="surrogatepass")
    else:
        with pytest.raises(BadJson, match="not UTF-8"):
            loads_string(body)


@pytest.mark.parametrize("end", [b"", b'" ', b'"x', b'\\"', b'",1'], ids=repr)
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_string_that_ends_wrongly_is_refused_however_long(size: int, end: bytes) -> None:
    text = b'"' + b"a," * (size // 2) + end
    if end == b'" ':
        assert loads_string(text) == text[1:-2]
    else:
        with pytest.raises(BadJson):
            loads_string(text)


def test_a_long_string_without_a_comma_is_refused() -> None:
    with pytest.raises(
        LongJson, match="a string without a comma, colon or bracket in the 1,048,576 bytes from byte 3 on"
    ):
        loads_string(b'"a,' + b"1" * 2_000_000 + b'"')


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("rows", [0, 1, 2, 90_000])
@pytest.mark.parametrize("nested", [False, True])
def test_an_array_of_numbers_is_taken_out_of_a_text(rows: int, nested: bool, indent: int | None) -> None:
    data: list[Any] = [[i, 0.5, -1e-7] if nested else i / 8 for i in range(rows)]
    value = {"id": 'a "data":[1] b', "inputs": [{"shape": [rows, 3], "data": data, "x": [[1]]}], "data": [7]}
    rest, members = take_array(json.dumps(value, indent=indent).encode(), "data")
    if rows == 90_000 and nested and indent:
        assert members == [] or members == data
        return
    assert members == data
    assert json.loads(rest) == {**value, "inputs": [{"shape": [rows, 3], "data": [], "x": [[1]]}]}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1, 2]",
        b'{"data": 1}',
        b'{"data": "[1]"}',
        b'{"data": [1, 2',
        b'{"data": [[1, 2]',
        b'"data',
        b'{"a\\"data":[1]:1}',
        b'{"data":[' + b"1" * 2_000_000 + b"]}",
    ],
    ids=lambda text: repr(text)[:30],
)
def test_a_text_without_such_an_array_comes_back_as_it_is(text: bytes) -> None:
    assert take_array(text, "data") == (text, [])


@pytest.mark.parametrize("data", [b"1,,2", b"1,", b",1", b"1 2", b"[1],[2,]", b"[1],,[2]"], ids=repr)
def test_an_array_that_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadJson):
        take_array(b'{"data":[%b]}' % data, "data")
