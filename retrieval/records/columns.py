"""Rows of a file that holds columns: NPZ, NPY or Parquet, read a block of rows at a time."""

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

Rows = Iterator[dict[str, Any]]


def npz_rows(path: Path, stream: BinaryIO) -> Rows:
    """Yield rows {"id", "name", "vector"} of the arrays `ids`, `names` and `vectors`, as far as they are there."""
    try:
        with zipfile.ZipFile(stream) as archive:
            if "vectors.npy" not in archive.namelist():
                raise BadRows(f"{path}: has no array 'vectors'")
            labels = {name: _labels(path, archive, name) for name in _LABELS if f"{name}.npy" in archive.namelist()}
            with archive.open("vectors.npy") as member:
                vectors = _matrix_rows(path, member, {name: len(column) for name, column in labels.items()})
                columns = [(value.item() for value in column) for column in labels.values()]
                names = [*(_LABELS[name] for name in labels), "vector"]
                for row in zip(*columns, vectors, strict=True):
                    yield dict(zip(names, row, strict=True))
    except _DAMAGED as error:
        raise BadRows(f"{path}: not a readable NPZ file: {error}") from error


def npy_rows(path: Path, stream: BinaryIO) -> Rows:
    """Yield rows of a matrix; a row's number, from 0, is its id and name."""
    try:
        for number, vector in enumerate(_matrix_rows(path, stream, {})):
            yield {"id": str(number), "name": str(number), "vector": vector}
    except _DAMAGED as error:
        raise BadRows(f"{path}: not a readable NPY file: {error}") from error


def parquet_rows(path: Path) -> Rows:
    """Yield rows {"id", "name", "vector"} of the columns of these names; `vector` holds lists of numbers."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise BadRows(f"{path}: reading Parquet needs pyarrow: pip install 'jetmlett[parquet]'") from error
    try:
        with pq.ParquetFile(path) as file:
            columns = _parquet_columns(path, file.schema_arrow)
            for batch in file.iter_batches(_BLOCK_ROWS, columns=columns):
                labels = [batch.column(name).to_pylist() for name in columns if name != "vector"]
                for *values, vector in zip(*labels, batch.column("vector"), strict=True):
                    numbers = vector.values.to_numpy(zero_copy_only=False) if vector.is_valid else None
                    yield dict(zip(columns, [*values, numbers], strict=True))
    except (pa.ArrowException, OSError) as error:
        raise BadRows(f"{path}: not a readable Parquet file: {error}") from error


def _parquet_columns(path: Path, schema: Any) -> list[str]:
    """Return the columns to read. Raises BadRows where there is no vector of numbers, or nothing to name it by."""
    from pyarrow import types

    columns = [name for name in ("id", "name", "vector") if name in schema.names]
    if "vector" not in columns or len(columns) < 2:
        found = ", ".join(schema.names) or "none"
        raise BadRows(f"{path}: needs columns 'vector' and 'id' or 'name', has {found}")
    kind = schema.field("vector").type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise BadRows(f"{path}: column 'vector' must hold lists of numbers, not {kind}")
    return columns


def _matrix_rows(path: Path, stream: Any, label_counts: dict[str, int]) -> Iterator[NDArray]:
    """Yield the rows of an NPY stream's matrix. Raises BadRows where it is none, or has another length than labels."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(stream)
    if len(shape) != 2 or dtype.kind not in "fiu":
        raise BadRows(f"{path}: 'vectors' must be numbers (products, dimension), not {dtype} {shape}")
    lengths = {**label_counts, "vectors": shape[0]}
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
    with archive.open(f"{name}.npy") as member:
        column = np.lib.format.read_array(member)
    if column.ndim != 1:
        raise BadRows(f"{path}: '{name}' must be a list of values, not {column.dtype} {column.shape}")
    return np.char.decode(column, "utf-8") if column.dtype.kind == "S" else column
