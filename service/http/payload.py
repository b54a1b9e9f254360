"""Bytes of request bodies to Python values, and answers to bytes."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import orjson

from retrieval.records.lenient_json import BadJson, loads
from service.errors import BadBody, FailedUser
from service.recommender import Recommendation

_SCORE = b',"score":'
_COMMA = ord(",")
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


def split_lines(body: bytes) -> list[bytes]:
    """The lines of an NDJSON body; blank ones are skipped."""
    return [line for line in body.split(b"\n") if line.strip()]


def read_line(line: bytes) -> Any:
    """The value of a line, or the BadJson in its place."""
    try:
        return loads(line)
    except BadJson as error:
        return error


def split_array(body: bytes) -> list[bytes] | None:
    """The texts of the members of an array of objects, or None where the body does not look like a plain one.

    Where a member ends is guessed from the first brace. The texts before the first that is not JSON are members for
    certain, as there is one way to read an array; what follows them is not known.
    """
    body = body.strip()
    if not (body.startswith(b"[{") and body.endswith(b"}]")):
        return None
    texts, start = [], 1
    while (end := body.find(b"}", start) + 1) < len(body) - 1:
        if body[end] != _COMMA:
            return None
        texts.append(body[start:end])
        start = end + 1
    return [*texts, body[start:end]]


def write_json(value: Any) -> bytes:
    """Compact JSON of plain values and dataclasses; a lone surrogate, which UTF-8 cannot carry, becomes its escape."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, default=asdict, separators=(",", ":")).encode()


def write_answer(answer: Recommendation | FailedUser) -> bytes:
    if isinstance(answer, FailedUser):
        return write_json(answer)
    return b'{"name":' + write_json(answer.name) + b',"best":' + answer.best + b',"worst":' + answer.worst + b"}"


def write_similar(ids: Iterable[str], answer: Recommendation) -> bytes:
    return b'{"ids":' + write_json(list(ids)) + b',"best":' + answer.best + b',"worst":' + answer.worst + b"}"


def write_products(products: Iterable[bytes]) -> bytes:
    """An object whose `products` are the given JSON objects."""
    return b'{"products":[' + b",".join(products) + b"]}"


def first_score(matches: bytes) -> float | None:
    """The score of the first of a JSON array of matches, if there is one."""
    start = matches.find(_SCORE)  # no string holds this: there, its quotes are escaped
    return float(matches[start + len(_SCORE) : matches.index(b"}", start)]) if start >= 0 else None


def write_array(answers: Iterable[Recommendation | FailedUser]) -> bytes:
    """A JSON array in which each answer has the bytes that it has alone."""
    return b"[" + b",".join(map(write_answer, answers)) + b"]"


def write_ndjson(answers: Iterable[Recommendation | FailedUser]) -> bytes:
    """An answer a line, each with the bytes that it has alone."""
    return b"".join(write_answer(answer) + b"\n" for answer in answers)
