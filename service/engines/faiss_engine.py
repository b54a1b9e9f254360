"""The embedded engine: a FAISS build, memory-mapped into this process."""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.store import Build
from retrieval.search.filters.tree import Filter
from retrieval.search.index import use_threads
from retrieval.search.ranking import Neighbours
from service.cores import Cores
from service.engines.base import IndexInfo

_TIMED_SEARCHES, _TIMED_MATCHES = 3, 10  # to learn how long one takes


class FaissEngine:
    """Serves one open build. A search takes a core, and waits for one."""

    is_available = True

    def __init__(self, build: Build, cores: Cores):
        self._index, self._products, self._cores = build.index, build.products, cores
        self._projection, self._filters = build.projection, build.filters
        self.vocabulary = build.filters.vocabulary
        self.prefixes, self.project = build.products.prefixes, build.projection.project
        self.sample_users: list[dict[str, Any]] = build.sample_users
        manifest = build.manifest
        recall = asdict(manifest.recall)
        filterable = [asdict(each) for each in manifest.filterable]
        self.info = IndexInfo(
            build.id, manifest.products, manifest.dimension, manifest.index.factory, recall, filterable
        )
        self.concurrency = cores.count
        self.search_seconds = min(self._time_search() for _ in range(_TIMED_SEARCHES))

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        with self._cores.one():
            use_threads(1)
            return self._index.search(unit_vectors, k)

    def search_matching(
        self, unit_vectors: NDArray[np.float32], k: int, query: Filter, excluded: Collection[str] = ()
    ) -> tuple[Neighbours, Neighbours]:
        with self._cores.one():
            use_threads(1)
            positions = self._products.positions([*excluded]) if excluded else None
            mask = self._filters.mask(query, positions if positions is None else positions[positions >= 0])
            return self._index.search(unit_vectors, k, mask)

    def count_matching(self, query: Filter) -> int:
        return self._filters.mask(query).matched

    def fields_of(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [self._products[position] for position in positions.tolist()]

    def find(self, product_id: str) -> int | None:
        return self._products.position(product_id)

    def _time_search(self) -> float:
        began = time.perf_counter()
        self.search(np.full((1, self.info.dimension), self.info.dimension**-0.5, np.float32), _TIMED_MATCHES)
        return time.perf_counter() - began

    def starting_with(self, prefix: str, limit: int) -> NDArray[np.int64]:
        return np.array(self._products.starting_with(prefix, limit), np.int64)

    def unit_vectors_of(self, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        positions = [self._products.position(identifier) for identifier in ids]
        known = [position for position in positions if position is not None]
        vectors = iter(self._vectors(known) if known else ())
        return [None if position is None else next(vectors) for position in positions]

    @cached_property
    def sampled_points(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        positions = self._projection.positions
        return positions, self.project(self._vectors(positions.tolist()))

    def _vectors(self, positions: list[int]) -> NDArray[np.float32]:
        use_threads(1)
        return self._index.vectors(self._products.rows(positions))
