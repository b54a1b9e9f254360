"""Times searches as they are served: one user at a time, on one thread."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_builder.kinds.training import one_thread
from index_builder.tuning.recall import K
from retrieval.search.index import ProductIndex
from retrieval.search.settings import SideSettings

_MAX_TIMED_USERS, _MIN_TIMED_USERS, _MAX_TIMED_SECONDS = 60, 7, 3.0


@dataclass(frozen=True)
class TimedSearch:
    """A search of both sides of an index of some kind."""

    factory: str
    settings: SideSettings
    index: ProductIndex

    def __call__(self, user: NDArray[np.float32]) -> object:
        return self.index.search(user, K)


def median_seconds(searches: Sequence[TimedSearch], users: NDArray[np.float32]) -> list[float]:
    """Return the median CPU seconds that each search takes for one of the users (u, d).

    They are timed in turns, user by user, so that whatever else the machine does meets them all. Slow ones get fewer
    users.
    """
    with one_thread():
        times: list[list[float]] = [[] for _ in searches]
        for i in range(min(len(users), _MAX_TIMED_USERS)):
            for search, taken in zip(searches, times, strict=True):
                taken.append(_seconds(search, users[i : i + 1]))
            if i + 1 >= _MIN_TIMED_USERS and sum(map(sum, times)) > _MAX_TIMED_SECONDS:
                break
    return [statistics.median(taken) for taken in times]


def _seconds(search: TimedSearch, user: NDArray[np.float32]) -> float:
    started = time.thread_time()
    search(user)
    return time.thread_time() - started
