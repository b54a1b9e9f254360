"""What a valid request is, as marshmallow fields whose errors are faults with codes."""

import re
from binascii import a2b_base64
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from marshmallow import EXCLUDE, Schema, ValidationError, fields
from marshmallow.exceptions import SCHEMA
from numpy.typing import NDArray

from retrieval.records.lenient_json import BadJson, loads, value_bytes
from retrieval.vectors import MAX_FAULTS, BadVector, json_type, read_vector
from service.errors import BadBody, BadRequest, Fault, TooLarge
from service.settings import Limits

# Of what one text may become in memory: 800,000 empty objects, or a million numbers of 20 digits. While it is parsed,
# up to 0.1 s, no other thread of the process runs.
MAX_VALUE_BYTES = 64 * 2**20
_SMALL_BYTES = 2**19  # Texts up to here fit for certain.
VECTOR_DTYPE = np.dtype("<f4")  # Base64 holds numbers of this type.
_JSON_STRING = re.compile(rb'(?:\xef\xbb\xbf)?\s*"')
_MAX_DIGITS, _MAX_SHOWN_INTEGER = 18, 10**18
_MESSAGES: dict[str, Any] = {
    "required": [Fault("missing", "is missing", "")],
    "null": [Fault("null", "must not be null", "")],
    "invalid": [Fault("type", "must be a list", "")],
}


class Field(fields.Field):
    """A field whose value is what `read` returns for the parsed JSON.

    `read` raises ValidationError with a list of faults, whose pointers are relative to the field until `load` completes
    them.
    """

    default_error_messages = _MESSAGES

    def __init__(self, read: Callable[[Any], Any], **options: Any):
        super().__init__(**options)
        self._read = read

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return self._read(value)


class Array(fields.List):
    """An array of objects of one schema."""

    default_error_messages = _MESSAGES

    def __init__(self, members: Schema, **options: Any):
        super().__init__(Object(members), **options)


class Object(fields.Nested):
    default_error_messages = _MESSAGES


class _RequestSchema(Schema):
    error_messages = {"type": Fault("type", "must be an object", "")}  # type: ignore[dict-item]

    class Meta:
        unknown = EXCLUDE


def schema(**members: fields.Field) -> Schema:
    """Return the schema of an object of which unknown members are ignored."""
    return _RequestSchema.from_dict(members)()


def user_schema(dimension: int, limits: Limits) -> Schema:
    """Return what a user is to an index of this dimension."""
    return schema(
        name=Field(read_text, required=True),
        vector=Field(partial(read_user_vector, dimension), required=True),
        k=Field(partial(read_count, limits.max_k), load_default=limits.default_k),
        exclude=Field(read_id_set, load_default=frozenset),
    )


def read_json(body: bytes, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Return the value of a JSON body; a JSON string that holds JSON is decoded once more.

    Raises BadBody, or TooLarge where the value may take more than `max_bytes` of memory.
    """
    return parse_json(unwrap(body), max_bytes)


def parse_json(text: bytes, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Do what `read_json` does with a text that holds the value itself."""
    if not fits(text, max_bytes):
        raise TooLarge(f"the body holds more values than fit in the {max_bytes:,} bytes of memory allowed")
    try:
        return loads(text)
    except BadJson as error:
        raise BadBody(f"the body is {error}") from error


def unwrap(body: bytes) -> bytes:
    """Return the text in a body that is a JSON string, and any other body as it is. Raises BadBody."""
    if not body or body.isspace():
        raise BadBody("the body is empty, JSON is expected")
    if not _JSON_STRING.match(body):
        return body
    try:
        return str(loads(body)).encode(errors="surrogatepass")
    except BadJson as error:
        raise BadBody(f"the body is {error}") from error


def fits(text: bytes, max_bytes: int = MAX_VALUE_BYTES) -> bool:
    """Tell whether the value of a JSON text is sure to take at most `max_bytes` of memory."""
    return len(text) <= _SMALL_BYTES or value_bytes(text) <= max_bytes


def load(request: Schema, value: Any, subject: str, pointer: str = "") -> dict[str, Any]:
    """Return the fields of the parsed JSON object at `pointer` of the body; raises BadRequest with every fault."""
    if not isinstance(value, dict):
        raise BadRequest([Fault("type", f"{subject} must be an object, not {json_type(value)}", pointer)])
    try:
        return dict(request.load(value))
    except ValidationError as error:
        faults = error.normalized_messages()  # type: ignore[no-untyped-call]
        raise BadRequest([*_complete(faults, "", pointer)]) from error


def _complete(found: Any, path: str, pointer: str) -> Iterator[Fault]:
    """Yield the faults in marshmallow's tree of them, with whole pointers and sentences."""
    if isinstance(found, list):
        for fault in found:
            member = fault.pointer.replace("/", " element ")
            yield Fault(fault.code, f"{path}{member} {fault.detail}", pointer + fault.pointer)
        return
    for key, below in found.items():
        if key == SCHEMA:  # the object itself
            yield from _complete(below, path, pointer)
        else:
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
            yield from _complete(below, path + step, f"{pointer}/{key}")


def read_kind(kind: type, expected: str, value: Any) -> Any:
    """Return a value of the Python type `kind`, which errors call `expected`."""
    if not isinstance(value, kind):
        raise _wrong_type(expected, value)
    return value


read_text = partial(read_kind, str, "a string")


def read_digits(text: str) -> int | None:
    """Return the number that a text of digits means; None for any other text, and for a number beyond 18 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def read_count(maximum: int, value: Any) -> int:
    """Return a whole number from 1 to `maximum`."""
    is_huge = type(value) is float and abs(value) >= 2**63  # how the JSON reader gives integers of many digits
    if type(value) is not int and not is_huge:
        raise _wrong_type("an integer", value)
    if not 1 <= value <= maximum:
        far = "a far smaller number" if value < 0 else "a far greater number"
        raise invalid("range", f"must be from 1 to {maximum}, not {value if abs(value) < _MAX_SHOWN_INTEGER else far}")
    return int(value)


def read_user_vector(dimension: int, value: Any) -> NDArray[np.float64]:
    """Return what `retrieval.vectors` takes for a vector, as float64 (d,): a list of numbers, or base64 of float32."""
    if isinstance(value, str):
        return _decode_vector(dimension, value)
    try:
        return read_vector(value, dimension)
    except BadVector as error:
        pointers = ["" if fault.element is None else f"/{fault.element}" for fault in error.faults]
        faults = [Fault(fault.code, fault.detail, where) for fault, where in zip(error.faults, pointers, strict=True)]
        raise ValidationError(faults) from error


def _decode_vector(dimension: int, text: str) -> NDArray[np.float64]:
    """Do what `read_user_vector` does with base64, whose numbers no pointer can name."""
    size = dimension * VECTOR_DTYPE.itemsize
    try:
        decoded = a2b_base64(text, strict_mode=True)
    except ValueError as error:
        expected = f"must be a list of numbers, or base64 of {dimension} little-endian float32"
        raise invalid("vector_type", expected) from error
    if len(decoded) != size:
        numbers, rest = divmod(len(decoded), VECTOR_DTYPE.itemsize)
        found = f"{len(decoded)} bytes, {size}" if rest else f"{numbers} numbers, {dimension}"
        raise invalid("vector_dimension", f"has {found} are expected")
    try:
        return read_vector(np.frombuffer(decoded, VECTOR_DTYPE), dimension)
    except BadVector as error:
        details = [f.detail if f.element is None else f"element {f.element} {f.detail}" for f in error.faults]
        faults = [Fault(fault.code, detail, "") for fault, detail in zip(error.faults, details, strict=True)]
        raise ValidationError(faults) from error


def read_ids(value: Any) -> list[str]:
    if type(value) is not list:
        raise _wrong_type("a list of product ids", value)
    others = [i for i, member in enumerate(value) if not isinstance(member, str)][:MAX_FAULTS]
    if others:
        raise ValidationError([Fault("type", f"must be a string, not {json_type(value[i])}", f"/{i}") for i in others])
    return value


def read_id_set(value: Any) -> frozenset[str]:
    return frozenset(read_ids(value))


def read_some_ids(min_ids: int, max_ids: int, value: Any) -> tuple[str, ...]:
    """Return `min_ids` to `max_ids` strings, in order."""
    ids = tuple(read_ids(value))
    if not min_ids <= len(ids) <= max_ids:
        raise invalid("range", f"must have from {min_ids} to {max_ids} product ids, not {len(ids)}")
    return ids


def invalid(code: str, detail: str) -> ValidationError:
    """Return the error of a value with one fault."""
    return ValidationError([Fault(code, detail, "")])


def _wrong_type(expected: str, value: Any) -> ValidationError:
    return invalid("type", f"must be {expected}, not {value if type(value) is float else json_type(value)}")
