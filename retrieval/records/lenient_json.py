"""The JSON that builder and service read: RFC 8259, plus the numbers that other writers emit."""

import json
from typing import Any

import orjson

_MAX_FLOAT_DIGITS = 309  # The greatest float has so many decimal digits.


class BadJson(ValueError):
    """The text is not JSON; the message says where."""


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


def _integer(digits: str) -> int | float:
    if len(digits.lstrip("-")) <= _MAX_FLOAT_DIGITS:
        return int(digits)
    return float("-inf" if digits.startswith("-") else "inf")
