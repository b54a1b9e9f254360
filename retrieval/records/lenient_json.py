"""The JSON that builder and service read: RFC 8259, plus the numbers that other writers emit."""

import codecs
import json
import re
from collections.abc import Iterator
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from typing import Any

import numpy as np
import orjson

_MAX_FLOAT_DIGITS = 309  # The greatest float has so many decimal digits.
_WINDOW_BYTES = 2**20
_NEVER_ESCAPED = (b",", b":", b"[", b"{")
_ARRAY_OF_KEY, _CLOSING = re.compile(rb"\s{0,9}:\s{0,9}\[\s{0,999}"), re.compile(rb"\s{0,999}\]")
# Bytes of memory that each byte of JSON stands for at most: what CPython takes for an empty object or list, for a key
# with its place in the table, for a string's head (half of it a quote), and for a number in a list.
_MEMORY_BYTES = np.ones(256, np.int16)
for _byte, _cost in {b"{": 80, b"[": 72, b":": 104, b'"': 32, b",": 40}.items():
    _MEMORY_BYTES[ord(_byte)] = _cost


class BadJson(ValueError):
    """The text is not JSON; the message says where."""


class LongJson(BadJson):
    """A text that is not JSON, or has a value longer than may be read; the message says where."""


def loads(text: bytes) -> Any:
    """Parse UTF-8 text. Raises BadJson.

    `NaN`, `Infinity`, `1e400` and integers beyond float range become non-finite floats, and a lone surrogate stays in
    its string, so that each is judged as a value by whoever reads the field.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "depth limit" in str(error):
            raise BadJson("nested too deeply") from error
    try:
        return json.loads(text.decode("utf-8-sig"), parse_int=_integer)
    except UnicodeDecodeError as error:
        raise BadJson(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadJson(f"not JSON: {error}") from error
    except RecursionError as error:
        raise BadJson("nested too deeply") from error


def value_bytes(text: bytes) -> int:
    """Return how many bytes of memory the value of a text takes at most, wide characters aside.

    It looks at a window at a time, because a thread that stays in one call for long holds up all others.
    """
    codes = np.frombuffer(text, np.uint8)
    windows = (codes[start : start + _WINDOW_BYTES] for start in range(0, len(codes), _WINDOW_BYTES))
    return sum(int(_MEMORY_BYTES[window].sum(dtype=np.int64)) for window in windows)


def loads_string(text: bytes) -> bytes:
    """Return the UTF-8 of a JSON string, however long, decoded in windows that end behind a mark that no escape holds.

    Raises BadJson. A lone surrogate is encoded as if it were a character.
    """
    text = text.removeprefix(codecs.BOM_UTF8).strip()
    start, stop, parts = 1, len(text) - 1, []
    while stop - start > _WINDOW_BYTES and (cut := _cut_between_escapes(text, start, start + _WINDOW_BYTES)):
        parts.append(_decode_string(b'"%b"' % text[start:cut]))
        start = cut
    if stop - start > _WINDOW_BYTES:
        raise LongJson(
            f"a string without a comma, colon or bracket in the {_WINDOW_BYTES:,} bytes from byte {start} on"
        )
    parts.append(_decode_string(b'"' + text[start:]))
    return b"".join(parts)


def _cut_between_escapes(text: bytes, start: int, stop: int) -> int:
    """Return the position behind the last character, from start to stop, that is no part of an escape; 0 for none."""
    return max(text.rfind(mark, start, stop) for mark in _NEVER_ESCAPED) + 1


def _decode_string(text: bytes) -> bytes:
    value = loads(text)
    if not isinstance(value, str):
        raise BadJson("not JSON: a string must end with a quote")
    return value.encode(errors="surrogatepass")


def take_array(text: bytes, name: str) -> tuple[bytes, list[Any]]:
    """Return an object's text with the array of its first member `name` emptied, and what that array holds.

    The members are numbers, or lists of them, and are parsed a window at a time; where they cannot be, the text comes
    back as it is, with an empty list. Raises BadJson.
    """
    key = text.find(b'"%b"' % name.encode())
    # A key stands behind a quote that is not itself in a string.
    found = _ARRAY_OF_KEY.match(text, key + len(name) + 2) if key > 0 and text[key - 1 : key] != b"\\" else None
    position = start = found.end() if found else 0
    nested = text[start : start + 1] == b"["
    end = text.find(b"]", start)
    while nested and end >= 0 and not _CLOSING.match(text, end + 1):
        end = text.find(b"]", end + 1)
    if not found or end < 0:
        return text, []
    end += nested
    separator, members = b"]," if nested else b",", []
    while end - position > _WINDOW_BYTES:
        cut = text.rfind(separator, position, position + _WINDOW_BYTES) + len(separator) - 1
        if cut <= position:
            return text, []
        members += loads(b"[%b]" % text[position:cut])
        position = cut + 1
    members += loads(b"[%b]" % text[position:end])
    return text[:start] + text[end:].lstrip(), members


def iterate_array(text: bytes) -> Iterator[Any]:
    """Yield the members of an array that is not empty, in the memory of a few; none may be longer than 1 MiB.

    Raises BadJson, or LongJson, perhaps only after some members.
    """
    start, separator = text.find(b"[") + 1, ","
    while separator == ",":
        window, size = _decode(text, start)
        read = 0
        for value, position in _members(window):
            yield value
            read = position
        if not read:
            if start + size >= len(text):
                raise BadJson(f"not JSON from byte {start} on")
            raise LongJson(f"not JSON from byte {start} on, or has a value of more than {_WINDOW_BYTES:,} bytes there")
        start += size if read == len(window) else len(window[:read].encode())
        separator = window[read - 1]
    if text[start:].strip():
        raise BadJson(f"not JSON from byte {start} on")


def _decode(text: bytes, start: int) -> tuple[str, int]:
    """Return a window of UTF-8 text without the part of a character that may end it, and how many bytes it has."""
    try:
        return codecs.utf_8_decode(text[start : start + _WINDOW_BYTES], "strict", False)
    except UnicodeDecodeError as error:
        raise BadJson(f"not UTF-8: {error.reason} at byte {start + error.start}") from error


def _members(window: str) -> Iterator[tuple[Any, int]]:
    """Yield the members at the start of a text, each with the position after the comma or bracket that follows it.

    A member that is followed by neither may go on behind the window, and ends it.
    """
    position, separator = 0, ","
    while separator == ",":
        try:
            value, end = _DECODER.raw_decode(window, WHITESPACE.match(window, position).end())
        except (json.JSONDecodeError, RecursionError):
            return
        end = WHITESPACE.match(window, end).end()
        position, separator = end + 1, window[end : end + 1]
        if separator in {",", "]"}:
            yield value, position


def _integer(digits: str) -> int | float:
    if len(digits.lstrip("-")) <= _MAX_FLOAT_DIGITS:
        return int(digits)
    return float("-inf" if digits.startswith("-") else "inf")


_DECODER = json.JSONDecoder(parse_int=_integer)
