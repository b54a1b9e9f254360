"""Live recall: some users are answered again by an exact scan, beside the requests, and the two answers compared."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread

import numpy as np
from numpy.typing import NDArray

from retrieval.search.ranking import SIDES, SIGNS, TOLERANCE, Neighbours
from retrieval.search.reranking.request import Request
from service.cores import Cores
from service.engines.base import ExactEngine

_MAX_MATCHES = 100  # The recall that the builder promises is that of ten and of a hundred.
_POLL_SECONDS = 0.01
_MAX_SECONDS = 5.0  # Where requests leave no more time for a scan, it is dropped.

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One user's unit vector (1, d), what the engine was asked for, and the scores (k,) of each side's answer."""

    engine: ExactEngine
    unit_vector: NDArray[np.float32]
    request: Request
    scores: dict[str, NDArray[np.float64]]


class LiveRecall:
    """Measures the recall of what users get, one user at a time, by a scan that stops while any request waits.

    It has a thread of its own, and scans some thousands of rows at a time, on a core that is idle.
    """

    def __init__(self, share: float, cores: Cores, report: Callable[[str, float], object]):
        """`report` is told the side and the recall of a `share` of users. `requests_wait` may be set to say so."""
        self.requests_wait: Callable[[], bool] = lambda: False
        self._share, self._cores, self._report = share, cores, report
        self._samples, self._at_work = SimpleQueue[Sample](), Lock()
        self._random = random.Random()  # noqa: S311 (draws users, hides nothing)
        Thread(target=self._run, name="live recall", daemon=True).start()

    def offer(
        self,
        engine: ExactEngine,
        unit_vectors: NDArray[np.float32],
        request: Request,
        sides: tuple[Neighbours, Neighbours],
    ) -> None:
        """Take one of the users (n, d) of a search, or mostly none; what was found exactly needs no other look."""
        if self._random.random() >= self._share * len(unit_vectors):
            return
        path = sides[0].path
        if path is None or path.is_exact or self._at_work.locked():
            return
        row = self._random.randrange(len(unit_vectors))
        scores = {side: found.scores[row][found.positions[row] >= 0] for side, found in zip(SIDES, sides, strict=True)}
        sample = Sample(engine, unit_vectors[row : row + 1].copy(), request, scores)
        if self._at_work.acquire(blocking=False):
            self._samples.put(sample)

    def _run(self) -> None:
        while True:
            try:
                self._measure(
                    self._samples.get()
                )  # No name is kept for it: an old build is closed once it is measured.
            except _NoTimeLeft:
                log.debug("an exact scan is dropped, as requests leave it no time")
            except Exception:  # Whatever is wrong with one sample, the thread goes on to the next.
                log.exception("an exact scan failed")
            finally:
                self._at_work.release()

    def _measure(self, sample: Sample) -> None:
        """Scan for one user, and report the share of the exact matches that each side's answer has."""
        request, until = sample.request, time.monotonic() + _MAX_SECONDS
        k = min(request.depth, _MAX_MATCHES)
        sides = sample.engine.search_exactly(
            sample.unit_vector, k, request.filter, request.excluded, lambda: self._turn(until)
        )
        for side, exact in zip(SIDES, sides, strict=True):
            if exact.scores.size:
                self._report(side, recall_of(sample.scores[side], exact.scores[0], SIGNS[side]))

    @contextmanager
    def _turn(self, until: float) -> Iterator[None]:
        """Hold an idle core, once no request waits. Raises _NoTimeLeft where that takes too long."""
        while time.monotonic() < until:
            if not self.requests_wait():
                with self._cores.idle() as is_idle:
                    if is_idle:
                        yield
                        return
            time.sleep(_POLL_SECONDS)
        raise _NoTimeLeft


class _NoTimeLeft(Exception):
    """Requests wait, or keep all cores busy."""


def recall_of(scores: NDArray[np.float64], exact: NDArray[np.float64], sign: float) -> float:
    """Return the share of the exact matches, with these scores (k,), that as many scores of an answer reach."""
    reached = np.count_nonzero(sign * scores[: len(exact)] >= sign * exact[-1] - TOLERANCE)
    return float(reached / len(exact))
