"""The rows of a mask, as FAISS's search of an index with lists takes them."""

from functools import cached_property, lru_cache
from weakref import WeakKeyDictionary

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.masks import Mask
from retrieval.search.filters.postings import count_by_group, pack
from retrieval.search.settings import MAX_UNEVENNESS, SearchSettings

_MIN_SHARE_TO_DROP, _MIN_ROWS_TO_DROP = 0.9, 100_000
_MAX_CACHED_PARAMETERS = 4  # of a mask; each side has a number of lists, and a search may go deeper.


class Selector:
    """Selects the rows of masks in an index with lists. Safe to use from many threads at once."""

    def __init__(self, index: faiss.IndexIVF):
        self._index = index
        # FAISS compares a query with chosen lists only where their centres are all compared.
        self._may_choose_lists = index.nlist > 1 and isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat)
        self._selections: WeakKeyDictionary[Mask, _Selection] = WeakKeyDictionary()

    def warm(self) -> None:
        """Look up now the list of each row, which the first mask would wait for."""
        if self._may_choose_lists:
            _ = self._list_sizes

    def parameters(self, settings: SearchSettings, mask: Mask) -> faiss.SearchParametersIVF:
        """Return FAISS's parameters of one call: `nprobe` lists that hold a row of the mask, and no other rows.

        FAISS reads the bitmaps where they are. What is returned keeps them alive.
        """
        return self._selection(mask).parameters(settings.nprobe)

    def unevenness(self, mask: Mask) -> float:
        """Return `unevenness_of` the rows of a mask; 0 where lists are not chosen by it."""
        return self._selection(mask).unevenness

    def may_drop(self, settings: SearchSettings, mask: Mask) -> bool:
        """Tell whether a search under a mask takes less time without FAISS's test of each row, and drops some instead.

        That is where it visits many rows and meets few by the way that the mask leaves out.
        """
        visited = self._index.ntotal * settings.nprobe / self._index.nlist
        return (
            self._may_choose_lists
            and visited >= _MIN_ROWS_TO_DROP
            and mask.row_count >= _MIN_SHARE_TO_DROP * self._index.ntotal
            and self.unevenness(mask) <= MAX_UNEVENNESS
        )

    def _selection(self, mask: Mask) -> "_Selection":
        selection = self._selections.get(mask)
        if selection is None:
            selection = self._selections[mask] = self._select(mask)
        return selection

    def _select(self, mask: Mask) -> "_Selection":
        rows, counts = faiss.IDSelectorBitmap(mask.rows), np.empty(0, np.int32)
        if not self._may_choose_lists:
            return _Selection(rows, None, self._index.nlist, 0.0, counts)
        counts = self._count(mask).astype(np.int32)
        lists, list_count = None, int(np.count_nonzero(counts))
        if list_count < self._index.nlist:
            lists = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(pack(counts > 0)))
        return _Selection(rows, lists, list_count, unevenness_of(counts, self._list_sizes), counts)

    def _count(self, mask: Mask) -> NDArray[np.integer]:
        """Return how many rows of each list a mask has: few differ from those of the mask that it was made of."""
        if mask.parent is None:
            return count_by_group(mask.rows, self._list_of_row, self._list_sizes)
        removed = mask.parent.rows & ~mask.rows
        return self._selection(mask.parent).counts - count_by_group(removed, self._list_of_row, self._list_sizes)

    @cached_property
    def _list_of_row(self) -> NDArray[np.unsignedinteger]:
        lists, list_of_row = self._index.invlists, np.empty(self._index.ntotal, np.min_scalar_type(self._index.nlist))
        for number in range(self._index.nlist):
            size = lists.list_size(number)
            if size:
                list_of_row[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return list_of_row

    @cached_property
    def _list_sizes(self) -> NDArray[np.int64]:
        return np.bincount(self._list_of_row, minlength=self._index.nlist)


class _Selection:
    """The rows of one mask, and the lists that hold any of them: None for all."""

    def __init__(
        self,
        rows: faiss.IDSelector,
        lists: faiss.SearchParameters | None,
        list_count: int,
        unevenness: float,
        counts: NDArray[np.int32],
    ):
        """`counts` is how many of the rows each list has; there are none where lists are not chosen."""
        self._rows, self._lists, self._list_count = rows, lists, list_count
        self.unevenness, self.counts = unevenness, counts
        self.parameters = lru_cache(_MAX_CACHED_PARAMETERS)(self._parameters)

    def _parameters(self, nprobe: int) -> faiss.SearchParametersIVF:
        # FAISS scans lists that are not there, and finds rubbish, where it is asked for more than there are.
        nprobe = min(max(nprobe, 1), self._list_count)
        return faiss.SearchParametersIVF(sel=self._rows, nprobe=nprobe, quantizer_params=self._lists)


def unevenness_of(counts: NDArray[np.integer], sizes: NDArray[np.integer]) -> float:
    """Return which share of some rows, so many of each list, would have to be in others to be spread evenly.

    Where most rows are among them, it is the share of the others. What rows drawn at random would have to is left out,
    so that it is about 0 for these.
    """
    total, selected = sizes.sum(), counts.sum()
    fewer = min(selected, total - selected)
    if not fewer:
        return 0.0
    expected = fewer / total * sizes
    by_chance = np.minimum(np.sqrt(2 / np.pi * expected * (1 - fewer / total)), 2 * expected)
    return float((np.abs(counts - selected / total * sizes) - by_chance).sum() / (2 * fewer))
