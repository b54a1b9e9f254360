"""Parquet on both ends of a batch: users in blocks, parts of answers into one file. Needs pyarrow."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.artifact.products import Prefixes
from service.errors import BadBatch
from service.offline.answers import Answerer
from service.offline.inputs import Block
from service.offline.record_batches import ANSWERS, answer_batch, read_users, user_columns
from service.recommender import Answer, UserBlock

_READ_AHEAD_BYTES = 2**20
_GROUP_BYTES = 64 * 2**20


def user_columns_of(path: Path) -> list[str]:
    """Return the columns that users are read from. Raises BadBatch where the file or its columns cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            return user_columns(file.schema_arrow)
    except BadBatch as error:
        raise BadBatch(f"{path}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise BadBatch(f"{path}: not a readable Parquet file: {error}") from error


def read_blocks(path: Path, columns: list[str], max_rows: int) -> Iterator[Block]:
    """Yield the columns of all users, as Arrow streams of at most `max_rows`; at least one. Raises BadBatch."""
    first = 0
    try:
        # Without pre_buffer and with a buffer, a row group is read piece by piece, however large it is.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AHEAD_BYTES) as file:
            rows = file.metadata.num_rows
            for batch in file.iter_batches(max_rows, columns=columns):
                yield Block.of(first, len(batch), _as_stream(batch), (first + len(batch)) / rows)
                first += len(batch)
            if not first:
                empty = pa.RecordBatch.from_pylist([], file.schema_arrow)
                yield Block.of(0, 0, _as_stream(empty.select(columns)), 1.0)
    except (pa.ArrowException, OSError) as error:
        raise BadBatch(f"{path}: not a readable Parquet file: {error}") from error


def parse_users(content: bytes, answerer: Answerer, first_row: int) -> list[UserBlock]:
    """Return the users of a block."""
    with pa.ipc.open_stream(content) as stream:
        return [read_users(stream.read_next_batch(), answerer, first_row)]


def write_part(path: Path, answers: Iterable[Sequence[Answer]], prefixes: Prefixes) -> None:
    """Write a part as an Arrow stream, which costs less than Parquet to write and to read again."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, ANSWERS, options=options) as stream:
        for some in answers:
            stream.write_batch(answer_batch(some, prefixes))


def join_parts(parts: Iterable[Path], output: Path) -> None:
    """Write the answers of all parts, in order, to one Parquet file, some 64 MB of them to a row group."""
    with pq.ParquetWriter(output, ANSWERS, compression="zstd") as writer:
        batches: list[pa.RecordBatch] = []
        size = 0
        for part in parts:
            with pa.OSFile(str(part), "rb") as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    batches.append(batch)
                    size += batch.nbytes
                    if size >= _GROUP_BYTES:
                        _write_group(writer, batches)
                        batches, size = [], 0
        if batches:
            _write_group(writer, batches)


def _write_group(writer: pq.ParquetWriter, batches: Sequence[pa.RecordBatch]) -> None:
    table = pa.Table.from_batches(batches, ANSWERS)
    writer.write_table(table, row_group_size=max(1, len(table)))


def _as_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()
