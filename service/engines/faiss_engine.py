"""The embedded engine: a FAISS build, memory-mapped into this process."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from index_builder.artifact import Build
from index_builder.index import use_threads
from index_builder.ranking import Neighbours
from service.cores import Cores
from service.engines.base import IndexInfo, Matches, encode_matches

_FEWEST_AT_ONCE, _MOST_AT_ONCE = 8, 128  # users that are worth a thread, and that others wait for at most


class FaissEngine:
    """Serves one open build. A search of many users is cut in pieces, which take a core each as cores become free."""

    is_available = True

    def __init__(self, build: Build, cores: Cores):
        self._index, self._products, self._cores = build.index, build.products, cores
        self._threads = ThreadPoolExecutor(cores.count, "search")
        manifest = build.manifest
        self.info = IndexInfo(
            build_id=build.id,
            products=manifest["products"],
            dimension=manifest["dimension"],
            index=manifest["index"]["factory"],
            recall=manifest["recall"],
        )

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> list[Matches]:
        users = len(unit_vectors)
        at_once = min(max(_FEWEST_AT_ONCE, -(-users // self._cores.count)), _MOST_AT_ONCE)
        if users <= at_once:
            return self._search_piece(unit_vectors, k)
        pieces = [unit_vectors[start : start + at_once] for start in range(0, users, at_once)]
        return [*chain.from_iterable(self._threads.map(self._search_piece, pieces, repeat(k)))]

    def _search_piece(self, unit_vectors: NDArray[np.float32], k: int) -> list[Matches]:
        with self._cores.one():
            use_threads(1)
            best, worst = self._index.search(unit_vectors, k)
        return [*map(Matches, self._named(best), self._named(worst))]

    def _named(self, side: Neighbours) -> list[list[bytes]]:
        users, count = side.positions.shape
        matches = encode_matches(self._products.heads(side.positions.ravel()), side.scores.ravel())
        return [matches[i * count : (i + 1) * count] for i in range(users)]
