"""Filters compiled to masks, which a search looks only at the products of; equal filters are compiled once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.language import Vocabulary, parse_filter
from retrieval.search.filters.postings import (
    Bitmap,
    count_by_group,
    count_of,
    members_of,
    pack,
)
from retrieval.search.filters.tree import Filter
from retrieval.search.filters.values import FieldValues, Shown, ValueCounts, list_values
from retrieval.search.ranking import RowGroups

MAX_LISTED_ROWS = 2**15  # More rows are not scored one by one, and need no list.
_MAX_CACHE_BYTES = 32 * 2**20
M = TypeVar("M", bound="ProductMask")


@dataclass(frozen=True, eq=False)
class ProductMask:
    """The products that a filter lets through, `matched` of them; `products` is their bitmap."""

    matched: int
    products: Bitmap

    @property
    def size_bytes(self) -> int:
        return self.products.nbytes

    def holds(self, positions: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell which products match, in the shape of `positions`."""
        return holds(self.products, positions)

    def positions(self) -> NDArray[np.int64]:
        """Return the products (matched,) in catalogue order."""
        return members_of(self.products)


@dataclass(frozen=True, eq=False)
class Mask(ProductMask):
    """The mask of an index: `rows` is the bitmap of the rows that any of the products has, `row_count` of them.

    `row_ids` (row_count,) are these rows in rising order where they are few, or None. `parent` is a mask that holds
    all its rows, if it was made of one.
    """

    row_count: int
    rows: Bitmap
    row_ids: NDArray[np.int64] | None
    parent: "Mask | None" = None

    @property
    def size_bytes(self) -> int:
        own_rows = 0 if self.rows is self.products else self.rows.nbytes
        return self.products.nbytes + own_rows + (0 if self.row_ids is None else self.row_ids.nbytes)

    def row_blocks(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Yield its rows in rising order, about `size` of them at a time at most."""
        if self.row_ids is not None:
            yield from (self.row_ids[start : start + size] for start in range(0, self.row_count, size))
            return
        step = -(-size // 8)
        for start in range(0, len(self.rows), step):
            rows = members_of(self.rows[start : start + step]) + 8 * start
            if len(rows):
                yield rows


class MaskMaker:
    """Makes the masks of products in one build. Safe to use from many threads."""

    def __init__(self, groups: RowGroups, row_of_product: NDArray[np.integer]):
        self._groups, self._row_of_product, self._row_sizes = groups, row_of_product, np.diff(groups.starts)

    def mask_of(self, products: Bitmap, parent: Mask | None = None) -> Mask:
        """Return the mask that holds the products of a bitmap, all of which the `parent` holds, if there is one."""
        rows = (
            products
            if self._groups.is_one_to_one
            else pack(count_by_group(products, self._row_of_product, self._row_sizes) > 0)
        )
        row_count = count_of(rows)
        row_ids = members_of(rows) if row_count <= MAX_LISTED_ROWS else None
        return Mask(count_of(products), products, row_count, rows, row_ids, parent)

    def without(self, mask: Mask, positions: NDArray[np.integer]) -> Mask:
        """Return a mask that does not hold the products at these positions; it takes little time where they are few."""
        products = without_members(mask.products, positions)
        matched = count_of(products)
        if self._groups.is_one_to_one:
            rows, row_count = products, matched
        else:
            concerned = np.unique(self._row_of_product[positions]).astype(np.int64)
            left, _ = self._groups.matching(concerned, partial(holds, products))
            rows = without_members(mask.rows, concerned[np.diff(left.starts) == 0])
            row_count = count_of(rows)
        row_ids = mask.row_ids
        if row_ids is not None and row_count < mask.row_count:
            row_ids = row_ids[holds(rows, row_ids)]
        return Mask(matched, products, row_count, rows, row_ids, mask)


class Lists(Protocol):
    """The inverted lists of the fields of some products."""

    def evaluate(self, tree: Filter) -> Bitmap:
        """Return the products that a filter lets through."""

    def value_counts(self, field: str, shown: Shown) -> list[ValueCounts]:
        """Return how many products that are shown have each value of a field, in one part or several."""


class MaskMakes(Protocol[M]):
    """Makes masks of some kind."""

    def mask_of(self, products: Bitmap, parent: M | None = None) -> M:
        """Return the mask that holds the products of a bitmap, all of which the `parent` holds, if there is one."""

    def without(self, mask: M, positions: NDArray[np.integer]) -> M:
        """Return a mask that does not hold the products at these positions; it takes little time where they are few."""


class FilterIndex(Generic[M]):
    """Reads filters over the products of one build, and compiles them. Safe to use from many threads.

    `on_mask` is told with each mask that is wanted whether it was cached.
    """

    def __init__(self, vocabulary: Vocabulary, lists: Lists, maker: MaskMakes[M]):
        """`lists` are those of the fields of the vocabulary."""
        self.vocabulary, self.lists, self.evaluate, self.maker = vocabulary, lists, lists.evaluate, maker
        self._cache = MaskCache[M](_MAX_CACHE_BYTES)
        self.on_mask: Callable[[bool], object] = lambda _was_cached: None

    def parse(self, value: Any) -> Filter:
        """Return the filter in parsed JSON. Raises BadFilter."""
        return parse_filter(value, self.vocabulary)

    def mask(self, tree: Filter) -> M:
        """Return the mask of a filter that `parse` has returned."""
        compiled = False

        def compile_mask() -> M:
            nonlocal compiled
            compiled = True
            return self.maker.mask_of(self.evaluate(tree))

        mask = self._cache.get(tree, compile_mask)
        self.on_mask(not compiled)
        return mask

    def but(self, mask: M, tree: Filter) -> M:
        """Return a mask without the products that a filter lets through. It is not kept: each user has another one."""
        return self.maker.mask_of(mask.products & ~self.evaluate(tree), mask)

    def values(self, name: str, shown: Shown, text: str, limit: int) -> FieldValues:
        """Return what `list_values` does of a filterable field, over the products that are shown."""
        return list_values(self.vocabulary.filterable[name], self.lists.value_counts(name, shown), text, limit)

    def without(self, mask: M, positions: NDArray[np.integer]) -> M:
        """Do what `MaskMaker.without` does. No such mask is kept, as each user excludes other products."""
        return self.maker.without(mask, positions)


class MaskCache(Generic[M]):
    """The masks used last, up to `max_bytes` of them. What two threads want at once is compiled by one of them."""

    def __init__(self, max_bytes: int):
        self._max_bytes, self._bytes = max_bytes, 0
        self._masks: OrderedDict[Hashable, Future[M]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compile_mask: Callable[[], M]) -> M:
        """Return the mask of a key; what compiling raises is raised in every thread that waits, and forgotten."""
        with self._lock:
            cached = self._masks.get(key)
            if cached:
                self._masks.move_to_end(key)
            else:
                self._masks[key] = pending = Future[M]()
        if cached:
            return cached.result()
        try:
            mask = compile_mask()
        except BaseException as error:
            with self._lock:
                self._masks.pop(key)
            pending.set_exception(error)
            raise
        pending.set_result(mask)
        self._make_room(mask.size_bytes)
        return mask

    def _make_room(self, added_bytes: int) -> None:
        """Forget the masks used longest ago until all fit. One that is being compiled is counted once it is there."""
        with self._lock:
            self._bytes += added_bytes
            done = [key for key, mask in self._masks.items() if mask.done()] if self._bytes > self._max_bytes else []
            for key in done:
                if self._bytes <= self._max_bytes:
                    break
                self._bytes -= self._masks.pop(key).result().size_bytes


def holds(bitmap: Bitmap, positions: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell which positions a bitmap holds, in their shape."""
    found: NDArray[np.bool_] = (bitmap[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1 == 1
    return found


def without_members(bitmap: Bitmap, positions: NDArray[np.integer]) -> Bitmap:
    """Return a bitmap without some positions."""
    other = bitmap.copy()
    np.bitwise_and.at(other, positions >> 3, ~(1 << (positions & 7).astype(np.uint8)))
    return other
