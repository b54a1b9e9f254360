"""The Open Inference Protocol: tensors to users, and answers to tensors, as JSON or with binary tensor data.

https://github.com/kserve/open-inference-protocol, and for the binary form
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from marshmallow import Schema, fields

from retrieval import VERSION
from retrieval.search.filters.language import Vocabulary
from retrieval.search.ranking import SIDES
from service.errors import BadBody
from service.http.encoding import write_json
from service.http.requests.schemas import (
    Array,
    Field,
    Object,
    invalid,
    load,
    option_fields,
    read_digits,
    read_kind,
    read_text,
    schema,
    unwrap_option,
)
from service.http.requests.text import MAX_VALUE_BYTES, read_json_and_array
from service.http.tensors import INPUT, Columns, read_vectors
from service.recommender import Answer, Recommendation, Recommender, User, UserBlock
from service.settings import Limits

MODEL = "reco"
HEADER_LENGTH = "Inference-Header-Content-Length"  # It says how many bytes of a body are JSON.
SERVER = {"name": MODEL, "version": VERSION, "extensions": ["binary_tensor_data"]}
FLOAT, TEXT = "FP32", "BYTES"
_MEMBERS = {"ids": ("id", TEXT), "scores": ("score", FLOAT), "names": ("name", TEXT)}
# The side of each output tensor, the member of a match that its elements are, and its datatype.
OUTPUTS = {f"{side}_{column}": (side, *_MEMBERS[column]) for side in SIDES for column in _MEMBERS}
# Options whose values are JSON in a text, as parameters are single values; and those that tensors have no place for.
_JSON_OPTIONS, _UNFIT_OPTIONS = ("exclude", "filter", "max_per"), ("fields", "explain")
_NUMBER_BYTES = 64  # of memory, for a number of JSON and its text


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The rows of an input tensor as users without a name, who all have the same options, and the outputs requested.

    `outputs` are the names of the output tensors, each with whether its data is to be binary.
    """

    users: UserBlock
    k: int
    outputs: list[tuple[str, bool]]
    id: str | None


def describe_model(dimension: int) -> dict[str, Any]:
    """Return the protocol's metadata of the model; -1 stands for any size."""
    return {
        "name": MODEL,
        "platform": "jetmlett_index",
        "inputs": [{"name": INPUT, "datatype": FLOAT, "shape": [-1, dimension]}],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1, -1]} for name, (_, _, kind) in OUTPUTS.items()],
    }


def read_request(
    body: bytes, header_length: str | None, dimension: int, limits: Limits, vocabulary: Vocabulary | None = None
) -> InferenceRequest:
    """Return the request of a body of which `header_length` bytes are JSON and the rest is binary data.

    Options are parameters, as JSON text those that are no single values. Raises BadBody, BadRequest with the faults of
    the JSON or of rows, TooLarge, or CannotFilter.
    """
    header, binary = _split(body, header_length)
    most_bytes = MAX_VALUE_BYTES + limits.max_batch * dimension * _NUMBER_BYTES
    value, data = read_json_and_array(header, "data", most_bytes)
    found = load(_request_schema(dimension, limits, vocabulary), value, "the request")
    options = found["parameters"]
    default = options.pop("binary_data_output")
    [tensor] = found["inputs"]
    vectors = read_vectors({**tensor, "data": data} if data else tensor, binary, dimension, limits.max_batch)
    outputs = [(output["name"], output["parameters"].get("binary_data", default)) for output in found["outputs"]]
    users = UserBlock([User("", **options)] * len(vectors), vectors)
    return InferenceRequest(users, options["k"], outputs or [(name, default) for name in OUTPUTS], found["id"])


def write_tensors(
    request: InferenceRequest, answers: Sequence[Answer], recommender: Recommender
) -> tuple[bytes, int | None]:
    """Return the body of the answer, and how many bytes of it are JSON if not all are.

    The tensors are (n, k), or (n, products) where k is more. Where a user has fewer matches, ids and names are empty
    and scores are 0. What a filter lets through is in the parameter `matched` of the answer.
    """
    shape = len(answers), min(request.k, recommender.info.products)
    sides = {OUTPUTS[name][0] for name, _ in request.outputs}
    columns = {side: Columns([getattr(answer, side) for answer in answers], shape, recommender) for side in sides}
    outputs, buffers = [], []
    for name, binary in request.outputs:
        side, member, datatype = OUTPUTS[name]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            buffers.append(columns[side].binary(member))
            outputs.append({**tensor, "parameters": {"binary_data_size": len(buffers[-1])}})
        else:
            outputs.append({**tensor, "data": columns[side].values(member)})
    naming = {"model_name": MODEL} if request.id is None else {"model_name": MODEL, "id": request.id}
    header = write_json({**naming, **_matched(answers), "outputs": outputs})
    return b"".join([header, *buffers]), len(header) if buffers else None


def _matched(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the parameters of an answer: all users have the same filter, or none."""
    counts = {each.matched for each in answers if isinstance(each, Recommendation) and each.matched is not None}
    return {"parameters": {"matched": counts.pop()}} if counts else {}


@lru_cache(maxsize=1)
def _request_schema(dimension: int, limits: Limits, vocabulary: Vocabulary | None) -> Schema:
    """Return what an inference request is, to the one model that is served."""
    flag = partial(read_kind, bool, "a boolean")
    tensor = schema(
        name=Field(partial(_read_choice, [INPUT]), required=True),
        datatype=Field(partial(_read_choice, [FLOAT]), required=True),
        shape=Field(partial(_read_shape, dimension), required=True),
        data=Field(partial(read_kind, list, "a list")),  # Its length is checked together with the shape.
        parameters=Object(schema(binary_data_size=Field(_read_integer)), load_default=dict),
    )
    output = schema(
        name=Field(partial(_read_choice, [*OUTPUTS]), required=True),
        parameters=Object(schema(binary_data=Field(flag)), load_default=dict),
    )
    options = option_fields(limits, vocabulary)
    for name in _JSON_OPTIONS:
        inner = options[name]
        options[name] = Field(partial(_read_wrapped, inner), load_default=inner.load_default)
    for name in _UNFIT_OPTIONS:
        options[name] = Field(_refuse)
    parameters = schema(**options, binary_data_output=Field(flag, load_default=False))
    return schema(
        id=Field(read_text, load_default=None, allow_none=False),
        parameters=Object(parameters, load_default=lambda: parameters.load({})),
        inputs=Array(tensor, required=True, validate=_check_single),
        outputs=Array(output, load_default=list, validate=_check_distinct),
    )


def _read_wrapped(option: fields.Field, value: Any) -> Any:
    return option.deserialize(unwrap_option(value))


def _refuse(_value: Any) -> Any:
    raise invalid("value", "has no place in tensors; /infer and /batch take it")


def _check_single(inputs: list[Any]) -> None:
    if len(inputs) != 1:
        raise invalid("value", f"must have one tensor, not {len(inputs)}")


def _check_distinct(outputs: list[dict[str, Any]]) -> None:
    if len({output["name"] for output in outputs}) < len(outputs):
        raise invalid("value", "must not name a tensor twice")


def _read_integer(value: Any) -> int:
    if type(value) is not int:
        raise invalid("type", "must be an integer")
    return value


def _read_choice(choices: Sequence[str], value: Any) -> str:
    if value not in choices:
        raise invalid("value", f"must be {' or '.join(choices)}")
    return str(value)


def _read_shape(dimension: int, value: Any) -> int:
    """Return the number of rows of the shape [rows, dimension]."""
    expected = f"must be [rows, {dimension}]"
    if not isinstance(value, list) or [*map(type, value)] != [int, int] or min(value) < 0:
        raise invalid("shape", expected)
    rows, columns = value
    if columns != dimension:
        raise invalid("vector_dimension", f"{expected}: the rows have {columns} numbers")
    return int(rows)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON of a body, and what follows it. Raises BadBody."""
    if header_length is None:
        return body, memoryview(b"")
    length = read_digits(header_length)
    if length is None:
        raise BadBody(f"{HEADER_LENGTH} must be a number of bytes, not {header_length[:40]!r}")
    if not 1 <= length <= len(body):
        raise BadBody(f"{HEADER_LENGTH} is {length}, it must be from 1 to the {len(body)} bytes of the body")
    return body[:length], memoryview(body)[length:]
