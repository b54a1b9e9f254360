"""Rows of CSV and TSV files, whose first line names the columns.

The vector is a column of JSON lists, or one number a column: `vector_0`, `vector_1` and so on, or `0`, `1` and so on. A
further column whose values are all numbers, or all true or false, is one of these; an empty value is none.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from retrieval.errors import BadRows
from retrieval.records import lenient_json
from retrieval.records.roles import ROLES, hint, take_roles

_SEPARATORS = ",\t;"
_MAX_HEADER_BYTES = 2**20
_MAX_VALUE_CHARACTERS = 2**27
_MAX_CHARACTERS_SHOWN = 60
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_TRUTHS = {"true": True, "false": False}

Row = dict[str, Any]


def separator_of(stream: BinaryIO) -> str | None:
    """Return what separates the columns of a stream whose first line names some, or None; go back to its start."""
    line = stream.readline(_MAX_HEADER_BYTES).decode("utf-8-sig", errors="replace").strip()
    stream.seek(0)
    if not line or line[0] in "{[":
        return None
    return next((mark for mark in _SEPARATORS if len(next(csv.reader([line], delimiter=mark))) > 1), None)


def separated_rows(
    path: Path, stream: BinaryIO, separator: str, source_of: Mapping[str, str], needs_vectors: bool = True
) -> Iterator[tuple[str, Row]]:
    """Yield (location, row) of each line after the first. Raises BadRows where the columns make no rows."""
    with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        try:
            csv.field_size_limit(_MAX_VALUE_CHARACTERS)
            reader = csv.reader(text, delimiter=separator)
            header = next(reader)
            number_columns = _number_columns(header, source_of)
            _check_header(path, header, source_of, bool(number_columns) or not needs_vectors)
            readers = _readers(header, reader, source_of, {source_of.get("vector", "vector"), *number_columns})
            text.seek(0)
            reader = csv.reader(text, delimiter=separator)
            next(reader)
            for values in reader:
                if values:
                    yield f"line {reader.line_num}", _row(header, values, readers, number_columns, source_of)
        except UnicodeDecodeError as error:
            raise BadRows(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
        except csv.Error as error:
            raise BadRows(f"{path}: line {reader.line_num}: {error}") from error


def _row(
    header: list[str],
    values: list[str],
    readers: dict[str, Callable[[str], Any]],
    number_columns: list[str],
    source_of: Mapping[str, str],
) -> Any:
    if len(values) != len(header):
        return lenient_json.BadJson(f"has {len(values)} values, the first line names {len(header)} columns")
    texts = dict(zip(header, values, strict=True))
    try:
        row = {name: readers[name](text) for name, text in texts.items() if text and name not in number_columns}
        # A line that changes fields, or deletes, has a vector beside it in others of its file, and none of its own.
        numbers = [_number(texts[name]) for name in number_columns] if any(map(texts.get, number_columns)) else []
    except lenient_json.BadJson as error:
        return error
    row = take_roles(row, source_of)
    return {**row, "vector": numbers} if numbers else row


def _check_header(path: Path, header: list[str], source_of: Mapping[str, str], has_vectors: bool) -> None:
    """Raise BadRows where a name stands twice, or there is no vector, or nothing to name rows by."""
    if twice := [name for name in header if header.count(name) > 1]:
        raise BadRows(f"{path}: has {header.count(twice[0])} columns {twice[0]!r}")
    of_role = {role: source_of.get(role, role) for role in ROLES}
    for role, is_there in (
        ("vector", has_vectors or of_role["vector"] in header),
        ("id", bool({of_role["id"], of_role["name"]} & {*header})),
    ):
        if not is_there:
            needed = f"columns {of_role['vector']!r} and 'id' or 'name'"
            numbered = _numbered_hint(header) if role == "vector" else ""
            raise BadRows(f"{path}: needs {needed}, has {', '.join(header)}{hint(role, header) or numbered}")


def _numbered_hint(header: list[str]) -> str:
    """Return how to say which columns hold a number of the vector each, where several begin alike; or else nothing."""
    matches = [match for name in header if (match := re.fullmatch(r"(.*?)[_.\[ -]?\d+\]?", name)) and match[1]]
    [(start, count)] = Counter(match[1] for match in matches).most_common(1) or [("", 0)]
    first = next((match[0] for match in matches if match[1] == start), "")
    return f"; if it is {first!r} and so on, say --columns vector={start}" if count > 1 else ""


def _number_columns(header: list[str], source_of: Mapping[str, str]) -> list[str]:
    """Return the columns that hold a number of the vector each, in its order; none where one column holds it whole."""
    source = source_of.get("vector", "vector")
    if source in header:
        return []
    for pattern in (rf"{re.escape(source)}[_.\[ -]?(\d+)\]?", r"(\d+)"):
        found = sorted((int(match[1]), name) for name in header if (match := re.fullmatch(pattern, name)))
        if len(found) > 1 and [number for number, _ in found] == [*range(found[0][0], found[0][0] + len(found))]:
            return [name for _, name in found]
    return []


def _readers(
    header: list[str], rows: Iterator[list[str]], source_of: Mapping[str, str], of_vector: set[str]
) -> dict[str, Callable[[str], Any]]:
    """Return what reads the values of each column."""
    kinds: dict[str, Callable[[str], Any] | None] = dict.fromkeys(header)
    for values in rows:
        for name, text in zip(header, values, strict=False):
            if text and kinds[name] is not str and name not in of_vector:
                kind = _number if _NUMBER.fullmatch(text) else _TRUTHS.get if text in _TRUTHS else str
                kinds[name] = kind if kinds[name] in (None, kind) else str
    labels = {source_of.get(role, role): str for role in ("id", "name")}
    vectors = {name: lambda text: lenient_json.loads(text.encode()) for name in of_vector}
    return {**{name: kind or str for name, kind in kinds.items()}, **labels, **vectors}


def _number(text: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text or "nan")
    except ValueError as error:
        raise lenient_json.BadJson(f"{text[:_MAX_CHARACTERS_SHOWN]!r} is no number") from error
