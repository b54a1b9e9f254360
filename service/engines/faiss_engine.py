"""The embedded engine: a FAISS build, memory-mapped into this process."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.artifact.build import Build, open_build
from retrieval.search.exact_scan import Pace
from retrieval.search.filters.language import EVERYTHING, BadFilter
from retrieval.search.filters.masks import FilterIndex
from retrieval.search.filters.tree import Filter, every
from retrieval.search.index import use_threads
from retrieval.search.ranking import Neighbours
from service.cores import Cores
from service.engines.base import IndexInfo
from service.errors import BadSetting

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

    It is verified unless it was `verified` before, and shares the base of the build to `reuse`, if it is a delta on it.
    `on_mask` is that of a `FilterIndex`. Raises BadArtifact, or BadSetting where the filter does not fit it, and where
    one `requires_model` that it has no label of.
    """
    build = open_build(root, build_id, verified, reuse)
    check_label(build.manifest.embedding_model, requires_model)
    build.index.warm()
    build.filters.on_mask = on_mask or build.filters.on_mask
    return FaissEngine(build, cores, read_shown(build.filters, shown))


def read_shown(filters: FilterIndex[Any], text: str) -> Filter:
    """Return the filter of `RECO_FILTER`, of which an empty text lets all through. Raises BadSetting."""
    try:
        return filters.parse(orjson.loads(text)) if text else EVERYTHING
    except BadFilter as error:
        raise BadSetting(f"RECO_FILTER={text!r} does not fit the build: {error}") from error


def _header_text(label: str | None) -> str | None:
    """Return a label as a header can carry it: earlier versions published any."""
    return label and "".join(
        each if each.isascii() and each.isprintable() else each.encode("unicode_escape").decode()
        for each in label.strip()
    )


def check_label(label: str | None, is_required: bool) -> None:
    """Raise BadSetting where requests must name a build's embedding model, and it has no label of one."""
    if is_required and label is None:
        text = "the build has no embedding model; `python -m index_builder --embedding-model` gives it one"
        raise BadSetting(f"RECO_REQUIRE_EMBEDDING_MODEL=1: {text}")


class FaissEngine:
    """Serves the products of one open build that a filter lets through. A search takes a core, and waits for one."""

    is_available = True

    def __init__(self, build: Build, cores: Cores, shown: Filter = EVERYTHING):
        self.build, self._cores = build, cores
        self._index, self._products = build.index, build.products
        self.is_exact = build.index.is_exact
        self._projection, self._filters = build.projection, build.filters
        all_are_shown = shown == EVERYTHING and build.base is build  # Of a delta's base, some are no more.
        self._shown, self._shown_mask = shown, None if all_are_shown else build.filters.mask(shown)
        self.vocabulary = build.filters.vocabulary
        self.prefixes, self.project = build.products.prefixes, build.projection.project
        self.sample_users: list[dict[str, Any]] = build.sample_users
        manifest = build.manifest
        recall = asdict(manifest.recall)
        filterable = [asdict(each) for each in manifest.filterable]
        self.info = IndexInfo(
            build.id,
            manifest.products,
            manifest.dimension,
            manifest.index.factory,
            recall,
            filterable,
            _header_text(manifest.embedding_model),
            asdict(build.base.manifest.quality) if build.base.manifest.quality else None,
        )
        self.shown_products = self._shown_mask.matched if self._shown_mask else manifest.products
        self.concurrency = cores.count
        self.search_seconds = min(self._time_search() for _ in range(_TIMED_SEARCHES))

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        with self._cores.one():
            use_threads(1)
            return self._index.search(unit_vectors, k, self._shown_mask)

    def search_matching(
        self, unit_vectors: NDArray[np.float32], k: int, query: Filter, excluded: Collection[str] = ()
    ) -> tuple[Neighbours, Neighbours, int]:
        with self._cores.one():
            use_threads(1)
            matching = self._filters.mask(every((self._shown, query)))
            best, worst = self._index.search(unit_vectors, k, self._without(matching, excluded))
            return best, worst, matching.matched

    def search_exactly(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        query: Filter | None,
        excluded: Collection[str],
        pace: Pace,
    ) -> tuple[Neighbours, Neighbours]:
        use_threads(1)
        mask = self._shown_mask if query is None else self._filters.mask(every((self._shown, query)))
        if excluded:
            mask = self._without(mask or self._filters.mask(EVERYTHING), excluded)
        found: tuple[Neighbours, Neighbours] = self._index.search(unit_vectors, k, mask, pace)
        return found

    def fields_of(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [self._products[position] for position in positions.tolist()]

    def find(self, product_id: str) -> int | None:
        position = self._products.position(product_id)
        return None if position is None or not self._are_shown(np.array([position])).all() else position

    def _time_search(self) -> float:
        began = time.perf_counter()
        self.search(np.full((1, self.info.dimension), self.info.dimension**-0.5, np.float32), _TIMED_MATCHES)
        return time.perf_counter() - began

    def starting_with(self, prefix: str, limit: int) -> NDArray[np.int64]:
        found, count = [np.empty(0, np.int64)], 0
        for positions in self._products.starting_with(prefix):
            found.append(positions[self._are_shown(positions)].astype(np.int64))
            count += len(found[-1])
            if count >= limit:
                break
        return np.concatenate(found)[:limit]

    def unit_vectors_of(self, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        positions = [self.find(identifier) for identifier in ids]
        known = [position for position in positions if position is not None]
        vectors = iter(self._vectors(known) if known else ())
        return [None if position is None else next(vectors) for position in positions]

    @cached_property
    def sampled_points(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        positions = self._projection.positions[self._are_shown(self._projection.positions)]
        return positions, self.project(self._vectors(positions.tolist()))

    def _without(self, mask: Any, excluded: Collection[str]) -> Any:
        """Return a mask without the products with these ids."""
        if not excluded:
            return mask
        positions = self._products.positions([*excluded])
        return self._filters.without(mask, positions[positions >= 0])

    def _are_shown(self, positions: NDArray[np.integer]) -> NDArray[np.bool_]:
        return np.ones(len(positions), np.bool_) if self._shown_mask is None else self._shown_mask.holds(positions)

    def _vectors(self, positions: list[int]) -> NDArray[np.float32]:
        use_threads(1)
        return self.build.vectors(np.array(positions))
