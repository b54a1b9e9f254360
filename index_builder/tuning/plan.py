"""The kinds of index that may suit a catalogue, and which of them a sample of it rules out."""

import math
from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from index_builder.kinds.tiers import Tier, TieredKind
from index_builder.kinds.training import Trainer
from index_builder.tuning.effort import candidate_counts
from index_builder.tuning.recall import K, Panel
from retrieval.records.vector_file import VectorFile
from retrieval.search.ranking import SIDES, TOLERANCE

MIN_ROWS = 5_000  # An exact scan of fewer takes less time than the service around it.
_MIN_ROWS_FOR_LISTS, _MAX_ROWS_FOR_ONE_LIST = 50_000, 500_000
# Codes go to directions of high variance first. What skimps on the tail misses products whose few shared words lie in
# it, so all layouts but the last cover most directions of word embeddings, and the last ones cover all there are.
_LAYOUTS = (((32, 1), (64, 2), (128, 4)), ((48, 1), (160, 2)), ((64, 1), (128, 2)))
_SCREENED_ROWS, _SCREENED_USERS, _SCREENED_DEPTH = 16_384, 150, 3_000
_SEED = 4
# A byte of a picked row takes as long as this many bytes of codes, which are scanned in order.
_PICKED_BYTES = 6.0
_FINALISTS, _FINALIST_COST = 2, 1.3
_SHARE_SCANNED_OF_LISTS = 0.4


def plausible_kinds(rows: int, dimension: int) -> list[TieredKind]:
    """Return the kinds to compare for a catalogue, without lists, fewest codes first; none where an exact scan will do.

    Layouts that take more directions than there are, end where these do; vectors of many dimensions get more codes too.
    """
    if rows < MIN_ROWS:
        return []
    layouts = [_fitted(layout, 2**scale, dimension) for layout in _LAYOUTS for scale in _scales(dimension)]
    kinds = {TieredKind(tiers) for tiers in [*layouts, (Tier(dimension, 2),), (Tier(dimension, 1),)]}
    return sorted(kinds, key=lambda kind: (len(kind.directions_of_codes), str(kind)))


class Screening:
    """A sample of a catalogue, on which kinds are compared by the candidates that they need.

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

    def contenders(self, kinds: Sequence[TieredKind]) -> list[TieredKind]:
        """Return the kinds to build whole: as they are, with about as many lists as the root of the rows, or both."""
        rows, lists = self._vectors.rows, 2 ** round(math.log2(math.sqrt(self._vectors.rows)))
        with_lists = [TieredKind(kind.tiers, lists) for kind in self.finalists(kinds, _SHARE_SCANNED_OF_LISTS)]
        if rows < _MIN_ROWS_FOR_LISTS:
            return self.finalists(kinds)
        # Lists take long to make. They pay, or not, for one layout of codes much as for another.
        return [*self.finalists(kinds), *with_lists[:1]] if rows < _MAX_ROWS_FOR_ONE_LIST else with_lists

    def finalists(self, kinds: Sequence[TieredKind], share_scanned: float = 1.0) -> list[TieredKind]:
        """Return the kinds, the most promising first, that may answer soonest; none where all miss the target."""
        costs: dict[TieredKind, float] = {}
        for kind in kinds:
            scan = share_scanned * self._vectors.rows * len(kind.directions_of_codes) / 2 * len(SIDES)
            if costs and scan > _FINALIST_COST * min(costs.values()):
                break  # Kinds that follow have more codes still.
            candidates = self.candidates(kind)
            if candidates is not None:
                costs[kind] = scan + _PICKED_BYTES * 4 * self._vectors.dimension * candidates
        promising = [kind for kind in costs if costs[kind] <= _FINALIST_COST * min(costs.values())]
        return sorted(promising, key=lambda kind: costs[kind])[:_FINALISTS]

    def candidates(self, kind: TieredKind) -> int | None:
        """Estimate how many candidates both sides need together over the whole catalogue, without lists."""
        if kind not in self._needed:
            index = self._trainer.train(str(kind))
            index.add(self._units)
            needed = [self._candidates_of_side(index, side) for side in SIDES]
            self._needed[kind] = None if None in needed else sum(filter(None, needed))
        return self._needed[kind]

    def _candidates_of_side(self, index: faiss.Index, side: str) -> int | None:
        queries = self._queries[side]
        _, found = index.search(queries, min(_SCREENED_DEPTH, index.ntotal))
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
