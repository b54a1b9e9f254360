"""The embedded engine: a FAISS build, memory-mapped into this process."""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.build import Build
from retrieval.artifact.store import open_pinned
from retrieval.search.exact_scan import Pace
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.filters.tree import Filter, every
from retrieval.search.filters.values import FieldValues
from retrieval.search.index import use_threads
from retrieval.search.ranking import Neighbours
from retrieval.search.reranking.limits import ProductValues
from service.cores import Cores
from service.engines.base import DeltaInfo, IndexInfo, check_label, header_text
from service.engines.shown_products import read_shown

_TIMED_SEARCHES, _TIMED_MATCHES = 3, 10  # to learn how long one takes


def open_engine(
    root: Path,
    build_id: str,
    cores: Cores,
    shown: str = "",
    verified: bool = True,
    requires_model: bool = False,
    on_mask: Callable[[bool], object] | None = None,
    reuse: Build | None = None,
) -> "FaissEngine":
    """Open a build of an artifacts root, of which the filter `shown` (JSON text) lets products through, or all.

    It is opened as `open_pinned` says; `on_mask` is that of a `FilterIndex`. Raises BadArtifact, or BadSetting where
    the filter does not fit it, and where one `requires_model` that it has no label of.
    """
    build = open_pinned(root, build_id, verified, reuse)
    check_label(build.manifest.embedding_model, requires_model)
    build.index.warm()
    build.filters.on_mask = on_mask or build.filters.on_mask
    return FaissEngine(build, cores, read_shown(build.filters.vocabulary, shown))


def info_of(build: Build) -> IndexInfo:
    """Return what is served of a build."""
    manifest, quality = build.manifest, build.manifest.quality
    return IndexInfo(
        build.id,
        manifest.products,
        manifest.dimension,
        manifest.index.factory,
        asdict(manifest.recall),
        [asdict(each) for each in manifest.filterable],
        header_text(manifest.embedding_model),
        None if quality is None else asdict(quality),
        _delta_info(build),
    )


def _delta_info(build: Build) -> DeltaInfo | None:
    manifest, delta = build.manifest, build.manifest.delta
    if delta is None:
        return None
    counts = delta.added, delta.replaced, delta.changed, delta.deleted
    return DeltaInfo(delta.base, manifest.created, *counts, manifest.size_bytes, build.base.manifest.size_bytes)


class FaissEngine:
    """Serves the products of one open build that a filter lets through. A search takes a core, and waits for one."""

    is_available = True
    max_matches = sys.maxsize

    def __init__(self, build: Build, cores: Cores, shown: Filter = EVERYTHING):
        self.build = build
        self._index, self._products, self.work = build.index, build.products, cores.work
        self.is_exact = build.index.is_exact
        self._projection, self._filters = build.projection, build.filters
        all_are_shown = shown == EVERYTHING and build.base is build  # Of a delta's base, some are no more.
        self._shown, self._shown_mask = shown, None if all_are_shown else build.filters.mask(shown)
        self.vocabulary = build.filters.vocabulary
        self.values_of = ProductValues(build.products.__getitem__).of
        self.prefixes, self.project = build.products.prefixes, build.projection.project
        self.sample_users: list[dict[str, Any]] = build.sample_users
        self.report = build.report if shown == EVERYTHING else None  # It tells of products that are not shown.
        manifest = build.manifest
        self.info = info_of(build)
        self.shown_products = self._shown_mask.matched if self._shown_mask else manifest.products
        self.concurrency = cores.count
        self.search_seconds = min(self._time_search() for _ in range(_TIMED_SEARCHES))

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        with self.work():
            use_threads(1)
            return self._index.search(unit_vectors, k, self._shown_mask)

    def search_matching(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        query: Filter,
        excluded: Collection[str] = (),
        without: Filter | None = None,
    ) -> tuple[Neighbours, Neighbours, int]:
        with self.work():
            use_threads(1)
            return self.build.search_matching(unit_vectors, k, every((self._shown, query)), excluded, without)

    def search_exactly(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        query: Filter | None,
        excluded: Collection[str],
        pace: Pace,
    ) -> tuple[Neighbours, Neighbours]:
        use_threads(1)
        matching = every((self._shown, EVERYTHING if query is None else query))
        best, worst, _ = self.build.search_matching(unit_vectors, k, matching, excluded, pace=pace)
        return best, worst

    def fields_of(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [self._products[position] for position in positions.tolist()]

    def vectors_of(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        use_threads(1)
        return self.build.vectors(positions)

    def positions_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        positions = self._products.positions(ids)
        return np.where((positions >= 0) & self._are_shown(positions), positions, -1)

    def _time_search(self) -> float:
        began = time.perf_counter()
        self.search(np.full((1, self.info.dimension), self.info.dimension**-0.5, np.float32), _TIMED_MATCHES)
        return time.perf_counter() - began

    def starting_with(self, prefix: str, limit: int) -> NDArray[np.int64]:
        return self._first_shown(self._products.starting_with(prefix), limit)

    def containing(self, text: str, limit: int) -> NDArray[np.int64]:
        return self._first_shown(self._products.containing(text), limit)

    def field_values(self, name: str, text: str, limit: int) -> FieldValues:
        return self._filters.values(name, self._are_shown, text, limit)

    @cached_property
    def sampled_points(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        positions = self._projection.positions[self._are_shown(self._projection.positions)]
        return positions, self.project(self.vectors_of(positions))

    def _first_shown(self, parts: Iterable[NDArray[np.integer]], limit: int) -> NDArray[np.int64]:
        """Return the first positions that are shown; no more parts are taken than these need."""
        found, count = [np.empty(0, np.int64)], 0
        for positions in parts:
            found.append(positions[self._are_shown(positions)].astype(np.int64))
            count += len(found[-1])
            if count >= limit:
                break
        return np.concatenate(found)[:limit]

    def _are_shown(self, positions: NDArray[np.integer]) -> NDArray[np.bool_]:
        return np.ones(len(positions), np.bool_) if self._shown_mask is None else self._shown_mask.holds(positions)
