"""What a valid request is, as marshmallow fields whose errors are faults with codes."""

import sys
from collections.abc import Iterator
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields
from marshmallow.exceptions import SCHEMA

from retrieval.records.lenient_json import BadJson, loads
from retrieval.vectors import BadVector, json_type, read_vector
from service.errors import BadBody, BadRequest, Fault
from service.settings import Limits

_MAX_ID_FAULTS = 20
_MAX_SHOWN_INTEGER = 10**18
_MESSAGES: dict[str, Any] = {
    "required": [Fault("missing", "is missing", "")],
    "null": [Fault("null", "must not be null", "")],
    "invalid": [Fault("type", "must be a list", "")],
}


class Field(fields.Field):
    """A field that collects faults; their pointers are relative to the field until `load` completes them.

    `json_schema` describes its values in the API document.
    """

    default_error_messages = _MESSAGES
    json_schema: Any

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return self.read(value)

    def read(self, value: Any) -> Any:
        """Return what parsed JSON stands for. Raises ValidationError with a list of faults."""
        raise NotImplementedError


class Text(Field):
    json_schema = {"type": "string"}

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong_type("a string", value)
        return value


class Flag(Field):
    json_schema = {"type": "boolean"}

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise _wrong_type("a boolean", value)
        return value


class Integer(Field):
    json_schema = {"type": "integer"}

    def read(self, value: Any) -> int:
        if type(value) is not int:
            raise _fault("type", "must be an integer")
        return value


class Literal(Field):
    """One of the given strings."""

    def __init__(self, *allowed: str, **options: Any):
        super().__init__(**options)
        self.allowed, self.json_schema = allowed, {"type": "string", "enum": [*allowed]}

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.allowed:
            raise _fault("value", f"must be {' or '.join(self.allowed)}")
        return value


class Vector(Field):
    """A list of numbers that `retrieval.vectors` takes for a vector of the given dimension, as float64 (d,)."""

    def __init__(self, dimension: int, **options: Any):
        super().__init__(**options)
        self.dimension = dimension
        self.json_schema = {
            "type": "array",
            "items": {"type": "number", "minimum": -sys.float_info.max, "maximum": sys.float_info.max},
            "minItems": dimension,
            "maxItems": dimension,
            "contains": {"not": {"const": 0}},
        }

    def read(self, value: Any) -> Any:
        try:
            return read_vector(value, self.dimension)
        except BadVector as error:
            faults = [
                Fault(fault.code, fault.detail, "" if fault.element is None else f"/{fault.element}")
                for fault in error.faults
            ]
            raise ValidationError(faults) from error


class Count(Field):
    """A whole number from 1 to `most`."""

    def __init__(self, most: int, **options: Any):
        super().__init__(**options)
        self.most, self.json_schema = most, {"type": "integer", "minimum": 1, "maximum": most}

    def read(self, value: Any) -> int:
        is_huge = type(value) is float and abs(value) >= 2**63  # how the JSON reader gives integers of many digits
        if type(value) is not int and not is_huge:
            raise _wrong_type("an integer", value)
        if not 1 <= value <= self.most:
            far = "a far smaller number" if value < 0 else "a far greater number"
            found = value if abs(value) < _MAX_SHOWN_INTEGER else far
            raise _fault("range", f"must be from 1 to {self.most}, not {found}")
        return value


class Ids(Field):
    """A list of strings, as a set."""

    json_schema = {"type": "array", "items": {"type": "string"}}

    def read(self, value: Any) -> frozenset[str]:
        return frozenset(_read_strings(value))


class OrderedIds(Field):
    """A list of `least` to `most` strings, in order."""

    def __init__(self, least: int, most: int, **options: Any):
        super().__init__(**options)
        self.least, self.most = least, most
        self.json_schema = {**Ids.json_schema, "minItems": least, "maxItems": most}

    def read(self, value: Any) -> tuple[str, ...]:
        ids = tuple(_read_strings(value))
        if not self.least <= len(ids) <= self.most:
            raise _fault("range", f"must have from {self.least} to {self.most} product ids, not {len(ids)}")
        return ids


class AnyList(Field):
    """A list of anything."""

    json_schema = {"type": "array"}

    def read(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong_type("a list", value)
        return value


class TensorRows(Field):
    """The shape [rows, dimension] of a tensor, as the number of rows."""

    json_schema = {"type": "array", "items": {"type": "integer"}}

    def __init__(self, dimension: int, **options: Any):
        super().__init__(**options)
        self.dimension = dimension

    def read(self, value: Any) -> int:
        expected = f"must be [rows, {self.dimension}]"
        if not isinstance(value, list) or [*map(type, value)] != [int, int] or min(value) < 0:
            raise _fault("shape", expected)
        rows, columns = value
        if columns != self.dimension:
            raise _fault("vector_dimension", f"{expected}: the rows have {columns} numbers")
        return int(rows)


class Objects(fields.List):
    """A list of objects of one schema."""

    default_error_messages = _MESSAGES

    def __init__(self, members: Schema, **options: Any):
        super().__init__(Object(members), **options)


class Object(fields.Nested):
    default_error_messages = _MESSAGES


class _RequestSchema(Schema):
    error_messages = {"type": Fault("type", "must be an object", "")}  # type: ignore[dict-item]

    class Meta:
        unknown = EXCLUDE


def schema(name: str, /, **members: fields.Field) -> Schema:
    """Return the schema of an object of which unknown members are ignored."""
    return _RequestSchema.from_dict(members, name=name)()


def user_schema(dimension: int, limits: Limits) -> Schema:
    """Return what a user is to an index of this dimension."""
    return schema(
        "User",
        name=Text(required=True),
        vector=Vector(dimension, required=True),
        k=Count(limits.max_k, load_default=limits.default_k),
        exclude=Ids(load_default=frozenset),
    )


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


def _read_strings(value: Any) -> list[str]:
    if type(value) is not list:
        raise _wrong_type("a list of product ids", value)
    others = [i for i, member in enumerate(value) if not isinstance(member, str)]
    if others:
        faults = [Fault("type", f"must be a string, not {json_type(value[i])}", f"/{i}") for i in others]
        raise ValidationError(faults[:_MAX_ID_FAULTS])
    return value


def _wrong_type(expected: str, value: Any) -> ValidationError:
    return _fault("type", f"must be {expected}, not {value if type(value) is float else json_type(value)}")


def _fault(code: str, detail: str) -> ValidationError:
    return ValidationError([Fault(code, detail, "")])
