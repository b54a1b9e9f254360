"""Reads a users file, block by block, as bytes that worker processes turn into users."""

import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol

from retrieval.records.rows import PARQUET, first_character, peek, plain
from service.errors import BadBatch
from service.offline.blocks import Block, Place

_BLOCK_BYTES = 64 * 2**20
_LONGEST_LINE = 64 * 2**20
_ARCHIVES = {b"PK": "NPZ", b"\x93N": "NPY"}


class UsersFile(Protocol):
    """A file of users that has been found readable; `kind` says what its blocks hold: "lines" of JSON, or "arrow"."""

    kind: str

    def blocks(self, most_rows: int) -> Iterator[Block]:
        """All users in order, in the same blocks every time; at least one block. Raises BadBatch."""
        ...


def open_users(path: Path) -> UsersFile:
    """Tell the format of a file by its content: JSON lines, plain or gzipped, or Parquet. Raises BadBatch."""
    try:
        with path.open("rb") as file, closing(plain(file)) as stream:
            start, first = peek(stream, 4), first_character(stream)
            if start == PARQUET:
                if stream is not file:
                    raise BadBatch(f"{path}: a gzipped Parquet file cannot be read; gunzip it first")
                return _parquet_file(path)
    except (OSError, EOFError, zlib.error) as error:
        raise BadBatch(f"{path}: cannot be read: {error}") from None
    if first == b"[":
        raise BadBatch(f"{path}: a JSON array cannot be streamed; put one user on a line, as `jq -c '.[]'` does")
    if first not in (b"{", b""):
        found = f", not {_ARCHIVES[start[:2]]}" if start[:2] in _ARCHIVES else ""
        raise BadBatch(f"{path}: users must be JSON lines (which may be gzipped) or Parquet{found}")
    return LinesFile(path)


class LinesFile:
    """JSON lines, which may be gzipped; blank lines are no users."""

    kind = "lines"

    def __init__(self, path: Path):
        self._path = path

    def blocks(self, most_rows: int) -> Iterator[Block]:
        size = self._path.stat().st_size
        number = first = 0
        try:
            with self._path.open("rb") as file, closing(plain(file)) as stream:
                for lines in self._groups(stream, most_rows):
                    share = file.tell() / size if size else 1.0
                    yield Block(Place(number, first, len(lines)), b"".join(lines), share)
                    number, first = number + 1, first + len(lines)
        except (OSError, EOFError, zlib.error) as error:  # gzip reports a damaged stream as any of them
            raise BadBatch(f"{self._path}: cannot be read: {error}") from None

    def _groups(self, stream: BinaryIO, most_rows: int) -> Iterator[list[bytes]]:
        lines: list[bytes] = []
        length = number = groups = 0
        while line := stream.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise BadBatch(f"{self._path}: line {number} is longer than the {_LONGEST_LINE:,} bytes allowed")
            if line.isspace():
                continue
            lines.append(line)
            length += len(line)
            if len(lines) == most_rows or length >= _BLOCK_BYTES:
                yield lines
                lines, length, groups = [], 0, groups + 1
        if lines or not groups:
            yield lines


def _parquet_file(path: Path) -> UsersFile:
    try:
        from service.offline.parquet import ParquetFile
    except ImportError:
        raise BadBatch(f"{path}: reading Parquet needs pyarrow: pip install 'jetmlett[parquet]'") from None
    return ParquetFile(path)
