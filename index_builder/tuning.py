"""Chooses the index of a catalogue by measurement: the kind, and how hard each side must look to keep the promise.

A kind is a FAISS factory string (`training.py`). Each side's settings are the cheapest that reach the target on tuning
users; the choice is then confirmed, on each side, with users it was not made with.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import faiss
import numpy as np
from numpy.typing import NDArray

from index_builder.kinds import suitable_kinds
from index_builder.progress import progress
from index_builder.recall import SideRecall, exact_scores, measure_side, summarise
from index_builder.training import FLAT, build_index
from index_builder.users import UserPool
from retrieval.records.vector_file import UnitMatrix
from retrieval.search.index import ProductIndex, SearchSettings, candidate_scores, is_graph, list_counts, stored_scores
from retrieval.search.ranking import SIDES, TOLERANCE, Neighbours, RowGroups

K, LARGE_K = 10, 100
_CANDIDATES = [round(16 * 1.25**step) for step in range(24)]  # 16 to 2711
_TIMED_USERS, _TIMED_SECONDS, _ROUNDS = 60, 2.0, 3
_CURVE_STEP = 4


@dataclass(frozen=True)
class Point:
    """One measured way to search one side: `seconds` a query on one thread, recall at 10 on tuning users."""

    side: str
    factory: str
    settings: SearchSettings
    recall: float
    seconds: float
    reaches: bool


@dataclass(frozen=True)
class Plan:
    """The chosen index, how each side is searched, its confirmed recall, and all that was measured on the way."""

    factory: str
    index: faiss.Index
    chosen: dict[str, Point]
    recall: dict[str, list[SideRecall]]
    keeps_promise: bool
    points: list[Point] = field(repr=False)

    @property
    def settings(self) -> dict[str, SearchSettings]:
        return {side: point.settings for side, point in self.chosen.items()}


_Tuned = tuple[str, faiss.Index, dict[str, Point]]  # a kind, and the point chosen on each side


class Planner:
    """Measures kinds of index over one catalogue."""

    def __init__(self, vectors: UnitMatrix, store: faiss.Index, groups: RowGroups, users: UserPool, target: float):
        """`store` holds the vectors themselves; `target` is the recall at 10 that each side must reach."""
        self._vectors, self._store, self._groups, self._users = vectors, store, groups, users
        self._target = target
        self._tuning = dict(zip(SIDES, _both_signs(users.tuning()), strict=True))
        exact = exact_scores(vectors, groups, self._tuning["best"], LARGE_K)
        self._scores = {
            side: -np.sort(-stored_scores(store, self._tuning[side], top.rows), axis=1)
            for side, top in zip(SIDES, (exact.best, exact.worst), strict=True)
        }
        self._points: list[Point] = []

    def choose(self, wanted: str) -> Plan:
        """The plan for `--index`: an explicit kind tuned as well as it goes, or, of the kinds that suit the catalogue,
        the one that answers both sides soonest. `auto` ends at the exact scan, so it does not miss the target.
        """
        if wanted != "auto":
            index = build_index(wanted, self._vectors, self._store)
            return self._confirmed(wanted, index, {side: self._tuned(wanted, index, side) for side in SIDES})
        is_compact = not isinstance(self._store, faiss.IndexFlat)
        for kinds in suitable_kinds(self._vectors.rows, self._vectors.dimension, is_compact):
            fastest = self._fastest(kinds) if self._users.has_more else None
            plan = fastest and self._confirmed(*fastest)
            if plan and plan.keeps_promise:
                return plan
        return self._confirmed(FLAT, self._store, {side: self._tuned(FLAT, self._store, side) for side in SIDES})

    def served(self, plan: Plan) -> ProductIndex:
        """The planned index, still in memory; the worst side is searched with negated queries."""
        return self._served(plan.index, plan.settings)

    def sample_answers(self, plan: Plan) -> tuple[Neighbours, Neighbours]:
        """What the planned index answers to the tuning users."""
        return self.served(plan).search(self._tuning["best"], K)

    def _fastest(self, kinds: Sequence[str]) -> _Tuned | None:
        """The kind that takes the least time for both sides, if it reaches the target sooner than an exact scan."""
        exact = sum(self._tuned(FLAT, self._store, side).seconds for side in SIDES)
        sooner: list[_Tuned] = []
        for kind in progress(kinds, "trying index kinds"):
            index = build_index(kind, self._vectors, self._store)
            tuned = {side: self._tuned(kind, index, side) for side in SIDES}
            if all(point.reaches for point in tuned.values()) and sum(each.seconds for each in tuned.values()) < exact:
                sooner.append((kind, index, tuned))
        # They were tuned one after the other, each in other company: what decides is timed in turns.
        rounds = [[self._seconds_of_both(each) for each in sooner] for _ in range(_ROUNDS)]
        seconds = [statistics.median(taken) for taken in zip(*rounds, strict=True)]
        return sooner[seconds.index(min(seconds))] if sooner else None

    def _tuned(self, kind: str, index: faiss.Index, side: str) -> Point:
        """The settings that reach the target on this side soonest, or else those that find the most."""
        points: list[Point] = []
        for nprobe in reversed(list_counts(index)):
            points.append(self._point(kind, index, side, nprobe))
            if not points[-1].reaches:  # fewer lists hold fewer of the nearest
                break
        self._points += points
        reaching = [point for point in points if point.reaches]
        if reaching:
            return min(reaching, key=lambda point: point.seconds)
        return max(points, key=lambda point: point.recall)

    def _point(self, kind: str, index: faiss.Index, side: str, nprobe: int) -> Point:
        """The fewest candidates that reach the target with this many lists, or the most there are."""
        if index.this == self._store.this:
            settings, recall = SearchSettings(), summarise(np.ones(len(self._tuning[side])), K)
        else:
            curve = self._recall_by_candidates(index, side, nprobe)
            count, recall = _first_reaching(curve, K, self._target)
            settings = SearchSettings(count, _first_reaching(curve, LARGE_K, self._target)[0] / LARGE_K, nprobe)
        seconds = self._seconds(index, side, settings)
        return Point(side, kind, settings, recall.mean, seconds, recall.lower_bound >= self._target)

    def _recall_by_candidates(self, index: faiss.Index, side: str, nprobe: int) -> dict[int, dict[int, SideRecall]]:
        """Recall at 10 and 100 on tuning users for each number of candidates: found is what stands among them."""
        queries, scores = self._tuning[side], self._scores[side]
        counts = [count for count in _CANDIDATES if count < self._vectors.rows] or [self._vectors.rows]
        curve, most = {}, None
        for count in reversed(counts):
            if most is None or is_graph(index):  # a graph is walked differently for each count
                most = candidate_scores(index, queries, count, nprobe)
            found = most[:, :count]
            curve[count] = {k: summarise(_share_found(found, scores[:, :k]), k) for k in (K, LARGE_K)}
        return dict(sorted(curve.items()))

    def _curve(self, kind: str, index: faiss.Index, side: str, chosen: SearchSettings) -> list[Point]:
        """What fewer and more candidates than chosen would take and find, for the report."""
        if index.this == self._store.this:
            return []
        curve = self._recall_by_candidates(index, side, chosen.nprobe)
        points = []
        for count in list(curve)[::_CURVE_STEP]:
            settings = replace(chosen, candidates=count)
            recall = curve[count][K]
            seconds = self._seconds(index, side, settings)
            points.append(Point(side, kind, settings, recall.mean, seconds, recall.lower_bound >= self._target))
        return points

    def _seconds(self, index: faiss.Index, side: str, settings: SearchSettings) -> float:
        """The median time of one user's search on one thread."""
        served = self._served(index, dict.fromkeys(SIDES, settings))
        queries = self._tuning["best"][:_TIMED_USERS]
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            taken: list[float] = []
            while len(taken) < len(queries) and sum(taken) < _TIMED_SECONDS:
                taken.append(_timed(served, side, queries[len(taken) : len(taken) + 1]))
            return statistics.median(taken)
        finally:
            faiss.omp_set_num_threads(threads)

    def _seconds_of_both(self, tuned: _Tuned) -> float:
        _, index, points = tuned
        return sum(self._seconds(index, side, point.settings) for side, point in points.items())

    def _confirmed(self, kind: str, index: faiss.Index, tuned: dict[str, Point]) -> Plan:
        """Hold the settings against fresh users; look harder on a side that misses the target, and ask fresh users."""
        settings = {side: point.settings for side, point in tuned.items()}
        exact = index.this == self._store.this and isinstance(index, faiss.IndexFlat)
        while True:
            users = self._tuning["best"] if exact else self._users.confirming()
            recall = self._recall(self._served(index, settings), users)
            missed = [side for side in SIDES if recall[side][0].lower_bound < self._target and not exact]
            harder = {side: _harder(settings[side], index) for side in missed}
            if not missed or not self._users.has_more or all(harder[side] == settings[side] for side in missed):
                points = [point for side in SIDES for point in self._curve(kind, index, side, settings[side])]
                chosen = {
                    side: Point(
                        side,
                        kind,
                        settings[side],
                        recall[side][0].mean,
                        self._seconds(index, side, settings[side]),
                        not missed,
                    )
                    for side in SIDES
                }
                return Plan(kind, index, chosen, recall, not missed, self._points + points)
            settings = {**settings, **harder}

    def _recall(self, served: ProductIndex, users: NDArray[np.float32]) -> dict[str, list[SideRecall]]:
        exact = exact_scores(self._vectors, self._groups, users, LARGE_K)
        return {
            side: [measure_side(served, side, self._vectors, users, exact, k) for k in (K, LARGE_K)] for side in SIDES
        }

    def _served(self, index: faiss.Index, settings: dict[str, SearchSettings]) -> ProductIndex:
        return ProductIndex(index, None, self._groups, settings["best"], settings["worst"])


def _first_reaching(curve: dict[int, dict[int, SideRecall]], k: int, target: float) -> tuple[int, SideRecall]:
    """The fewest candidates that reach the target, with one step in reserve, and the recall of that; or the most."""
    counts = list(curve)
    first = next((i for i, count in enumerate(counts) if curve[count][k].lower_bound >= target), len(counts))
    count = counts[min(first + 1, len(counts) - 1)]
    return count, curve[count][k]


def _share_found(found: NDArray[np.float32], highest: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each user's `highest` exact scores (u, k), the share that the candidates' scores (u, c) reach."""
    k = highest.shape[1]
    return np.minimum((found >= highest[:, -1:] - TOLERANCE).sum(axis=1), k) / k


def _harder(settings: SearchSettings, index: faiss.Index) -> SearchSettings:
    """Half as many candidates and lists again."""
    lists = list_counts(index)[-1]
    return replace(
        settings, candidates=math.ceil(settings.candidates * 1.5), nprobe=min(math.ceil(settings.nprobe * 1.5), lists)
    )


def _timed(index: ProductIndex, side: str, query: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    index.search_side(side, query, K)
    return time.perf_counter() - started


def _both_signs(users: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return users, -users
