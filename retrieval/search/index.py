"""Opens and searches the index of both sides: what is measured is what serves."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.search.ranking import UNITS, Neighbours, RowGroups, positions_of, rank, scores_of

FAISS_VERSION: str = faiss.__version__

# FAISS ranks one query by a scan and many by a matrix product, which round differently in the seventh decimal. So a
# search fetches a few rows more than asked, every score is then computed row by row, and where the rows left out could
# still tie with the last one asked for, it fetches more.
_SPARE_ROWS = 6
_RANKING_ERROR = 2e-6
_MOST_CANDIDATES_AT_ONCE = 1_000_000  # bounds the memory of a search
_MOST_PARAMETERS_KEPT = 64
# Exact scores of rows picked here and there cost several times as much a row as a scan of all in memory order.
_SCAN_ADVANTAGE = 8
_FEWEST_FOR_BLAS = 8  # queries for which a matrix product takes less time than as many scans
_PAGE = 4096  # bytes
_WRITTEN_AT_ONCE = 2**20  # bytes
_LIST_STEPS = 12  # from all lists down to a forty-fifth of them


@dataclass(frozen=True)
class SearchSettings:
    """How hard one side of an approximate index looks: rows to re-rank exactly, at least `candidates` and at least
    `per_match` for each row asked for, picked from `nprobe` lists where the index has lists.
    """

    candidates: int = 0
    per_match: float = 1.0
    nprobe: int = 0

    def candidates_for(self, depth: int) -> int:
        return max(self.candidates, math.ceil(self.per_match * depth), depth)


class ProductIndex:
    """Both sides of a catalogue's index. Safe to search from many threads: nothing in it changes after opening."""

    def __init__(
        self,
        best: faiss.Index,
        worst: faiss.Index | None,
        groups: RowGroups,
        best_settings: SearchSettings = SearchSettings(),
        worst_settings: SearchSettings = SearchSettings(),
    ):
        """`best` holds a unit vector a row of `groups`, `worst` its negation; without `worst`, the query is negated.

        Raises BadArtifact where an index does not fit the groups.
        """
        self.groups = groups
        self.dimension = int(best.d)
        faiss.cvar.distance_compute_blas_threshold = _FEWEST_FOR_BLAS * self.dimension
        self._best = _Side("best", best, groups, best_settings)
        self._worst = _Side("worst", best if worst is None else worst, groups, worst_settings)
        self._worst_query_sign = np.float32(-1.0 if worst is None else 1.0)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The unit vectors (m, d) of index rows (m,), as the best side keeps them."""
        return self._best.vectors(rows)

    def warm(self) -> None:
        """Map every page of the vectors now; on demand, it would make the first searches several times slower."""
        for side in (self._best, self._worst):
            side.warm()

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        """The k best and k worst products for each row of (n, d) unit vectors; the whole catalogue where k is more."""
        keys = self._nearest([(self._best, unit_vectors), (self._worst, unit_vectors * self._worst_query_sign)], k)
        users = len(unit_vectors)
        return _neighbours(keys[:users], np.float64(1.0)), _neighbours(keys[users:], np.float64(-1.0))

    def search_side(self, side: str, unit_vectors: NDArray[np.float32], k: int) -> Neighbours:
        """One of the two halves of `search`: "best" or "worst"."""
        if side == "best":
            return _neighbours(self._nearest([(self._best, unit_vectors)], k), np.float64(1.0))
        return _neighbours(self._nearest([(self._worst, unit_vectors * self._worst_query_sign)], k), np.float64(-1.0))

    def _nearest(self, asked: "list[_Asked]", k: int) -> NDArray[np.int64]:
        k = min(k, self.groups.product_count)
        return self._ranked(asked, k, k + _SPARE_ROWS)

    def _ranked(self, asked: "list[_Asked]", k: int, depth: int) -> NDArray[np.int64]:
        """The k nearest products of all sides' queries, one side after the other, as sort keys (n, k).

        They come from the `depth` nearest rows or, for the queries that need it, from more.
        """
        depth = min(depth, self.groups.row_count)
        at_once = max(1, _MOST_CANDIDATES_AT_ONCE // depth)
        if max(len(queries) for _, queries in asked) > at_once:
            parts = [
                (side, queries[i : i + at_once]) for side, queries in asked for i in range(0, len(queries), at_once)
            ]
            return np.concatenate([self._ranked([part], k, depth) for part in parts])
        found = [side.nearest_rows(queries, depth) for side, queries in asked]
        rows, scores, reach = found[0] if len(found) == 1 else map(np.concatenate, zip(*found, strict=True))
        millionths = scores * np.float64(UNITS)
        np.minimum(millionths, UNITS, out=millionths)  # np.clip takes several times as long
        np.maximum(millionths, -UNITS, out=millionths)
        keys = rank(rows, np.rint(millionths).astype(np.int64), self.groups, k)
        if depth < self.groups.row_count:
            unsettled = scores_of(keys[:, -1]) <= reach + _RANKING_ERROR
            if unsettled.any():
                keys[unsettled] = self._ranked(_only(asked, unsettled), k, 2 * depth)
        return keys


class _Side:
    """Finds the rows of highest inner product in one FAISS index."""

    def __init__(self, name: str, index: faiss.Index, groups: RowGroups, settings: SearchSettings):
        if index.ntotal != groups.row_count:
            raise BadArtifact(f"{name}.faiss: holds {index.ntotal} vectors, the products table {groups.row_count}")
        rows = exact_rows(index)
        if rows is None:
            raise BadArtifact(f"{name}.faiss: a {type(index).__name__} does not keep the vectors themselves")
        self._owner = index  # FAISS's downcast views do not keep what they look at alive
        self._index: Any = faiss.downcast_index(index)
        self._exact_rows: Any = rows
        self._is_exact = self._index.this == rows.this
        self._groups, self._settings = groups, settings
        self._parameters: dict[int, faiss.SearchParameters | None] = {}

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._exact_rows.reconstruct_batch(rows)

    def warm(self) -> None:
        codes = self._exact_rows.codes
        if codes.size():
            faiss.rev_swig_ptr(codes.data(), codes.size())[::_PAGE].max()

    def nearest_rows(
        self, queries: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """The `depth` nearest rows and their scores, both (n, depth), and a score (n,) that none left out exceeds.

        A row that an approximate index could not find is -1, and what it left out may have any score.
        """
        if self._scan_all(depth):
            scores, rows = self._exact_rows.search(queries, depth)
            reach = scores[:, -1].copy()
            if isinstance(self._exact_rows, faiss.IndexFlat):
                _score_rows(self._exact_rows, queries, rows, scores)
        else:
            scores, rows = self._index.search(queries, depth, params=self._parameters_for(depth))
            reach = np.where(rows[:, -1] < 0, np.float32(np.inf), scores[:, -1])
        return rows, scores, reach

    def _scan_all(self, depth: int) -> bool:
        candidates = self._settings.candidates_for(depth)
        return self._is_exact or candidates * _SCAN_ADVANTAGE >= self._groups.row_count

    def _parameters_for(self, depth: int) -> faiss.SearchParameters | None:
        """FAISS's parameters for one call, made once a depth. They are never set on the index, which threads share."""
        parameters = self._parameters.get(depth)
        if parameters is None:
            if len(self._parameters) >= _MOST_PARAMETERS_KEPT:
                self._parameters.clear()
            parameters = self._parameters[depth] = _new_parameters(self._index, self._settings, depth)
        return parameters


_Asked = tuple[_Side, NDArray[np.float32]]


def _only(asked: list[_Asked], chosen: NDArray[np.bool_]) -> list[_Asked]:
    """Of all sides' queries, counted one side after the other, the chosen ones."""
    ends = np.cumsum([len(queries) for _, queries in asked])
    parts = [(side, queries[part]) for (side, queries), part in zip(asked, np.split(chosen, ends[:-1]), strict=True)]
    return [(side, queries) for side, queries in parts if len(queries)]


def _neighbours(keys: NDArray[np.int64], sign: np.float64) -> Neighbours:
    return Neighbours(positions_of(keys), sign * scores_of(keys) + 0.0)


def exact_rows(index: faiss.Index) -> faiss.Index | None:
    """The index of uncompressed vectors inside an index, in row order, or None where it does not keep them."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return faiss.downcast_index(index.refine_index)
    if isinstance(index, faiss.IndexHNSW):
        return exact_rows(index.storage)
    if isinstance(index, faiss.IndexFlat):
        return index
    half = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    return index if half else None


def list_counts(index: faiss.Index) -> list[int]:
    """Sensible numbers of lists to visit, ending with all; [0] for an index without lists."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return list_counts(index.base_index)
    if isinstance(index, faiss.IndexPreTransform):
        return list_counts(index.index)
    if isinstance(index, faiss.IndexIVF):
        return sorted({math.ceil(index.nlist / 2 ** (step / 2)) for step in range(_LIST_STEPS)})
    return [0]


def is_graph(index: faiss.Index) -> bool:
    index = faiss.downcast_index(index)
    return isinstance(index, faiss.IndexHNSW) or (isinstance(index, faiss.IndexRefine) and is_graph(index.base_index))


def candidate_scores(index: faiss.Index, queries: NDArray[np.float32], count: int, nprobe: int) -> NDArray[np.float32]:
    """The exact scores (n, count) of the rows that an index would re-rank for each query, in the order it found them.

    What it did not find scores minus infinity.
    """
    index = faiss.downcast_index(index)
    base = index.base_index if isinstance(index, faiss.IndexRefine) else index
    _, rows = base.search(queries, count, params=_inner_parameters(base, count, nprobe))
    return stored_scores(exact_rows(index), queries, rows)


def stored_scores(store: faiss.Index, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The score of each query (n, d) with each of its rows (n, m), as `store` keeps them; that of row -1 is -inf."""
    store = faiss.downcast_index(store)
    scores = np.empty(rows.shape, np.float32)
    if isinstance(store, faiss.IndexFlat):
        _score_rows(store, queries, rows, scores)
        return np.where(rows >= 0, scores, -np.inf)
    for i, query in enumerate(queries):
        scores[i] = np.where(rows[i] >= 0, store.reconstruct_batch(np.maximum(rows[i], 0)) @ query, -np.inf)
    return scores


def use_threads(count: int) -> None:
    """How many threads each later search of the calling thread may use."""
    faiss.omp_set_num_threads(count)


def write_index(index: faiss.Index, path: Path) -> None:
    """Write an index file. Raises OSError where the disk does not take all of it.

    FAISS's own writer only prints a message when closing fails, and leaves a file without its end.
    """
    try:
        with path.open("wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, _WRITTEN_AT_ONCE))
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path}: cannot be written: {str(error).strip().splitlines()[0]}") from None


def open_index(path: Path) -> faiss.Index:
    """Memory-map an index file, so that processes share its pages. Raises BadArtifact where FAISS cannot read it."""
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise BadArtifact(f"{path}: not a readable FAISS index: {str(error).strip().splitlines()[0]}") from None


def _score_rows(store: Any, queries: NDArray[np.float32], rows: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """Write the inner product of each query (n, d) with each of its rows (n, m) into scores (n, m)."""
    count, depth = rows.shape
    store.compute_distance_subset(count, faiss.swig_ptr(queries), depth, faiss.swig_ptr(scores), faiss.swig_ptr(rows))


def _new_parameters(index: faiss.Index, settings: SearchSettings, depth: int) -> faiss.SearchParameters | None:
    candidates = settings.candidates_for(depth)
    if not isinstance(index, faiss.IndexRefine):
        return _inner_parameters(index, candidates, settings.nprobe)
    return faiss.IndexRefineSearchParameters(
        k_factor=(candidates + 0.5) / depth,
        base_index_params=_inner_parameters(index.base_index, candidates, settings.nprobe),
    )


def _inner_parameters(index: faiss.Index, candidates: int, nprobe: int) -> faiss.SearchParameters | None:
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = _inner_parameters(index.index, candidates, nprobe)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=max(nprobe, 1))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=candidates)
    return None
