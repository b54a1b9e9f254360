"""Recall under filters: measured at every share of products, and kept by more candidates or, at last, by an exact scan.

A filter that is easy for one side is hard for the other. So the products are drawn at random, or are those nearest to a
product that a user likes, or to one that the user does not.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import pairwise
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from index_builder.tuning.recall import MAX_SCORES, Heaps, K, recall_at_k, summarise
from retrieval.artifact.manifest import FilteredRecall
from retrieval.cores import available_cores
from retrieval.search.candidates import CodeScan
from retrieval.search.filters.masks import Mask, MaskMaker
from retrieval.search.filters.postings import pack
from retrieval.search.index import ProductIndex, one_thread, use_threads
from retrieval.search.kinds import list_counts
from retrieval.search.ranking import SIDES, SIGNS, TOLERANCE
from retrieval.search.settings import FilteredSettings, SearchSettings, SideSettings, settings_under

SHARES = (0.001, 0.01, 0.1, 0.5, 0.99)
_MAX_SHARES = (
    *(sqrt(one * other) for one, other in pairwise(SHARES)),
    1.0,
)  # of the rows that each one's settings suit
PRODUCTS = RANDOM, LIKED, DISLIKED = "random", "liked", "disliked"
_MAX_USERS, _ANCHORS, _SEED = 200, 6, 5
_RAISE, _MAX_STEPS = 1.25, 9  # of candidates: to seven times as many at once
_MAX_RAISES = 8  # Where more is needed, the time is better spent on an exact scan.
_EXACT = "exact"

_UNEVEN = 2.0  # The key, beside the shares, of the settings of all uneven masks.

Cell = tuple[str, float]  # which products, and which share of all
Make = Callable[[list[FilteredSettings], list[FilteredSettings]], ProductIndex]


@dataclass(frozen=True, eq=False)
class _Group:
    """Users, by number, who are given the same products, by position."""

    users: NDArray[np.int64]
    mask: Mask
    positions: NDArray[np.integer]


class FilterGrid:
    """Masks of products, for some users (u, d)."""

    def __init__(self, exact: ProductIndex, users: NDArray[np.float32], target: float):
        """`exact` holds the vectors themselves; `target` is the recall that each side must reach."""
        self._exact, self._users, self._target = exact, users[:_MAX_USERS], target
        groups, draw = exact.groups, np.random.default_rng(_SEED)
        self._row_of_product = groups.row_of(np.arange(groups.product_count))
        self._maker = MaskMaker(groups, self._row_of_product)
        self._order = draw.permutation(groups.product_count)
        anchors = exact.vectors(draw.choice(groups.row_count, min(_ANCHORS, groups.row_count), replace=False))
        self._nearness = exact.stored_vectors.score_range(anchors, 0, groups.row_count)
        nearness_to_users = self._users @ anchors.T
        self._anchor_of = {LIKED: nearness_to_users.argmax(axis=1), DISLIKED: nearness_to_users.argmin(axis=1)}
        self._groups = cache(self._groups_of)

    def settle(
        self,
        make: Make,
        plain: SideSettings,
        known: Sequence[FilteredSettings] = (),
        known_uneven: Sequence[FilteredSettings] = (),
    ) -> tuple[list[FilteredSettings], list[FilteredSettings], list[FilteredRecall]]:
        """Return settings of even masks and of uneven ones with which all cells reach the target, and their recall.

        There are none where the plain ones do. `make` returns the index with such settings. It starts from known ones,
        and where there are none from the plain ones.
        """
        searches = {share: settings_under(share, known, plain) for share in SHARES}
        searches[_UNEVEN] = settings_under(0, known_uneven, plain)
        raises = Counter[tuple[float, str]]()
        cells: dict[Cell, FilteredRecall] = {}
        left: list[Cell] = [(products, share) for share in SHARES for products in PRODUCTS]
        every_cell = left
        # Most steps are too small for FAISS to share among threads.
        with ThreadPoolExecutor(available_cores(), initializer=use_threads, initargs=(1,)) as pool:
            while left:
                index = make(*_by_share(searches, plain))
                self._prepare(index)
                cells |= zip(left, pool.map(partial(self._measure, index), *zip(*left, strict=True)), strict=True)
                missed = self._missed(index, {cell: cells[cell] for cell in left})
                raises.update(missed.keys())
                known_searches = [getattr(searches[key], side) for key, side in missed]
                times = [raises[setting] for setting in missed]
                deeper = pool.map(partial(self._deeper, index), missed, known_searches, missed.values(), times)
                for (key, side), search in zip(missed, deeper, strict=True):
                    searches[key] = replace(searches[key], **{side: search})
                changed = {key for key, _ in missed}
                left = [cell for cell in every_cell if changed & self._keys(index, *cell)]
        return *_by_share(searches, plain), [cells[cell] for cell in every_cell]

    def _prepare(self, index: ProductIndex) -> None:
        """Compute now what several threads would, where they need it."""
        groups = [group for products in PRODUCTS for share in SHARES for group in self._groups(products, share)]
        if any(index.path(K, group.mask) != _EXACT for group in groups):
            with one_thread():
                _ = self._kth_scores

    def _missed(
        self, index: ProductIndex, cells: dict[Cell, FilteredRecall]
    ) -> dict[tuple[float, str], list[tuple[Cell, _Group]]]:
        """Return the key and the side of all settings that are to be raised, and who was searched for with them."""
        missed: defaultdict[tuple[float, str], list[tuple[Cell, _Group]]] = defaultdict(list)
        for cell, found in cells.items():
            searched = [group for group in self._groups(*cell) if index.path(K, group.mask) != _EXACT]
            for side in SIDES:
                if _bound(found, side) < self._target:
                    for group in searched:
                        missed[_key(index, group.mask), side].append((cell, group))
        return missed

    def _deeper(
        self,
        index: ProductIndex,
        setting: tuple[float, str],
        search: SearchSettings,
        groups: Sequence[tuple[Cell, _Group]],
        times: int,
    ) -> SearchSettings:
        """Return what to search a side with that some groups missed the target on, for so many times now."""
        if times > _MAX_RAISES:
            return replace(search, candidates=index.groups.row_count)
        _, side = setting
        return self._raised(index, side, search, groups)

    def _raised(
        self, index: ProductIndex, side: str, settings: SearchSettings, groups: Sequence[tuple[Cell, _Group]]
    ) -> SearchSettings:
        """Return settings with as many candidates more as some groups need, or with more lists where these lack some.

        What more candidates of the same lists do not find, is in other lists.
        """
        counts = [ceil(settings.candidates * _RAISE**step) for step in range(1, _MAX_STEPS + 1)]
        found = np.concatenate([self._found(index, side, settings, counts, *each) for each in groups])
        enough = (count for count, of_users in zip(counts, found.T, strict=True) if self._reach(of_users))
        count = next(enough, None)
        if count is None and settings.nprobe < (most_lists := list_counts(index.index)[-1]):
            return replace(settings, nprobe=min(ceil(settings.nprobe * _RAISE), most_lists))
        factor = (count or counts[-1]) / settings.candidates
        return replace(settings, candidates=count or counts[-1], per_match=settings.per_match * factor)

    def _found(
        self,
        index: ProductIndex,
        side: str,
        settings: SearchSettings,
        counts: list[int],
        cell: Cell,
        group: _Group,
    ) -> NDArray[np.float64]:
        """Return the recall (u, c) of each user of a group with so many candidates (c,)."""
        most = min(counts[-1], index.groups.row_count)
        queries = np.float32(SIGNS[side]) * self._users[group.users]
        scan = CodeScan(index.index)
        rows = scan.find(scan.transformed(queries), most, settings, most, group.mask)
        reached = self._exact.stored_vectors.score(queries, rows) >= self._kth(cell, side, group)[:, None] - TOLERANCE
        products = np.bincount(self._row_of_product[group.positions], minlength=index.groups.row_count)
        k = min(K, group.mask.matched)
        recall = np.minimum((reached * products[rows]).cumsum(axis=1), k) / k
        return recall[:, np.minimum(counts, most) - 1]

    def _reach(self, recall_of_users: NDArray[np.float64]) -> bool:
        return summarise(recall_of_users, K).lower_bound >= self._target

    def _kth(self, cell: Cell, side: str, group: _Group) -> NDArray[np.float32]:
        of_side: NDArray[np.float32] = self._kth_scores[cell][SIDES.index(side)]
        return of_side[group.users]

    def _keys(self, index: ProductIndex, products: str, share: float) -> set[float]:
        """Return the keys of the settings that a cell is searched with."""
        return {_key(index, group.mask) for group in self._groups(products, share)}

    def _measure(self, index: ProductIndex, products: str, share: float) -> FilteredRecall:
        """Return the recall of a cell; what is found by an exact scan needs no search."""
        groups = self._groups(products, share)
        if all(index.path(K, group.mask) == _EXACT for group in groups):
            return _found_exactly(products, share, len(self._users))
        kth_scores = self._kth_scores[products, share]
        scores = np.empty((*kth_scores.shape, min(K, min(group.mask.matched for group in groups))))
        for group in groups:
            sides = index.search(self._users[group.users], scores.shape[2], group.mask)
            scores[:, group.users] = [sign * side.scores for sign, side in zip(SIGNS.values(), sides, strict=True)]
        best, worst = (
            recall_at_k(of_side, kth[:, np.newaxis], scores.shape[2], K)
            for of_side, kth in zip(scores, kth_scores, strict=True)
        )
        return FilteredRecall(products, share, "candidates", best, worst)

    @cached_property
    def _kth_scores(self) -> dict[Cell, NDArray[np.float32]]:
        """The score of each user's last match on each side (2, u), by cell; those of the worst side are negated."""
        cells = {(products, share): self._groups(products, share) for products in PRODUCTS for share in SHARES}
        heaps = {group: self._heaps_for(group) for groups in cells.values() for group in groups}
        products_at_once = max(1, MAX_SCORES // len(self._users))
        for start in range(0, len(self._row_of_product), products_at_once):
            rows = self._row_of_product[start : start + products_at_once]
            scores = self._exact.stored_vectors.score_rows(self._users, rows)
            for group, of_sides in heaps.items():
                first, last = np.searchsorted(group.positions, (start, start + len(rows)))
                among = scores[group.users[:, np.newaxis], group.positions[first:last] - start]
                for of_side in of_sides:
                    of_side.add(among, 0)
                    np.negative(among, out=among)
        kth_scores = {cell: np.empty((2, len(self._users)), np.float32) for cell in cells}
        for cell, groups in cells.items():
            for group in groups:
                kth_scores[cell][:, group.users] = [of_side.sorted()[0][:, -1] for of_side in heaps[group]]
        return kth_scores

    def _heaps_for(self, group: _Group) -> tuple[Heaps, Heaps]:
        """Return what keeps the highest scores of a group on each side."""
        k = min(K, len(group.positions))
        return Heaps(len(group.users), k), Heaps(len(group.users), k)

    def _groups_of(self, products: str, share: float) -> list[_Group]:
        """Return some users at a time, and the share of the products that they are given."""
        count = max(1, round(share * len(self._order)))
        if products == RANDOM:
            return [self._group(np.ones(len(self._users), np.bool_), self._order < count)]
        groups = []
        for anchor in np.unique(self._anchor_of[products]):
            nearness = self._nearness[anchor][self._row_of_product]
            least = np.partition(nearness, -count)[-count]
            groups.append(self._group(self._anchor_of[products] == anchor, nearness >= least))
        return groups

    def _group(self, are_users: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> _Group:
        size = np.min_scalar_type(len(chosen))
        return _Group(np.flatnonzero(are_users), self._maker.mask_of(pack(chosen)), np.flatnonzero(chosen).astype(size))


def recall_of_exact(users: int) -> list[FilteredRecall]:
    """Return the recall of all cells where every search is an exact scan, for so many users."""
    return [_found_exactly(products, share, min(users, _MAX_USERS)) for share in SHARES for products in PRODUCTS]


def _found_exactly(products: str, share: float, users: int) -> FilteredRecall:
    found = summarise(np.ones(users), K)
    return FilteredRecall(products, share, _EXACT, found, found)


def _key(index: ProductIndex, mask: Mask) -> float:
    """Return the key of the settings that a mask is searched with: it goes by its rows, which products may share."""
    if index.is_uneven(mask):
        return _UNEVEN
    return SHARES[bisect_left(_MAX_SHARES, mask.row_count / index.groups.row_count)]


def _by_share(
    searches: dict[float, SideSettings], plain: SideSettings
) -> tuple[list[FilteredSettings], list[FilteredSettings]]:
    """Return the settings of even masks by rising share, and those of uneven ones; none where all are plain."""
    if all(search == plain for search in searches.values()):
        return [], []
    filtered = [FilteredSettings(most, searches[share]) for most, share in zip(_MAX_SHARES, SHARES, strict=True)]
    return filtered, [FilteredSettings(1.0, searches[_UNEVEN])]


def _bound(cell: FilteredRecall, side: str) -> float:
    bound: float = getattr(cell, side).lower_bound
    return bound
