"""Times searches as they are served, on one thread: one user at a time, or the users of a batch at once."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_builder.tuning.recall import K
from retrieval.search.index import ProductIndex, one_thread
from retrieval.search.settings import SideSettings

_MAX_TIMED_CALLS, _MIN_TIMED_CALLS, _MAX_TIMED_SECONDS = 60, 7, 3.0
BATCH_USERS = 64
_SEED = 6

Search = Callable[[NDArray[np.float32]], object]  # of users (u, d)


@dataclass(frozen=True)
class TimedSearch:
    """A search of both sides of an index of some kind."""

    factory: str
    settings: SideSettings
    index: ProductIndex

    def __call__(self, users: NDArray[np.float32]) -> object:
        return self.index.search(users, K)


def median_seconds(searches: Sequence[Search], users: NDArray[np.float32], at_once: int = 1) -> list[float]:
    """Return the median CPU seconds that each search takes for one call with so many of the users (u, d).

    They are timed in turns, call by call, so that whatever else the machine does meets them all; and in an order drawn
    anew for each call, as what a search leaves in the processor's caches slows the next one. Slow ones get fewer calls.
    """
    draw = np.random.default_rng(_SEED)
    with one_thread():
        times: list[list[float]] = [[] for _ in searches]
        for i in range(min(len(users), _MAX_TIMED_CALLS)):
            of_call = users[np.arange(i * at_once, (i + 1) * at_once) % len(users)]
            for number in draw.permutation(len(searches)):
                times[number].append(_seconds(searches[number], of_call))
            if i + 1 >= _MIN_TIMED_CALLS and sum(map(sum, times)) > _MAX_TIMED_SECONDS:
                break
    return [statistics.median(taken) for taken in times]


def _seconds(search: Search, users: NDArray[np.float32]) -> float:
    started = time.thread_time()
    search(users)
    return time.thread_time() - started
