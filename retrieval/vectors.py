"""What a valid vector is, and the unit-length form of it that is indexed and searched."""

import sys
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

MIN_DIMENSION = 2
MAX_FAULTS = 20  # Of many faults of a kind, so many are named.


@dataclass(frozen=True)
class VectorFault:
    """One reason why values are no vector; `element` is the index of the number at fault, if it is one number's.

    `detail` is the rest of a sentence that begins with "vector" or "vector element 3".
    """

    code: str
    detail: str
    element: int | None = None

    def __str__(self) -> str:
        subject = "vector" if self.element is None else f"vector element {self.element}"
        return f"{subject} {self.detail}"


class BadVector(ValueError):
    """Values that are no vector, with every fault found (of faulty elements, the first twenty and a count)."""

    def __init__(self, faults: list[VectorFault]):
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def read_vector(values: object, dimension: int | None = None) -> NDArray[np.float64]:
    """Turn a parsed JSON list, or a numeric array (d,), into a float64 vector (d,), finite and not all zeros.

    Without a `dimension`, any length from two numbers up is taken. Raises BadVector.
    """
    if type(values) is not list and not isinstance(values, np.ndarray):
        raise BadVector([VectorFault("vector_type", f"must be a list of numbers, not {json_type(values)}")])
    faults = _length_faults(len(values), dimension)
    vector = _as_floats(values)
    if vector is None or not np.isfinite(vector).all():
        faults += _element_faults(values.tolist() if isinstance(values, np.ndarray) else values)
    elif vector.size and not vector.any():
        faults.append(VectorFault("vector_zero", "is all zeros, which has no direction"))
    if faults or vector is None:
        raise BadVector(faults)
    return vector


def unit_vectors(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale each row of (n, d) to length 1, as a new float32 array; rows must be finite and not all zeros.

    A row is divided by its largest magnitude first, so that 1e-30 and 1e30 lose nothing to under- or overflow. Each
    row's result is the same whatever rows stand around it.
    """
    wide = vectors.astype(np.float64)
    scaled = wide / np.abs(wide).max(axis=1, keepdims=True)
    lengths = np.sqrt(np.square(scaled).sum(axis=1, keepdims=True))
    return np.ascontiguousarray(scaled / lengths, dtype=np.float32) + np.float32(0.0)


def json_type(value: object) -> str:
    """Return the JSON name of a value's type, for messages; Python's where JSON has no such type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, Real) else f"a {type(value).__name__}")


def _length_faults(length: int, dimension: int | None) -> list[VectorFault]:
    if dimension is None and length < MIN_DIMENSION:
        return [VectorFault("vector_dimension", f"has {length} numbers, at least {MIN_DIMENSION} are needed")]
    if dimension is not None and length != dimension:
        return [VectorFault("vector_dimension", f"has {length} numbers, {dimension} are expected")]
    return []


def _as_floats(values: list[object] | NDArray) -> NDArray[np.float64] | None:
    """Return the values as float64, or None where one is not a number. NumPy alone would take booleans for numbers."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    if not set(map(type, values)) <= {float, int}:
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return None


def _element_faults(values: list[object]) -> list[VectorFault]:
    faults = []
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, float | int):
            faults.append(VectorFault("vector_not_number", f"is {json_type(value)}, not a number", i))
        elif not abs(value) <= sys.float_info.max:
            shown = value if isinstance(value, float) else "an integer beyond float range"
            faults.append(VectorFault("vector_not_finite", f"is not finite: {shown}", i))
    further = len(faults) - MAX_FAULTS
    if further > 0:
        faults[MAX_FAULTS:] = [VectorFault("vector_elements", f"has {further} further elements at fault")]
    return faults
