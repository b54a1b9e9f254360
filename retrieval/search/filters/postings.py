"""Inverted lists: the products of each value of a field, as bitmaps.

A bitmap has a bit a product, least significant bits first: FAISS reads it so. What follows the last product is 0.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.tree import Order, Value
from retrieval.search.folded_texts import FoldedTexts

Bitmap = NDArray[np.uint8]
_MIN_BLOCK, _BLOCKS_A_CATALOGUE = 2**16, 32


def block_size(product_count: int) -> int:
    """Return how many postings share a bitmap: it takes no more room than these do, in a large catalogue."""
    return max(_MIN_BLOCK, product_count // _BLOCKS_A_CATALOGUE)


def pack(chosen: NDArray[np.bool_]) -> Bitmap:
    """Return the bitmap of a mask (n,)."""
    return np.packbits(chosen, bitorder="little")


def complement_of(bitmap: Bitmap, count: int) -> Bitmap:
    """Return the bitmap of the other ones of `count` products."""
    other = ~bitmap
    if count % 8:
        other[-1] &= (1 << count % 8) - 1
    return other


def members_of(bitmap: Bitmap) -> NDArray[np.int64]:
    """Return what a bitmap holds, in rising order; it takes little time where it is little."""
    filled = np.flatnonzero(bitmap != 0)  # Of booleans, it takes a third of the time.
    if 2 * len(filled) > len(bitmap):
        return _set_bits(bitmap)
    bits = _set_bits(bitmap[filled])
    return filled[bits >> 3] * 8 + (bits & 7)


def count_by_group(bitmap: Bitmap, group_of: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return how many members of each group, of these sizes (g,), are in a bitmap; `group_of` (n,) is that of each.

    It takes less time the fewer members are in the bitmap, or are not.
    """
    count = len(group_of)
    if 2 * count_of(bitmap) > count:
        return sizes - np.bincount(group_of.take(members_of(complement_of(bitmap, count))), minlength=len(sizes))
    return np.bincount(group_of.take(members_of(bitmap)), minlength=len(sizes))


def count_of(bitmap: Bitmap) -> int:
    return int(np.bitwise_count(bitmap).sum())


class Texts(Collection[str]):
    """Texts in rising order, one behind the other in UTF-8: text i is `content[starts[i]:starts[i + 1]]`."""

    def __init__(self, content: NDArray[np.uint8], starts: NDArray[np.unsignedinteger]):
        self._content, self._starts = content.data, starts.data  # NumPy's own look-ups of one number are slow.

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._content[self._starts[i] : self._starts[i + 1]])

    def __iter__(self) -> Iterator[str]:
        return (self[i].decode() for i in range(len(self)))

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and rank_of(self, encode(text)) is not None


class Numbers:
    """Numbers in rising order, as Python's, which compare exactly whatever their size."""

    def __init__(self, numbers: NDArray[Any]):
        self.numbers = numbers.data

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Any:
        return self.numbers[i]


class Postings:
    """The products of each of a field's distinct values, which stand in rising order.

    Those of value v are `products[starts[v]:starts[v + 1]]`, rising. `bitmaps` (b, bytes) has one for each full block
    of `block_size` products of these: a range of values is a slice of `products`, of which whole blocks take a few
    operations, so that no range takes longer than a fraction of the catalogue.
    """

    def __init__(
        self,
        values: Texts | Numbers,
        starts: NDArray[np.unsignedinteger],
        products: NDArray[np.unsignedinteger],
        bitmaps: NDArray[np.uint8],
        product_count: int,
    ):
        self.values, self.starts, self.products, self._bitmaps = values, starts.data, products, bitmaps
        self._product_count, self._block = product_count, block_size(product_count)

    def one_of(self, values: Iterable[Value]) -> Bitmap:
        """Return the products with one of the values; one that no product has is ignored."""
        ranks = (rank_of(self.values, encode(value) if isinstance(value, str) else value) for value in values)
        return self._bitmap([(rank, rank + 1) for rank in sorted(rank for rank in ranks if rank is not None)])

    def compare(self, order: Order, operand: int | float) -> Bitmap:
        """Return the products with a number so ordered to the operand."""
        bisect: Any = bisect_left if order in ("$gte", "$lt") else bisect_right
        rank = bisect(self.values, operand)
        return self._bitmap([(rank, len(self.values)) if order in ("$gt", "$gte") else (0, rank)])

    def all(self) -> Bitmap:
        """Return the products with any value."""
        return self._bitmap([(0, len(self.values))])

    def counts(self, holds: Callable[[NDArray[np.integer]], NDArray[np.bool_]]) -> NDArray[np.int64]:
        """Return how many products have each value (v,), of those that `holds` is true of."""
        counted = np.concatenate([[0], np.cumsum(holds(self.products))])
        return np.diff(counted[np.asarray(self.starts)])

    def ranks_containing(self, text: str) -> NDArray[np.int64]:
        """Return the ranks, in rising order, of the texts that contain another, as `FoldedTexts` finds them."""
        found = [numbers for _, numbers in self._folded_values.containing(text)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    @cached_property
    def _folded_values(self) -> FoldedTexts:
        return FoldedTexts(self.values[rank].decode() for rank in range(len(self.values)))

    def _bitmap(self, ranks: list[tuple[int, int]]) -> Bitmap:
        """Return the products of ranges of ranks, which rise and do not overlap."""
        found, loose = np.zeros(-(-self._product_count // 8), np.uint8), [self.products[:0]]
        for first, last in _merged(ranks):
            start, end = self.starts[first], self.starts[last]
            first_block, last_block = -(-start // self._block), end // self._block
            if first_block < last_block:
                found |= np.bitwise_or.reduce(self._bitmaps[first_block:last_block], axis=0)
                loose.append(self.products[start : first_block * self._block])
                start = last_block * self._block
            loose.append(self.products[start:end])
        chosen = np.zeros(self._product_count, np.bool_)
        chosen[np.concatenate(loose).astype(np.intp)] = True  # NumPy's own conversion takes twice as long.
        return found | pack(chosen)


def rank_of(values: Any, value: Any) -> int | None:
    """Return where a value stands among rising ones, or None where it does not."""
    rank = bisect_left(values, value)
    return rank if rank < len(values) and values[rank] == value else None


def encode(text: str) -> bytes:
    """Return a text in UTF-8; with a lone surrogate, it equals no text of a catalogue."""
    return text.encode(errors="surrogatepass")


def blocks_of(products: NDArray[np.unsignedinteger], product_count: int) -> Iterable[Bitmap]:
    """Yield the bitmap of each full block of postings."""
    size = block_size(product_count)
    for start, end in pairwise(range(0, len(products) + 1, size)):
        chosen = np.zeros(product_count, np.bool_)
        chosen[products[start:end]] = True
        yield pack(chosen)


def _set_bits(bitmap: Bitmap) -> NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(bitmap, bitorder="little").view(np.bool_))


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return rising ranges with those that touch made one."""
    merged: list[tuple[int, int]] = []
    for first, last in ranges:
        if merged and merged[-1][1] == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged
