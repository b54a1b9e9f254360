"""An engine of a few products that remembers what it was asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from retrieval.search.ranking import Neighbours
from service.engines.base import IndexInfo

EAST, NORTH_EAST, NORTH, WEST = [1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]


class FakeEngine:
    """Keeps the contract of `SearchEngine` over the products of `vectors`, an id to a unit vector."""

    is_available, concurrency, search_seconds = True, 2, 0.0
    report: bytes | None = None

    def __init__(self, **vectors: list[float]):
        self._ids, self._vectors = list(vectors), np.array(list(vectors.values()), np.float64)
        self.info = IndexInfo("fake-build", len(vectors), self._vectors.shape[1], "fake", {"best": 1.0, "worst": 1.0})
        self.searches: list[tuple[NDArray[np.float32], int]] = []
        self._may_answer, self._released = threading.Event(), 0
        self._may_answer.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let searches begin and not end until the block ends, but for those of a released thread."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def release_this_thread(self) -> None:
        self._released = threading.get_ident()

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        self.searches.append((unit_vectors, k))
        if threading.get_ident() != self._released:
            self._may_answer.wait()
        scores = np.round(unit_vectors.astype(np.float64) @ self._vectors.T, 6)
        return self._first(-scores, scores, k), self._first(scores, scores, k)

    def prefixes(self, positions: NDArray[np.int64]) -> list[bytes]:
        return [f'{{"id":"{self._ids[i]}","name":"the {self._ids[i]}"'.encode() for i in positions]

    def _first(self, ranking: NDArray[np.float64], scores: NDArray[np.float64], k: int) -> Neighbours:
        order = np.argsort(ranking, axis=1, kind="stable")[:, :k]
        return Neighbours(order, np.take_along_axis(scores, order, axis=1))


class BrokenEngine(FakeEngine):
    """Fails on every search while `broken`."""

    broken = True

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        if self.broken:
            raise RuntimeError("index page 4711 is gone")
        return super().search(unit_vectors, k)


def compass() -> FakeEngine:
    return FakeEngine(east=EAST, north_east=NORTH_EAST, north=NORTH, west=WEST)
