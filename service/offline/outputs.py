"""The formats of an answers file: how a worker writes a part, and how the parts become the file."""

import gzip
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.artifact.products import Prefixes
from retrieval.records.parquet_file import NEEDS_PYARROW
from service.errors import BadBatch
from service.http.encoding import write_answers, write_lines
from service.recommender import Answer

# Level 1 takes 6 microseconds a user for 19 % of the size, level 6 takes 17 for 16 %.
_GZIP_LEVEL = 1

AnswerLists = Iterable[Sequence[Answer]]


@dataclass(frozen=True)
class Format:
    """A format's name, how the answers of a part are written to a new file, and how parts in order are joined."""

    name: str
    write_part: Callable[[Path, AnswerLists, Prefixes], None]
    join_parts: Callable[[Iterable[Path], Path], None]


def find_format(output: Path) -> Format:
    """Return the format that a file's name asks for. Raises BadBatch, also where a package is missing."""
    for ending, output_format in _FORMATS.items():
        if output.name.endswith(ending):
            return output_format
    if not output.name.endswith(".parquet"):
        raise BadBatch(f"{output}: the name must end in one of .parquet, {', '.join(_FORMATS)}")
    try:
        from service.offline import parquet
    except ImportError as error:
        raise BadBatch(f"writing Parquet {NEEDS_PYARROW}") from error
    return Format("parquet", parquet.write_part, parquet.join_parts)


def _write_lines(path: Path, answer_lists: AnswerLists, prefixes: Prefixes) -> None:
    with path.open("wb") as file:
        for answers in answer_lists:
            file.write(write_lines(write_answers(prefixes, answers)))


def _write_gzip(path: Path, answer_lists: AnswerLists, prefixes: Prefixes) -> None:
    with path.open("wb") as file, gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as stream:
        for answers in answer_lists:
            stream.write(write_lines(write_answers(prefixes, answers)))


def _concatenate(parts: Iterable[Path], output: Path) -> None:
    """Join parts of lines; several gzip streams in a row are a gzip stream too."""
    with output.open("wb") as joined:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined, 2**20)


_LINES, _GZIP = Format("lines", _write_lines, _concatenate), Format("gzip", _write_gzip, _concatenate)
_FORMATS = {".jsonl": _LINES, ".ndjson": _LINES, ".jsonl.gz": _GZIP, ".ndjson.gz": _GZIP}
