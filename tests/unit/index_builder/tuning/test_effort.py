"""How many candidates and lists a side is given."""

from collections.abc import Iterator

import numpy as np
import pytest

from index_builder.tuning.effort import CANDIDATES, Curve, SideScan, least_effort, raised_effort
from index_builder.tuning.recall import Panel, summarise
from retrieval.artifact.manifest import RecallAtK
from retrieval.search.candidates import Candidates
from retrieval.search.ranking import SPARE_NEIGHBOURS
from retrieval.search.settings import SearchSettings, SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index, vector_file

DRAW = np.random.default_rng(0)
UNITS, USERS = unit_vectors(DRAW.normal(size=(4000, 16))), unit_vectors(DRAW.normal(size=(90, 16)))


@pytest.fixture(scope="module")
def panel() -> Iterator[Panel]:
    with vector_file(UNITS) as vectors:
        yield Panel.of(vectors, USERS)


def curve_of(at_10: list[float], at_100: list[float]) -> Curve:
    """A curve of these bounds, measured on so many users that means and bounds are the same but for a millionth."""
    shares = zip(CANDIDATES, at_10, at_100, strict=False)
    return {count: {10: recall(ten, 10), 100: recall(hundred, 100)} for count, ten, hundred in shares}


def recall(share: float, k: int) -> RecallAtK:
    return summarise(np.full(10**6, share), k)


@pytest.mark.parametrize(
    ("at_10", "at_100", "reserve", "steps", "meets_target"),
    [
        ([0.995, 1, 1, 1], [0.995, 1, 1, 1], 0, (0, 0), True),
        ([0.9, 0.995, 1, 1], [0.8, 0.9, 0.995, 1], 0, (1, 2), True),
        ([0.9, 0.995, 1, 1], [0.8, 0.9, 0.995, 1], 1, (2, 3), True),
        ([0.9, 0.995, 1, 1], [0.8, 0.9, 0.995, 1], 3, (3, 3), True),
        ([0.9, 0.995, 1, 1], [0.5, 0.6, 0.7, 0.9], 0, (1, 3), False),
        ([0.5, 0.6, 0.7, 0.8], [0.995, 1, 1, 1], 0, (3, 0), False),
    ],
)
def test_the_least_effort_that_reaches_the_target_is_taken(
    at_10: list[float], at_100: list[float], reserve: int, steps: tuple[int, int], meets_target: bool
) -> None:
    effort = least_effort(curve_of(at_10, at_100), 7, 0.99, reserve)
    assert effort.settings == SearchSettings(CANDIDATES[steps[0]], CANDIDATES[steps[1]] / 100, 7)
    assert effort.recall.mean == pytest.approx(at_10[steps[0]])
    assert effort.meets_target is meets_target


@pytest.mark.parametrize("side", ["best", "worst"])
@pytest.mark.parametrize(("storage", "most"), [("fp32", 2600), ("fp16", 2600), ("fp32", 150)])
def test_a_curve_is_the_recall_that_numpy_finds(panel: Panel, side: str, storage: str, most: int) -> None:
    """In whatever precision the index keeps the vectors."""
    index = faiss_index(UNITS, "Tiers8x1", storage)
    queries = USERS if side == "best" else -USERS
    curve = SideScan(index, panel, side).curve(1, most)
    counts = [
        count for count in CANDIDATES if count <= most and 8 * count < len(UNITS)
    ]  # With more, a search scans all rows.
    assert list(curve) == counts
    exact = queries.astype(np.float64) @ UNITS.T.astype(np.float64)
    _, rows = index.base_index.search(queries, counts[-1])
    for k in (10, 100):
        found = np.take_along_axis(exact, rows, axis=1) >= np.sort(exact, axis=1)[:, -k, None] - 1e-5
        for count, of_count in curve.items():
            assert of_count[k].mean == pytest.approx(found[:, :count].sum(axis=1).mean() / k, abs=2e-3)


def test_a_side_that_misses_gets_what_the_users_who_missed_need(panel: Panel) -> None:
    index = faiss_index(UNITS, "Tiers8x1,IVF9")
    started = SearchSettings(48, 1.0, 4)
    raised = raised_effort(index, panel, "best", started, 0.99, 0)
    assert raised.nprobe == 5
    needed = least_effort(SideScan(index, panel, "best").curve(5), 5, 0.99, 0)
    assert raised == needed.settings
    assert raised.candidates > 4 * started.candidates


def test_a_side_that_misses_by_bad_luck_gets_a_step_more(panel: Panel) -> None:
    index = faiss_index(UNITS, "Tiers16x1")
    raised = raised_effort(index, panel, "worst", SearchSettings(300, 3.0, 1), 0.99, 0)
    assert raised == SearchSettings(375, 3.75, 1)


def test_no_side_is_given_so_many_candidates_that_all_rows_would_be_scanned(panel: Panel) -> None:
    index = faiss_index(UNITS, "Tiers4x4")
    assert not least_effort(SideScan(index, panel, "best").curve(1), 1, 0.99, 0).meets_target
    raised = raised_effort(index, panel, "best", SearchSettings(450, 4.5, 1), 0.99, 5)
    assert raised == SearchSettings(499, 4.99, 1)
    depth = 10 + SPARE_NEIGHBOURS
    assert 8 * Candidates(index, SideSettings(raised, raised)).count_for(depth) < len(UNITS)
