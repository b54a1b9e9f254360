"""Finds the rows that are probably nearest, by FAISS, in the codes or the graph of an approximate index."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.masks import Mask, holds
from retrieval.search.kinds import is_graph, list_counts, scanned_index, search_parameters
from retrieval.search.ranking import both_sides
from retrieval.search.selection import Selector
from retrieval.search.settings import (
    MAX_UNEVENNESS,
    FilteredSettings,
    SearchSettings,
    SideSettings,
    settings_under,
)

_MAX_CANDIDATES = 1_000_000  # of all queries searched at once, which bounds the memory of a search
# From 128,000 numbers on FAISS compares queries with the centres of lists by a matrix product, which rounds otherwise.
_MAX_NUMBERS = 100_000
_MAX_CACHED = 64
_CODES_PER_BYTE = 2
_DEVIATIONS = 4  # of the number that a mask holds of rows drawn at random
_MAX_COUNT_RATIO = 2  # From there on, finding as many for one side as for the other takes more than one call spares.


class CodeScan:
    """Finds the nearest rows as the codes, or the graph, of one index have it. Threads share it."""

    def __init__(self, index: faiss.Index):
        self._owner = index  # FAISS's downcast views do not keep what they look at alive.
        self._transforms = list(_transforms(index))
        self._is_odd = all(isinstance(each, faiss.LinearTransform) and not each.have_bias for each in self._transforms)
        self._scanned: Any = scanned_index(index)
        self.is_graph, self.list_count = is_graph(index), list_counts(index)[-1]
        self.row_count, self.dimension = self._scanned.ntotal, self._scanned.d
        # FAISS's parameters go into each call. They are never set on the index, which threads share.
        self._parameters = lru_cache(_MAX_CACHED)(partial(search_parameters, self._scanned))
        # FAISS's other kinds take no selection of rows, or ignore it in some of their ways to search.
        self._selector = Selector(self._scanned) if isinstance(self._scanned, faiss.IndexIVF) else None

    @property
    def takes_masks(self) -> bool:
        return self._selector is not None

    def warm(self) -> None:
        if self._selector:
            self._selector.warm()

    def unevenness(self, mask: Mask) -> float:
        """Return `Selector.unevenness`; 0 for an index that takes no masks."""
        return self._selector.unevenness(mask) if self._selector else 0.0

    @property
    def codes_per_list(self) -> float:
        return float(_CODES_PER_BYTE * self._scanned.code_size * self.row_count / max(1, self.list_count))

    def transformed(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return queries (n, d) as the codes are compared with, one by one: a product of many rounds otherwise."""
        for transform in self._transforms:
            turned = np.empty((len(queries), transform.d_out), np.float32)
            for query, of_query in zip(np.ascontiguousarray(queries), turned, strict=True):
                transform.apply_noalloc(1, faiss.swig_ptr(query), faiss.swig_ptr(of_query))
            queries = turned
        return queries

    def both_transformed(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the transformed queries of both sides (2n, d), best first."""
        return both_sides(self.transformed(queries)) if self._is_odd else self.transformed(both_sides(queries))

    def find(
        self,
        transformed: NDArray[np.float32],
        count: int,
        settings: SearchSettings,
        depth: int,
        mask: Mask | None = None,
    ) -> NDArray[np.int64]:
        """Return `count` candidates for the `depth` nearest rows of each transformed query (n, d), nearest first."""
        if mask is None or self._selector is None:
            return self._search(transformed, count, self._parameters(settings, depth))
        if not self._selector.may_drop(settings, mask):
            return self._search(transformed, count, self._selector.parameters(settings, mask))
        found = self._search(
            transformed, _count_with_others(count, mask, self.row_count), self._parameters(settings, depth)
        )
        rows = _first_held(found, mask, count)
        is_short = rows[:, -1] < 0
        if is_short.any():
            rows[is_short] = self._search(transformed[is_short], count, self._selector.parameters(settings, mask))
        return rows

    def _search(
        self, transformed: NDArray[np.float32], count: int, parameters: faiss.SearchParameters | None
    ) -> NDArray[np.int64]:
        _, rows = self._scanned.search(transformed, count, params=parameters)
        return rows


class _Plan(NamedTuple):
    """How the candidates for some depth are looked for: the settings and the number of each side, best first."""

    sides: tuple[SearchSettings, SearchSettings]
    counts: tuple[int, int]
    at_once: int
    in_one_call: bool


class Candidates:
    """Finds those of both sides in one approximate index, which threads share: nothing changes after opening."""

    def __init__(
        self,
        index: faiss.Index,
        settings: SideSettings,
        filtered: Sequence[FilteredSettings] = (),
        uneven: Sequence[FilteredSettings] = (),
    ):
        """`filtered` and `uneven` are the settings of searches under masks, by rising share, as `ProductIndex` says."""
        self._scan, self._settings = CodeScan(index), settings
        self._filtered, self._uneven = filtered, uneven
        self._plans = lru_cache(_MAX_CACHED)(partial(_plan_of, self._scan))

    @property
    def takes_masks(self) -> bool:
        return self._scan.takes_masks

    def warm(self) -> None:
        """Look up now what the first search under a mask would wait for."""
        self._scan.warm()

    def is_uneven(self, mask: Mask) -> bool:
        """Tell whether the rows of a mask are in some lists rather than in others, so that more have to be visited."""
        return self._scan.unevenness(mask) > MAX_UNEVENNESS

    def counts_for(self, depth: int, mask: Mask | None = None) -> tuple[int, int]:
        """Return the numbers of candidates, of best and of worst, for the `depth` nearest rows."""
        return self._plan_for(depth, mask).counts

    def count_for(self, depth: int, mask: Mask | None = None) -> int:
        """Return the number of candidates of the side that has more."""
        return max(self.counts_for(depth, mask))

    def picked_rows(self, depth: int, mask: Mask, codes_per_row: float) -> float:
        """Return how many rows are picked and scored in about the time of a search under a mask.

        So many codes are scanned in the time that one row takes.
        """
        plan = self._plan_for(depth, mask)
        lists = sum(min(max(1, each.nprobe), max(1, self._scan.list_count)) for each in plan.sides)
        return lists * self._scan.codes_per_list / codes_per_row + sum(plan.counts)

    def queries_at_once(self, depth: int, mask: Mask | None = None) -> int:
        """Return for how many queries to look at a time."""
        return self._plan_for(depth, mask).at_once

    def find(self, queries: NDArray[np.float32], depth: int, mask: Mask | None = None) -> NDArray[np.int64]:
        """Return the candidates for the `depth` best rows of each query (n, d), then for the worst of each.

        With a mask, which the index has to take, they are of its rows. The result (2n, m) has -1 for what was not
        found.
        """
        n, plan = len(queries), self._plan_for(depth, mask)
        signed, most = self._scan.both_transformed(queries), max(plan.counts)
        if plan.in_one_call:
            rows = self._scan.find(signed, most, plan.sides[0], depth, mask)
            rows[:n, plan.counts[0] :] = rows[n:, plan.counts[1] :] = -1
            return rows
        rows = np.full((2 * n, most), -1)
        for side, count, start in zip(plan.sides, plan.counts, (0, n), strict=True):
            of_side = slice(start, start + n)
            rows[of_side, :count] = self._scan.find(signed[of_side], count, side, depth, mask)
        return rows

    def _plan_for(self, depth: int, mask: Mask | None) -> _Plan:
        settings = self._settings
        if mask and self._filtered:
            filtered = self._uneven if self._uneven and self.is_uneven(mask) else self._filtered
            settings = settings_under(mask.row_count / self._scan.row_count, filtered, settings)
        return self._plans(depth, settings)


def _plan_of(scan: CodeScan, depth: int, settings: SideSettings) -> _Plan:
    """Return how to search with some settings."""
    sides = settings.best, settings.worst
    counts = sides[0].candidates_for(depth), sides[1].candidates_for(depth)
    at_once = max(1, min(_MAX_CANDIDATES // max(counts), _MAX_NUMBERS // scan.dimension) // 2)
    # One call reads the codes once for both sides. It has one number of lists, and a graph is walked by each side.
    one_effort = len({min(each.nprobe, scan.list_count) for each in sides}) == 1
    is_even = max(counts) <= _MAX_COUNT_RATIO * min(counts)
    return _Plan(sides, counts, at_once, one_effort and is_even and not scan.is_graph)


def _count_with_others(count: int, mask: Mask, row_count: int) -> int:
    """Return of how many rows, drawn at random, a mask of nearly all holds `count`, but for bad luck."""
    left_out = row_count - mask.row_count
    if left_out <= count:
        return min(row_count, count + left_out)
    spare = _DEVIATIONS * math.sqrt(count * left_out / row_count)
    return math.ceil((count + spare) * row_count / mask.row_count)


def _first_held(rows: NDArray[np.int64], mask: Mask, count: int) -> NDArray[np.int64]:
    """Return the first `count` of each query's rows (n, m) that a mask holds, and then -1."""
    is_held = holds(mask.rows, rows)
    first = np.argsort(~is_held, axis=1, kind="stable")[:, :count]
    return np.where(np.take_along_axis(is_held, first, axis=1), np.take_along_axis(rows, first, axis=1), -1)


def _transforms(index: faiss.Index) -> Iterator[faiss.VectorTransform]:
    """Yield what is done to a vector before it is scanned."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        yield from _transforms(index.base_index)
    elif isinstance(index, faiss.IndexPreTransform):
        yield from (faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size()))
        yield from _transforms(index.index)
