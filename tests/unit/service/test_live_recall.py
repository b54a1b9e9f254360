"""Some users are answered again, one at a time, while no request waits."""

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from retrieval.search.exact_scan import Pace
from retrieval.search.filters.tree import Filter
from retrieval.search.ranking import Neighbours, SearchPath
from retrieval.search.reranking.request import Request
from service.cores import Cores, shared_cores
from service.recommender import live_recall
from service.recommender.live_recall import LiveRecall, recall_of

SECONDS = 20
USERS = np.eye(4, dtype=np.float32)
EXACT = {"best": [0.9, 0.8, 0.7, 0.6], "worst": [-0.5, -0.4, -0.3, -0.2]}


def neighbours(scores: list[list[float]], path: str = "candidates") -> Neighbours:
    found = np.array(scores, np.float64)
    return Neighbours(np.where(np.isnan(found), -1, 1), np.nan_to_num(found), SearchPath(path))


class Engine:
    """Has the exact answer to everybody, in two turns."""

    is_exact = False

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.turns = 0

    def search_exactly(
        self, unit_vectors: np.ndarray, k: int, query: Filter | None, excluded: Collection[str], pace: Pace
    ) -> tuple[Neighbours, Neighbours]:
        self.asked.append((unit_vectors.tolist(), k, query, excluded))
        for _ in range(2):
            with pace():
                self.turns += 1
        best, worst = (neighbours([EXACT[side][:k]], "exact") for side in ("best", "worst"))
        return best, worst


class Reports:
    def __init__(self) -> None:
        self.made: list[tuple[str, float]] = []
        self._both = threading.Semaphore(0)

    def __call__(self, side: str, recall: float) -> None:
        self.made.append((side, recall))
        self._both.release()

    def wait(self) -> list[tuple[str, float]]:
        assert self._both.acquire(timeout=SECONDS)
        assert self._both.acquire(timeout=SECONDS)
        return self.made


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


SIDES = neighbours([[0.9, 0.8, 0.6]]), neighbours([[-0.5, -0.4, -0.3]])


@pytest.fixture
def cores() -> Cores:
    return Cores(shared_cores(), 1)


@pytest.mark.parametrize(
    ("scores", "recall"),
    [
        ([0.9, 0.8, 0.7, 0.6], 1.0),
        ([0.9, 0.8, 0.7, 0.599992], 1.0),  # within the tolerance of the exact k-th score
        ([0.9, 0.8, 0.7, 0.59998], 0.75),
        ([0.7, 0.2], 0.25),
        ([0.9, 0.8, 0.7, 0.65, 0.62], 1.0),
        ([], 0.0),
    ],
    ids=str,
)
def test_the_recall_is_the_share_of_exact_matches_whose_score_an_answer_reaches(
    scores: list[float], recall: float
) -> None:
    assert recall_of(np.array(scores), np.array(EXACT["best"]), 1.0) == recall
    assert recall_of(-np.array(scores), -np.array(EXACT["best"]), -1.0) == recall


def test_a_user_is_scanned_for_as_asked_and_both_sides_are_reported(cores: Cores) -> None:
    engine, reports, query = Engine(), Reports(), object()
    request = Request(3, query, frozenset(["p1"]))  # type: ignore[arg-type]
    LiveRecall(1.0, cores, reports).offer(engine, USERS[:1], request, SIDES)
    assert reports.wait() == [("best", pytest.approx(2 / 3)), ("worst", 1.0)]
    assert engine.asked == [(USERS[:1].tolist(), 3, query, frozenset(["p1"]))]


def test_no_more_than_a_hundred_matches_are_compared(cores: Cores) -> None:
    engine, reports = Engine(), Reports()
    LiveRecall(1.0, cores, reports).offer(engine, USERS[:1], Request(1000), SIDES)
    reports.wait()
    assert engine.asked[0][1] == 100


def test_what_an_engine_did_not_find_counts_as_missed(cores: Cores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXACT, "best", [0.9, -0.1, -0.2, -0.3])  # The padding's score of 0 would reach the last one.
    monkeypatch.setitem(EXACT, "worst", [-0.5, 0.2, 0.3, 0.4])
    reports, nan = Reports(), float("nan")
    sides = neighbours([[0.9, nan, nan, nan]]), neighbours([[-0.5, 0.2, nan, nan]])
    LiveRecall(1.0, cores, reports).offer(Engine(), USERS[:1], Request(4), sides)
    assert reports.wait() == [("best", 0.25), ("worst", 0.5)]


@pytest.mark.parametrize("path", ["exact", "matching rows", "nothing matches", "exact and delta"])
def test_what_was_found_exactly_is_not_looked_at_again(cores: Cores, path: str) -> None:
    engine = Engine()
    LiveRecall(1.0, cores, Reports()).offer(engine, USERS[:1], Request(3), (neighbours([[0.9]], path), SIDES[1]))
    time.sleep(0.05)
    assert engine.asked == []


def test_a_share_of_nothing_takes_nobody_and_one_of_some_takes_some(cores: Cores) -> None:
    taken = {}
    for share in (0.0, 0.02):
        engine, reports = Engine(), Reports()
        live = LiveRecall(share, cores, reports)
        live._random.seed(1)
        for _ in range(1000):
            live.offer(engine, USERS[:1], Request(3), SIDES)
            until(lambda: not live._at_work.locked())  # noqa: B023
        taken[share] = len(engine.asked)
    assert taken[0.0] == 0
    draw, expected = random.Random(1), 0
    for _ in range(1000):
        if draw.random() < 0.02:
            expected += 1
            draw.randrange(1)  # which of the users
    assert taken[0.02] == expected > 10


def test_of_users_who_share_a_search_as_many_are_taken(cores: Cores) -> None:
    engine, live = Engine(), LiveRecall(0.25, cores, Reports())
    four = neighbours([[0.9, 0.8, 0.7]] * 4), neighbours([[-0.5, -0.4, -0.3]] * 4)
    for _ in range(40):
        live.offer(engine, USERS, Request(3), four)
        until(lambda: not live._at_work.locked())
    assert len(engine.asked) == 40
    assert len({str(vectors) for vectors, *_ in engine.asked}) == 4


@contextmanager
def waiting(live: LiveRecall) -> Iterator[None]:
    live.requests_wait = lambda: True
    yield
    live.requests_wait = lambda: False


def test_a_scan_gives_way_to_requests_and_no_other_is_begun_meanwhile(cores: Cores) -> None:
    engine, reports = Engine(), Reports()
    live = LiveRecall(1.0, cores, reports)
    with waiting(live):
        live.offer(engine, USERS[:1], Request(3), SIDES)
        until(lambda: engine.asked != [])
        live.offer(engine, USERS[1:2], Request(3), SIDES)
        time.sleep(0.05)
        assert (engine.turns, reports.made) == (0, [])
    reports.wait()
    assert len(engine.asked) == 1


def test_a_scan_waits_for_a_core_that_is_idle_and_gives_it_back(cores: Cores) -> None:
    engine, reports = Engine(), Reports()
    with cores.one():
        LiveRecall(1.0, cores, reports).offer(engine, USERS[:1], Request(3), SIDES)
        until(lambda: engine.asked != [])
        time.sleep(0.05)
        assert engine.turns == 0
    reports.wait()
    with cores.idle() as is_idle:
        assert is_idle


def test_a_scan_that_requests_leave_no_time_is_dropped(cores: Cores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_recall, "_MAX_SECONDS", 0.05)
    engine, reports = Engine(), Reports()
    live = LiveRecall(1.0, cores, reports)
    with waiting(live):
        live.offer(engine, USERS[:1], Request(3), SIDES)
        until(lambda: engine.asked != [] and not live._at_work.locked())
    assert (engine.turns, reports.made) == (0, [])
    live.offer(engine, USERS[:1], Request(3), SIDES)
    assert len(reports.wait()) == 2


def test_a_scan_that_fails_is_logged_and_the_next_one_goes_on(cores: Cores, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Engine):
        def search_exactly(self, *_: object) -> tuple[Neighbours, Neighbours]:
            raise RuntimeError("index page 4711 is gone")

    reports = Reports()
    live = LiveRecall(1.0, cores, reports)
    with caplog.at_level(logging.ERROR):
        live.offer(Broken(), USERS[:1], Request(3), SIDES)
        until(lambda: not live._at_work.locked())
    assert "index page 4711 is gone" in caplog.text
    live.offer(Engine(), USERS[:1], Request(3), SIDES)
    reports.wait()


def test_the_build_of_the_last_user_is_closed_once_it_is_no_longer_served(cores: Cores) -> None:
    engine, reports = Engine(), Reports()
    live, known = LiveRecall(1.0, cores, reports), weakref.ref(engine)
    live.offer(engine, USERS[:1], Request(3), SIDES)
    reports.wait()
    until(lambda: not live._at_work.locked())
    del engine
    assert known() is None


def test_an_answer_that_cannot_be_compared_does_not_end_all_sampling(cores: Cores) -> None:
    reports = Reports()
    live = LiveRecall(1.0, cores, reports)
    short = Neighbours(np.ones((0, 3), np.int64), np.ones((0, 3)), SearchPath("candidates"))
    with pytest.raises(IndexError):
        live.offer(Engine(), USERS[:1], Request(3), (short, short))
    live.offer(Engine(), USERS[:1], Request(3), SIDES)
    assert reports.wait() == [("best", pytest.approx(2 / 3)), ("worst", 1.0)]
