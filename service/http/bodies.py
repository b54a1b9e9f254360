"""Bytes of request bodies to Python values."""

from typing import Any

from retrieval.records.lenient_json import BadJson, loads
from service.errors import BadBody

_COMMA = ord(",")


def read_json(body: bytes) -> Any:
    """Return the value of a JSON body; one that is a JSON string holding JSON is decoded once more.

    Raises BadBody.
    """
    if not body.strip():
        raise BadBody("the body is empty, JSON is expected")
    try:
        value = loads(body)
        return loads(value.encode(errors="surrogatepass")) if isinstance(value, str) else value
    except BadJson as error:
        raise BadBody(f"the body is {error}") from error


def split_lines(body: bytes) -> list[bytes]:
    """Return the lines of an NDJSON body without the blank ones."""
    return [line for line in body.split(b"\n") if line.strip()]


def read_line(line: bytes) -> Any:
    """Return the value of a line, or the BadJson in its place."""
    try:
        return loads(line)
    except BadJson as error:
        return error


def split_array(body: bytes) -> list[bytes] | None:
    """Return the texts of the members of an array of objects, or None where the body does not look like a plain one.

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
