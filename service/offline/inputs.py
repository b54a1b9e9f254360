"""Reads a file or a directory of users, block by block, as bytes that worker processes turn into users."""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from retrieval.errors import BadRows
from retrieval.records.parquet_file import NEEDS_PYARROW
from retrieval.records.rows import (
    MAX_START_BYTES,
    PARQUET,
    first_character,
    name_format,
    open_decompressed,
    part_files,
    peek,
)
from service.errors import BadBatch
from service.http.requests.user_reader import split_lines
from service.offline.answers import Answerer
from service.recommender import UserBlock

_BLOCK_BYTES = 64 * 2**20
_MAX_LINE_BYTES = 64 * 2**20
_ARCHIVES = {b"PK": "NPZ", b"\x93N": "NPY"}


class BlockKey(NamedTuple):
    """The row of a block's first user in the whole file, the block's count of users, and the digest of its bytes."""

    first_row: int
    rows: int
    digest: str


@dataclass(frozen=True)
class Block:
    """The bytes of some consecutive users; `share` is the part of the file read so far, from 0 to 1."""

    key: BlockKey
    content: bytes
    share: float

    @classmethod
    def of(cls, first_row: int, rows: int, content: bytes, share: float) -> "Block":
        return cls(BlockKey(first_row, rows, hashlib.sha256(content).hexdigest()), content, share)


@dataclass(frozen=True)
class UsersFile:
    """A file or a directory of users that has been found readable.

    `read_blocks` yields all users in order, at most as many a block as it is told, in the same blocks every time and
    in one block at least; it raises BadBatch. `parse_users` reads the users of a block's content, whose first one is
    at the row given, in a worker process.
    """

    read_blocks: Callable[[int], Iterator[Block]]
    parse_users: Callable[[bytes, Answerer, int], Iterable[UserBlock]]


def user_files(path: Path) -> list[Path]:
    """Return the files of users: the path itself, or the parts in a directory. Raises BadBatch."""
    try:
        return part_files(path) if path.is_dir() else [path]
    except BadRows as error:
        raise BadBatch(str(error)) from error


def open_users(path: Path) -> UsersFile:
    """Tell the format of users by their content: JSON lines, plain or gzipped, or Parquet. Raises BadBatch."""
    files = [*map(_open_file, user_files(path))]
    if len({file.parse_users for file in files}) > 1:
        raise BadBatch(f"{path}: has parts of JSON lines beside parts of Parquet")
    return files[0] if len(files) == 1 else UsersFile(partial(_read_files, files), files[0].parse_users)


def _read_files(files: Sequence[UsersFile], max_rows: int) -> Iterator[Block]:
    """Yield the blocks of one file after the other; an empty one only where there are no users at all."""
    first_row = 0
    for number, file in enumerate(files):
        rows = 0
        for block in file.read_blocks(max_rows):
            key = block.key._replace(first_row=first_row + rows)
            rows += key.rows
            is_last_chance = number == len(files) - 1 and not first_row
            if key.rows or is_last_chance:
                yield Block(key, block.content, (number + block.share) / len(files))
        first_row += rows


def _open_file(path: Path) -> UsersFile:
    try:
        with path.open("rb") as file, closing(open_decompressed(file)) as stream:
            start, first = peek(stream, MAX_START_BYTES), first_character(stream)
            if other := name_format(start):
                raise BadBatch(f"{path}: is {other}; users must be JSON lines (which may be gzipped) or Parquet")
            if start.startswith(PARQUET):
                if stream is not file:
                    raise BadBatch(f"{path}: a gzipped Parquet file cannot be read; gunzip it first")
                return _open_parquet(path)
    except (OSError, EOFError, zlib.error) as error:
        raise BadBatch(f"{path}: cannot be read: {error}") from error
    if first == b"[":
        raise BadBatch(f"{path}: a JSON array cannot be streamed; put one user on a line, as `jq -c '.[]'` does")
    if first not in (b"{", b""):
        found = f", not {_ARCHIVES[start[:2]]}" if start[:2] in _ARCHIVES else ""
        raise BadBatch(f"{path}: users must be JSON lines (which may be gzipped) or Parquet{found}")
    return UsersFile(partial(_read_line_blocks, path), _parse_lines)


def _open_parquet(path: Path) -> UsersFile:
    try:
        from service.offline.parquet import parse_users, read_blocks, user_columns_of
    except ImportError as error:
        raise BadBatch(f"{path}: reading Parquet {NEEDS_PYARROW}") from error
    return UsersFile(partial(read_blocks, path, user_columns_of(path)), parse_users)


def _parse_lines(content: bytes, answerer: Answerer, first_row: int) -> Iterable[UserBlock]:
    return answerer.reader.read_some_lines(split_lines(content), first_row)


def _read_line_blocks(path: Path, max_rows: int) -> Iterator[Block]:
    size = path.stat().st_size
    first_row = 0
    try:
        with path.open("rb") as file, closing(open_decompressed(file)) as stream:
            for lines in _group_lines(path, stream, max_rows):
                share = file.tell() / size if size else 1.0
                yield Block.of(first_row, len(lines), b"".join(lines), share)
                first_row += len(lines)
    except (OSError, EOFError, zlib.error) as error:  # gzip reports a damaged stream as any of them
        raise BadBatch(f"{path}: cannot be read: {error}") from error


def _group_lines(path: Path, stream: BinaryIO, max_rows: int) -> Iterator[list[bytes]]:
    """Yield the lines that are not blank, as many at a time as a block may hold; an empty list where there are none."""
    lines: list[bytes] = []
    length = groups = 0
    for number, line in enumerate(iter(partial(stream.readline, _MAX_LINE_BYTES + 1), b""), 1):
        if len(line) > _MAX_LINE_BYTES:
            raise BadBatch(f"{path}: line {number} is longer than the {_MAX_LINE_BYTES:,} bytes allowed")
        if line.isspace():
            continue
        lines.append(line)
        length += len(line)
        if len(lines) == max_rows or length >= _BLOCK_BYTES:
            yield lines
            lines, length, groups = [], 0, groups + 1
    if lines or not groups:
        yield lines
