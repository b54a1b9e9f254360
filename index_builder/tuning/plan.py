"""The kinds of index that may suit a catalogue, and which of them a sample of it rules out."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import faiss
import numpy as np
from numpy.typing import NDArray

from index_builder.kinds.tiers import Tier, TieredKind
from index_builder.kinds.training import Trainer
from index_builder.tuning.effort import CANDIDATES, candidate_counts
from index_builder.tuning.recall import K, Panel
from retrieval.cores import available_cores
from retrieval.records.vector_file import VectorFile
from retrieval.search.candidates import CodeScan
from retrieval.search.index import use_threads
from retrieval.search.kinds import steps_of_lists
from retrieval.search.ranking import SIDES, TOLERANCE
from retrieval.search.settings import SearchSettings

MIN_ROWS = 5_000  # An exact scan of fewer takes less time than the service around it.
# Codes go to directions of high variance first. What skimps on the tail misses products whose few shared words lie in
# it, so all layouts but the last cover most directions of word embeddings, and the last ones cover all there are.
_LAYOUTS = (((32, 1), (64, 2), (128, 4)), ((48, 1), (160, 2)), ((64, 1), (128, 2)))
_SCREENED_ROWS, _SCREENED_USERS, _SCREENED_DEPTH = 8_192, 150, 3_000
_SEED = 4
# Picking a byte of a row takes as long as scanning this many bytes of codes in order, and so does going to a list.
_PICKED_BYTES, _VISIT_BYTES = 6.0, 16_000
_SPARE_RECALL = 0.003  # that lists leave to the codes, of what the target lets both miss
_CONTENDERS, _CONTENDER_COST = 2, 1.3


def plausible_kinds(rows: int, dimension: int) -> list[TieredKind]:
    """Return the kinds to compare for a catalogue, without lists, fewest codes first; none where an exact scan will do.

    Layouts that take more directions than there are, end where these do; vectors of many dimensions get more codes too.
    """
    if rows < MIN_ROWS:
        return []
    layouts = [_fitted(layout, 2**scale, dimension) for layout in _LAYOUTS for scale in _scales(dimension)]
    kinds = {TieredKind(tiers) for tiers in [*layouts, (Tier(dimension, 2),), (Tier(dimension, 1),)]}
    return sorted(kinds, key=lambda kind: (len(kind.directions_of_codes), str(kind)))


@dataclass(frozen=True)
class _Visits:
    """How many lists a search of one side visits, and which share of the rows these hold."""

    lists: int
    share: float


class Screening:
    """A sample of a catalogue, on which kinds are compared by the codes that they scan and the candidates they need.

    It holds the exact answers of some users, so a kind that ranks these behind so many of the sample's other rows
    would rank them behind as many times more of all rows.
    """

    def __init__(self, vectors: VectorFile, trainer: Trainer, panel: Panel, target: float):
        users = slice(_SCREENED_USERS)
        self._queries = {side: panel.queries(side)[users] for side in SIDES}
        self._kth_scores = {side: panel.exact[side][0][users, :K][:, -1:] for side in SIDES}
        answers = np.unique(np.concatenate([panel.exact[side][1][users, :K].ravel() for side in SIDES]))
        drawn = np.random.default_rng(_SEED).choice(vectors.rows, min(_SCREENED_ROWS, vectors.rows), replace=False)
        others = np.setdiff1d(drawn, answers)
        self._units = vectors.take(np.concatenate([answers, others]))
        share = (vectors.rows - len(answers)) / max(len(others), 1)
        self._weights = np.repeat([1.0, share], [len(answers), len(others)])
        self._vectors, self._trainer, self._target = vectors, trainer, target
        self._needed: dict[TieredKind, int | None] = {}
        self._visits = cache(self._min_visits)

    def contenders(self, kinds: Sequence[TieredKind]) -> list[TieredKind]:
        """Return the kinds to build whole, the most promising first: as they are, or with lists.

        There are about as many lists as the root of the rows. None are returned where all kinds miss the target.
        """
        lists = 2 ** round(math.log2(math.sqrt(self._vectors.rows)))
        with_lists = [TieredKind(kind.tiers, lists) for kind in kinds]
        scans = {kind: self._scan(kind) for kind in kinds}
        scans |= {kind: scan for kind in with_lists if (scan := self._scan(kind)) < scans[TieredKind(kind.tiers)]}
        cost_of_candidate = _PICKED_BYTES * 4 * self._vectors.dimension
        least = len(SIDES) * CANDIDATES[0] * cost_of_candidate
        costs: dict[TieredKind, float] = {}
        by_scan, cores = sorted(scans, key=lambda kind: scans[kind]), available_cores()
        with ThreadPoolExecutor(cores, initializer=use_threads, initargs=(1,)) as pool:
            for start in range(0, len(by_scan), cores):
                several = by_scan[start : start + cores]
                if costs and scans[several[0]] + least > _CONTENDER_COST * min(costs.values()):
                    break  # Kinds that follow take still longer to scan.
                for kind, candidates in zip(several, pool.map(self.candidates, several), strict=True):
                    if candidates is not None:
                        costs[kind] = scans[kind] + cost_of_candidate * candidates
        promising = [kind for kind in costs if costs[kind] <= _CONTENDER_COST * min(costs.values())]
        return sorted(promising, key=lambda kind: costs[kind])[:_CONTENDERS]

    def candidates(self, kind: TieredKind) -> int | None:
        """Estimate how many candidates both sides need together over the whole catalogue."""
        if kind not in self._needed:
            index = self._trainer.train(str(kind))
            index.add(self._units)
            needed = [self._candidates_of_side(index, side, self._visits(kind.lists, side).lists) for side in SIDES]
            self._needed[kind] = None if None in needed else sum(filter(None, needed))
        return self._needed[kind]

    def _scan(self, kind: TieredKind) -> float:
        """Return how many bytes of codes could be scanned while a kind's are, for both sides."""
        visits = [self._visits(kind.lists, side) for side in SIDES]
        scanned = sum(each.share for each in visits) * self._vectors.rows * len(kind.directions_of_codes) / 2
        return scanned + sum(each.lists for each in visits) * _VISIT_BYTES

    def _min_visits(self, lists: int, side: str) -> _Visits:
        """Return to how many of the lists nearest to a query the answers of a side belong, but for a few."""
        if lists == 1:
            return _Visits(1, 1.0)
        centroids = self._trainer.centroids(lists)
        list_of_row = np.argmax(self._units @ centroids.T, axis=1)
        nearest = np.argsort(-(self._queries[side] @ centroids.T), axis=1)
        weight_of_list = np.bincount(list_of_row, self._weights, minlength=lists)
        held = weight_of_list[nearest].cumsum(axis=1).mean(axis=0) / weight_of_list.sum()
        rank_of_list = np.argsort(nearest, axis=1)
        is_answer = self._queries[side] @ self._units.T >= self._kth_scores[side] - TOLERANCE
        least = min(1.0, self._target + _SPARE_RECALL)
        users, rows = np.nonzero(is_answer)
        ranks = rank_of_list[users, list_of_row[rows]]
        return next(
            _Visits(count, float(held[count - 1]))
            for count in steps_of_lists(lists)
            if count == lists or (ranks < count).mean() >= least
        )

    def _candidates_of_side(self, index: faiss.Index, side: str, nprobe: int) -> int | None:
        queries = self._queries[side]
        count = min(_SCREENED_DEPTH, index.ntotal)
        scan = CodeScan(index)
        found = scan.find(scan.transformed(queries), count, SearchSettings(count, nprobe=nprobe), count)
        scores = np.take_along_axis(queries @ self._units.T, np.maximum(found, 0), axis=1)
        is_answer = (scores >= self._kth_scores[side] - TOLERANCE) & (found >= 0)
        weights = self._weights[found]
        ranks = weights.cumsum(axis=1) - weights / 2
        counts = candidate_counts(self._vectors.rows)
        return next((count for count in counts if _recall(weights * is_answer, ranks <= count) >= self._target), None)


def _recall(answers: NDArray[np.float64], are_candidates: NDArray[np.bool_]) -> float:
    return float(np.minimum((answers * are_candidates).sum(axis=1), K).mean()) / K


def _scales(dimension: int) -> range:
    """Layouts are doubled as often as the vectors have directions for it."""
    return range(max(1, int(math.log2(max(dimension, 224) / 224)) + 1))


def _fitted(layout: Sequence[tuple[int, int]], scale: int, dimension: int) -> tuple[Tier, ...]:
    tiers, left = [], dimension
    for directions, per_code in layout:
        taken = min(directions * scale, left)
        left -= taken
        if taken:
            tiers.append(Tier(taken, per_code))
    return tuple(tiers)
