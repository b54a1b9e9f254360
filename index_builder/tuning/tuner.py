"""Chooses the index of a catalogue by measurement: its kind, and the settings with which each side meets the target.

Each side's settings are the cheapest that reach the target on tuning users; the choice is then confirmed, on each side,
with users it was not made with. What is timed is what serves: indexes opened from their files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import faiss
from tqdm import tqdm

from index_builder.kinds.training import FLAT, Trainer
from index_builder.tuning import clock
from index_builder.tuning.effort import (
    Effort,
    descending_lists,
    exact_effort,
    least_effort,
    raised_effort,
    recall_curve,
)
from index_builder.tuning.plan import Screening, plausible_kinds, with_lists
from index_builder.tuning.recall import K, Panel, measure
from index_builder.tuning.trials import Trial, TunedIndex
from index_builder.tuning.users import UserPool
from retrieval.records.vector_file import VectorFile
from retrieval.search.files import open_index, write_index
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, RowGroups
from retrieval.search.settings import SearchSettings, SideSettings

_RESERVE, _MORE_RESERVE = 1, 2  # steps of candidates beyond what the users need, and how many more after each miss
_CONFIRMATIONS = 3
_CURVE_STEP = 4
_WORTHWHILE = 0.95  # An index has to take this share of an exact scan's time at most.


class Tuner:
    """Measures kinds of index over one catalogue."""

    def __init__(
        self, vectors: VectorFile, store: faiss.Index, groups: RowGroups, pool: UserPool, target: float, scratch: Path
    ):
        """`store` holds the vectors themselves; `target` is the recall at 10 and 100 that each side must reach.

        The file `scratch` is written and removed again. `panel` are the users that indexes are tuned with.
        """
        self._vectors, self._store, self._groups, self._pool, self._target = vectors, store, groups, pool, target
        self._scratch, self._trainer = scratch, Trainer(vectors, store)
        self.panel = Panel.of(vectors, pool.tuning())
        self._trials: list[Trial] = []

    def choose(self, index: str) -> TunedIndex:
        """Return the index for `--index`, tuned and confirmed.

        An explicit kind is tuned as well as it goes. `auto` takes, of the kinds that suit the catalogue, the one that
        answers both sides soonest; it ends at the exact scan, so it does not miss the target.
        """
        exact = self._tuned(FLAT)
        if index != "auto":
            return self._confirm(exact if index == FLAT else self._tuned(index))
        for tuned in self._by_speed(exact):
            if not self._pool.has_more:
                break
            confirmed = self._confirm(tuned)
            if confirmed.meets_target and self._is_faster(confirmed, exact):
                return confirmed
        return self._confirm(exact)

    def product_index(self, tuned: TunedIndex) -> ProductIndex:
        """Return an index ready to search; the worst side is searched with negated queries."""
        return ProductIndex(tuned.index, None, self._groups, tuned.settings)

    def _by_speed(self, exact: TunedIndex) -> Iterator[TunedIndex]:
        """Yield the kinds that reach the target before an exact scan does, the fastest first."""
        plausible = plausible_kinds(self._vectors.rows, self._vectors.dimension)
        if not plausible:
            return
        screening = Screening(self._vectors, self._trainer, self.panel, self._target)
        kinds = [each for kind in screening.finalists(plausible) for each in with_lists(kind, self._vectors.rows)]
        tried = [self._tuned(str(kind)) for kind in tqdm(kinds, desc="trying index kinds", disable=None, leave=False)]
        reaching = [tuned for tuned in tried if tuned.meets_target]
        seconds = self._seconds_of_both([exact, *reaching])
        limit = _WORTHWHILE * seconds[0]
        ranked = sorted(zip(seconds[1:], range(len(reaching)), strict=True))
        yield from (reaching[i] for taken, i in ranked if taken <= limit)

    def _is_faster(self, tuned: TunedIndex, exact: TunedIndex) -> bool:
        seconds, limit = self._seconds_of_both([tuned, exact])
        return seconds <= _WORTHWHILE * limit

    def _seconds_of_both(self, several: Sequence[TunedIndex]) -> list[float]:
        searches = [clock.TimedSearch(each.factory, each.settings, self.product_index(each)) for each in several]
        return clock.median_seconds(searches, self.panel.users)

    def _tuned(self, kind: str) -> TunedIndex:
        index = self._reopened(self._trainer.build(kind))
        return TunedIndex(kind, index, {side: self._tune(kind, index, side) for side in SIDES})

    def _reopened(self, built: faiss.Index) -> faiss.Index:
        """Return an index as it is opened from its file, but for the vectors, which are read from the store's."""
        if built.this == self._store.this:
            return built
        base = built.base_index if isinstance(built, faiss.IndexRefine) else built
        try:
            write_index(base, self._scratch)
            opened = open_index(self._scratch)
        finally:
            self._scratch.unlink(missing_ok=True)
        return opened if base is built else faiss.IndexRefine(opened, self._store)

    def _tune(self, kind: str, index: faiss.Index, side: str) -> Trial:
        """Return the trial that reaches the target on this side soonest, or else the one that finds the most."""
        if index.this == self._store.this:
            exact = self._trial(kind, index, side, exact_effort(len(self.panel.users)))
            self._trials.append(exact)
            return exact
        trials: list[Trial] = []
        for nprobe in descending_lists(index):
            effort = least_effort(recall_curve(index, self.panel, side, nprobe), nprobe, self._target, _RESERVE)
            trials.append(self._trial(kind, index, side, effort))
            if not effort.reaches:  # Fewer lists have fewer of the nearest rows.
                break
        self._trials += trials
        reaching = [trial for trial in trials if trial.reaches]
        return min(reaching, key=attrgetter("seconds")) if reaching else max(trials, key=attrgetter("recall"))

    def _trial(self, kind: str, index: faiss.Index, side: str, effort: Effort) -> Trial:
        """Time one way to search one side."""
        settings = SideSettings(effort.settings, effort.settings)
        product_index = ProductIndex(index, None, self._groups, settings)
        [seconds] = clock.median_seconds([clock.TimedSearch(kind, settings, product_index, side)], self.panel.users)
        return Trial(side, kind, effort.settings, effort.recall.mean, seconds, effort.reaches)

    def _confirm(self, tuned: TunedIndex) -> TunedIndex:
        """Measure the settings on fresh users; raise those of a side that misses the target, and measure again."""
        index, kind, known = tuned.index, tuned.factory, self.panel
        settings = {side: trial.settings for side, trial in tuned.chosen.items()}
        is_exact = index.this == self._store.this
        for attempt in range(1, _CONFIRMATIONS + 1):
            # Nothing of an exact scan was chosen with the tuning users.
            fresh = self.panel if is_exact else Panel.of(self._vectors, self._pool.confirming())
            product_index = ProductIndex(index, None, self._groups, SideSettings(**settings))
            recall = measure(product_index, self._vectors, self._groups, fresh)
            missed = [side for side in SIDES if any(each.lower_bound < self._target for each in recall[side])]
            if is_exact or not missed or attempt == _CONFIRMATIONS or not self._pool.has_more:
                break
            known, reserve = known + fresh, _RESERVE + attempt * _MORE_RESERVE
            for side in missed:
                settings[side] = raised_effort(index, known, side, settings[side], self._target, reserve)
        met = not missed or (is_exact and isinstance(index, faiss.IndexFlat))
        efforts = {side: Effort(settings[side], recall[side][0], met) for side in SIDES}
        chosen = {side: self._trial(kind, index, side, effort) for side, effort in efforts.items()}
        return TunedIndex(kind, index, chosen, recall, self._trials + self._curve_trials(kind, index, settings))

    def _curve_trials(self, kind: str, index: faiss.Index, settings: dict[str, SearchSettings]) -> list[Trial]:
        """Measure fewer and more candidates than chosen, for the report."""
        if index.this == self._store.this:
            return []
        return [
            self._trial(
                kind,
                index,
                side,
                Effort(replace(chosen, candidates=count), at_k[K], at_k[K].lower_bound >= self._target),
            )
            for side, chosen in settings.items()
            for count, at_k in list(recall_curve(index, self.panel, side, chosen.nprobe).items())[::_CURVE_STEP]
        ]
