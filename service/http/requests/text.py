"""Reads the text of request bodies, of which no long one is parsed at once."""

from codecs import BOM_UTF8
from typing import Any

from retrieval.records.lenient_json import BadJson, LongJson, loads, loads_string, take_array, value_bytes
from service.errors import BadBody, TooLarge

# Of a text that is parsed at once, and of what it may become in memory: 800,000 empty objects. While it is parsed, for
# up to 0.1 s, no other thread of the process runs. Longer bodies are read in parts: lines, users, rows of a tensor.
MAX_TEXT_BYTES, MAX_VALUE_BYTES = 4 * 2**20, 64 * 2**20
_SMALL_BYTES = 2**19  # Texts up to here fit for certain.


def read_json(body: bytes, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Return the value of a JSON body; a JSON string that holds JSON is decoded once more.

    Raises BadBody, or TooLarge where the value may take more than `max_bytes` of memory.
    """
    return parse_json(unwrap(body), max_bytes)


def parse_json(text: bytes, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Do what `read_json` does with a text that holds the value itself."""
    if len(text) > MAX_TEXT_BYTES:
        raise TooLarge(f"the body has a value of {len(text):,} bytes, {MAX_TEXT_BYTES:,} are allowed")
    if not fits(text, max_bytes):
        raise TooLarge(f"the body holds more values than fit in the {max_bytes:,} bytes of memory allowed")
    try:
        return loads(text)
    except BadJson as error:
        raise BadBody(f"the body is {error}") from error


def read_json_and_array(body: bytes, name: str, max_bytes: int) -> tuple[Any, list[Any]]:
    """Do what `read_json` does, but return apart what the array `name` holds in a body too long to be parsed at once.

    The array is empty in the value then.
    """
    text, members = unwrap(body), list[Any]()
    if len(text) > MAX_TEXT_BYTES and value_bytes(text) <= max_bytes:
        try:
            text, members = take_array(text, name)
        except BadJson as error:
            raise BadBody(f"the body is {error}") from error
    return parse_json(text, max_bytes), members


def unwrap(body: bytes) -> bytes:
    """Return the text in a body that is a JSON string, and any other body as it is. Raises BadBody or TooLarge."""
    if not body or body.isspace():
        raise BadBody("the body is empty, JSON is expected")
    if not body.removeprefix(BOM_UTF8).lstrip().startswith(b'"'):
        return body if len(body) <= MAX_TEXT_BYTES else body.strip()
    try:
        return loads_string(body)
    except LongJson as error:
        raise TooLarge(f"the body is {error}") from error
    except BadJson as error:
        raise BadBody(f"the body is {error}") from error


def fits(text: bytes, max_bytes: int = MAX_VALUE_BYTES) -> bool:
    """Tell whether a JSON text may be parsed at once, and its value is sure to take at most `max_bytes` of memory."""
    return len(text) <= _SMALL_BYTES or (len(text) <= MAX_TEXT_BYTES and value_bytes(text) <= max_bytes)
