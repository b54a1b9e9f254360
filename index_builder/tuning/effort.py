"""How hard an index has to be searched: the candidates and lists with which one side reaches the recall target."""

import math
from dataclasses import dataclass, replace

import faiss
import numpy as np

from index_builder.tuning.recall import LARGE_K, K, Panel, recall_at_k, summarise
from retrieval.artifact.manifest import RecallAtK
from retrieval.search.candidates import CodeScan
from retrieval.search.kinds import list_counts
from retrieval.search.settings import SearchSettings, fewest_for_scan

# From 48 to 2,600 candidates. Fewer are picked in less time than is worth an unlucky user.
CANDIDATES = [round(48 * 1.25**step) for step in range(19)]
_LEAST_RAISE = 1.25

Curve = dict[int, dict[int, RecallAtK]]  # recall at K and LARGE_K by the number of candidates, the fewest first


@dataclass(frozen=True)
class Effort:
    """Settings of one side, its recall at 10 on the users they were found with, and whether that meets the target."""

    settings: SearchSettings
    recall: RecallAtK
    meets_target: bool


def candidate_counts(rows: int) -> list[int]:
    """Return the numbers of candidates to try: those with which a search does not rather scan all of the rows."""
    return [count for count in CANDIDATES if count < fewest_for_scan(rows)]


def exact_effort(users: int) -> Effort:
    """Return the effort of an exact scan, which takes no settings."""
    return Effort(SearchSettings(), summarise(np.ones(users), K), meets_target=True)


class SideScan:
    """The searches of a panel's users on one side of an index, which are prepared once."""

    def __init__(self, index: faiss.Index, panel: Panel, side: str):
        self._scan, self._panel, self._side = CodeScan(index), panel, side
        self._queries = self._scan.transformed(panel.queries(side))
        self._rows = index.ntotal

    def curve(self, nprobe: int, most: float = CANDIDATES[-1]) -> Curve:
        """Measure recall with each number of candidates, up to `most`, from this many lists."""
        scan, panel, side = self._scan, self._panel, self._side
        exact, _ = panel.exact[side]
        highest, curve, scores = {k: exact[:, :k] for k in (K, LARGE_K)}, {}, None
        counts = [count for count in candidate_counts(self._rows) if count <= most] or [self._rows]
        for count in reversed(counts):
            if scores is None or scan.is_graph:  # A graph is walked differently for each count.
                found = scan.find(self._queries, count, SearchSettings(count, nprobe=nprobe), count)
                scores = panel.scores(side, found)
            curve[count] = {
                k: recall_at_k(scores[:, :count], top[:, -1:], top.shape[1], k) for k, top in highest.items()
            }
        return dict(sorted(curve.items()))


def least_effort(curve: Curve, nprobe: int, target: float, reserve: int) -> Effort:
    """Return the fewest candidates that reach the target at both k, and so many steps in reserve; or else the most."""
    counts = list(curve)

    def step_reaching(k: int) -> int:
        reaching = (i for i, count in enumerate(counts) if curve[count][k].lower_bound >= target)
        return next(reaching, len(counts))

    steps = {k: step_reaching(k) for k in (K, LARGE_K)}
    count, large = (counts[min(steps[k] + reserve, len(counts) - 1)] for k in (K, LARGE_K))
    return Effort(SearchSettings(count, large / LARGE_K, nprobe), curve[count][K], max(steps.values()) < len(counts))


def raised_effort(
    index: faiss.Index, panel: Panel, side: str, settings: SearchSettings, target: float, reserve: int
) -> SearchSettings:
    """Return deeper settings for a side that missed the target, from the users who missed and all before them.

    A step at least is taken, and where that does not do, as many as these users need, unless a search would scan all
    rows then.
    """
    most = max(fewest_for_scan(index.ntotal) - 1, settings.candidates)
    nprobe = min(math.ceil(settings.nprobe * _LEAST_RAISE), list_counts(index)[-1])
    needed = least_effort(SideScan(index, panel, side).curve(nprobe), nprobe, target, reserve).settings
    return replace(
        needed,
        candidates=min(max(needed.candidates, math.ceil(settings.candidates * _LEAST_RAISE)), most),
        per_match=min(max(needed.per_match, settings.per_match * _LEAST_RAISE), max(most / LARGE_K, 1.0)),
    )
