"""Combines tables of products into one, line by line as they are: nothing is parsed but what orders are compared by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.products import (
    BY_ID,
    BY_NAME,
    LINE_STARTS,
    LINES,
    PREFIX_LENGTHS,
    ProductTable,
    write_numbers,
)
from retrieval.search.filters.lists import InvertedLists


@dataclass(frozen=True)
class Part:
    """Products of which some, in their order, go into a combined table.

    `targets` (n,) are their positions in it, which rise; -1 where a product does not.
    """

    table: ProductTable
    lists: InvertedLists
    targets: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many products go into the combined table."""
        return int(np.count_nonzero(self.targets >= 0))


def write_table(directory: Path, first: Part, second: Part | None = None) -> None:
    """Write the table of the products of a part or two.

    The second may well be the smaller one: its keys are looked up in the first. Raises OSError.
    """
    parts = [first, second] if second else [first]
    count = sum(part.count for part in parts)
    part_of, record_of, lengths, prefix_lengths = (np.empty(count, np.int64) for _ in range(4))
    for number, part in enumerate(parts):
        records = np.flatnonzero(part.targets >= 0)
        at = part.targets[records]
        part_of[at], record_of[at] = number, records
        lengths[at] = np.diff(part.table.line_starts)[records]
        prefix_lengths[at] = part.table.prefix_lengths[records]
    _copy_lines(directory / LINES, parts, part_of, record_of)
    write_numbers(directory / LINE_STARTS, np.concatenate([[0], lengths.cumsum()]))
    write_numbers(directory / PREFIX_LENGTHS, prefix_lengths)
    write_numbers(directory / BY_ID, _merged_order(parts, lambda part: part.table.by_id, _ids))
    write_numbers(directory / BY_NAME, _merged_order(parts, lambda part: part.table.by_name, _names))


def _copy_lines(path: Path, parts: Sequence[Part], part_of: NDArray[np.int64], record_of: NDArray[np.int64]) -> None:
    """Copy lines in runs: the lines of records that stand side by side in their part do so in its file."""
    is_break = (np.diff(part_of) != 0) | (np.diff(record_of) != 1)
    bounds = [0, *(np.flatnonzero(is_break) + 1).tolist(), len(part_of)] if len(part_of) else [0]
    texts = [memoryview(part.table.lines) for part in parts]
    starts = [part.table.line_starts for part in parts]
    with path.open("wb") as file:
        for begin, end in pairwise(bounds):
            part = part_of[begin]
            file.write(texts[part][starts[part][record_of[begin]] : starts[part][record_of[end - 1] + 1]])


Keys = Callable[[Part, NDArray[np.int64]], list[Any]]


def _ids(part: Part, records: NDArray[np.int64]) -> list[str]:
    return part.table.ids(records)


def _names(part: Part, records: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Return what the order of names goes by: the name in any case, and among equal ones the position."""
    places = np.maximum.accumulate(part.targets)[records].tolist()
    return [*zip(part.table.folded_names(records), places, strict=True)]


def _merged_order(
    parts: Sequence[Part], order_of: Callable[[Part], NDArray[np.integer]], keys_of: Keys
) -> NDArray[np.int64]:
    """Return the positions of all products in an order, in which those of each part stand already."""
    first, *others = parts
    order = order_of(first).astype(np.int64)
    is_kept = first.targets[order] >= 0
    merged = first.targets[order[is_kept]]
    for part in others:
        added = order_of(part).astype(np.int64)
        added = added[part.targets[added] >= 0]
        ranks = _ranks(first, order, keys_of(part, added), keys_of)
        merged = np.insert(merged, np.concatenate([[0], is_kept.cumsum()])[ranks], part.targets[added])
    return merged


def _ranks(part: Part, order: NDArray[np.int64], keys: list[Any], keys_of: Keys) -> NDArray[np.int64]:
    """Return how many products in an order come before each key (m,).

    All bisections take each step together, and what several look at is parsed once.
    """
    low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(order))
    while (is_open := low < high).any():
        middle = (low + high) // 2
        looked_at, place = np.unique(middle[is_open], return_inverse=True)
        found = keys_of(part, order[looked_at])
        wanted = np.flatnonzero(is_open)
        is_before = np.fromiter(
            (found[i] < keys[j] for i, j in zip(place.tolist(), wanted.tolist(), strict=True)), np.bool_, len(wanted)
        )
        low[wanted[is_before]] = middle[wanted[is_before]] + 1
        high[wanted[~is_before]] = middle[wanted[~is_before]]
    return low
