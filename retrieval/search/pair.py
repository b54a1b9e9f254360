"""Searches a base and the delta on it as one index, in one order.

A pair has one space of catalogue positions: products of the base keep theirs, and new ones follow. A position's vector
is in one of the two. Its row is a row of the base, or, counted on behind these, a row of the delta.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.search.exact_scan import Pace
from retrieval.search.filters.masks import Lists, Mask, MaskMakes, ProductMask, holds, without_members
from retrieval.search.filters.postings import Bitmap, count_of, members_of, pack
from retrieval.search.filters.tree import Filter
from retrieval.search.filters.values import Shown, ValueCounts
from retrieval.search.index import ProductIndex, neighbours_of
from retrieval.search.ranking import Neighbours, SearchPath


@dataclass(frozen=True)
class PairLayout:
    """Where the products of a pair are.

    Those of the base come before position `base_count`. The records of the delta stand in for the products at their
    `positions` (m,), which rise; `row_of_record` (m,) is the row of a record's vector in the delta, or -1 where the
    base's vector holds. The products at the `deleted` positions of the base are no more.
    """

    base_count: int
    positions: NDArray[np.int64]
    row_of_record: NDArray[np.int64]
    deleted: NDArray[np.int64]

    @property
    def count(self) -> int:
        """The number of positions, those of deleted products among them."""
        return max(self.base_count, int(self.positions[-1]) + 1 if len(self.positions) else 0)

    @property
    def product_count(self) -> int:
        return self.count - len(self.deleted)

    @property
    def own_vectors(self) -> NDArray[np.bool_]:
        """Which records (m,) have a vector in the delta."""
        return self.row_of_record >= 0

    def records_at(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the record at each position, and -1 where there is none."""
        if not len(self.positions):
            return np.full(positions.shape, -1)
        records = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        return np.where(self.positions[records] == positions, records, -1)

    def standing(self) -> Bitmap:
        """Return the products of the base that no record stands in for."""
        return pack(left_in_base(self.base_count, self.positions, self.deleted))

    def with_base_vectors(self) -> Bitmap:
        """Return the products of the base whose vectors hold."""
        return pack(left_in_base(self.base_count, self.positions[self.own_vectors], self.deleted))


def left_in_base(count: int, positions: NDArray[np.int64], deleted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which products of a base of so many (n,) are neither at the positions of records nor deleted."""
    is_left = np.ones(count, np.bool_)
    is_left[positions[positions < count]] = False
    is_left[deleted] = False
    return is_left


def pair_vectors(base: ProductIndex, delta: ProductIndex | None, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the unit vectors (m, d) of rows (m,) of a base, or, counted on behind these, of a delta."""
    of_base = rows < base.groups.row_count
    if delta is None or of_base.all():
        return base.vectors(rows)
    vectors = base.vectors(np.where(of_base, rows, 0))
    vectors[~of_base] = delta.vectors(rows[~of_base] - base.groups.row_count)
    return vectors


class PairLists:
    """Evaluates filters over the products of a pair."""

    def __init__(self, layout: PairLayout, base: Lists, delta: Lists):
        """`base` are the lists of the base's products, `delta` those of the records of the delta."""
        self._layout, self._base, self._delta = layout, base, delta
        self._unchanged = layout.standing()

    def evaluate(self, tree: Filter) -> Bitmap:
        """Return the products that a filter lets through."""
        chosen = np.zeros(self._layout.count, np.bool_)
        chosen[self._layout.positions[members_of(self._delta.evaluate(tree))]] = True
        found = pack(chosen)
        found[: len(self._unchanged)] |= self._base.evaluate(tree) & self._unchanged
        return found

    def value_counts(self, field: str, shown: Shown) -> list[ValueCounts]:
        """Return how many products that are shown have each value of a field: of the base, and then of the delta."""
        of_base = self._base.value_counts(field, lambda found: holds(self._unchanged, found) & shown(found))
        return of_base + self._delta.value_counts(field, lambda found: shown(self._layout.positions[found]))


@dataclass(frozen=True, eq=False)
class PairMask(ProductMask):
    """The mask of a pair: one of those products whose vectors are in the base, and one of those in the delta."""

    base: Mask
    delta: Mask

    @property
    def size_bytes(self) -> int:
        return self.products.nbytes + self.base.size_bytes + self.delta.size_bytes


class PairMaskMaker:
    """Makes the masks of a pair. Safe to use from many threads."""

    def __init__(self, layout: PairLayout, base: MaskMakes[Mask]):
        self._base, self._in_base = base, layout.with_base_vectors()
        self._base_count = layout.base_count
        self._positions = layout.positions[layout.own_vectors]
        self._rows = layout.row_of_record[layout.own_vectors]
        self._row_count = int(self._rows.max(initial=-1)) + 1

    def mask_of(self, products: Bitmap, parent: PairMask | None = None) -> PairMask:
        in_base = products[: len(self._in_base)] & self._in_base
        return self._joined(products, self._base.mask_of(in_base, parent.base if parent else None))

    def without(self, mask: PairMask, positions: NDArray[np.integer]) -> PairMask:
        of_base = positions[positions < self._base_count]
        left = self._base.without(mask.base, of_base[holds(mask.base.products, of_base)])
        return self._joined(without_members(mask.products, positions), left)

    def _joined(self, products: Bitmap, base: Mask) -> PairMask:
        matches = holds(products, self._positions)
        chosen = np.zeros(self._row_count, np.bool_)
        chosen[self._rows[matches]] = True
        rows = np.flatnonzero(chosen)
        delta = Mask(int(np.count_nonzero(matches)), products, len(rows), pack(chosen), rows)
        return PairMask(count_of(products), products, base, delta)


class PairIndex:
    """The index of a pair, to be searched as a `ProductIndex` is.

    A search finds the first matches among the products whose vectors are in the base, and, exactly, among those whose
    vectors are in the delta, and puts them into one order.
    """

    def __init__(self, base: ProductIndex, delta: ProductIndex | None, standing: PairMask):
        """`delta` has the catalogue positions of the pair, and is None where it would be empty.

        `standing` is the mask of all products.
        """
        self._base, self.delta, self._standing = base, delta, standing
        self.dimension = base.dimension

    @property
    def is_exact(self) -> bool:
        """Whether every search scores all rows."""
        return self._base.is_exact

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the unit vectors (m, d) of the pair's rows (m,)."""
        return pair_vectors(self._base, self.delta, rows)

    def warm(self) -> None:
        self._base.warm()
        if self.delta:
            self.delta.warm()

    def search(
        self, unit_vectors: NDArray[np.float32], k: int, mask: PairMask | None = None, pace: Pace | None = None
    ) -> tuple[Neighbours, Neighbours]:
        """Do what that of a `ProductIndex` does with the products of both."""
        mask = mask or self._standing
        path, of_delta = SearchPath("nothing matches"), SearchPath("")
        keys = self._base.keys(unit_vectors, k, mask.base, path, pace)
        if self.delta and mask.delta.matched:
            added = self.delta.keys(unit_vectors, k, mask.delta, of_delta, pace)
            keys = np.sort(np.concatenate((keys, added), axis=2), axis=2)[:, :, :k]
            path.join("delta", of_delta)
        return neighbours_of(keys, path)
