"""Users in Arrow record batches, and answers as record batches. Needs pyarrow."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.errors import BadBatch, FailedUser
from service.http.schemas import are_plain
from service.offline.answers import Answerer
from service.recommender import Answer, Item, User

_MATCHES = pa.list_(pa.struct([("id", pa.string()), ("name", pa.string()), ("score", pa.float64())]))

ANSWERS = pa.schema(
    [
        ("name", pa.string()),
        ("best", _MATCHES),
        ("worst", _MATCHES),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
    ]
)


def user_columns(schema: pa.Schema) -> list[str]:
    """The columns that users are read from. Raises BadBatch where one is missing or of a type that cannot fit."""
    for name in ("name", "vector"):
        if name not in schema.names:
            raise BadBatch(f"needs columns 'name' and 'vector', has {', '.join(schema.names) or 'none'}")
    found = [name for name in _COLUMNS if name in schema.names]
    for name in found:
        expected, fits = _COLUMNS[name]
        if schema.names.count(name) > 1:
            raise BadBatch(f"has several columns {name!r}")
        kind = schema.field(name).type
        if not (pa.types.is_null(kind) or fits(kind)):
            raise BadBatch(f"column {name!r} must hold {expected}, not {kind}")
    return found


def read_users(batch: pa.RecordBatch, answerer: Answerer, first: int = 0) -> list[Item]:
    """The users of a record batch whose first row is row `first` of all; a row at fault is a FailedUser.

    Rows that hold what they should are read column by column, the others by the reader's definition of a user. Null in
    `k` or `exclude` means that the user does not say. Raises BadBatch.
    """
    columns = {name: batch.column(name) for name in user_columns(batch.schema)}
    vectors = _plain_vectors(columns["vector"], answerer.dimension)
    names, ks, excludes = (
        columns[name].to_pylist() if name in columns else [None] * len(batch) for name in ("name", "k", "exclude")
    )
    items: list[Item] = []
    for i, (name, k, exclude) in enumerate(zip(names, ks, excludes, strict=True)):
        k_fits = k is None or 1 <= k <= answerer.limits.max_k
        if i in vectors and name is not None and k_fits and (exclude is None or None not in exclude):
            items.append(User(name, vectors[i], k or answerer.limits.default_k, frozenset(exclude or ())))
        else:
            row = {"name": name, "vector": columns["vector"][i].as_py(), "k": k, "exclude": exclude}
            items.append(answerer.reader.read_member(without_unsaid(row), first + i))
    return items


def without_unsaid(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the reader expects it: without the optional fields that are null."""
    return {name: value for name, value in row.items() if value is not None or name in ("name", "vector")}


def answer_batch(answers: Sequence[Answer]) -> pa.RecordBatch:
    """One row an answer, with the columns of `ANSWERS`."""
    faults = [answer.error if isinstance(answer, FailedUser) else None for answer in answers]
    found = [None if isinstance(answer, FailedUser) else answer for answer in answers]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([None if answer.name is None else _text(answer.name) for answer in answers], pa.string()),
            _matches([None if answer is None else answer.best for answer in found]),
            _matches([None if answer is None else answer.worst for answer in found]),
            pa.array([fault and fault.code for fault in faults], pa.string()),
            pa.array([fault and fault.detail for fault in faults], pa.string()),
        ],
        schema=ANSWERS,
    )


def _plain_vectors(column: pa.Array, dimension: int) -> dict[int, NDArray[np.float64]]:
    """The vector (d,) of each row that holds a plain one."""
    if pa.types.is_null(column.type):
        return {}
    fits = pc.and_(column.is_valid(), pc.equal(pc.list_value_length(column), dimension)).fill_null(False)
    numbers = column.filter(fits).flatten().to_numpy(zero_copy_only=False)  # null becomes NaN, which is not plain
    vectors = numbers.astype(np.float64).reshape(-1, dimension)
    rows, plain = np.flatnonzero(fits.to_numpy(zero_copy_only=False)), are_plain(vectors)
    return dict(zip(rows[plain].tolist(), vectors[plain], strict=True))


def _matches(sides: Sequence[bytes | None]) -> pa.Array:
    lists = orjson.loads(b"[" + b",".join([b"null" if side is None else side for side in sides]) + b"]")
    ends = np.cumsum([0, *(len(matches or ()) for matches in lists)], dtype=np.int32)
    flat = [match for matches in lists if matches for match in matches]
    fields = [pa.array([match[field.name] for match in flat], field.type) for field in _MATCHES.value_type]
    values = pa.StructArray.from_arrays(fields, fields=list(_MATCHES.value_type))
    missing = pa.array([matches is None for matches in lists], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends), values, type=_MATCHES, mask=missing)


def _text(name: str) -> str:
    """The name, with an escape for each lone surrogate, which Arrow cannot hold."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_list(kind: pa.DataType, of: Callable[[pa.DataType], bool]) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (of(kind.value_type) or pa.types.is_null(kind.value_type))


_COLUMNS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "name": ("strings", _is_text),
    "vector": ("lists of numbers", lambda kind: _is_list(kind, _is_number)),
    "k": ("integers", pa.types.is_integer),
    "exclude": ("lists of product ids (strings)", lambda kind: _is_list(kind, _is_text)),
}
