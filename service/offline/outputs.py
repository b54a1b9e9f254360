"""The formats of an answers file: how a worker writes a part, and how the parts become the file."""

import gzip
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import BadBatch
from service.http.encoding import Prefixes, write_answers, write_lines
from service.recommender import Answer

_GZIP_LEVEL = 1  # 6 us a user and 19 % of the size; level 6 takes 17 us for 16 %

Parts = Iterable[Sequence[Answer]]


@dataclass(frozen=True)
class Format:
    """How a worker writes the answers of a part to a new file, and how the parts, in order, become the output."""

    write_part: Callable[[Path, Parts, Prefixes], None]
    join_parts: Callable[[Iterable[Path], Path], None]


def format_name(output: Path) -> str:
    """The format that the name of an answers file asks for. Raises BadBatch."""
    for ending, name in _ENDINGS.items():
        if output.name.endswith(ending):
            return name
    raise BadBatch(f"{output}: the name must end in one of {', '.join(_ENDINGS)}")


def find_format(name: str) -> Format:
    """The format of a name that `format_name` gave. Raises BadBatch where it needs a package that is missing."""
    if name != "parquet":
        return Format(_write_gzip_part if name == "gzip" else _write_lines_part, _concatenate)
    try:
        from service.offline import parquet
    except ImportError:
        raise BadBatch("writing Parquet needs pyarrow: pip install 'jetmlett[parquet]'") from None
    return Format(parquet.write_part, parquet.join_parts)


def sync(path: Path) -> None:
    """Have a file or directory written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_lines_part(path: Path, answers: Parts, prefixes: Prefixes) -> None:
    with path.open("wb") as file:
        for some in answers:
            file.write(write_lines(write_answers(prefixes, some)))


def _write_gzip_part(path: Path, answers: Parts, prefixes: Prefixes) -> None:
    with path.open("wb") as file, gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as stream:
        for some in answers:
            stream.write(write_lines(write_answers(prefixes, some)))


def _concatenate(parts: Iterable[Path], output: Path) -> None:
    """Join parts of lines; gzip streams one after the other are a gzip stream too."""
    with output.open("wb") as joined:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined, 2**20)


_LINES = {".jsonl": "lines", ".ndjson": "lines"}
_ENDINGS = {".parquet": "parquet", **_LINES, **{f"{ending}.gz": "gzip" for ending in _LINES}}
