"""Kinds of FAISS index: what is inside an index, and the parameters that a search of its kind takes."""

import math

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.search.settings import SearchSettings

FAISS_VERSION: str = faiss.__version__
_LIST_STEPS = 12  # They go from all lists down to a forty-fifth of them.


def exact_rows(index: faiss.Index) -> faiss.Index | None:
    """Return the index of uncompressed vectors inside an index, in row order; None where it does not keep them."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return faiss.downcast_index(index.refine_index)
    if isinstance(index, faiss.IndexHNSW):
        return exact_rows(index.storage)
    is_half = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    return index if is_half or isinstance(index, faiss.IndexFlat) else None


def is_exact(index: faiss.Index) -> bool:
    """Tell whether an index is nothing but its uncompressed vectors."""
    rows = exact_rows(index)
    return rows is not None and rows.this == faiss.downcast_index(index).this


def scanned_index(index: faiss.Index) -> faiss.Index:
    """Return the index that finds the candidates, without what transforms vectors before it or re-ranks after it."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return scanned_index(index.base_index)
    return scanned_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def list_counts(index: faiss.Index) -> list[int]:
    """Return sensible numbers of lists to visit, ending with all; [0] for an index without lists."""
    index = scanned_index(index)
    if not isinstance(index, faiss.IndexIVF):
        return [0]
    return sorted({math.ceil(index.nlist / 2 ** (step / 2)) for step in range(_LIST_STEPS)})


def is_graph(index: faiss.Index) -> bool:
    return isinstance(scanned_index(index), faiss.IndexHNSW)


def search_parameters(index: faiss.Index, settings: SearchSettings, depth: int) -> faiss.SearchParameters | None:
    """Return FAISS's parameters of one call that looks for the `depth` nearest rows."""
    index, candidates = faiss.downcast_index(index), settings.candidates_for(depth)
    if isinstance(index, faiss.IndexRefine):
        inner = search_parameters(index.base_index, settings, depth)
        return faiss.IndexRefineSearchParameters(k_factor=(candidates + 0.5) / depth, base_index_params=inner)
    if isinstance(index, faiss.IndexPreTransform):
        inner = search_parameters(index.index, settings, depth)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        # FAISS scans lists that are not there, and finds rubbish, where it is asked for more than there are.
        return faiss.SearchParametersIVF(nprobe=min(max(settings.nprobe, 1), index.nlist))
    return faiss.SearchParametersHNSW(efSearch=candidates) if isinstance(index, faiss.IndexHNSW) else None


def candidate_scores(index: faiss.Index, queries: NDArray[np.float32], count: int, nprobe: int) -> NDArray[np.float32]:
    """Return the exact scores (n, count) of each query's candidates, in the order in which the index found them.

    What it did not find scores minus infinity.
    """
    index = faiss.downcast_index(index)
    base = index.base_index if isinstance(index, faiss.IndexRefine) else index
    settings = SearchSettings(count, nprobe=nprobe)
    _, rows = base.search(queries, count, params=search_parameters(base, settings, count))
    return stored_scores(exact_rows(index), queries, rows)


def stored_scores(store: faiss.Index, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return each query's (n, d) scores with its rows (n, m), as `store` keeps them; that of row -1 is -inf."""
    store = faiss.downcast_index(store)
    scores = np.empty(rows.shape, np.float32)
    if isinstance(store, faiss.IndexFlat):
        score_rows(store, queries, rows, scores)
        return np.where(rows >= 0, scores, -np.inf)
    for i, query in enumerate(queries):
        scores[i] = np.where(rows[i] >= 0, store.reconstruct_batch(np.maximum(rows[i], 0)) @ query, -np.inf)
    return scores


def score_rows(
    store: faiss.IndexFlat, queries: NDArray[np.float32], rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> None:
    """Write the inner product of each query (n, d) with each of its rows (n, m) into scores (n, m)."""
    count, depth = rows.shape
    store.compute_distance_subset(count, faiss.swig_ptr(queries), depth, faiss.swig_ptr(scores), faiss.swig_ptr(rows))
