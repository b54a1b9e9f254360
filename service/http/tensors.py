"""Tensors of the Open Inference Protocol: rows of numbers to vectors, and matches to columns."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.vectors import MAX_FAULTS, BadVector, read_vector
from service.errors import BadBody, BadRequest, Fault, TooLarge
from service.http.encoding import gather_matches
from service.recommender import Matches, Recommender

INPUT = "vectors"
_FLOAT_BYTES = 4
_ROWS_AT_ONCE = 500
_NO_PRODUCT = {"id": "", "name": ""}


def _bad_input(code: str, member: str, detail: str) -> BadRequest:
    return BadRequest([Fault(code, f"inputs[0]{member.replace('/', '.')} {detail}", f"/inputs/0{member}")])


def read_vectors(tensor: dict[str, Any], binary: memoryview, d: int, max_rows: int) -> NDArray[np.float64]:
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
    if len(faults) > MAX_FAULTS:
        more = f"{len(faults) - MAX_FAULTS} further rows of {INPUT} are at fault"
        faults[MAX_FAULTS:] = [Fault("vector_rows", more, "/inputs/0")]
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


class Columns:
    """The columns of all matches of a side. A product matches many users, and is read and packed once."""

    def __init__(self, sides: Sequence[Matches], shape: tuple[int, int], recommender: Recommender):
        """Place the matches of each side in a row of the shape (n, k)."""
        products, rows, scores = gather_matches(recommender.prefixes, sides)
        is_found = np.arange(shape[1]) < np.array([[len(side.positions)] for side in sides]).reshape(-1, 1)
        rows_of_cells, self._scores = np.full(shape, len(products)), np.zeros(shape)
        rows_of_cells[is_found], self._scores[is_found] = rows, scores
        self._products, self._rows = [*products, _NO_PRODUCT], rows_of_cells.ravel().tolist()

    def values(self, member: str) -> list[Any]:
        """Return the `id`, `name` or `score` of each match."""
        if member == "score":
            return self._scores.ravel().tolist()
        texts = [product[member] for product in self._products]
        return [texts[row] for row in self._rows]

    def binary(self, member: str) -> bytes:
        """Return the same in binary form: a text as its length, a little-endian uint32, and its UTF-8."""
        if member == "score":
            return self._scores.astype("<f4").tobytes()
        texts = [product[member].encode() for product in self._products]
        packed = [len(text).to_bytes(4, "little") + text for text in texts]
        return b"".join([packed[row] for row in self._rows])
