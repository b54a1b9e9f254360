"""Combines the inverted lists of products into those of one table, without looking at the products themselves."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index_builder.pipelines.changes.combining.tables import Part
from retrieval.artifact.fields.lists import DIRECTORY, FILTERABLE, NAMES, NOT_FILTERABLE, ArrayWriter
from retrieval.artifact.fields.values import Column, InexactNumbers
from retrieval.artifact.fields.writer import INEXACT, posting_arrays, text_arrays
from retrieval.search.filters.postings import Numbers, Postings

_MIN_INTEGER, _MAX_FLOAT_INTEGER = -(2.0**63), 2.0**63  # The first is an integer of 64 bits, the second is none.


def columns_of(types: Iterable[str], parts: Sequence[Part], reasons: dict[str, str]) -> dict[str, Column]:
    """Return the values of each field that some product has one of.

    `reasons` are told of fields whose numbers do not go together.
    """
    columns = {}
    for name in types:
        try:
            column = column_of(name, parts)
        except InexactNumbers:
            reasons[name] = INEXACT
            continue
        if column is not None:
            columns[name] = column
    return columns


def write_fields(
    directory: Path, columns: Mapping[str, Column], count: int, names: Collection[str], reasons: Mapping[str, str]
) -> None:
    """Write the lists of the fields of `count` products; nothing where there are no names.

    `names` are those of all fields; `reasons` say why some are not filterable.
    """
    if not names:
        return
    with closing(ArrayWriter(directory)) as arrays:
        written_names = arrays.append(**text_arrays(sorted(name.encode() for name in names)))
        filterable = {name: arrays.append(**posting_arrays(column, count)) for name, column in columns.items()}
    found = {NAMES: written_names, FILTERABLE: filterable, NOT_FILTERABLE: reasons}
    (directory / DIRECTORY).write_bytes(orjson.dumps(found))


def column_of(name: str, parts: Sequence[Part]) -> Column | None:
    """Return all values of a field in the combined table, or None where there are none. Raises InexactNumbers."""
    columns = [*_columns(name, parts)]
    if not columns:
        return None
    values, new_ranks = _united([column.values for column in columns])
    products = np.concatenate([column.products for column in columns])
    ranks = np.concatenate([new[column.ranks] for new, column in zip(new_ranks, columns, strict=True)])
    order = np.lexsort((products, ranks))  # The products of a value have to rise.
    return Column(values, products[order], ranks[order])


def _columns(name: str, parts: Sequence[Part]) -> Iterator[Column]:
    """Yield the values of a field in each part that has some, with the pairs in the order of the products."""
    for part in parts:
        postings = part.lists.postings.get(name)
        if postings is None:
            continue
        ranks = np.repeat(np.arange(len(postings.values)), np.diff(np.asarray(postings.starts)))
        products = part.targets[postings.products]
        kept = products >= 0
        if kept.any():
            ranks, products = ranks[kept], products[kept]
            is_present = np.zeros(len(postings.values), np.bool_)
            is_present[ranks] = True
            values = _values(postings, np.flatnonzero(is_present))
            yield Column(values, products, (is_present.cumsum() - 1)[ranks])


def _values(postings: Postings, ranks: NDArray[np.int64]) -> list[bytes] | NDArray[Any]:
    values = postings.values
    return np.asarray(values.numbers)[ranks] if isinstance(values, Numbers) else [values[i] for i in ranks.tolist()]


def _united(several: list[Any]) -> tuple[Any, list[NDArray[np.int64]]]:
    """Return the distinct values of rising ones in rising order, and where each of the given ones stands among them.

    Raises InexactNumbers.
    """
    if isinstance(several[0], list):
        texts = [*dict.fromkeys(sorted(text for values in several for text in values))]
        rank_of = {text: rank for rank, text in enumerate(texts)}
        return texts, [np.fromiter(map(rank_of.__getitem__, values), np.int64, len(values)) for values in several]
    numbers = np.concatenate(several if len({each.dtype for each in several}) == 1 else [*map(_exact_floats, several)])
    distinct, ranks = np.unique(numbers, return_inverse=True)
    return _narrowed(distinct), np.split(ranks, np.cumsum([*map(len, several)])[:-1])


def _exact_floats(numbers: NDArray[Any]) -> NDArray[np.float64]:
    floats = numbers.astype(np.float64)
    if numbers.dtype.kind == "i" and (
        (floats >= _MAX_FLOAT_INTEGER).any() or (floats.astype(np.int64) != numbers).any()
    ):
        raise InexactNumbers
    return floats


def _narrowed(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as integers where they are whole and fit into 64 bits, as a build of the products would."""
    if numbers.dtype.kind != "f" or (np.floor(numbers) != numbers).any():
        return numbers
    fits = numbers[0] >= _MIN_INTEGER and numbers[-1] < _MAX_FLOAT_INTEGER
    return numbers.astype(np.int64) if fits else numbers
