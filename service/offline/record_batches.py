"""Users in Arrow record batches, and answers as record batches. Needs pyarrow."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from retrieval.artifact.products import Prefixes
from retrieval.records.parquet_file import is_list
from service.errors import BadBatch, FailedUser
from service.http.encoding import gather_matches, write_fields, write_json
from service.http.requests.schemas import unwrap_option
from service.http.requests.user_reader import UserRow, collect_block, in_safe_range
from service.offline.answers import Answerer
from service.recommender import Answer, Matches, User, UserBlock
from service.settings import Limits

_MATCHES = pa.list_(pa.struct([("id", pa.string()), ("name", pa.string()), ("score", pa.float64())]))
_JSON_COLUMNS = ("filter", "max_per")  # objects, which columns have as text
_FIELDS = pa.list_(pa.string())  # JSON text for each match, as the fields of products have no common type

ANSWERS = pa.schema(
    [
        ("name", pa.string()),
        ("best", _MATCHES),
        ("worst", _MATCHES),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("matched", pa.int64()),
        ("best_fields", _FIELDS),
        ("worst_fields", _FIELDS),
        ("explain", pa.string()),
    ]
)


def user_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that users are read from. Raises BadBatch where one is missing or has another type."""
    for name in ("name", "vector"):
        if name not in schema.names:
            raise BadBatch(f"needs columns 'name' and 'vector', has {', '.join(schema.names) or 'none'}")
    found = [name for name in USER_COLUMNS if name in schema.names]
    for name in found:
        expected, fits = USER_COLUMNS[name]
        if schema.names.count(name) > 1:
            raise BadBatch(f"has several columns {name!r}")
        kind = schema.field(name).type
        if not (pa.types.is_null(kind) or fits(kind)):
            raise BadBatch(f"column {name!r} must hold {expected}, not {kind}")
    return found


def read_users(batch: pa.RecordBatch, answerer: Answerer, first: int = 0) -> UserBlock:
    """Return the users of a record batch whose first row is row `first` of all.

    Rows that hold what they should are read column by column, those with further options and the others by the reader's
    definition of a user. Null in an option means that the user does not say. Raises BadBatch.
    """
    columns = {name: batch.column(name) for name in user_columns(batch.schema)}
    in_range, vectors = _fast_vectors(columns["vector"], answerer.dimension)
    names, ks, excludes = (columns.get(name, pa.nulls(len(batch))).to_pylist() for name in ("name", "k", "exclude"))
    options = names, [*map(_whole, ks)], excludes
    further = [column for name, column in columns.items() if name not in ("name", "vector", "k", "exclude")]
    plain = [fits and not any(column[i].is_valid for column in further) for i, fits in enumerate(in_range)]
    users = [_fast_user(answerer.limits, *row) if fits else None for fits, *row in zip(plain, *options, strict=True)]
    if all(users):
        return UserBlock(users, vectors)  # type: ignore[arg-type]  # none of them is None
    vector_rows = np.cumsum(in_range) - 1
    rows: list[UserRow | FailedUser] = []
    for i, user in enumerate(users):
        if user:
            rows.append((user, vectors[vector_rows[i]]))
        else:
            row = {name: column[i].as_py() for name, column in columns.items()} | {"k": options[1][i]}
            rows.append(answerer.reader.read_member(as_json(row), first + i))
    return collect_block(rows, answerer.dimension)


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the reader expects it: without the options that are null, and with the objects in texts."""
    present = {name: value for name, value in row.items() if value is not None or name in ("name", "vector")}
    return {name: unwrap_option(value) if name in _JSON_COLUMNS else value for name, value in present.items()}


def answer_batch(answers: Sequence[Answer], prefixes: Prefixes) -> pa.RecordBatch:
    """Return one row an answer, with the columns of `ANSWERS`."""
    faults = [answer.error if isinstance(answer, FailedUser) else None for answer in answers]
    found = [None if isinstance(answer, FailedUser) else answer for answer in answers]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([None if answer.name is None else _text(answer.name) for answer in answers], pa.string()),
            _matches([None if answer is None else answer.best for answer in found], prefixes),
            _matches([None if answer is None else answer.worst for answer in found], prefixes),
            pa.array([fault and fault.code for fault in faults], pa.string()),
            pa.array([fault and fault.detail for fault in faults], pa.string()),
            pa.array([answer and answer.matched for answer in found], pa.int64()),
            _fields([None if answer is None else answer.best for answer in found]),
            _fields([None if answer is None else answer.worst for answer in found]),
            pa.array(
                [write_json(each.explain).decode() if each and each.explain else None for each in found], pa.string()
            ),
        ],
        schema=ANSWERS,
    )


def _fast_user(limits: Limits, name: str | None, k: int | None, exclude: list[Any] | None) -> User | None:
    """Return a user whose fields have the types of a valid user's, or None."""
    fits = k is None or (type(k) is int and 1 <= k <= limits.max_k)
    if name is None or not fits or (exclude and None in exclude):
        return None
    return User(k or limits.default_k, frozenset(map(str, exclude or ())), name=name)


def _whole(k: float | None) -> float | None:
    """Return a number as it was before pandas made it a fraction, as it does where others are missing."""
    if not isinstance(k, float):
        return k
    return None if math.isnan(k) else int(k) if k.is_integer() else k


def _fast_vectors(column: pa.Array, dimension: int) -> tuple[list[bool], NDArray[np.float64]]:
    """Tell which rows (n,) hold a valid vector at first sight, and return these vectors (m, d)."""
    if pa.types.is_null(column.type):
        return [False] * len(column), np.empty((0, dimension))
    has_length = pc.and_(column.is_valid(), pc.equal(pc.list_value_length(column), dimension)).fill_null(False)
    numbers = column.filter(has_length).flatten().to_numpy(zero_copy_only=False)  # Null becomes NaN, which is not fast.
    vectors = numbers.astype(np.float64).reshape(-1, dimension)
    in_range = in_safe_range(vectors)
    fast = has_length.to_numpy(zero_copy_only=False)
    fast[fast] = in_range
    return fast.tolist(), vectors if in_range.all() else vectors[in_range]


def _matches(sides: Sequence[Matches | None], prefixes: Prefixes) -> pa.Array:
    """Return lists of {id, name, score}."""
    products, rows, scores = gather_matches(prefixes, [side for side in sides if side is not None])
    columns = [
        pa.array([product[name] for product in products], pa.string()).take(pa.array(rows)) for name in ("id", "name")
    ]
    values = pa.StructArray.from_arrays([*columns, pa.array(scores)], fields=list(_MATCHES.value_type))
    ends = np.cumsum([0, *(0 if side is None else len(side.positions) for side in sides)], dtype=np.int32)
    missing = pa.array([side is None for side in sides], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends), values, type=_MATCHES, mask=missing)


def _fields(sides: Sequence[Matches | None]) -> pa.Array:
    """Return lists of the JSON of matches' fields, null where they are not wanted."""
    shown = [side.fields if side else None for side in sides]
    return pa.array(
        [None if each is None else [text.decode() for text in write_fields(each)] for each in shown], _FIELDS
    )


def _text(name: str) -> str:
    """Return the name, with an escape for each lone surrogate, which Arrow cannot hold."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_list(kind: pa.DataType, of: Callable[[pa.DataType], bool]) -> bool:
    return is_list(kind) and (of(kind.value_type) or pa.types.is_null(kind.value_type))


USER_COLUMNS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "name": ("strings", _is_text),
    "vector": ("lists of numbers", lambda kind: _is_list(kind, _is_number)),
    "k": ("integers", _is_number),  # Where some are missing, pandas writes them as fractions.
    "exclude": ("lists of product ids (strings or integers)", lambda kind: _is_list(kind, _is_id)),
    "filter": ("filters as JSON (strings)", _is_text),
    "min_score": ("numbers", _is_number),
    "max_score": ("numbers", _is_number),
    "max_per": ("limits a value as JSON (strings)", _is_text),
    "diversity": ("numbers", _is_number),
    "fields": ("lists of names of fields (strings)", lambda kind: _is_list(kind, _is_text)),
    "explain": ("booleans", pa.types.is_boolean),
}
