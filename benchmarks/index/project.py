"""Contestants of the project's own environment: what the builder publishes, FAISS itself and the plain way in NumPy."""

from pathlib import Path

import faiss
import numpy as np

from benchmarks.index.contestants import Contestant, Engine, Rows, Vectors
from benchmarks.index.recall import KS
from benchmarks.index.sources import read_products
from benchmarks.processes import build
from retrieval.artifact.store import open_current

_LINKS = 32
_EFFORTS = [round(12 * 1.25**step) for step in range(28)]  # 12 to 4964


class Published:
    """What the builder publishes, opened from its files."""

    reaches = True
    ks = KS

    def __init__(self, label: str, directory: Path, *options: str):
        opened = open_current(build(directory, label.replace(" ", "-"), *options))
        opened.index.warm()
        self._index, self.label, self.settings = opened.index, label, opened.manifest.index.factory
        self.size_bytes = opened.manifest.size_bytes

    def search(self, user: Vectors, k: int) -> tuple[Rows, Rows]:
        best, worst = self._index.search(user, k)
        return best.positions, worst.positions


def chosen_build(directory: Path) -> Contestant:
    return Published("builder's choice", directory)


def exact_build(directory: Path) -> Contestant:
    return Published("builder's exact kind", directory, "--index", "Flat")


def compact_build(directory: Path) -> Contestant:
    return Published("builder's choice, fp16, shared", directory, "--storage", "fp16", "--worst", "shared")


class Flat:
    """FAISS's exact scan, once for each side."""

    label, settings, reaches, ks = "FAISS Flat", "", True, KS[:1]

    def __init__(self, products: Vectors):
        self._index, self.size_bytes = faiss.IndexFlatIP(products.shape[1]), products.nbytes
        self._index.add(np.array(products))

    def search(self, user: Vectors, k: int) -> tuple[Rows, Rows]:
        return self._index.search(user, k)[1], self._index.search(-user, k)[1]


class OnePass:
    """The plain way in NumPy: one product with the catalogue, and both ends partitioned and sorted."""

    label, settings, reaches, ks = "NumPy, one pass", "", True, KS[:1]

    def __init__(self, products: Vectors):
        self._products, self.size_bytes = np.array(products), products.nbytes

    def search(self, user: Vectors, k: int) -> tuple[Rows, Rows]:
        scores = (user @ self._products.T)[0]
        order = np.argpartition(scores, (k - 1, len(scores) - k))
        lowest, highest = order[:k], order[-k:]
        return highest[np.argsort(-scores[highest])][np.newaxis], lowest[np.argsort(scores[lowest])][np.newaxis]


class Graph:
    """FAISS's HNSW graph, an engine to be tuned."""

    label = f"FAISS HNSW{_LINKS}"
    ladders = (_EFFORTS,)

    def __init__(self, products: Vectors):
        self._index = faiss.IndexHNSWFlat(products.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.add(np.array(products))

    def find(self, queries: Vectors, k: int, settings: int) -> Rows:
        return self._index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=settings))[1]

    def save(self, directory: Path) -> int:
        faiss.write_index(self._index, str(directory / "index"))
        return 0


def flat(directory: Path) -> Contestant:
    return Flat(read_products(directory))


def one_pass(directory: Path) -> Contestant:
    return OnePass(read_products(directory))


def graph(directory: Path) -> Engine:
    return Graph(read_products(directory))
