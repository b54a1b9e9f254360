"""Contestants of the benchmark's own environment: usearch, and ScaNN with hashes alone or under a tree."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scann import scann_ops_pybind
from usearch.index import Index

from benchmarks.index.contestants import Engine, Rows, Vectors
from benchmarks.index.recall import KS
from benchmarks.index.sources import read_products
from benchmarks.report import CORES

_CANDIDATES = [round(12 * 1.2**step) for step in range(41)]  # 12 to 17637
_MAX_GRAPH_CANDIDATES = 3500  # To walk farther takes longer than an exact scan.
_DIMENSIONS_OF_A_HASH = 2
_ANISOTROPY = 0.2  # the threshold of ScaNN's documentation
_TREE_TRAINING_ROWS = 250_000
_LEAF_STEPS = 8  # from half of the leaves down, each step to 0.6 of the one before


class Graph:
    """A usearch graph over vectors in one byte a dimension, re-ranked by the vectors themselves.

    Over vectors of four bytes, the same graph takes longer to the same recall.
    """

    label = "usearch i8, re-ranked"
    ladders = ([count for count in _CANDIDATES if count <= _MAX_GRAPH_CANDIDATES],)

    def __init__(self, products: Vectors):
        self._products = np.array(products)
        self._index = Index(ndim=products.shape[1], metric="ip", dtype="i8")
        self._index.add(np.arange(len(products)), self._products)

    def find(self, queries: Vectors, k: int, settings: int) -> Rows:
        self._index.expansion_search = settings
        if len(queries) == 1:
            return self._first(self._index.search(queries[0], settings, threads=1).keys, queries[0], k)[np.newaxis]
        keys = self._index.search(queries, settings, threads=CORES).keys
        return np.stack([self._first(each, query, k) for each, query in zip(keys, queries, strict=True)])

    def save(self, directory: Path) -> int:
        self._index.save(directory / "index")
        return self._products.nbytes

    def _first(self, keys: NDArray[np.uint64], query: Vectors, k: int) -> Rows:
        rows = keys.astype(np.int64)
        return rows[np.argsort(-(self._products[rows] @ query))[:k]]


class Effort(NamedTuple):
    """How many rows are re-ordered, and of how many leaves they are taken; no leaves where there is no tree."""

    candidates: int
    leaves: int = -1

    def __str__(self) -> str:
        return f"{self.candidates} of {self.leaves} leaves" if self.leaves > 0 else f"{self.candidates}"


class Hashes:
    """ScaNN's hashes of two dimensions each, scanned whole or by leaves of a tree, and re-ordered by the vectors."""

    def __init__(self, label: str, products: Vectors, leaves: int = 0):
        vectors = np.array(products)
        builder = scann_ops_pybind.builder(vectors, KS[0], "dot_product").set_n_training_threads(CORES)
        if leaves:
            training = min(len(vectors), _TREE_TRAINING_ROWS)
            builder = builder.tree(leaves, num_leaves_to_search=leaves, training_sample_size=training)
        hashed = builder.score_ah(_DIMENSIONS_OF_A_HASH, anisotropic_quantization_threshold=_ANISOTROPY)
        self._searcher = hashed.reorder(_CANDIDATES[-1]).build()
        self.label = label
        visited = sorted({round(leaves / 2 * 0.6**step) for step in range(_LEAF_STEPS)}) if leaves else [-1]
        self.ladders = [[Effort(count, each) for count in _CANDIDATES] for each in visited]

    def find(self, queries: Vectors, k: int, settings: Effort) -> Rows:
        if len(queries) == 1:
            return self._searcher.search(queries[0], k, settings.candidates, settings.leaves)[0][np.newaxis]
        return self._searcher.search_batched_parallel(queries, k, settings.candidates, settings.leaves)[0].astype(
            np.int64
        )

    def save(self, directory: Path) -> int:
        self._searcher.serialize(str(directory))
        return 0


def graph(directory: Path) -> Engine:
    return Graph(read_products(directory))


def hashes(directory: Path) -> Engine:
    return Hashes("ScaNN, hashes", read_products(directory))


def tree(directory: Path) -> Engine:
    """Return a tree of about as many leaves as each of them has products, which it visits some of."""
    products = read_products(directory)
    return Hashes("ScaNN, tree", products, round(len(products) ** 0.5))
