"""Kinds of FAISS index: what is inside an index, and the parameters that a search of its kind takes."""

import math

import faiss

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


def candidate_index(index: faiss.Index) -> faiss.Index:
    """Return what finds candidates: an index without the vectors by which it re-ranks them."""
    index = faiss.downcast_index(index)
    return index.base_index if isinstance(index, faiss.IndexRefine) else index


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
    return steps_of_lists(index.nlist)


def steps_of_lists(lists: int) -> list[int]:
    """Return sensible numbers to visit of so many lists, ending with all."""
    return sorted({math.ceil(lists / 2 ** (step / 2)) for step in range(_LIST_STEPS)})


def is_graph(index: faiss.Index) -> bool:
    return isinstance(scanned_index(index), faiss.IndexHNSW)


def search_parameters(index: faiss.Index, settings: SearchSettings, depth: int) -> faiss.SearchParameters | None:
    """Return FAISS's parameters of one call to a scanned index for the candidates of the `depth` nearest rows."""
    if isinstance(index, faiss.IndexIVF):
        # FAISS scans lists that are not there, and finds rubbish, where it is asked for more than there are.
        return faiss.SearchParametersIVF(nprobe=min(max(settings.nprobe, 1), index.nlist))
    return (
        faiss.SearchParametersHNSW(efSearch=settings.candidates_for(depth))
        if isinstance(index, faiss.IndexHNSW)
        else None
    )
