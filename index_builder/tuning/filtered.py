"""Recall under filters: measured at every share of products, and kept by more candidates or, at last, by an exact scan.

A filter that is easy for one side is hard for the other. So the products are drawn at random, or are those nearest to a
product that a user likes, or to one that the user does not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from index_builder.tuning.recall import K, recall_at_k, summarise
from retrieval.artifact.manifest import FilteredRecall, RecallAtK
from retrieval.search.filters.masks import Mask, MaskMaker
from retrieval.search.filters.postings import pack
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, SIGNS
from retrieval.search.settings import FilteredSettings, SearchSettings, SideSettings

SHARES = (0.001, 0.01, 0.1, 0.5, 0.99)
PRODUCTS = RANDOM, LIKED, DISLIKED = "random", "liked", "disliked"
_MAX_USERS, _ANCHORS, _SEED = 200, 8, 5
_RAISES, _RAISE = 3, 1.6  # Where more candidates than that are needed, the time is better spent on an exact scan.
_EXACT = "exact"

Make = Callable[[SideSettings], ProductIndex]


@dataclass(frozen=True, eq=False)
class _Group:
    """Users (u, d) who are given the same mask."""

    users: NDArray[np.float32]
    mask: Mask
    exact: ProductIndex

    @cached_property
    def kth_scores(self) -> dict[str, NDArray[np.float64]]:
        """The score (u, 1) of each user's last match on each side, that of the worst side negated."""
        found = self.exact.search(self.users, K, self.mask)
        return {side: SIGNS[side] * each.scores[:, -1:] for side, each in zip(SIDES, found, strict=True)}

    def scores(self, index: ProductIndex) -> dict[str, NDArray[np.float64]]:
        """Return the scores (u, k) of the matches that an index finds, those of the worst side negated."""
        found = index.search(self.users, K, self.mask)
        return {side: SIGNS[side] * each.scores for side, each in zip(SIDES, found, strict=True)}


class FilterGrid:
    """Masks of products, for some users (u, d)."""

    def __init__(self, exact: ProductIndex, users: NDArray[np.float32], target: float):
        """`exact` scans the vectors themselves; `target` is the recall that each side must reach."""
        self._exact, self._users, self._target = exact, users[:_MAX_USERS], target
        groups, draw = exact.groups, np.random.default_rng(_SEED)
        self._row_of_product = groups.row_of(np.arange(groups.product_count))
        self._maker = MaskMaker(groups, self._row_of_product)
        self._order = draw.permutation(groups.product_count)
        chosen = draw.choice(groups.row_count, min(_ANCHORS, groups.row_count), replace=False)
        anchors = exact.vectors(np.sort(chosen))
        self._nearness = exact.stored_vectors.score_range(anchors, 0, groups.row_count)
        nearness_to_users = self._users @ anchors.T
        self._anchor_of = {LIKED: nearness_to_users.argmax(axis=1), DISLIKED: nearness_to_users.argmin(axis=1)}

    def settle(self, make: Make, plain: SideSettings) -> tuple[list[FilteredSettings], list[FilteredRecall]]:
        """Return settings up to the last share that needs others than the plain ones, and the recall of all cells.

        `make` returns the index with some settings under masks of any share.
        """
        settled = [self._settle(share, make, plain) for share in SHARES]
        limits = [*(sqrt(one * other) for one, other in pairwise(SHARES)), 1.0]
        settings = [FilteredSettings(limit, each) for limit, (each, _) in zip(limits, settled, strict=True)]
        while settings and settings[-1].search == plain:
            settings.pop()
        return settings, [cell for _, cells in settled for cell in cells]

    def _settle(self, share: float, make: Make, settings: SideSettings) -> tuple[SideSettings, list[FilteredRecall]]:
        """Return settings with which all cells of a share reach the target, and their recall."""
        groups = {products: [*self._groups(products, share)] for products in PRODUCTS}
        attempt = 0
        while True:
            index = make(settings)
            cells = [_measure(index, products, share, groups[products]) for products in PRODUCTS]
            searched = [cell for cell in cells if cell.path != _EXACT]
            missed = [side for side in SIDES if any(_bound(cell, side) < self._target for cell in searched)]
            if not missed:
                return settings, cells
            for side in missed:
                before = getattr(settings, side)
                raised = _raised(before) if attempt < _RAISES else replace(before, candidates=index.groups.row_count)
                settings = replace(settings, **{side: raised})
            attempt += 1

    def _groups(self, products: str, share: float) -> Iterator[_Group]:
        """Yield some users at a time, and the share of the products that they are given."""
        count = max(1, round(share * len(self._order)))
        if products == RANDOM:
            yield _Group(self._users, self._maker.mask_of(pack(self._order < count)), self._exact)
            return
        for anchor in np.unique(self._anchor_of[products]):
            nearness = self._nearness[anchor][self._row_of_product]
            least = np.partition(nearness, -count)[-count]
            users = self._users[self._anchor_of[products] == anchor]
            yield _Group(users, self._maker.mask_of(pack(nearness >= least)), self._exact)


def _measure(index: ProductIndex, products: str, share: float, groups: Sequence[_Group]) -> FilteredRecall:
    """Return the recall of a cell; what is found by an exact scan needs no search."""
    if all(index.path(K, group.mask) == _EXACT for group in groups):
        found = summarise(np.ones(sum(len(group.users) for group in groups)), K)
        return FilteredRecall(products, share, _EXACT, found, found)
    scores = [group.scores(index) for group in groups]

    def recall(side: str) -> RecallAtK:
        of_side = np.concatenate([each[side] for each in scores])
        kth_scores = np.concatenate([group.kth_scores[side] for group in groups])
        return recall_at_k(of_side, kth_scores, of_side.shape[1], K)

    return FilteredRecall(products, share, "candidates", *map(recall, SIDES))


def _raised(settings: SearchSettings) -> SearchSettings:
    return SearchSettings(
        ceil(settings.candidates * _RAISE), settings.per_match * _RAISE, ceil(settings.nprobe * _RAISE)
    )


def _bound(cell: FilteredRecall, side: str) -> float:
    bound: float = getattr(cell, side).lower_bound
    return bound
