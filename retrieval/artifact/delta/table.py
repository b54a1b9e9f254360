"""The products of a base and the delta on it, as one table."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from heapq import merge
from itertools import islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.artifact.products import ProductTable, RowTable
from retrieval.search.filters.masks import holds
from retrieval.search.filters.postings import Bitmap, members_of
from retrieval.search.pair import PairLayout

_NAMES_AT_ONCE = 64


class PairRows:
    """The row of each product of a pair: that of the base, or, counted on behind these, of the delta."""

    def __init__(self, layout: PairLayout, base: RowTable):
        self._layout, self._base = layout, base

    def of(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        records = self._layout.records_at(positions)
        rows = self._layout.row_of_record[records] if len(self._layout.positions) else records
        moved = (records >= 0) & (rows >= 0)
        found = np.where(moved, rows + self._base.groups.row_count, 0)
        found[~moved] = self._base.of(positions[~moved])
        return found


class PairTable:
    """Products by catalogue position, of which those of deleted products lead to none.

    It is asked as a `ProductTable` is.
    """

    def __init__(self, layout: PairLayout, base: ProductTable, records: ProductTable):
        self._layout, self._base, self._records = layout, base, records

    def __len__(self) -> int:
        return self._layout.product_count

    def __getitem__(self, position: int) -> dict[str, Any]:
        return orjson.loads(self.line(position))

    def line(self, position: int) -> bytes:
        [record] = self._layout.records_at(np.array([position])).tolist()
        return self._base.line(position) if record < 0 else self._records.line(record)

    def standing(self) -> NDArray[np.int64]:
        """Return the position of each product, in catalogue order."""
        of_base = members_of(self._unchanged)
        return np.sort(np.concatenate((of_base, self._layout.positions)))

    def sizes_behind_prefix(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        records = self._layout.records_at(positions)
        sizes = np.empty(len(positions), np.int64)
        sizes[records < 0] = self._base.sizes_behind_prefix(positions[records < 0])
        sizes[records >= 0] = self._records.sizes_behind_prefix(records[records >= 0])
        return sizes

    def prefixes(self, positions: NDArray[np.integer]) -> list[bytes]:
        records = self._layout.records_at(positions)
        changed = np.flatnonzero(records >= 0)
        if not len(changed):
            return self._base.prefixes(positions)
        of_base = iter(self._base.prefixes(positions[records < 0]))
        of_records = iter(self._records.prefixes(records[changed]))
        return [next(of_base) if record < 0 else next(of_records) for record in records.tolist()]

    def positions(self, identifiers: Sequence[str]) -> NDArray[np.int64]:
        records, of_base = self._records.positions(identifiers), self._base.positions(identifiers)
        of_base[np.isin(of_base, self._layout.deleted)] = -1
        changed = records >= 0
        of_base[changed] = self._layout.positions[records[changed]]
        return of_base

    def starting_with(self, prefix: str) -> Iterator[NDArray[np.int64]]:
        """Do what that of a `ProductTable` does, and compare no more names than are asked for."""
        of_base = (part[holds(self._unchanged, part)] for part in self._base.starting_with(prefix))
        of_records = ((part, self._layout.positions[part]) for part in self._records.starting_with(prefix))
        in_order = merge(
            (each for part in of_base for each in _by_name(self._base, part, part)),
            (each for records, positions in of_records for each in _by_name(self._records, records, positions)),
        )
        while part := [position for _, position in islice(in_order, _NAMES_AT_ONCE)]:
            yield np.array(part)

    def containing(self, text: str) -> Iterator[NDArray[np.int64]]:
        """Do what that of a `ProductTable` does, and compare no more names than are asked for."""
        of_base = ((rank, part[holds(self._unchanged, part)]) for rank, part in self._base.ranked_containing(text))
        in_order = merge(
            ((rank, *each) for rank, part in of_base for each in _by_name(self._base, part, part)),
            (
                (rank, *each)
                for rank, part in self._records.ranked_containing(text)
                for each in _by_name(self._records, part, self._layout.positions[part])
            ),
        )
        while part := [position for _, _, position in islice(in_order, _NAMES_AT_ONCE)]:
            yield np.array(part)

    @cached_property
    def _unchanged(self) -> Bitmap:
        """The products of the base that no record stands in for."""
        return self._layout.standing()


def _by_name(
    table: ProductTable, numbers: NDArray[np.integer], positions: NDArray[np.integer]
) -> Iterator[tuple[str, int]]:
    """Yield the folded name of each product that has one of these numbers in a table, and its position."""
    for start in range(0, len(numbers), _NAMES_AT_ONCE):
        part = slice(start, start + _NAMES_AT_ONCE)
        yield from zip(table.folded_names(numbers[part]), positions[part].tolist(), strict=True)
