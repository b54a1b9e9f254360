"""Chooses the index of a catalogue by measurement: its kind, and the settings with which each side meets the target.

A kind is a FAISS factory string (`training.py`). Each side's settings are the cheapest that reach the target on tuning
users; the choice is then confirmed, on each side, with users it was not made with.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

import faiss
import numpy as np
from tqdm import tqdm

from index_builder.kinds.training import FLAT, Trainer
from index_builder.recall import UserPool, exact_top_rows, measure, recall_at_k, summarise
from retrieval.artifact.manifest import RecallAtK
from retrieval.records.vector_file import VectorFile
from retrieval.search.index import ProductIndex
from retrieval.search.kinds import candidate_scores, is_graph, list_counts, stored_scores
from retrieval.search.ranking import SIDES, SIGNS, RowGroups
from retrieval.search.settings import SearchSettings, SideSettings

K, LARGE_K = 10, 100
_CANDIDATES = [round(16 * 1.25**step) for step in range(24)]  # 16 to 2711
_MAX_TIMED_USERS, _MAX_TIMED_SECONDS, _TIMED_ROUNDS = 60, 2.0, 3
_CURVE_STEP = 4
_MIN_ROWS = 5_000  # An exact scan of fewer takes less time than the service around it.
_MIN_ROWS_FOR_LISTS = 100_000
_MAX_ROWS_FOR_SCANS = 500_000


@dataclass(frozen=True)
class Trial:
    """One measured way to search one side: `seconds` a query on one thread, recall at 10 on tuning users."""

    side: str
    factory: str
    settings: SearchSettings
    recall: float
    seconds: float
    reaches: bool


@dataclass(frozen=True)
class TunedIndex:
    """An index with the best trial of each side; once confirmed, with its recall and all trials on the way."""

    factory: str
    index: faiss.Index
    chosen: dict[str, Trial]
    recall: dict[str, list[RecallAtK]] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list, repr=False)

    @property
    def settings(self) -> SideSettings:
        return SideSettings(**{side: trial.settings for side, trial in self.chosen.items()})

    @property
    def meets_target(self) -> bool:
        return all(trial.reaches for trial in self.chosen.values())

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.chosen.values())


class Tuner:
    """Measures kinds of index over one catalogue."""

    def __init__(self, vectors: VectorFile, store: faiss.Index, groups: RowGroups, pool: UserPool, target: float):
        """`store` holds the vectors themselves; `target` is the recall at 10 that each side must reach.

        `users` (u, d) are then those that indexes are tuned with.
        """
        self._vectors, self._store, self._groups, self._pool, self._target = vectors, store, groups, pool, target
        self._trainer = Trainer(vectors, store)
        self.users = pool.tuning()
        self._queries = {side: np.float32(sign) * self.users for side, sign in SIGNS.items()}
        self._scores = {
            side: -np.sort(-stored_scores(store, self._queries[side], rows), axis=1)
            for side, (_, rows) in exact_top_rows(vectors, self.users, LARGE_K).items()
        }
        self._trials: list[Trial] = []

    def choose(self, index: str) -> TunedIndex:
        """Return the index for `--index`, tuned and confirmed.

        An explicit kind is tuned as well as it goes. `auto` takes, of the kinds that suit the catalogue, the one that
        answers both sides soonest; it ends at the exact scan, so it does not miss the target.
        """
        if index != "auto":
            return self._confirm(self._tuned(index))
        is_compact = not isinstance(self._store, faiss.IndexFlat)
        for kinds in suitable_kinds(self._vectors.rows, self._vectors.dimension, is_compact):
            fastest = self._fastest(kinds) if self._pool.has_more else None
            tuned = fastest and self._confirm(fastest)
            if tuned and tuned.meets_target:
                return tuned
        return self._confirm(self._tuned(FLAT))

    def in_memory(self, index: faiss.Index, settings: SideSettings) -> ProductIndex:
        """Return an index ready to search; the worst side is searched with negated queries."""
        return ProductIndex(index, None, self._groups, settings)

    def _tuned(self, kind: str) -> TunedIndex:
        index = self._trainer.build(kind)
        return TunedIndex(kind, index, {side: self._tune(kind, index, side) for side in SIDES})

    def _fastest(self, kinds: Sequence[str]) -> TunedIndex | None:
        """Return the kind that takes the least time for both sides, if it reaches the target before an exact scan."""
        exact = self._tuned(FLAT).seconds
        tried = map(self._tuned, tqdm(kinds, desc="trying index kinds", disable=None, leave=False))
        sooner = [tuned for tuned in tried if tuned.meets_target and tuned.seconds < exact]
        # They were tuned one after the other, each in other company: what decides is timed in turns.
        rounds = [[self._seconds_of_both(each) for each in sooner] for _ in range(_TIMED_ROUNDS)]
        seconds = [statistics.median(times) for times in zip(*rounds, strict=True)]
        return sooner[seconds.index(min(seconds))] if sooner else None

    def _tune(self, kind: str, index: faiss.Index, side: str) -> Trial:
        """Return the trial that reaches the target on this side soonest, or else the one that finds the most."""
        trials: list[Trial] = []
        for nprobe in reversed(list_counts(index)):
            trials.append(self._try_lists(kind, index, side, nprobe))
            if not trials[-1].reaches:  # Fewer lists have fewer of the nearest rows.
                break
        self._trials += trials
        reaching = [trial for trial in trials if trial.reaches]
        return min(reaching, key=attrgetter("seconds")) if reaching else max(trials, key=attrgetter("recall"))

    def _try_lists(self, kind: str, index: faiss.Index, side: str, nprobe: int) -> Trial:
        """Try the fewest candidates that reach the target with this many lists, or the most there are."""
        curve = self._recall_by_candidates(index, side, nprobe)
        if not curve:
            recall = summarise(np.ones(len(self._queries[side])), K)
            return self._trial(kind, index, side, SearchSettings(), recall)
        count, recall = _first_reaching(curve, K, self._target)
        per_match = _first_reaching(curve, LARGE_K, self._target)[0] / LARGE_K
        return self._trial(kind, index, side, SearchSettings(count, per_match, nprobe), recall)

    def _trial(self, kind: str, index: faiss.Index, side: str, settings: SearchSettings, recall: RecallAtK) -> Trial:
        seconds = self._seconds(index, side, settings)
        return Trial(side, kind, settings, recall.mean, seconds, recall.lower_bound >= self._target)

    def _recall_by_candidates(self, index: faiss.Index, side: str, nprobe: int) -> dict[int, dict[int, RecallAtK]]:
        """Measure recall at 10 and 100 on tuning users for each number of candidates; an exact scan has none."""
        if index.this == self._store.this:
            return {}
        queries, exact = self._queries[side], self._scores[side]
        counts = [count for count in _CANDIDATES if count < self._vectors.rows] or [self._vectors.rows]
        curve, scores = {}, None
        for count in reversed(counts):
            if scores is None or is_graph(index):  # A graph is walked differently for each count.
                scores = candidate_scores(index, queries, count, nprobe)
            found = scores[:, :count]
            highest = {k: exact[:, :k] for k in (K, LARGE_K)}
            curve[count] = {k: recall_at_k(found, top[:, -1:], top.shape[1], k) for k, top in highest.items()}
        return dict(sorted(curve.items()))

    def _seconds(self, index: faiss.Index, side: str, settings: SearchSettings) -> float:
        """Return the median time of one user's search on one thread."""
        product_index = self.in_memory(index, SideSettings(settings, settings))
        queries = self.users[:_MAX_TIMED_USERS]
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            times: list[float] = []
            while len(times) < len(queries) and sum(times) < _MAX_TIMED_SECONDS:
                started = time.perf_counter()
                product_index.search_side(side, queries[len(times) : len(times) + 1], K)
                times.append(time.perf_counter() - started)
            return statistics.median(times)
        finally:
            faiss.omp_set_num_threads(threads)

    def _seconds_of_both(self, tuned: TunedIndex) -> float:
        return sum(self._seconds(tuned.index, side, trial.settings) for side, trial in tuned.chosen.items())

    def _confirm(self, tuned: TunedIndex) -> TunedIndex:
        """Measure the settings on fresh users; raise those of a side that misses the target, and measure again."""
        kind, index = tuned.factory, tuned.index
        settings = {side: trial.settings for side, trial in tuned.chosen.items()}
        exact = index.this == self._store.this and isinstance(index, faiss.IndexFlat)
        while True:
            users = self.users if exact else self._pool.confirming()
            product_index = self.in_memory(index, SideSettings(**settings))
            recall = measure(product_index, self._vectors, self._groups, users, (K, LARGE_K))
            missed = [side for side in SIDES if recall[side][0].lower_bound < self._target and not exact]
            raised = {side: _raised(settings[side], index) for side in missed}
            if not missed or not self._pool.has_more or all(raised[side] == settings[side] for side in missed):
                break
            settings |= raised
        # The report also shows fewer and more candidates than chosen.
        trials = [
            self._trial(kind, index, side, replace(chosen, candidates=count), curve[K])
            for side, chosen in settings.items()
            for count, curve in list(self._recall_by_candidates(index, side, chosen.nprobe).items())[::_CURVE_STEP]
        ]
        chosen = {
            side: replace(self._trial(kind, index, side, settings[side], recall[side][0]), reaches=not missed)
            for side in SIDES
        }
        return TunedIndex(kind, index, chosen, recall, self._trials + trials)


def suitable_kinds(rows: int, dimension: int, compact: bool = False) -> list[list[str]]:
    """Return the kinds worth trying for a catalogue, list by list; the next list is for when none of one will do.

    Of large catalogues only one is tried: finer codes need fewer candidates, whose vectors lie far apart in memory; a
    `compact` index has coarser ones, as its vectors are smaller too.

    Word-embedding means vary mostly in a third of their directions: scanning those with four bits each, and
    re-ranking, beats finer codes of everything. Catalogues that vary in all directions need all of them.
    """
    if rows < _MIN_ROWS:
        return []
    lists = 2 ** round(math.log2(4 * math.sqrt(rows)))
    scans = [f"Reduce{size},PQ{size}x4fs" for size in (64, 80, 96, 128) if size < dimension]
    lookups = [f"Reduce{size},IVF{lists},PQ{size}x4fs" for size in sorted({min(80, dimension), min(128, dimension)})]
    even = dimension + dimension % 2
    whole = [f"Reduce{even},PQ{even // 2}x4fs", f"Reduce{dimension},PQ{dimension}x4fs"]
    if rows < _MIN_ROWS_FOR_LISTS:
        return [scans, whole]
    if rows < _MAX_ROWS_FOR_SCANS:
        return [scans[1:3] + lookups, whole]
    return [lookups[:1] if compact else lookups[-1:], whole]


def _first_reaching(curve: dict[int, dict[int, RecallAtK]], k: int, target: float) -> tuple[int, RecallAtK]:
    """Return the fewest candidates that reach the target, plus a step in reserve, or the most; and their recall."""
    counts = list(curve)
    first = next((i for i, count in enumerate(counts) if curve[count][k].lower_bound >= target), len(counts))
    count = counts[min(first + 1, len(counts) - 1)]
    return count, curve[count][k]


def _raised(settings: SearchSettings, index: faiss.Index) -> SearchSettings:
    """Return settings with half as many candidates and lists again."""
    lists = list_counts(index)[-1]
    return replace(
        settings, candidates=math.ceil(settings.candidates * 1.5), nprobe=min(math.ceil(settings.nprobe * 1.5), lists)
    )
