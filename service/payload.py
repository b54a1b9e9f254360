"""Bytes of request bodies to Python values, and answers to bytes."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import orjson

from index_builder.lenient_json import BadJson, loads
from service.errors import BadBody

JSON, NDJSON = "application/json", "application/x-ndjson"


def read_json(body: bytes) -> Any:
    """The value of a JSON body; a body that is a JSON string is taken for JSON sent twice encoded, and read once more.

    Raises BadBody.
    """
    if not body.strip():
        raise BadBody("the body is empty, JSON is expected")
    try:
        value = loads(body)
        return loads(value.encode(errors="surrogatepass")) if isinstance(value, str) else value
    except BadJson as error:
        raise BadBody(f"the body is {error}") from None


def read_ndjson(body: bytes) -> list[Any]:
    """The value of each line, or the BadJson found in its place; blank lines are skipped."""
    return [_line(line) for line in body.split(b"\n") if line.strip()]


def _line(line: bytes) -> Any:
    try:
        return loads(line)
    except BadJson as error:
        return error


def write_json(answer: Any) -> bytes:
    """Compact JSON of plain values and dataclasses; a lone surrogate, which UTF-8 cannot carry, becomes its escape."""
    try:
        return orjson.dumps(answer)
    except orjson.JSONEncodeError:
        return json.dumps(answer, default=asdict, separators=(",", ":")).encode()


def write_array(answers: Iterable[Any]) -> bytes:
    """A JSON array in which each answer has the bytes that it has alone."""
    return b"[" + b",".join(map(write_json, answers)) + b"]"


def write_ndjson(answers: Iterable[Any]) -> bytes:
    """An answer a line, each with the bytes that it has alone."""
    return b"".join(write_json(answer) + b"\n" for answer in answers)
