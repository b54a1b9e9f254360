"""The Open Inference Protocol: tensors to users, and answers to tensors, as JSON or with binary tensor data.

https://github.com/kserve/open-inference-protocol, and for the binary form
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.vectors import BadVector, read_vector
from service import version
from service.errors import BadBody, BadRequest, Fault, TooLarge
from service.http import payload
from service.http.inference_shapes import FLOAT, INPUT, OUTPUTS, read_request, request_schema
from service.recommender import Recommendation, User
from service.settings import Limits

MODEL, VERSION = "reco", version()
HEADER_LENGTH = "Inference-Header-Content-Length"  # the header that says how many bytes of a body are JSON
SERVER = {"name": MODEL, "version": VERSION, "extensions": ["binary_tensor_data"]}
_FLOAT_BYTES = 4
_MOST_FAULTS = 20
_length = struct.Struct("<I").pack
_ID, _SCORE = b'{"id":', b',"score":'  # in a match; no string holds them: there, quotes are escaped


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The users of an input tensor, one a row and all with the same k, and what is to be said of them.

    `outputs` are the names of the output tensors, each with whether its data is to be binary.
    """

    users: list[User]
    k: int
    outputs: list[tuple[str, bool]]
    id: str | None = None


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
        self._schema = request_schema(dimension, limits)

    def read(self, body: bytes, header_length: str | None = None) -> InferenceRequest:
        """The request of a body of which `header_length` bytes are JSON and the rest is binary data.

        Raises BadBody, BadRequest with the faults of the JSON or of rows, or TooLarge.
        """
        header, binary = _split(body, header_length)
        found = read_request(self._schema, payload.read_json(header))
        tensor, parameters = found["inputs"][0], found["parameters"]
        vectors = self._vectors(tensor, binary)
        outputs = [
            (output["name"], output["parameters"].get("binary_data", parameters["binary_data_output"]))
            for output in found["outputs"] or [{"name": name, "parameters": {}} for name in OUTPUTS]
        ]
        k = parameters["k"]
        return InferenceRequest([User("", vector, k) for vector in vectors], k, outputs, found["id"])

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
        return self._checked(vectors, lambda row, element: "")

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


def write_answers(
    request: InferenceRequest, answers: Sequence[Recommendation], products: int
) -> tuple[bytes, int | None]:
    """The body of the answer over a catalogue of so many products, and how many bytes of it are JSON if not all are.

    The tensors are (n, k), or (n, products) where k is more.
    """
    shape = [len(answers), min(request.k, products)]
    sides = {side: _split_matches(answers, side) for side in {OUTPUTS[name][0] for name, _ in request.outputs}}
    named = _products(head for heads, _ in sides.values() for head in heads)

    @cache
    def elements(member: str, binary: bool) -> dict[bytes, Any]:
        return {head: _packed(found[member]) if binary else found[member] for head, found in named.items()}

    outputs, buffers = [], []
    for name, binary in request.outputs:
        side, member, datatype = OUTPUTS[name]
        heads, scores = sides[side]
        values: list[Any] = scores if datatype == FLOAT else [*map(elements(member, binary).__getitem__, heads)]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            buffers.append(np.array(scores, "<f4").tobytes() if datatype == FLOAT else b"".join(values))
            outputs.append({**tensor, "parameters": {"binary_data_size": len(buffers[-1])}})
        else:
            outputs.append({**tensor, "data": values})
    naming = {"model_name": MODEL} if request.id is None else {"model_name": MODEL, "id": request.id}
    header = payload.write_json({**naming, "outputs": outputs})
    return b"".join([header, *buffers]), len(header) if buffers else None


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
    more = len(faults) - _MOST_FAULTS
    if more > 0:
        faults[_MOST_FAULTS:] = [Fault("vector_rows", f"{more} further rows of {INPUT} are at fault", "/inputs/0")]
    return faults


def _split_matches(answers: Iterable[Recommendation], side: str) -> tuple[list[bytes], list[float]]:
    """The products of all matches of a side, as the JSON between `"id":` and `,"score":`, and their scores."""
    text = b",".join([array[1:-1] for answer in answers if len(array := getattr(answer, side)) > 2])
    parts = text[len(_ID) : -1].replace(b"}," + _ID, _SCORE).split(_SCORE) if text else []
    return parts[::2], orjson.loads(b"[" + b",".join(parts[1::2]) + b"]")


def _products(heads: Iterable[bytes]) -> dict[bytes, dict[str, str]]:
    """The `id` and `name` of each product; one matches many users, and is read once."""
    unique = [*dict.fromkeys(heads)]
    return dict(zip(unique, orjson.loads(b"[" + b",".join([_ID + head + b"}" for head in unique]) + b"]"), strict=True))


def _packed(text: str) -> bytes:
    """The binary form of an element of BYTES: its length as a little-endian uint32, and the text in UTF-8."""
    encoded = text.encode()
    return _length(len(encoded)) + encoded
