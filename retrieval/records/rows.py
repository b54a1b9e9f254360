"""Reads the rows of a data file: JSON lines, a JSON array, CSV, TSV, NPZ, NPY or Parquet, told apart by content.

All may be gzipped. A directory has a file for each part, as Spark writes them.
"""

import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from retrieval.errors import BadRows
from retrieval.records import lenient_json
from retrieval.records.columns import npy_rows, npz_rows
from retrieval.records.parquet_file import parquet_rows
from retrieval.records.roles import INSTEAD, ROLES, take_roles
from retrieval.records.separated import separated_rows, separator_of

_GZIP, _ZIP, _NPY, PARQUET = b"\x1f\x8b", b"PK", b"\x93NUMPY", b"PAR1"
_OTHER_FORMATS = {
    b"ARROW1": "a Feather or Arrow IPC file",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"\x89HDF": "an HDF5 file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"SQLite": "an SQLite database",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    **{bytes((0x80, version)): "a Python pickle, which could run any code" for version in range(2, 6)},
}
MAX_START_BYTES, _MAX_OPENING_BYTES = 6, 2**12
_PART = re.compile(r"part[-_.]?\d.*|[^._].*\.(jsonl?|ndjson|csv|tsv|parquet|npz|npy)(\.gz)?")
AS_NAMED: Mapping[str, str] = MappingProxyType({})

Row = tuple[str, Any]


class ColumnRow(dict[str, Any]):
    """A row of a file of columns, in which a column without a value is null, or left out."""


def read_rows(path: Path, needs_vectors: bool = True, source_of: Mapping[str, str] = AS_NAMED) -> Iterator[Row]:
    """Yield (location, value) for each row: "line 3" and what the line held, or the `lenient_json.BadJson` met there.

    Blank lines are skipped. Rows of CSV, TSV, NumPy's files and Parquet are `ColumnRow`s; a file of columns that
    `needs_vectors` has some for them. `source_of` says by which names ids, names and vectors go there. Raises BadRows
    where the file as a whole cannot be read.
    """
    if path.is_dir():
        for part in part_files(path):
            yield from ((f"{part.name} {location}", row) for location, row in read_rows(part, needs_vectors, source_of))
        return
    try:
        with path.open("rb") as file, closing(open_decompressed(file)) as stream:
            yield from _rows_of(path, stream, needs_vectors, source_of)
    except (OSError, EOFError, zlib.error) as error:  # gzip reports a damaged stream as any of them
        raise BadRows(f"{path}: cannot be read: {error}") from error


def part_files(path: Path) -> list[Path]:
    """Return the files of a directory of parts, in the order of their names, such as `part-00000.snappy.parquet`.

    Raises BadRows where there are none.
    """
    parts = sorted(each for each in path.iterdir() if each.is_file() and _PART.fullmatch(each.name))
    if not parts:
        raise BadRows(f"{path}: is a directory without parts, which are named as part-00000.parquet is")
    return parts


def name_format(start: bytes) -> str | None:
    """Return what a file is whose first bytes are these, if that is known, and cannot be read."""
    return next((name for magic, name in _OTHER_FORMATS.items() if start.startswith(magic)), None)


def _rows_of(path: Path, stream: BinaryIO, needs_vectors: bool, source_of: Mapping[str, str]) -> Iterator[Row]:
    start = peek(stream, MAX_START_BYTES)
    if other := name_format(start):
        raise BadRows(f"{path}: is {other}; {INSTEAD}")
    if start.startswith(_ZIP):
        yield from _of_columns(_numbered("row", npz_rows(path, stream, source_of)))
    elif start.startswith(_NPY):
        yield from _of_columns(_numbered("row", npy_rows(path, stream)))
    elif start.startswith(PARQUET):
        with closing(_seekable(stream)) as plain:
            yield from _of_columns(_numbered("row", parquet_rows(path, plain, source_of, needs_vectors)))
    elif first_character(stream) == b"[":
        yield from _numbered("item", (_named(row, source_of) for row in _array(path, stream)))
    elif separator := separator_of(stream):
        yield from _of_columns(separated_rows(path, stream, separator, source_of, needs_vectors))
    else:
        yield from ((location, _named(row, source_of)) for location, row in _lines(stream))


def _of_columns(rows: Iterable[Row]) -> Iterator[Row]:
    return ((location, ColumnRow(row) if isinstance(row, dict) else row) for location, row in rows)


def _named(row: Any, source_of: Mapping[str, str]) -> Any:
    return take_roles(row, source_of) if source_of and isinstance(row, dict) else row


def _lines(stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows of JSON lines, or of the list in the one object that a stream holds, as in {"products": […]}."""
    first = stream.readline(_MAX_OPENING_BYTES)
    # What one object spreads over many lines begins so; a line that is cut may end so too.
    is_spread = first.endswith(b"\n") and first.strip()[-1:] in (b"{", b"[", b":", b",")
    stream.seek(0)
    lines = ((f"line {number}", _loads(line)) for number, line in enumerate(stream, 1) if line.strip())
    rows = [("", _loads(stream.read()))] if is_spread else [*islice(lines, 2)]
    if len(rows) == 1 and (members := _list_in(rows[0][1])) is not None:
        yield from _numbered("item", members)
    else:
        stream.seek(0)
        yield from ((f"line {number}", _loads(line)) for number, line in enumerate(stream, 1) if line.strip())


def _list_in(value: Any) -> list[Any] | None:
    """Return the rows in an object that is none itself, as it has a list of objects and nothing that rows have."""
    if not isinstance(value, dict) or value.keys() & {*ROLES}:
        return None
    lists = [each for each in value.values() if isinstance(each, list) and each and isinstance(each[0], dict)]
    return lists[0] if len(lists) == 1 else None


def _seekable(stream: BinaryIO) -> BinaryIO:
    """Return a stream in which one may jump about at no cost, which a gzipped one is not."""
    if not isinstance(stream, gzip.GzipFile):
        return stream
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (whoever reads it closes it)
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return copy


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
