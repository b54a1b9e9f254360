"""The Open Inference Protocol: tensors to users, and answers to tensors, as JSON or with binary tensor data.

https://github.com/kserve/open-inference-protocol, and for the binary form
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
from marshmallow import Schema
from numpy.typing import NDArray

from retrieval.artifact.products import parse_prefixes
from retrieval.search.ranking import SIDES
from retrieval.vectors import BadVector, read_vector
from service import version
from service.errors import BadBody, BadRequest, Fault, TooLarge
from service.http.encoding import write_json
from service.http.schemas import (
    MAX_VALUE_BYTES,
    Array,
    Field,
    Object,
    invalid,
    load,
    read_count,
    read_json_and_array,
    read_kind,
    read_text,
    schema,
)
from service.recommender import Answer, Matches, Recommender, User, UserBlock
from service.settings import Limits

MODEL, VERSION = "reco", version()
HEADER_LENGTH = "Inference-Header-Content-Length"  # It says how many bytes of a body are JSON.
SERVER = {"name": MODEL, "version": VERSION, "extensions": ["binary_tensor_data"]}
INPUT, FLOAT, TEXT = "vectors", "FP32", "BYTES"
_MEMBERS = {"ids": ("id", TEXT), "scores": ("score", FLOAT), "names": ("name", TEXT)}
# The side of each output tensor, the member of a match that its elements are, and its datatype.
OUTPUTS = {f"{side}_{column}": (side, *_MEMBERS[column]) for side in SIDES for column in _MEMBERS}
_FLOAT_BYTES = 4
_NUMBER_BYTES = 64  # of memory, for a number of JSON and its text
_MAX_FAULTS = 20
_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The rows of an input tensor as users without a name, who all ask for the same k, and the outputs requested.

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


def read_request(body: bytes, header_length: str | None, dimension: int, limits: Limits) -> InferenceRequest:
    """Return the request of a body of which `header_length` bytes are JSON and the rest is binary data.

    Raises BadBody, BadRequest with the faults of the JSON or of rows, or TooLarge.
    """
    header, binary = _split(body, header_length)
    most_bytes = MAX_VALUE_BYTES + limits.max_batch * dimension * _NUMBER_BYTES
    value, data = read_json_and_array(header, "data", most_bytes)
    found = load(_request_schema(dimension, limits), value, "the request")
    parameters = found["parameters"]
    k, default = parameters["k"], parameters["binary_data_output"]
    [tensor] = found["inputs"]
    vectors = _read_vectors({**tensor, "data": data} if data else tensor, binary, dimension, limits.max_batch)
    outputs = [(output["name"], output["parameters"].get("binary_data", default)) for output in found["outputs"]]
    users = UserBlock([User("", k)] * len(vectors), vectors)
    return InferenceRequest(users, k, outputs or [(name, default) for name in OUTPUTS], found["id"])


def write_tensors(
    request: InferenceRequest, answers: Sequence[Answer], recommender: Recommender
) -> tuple[bytes, int | None]:
    """Return the body of the answer, and how many bytes of it are JSON if not all are.

    The tensors are (n, k), or (n, products) where k is more.
    """
    shape = [len(answers), min(request.k, recommender.info.products)]
    sides = {OUTPUTS[name][0] for name, _ in request.outputs}
    columns = {side: _Columns([getattr(answer, side) for answer in answers], recommender) for side in sides}
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
    header = write_json({**naming, "outputs": outputs})
    return b"".join([header, *buffers]), len(header) if buffers else None


@cache
def _request_schema(dimension: int, limits: Limits) -> Schema:
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
    parameters = schema(
        k=Field(partial(read_count, limits.max_k), load_default=limits.default_k),
        binary_data_output=Field(flag, load_default=False),
    )
    return schema(
        id=Field(read_text, load_default=None, allow_none=False),
        parameters=Object(parameters, load_default=lambda: parameters.load({})),
        inputs=Array(tensor, required=True, validate=_check_single),
        outputs=Array(output, load_default=list, validate=_check_distinct),
    )


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


def _bad_input(code: str, member: str, detail: str) -> BadRequest:
    return BadRequest([Fault(code, f"inputs[0]{member.replace('/', '.')} {detail}", f"/inputs/0{member}")])


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON of a body, and what follows it. Raises BadBody."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 19):
        raise BadBody(f"{HEADER_LENGTH} must be a number of bytes, not {header_length[:40]!r}")
    length = int(header_length)
    if not 1 <= length <= len(body):
        raise BadBody(f"{HEADER_LENGTH} is {length}, it must be from 1 to the {len(body)} bytes of the body")
    return body[:length], memoryview(body)[length:]


def _read_vectors(tensor: dict[str, Any], binary: memoryview, d: int, max_rows: int) -> NDArray[np.float64]:
    """Return the rows (n, d) as float32 holds them; JSON's numbers too, so that both forms mean the same."""
    n, size = tensor["shape"], tensor["parameters"].get("binary_data_size")
    if n > max_rows:
        raise TooLarge(f"the tensor has {n} rows, {max_rows} are allowed")
    expected = n * d * _FLOAT_BYTES
    if size is not None and size != expected:
        raise _bad_input("range", "/parameters/binary_data_size", f"must be {expected}, as the shape says")
    if ("data" in tensor) == (size is not None):
        raise _bad_input("missing", "", "must have data or, if it is binary, parameters.binary_data_size")
    if len(binary) != (size or 0):
        raise BadBody(f"{len(binary)} bytes follow the JSON of the body, but the input tensor has {size or 0} there")
    if size is not None:
        return _checked(np.frombuffer(binary, "<f4").reshape(n, d), d, "")
    data = tensor["data"]
    nested = bool(data) and type(data[0]) is list and {*map(type, data)} == {list}
    if len(data) != (n if nested else n * d):
        found = f"{len(data)} {'rows' if nested else 'numbers'}"
        raise _bad_input("shape", "/data", f"has {found}, the shape says {n} rows of {d} numbers")
    rows = data if nested else [data[start : start + d] for start in range(0, n * d, d)]
    return _checked(rows, d, "/data/{row}/{element}" if nested else "/data/{index}")


def _checked(rows: list[list[Any]] | NDArray[np.float32], d: int, pointer: str) -> NDArray[np.float64]:
    """Return rows of parsed JSON or of float32 (n, d) as float64, once float32 holds them.

    Raises BadRequest with the first fault of each bad row; of more than twenty rows, a count.
    """
    vectors = _as_floats(rows, d) if isinstance(rows, list) else rows
    if vectors is None:
        suspects: Iterable[tuple[int, Any]] = enumerate(rows)
    else:
        bad = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)))
        suspects = zip(bad.tolist(), vectors[bad], strict=True)
    faults = [fault for row, values in suspects for fault in _first_fault(values, row, d, pointer)]
    if len(faults) > _MAX_FAULTS:
        more = f"{len(faults) - _MAX_FAULTS} further rows of {INPUT} are at fault"
        faults[_MAX_FAULTS:] = [Fault("vector_rows", more, "/inputs/0")]
    if faults or vectors is None:
        raise BadRequest(faults)
    return vectors.astype(np.float64)


def _first_fault(values: Any, row: int, d: int, pointer: str) -> list[Fault]:
    """Return the first fault of a row, if it has one; `pointer` is a format of the JSON pointer to an element."""
    try:
        read_vector(values, d)
    except BadVector as error:
        code, detail, element = astuple(error.faults[0])
        if element is None:
            subject, pointer = f"row {row} of {INPUT}", pointer.rpartition("/")[0]
        else:
            subject = f"row {row} of {INPUT}, element {element},"
        member = pointer.format(row=row, element=element, index=row * d + (element or 0))
        return [Fault(code, f"{subject} {detail}", f"/inputs/0{member}")]
    return []


def _as_floats(rows: list[list[Any]], dimension: int) -> NDArray[np.float32] | None:
    """Return the rows as float32 (n, d), or None where one is not that many numbers.

    Some rows are read at a time, as no other thread runs while NumPy looks at Python's numbers.
    """
    vectors = np.empty((len(rows), dimension), np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        numbers = [*chain.from_iterable(some)]
        if any(len(row) != dimension for row in some) or not {*map(type, numbers)} <= {int, float}:
            return None
        try:
            wide = np.fromiter(numbers, np.float64, len(numbers))
        except OverflowError:
            return None
        with np.errstate(over="ignore"):  # Numbers beyond float32 become infinite, and are refused as such.
            vectors[start : start + len(some)] = wide.astype(np.float32).reshape(-1, dimension)
    return vectors


class _Columns:
    """The columns of all matches of a side. A product matches many users, and is read and packed once."""

    def __init__(self, sides: Sequence[Matches], recommender: Recommender):
        positions = np.concatenate([np.empty(0, np.int64), *(side.positions for side in sides)])
        distinct, rows = np.unique(positions, return_inverse=True)
        self._products, self._rows = parse_prefixes(recommender.prefixes(distinct)), rows.tolist()
        self._scores = np.concatenate([np.empty(0), *(side.scores for side in sides)])

    def values(self, member: str) -> list[Any]:
        """Return the `id`, `name` or `score` of each match."""
        if member == "score":
            return self._scores.tolist()
        texts = [product[member] for product in self._products]
        return [texts[row] for row in self._rows]

    def binary(self, member: str) -> bytes:
        """Return the same in binary form: a text as its length, a little-endian uint32, and its UTF-8."""
        if member == "score":
            return self._scores.astype("<f4").tobytes()
        texts = [product[member].encode() for product in self._products]
        packed = [len(text).to_bytes(4, "little") + text for text in texts]
        return b"".join([packed[row] for row in self._rows])
