"""The shape of the Open Inference Protocol's requests to the one model that is served."""

from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields
from marshmallow.exceptions import SCHEMA

from retrieval.vectors import json_type
from service.errors import BadRequest, Fault
from service.http.schemas import Count, Text
from service.settings import Limits

INPUT, FLOAT, TEXT = "vectors", "FP32", "BYTES"
_MEMBERS = {"ids": ("id", TEXT), "scores": ("score", FLOAT), "names": ("name", TEXT)}
# Of each output tensor, the side, the member of a match that its elements are, and its datatype.
OUTPUTS = {f"{side}_{column}": (side, *_MEMBERS[column]) for side in ("best", "worst") for column in _MEMBERS}


class _Member:
    """A field whose errors are faults with codes."""

    default_error_messages = Text.default_error_messages


class _Object(_Member, fields.Nested):
    pass


class _List(_Member, fields.List):
    default_error_messages = {"invalid": [Fault("type", "must be a list", "")]}  # noqa: RUF012 (marshmallow declares it)


class _Literal(_Member, fields.Field):
    """One of the given strings."""

    def __init__(self, *allowed: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.allowed = allowed

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if not isinstance(value, str) or value not in self.allowed:
            raise ValidationError([Fault("value", f"must be {' or '.join(self.allowed)}", "")])
        return value


class _Flag(_Member, fields.Field):
    """A boolean."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError([Fault("type", f"must be a boolean, not {json_type(value)}", "")])
        return value


class _Data(_Member, fields.Field):
    """A list, whose members are judged with the shape."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValidationError([Fault("type", f"must be a list, not {json_type(value)}", "")])
        return value


class _Size(_Member, fields.Field):
    """A number of bytes."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if type(value) is not int:
            raise ValidationError([Fault("type", "must be an integer", "")])
        return value


class _Rows(_Member, fields.Field):
    """The shape [rows, dimension], as the number of rows."""

    def __init__(self, dimension: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dimension = dimension

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if not isinstance(value, list) or [*map(type, value)] != [int, int] or min(value) < 0:
            raise ValidationError([Fault("shape", f"must be [rows, {self.dimension}]", "")])
        rows, columns = value
        if columns != self.dimension:
            detail = f"must be [rows, {self.dimension}]: the rows have {columns} numbers"
            raise ValidationError([Fault("vector_dimension", detail, "")])
        return int(rows)


class _Shape(Schema):
    """An object of which unknown members are ignored."""

    error_messages = {"type": Fault("type", "must be an object", "")}  # type: ignore[dict-item]  # noqa: RUF012

    class Meta:
        unknown = EXCLUDE


def request_schema(dimension: int, limits: Limits) -> Schema:
    """What an inference request is."""

    def only_one(inputs: list[Any]) -> None:
        if len(inputs) != 1:
            raise ValidationError([Fault("value", f"must have one tensor, not {len(inputs)}", "")])

    def all_different(outputs: list[dict[str, Any]]) -> None:
        if len({output["name"] for output in outputs}) < len(outputs):
            raise ValidationError([Fault("value", "must not name a tensor twice", "")])

    def shape(title: str, /, **members: fields.Field) -> Schema:
        return _Shape.from_dict(members, name=title)()

    tensor = shape(
        "InputTensor",
        name=_Literal(INPUT, required=True),
        datatype=_Literal(FLOAT, required=True),
        shape=_Rows(dimension, required=True),
        data=_Data(),
        parameters=_Object(shape("InputParameters", binary_data_size=_Size()), load_default=dict),
    )
    output = shape(
        "RequestedOutput",
        name=_Literal(*OUTPUTS, required=True),
        parameters=_Object(shape("OutputParameters", binary_data=_Flag()), load_default=dict),
    )
    parameters = shape(
        "Parameters",
        k=Count(limits.max_k, load_default=limits.default_k),
        binary_data_output=_Flag(load_default=False),
    )
    return shape(
        "InferenceRequest",
        id=Text(load_default=None, allow_none=False),
        parameters=_Object(parameters, load_default=lambda: parameters.load({})),
        inputs=_List(_Object(tensor), required=True, validate=only_one),
        outputs=_List(_Object(output), load_default=list, validate=all_different),
    )


def read_request(schema: Schema, value: Any) -> dict[str, Any]:
    """The members of a request; raises BadRequest with every fault."""
    try:
        return dict(schema.load(value))
    except ValidationError as error:
        raise BadRequest([*_placed(error.normalized_messages())]) from None  # type: ignore[no-untyped-call]


def _placed(found: Any, path: str = "", pointer: str = "") -> Iterator[Fault]:
    """The faults in marshmallow's tree of them, as the client sees them."""
    if isinstance(found, list):
        yield from (Fault(fault.code, f"{path or 'the request'} {fault.detail}", pointer) for fault in found)
        return
    for key, below in found.items():
        if key == SCHEMA:  # the object itself
            yield from _placed(below, path, pointer)
        else:
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
            yield from _placed(below, path + step, f"{pointer}/{key}")
