"""Reads the rows of a data file: JSON lines, a JSON array or NPZ, plain or gzipped, told apart by content."""

import gzip
import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from index_builder import lenient_json
from index_builder.errors import BadRows

_GZIP_MAGIC, _ZIP_MAGIC = b"\x1f\x8b", b"PK"
_NPZ_FIELDS = {"ids": "id", "names": "name", "vectors": "vector"}

# What NumPy raises over damaged bytes, depending on where they are; ValueError is also an array of objects (pickle).
_DAMAGED_ARRAYS = (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)

Row = tuple[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (place, value) for each row: "line 3" and what the line held, or the `lenient_json.BadJson` met there.

    Blank lines are skipped. NPZ rows are {"id", "name", "vector"} of whatever arrays there are, vectors (d,) arrays.
    Raises BadRows where the file as a whole cannot be read.
    """
    try:
        with path.open("rb") as file, closing(_plain(file)) as stream:
            start = _peek(stream, 2)
            if start == _ZIP_MAGIC:
                yield from _npz_rows(path, stream)
            elif _first_character(stream) == b"[":
                yield from _array_rows(path, stream)
            else:
                yield from _line_rows(stream)
    except (OSError, EOFError, zlib.error) as error:  # gzip reports a damaged stream as any of them
        raise BadRows(f"{path}: cannot be read: {error}") from error


def _plain(file: BinaryIO) -> BinaryIO:
    return gzip.open(file) if _peek(file, 2) == _GZIP_MAGIC else file  # type: ignore[return-value]


def _peek(stream: BinaryIO, count: int) -> bytes:
    start = stream.read(count)
    stream.seek(0)
    return start


def _first_character(stream: BinaryIO) -> bytes:
    character = stream.read(1)
    while character and character in b" \t\r\n\xef\xbb\xbf":
        character = stream.read(1)
    stream.seek(0)
    return character


def _line_rows(stream: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield f"line {number}", _loads(line)


def _array_rows(path: Path, stream: BinaryIO) -> Iterator[Row]:
    try:
        rows = lenient_json.loads(stream.read())
    except lenient_json.BadJson as error:
        raise BadRows(f"{path}: {error}") from None
    for number, row in enumerate(rows, 1):
        yield f"item {number}", row


def _loads(line: bytes) -> Any:
    try:
        return lenient_json.loads(line)
    except lenient_json.BadJson as error:
        return error


def _npz_rows(path: Path, stream: BinaryIO) -> Iterator[Row]:
    content = stream.read()
    try:
        with np.load(io.BytesIO(content)) as arrays:
            columns = {field: arrays[name] for name, field in _NPZ_FIELDS.items() if name in arrays}
    except _DAMAGED_ARRAYS as error:
        raise BadRows(f"{path}: not a readable NPZ file: {error}") from None
    if "vector" not in columns:
        raise BadRows(f"{path}: has no array 'vectors'")
    for name, field in _NPZ_FIELDS.items():
        if field in columns and field != "vector" and columns[field].ndim != 1:
            raise BadRows(f"{path}: '{name}' must be a list of values, not {_shape(columns[field])}")
    if columns["vector"].ndim != 2 or columns["vector"].dtype.kind not in "fiu":
        raise BadRows(f"{path}: 'vectors' must be numbers (products, dimension), not {_shape(columns['vector'])}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise BadRows(f"{path}: its arrays have different lengths: {lengths}")
    vectors = columns.pop("vector")
    labels = {name: column.tolist() for name, column in columns.items()}
    for i, vector in enumerate(vectors):
        yield f"row {i + 1}", {**{name: values[i] for name, values in labels.items()}, "vector": vector}


def _shape(column: NDArray) -> str:
    return f"{column.dtype} {column.shape}"
