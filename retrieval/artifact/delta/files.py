"""The files of a delta build: the records that stand in for products of its base or follow them, and their vectors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.artifact.fields.lists import open_fields
from retrieval.artifact.manifest import Manifest
from retrieval.artifact.products import (
    ROW_PRODUCTS,
    ROW_STARTS,
    TABLE_FILES,
    ProductTable,
    map_numbers,
    open_products,
)
from retrieval.errors import BadArtifact
from retrieval.search.files import open_index
from retrieval.search.filters.language import Vocabulary
from retrieval.search.filters.lists import InvertedLists
from retrieval.search.index import ProductIndex
from retrieval.search.pair import PairIndex, PairLayout
from retrieval.search.ranking import UNITS, RowGroups

VECTORS = "delta.faiss"
POSITIONS, DELETED = "delta.positions.npy", "delta.deleted.npy"
DELTA_FILES = (*TABLE_FILES, ROW_STARTS, ROW_PRODUCTS, POSITIONS, DELETED)
_CHECKED_PRODUCTS = 32  # of a delta, which have to be found by their own vectors


@dataclass(frozen=True)
class Delta:
    """An open delta: its records by number, where they stand in the pair, and their lists and vectors.

    `index` is over the rows of the vectors, of which `groups` has the catalogue positions; None where there are none.
    The `vocabulary` is that of the pair.
    """

    table: ProductTable
    layout: PairLayout
    groups: RowGroups
    vocabulary: Vocabulary
    lists: InvertedLists
    index: ProductIndex | None


def open_delta(directory: Path, manifest: Manifest, base_count: int) -> Delta:
    """Map the files of a delta on a base of so many products. Raises BadArtifact naming the file at fault."""
    table = open_products(directory)
    positions, deleted = (map_numbers(directory / name).astype(np.int64) for name in (POSITIONS, DELETED))
    groups = RowGroups(map_numbers(directory / ROW_STARTS), map_numbers(directory / ROW_PRODUCTS))
    if len(positions) != len(table) or np.any(np.diff(positions) <= 0):
        raise BadArtifact(f"{directory / POSITIONS}: is not the rising positions of {len(table)} products")
    if np.any(np.diff(deleted) <= 0) or np.any(deleted >= base_count) or np.isin(deleted, positions).any():
        raise BadArtifact(f"{directory / DELETED}: is not the rising positions of deleted products of the base")
    records = np.searchsorted(positions, groups.products)
    if groups.product_count and not np.array_equal(positions[np.minimum(records, len(positions) - 1)], groups.products):
        raise BadArtifact(f"{directory / ROW_PRODUCTS}: names products that are not in {POSITIONS}")
    row_of_record = np.full(len(table), -1)
    row_of_record[records] = np.repeat(np.arange(groups.row_count), np.diff(groups.starts))
    layout = PairLayout(base_count, positions, row_of_record, deleted)
    vocabulary, lists = open_fields(directory, manifest.filterable, len(table), may_lack_values=True)
    index = None
    if VECTORS in manifest.files:
        try:
            index = ProductIndex(open_index(directory / VECTORS), groups, manifest.index.search)
        except BadArtifact as error:
            raise BadArtifact(f"{VECTORS}: {error}") from error
    elif groups.row_count:
        raise BadArtifact(f"{directory}: has no {VECTORS} for {groups.row_count} rows")
    return Delta(table, layout, groups, vocabulary, lists, index)


def check_found(delta: Delta, index: PairIndex) -> None:
    """Raise BadArtifact where products of a delta are not found by their own vectors."""
    if delta.index is None:
        return
    rows = np.unique(np.linspace(0, delta.groups.row_count - 1, _CHECKED_PRODUCTS).round().astype(np.int64))
    vectors, expected = delta.index.vectors(rows), delta.groups.products[delta.groups.starts[rows]]
    best, _ = index.search(vectors, 1)
    own = np.minimum(np.einsum("ij,ij->i", vectors, vectors), 1)  # Half-precision vectors may be longer than 1.
    is_found = (best.positions[:, 0] == expected) | (best.scores[:, 0] >= own - 1 / UNITS)
    if not is_found.all():
        raise BadArtifact(f"{VECTORS}: row {rows[np.argmin(is_found)]} is not found by its own vector")
