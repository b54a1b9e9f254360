"""Finds the rows that are probably nearest, by FAISS, in the codes or the graph of an approximate index."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.masks import Mask
from retrieval.search.kinds import is_graph, list_counts, scanned_index, search_parameters
from retrieval.search.selection import Selector
from retrieval.search.settings import FilteredSettings, SearchSettings, SideSettings, settings_under

_MAX_CANDIDATES = 1_000_000  # of all queries searched at once, which bounds the memory of a search
# From 128,000 numbers on FAISS compares queries with the centres of lists by a matrix product, which rounds otherwise.
_MAX_NUMBERS = 100_000
_MAX_CACHED_PARAMETERS = 64
_CODES_PER_BYTE = 2
_MAX_UNEVENNESS = 2  # From there on, finding as many for one side as for the other takes more than one call spares.


class Candidates:
    """Finds those of both sides in one approximate index, which threads share: nothing changes after opening."""

    def __init__(self, index: faiss.Index, settings: SideSettings, filtered: Sequence[FilteredSettings] = ()):
        """`filtered` are the settings of searches under a mask, by rising share; others have the plain `settings`."""
        self._owner = index  # FAISS's downcast views do not keep what they look at alive.
        self._settings, self._filtered = settings, filtered
        self._transforms = list(_transforms(index))
        self._is_odd = all(isinstance(each, faiss.LinearTransform) and not each.have_bias for each in self._transforms)
        self._scanned: Any = scanned_index(index)
        self._is_graph, self._list_count = is_graph(index), list_counts(index)[-1]
        # FAISS's parameters go into each call. They are never set on the index, which threads share.
        self._parameters = lru_cache(_MAX_CACHED_PARAMETERS)(partial(search_parameters, self._scanned))
        # FAISS's other kinds take no selection of rows, or ignore it in some of their ways to search.
        self._selector = Selector(self._scanned) if isinstance(self._scanned, faiss.IndexIVF) else None

    @property
    def takes_masks(self) -> bool:
        return self._selector is not None

    def counts_for(self, depth: int, mask: Mask | None = None) -> tuple[int, int]:
        """Return the numbers of candidates, of best and of worst, for the `depth` nearest rows."""
        best, worst = self._sides(mask)
        return best.candidates_for(depth), worst.candidates_for(depth)

    def count_for(self, depth: int, mask: Mask | None = None) -> int:
        """Return the number of candidates of the side that has more."""
        return max(self.counts_for(depth, mask))

    def picked_rows(self, depth: int, mask: Mask, codes_per_row: float) -> float:
        """Return how many rows are picked and scored in about the time of a search under a mask.

        So many codes are scanned in the time that one row takes.
        """
        sides, lists = self._sides(mask), max(1, self._list_count)
        scanned_share = sum(min(max(1, each.nprobe), lists) for each in sides) / lists
        codes = _CODES_PER_BYTE * self._scanned.code_size * self._scanned.ntotal
        return codes * scanned_share / codes_per_row + sum(each.candidates_for(depth) for each in sides)

    def queries_at_once(self, depth: int, mask: Mask | None = None) -> int:
        """Return for how many queries to look at a time."""
        return max(1, min(_MAX_CANDIDATES // self.count_for(depth, mask), _MAX_NUMBERS // self._scanned.d) // 2)

    def find(self, queries: NDArray[np.float32], depth: int, mask: Mask | None = None) -> NDArray[np.int64]:
        """Return the candidates for the `depth` best rows of each query (n, d), then for the worst of each.

        With a mask, which the index has to take, they are of its rows. The result (2n, m) has -1 for what was not
        found.
        """
        n, (of_best, of_worst) = len(queries), self._sides(mask)
        counts = self.counts_for(depth, mask)
        best = self._transformed(queries)
        worst = -best if self._is_odd else self._transformed(-queries)
        # One call reads the codes once for both sides. It has one number of lists, and a graph is walked by each side.
        lists = {min(each.nprobe, self._list_count) for each in (of_best, of_worst)}
        if len(lists) == 1 and not self._is_graph and max(counts) <= _MAX_UNEVENNESS * min(counts):
            rows = self._scan(np.concatenate((best, worst)), max(counts), of_best, depth, mask)
            rows[:n, counts[0] :] = rows[n:, counts[1] :] = -1
        else:
            rows = np.full((2 * n, max(counts)), -1)
            rows[:n, : counts[0]] = self._scan(best, counts[0], of_best, depth, mask)
            rows[n:, : counts[1]] = self._scan(worst, counts[1], of_worst, depth, mask)
        return rows

    def find_best(self, queries: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
        """Return the first half of `find`, the nearest first as the codes have it."""
        settings = self._settings.best
        return self._scan(self._transformed(queries), settings.candidates_for(depth), settings, depth)

    def _sides(self, mask: Mask | None) -> tuple[SearchSettings, SearchSettings]:
        """Return the settings of the best and of the worst side."""
        settings = self._settings
        if mask and self._filtered:
            share = mask.row_count / self._scanned.ntotal
            settings = settings_under(share, self._filtered, settings)
        return settings.best, settings.worst

    def _scan(
        self,
        transformed: NDArray[np.float32],
        count: int,
        settings: SearchSettings,
        depth: int,
        mask: Mask | None = None,
    ) -> NDArray[np.int64]:
        selected = mask and self._selector and self._selector.parameters(settings, mask)
        _, rows = self._scanned.search(transformed, count, params=selected or self._parameters(settings, depth))
        return rows

    def _transformed(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return queries as the scanned index takes them; one by one, as a product of many rounds otherwise."""
        for transform in self._transforms:
            queries = np.concatenate([transform.apply(query[None]) for query in queries])
        return queries


def _transforms(index: faiss.Index) -> Iterator[faiss.VectorTransform]:
    """Yield what is done to a vector before it is scanned."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        yield from _transforms(index.base_index)
    elif isinstance(index, faiss.IndexPreTransform):
        yield from (faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size()))
        yield from _transforms(index.index)
