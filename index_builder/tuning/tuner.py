"""Chooses the index of a catalogue by measurement: its kind, and the settings with which each side meets the target.

The settings are the cheapest that reach the target on tuning users; the choice is then confirmed, on each side, with
users it was not made with. What is timed is what serves: both sides, by an index opened from its file, of one user at a
time; and where that is less than 1.5 times as fast as an exact scan, of batches of 64 users as well.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from operator import attrgetter
from pathlib import Path

import faiss
import numpy as np
from tqdm import tqdm

from index_builder.kinds.training import FLAT, Trainer, canonical_kind
from index_builder.tuning import clock
from index_builder.tuning.clock import BATCH_USERS, TimedSearch
from index_builder.tuning.effort import (
    CANDIDATES,
    Curve,
    Effort,
    SideScan,
    exact_effort,
    least_effort,
    raised_effort,
)
from index_builder.tuning.filtered import FilterGrid, recall_of_exact
from index_builder.tuning.plan import Screening, plausible_kinds
from index_builder.tuning.recall import (
    LARGE_K,
    K,
    Panel,
    joined,
    measure,
    recall_of_users,
    summarise,
    summarised,
)
from index_builder.tuning.trials import Trial, TunedIndex
from index_builder.tuning.users import UserPool
from retrieval.artifact.manifest import FilteredRecall, IndexFacts, RecallAtK
from retrieval.records.vector_file import VectorFile
from retrieval.search.files import open_index, write_index
from retrieval.search.index import ProductIndex
from retrieval.search.kinds import list_counts
from retrieval.search.ranking import SIDES, RowGroups
from retrieval.search.settings import FilteredSettings, SearchSettings, SideSettings

_RESERVE, _MORE_RESERVE = 1, 2  # steps of candidates beyond what the users need, and how many more after each miss
_CONFIRMATIONS = 3
_MAX_USERS_PER_PAIR, _CURVE_STEP = 15, 4
_MAX_DEEPENING = 2
_USERS_OF_KNOWN_SETTINGS, _MAX_USERS_OF_KNOWN_INDEX = 100, 1200
# An index has to take this share of an exact scan's time at most. Where it takes more than the second share for one
# user, it has to for a batch too: the exact scan of a batch is a matrix product, which takes less time a user.
_WORTHWHILE, _WORTHWHILE_ALONE = 0.95, 1 / 1.5


class Tuner:
    """Measures kinds of index over one catalogue."""

    def __init__(
        self, vectors: VectorFile, store: faiss.Index, groups: RowGroups, pool: UserPool, target: float, scratch: Path
    ):
        """`store` holds the vectors themselves; `target` is the recall at 10 and 100 that each side must reach.

        The file `scratch` is written and removed again. `pool` is where users come from, and `panel` those that indexes
        are tuned with; `dropped` says why kinds were, by their names.
        """
        self._vectors, self.store, self._groups, self.pool, self.target = vectors, store, groups, pool, target
        self._scratch, self._trainer = scratch, Trainer(vectors, store)
        self.panel = self._seen = Panel.of(vectors, pool.tuning())
        self._tuned_with = pool.source
        self._trials: list[Trial] = []
        self._curves: dict[tuple[str, str, int], Curve] = {}
        self.dropped: dict[str, str] = {}

    def choose(self, index: str) -> TunedIndex:
        """Return the index for `--index`, tuned and confirmed.

        An explicit kind is tuned as well as it goes. `auto` takes, of the kinds that suit the catalogue, the one that
        answers both sides soonest; it ends at the exact scan, so it does not miss the target.
        """
        exact = self._tuned(FLAT)
        if index != "auto":
            kind = canonical_kind(index, self._vectors.dimension)
            return self._confirmed(exact if kind == FLAT else self._tuned(kind))
        for tuned in self._by_speed(exact):
            if not self.pool.has_more:
                self.dropped[tuned.factory] = "could not be confirmed, as no users were left"
                break
            confirmed = self._confirmed(tuned)
            if self._worthwhile([confirmed], exact, "users whom it was not tuned with"):
                return confirmed
        return self._confirmed(exact)

    def measured(self, index: faiss.Index, facts: IndexFacts) -> TunedIndex:
        """Return an approximate index of these vectors, with settings that were found for others, and its recall.

        Where few users do not show that it meets the target, as many more are asked, and again as many.
        """
        product_index = ProductIndex(index, self._groups, facts.search)
        of_users = recall_of_users(product_index, self._groups, self.panel)
        while (
            not _reach(recall := summarised(of_users), self.target)
            and self.pool.has_more
            and len(self._seen.users) < _MAX_USERS_OF_KNOWN_INDEX
        ):
            more = Panel.of(self._vectors, self.pool.more(len(self._seen.users)))
            of_users = joined(of_users, recall_of_users(product_index, self._groups, more))
            self._seen = self._seen + more
        best, worst = (
            Effort(getattr(facts.search, side), recall[side][0], _reach({side: recall[side]}, self.target))
            for side in SIDES
        )
        [chosen] = self._timed(facts.factory, index, [(best, worst)])
        users_from = self._users_from(self._seen, self.pool.source)
        return TunedIndex(index, chosen, recall, users_from, filtered=facts.filtered, uneven=facts.uneven)

    def under_filters(self, tuned: TunedIndex) -> tuple[TunedIndex, list[FilteredRecall]]:
        """Return an index with the settings with which it meets the target under filters too, and their recall.

        It is measured on users whom nothing was chosen with, while there are some: on fewer where its settings under
        filters are known.
        """
        users = self.pool.confirming() if self.pool.has_more else self.panel.users
        if tuned.index.this == self.store.this:
            return tuned, recall_of_exact(len(users))
        users = users[: _USERS_OF_KNOWN_SETTINGS if tuned.filtered else None]
        grid = FilterGrid(ProductIndex(self.store, self._groups, SideSettings()), users, self.target)

        def make(filtered: list[FilteredSettings], uneven: list[FilteredSettings]) -> ProductIndex:
            return self.product_index(replace(tuned, filtered=filtered, uneven=uneven))

        filtered, uneven, recall = grid.settle(make, tuned.settings, tuned.filtered, tuned.uneven)
        return replace(tuned, filtered=filtered, uneven=uneven), recall

    def product_index(self, tuned: TunedIndex) -> ProductIndex:
        """Return an index ready to search."""
        return ProductIndex(tuned.index, self._groups, tuned.settings, filtered=tuned.filtered, uneven=tuned.uneven)

    def _by_speed(self, exact: TunedIndex) -> Iterator[TunedIndex]:
        """Yield the kinds that reach the target before an exact scan does, the fastest first."""
        plausible = plausible_kinds(self._vectors.rows, self._vectors.dimension)
        if plausible:
            contenders = Screening(self._vectors, self._trainer, self.panel, self.target).contenders(plausible)
            reason = "needs more codes and candidates on a sample of the products"
            self.dropped = {str(kind): reason for kind in plausible if kind not in contenders}
            # The kind with most codes is left for when a sample has promised too much of all others.
            for kinds in (contenders, [kind for kind in plausible[-1:] if kind not in contenders]):
                shown = tqdm(kinds, desc="trying index kinds", disable=None, leave=False)
                yield from self._worthwhile([self._tuned(str(kind)) for kind in shown], exact)

    def _worthwhile(
        self, several: Sequence[TunedIndex], exact: TunedIndex, users: str = "the users to tune with"
    ) -> list[TunedIndex]:
        """Return those that reach the target before an exact scan does, timed in turns, the fastest first.

        That is for one user and for a batch of them, or for one user by far. Why others are dropped is kept.
        """
        reaching = {tuned.factory: tuned for tuned in several if tuned.meets_target}
        self.dropped |= {each.factory: f"misses the target for {users}" for each in several if not each.meets_target}
        alone = self._shares_of_time(reaching.values(), exact, 1)
        fast = self._fast_enough(alone, "for one user")
        close = [kind for kind in fast if alone[kind] > _WORTHWHILE_ALONE]
        in_batch = self._shares_of_time([reaching[kind] for kind in close], exact, BATCH_USERS)
        slow = set(close).difference(self._fast_enough(in_batch, f"for {BATCH_USERS} users at once"))
        return [reaching[kind] for kind in sorted(fast, key=alone.__getitem__) if kind not in slow]

    def _fast_enough(self, shares: Mapping[str, float], users: str) -> list[str]:
        slow = {kind: share for kind, share in shares.items() if share > _WORTHWHILE}
        self.dropped |= {kind: f"takes {share:.2f} of an exact scan's time {users}" for kind, share in slow.items()}
        return [kind for kind in shares if kind not in slow]

    def _shares_of_time(self, several: Collection[TunedIndex], exact: TunedIndex, at_once: int) -> dict[str, float]:
        """Return which share of an exact scan's time each kind takes for a call with so many users."""
        if not several:
            return {}
        searches = [TimedSearch(each.factory, each.settings, self.product_index(each)) for each in [exact, *several]]
        limit, *seconds = clock.median_seconds(searches, self.panel.users, at_once)
        return {each.factory: taken / limit for each, taken in zip(several, seconds, strict=True)}

    def _tuned(self, kind: str) -> TunedIndex:
        """Return an index of a kind with the settings that reach the target soonest, or else find the most."""
        index = self._reopened(self._trainer.build(kind))
        best, worst = (self._efforts(kind, index, side) for side in SIDES)
        # Lists that suit both sides are scanned for both at once, so settings are timed in pairs.
        trials = self._timed(kind, index, list(product(best, worst)))
        self._trials += trials
        return TunedIndex(index, min(trials, key=attrgetter("seconds")))

    def _reopened(self, built: faiss.Index) -> faiss.Index:
        """Return an index as it is opened from its file, but for the vectors, which are read from the store's."""
        if built.this == self.store.this:
            return built
        base = built.base_index if isinstance(built, faiss.IndexRefine) else built
        try:
            write_index(base, self._scratch)
            opened = open_index(self._scratch)
        finally:
            self._scratch.unlink(missing_ok=True)
        return opened if base is built else faiss.IndexRefine(opened, self.store)

    def _efforts(self, kind: str, index: faiss.Index, side: str) -> list[Effort]:
        """Return the least effort with each number of lists that reaches the target, or else what finds the most."""
        if index.this == self.store.this:
            return [exact_effort(len(self.panel.users))]
        efforts: list[Effort] = []
        scan, most = SideScan(index, self.panel, side), float(CANDIDATES[-1])
        for nprobe in reversed(list_counts(index)):
            curve = self._curves[kind, side, nprobe] = scan.curve(nprobe, most)
            efforts.append(least_effort(curve, nprobe, self.target, _RESERVE))
            if not efforts[-1].meets_target:  # Fewer lists have fewer of the nearest rows.
                break
            # Lists left out do not pay where they take this many times the candidates of all lists.
            most = min(most, _MAX_DEEPENING * efforts[0].settings.candidates_for(LARGE_K))
        return [each for each in efforts if each.meets_target] or [max(efforts, key=attrgetter("recall.mean"))]

    def _timed(self, kind: str, index: faiss.Index, pairs: Sequence[tuple[Effort, Effort]]) -> list[Trial]:
        """Time efforts of best and worst, pair by pair in turns."""
        settings = [SideSettings(best.settings, worst.settings) for best, worst in pairs]
        searches = [TimedSearch(kind, each, ProductIndex(index, self._groups, each)) for each in settings]
        seconds = clock.median_seconds(searches, self.panel.users[:_MAX_USERS_PER_PAIR])
        return [Trial(kind, *pair, taken) for pair, taken in zip(pairs, seconds, strict=True)]

    def _confirmed(self, tuned: TunedIndex) -> TunedIndex:
        """Measure the settings on fresh users; raise those of a side that misses the target, and measure again."""
        index, is_exact = tuned.index, tuned.index.this == self.store.this
        settings = {side: self._known_settings(index, side, getattr(tuned.settings, side)) for side in SIDES}
        for attempt in range(1, _CONFIRMATIONS + 1):
            # Nothing of an exact scan was chosen with the tuning users.
            fresh = self.panel if is_exact else Panel.of(self._vectors, self.pool.confirming())
            recall = measure(ProductIndex(index, self._groups, SideSettings(**settings)), self._groups, fresh)
            missed = [side for side in SIDES if any(each.lower_bound < self.target for each in recall[side])]
            if is_exact or not missed or attempt == _CONFIRMATIONS or not self.pool.has_more:
                break
            self._seen, reserve = self._seen + fresh, _RESERVE + attempt * _MORE_RESERVE
            for side in missed:
                settings[side] = raised_effort(index, self._seen, side, settings[side], self.target, reserve)
        meets_target = not missed or (is_exact and isinstance(index, faiss.IndexFlat))
        best, worst = (Effort(settings[side], recall[side][0], meets_target) for side in SIDES)
        around = self._neighbouring(tuned.factory, index, SideSettings(**settings))
        chosen, *others = self._timed(tuned.factory, index, [(best, worst), *around])
        users_from = self._tuned_with if is_exact else self.pool.source
        return TunedIndex(index, chosen, recall, self._users_from(fresh, users_from), self._trials + others)

    def _known_settings(self, index: faiss.Index, side: str, settings: SearchSettings) -> SearchSettings:
        """Return settings of a kind that reach the target for those users too whom earlier kinds failed."""
        if self._seen is self.panel or index.this == self.store.this:
            return settings
        curve = SideScan(index, self._seen, side).curve(settings.nprobe)
        return least_effort(curve, settings.nprobe, self.target, _RESERVE).settings

    def _users_from(self, panel: Panel, source: str) -> str:
        most = summarise(np.ones(len(panel.users)), K).lower_bound
        if most >= self.target:
            return source
        return f"{source}, of which {len(panel.users)} users cannot show more than {most:.4f}"

    def _neighbouring(self, kind: str, index: faiss.Index, settings: SideSettings) -> list[tuple[Effort, Effort]]:
        """Return efforts of fewer and more candidates than chosen, for the report."""
        if index.this == self.store.this:
            return []
        best, worst = (self._efforts_around(kind, index, side, getattr(settings, side)) for side in SIDES)
        return list(zip(best, worst, strict=False))

    def _efforts_around(self, kind: str, index: faiss.Index, side: str, settings: SearchSettings) -> list[Effort]:
        curve = self._curves.get((kind, side, settings.nprobe))
        if curve is None:  # Another number of lists was raised to.
            curve = SideScan(index, self.panel, side).curve(settings.nprobe)
        return [
            Effort(replace(settings, candidates=count), at_k[K], at_k[K].lower_bound >= self.target)
            for count, at_k in list(curve.items())[::_CURVE_STEP]
        ]


def _reach(recall: dict[str, list[RecallAtK]], target: float) -> bool:
    return all(each.lower_bound >= target for side in recall.values() for each in side)
