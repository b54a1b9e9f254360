"""Rows of NumPy's files: NPZ and NPY, read a block of rows at a time."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadRows
from retrieval.records.roles import INSTEAD, hint

_ARRAY_OF_ROLE = {"id": "ids", "name": "names", "vector": "vectors"}
_BLOCK_ROWS = 4096
_MAX_ITEM_BYTES = 8  # Python has no wider numbers.

# What NumPy raises over damaged bytes, depending on where they are; ValueError is also an array of objects (pickle).
_DAMAGED = (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)

Rows = Iterator[dict[str, Any]]


def npz_rows(path: Path, stream: BinaryIO, source_of: Mapping[str, str]) -> Rows:
    """Yield rows {"id", "name", "vector"} of the arrays `ids`, `names` and `vectors`, as far as they are there.

    `source_of` names others to take for them. Further arrays with a value, or a list of values, a product go by their
    names.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            arrays = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            if not arrays:
                raise BadRows(f"{path}: is a ZIP archive without arrays; {INSTEAD}")
            array_of = {role: source_of.get(role, name) for role, name in _ARRAY_OF_ROLE.items()}
            vectors = array_of["vector"]
            if vectors not in arrays:
                raise BadRows(f"{path}: has no array {vectors!r}{hint('vector', arrays)}")
            labels = {
                role: _labels(path, archive, array_of[role]) for role in ("id", "name") if array_of[role] in arrays
            }
            further = {name: _read_array(archive, name) for name in _further_arrays(archive, array_of)}
            with archive.open(f"{vectors}.npy") as member:
                lengths = {array_of[role]: len(column) for role, column in labels.items()}
                rows = _matrix_rows(path, member, lengths, vectors)
                columns = [_values(column) for column in (*labels.values(), *further.values())]
                for row in zip(*columns, rows, strict=True):
                    yield dict(zip([*labels, *further, "vector"], row, strict=True))
    except _DAMAGED as error:
        raise BadRows(f"{path}: not a readable NPZ file: {error}") from error


def npy_rows(path: Path, stream: BinaryIO) -> Rows:
    """Yield rows of a matrix; a row's number, from 0, is its id and name."""
    try:
        for number, vector in enumerate(_matrix_rows(path, stream, {})):
            yield {"id": str(number), "name": str(number), "vector": vector}
    except _DAMAGED as error:
        raise BadRows(f"{path}: not a readable NPY file: {error}") from error


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape of an NPY stream's array, whether it is stored by columns, and the type of its values."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(stream)
    return shape, by_columns, dtype


def _matrix_rows(path: Path, stream: Any, label_counts: dict[str, int], name: str = "vectors") -> Iterator[NDArray]:
    """Yield the rows of an NPY stream's matrix. Raises BadRows where it is none, or has another length than labels."""
    shape, by_columns, dtype = _read_header(stream)
    if len(shape) != 2 or dtype.kind not in "fiu":
        raise BadRows(f"{path}: {name!r} must be numbers (products, dimension), not {dtype} {shape}")
    lengths = {**label_counts, name: shape[0]}
    if len(set(lengths.values())) > 1:
        raise BadRows(f"{path}: its arrays have different lengths: {lengths}")
    if by_columns:
        yield from np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
        return
    row_bytes = shape[1] * dtype.itemsize
    for start in range(0, shape[0], _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, shape[0] - start)
        content = stream.read(count * row_bytes)
        if len(content) < count * row_bytes:
            raise EOFError("the file ends early")
        yield from np.frombuffer(content, dtype).reshape(count, shape[1])
    if stream.read(1):
        raise ValueError("there is more in it than its header says")


def _labels(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray:
    column = _read_array(archive, name)
    if column.ndim != 1:
        raise BadRows(f"{path}: '{name}' must be a list of values, not {column.dtype} {column.shape}")
    return column


def _further_arrays(archive: zipfile.ZipFile, array_of: Mapping[str, str]) -> list[str]:
    """Return the names of arrays with a value, or a list of values, for each row of that of the vectors."""
    shapes = {}
    for name in archive.namelist():
        if name.endswith(".npy"):
            with archive.open(name) as member:
                shapes[name.removesuffix(".npy")] = _read_header(member)
    rows = shapes[array_of["vector"]][0][:1]
    return [
        name
        for name, (shape, _, dtype) in shapes.items()
        if name not in array_of.values() and len(shape) in (1, 2) and shape[:1] == rows
        if dtype.kind in "US" or (dtype.kind in "biuf" and dtype.itemsize <= _MAX_ITEM_BYTES)
    ]


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray:
    with archive.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member)
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _values(column: NDArray) -> Iterable[Any]:
    return (value.item() for value in column) if column.ndim == 1 else (row.tolist() for row in column)
