"""Chooses the index of a catalogue by measurement: its kind, and the settings with which each side meets the target.

The settings are the cheapest that reach the target on tuning users; the choice is then confirmed, on each side, with
users it was not made with. What is timed is what serves: both sides, by an index opened from its file, of one user at a
time; and where that is less than 1.5 times as fast as an exact scan, of batches of 64 users as well.
"""

from collections.abc import Iterator, Sequence
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
from index_builder.tuning.effort import Effort, exact_effort, least_effort, raised_effort, recall_curve
from index_builder.tuning.filtered import FilterGrid
from index_builder.tuning.plan import Screening, plausible_kinds
from index_builder.tuning.recall import K, Panel, measure, summarise
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
_USERS_OF_KNOWN_SETTINGS = 100
# An index has to take this share of an exact scan's time at most. Where it takes more than the second share for one
# user, it has to for a batch too: the exact scan of a batch is a matrix product, which takes less time a user.
_WORTHWHILE, _WORTHWHILE_ALONE = 0.95, 1 / 1.5


class Tuner:
    """Measures kinds of index over one catalogue."""

    def __init__(
        self, vectors: VectorFile, store: faiss.Index, groups: RowGroups, pool: UserPool, target: float, scratch: Path
    ):
        """`store` holds the vectors themselves; `target` is the recall at 10 and 100 that each side must reach.

        The file `scratch` is written and removed again. `panel` are the users that indexes are tuned with.
        """
        self._vectors, self.store, self._groups, self._pool, self.target = vectors, store, groups, pool, target
        self._scratch, self._trainer = scratch, Trainer(vectors, store)
        self.panel = self._seen = Panel.of(vectors, pool.tuning())
        self._tuned_with = pool.source
        self._trials: list[Trial] = []

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
            if not self._pool.has_more:
                break
            confirmed = self._confirmed(tuned)
            if confirmed.meets_target and self._worthwhile([confirmed], exact):
                return confirmed
        return self._confirmed(exact)

    def measured(self, index: faiss.Index, facts: IndexFacts) -> TunedIndex:
        """Return an approximate index of these vectors, with settings that were found for others, and its recall.

        Where few users do not show that it meets the target, more are asked.
        """
        product_index = ProductIndex(index, self._groups, facts.search)
        recall = measure(product_index, self._groups, self.panel)
        if not _reach(recall, self.target) and self._pool.has_more:
            self.panel = self._seen = self.panel + Panel.of(self._vectors, self._pool.confirming())
            recall = measure(product_index, self._groups, self.panel)
        efforts = {
            side: Effort(getattr(facts.search, side), recall[side][0], _reach({side: recall[side]}, self.target))
            for side in SIDES
        }
        [chosen] = self._timed(facts.factory, index, [efforts])
        users_from = self._users_from(self.panel, self._pool.source)
        return TunedIndex(facts.factory, index, chosen, recall, users_from, filtered=facts.filtered)

    def under_filters(self, tuned: TunedIndex) -> tuple[TunedIndex, list[FilteredRecall]]:
        """Return an index with the settings with which it meets the target under filters too, and their recall.

        It is measured on users whom nothing was chosen with, while there are some: on fewer where its settings under
        filters are known.
        """
        users = self._pool.confirming() if self._pool.has_more else self.panel.users
        users = users[: _USERS_OF_KNOWN_SETTINGS if tuned.filtered else None]
        grid = FilterGrid(ProductIndex(self.store, self._groups, SideSettings()), users, self.target)

        def make(settings: SideSettings) -> ProductIndex:
            return ProductIndex(tuned.index, self._groups, tuned.settings, filtered=[FilteredSettings(1.0, settings)])

        filtered, recall = grid.settle(make, tuned.settings, tuned.filtered)
        return replace(tuned, filtered=filtered), recall

    def product_index(self, tuned: TunedIndex) -> ProductIndex:
        """Return an index ready to search."""
        return ProductIndex(tuned.index, self._groups, tuned.settings, filtered=tuned.filtered)

    def _by_speed(self, exact: TunedIndex) -> Iterator[TunedIndex]:
        """Yield the kinds that reach the target before an exact scan does, the fastest first."""
        plausible = plausible_kinds(self._vectors.rows, self._vectors.dimension)
        if plausible:
            contenders = Screening(self._vectors, self._trainer, self.panel, self.target).contenders(plausible)
            # The kind with most codes is left for when a sample has promised too much of all others.
            for kinds in (contenders, [kind for kind in plausible[-1:] if kind not in contenders]):
                shown = tqdm(kinds, desc="trying index kinds", disable=None, leave=False)
                yield from self._worthwhile([self._tuned(str(kind)) for kind in shown], exact)

    def _worthwhile(self, several: Sequence[TunedIndex], exact: TunedIndex) -> list[TunedIndex]:
        """Return those that reach the target before an exact scan does, timed in turns, the fastest first.

        That is for one user and for a batch of them, or for one user by far.
        """
        reaching = [tuned for tuned in several if tuned.meets_target]
        alone = self._shares_of_time(reaching, exact, 1)
        order = [i for i in sorted(range(len(reaching)), key=alone.__getitem__) if alone[i] <= _WORTHWHILE]
        close = [i for i in order if alone[i] > _WORTHWHILE_ALONE]
        in_batch = dict(zip(close, self._shares_of_time([reaching[i] for i in close], exact, BATCH_USERS), strict=True))
        return [reaching[i] for i in order if in_batch.get(i, 0.0) <= _WORTHWHILE]

    def _shares_of_time(self, several: Sequence[TunedIndex], exact: TunedIndex, at_once: int) -> list[float]:
        """Return which share of an exact scan's time each takes for a call with so many users."""
        if not several:
            return []
        searches = [TimedSearch(each.factory, each.settings, self.product_index(each)) for each in [exact, *several]]
        limit, *seconds = clock.median_seconds(searches, self.panel.users, at_once)
        return [each / limit for each in seconds]

    def _tuned(self, kind: str) -> TunedIndex:
        """Return an index of a kind with the settings that reach the target soonest, or else find the most."""
        index = self._reopened(self._trainer.build(kind))
        efforts = [self._efforts(index, side) for side in SIDES]
        # Lists that suit both sides are scanned for both at once, so settings are timed in pairs.
        pairs = [dict(zip(SIDES, pair, strict=True)) for pair in product(*efforts)]
        trials = self._timed(kind, index, pairs)
        self._trials += [trial for pair in trials for trial in pair.values()]
        return TunedIndex(kind, index, min(trials, key=lambda pair: pair[SIDES[0]].seconds))

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

    def _efforts(self, index: faiss.Index, side: str) -> list[Effort]:
        """Return the least effort with each number of lists that reaches the target, or else what finds the most."""
        if index.this == self.store.this:
            return [exact_effort(len(self.panel.users))]
        efforts: list[Effort] = []
        for nprobe in reversed(list_counts(index)):
            curve = recall_curve(index, self.panel, side, nprobe)
            efforts.append(least_effort(curve, nprobe, self.target, _RESERVE))
            if not efforts[-1].reaches:  # Fewer lists have fewer of the nearest rows.
                break
        return [each for each in efforts if each.reaches] or [max(efforts, key=attrgetter("recall.mean"))]

    def _timed(self, kind: str, index: faiss.Index, pairs: Sequence[dict[str, Effort]]) -> list[dict[str, Trial]]:
        """Time efforts of both sides, pair by pair in turns."""
        settings = [SideSettings(**{side: effort.settings for side, effort in pair.items()}) for pair in pairs]
        searches = [TimedSearch(kind, each, ProductIndex(index, self._groups, each)) for each in settings]
        return [
            {
                side: Trial(side, kind, effort.settings, effort.recall.mean, seconds, effort.reaches)
                for side, effort in pair.items()
            }
            for pair, seconds in zip(
                pairs, clock.median_seconds(searches, self.panel.users[:_MAX_USERS_PER_PAIR]), strict=True
            )
        ]

    def _confirmed(self, tuned: TunedIndex) -> TunedIndex:
        """Measure the settings on fresh users; raise those of a side that misses the target, and measure again."""
        index, is_exact = tuned.index, tuned.index.this == self.store.this
        settings = {side: self._known_settings(index, side, trial.settings) for side, trial in tuned.chosen.items()}
        for attempt in range(1, _CONFIRMATIONS + 1):
            # Nothing of an exact scan was chosen with the tuning users.
            fresh = self.panel if is_exact else Panel.of(self._vectors, self._pool.confirming())
            recall = measure(ProductIndex(index, self._groups, SideSettings(**settings)), self._groups, fresh)
            missed = [side for side in SIDES if any(each.lower_bound < self.target for each in recall[side])]
            if is_exact or not missed or attempt == _CONFIRMATIONS or not self._pool.has_more:
                break
            self._seen, reserve = self._seen + fresh, _RESERVE + attempt * _MORE_RESERVE
            for side in missed:
                settings[side] = raised_effort(index, self._seen, side, settings[side], self.target, reserve)
        met = not missed or (is_exact and isinstance(index, faiss.IndexFlat))
        efforts = {side: Effort(settings[side], recall[side][0], met) for side in SIDES}
        chosen, *around = self._timed(tuned.factory, index, [efforts, *self._neighbouring(index, efforts)])
        trials = self._trials + [trial for pair in around for trial in pair.values()]
        users_from = self._tuned_with if is_exact else self._pool.source
        return TunedIndex(tuned.factory, index, chosen, recall, self._users_from(fresh, users_from), trials)

    def _known_settings(self, index: faiss.Index, side: str, settings: SearchSettings) -> SearchSettings:
        """Return settings of a kind that reach the target for those users too whom earlier kinds failed."""
        if self._seen is self.panel or index.this == self.store.this:
            return settings
        curve = recall_curve(index, self._seen, side, settings.nprobe)
        return least_effort(curve, settings.nprobe, self.target, _RESERVE).settings

    def _users_from(self, panel: Panel, source: str) -> str:
        most = summarise(np.ones(len(panel.users)), K).lower_bound
        if most >= self.target:
            return source
        return f"{source}, of which {len(panel.users)} users cannot show more than {most:.4f}"

    def _neighbouring(self, index: faiss.Index, efforts: dict[str, Effort]) -> list[dict[str, Effort]]:
        """Return efforts of fewer and more candidates than chosen, for the report."""
        if index.this == self.store.this:
            return []
        curves = [recall_curve(index, self.panel, side, efforts[side].settings.nprobe).items() for side in SIDES]
        return [
            {
                side: Effort(
                    replace(efforts[side].settings, candidates=count), at_k[K], at_k[K].lower_bound >= self.target
                )
                for side, (count, at_k) in zip(SIDES, points, strict=True)
            }
            for points in list(zip(*curves, strict=True))[::_CURVE_STEP]
        ]


def _reach(recall: dict[str, list[RecallAtK]], target: float) -> bool:
    return all(each.lower_bound >= target for side in recall.values() for each in side)
