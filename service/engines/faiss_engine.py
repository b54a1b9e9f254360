"""The embedded engine: a FAISS build, memory-mapped into this process."""

import numpy as np
from numpy.typing import NDArray

from index_builder.artifact import Build
from index_builder.ranking import Neighbours
from service.engines.base import IndexInfo, Match, Matches


class FaissEngine:
    """Serves one open build."""

    def __init__(self, build: Build):
        self._index, self._products = build.index, build.products
        manifest = build.manifest
        self.info = IndexInfo(
            build_id=build.id,
            products=manifest["products"],
            dimension=manifest["dimension"],
            index=manifest["index"]["factory"],
            recall=manifest["recall"],
        )

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> list[Matches]:
        best, worst = self._index.search(unit_vectors, k)
        return [Matches(*sides) for sides in zip(self._named(best), self._named(worst), strict=True)]

    def _named(self, side: Neighbours) -> list[list[Match]]:
        return [
            [self._match(position, score) for position, score in zip(positions, scores, strict=True)]
            for positions, scores in zip(side.positions.tolist(), side.scores.tolist(), strict=True)
        ]

    def _match(self, position: int, score: float) -> Match:
        product = self._products[position]
        return Match(product["id"], product["name"], score)
