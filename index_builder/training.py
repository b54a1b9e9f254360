"""Trains, fills and negates indexes.

Index kinds are FAISS factory strings, which may have one word of our own in front:
`Reduce64,PQ64x4fs` turns the vectors by a fixed matrix onto the 64 directions in which the catalogue varies most, and
indexes what is left. FAISS's own `PCA64` subtracts the mean from queries too, which changes their order.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from retrieval.errors import BadIndexKind
from retrieval.records.vector_file import BLOCK_ROWS, VectorFile
from retrieval.search.kinds import exact_rows, scanned_index

FLAT = "Flat"
STORAGES = {"fp32": "Flat", "fp16": "SQfp16"}
_TRAINING_ROWS = 65_536
_SEED = 3
_PRODUCT_QUANTIZED = faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan | faiss.IndexPQ | faiss.IndexPQFastScan
_REDUCE = re.compile(r"Reduce(\d+),(.+)")
_REFINEMENT = re.compile(r",(RFlat|Refine\(\w+\))$")


def store_vectors(vectors: VectorFile, storage: str) -> faiss.Index:
    """Put the vectors themselves into an exact inner-product index; `storage` is "fp32" or "fp16"."""
    store = faiss.index_factory(vectors.dimension, STORAGES[storage], faiss.METRIC_INNER_PRODUCT)
    store.train(vectors.sample(1, _SEED))
    # Memory is taken once; repeated adds would make it grow, and copy it each time.
    store.codes.resize(vectors.rows * store.sa_code_size())
    codes = faiss.rev_swig_ptr(store.codes.data(), store.codes.size()).reshape(vectors.rows, -1)
    for block in vectors.blocks():
        codes[store.ntotal : store.ntotal + len(block)] = store.sa_encode(block)
        store.ntotal += len(block)
    return store


def build_index(factory: str, vectors: VectorFile, store: faiss.Index) -> faiss.Index:
    """Build an index of a kind over all vectors, which re-ranks by those in `store` unless it keeps them itself.

    Raises BadIndexKind where FAISS cannot make such an index of these vectors.
    """
    kind = _REFINEMENT.sub("", factory)  # Every compressed kind is re-ranked, whether or not the string says so.
    if kind == FLAT:
        return store
    with _explained(factory):
        index = _trained(kind, vectors)
        _check_graph(index, store)
        blocks = -(-vectors.rows // BLOCK_ROWS)
        for block in tqdm(vectors.blocks(), desc=f"filling {kind}", total=blocks, disable=None, leave=False):
            index.add(block)
    if exact_rows(index) is not None:
        return index
    return faiss.IndexRefine(index, store)


def check_negates(factory: str, dimension: int) -> None:
    """Raise BadIndexKind for a kind that `negate` refuses, before anything is trained."""
    with _explained(factory):
        index = _untrained(_REFINEMENT.sub("", factory), dimension)  # Named, as FAISS's views keep nothing alive.
        negate(index)


@contextmanager
def _explained(factory: str) -> Iterator[None]:
    """Raise BadIndexKind with the option and the reason where FAISS, or we, cannot build an index."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("failed: ")[-1]
        raise BadIndexKind(f"--index {factory}: FAISS cannot build it: {reason}") from error
    except BadIndexKind as error:
        raise BadIndexKind(f"--index {factory}: {error}") from error


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
        raise BadIndexKind(f"a {type(index).__name__} cannot be negated; build with --worst shared")


def _untrained(kind: str, dimension: int) -> faiss.Index:
    reduced = _REDUCE.fullmatch(kind)
    if reduced is None:
        return faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    inner = faiss.index_factory(int(reduced[1]), reduced[2], faiss.METRIC_INNER_PRODUCT)
    return faiss.IndexPreTransform(faiss.LinearTransform(dimension, int(reduced[1]), False), inner)


def _trained(kind: str, vectors: VectorFile) -> faiss.Index:
    index = _untrained(kind, vectors.dimension)
    sample = vectors.sample(_TRAINING_ROWS, _SEED)
    if _REDUCE.fullmatch(kind):
        _set_reduction(faiss.downcast_VectorTransform(index.chain.at(0)), sample)
    inner = scanned_index(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.niter = 10
        inner.cp.min_points_per_centroid = 1  # No warnings: what small samples cost is measured.
    if hasattr(inner, "pq"):
        inner.pq.cp.min_points_per_centroid = 1
    index.train(sample)
    return index


def _set_reduction(transform: faiss.LinearTransform, sample: NDArray[np.float32]) -> None:
    """Set a matrix onto the directions of greatest variance, turned at random so that each carries a like share of it.

    It has no offset, so inner products keep their order but for what the dropped directions add. Where there
    are to be more directions than the vectors have, zeros are added.
    """
    dimension = transform.d_out
    centred = sample - sample.mean(axis=0)  # Single precision halves the memory of a large sample.
    variances, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    kept = directions[:, np.argsort(-variances)[:dimension]].T
    padded = np.zeros((dimension, sample.shape[1]))
    padded[: len(kept)] = kept
    turn, _ = np.linalg.qr(np.random.default_rng(_SEED).normal(size=(dimension, dimension)))
    faiss.copy_array_to_vector((turn @ padded).astype(np.float32).ravel(), transform.A)
    transform.is_trained = True


def _check_graph(index: faiss.Index, store: faiss.Index) -> None:
    """FAISS crashes the process over a graph of fewer than two links a node, and a graph keeps its own fp32 vectors."""
    if not isinstance(index, faiss.IndexHNSW):
        return
    if index.hnsw.assign_probas.size() < 2:
        raise BadIndexKind("a graph needs at least two links a node, as in HNSW32")
    if not isinstance(store, faiss.IndexFlat):
        raise BadIndexKind("a graph keeps its vectors as fp32; leave out --storage fp16")


def _check_linear(index: faiss.IndexPreTransform) -> None:
    for i in range(index.chain.size()):
        transform = faiss.downcast_VectorTransform(index.chain.at(i))
        if not isinstance(transform, faiss.LinearTransform) or transform.have_bias:
            name = type(transform).__name__
            raise BadIndexKind(f"a {name} that is no linear map cannot be negated; build with --worst shared")


def _negate_floats(pointer: object, count: int) -> None:
    floats = faiss.rev_swig_ptr(pointer, count)
    np.negative(floats, out=floats)
