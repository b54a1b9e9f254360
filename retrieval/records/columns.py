"""Reads the rows of a file that holds columns: NPZ, NPY or Parquet, a block of rows at a time."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadRows

_LABELS = {"ids": "id", "names": "name"}
_BLOCK_ROWS = 4096

# What NumPy raises over damaged bytes, depending on where they are; ValueError is also an array of objects (pickle).
_DAMAGED = (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)

Rows = Iterator[tuple[str, dict[str, Any]]]


def npz_rows(path: Path, stream: BinaryIO) -> Rows:
    """Rows {"id", "name", "vector"} of the arrays `ids`, `names` and `vectors`, as far as they are there."""
    try:
        with zipfile.ZipFile(stream) as archive:
            if "vectors.npy" not in archive.namelist():
                raise BadRows(f"{path}: has no array 'vectors'")
            labels = {}
            for name, field in _LABELS.items():
                if f"{name}.npy" in archive.namelist():
                    with archive.open(f"{name}.npy") as member:
                        labels[field] = _labels(path, name, np.lib.format.read_array(member))
            with archive.open("vectors.npy") as member:
                yield from _rows(_matrix_blocks(path, member, labels), labels)
    except _DAMAGED as error:
        raise BadRows(f"{path}: not a readable NPZ file: {error}") from None


def npy_rows(path: Path, stream: BinaryIO) -> Rows:
    """Rows of a matrix; a row's number, from 0, is its id and name."""
    try:
        for place, row in _rows(_matrix_blocks(path, stream, {}), {}):
            number = str(int(place.removeprefix("row ")) - 1)
            yield place, {"id": number, "name": number, **row}
    except _DAMAGED as error:
        raise BadRows(f"{path}: not a readable NPY file: {error}") from None


def parquet_rows(path: Path) -> Rows:
    """Rows {"id", "name", "vector"} of the columns of these names; `vector` holds lists of numbers."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BadRows(f"{path}: reading Parquet needs pyarrow: pip install 'jetmlett[parquet]'") from None
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in ("id", "name", "vector") if name in file.schema_arrow.names]
            if "vector" not in columns or len(columns) < 2:
                found = ", ".join(file.schema_arrow.names) or "none"
                raise BadRows(f"{path}: needs columns 'vector' and 'id' or 'name', has {found}")
            kind = file.schema_arrow.field("vector").type
            if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
                raise BadRows(f"{path}: column 'vector' must hold lists of numbers, not {kind}")
            if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
                raise BadRows(f"{path}: column 'vector' must hold lists of numbers, not {kind}")
            number = 0
            for batch in file.iter_batches(_BLOCK_ROWS, columns=columns):
                labels = {name: batch.column(name).to_pylist() for name in columns if name != "vector"}
                for i, vector in enumerate(batch.column("vector")):
                    values = vector.values.to_numpy(zero_copy_only=False) if vector.is_valid else None
                    number += 1
                    yield f"row {number}", {**{name: column[i] for name, column in labels.items()}, "vector": values}
    except (pa.ArrowException, OSError) as error:
        raise BadRows(f"{path}: not a readable Parquet file: {error}") from None


def _rows(blocks: Iterator[NDArray], labels: dict[str, NDArray]) -> Rows:
    number = 0
    for block in blocks:
        names = {field: column[number : number + len(block)].tolist() for field, column in labels.items()}
        for i, vector in enumerate(block):
            number += 1
            yield f"row {number}", {**{field: column[i] for field, column in names.items()}, "vector": vector}


def _matrix_blocks(path: Path, stream: Any, labels: dict[str, NDArray]) -> Iterator[NDArray]:
    """The matrix of an NPY stream, some thousand rows at a time."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(stream)
    if len(shape) != 2 or dtype.kind not in "fiu":
        raise BadRows(f"{path}: 'vectors' must be numbers (products, dimension), not {dtype} {shape}")
    lengths = {**{f"{field}s": len(column) for field, column in labels.items()}, "vectors": shape[0]}
    if len(set(lengths.values())) > 1:
        raise BadRows(f"{path}: its arrays have different lengths: {lengths}")
    if by_columns:
        whole = np.frombuffer(stream.read(), dtype).reshape(shape, order="F")
        yield from (whole[start : start + _BLOCK_ROWS] for start in range(0, shape[0], _BLOCK_ROWS))
        return
    row_bytes = shape[1] * dtype.itemsize
    for start in range(0, shape[0], _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, shape[0] - start)
        content = stream.read(count * row_bytes)
        if len(content) < count * row_bytes:
            raise EOFError("the file ends early")
        yield np.frombuffer(content, dtype).reshape(count, shape[1])
    if stream.read(1):
        raise ValueError("there is more in it than its header says")


def _labels(path: Path, name: str, column: NDArray) -> NDArray:
    if column.ndim != 1:
        raise BadRows(f"{path}: '{name}' must be a list of values, not {column.dtype} {column.shape}")
    return np.char.decode(column, "utf-8") if column.dtype.kind == "S" else column
