"""Rows of a file that holds columns: NPZ, NPY or Parquet, read a block of rows at a time.

Other columns than those of ids, names and vectors become further members of a row, with the values that JSON would
have: dates and times are texts in ISO 8601, decimals are numbers. What JSON has no form for is left out.
"""

import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadRows

_LABELS = {"ids": "id", "names": "name"}
_BLOCK_ROWS = 4096
_MAX_ITEM_BYTES = 8  # Python has no wider numbers.
_PLAIN_TYPES = {bool, int, float, str, type(None)}

# What NumPy raises over damaged bytes, depending on where they are; ValueError is also an array of objects (pickle).
_DAMAGED = (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)

Rows = Iterator[dict[str, Any]]


def npz_rows(path: Path, stream: BinaryIO) -> Rows:
    """Yield rows {"id", "name", "vector"} of the arrays `ids`, `names` and `vectors`, as far as they are there.

    Further arrays with a value, or a list of values, a product go by their names.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            if "vectors.npy" not in archive.namelist():
                raise BadRows(f"{path}: has no array 'vectors'")
            labels = {name: _labels(path, archive, name) for name in _LABELS if f"{name}.npy" in archive.namelist()}
            further = {name: _read_array(archive, name) for name in _further_arrays(archive)}
            with archive.open("vectors.npy") as member:
                vectors = _matrix_rows(path, member, {name: len(column) for name, column in labels.items()})
                columns = [_values(column) for column in (*labels.values(), *further.values())]
                names = [*(_LABELS[name] for name in labels), *further, "vector"]
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


def parquet_rows(path: Path, needs_vectors: bool = True) -> Rows:
    """Yield a row of all columns; `vector` holds lists of numbers, and `id` or `name` must be there."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise BadRows(f"{path}: reading Parquet needs pyarrow: pip install 'jetmlett[parquet]'") from error
    try:
        with pq.ParquetFile(path) as file:
            columns = _parquet_columns(path, file.schema_arrow, needs_vectors)
            for batch in file.iter_batches(_BLOCK_ROWS, columns=columns):
                values = [
                    _vectors(batch.column(name)) if name == "vector" else _column_values(batch.column(name))
                    for name in columns
                ]
                yield from (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise BadRows(f"{path}: not a readable Parquet file: {error}") from error


def _parquet_columns(path: Path, schema: Any, needs_vectors: bool) -> list[str]:
    """Return the columns to read, the vector's last.

    Raises BadRows where there is no vector of numbers and one is needed, nothing to name it by, or two columns of one
    name.
    """
    if (needs_vectors and "vector" not in schema.names) or not {"id", "name"} & {*schema.names}:
        found = ", ".join(schema.names) or "none"
        needed = "columns 'vector' and 'id' or 'name'" if needs_vectors else "a column 'id' or 'name'"
        raise BadRows(f"{path}: needs {needed}, has {found}")
    [(name, count)] = Counter(schema.names).most_common(1)
    if count > 1:
        raise BadRows(f"{path}: has {count} columns {name!r}")
    labels = [name for name in ("id", "name", "vector") if name in schema.names]
    further = [each.name for each in schema if each.name not in labels and _has_json_form(each.type)]
    if "vector" not in labels:
        return labels + further
    _check_vectors(path, schema.field("vector").type)
    return [*labels[:-1], *further, "vector"]


def _check_vectors(path: Path, kind: Any) -> None:
    """Raise BadRows where a type of column holds no lists of numbers."""
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise BadRows(f"{path}: column 'vector' must hold lists of numbers, not {kind}")


def _vectors(column: Any) -> Iterable[NDArray | None]:
    return (each.values.to_numpy(zero_copy_only=False) if each.is_valid else None for each in column)


def _has_json_form(kind: Any) -> bool:
    """Tell whether JSON has a form for all values of an Arrow type."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _has_json_form(kind.value_type)
    if types.is_struct(kind):
        return all(_has_json_form(field.type) for field in kind)
    tests = (
        *(types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_null),
        *(types.is_string, types.is_large_string, types.is_string_view),
        *(types.is_date, types.is_time, types.is_timestamp),
    )
    return any(test(kind) for test in tests)


def _column_values(column: Any) -> list[Any]:
    """Return a column's values as JSON has them."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):  # Python's own have no nanoseconds.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return [value if type(value) in _PLAIN_TYPES else _plain(value) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(_plain, value)]
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape of an NPY stream's array, whether it is stored by columns, and the type of its values."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(stream)
    return shape, by_columns, dtype


def _matrix_rows(path: Path, stream: Any, label_counts: dict[str, int]) -> Iterator[NDArray]:
    """Yield the rows of an NPY stream's matrix. Raises BadRows where it is none, or has another length than labels."""
    shape, by_columns, dtype = _read_header(stream)
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
    column = _read_array(archive, name)
    if column.ndim != 1:
        raise BadRows(f"{path}: '{name}' must be a list of values, not {column.dtype} {column.shape}")
    return column


def _further_arrays(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of arrays with a value, or a list of values, for each row of `vectors`."""
    shapes = {}
    for name in archive.namelist():
        if name.endswith(".npy"):
            with archive.open(name) as member:
                shapes[name.removesuffix(".npy")] = _read_header(member)
    rows = shapes.pop("vectors")[0][:1]
    return [
        name
        for name, (shape, _, dtype) in shapes.items()
        if name not in _LABELS and len(shape) in (1, 2) and shape[:1] == rows
        if dtype.kind in "US" or (dtype.kind in "biuf" and dtype.itemsize <= _MAX_ITEM_BYTES)
    ]


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray:
    with archive.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member)
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _values(column: NDArray) -> Iterable[Any]:
    return (value.item() for value in column) if column.ndim == 1 else (row.tolist() for row in column)
