"""Brings the vectors of a base and a delta together: each distinct one once, in the order of the products."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.records.vector_file import BLOCK_ROWS
from retrieval.search.index import ProductIndex
from retrieval.search.kinds import exact_rows
from retrieval.search.pair import pair_vectors
from retrieval.search.ranking import RowGroups

_KEY_BYTES = 8  # of a stored vector, by which most that are different are told apart


@dataclass(frozen=True)
class MergedRows:
    """The rows of a merged index, numbered in the order in which their products first come, as in any build.

    `sources` (r,) are rows of the base, or, counted on behind these, of the delta.
    """

    groups: RowGroups
    sources: NDArray[np.int64]


def merge_rows(sources: NDArray[np.int64], base: ProductIndex, delta: ProductIndex | None) -> MergedRows:
    """Return the rows of products, whose vectors are at these `sources` (n,); those that are identical become one."""
    base_count = base.groups.row_count
    if delta:
        twin = np.arange(base_count + delta.groups.row_count)
        twin[base_count:] = _twins(base.index, delta.index)
        sources = twin[sources]
    distinct, first, number = np.unique(sources, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return MergedRows(RowGroups.of_rows(rank[number], len(order)), distinct[order])


def vectors_of(rows: MergedRows, base: ProductIndex, delta: ProductIndex | None) -> Iterator[NDArray[np.float32]]:
    """Yield the unit vectors of the rows, in blocks."""
    for start in range(0, len(rows.sources), BLOCK_ROWS):
        yield pair_vectors(base, delta, rows.sources[start : start + BLOCK_ROWS])


def _twins(base: faiss.Index, delta: faiss.Index) -> NDArray[np.int64]:
    """Return the base's row that each row of a delta is identical with, or the delta's own number behind the base's."""
    of_base, of_delta = _codes(base), _codes(delta)
    twins = len(of_base) + np.arange(len(of_delta))
    row_of = {codes.tobytes(): row for row, codes in enumerate(of_delta)}
    for row in np.flatnonzero(np.isin(_keys(of_base), _keys(of_delta))).tolist():
        found = row_of.pop(of_base[row].tobytes(), None)
        if found is not None:
            twins[found] = row
    return twins


def _codes(index: faiss.Index) -> NDArray[np.uint8]:
    """Return the vectors as they are stored, a row each, where they are: `index` has to be kept."""
    rows: Any = exact_rows(index)
    return faiss.rev_swig_ptr(rows.codes.data(), rows.codes.size()).reshape(rows.ntotal, -1)


def _keys(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    keys = np.zeros((len(codes), _KEY_BYTES), np.uint8)
    size = min(_KEY_BYTES, codes.shape[1])
    keys[:, :size] = codes[:, :size]
    return keys.view(np.uint64)[:, 0]
