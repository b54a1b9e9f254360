"""What a valid request is, as marshmallow fields whose errors are faults with codes."""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from marshmallow import EXCLUDE, Schema, ValidationError, fields
from numpy.typing import NDArray

from retrieval.vectors import BadVector, VectorFault, json_type, read_vector
from service.errors import BadRequest, Fault
from service.settings import Limits

_MAX_ID_FAULTS = 20


class _Field(fields.Field):
    """A field that collects faults; their pointers are relative to the field until `UserReader` completes them."""

    default_error_messages = {  # noqa: RUF012 (marshmallow declares it)
        "required": [Fault("missing", "is missing", "")],
        "null": [Fault("null", "must not be null", "")],
    }


class Text(_Field):
    json_schema: ClassVar = {"type": "string"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise _wrong_type("a string", value)
        return value


class Vector(_Field):
    """A list of numbers that `vectors.py` takes for a vector of the given dimension."""

    def __init__(self, dimension: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dimension = dimension

    @property
    def json_schema(self) -> dict[str, Any]:
        return {
            "type": "array",
            "items": {"type": "number", "minimum": -sys.float_info.max, "maximum": sys.float_info.max},
            "minItems": self.dimension,
            "maxItems": self.dimension,
            "contains": {"not": {"const": 0}},
        }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> NDArray[np.float64]:
        try:
            return read_vector(value, self.dimension)
        except BadVector as error:
            raise ValidationError([_vector_fault(fault) for fault in error.faults]) from None


class Count(_Field):
    """A whole number from 1 to `most`."""

    def __init__(self, most: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.most = most

    @property
    def json_schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 1, "maximum": self.most}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        huge = type(value) is float and abs(value) >= 2**63  # how the JSON reader gives integers of many digits
        if type(value) is not int and not huge:
            raise _wrong_type("an integer", value)
        if not 1 <= value <= self.most:
            far = "a far smaller number" if value < 0 else "a far greater number"
            found = value if abs(value) < 10**18 else far
            raise ValidationError([Fault("range", f"must be from 1 to {self.most}, not {found}", "")])
        return value


class Ids(_Field):
    """A list of strings, as a set."""

    json_schema: ClassVar = {"type": "array", "items": {"type": "string"}}

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> frozenset[str]:
        return frozenset(_strings(value))


class OrderedIds(_Field):
    """A list of `least` to `most` strings, in order."""

    def __init__(self, least: int, most: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.least, self.most = least, most

    @property
    def json_schema(self) -> dict[str, Any]:
        return {**Ids.json_schema, "minItems": self.least, "maxItems": self.most}

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> tuple[str, ...]:
        ids = tuple(_strings(value))
        if not self.least <= len(ids) <= self.most:
            detail = f"must have from {self.least} to {self.most} product ids, not {len(ids)}"
            raise ValidationError([Fault("range", detail, "")])
        return ids


def load(schema: Schema, value: Any, what: str, pointer: str = "") -> dict[str, Any]:
    """The fields of the parsed JSON object at `pointer` of the body; raises BadRequest with every fault."""
    if not isinstance(value, dict):
        raise BadRequest([Fault("type", f"{what} must be an object, not {json_type(value)}", pointer)])
    try:
        return dict(schema.load(value))
    except ValidationError as error:
        by_field: dict[str, list[Fault]] = error.normalized_messages()  # type: ignore[no-untyped-call]
        raise BadRequest([_placed(fault, name, pointer) for name in by_field for fault in by_field[name]]) from None


def user_schema(dimension: int, limits: Limits) -> Schema:
    """What a user is to an index of this dimension; other fields are ignored."""
    shape: dict[str, fields.Field] = {
        "name": Text(required=True),
        "vector": Vector(dimension, required=True),
        "k": Count(limits.max_k, load_default=limits.default_k),
        "exclude": Ids(load_default=frozenset),
    }
    return Schema.from_dict(shape, name="User")(unknown=EXCLUDE)


def _strings(value: Any) -> list[str]:
    if type(value) is not list:
        raise _wrong_type("a list of product ids", value)
    others = [i for i, member in enumerate(value) if not isinstance(member, str)]
    if others:
        faults = [Fault("type", f"must be a string, not {json_type(value[i])}", f"/{i}") for i in others]
        raise ValidationError(faults[:_MAX_ID_FAULTS])
    return value


def _placed(fault: Fault, name: str, pointer: str) -> Fault:
    """The fault of a field, or of one of its members, as the client sees it."""
    member = fault.pointer.replace("/", " element ")
    return Fault(fault.code, f"{name}{member} {fault.detail}", f"{pointer}/{name}{fault.pointer}")


def _wrong_type(expected: str, value: Any) -> ValidationError:
    found = value if type(value) is float else json_type(value)
    return ValidationError([Fault("type", f"must be {expected}, not {found}", "")])


def _vector_fault(fault: VectorFault) -> Fault:
    return Fault(fault.code, fault.detail, "" if fault.element is None else f"/{fault.element}")
