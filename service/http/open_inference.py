"""The Open Inference Protocol: tensors to users, and answers to tensors, as JSON or with binary tensor data.

https://github.com/kserve/open-inference-protocol, and for the binary form
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from marshmallow import Schema, ValidationError
from numpy.typing import NDArray

from retrieval.search.ranking import SIDES
from retrieval.vectors import BadVector, read_vector
from service import version
from service.errors import BadBody, BadRequest, Fault, TooLarge
from service.http.encoding import write_json
from service.http.schemas import (
    AnyList,
    Count,
    Flag,
    Integer,
    Literal,
    Object,
    Objects,
    TensorRows,
    Text,
    load,
    read_json,
    schema,
)
from service.recommender import (
    MAX_USERS_PER_SEARCH,
    Answer,
    Matches,
    Recommender,
    User,
    UserBlock,
    read_products,
)
from service.settings import Limits

MODEL, VERSION = "reco", version()
HEADER_LENGTH = "Inference-Header-Content-Length"  # the header that says how many bytes of a body are JSON
SERVER = {"name": MODEL, "version": VERSION, "extensions": ["binary_tensor_data"]}
INPUT, FLOAT, TEXT = "vectors", "FP32", "BYTES"
_MEMBERS = {"ids": ("id", TEXT), "scores": ("score", FLOAT), "names": ("name", TEXT)}
# The side of each output tensor, the member of a match that its elements are, and its datatype.
OUTPUTS = {f"{side}_{column}": (side, *_MEMBERS[column]) for side in SIDES for column in _MEMBERS}
_FLOAT_BYTES = 4
_MAX_FAULTS = 20
_length = struct.Struct("<I").pack


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The rows (n, d) of an input tensor, which all ask for the same k, and what is to be said of them.

    `outputs` are the names of the output tensors, each with whether its data is to be binary.
    """

    vectors: NDArray[np.float64]
    k: int
    outputs: list[tuple[str, bool]]
    id: str | None = None

    def blocks(self) -> Iterator[UserBlock]:
        """Yield the rows as users without a name."""
        for start in range(0, len(self.vectors), MAX_USERS_PER_SEARCH):
            rows = self.vectors[start : start + MAX_USERS_PER_SEARCH]
            yield UserBlock([User("", self.k)] * len(rows), rows)


def describe_model(dimension: int) -> dict[str, Any]:
    """The protocol's metadata of the model; -1 stands for any size."""
    return {
        "name": MODEL,
        "platform": "jetmlett_index",
        "inputs": [{"name": INPUT, "datatype": FLOAT, "shape": [-1, dimension]}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, -1]} for name, (_, _, datatype) in OUTPUTS.items()
        ],
    }


class InferenceReader:
    """Reads inference requests from bodies."""

    def __init__(self, dimension: int, limits: Limits):
        self._dimension, self._limits = dimension, limits
        self._schema = _request_schema(dimension, limits)

    def read(self, body: bytes, header_length: str | None = None) -> InferenceRequest:
        """The request of a body of which `header_length` bytes are JSON and the rest is binary data.

        Raises BadBody, BadRequest with the faults of the JSON or of rows, or TooLarge.
        """
        header, binary = _split(body, header_length)
        found = load(self._schema, read_json(header), "the request")
        tensor, parameters = found["inputs"][0], found["parameters"]
        vectors = self._vectors(tensor, binary)
        outputs = [
            (output["name"], output["parameters"].get("binary_data", parameters["binary_data_output"]))
            for output in found["outputs"] or [{"name": name, "parameters": {}} for name in OUTPUTS]
        ]
        return InferenceRequest(vectors, parameters["k"], outputs, found["id"])

    def _vectors(self, tensor: dict[str, Any], binary: memoryview) -> NDArray[np.float64]:
        """The rows (n, d) of a tensor, as float32 holds them; JSON's numbers too, so that both forms mean the same."""
        rows, size = tensor["shape"], tensor["parameters"].get("binary_data_size")
        if rows > self._limits.max_batch:
            raise TooLarge(f"the tensor has {rows} rows, {self._limits.max_batch} are allowed")
        expected = rows * self._dimension * _FLOAT_BYTES
        if size is not None and size != expected:
            raise _bad_input("range", "/parameters/binary_data_size", f"must be {expected}, as the shape says")
        if ("data" in tensor) == (size is not None):
            raise _bad_input("missing", "", "must have data or, if it is binary, parameters.binary_data_size")
        if len(binary) != (size or 0):
            raise BadBody(
                f"{len(binary)} bytes follow the JSON of the body, but the input tensor has {size or 0} there"
            )
        if size is None:
            return self._json_vectors(tensor["data"], rows)
        vectors = np.frombuffer(binary, "<f4").reshape(rows, self._dimension)
        return self._checked(vectors, lambda _row, _element: "")

    def _json_vectors(self, data: list[Any], rows: int) -> NDArray[np.float64]:
        """The rows of data given row by row or, flattened, number by number."""
        d, nested = self._dimension, bool(data) and {*map(type, data)} == {list}
        if len(data) != (rows if nested else rows * d):
            found = f"{len(data)} {'rows' if nested else 'numbers'}"
            raise _bad_input("shape", "/data", f"has {found}, the shape says {rows} rows of {d} numbers")
        values = data if nested else [data[start : start + d] for start in range(0, rows * d, d)]

        def pointer(row: int, element: int | None) -> str:
            at = f"/{row}" if nested else ""
            return f"/data{at}" if element is None else f"/data{at}/{element if nested else row * d + element}"

        vectors = _as_floats(values, d)
        if vectors is None:
            raise BadRequest(_row_faults(enumerate(values), d, pointer))
        return self._checked(vectors, pointer)

    def _checked(self, vectors: NDArray[np.float32], pointer: "_Pointer") -> NDArray[np.float64]:
        """The rows as float64; raises BadRequest where some have no direction."""
        bad = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)))
        if bad.size:
            raise BadRequest(_row_faults(((int(row), vectors[row]) for row in bad), self._dimension, pointer))
        return vectors.astype(np.float64)


def write_tensors(
    request: InferenceRequest, answers: Sequence[Answer], recommender: Recommender
) -> tuple[bytes, int | None]:
    """Return the body of the answer, and how many bytes of it are JSON if not all are.

    The tensors are (n, k), or (n, products) where k is more.
    """
    shape = [len(answers), min(request.k, recommender.info.products)]
    sides = {OUTPUTS[name][0] for name, _ in request.outputs}
    columns = {side: _Columns.of([getattr(answer, side) for answer in answers], recommender) for side in sides}
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


def _request_schema(dimension: int, limits: Limits) -> Schema:
    """Return what an inference request is, to the one model that is served."""
    tensor = schema(
        "InputTensor",
        name=Literal(INPUT, required=True),
        datatype=Literal(FLOAT, required=True),
        shape=TensorRows(dimension, required=True),
        data=AnyList(),  # judged together with the shape
        parameters=Object(schema("InputParameters", binary_data_size=Integer()), load_default=dict),
    )
    output = schema(
        "RequestedOutput",
        name=Literal(*OUTPUTS, required=True),
        parameters=Object(schema("OutputParameters", binary_data=Flag()), load_default=dict),
    )
    parameters = schema(
        "Parameters",
        k=Count(limits.max_k, load_default=limits.default_k),
        binary_data_output=Flag(load_default=False),
    )
    return schema(
        "InferenceRequest",
        id=Text(load_default=None, allow_none=False),
        parameters=Object(parameters, load_default=lambda: parameters.load({})),
        inputs=Objects(tensor, required=True, validate=_check_single),
        outputs=Objects(output, load_default=list, validate=_check_distinct),
    )


def _check_single(inputs: list[Any]) -> None:
    if len(inputs) != 1:
        raise ValidationError([Fault("value", f"must have one tensor, not {len(inputs)}", "")])


def _check_distinct(outputs: list[dict[str, Any]]) -> None:
    if len({output["name"] for output in outputs}) < len(outputs):
        raise ValidationError([Fault("value", "must not name a tensor twice", "")])


_Pointer = Callable[[int, int | None], str]  # to a row of an input tensor, or to one of the row's elements


def _bad_input(code: str, member: str, detail: str) -> BadRequest:
    return BadRequest([Fault(code, f"inputs[0]{member.replace('/', '.')} {detail}", f"/inputs/0{member}")])


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a body, and what follows it. Raises BadBody."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 19):
        raise BadBody(f"{HEADER_LENGTH} must be a number of bytes, not {header_length[:40]!r}")
    length = int(header_length)
    if not 1 <= length <= len(body):
        raise BadBody(f"{HEADER_LENGTH} is {length}, it must be from 1 to the {len(body)} bytes of the body")
    return body[:length], memoryview(body)[length:]


def _as_floats(rows: list[list[Any]], dimension: int) -> NDArray[np.float32] | None:
    """The rows as float32 (n, d), or None where one is not that many numbers."""
    numbers = [*chain.from_iterable(rows)]
    if any(len(row) != dimension for row in rows) or not {*map(type, numbers)} <= {int, float}:
        return None
    try:
        wide = np.fromiter(numbers, np.float64, len(numbers))
    except OverflowError:
        return None
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return wide.astype(np.float32).reshape(-1, dimension)


def _row_faults(rows: Iterable[tuple[int, Any]], dimension: int, pointer: _Pointer) -> list[Fault]:
    """The first fault of each bad row; of more than twenty rows, a count."""
    faults: list[Fault] = []
    for row, values in rows:
        try:
            read_vector(values, dimension)
        except BadVector as error:
            first = error.faults[0]
            subject = f"row {row} of {INPUT}" + ("" if first.element is None else f", element {first.element},")
            faults.append(Fault(first.code, f"{subject} {first.detail}", f"/inputs/0{pointer(row, first.element)}"))
    more = len(faults) - _MAX_FAULTS
    if more > 0:
        faults[_MAX_FAULTS:] = [Fault("vector_rows", f"{more} further rows of {INPUT} are at fault", "/inputs/0")]
    return faults


@dataclass(frozen=True, slots=True)
class _Columns:
    """All matches of a side: their scores (m,), and the rows (m,) of them among the distinct `products`.

    A product matches many users, and is read and packed once.
    """

    products: list[dict[str, str]]
    rows: NDArray[np.int64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, sides: Sequence[Matches], recommender: Recommender) -> "_Columns":
        positions = np.concatenate([np.empty(0, np.int64), *(side.positions for side in sides)])
        distinct, rows = np.unique(positions, return_inverse=True)
        scores = np.concatenate([np.empty(0), *(side.scores for side in sides)])
        return cls(read_products(recommender.prefixes(distinct)), rows, scores)

    def values(self, member: str) -> list[Any]:
        """Return the `id`, `name` or `score` of each match."""
        if member == "score":
            return self.scores.tolist()
        texts = [product[member] for product in self.products]
        return [texts[row] for row in self.rows.tolist()]

    def binary(self, member: str) -> bytes:
        """Return the same in binary form: a text as its length, a little-endian uint32, and its UTF-8."""
        if member == "score":
            return self.scores.astype("<f4").tobytes()
        texts = [product[member].encode() for product in self.products]
        packed = [_length(len(text)) + text for text in texts]
        return b"".join([packed[row] for row in self.rows.tolist()])
