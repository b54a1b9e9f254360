"""Negates indexes: the worst side of a query is the best side of the negated vectors."""

import faiss
import numpy as np

from retrieval.errors import BadIndexKind
from retrieval.search.kinds import exact_rows

_PRODUCT_QUANTIZED = faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan | faiss.IndexPQ | faiss.IndexPQFastScan


def negate(index: faiss.Index) -> None:
    """Turn an index into that of the negated vectors, in place.

    Nothing is trained, assigned or linked again: negated centroids have the same codes, and negation keeps every inner
    product between vectors. Raises BadIndexKind for kinds where this does not hold.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        negate(index.base_index)
        negate(index.refine_index)
    elif isinstance(index, faiss.IndexPreTransform):
        _check_linear(index)
        negate(index.index)
    elif isinstance(index, faiss.IndexHNSW):
        negate(index.storage)
    elif isinstance(index, faiss.IndexFlat):
        _negate_floats(index.get_xb(), index.ntotal * index.d)
    elif isinstance(index, faiss.IndexScalarQuantizer) and exact_rows(index) is not None:
        halves = faiss.rev_swig_ptr(index.codes.data(), index.codes.size()).view(np.uint16)
        np.bitwise_xor(halves, 0x8000, out=halves)
    elif isinstance(index, _PRODUCT_QUANTIZED):
        if isinstance(index, faiss.IndexIVF):
            negate(index.quantizer)
        _negate_floats(index.pq.centroids.data(), index.pq.centroids.size())
    else:
        raise BadIndexKind(f"FAISS's {type(index).__name__} cannot be negated; build with --worst shared")


def _check_linear(index: faiss.IndexPreTransform) -> None:
    for i in range(index.chain.size()):
        transform = faiss.downcast_VectorTransform(index.chain.at(i))
        if not isinstance(transform, faiss.LinearTransform) or transform.have_bias:
            name = type(transform).__name__
            raise BadIndexKind(f"FAISS's {name} is no linear map here and cannot be negated; build with --worst shared")


def _negate_floats(pointer: object, count: int) -> None:
    floats = faiss.rev_swig_ptr(pointer, count)
    np.negative(floats, out=floats)
