"""Builds, negates, opens and searches the index of both sides: what is measured is what serves."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index_builder.errors import BadArtifact, BadPlan

# FAISS ranks one query by a scan and many by a matrix product, which round differently in the seventh decimal. So a
# search fetches a few rows more than asked, every score is then computed row by row, and where the rows left out could
# still tie with the last one asked for, it fetches more.
_SPARE_ROWS = 6
_RANKING_ERROR = 2e-6
_SCORE_UNITS = 10**6  # scores are compared and reported in millionths
_POSITION_BITS = 40
_MOST_CANDIDATES_AT_ONCE = 1_000_000  # bounds the memory of a search
_NO_PRODUCT = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Neighbours:
    """The products nearest to each query on one side: `positions` in the catalogue and cosine `scores`, both (n, k).

    Best or worst first; scores are multiples of 1e-6 within [-1, 1], equal ones stand in catalogue order.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class RowGroups:
    """Which products share an index row: those of row r are `products[starts[r]:starts[r + 1]]`, in catalogue order."""

    starts: NDArray[np.int64]
    products: NDArray[np.int64]

    @property
    def row_count(self) -> int:
        return len(self.starts) - 1

    @property
    def product_count(self) -> int:
        return len(self.products)


def group_identical(unit_vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], RowGroups]:
    """The catalogue position of each distinct vector's first product, and the groups. Rows follow first positions."""
    first_rows: dict[bytes, int] = {}
    row_of_product = np.fromiter(
        (first_rows.setdefault(_digest(vector), len(first_rows)) for vector in unit_vectors),
        np.int64,
        len(unit_vectors),
    )
    products = np.argsort(row_of_product, kind="stable")
    starts = np.searchsorted(row_of_product[products], np.arange(len(first_rows) + 1))
    return products[starts[:-1]], RowGroups(starts, products)


def _digest(vector: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(vector.data, digest_size=16).digest()


class ProductIndex:
    """Both sides of a catalogue's index. Safe to search from many threads: nothing in it changes after opening."""

    def __init__(self, best: faiss.Index, worst: faiss.Index, groups: RowGroups):
        """`best` holds a unit vector a row of `groups`, `worst` its negation. Raises BadArtifact if counts differ."""
        for side, index in (("best", best), ("worst", worst)):
            if index.ntotal != groups.row_count:
                raise BadArtifact(f"{side}.faiss: holds {index.ntotal} vectors, the products table {groups.row_count}")
        self.groups = groups
        self.dimension = int(best.d)
        self._best, self._worst = _Side(best, groups), _Side(worst, groups)

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        """The k best and k worst products for each row of (n, d) unit vectors; the whole catalogue where k is more."""
        best = self._best.search(unit_vectors, k)
        mirrored = self._worst.search(unit_vectors, k)
        return best, Neighbours(mirrored.positions, 0.0 - mirrored.scores)


class _Side:
    """Finds the products of highest inner product in one FAISS index."""

    def __init__(self, index: faiss.Index, groups: RowGroups):
        rows = _exact_rows(index)
        if rows is None:
            raise BadArtifact(f"a {type(index).__name__} does not keep exact vectors")
        self._index, self._groups = index, groups
        self._exact_rows: Any = rows

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """The k nearest products of each query, looking deeper for the queries that need it."""
        k = min(k, self._groups.product_count)
        keys = np.empty((len(queries), k), np.int64)
        pending = np.arange(len(queries))
        depth = k + _SPARE_ROWS
        while pending.size:
            depth = min(depth, self._groups.row_count)
            settled = np.empty(len(pending), bool)
            for part in _parts(len(pending), _MOST_CANDIDATES_AT_ONCE // depth):
                rows, millionths, reach = self._rescored(queries[pending[part]], depth)
                ranked = self._rank(rows, millionths, k)
                keys[pending[part]] = ranked
                settled[part] = _scores(ranked[:, -1]) > reach + _RANKING_ERROR
            if depth == self._groups.row_count:
                break
            pending = pending[~settled]
            depth *= 2
        return Neighbours(keys & ((1 << _POSITION_BITS) - 1), _scores(keys))

    def _rescored(self, queries: NDArray[np.float32], depth: int) -> tuple[NDArray, NDArray[np.int64], NDArray]:
        """The `depth` nearest rows (n, depth), their scores in millionths, and how low FAISS has looked for rows (n,).

        A row that an approximate index could not find is -1.
        """
        everything = depth == self._groups.row_count
        ranking, rows = (self._exact_rows if everything else self._index).search(queries, depth)
        scores = np.empty_like(ranking)
        self._exact_rows.compute_distance_subset(
            len(queries), faiss.swig_ptr(queries), depth, faiss.swig_ptr(scores), faiss.swig_ptr(rows)
        )
        millionths = np.rint(np.clip(scores, -1.0, 1.0).astype(np.float64) * _SCORE_UNITS).astype(np.int64)
        return rows, millionths, np.where(rows[:, -1] >= 0, ranking[:, -1], np.inf)

    def _rank(self, rows: NDArray[np.int64], millionths: NDArray[np.int64], k: int) -> NDArray[np.int64]:
        """The k first products of the rows found, as sort keys (n, k): by score, then by catalogue position."""
        groups, found = self._groups, rows >= 0
        if groups.product_count == groups.row_count:
            keys = np.where(found, _key(millionths, rows), _NO_PRODUCT)
        else:
            sizes = np.where(found, groups.starts[rows + 1] - groups.starts[rows], 0)
            sizes = np.minimum(sizes, k)  # one row's products share one score, so only its first k can count
            sizes[millionths < _lowest_needed(millionths, sizes, k)] = 0
            keys = _product_keys(groups, rows, millionths, sizes, k)
        keys.sort(axis=1)
        return keys[:, :k]


def build_index(factory: str, unit_vectors: NDArray[np.float32]) -> faiss.Index:
    """An inner-product index of (n, d) rows. Raises BadPlan where FAISS cannot make it or scores would be inexact."""
    try:
        index = faiss.index_factory(unit_vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise BadPlan(f"--index {factory}: not an index FAISS can make: {_first_line(error)}") from None
    kind = faiss.downcast_index(index)
    links = kind.hnsw.assign_probas.size() if isinstance(kind, faiss.IndexHNSW) else 2
    if not index.is_trained or _exact_rows(index) is None or links < 2:
        raise BadPlan(f"--index {factory}: not supported; use auto, Flat, or HNSW such as HNSW32")
    index.add(unit_vectors)
    return index


def negated(index: faiss.Index) -> faiss.Index:
    """A copy of the index over the negated vectors. A graph stays as it is: negation keeps all inner products."""
    mirror = faiss.clone_index(index)
    rows: Any = _exact_rows(mirror)
    vectors = faiss.rev_swig_ptr(rows.get_xb(), rows.ntotal * rows.d)
    np.negative(vectors, out=vectors)
    return mirror


def write_index(index: faiss.Index, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"{path}: cannot be written: {_first_line(error)}") from None


def open_index(path: Path) -> faiss.Index:
    """Memory-map an index file, so that processes share its pages. Raises BadArtifact where FAISS cannot read it."""
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise BadArtifact(f"{path}: not a readable FAISS index: {_first_line(error)}") from None


def _lowest_needed(millionths: NDArray[np.int64], sizes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The score (n, 1) at which each query has k products together; rows below it need not be spelled out."""
    order = np.argsort(-millionths, axis=1, kind="stable")
    reached = np.take_along_axis(sizes, order, axis=1).cumsum(axis=1) >= k
    last_needed = np.where(reached.any(axis=1), reached.argmax(axis=1), -1)
    return np.take_along_axis(millionths, np.take_along_axis(order, last_needed[:, None], axis=1), axis=1)


def _product_keys(
    groups: RowGroups, rows: NDArray[np.int64], millionths: NDArray[np.int64], sizes: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """The sort keys of the first `sizes` products of each row, side by side for each query; the rest is padding."""
    ends = sizes.cumsum(axis=1)
    keys = np.full((len(rows), max(int(ends[:, -1].max()), k)), _NO_PRODUCT)
    counts = sizes.ravel()
    query = np.repeat(np.arange(len(rows)).repeat(rows.shape[1]), counts)
    within_row = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    column = np.repeat((ends - sizes).ravel(), counts) + within_row
    products = groups.products[np.repeat(groups.starts[rows].ravel(), counts) + within_row]
    keys[query, column] = _key(np.repeat(millionths.ravel(), counts), products)
    return keys


def _parts(count: int, at_once: int) -> Iterator[slice]:
    at_once = max(at_once, 1)
    return (slice(start, start + at_once) for start in range(0, count, at_once))


def _key(millionths: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys that sort by falling score, then by rising position."""
    return ((_SCORE_UNITS - millionths) << _POSITION_BITS) | positions


def _scores(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    return (_SCORE_UNITS - (keys >> _POSITION_BITS)) / _SCORE_UNITS


def _exact_rows(index: faiss.Index) -> faiss.IndexFlat | None:
    """The uncompressed vectors inside an index, in row order, or None where it does not keep them."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexHNSW):
        index = faiss.downcast_index(index.storage)
    return index if isinstance(index, faiss.IndexFlat) else None


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[0]
