"""Reads the rows of a data file: JSON lines, a JSON array, NPZ, NPY or Parquet, told apart by content.

All but Parquet may be gzipped.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from retrieval.errors import BadRows
from retrieval.records import lenient_json
from retrieval.records.columns import npy_rows, npz_rows, parquet_rows

COLUMNS_UNIT = "row"  # Locations in files that hold columns begin with it.
_GZIP, _ZIP, _NPY, PARQUET = b"\x1f\x8b", b"PK", b"\x93NUMPY", b"PAR1"

Row = tuple[str, Any]


def read_rows(path: Path, needs_vectors: bool = True) -> Iterator[Row]:
    """Yield (location, value) for each row: "line 3" and what the line held, or the `lenient_json.BadJson` met there.

    Blank lines are skipped. Rows of files that hold columns are objects whose vectors are arrays (d,); a Parquet file
    that `needs_vectors` has a column of them.
    Raises BadRows where the file as a whole cannot be read.
    """
    try:
        with path.open("rb") as file, closing(open_decompressed(file)) as stream:
            start = peek(stream, 6)
            if start.startswith(_ZIP):
                yield from _numbered(COLUMNS_UNIT, npz_rows(path, stream))
            elif start.startswith(_NPY):
                yield from _numbered(COLUMNS_UNIT, npy_rows(path, stream))
            elif start.startswith(PARQUET):
                yield from _numbered(COLUMNS_UNIT, parquet_rows(path, needs_vectors))
            elif first_character(stream) == b"[":
                yield from _numbered("item", _array(path, stream))
            else:
                yield from ((f"line {number}", _loads(line)) for number, line in enumerate(stream, 1) if line.strip())
    except (OSError, EOFError, zlib.error) as error:  # gzip reports a damaged stream as any of them
        raise BadRows(f"{path}: cannot be read: {error}") from error


def open_decompressed(file: BinaryIO) -> BinaryIO:
    """Return the stream of what a file holds, which may be gzipped."""
    return gzip.open(file) if peek(file, 2) == _GZIP else file  # type: ignore[return-value]


def peek(stream: BinaryIO, count: int) -> bytes:
    """Return the first bytes of a stream, and go back to its start."""
    start = stream.read(count)
    stream.seek(0)
    return start


def first_character(stream: BinaryIO) -> bytes:
    """Return the first byte that is neither space nor part of a byte order mark, and go back to the start."""
    character = stream.read(1)
    while character and character in b" \t\r\n\xef\xbb\xbf":
        character = stream.read(1)
    stream.seek(0)
    return character


def _numbered(unit: str, values: Iterable[Any]) -> Iterator[Row]:
    return ((f"{unit} {number}", value) for number, value in enumerate(values, 1))


def _array(path: Path, stream: BinaryIO) -> list[Any]:
    try:
        return lenient_json.loads(stream.read())
    except lenient_json.BadJson as error:
        raise BadRows(f"{path}: {error}") from error


def _loads(line: bytes) -> Any:
    try:
        return lenient_json.loads(line)
    except lenient_json.BadJson as error:
        return error
