"""Rows of a Parquet file, read a block of rows at a time. Needs pyarrow.

Other columns than those of ids, names and vectors become further members of a row, with the values that JSON would
have: dates and times are texts in ISO 8601, decimals are numbers, UUIDs are texts. What JSON has no form for is left
out.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from numpy.typing import NDArray

from retrieval.errors import BadRows
from retrieval.records.roles import hint

NEEDS_PYARROW = "needs pyarrow: `pip install pyarrow`, or `make install-parquet` in a checkout"
_BLOCK_ROWS = 4096
_PLAIN_TYPES = {bool, int, float, str, type(None)}


def parquet_rows(
    path: Path, stream: BinaryIO, source_of: Mapping[str, str], needs_vectors: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield a row of all columns; `vector` holds lists of numbers, and `id` or `name` must be there.

    `source_of` names other columns to take for them. A column that was the index of a pandas frame is taken for `id`
    where there is none.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise BadRows(f"{path}: reading Parquet {NEEDS_PYARROW}") from error
    try:
        with pq.ParquetFile(stream) as file:
            columns = _columns(path, file.schema_arrow, source_of, needs_vectors)
            for batch in file.iter_batches(_BLOCK_ROWS, columns=[*columns.values()]):
                values = [
                    _vectors(batch.column(source)) if role == "vector" else _column_values(batch.column(source))
                    for role, source in columns.items()
                ]
                yield from (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise BadRows(f"{path}: not a readable Parquet file: {error}") from error


def is_list(kind: Any) -> bool:
    """Tell whether an Arrow type is one of lists, of which it has several."""
    from pyarrow import types

    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(test(kind) for test in tests)


def storage_of(kind: Any) -> Any:
    """Return how an Arrow type is stored: a tensor of one dimension is a list."""
    import pyarrow as pa

    is_tensor = isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 1
    return kind.storage_type if is_tensor else kind


def _columns(path: Path, schema: Any, source_of: Mapping[str, str], needs_vectors: bool) -> dict[str, str]:
    """Return the column of each member of a row, that of the vector last.

    Raises BadRows where there is no vector of numbers and one is needed, nothing to name it by, or two columns of one
    name.
    """
    [(name, count)] = Counter(schema.names).most_common(1) or [("", 0)]
    if count > 1:
        raise BadRows(f"{path}: has {count} columns {name!r}")
    index = _pandas_index(schema)
    source_of = {**({"id": index} if index and "id" not in schema.names else {}), **source_of}
    labels = {role: source for role in ("id", "name") if (source := source_of.get(role, role)) in schema.names}
    vector = source_of.get("vector", "vector")
    if (needs_vectors and vector not in schema.names) or not labels:
        needed = f"columns {vector!r} and 'id' or 'name'" if needs_vectors else "a column 'id' or 'name'"
        advice = "".join(
            hint(role, schema.names)
            for role, is_missing in (("vector", vector not in schema.names), ("id", not labels))
            if is_missing
        )
        raise BadRows(f"{path}: needs {needed}, has {', '.join(schema.names) or 'none'}{advice}")
    for role, source in labels.items():
        _check_labels(path, role, source, schema.field(source).type)
    taken = {*labels.values(), vector, "id", "name", "vector"}
    further = {each.name: each.name for each in schema if each.name not in taken and _has_json_form(each.type)}
    if vector not in schema.names:
        return labels | further
    _check_vectors(path, vector, storage_of(schema.field(vector).type))
    return {**labels, **further, "vector": vector}


def _pandas_index(schema: Any) -> str | None:
    """Return the column that was the index of a pandas frame, if there was one."""
    facts = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    names = [each for each in facts.get("index_columns", ()) if isinstance(each, str)]
    return names[0] if len(names) == 1 and names[0] in schema.names else None


def _check_labels(path: Path, role: str, source: str, kind: Any) -> None:
    """Raise BadRows where a type of column holds no ids, or no names."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    if not is_text and not (role == "id" and (types.is_integer(kind) or _is_uuid(kind))):
        expected = "strings, integers or UUIDs" if role == "id" else "strings"
        raise BadRows(f"{path}: column {source!r} must hold {expected}, not {kind}")


def _check_vectors(path: Path, source: str, kind: Any) -> None:
    """Raise BadRows where a type of column holds no lists of numbers."""
    from pyarrow import types

    if not is_list(kind) or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise BadRows(f"{path}: column {source!r} must hold lists of numbers, not {kind}")


def _is_uuid(kind: Any) -> bool:
    import pyarrow as pa

    return isinstance(kind, pa.UuidType)


def _vectors(column: Any) -> Iterable[NDArray | None]:
    column = column.storage if storage_of(column.type) != column.type else column
    return (each.values.to_numpy(zero_copy_only=False) if each.is_valid else None for each in column)


def _has_json_form(kind: Any) -> bool:
    """Tell whether JSON has a form for all values of an Arrow type."""
    from pyarrow import types

    if types.is_dictionary(kind) or is_list(kind):
        return _has_json_form(kind.value_type)
    if types.is_struct(kind):
        return all(_has_json_form(field.type) for field in kind)
    tests = (
        *(types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_null),
        *(types.is_string, types.is_large_string, types.is_string_view),
        *(types.is_date, types.is_time, types.is_timestamp, _is_uuid),
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
    return str(value) if isinstance(value, UUID) else value
