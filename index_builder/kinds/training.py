"""Trains and fills indexes of any kind: a FAISS factory string, or tiers of codes (`tiers.py`)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property

import faiss
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from index_builder.kinds.negation import negate
from index_builder.kinds.tiers import PREFIX, TieredKind, parse_tiers
from retrieval.errors import BadIndexKind
from retrieval.records.vector_file import BLOCK_ROWS, VectorFile
from retrieval.search.filters.postings import pack
from retrieval.search.index import one_thread
from retrieval.search.kinds import candidate_index, exact_rows, scanned_index

FLAT = "Flat"
STORAGES = {"fp32": "Flat", "fp16": "SQfp16"}
_TRAINING_ROWS = 65_536
_MIN_AXES_ROWS, _AXES_ROWS_PER_DIMENSION = 16_384, 16
_LIST_ROUNDS, _MAX_ROWS_PER_LIST = 8, 64
_CODE_BITS = 4
# A codebook starts from that of a normal distribution: fewer rounds lead to a smaller error than from scratch.
_CODEBOOK_ROUNDS, _MAX_ROWS_PER_CODE, _NORMAL_ROWS, _NORMAL_ROUNDS = 4, 256, 4096, 25
_SEED = 3
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


def canonical_kind(factory: str, dimension: int) -> str:
    """Return how a kind is written in the manifest: every compressed kind is re-ranked, so that goes without saying.

    Raises BadIndexKind for tiers that cannot be.
    """
    kind = _REFINEMENT.sub("", factory)
    with _explained(factory):
        return str(parse_tiers(kind, dimension)) if kind.startswith(PREFIX) else kind


def check_negates(factory: str, dimension: int) -> None:
    """Raise BadIndexKind for a kind that cannot be made or that `negate` refuses, before anything is trained."""
    with _explained(factory):
        index = _untrained(_REFINEMENT.sub("", factory), dimension)  # Named, as FAISS's views keep nothing alive.
        negate(index)


def refill(index: faiss.Index, vectors: VectorFile, store: faiss.Index, sources: NDArray[np.int64]) -> faiss.Index:
    """Return a copy of an index, which may be mapped, with other rows: those of `store`.

    It re-ranks by these, unless it keeps them itself. Row r was row `sources[r]` (r,) of the index, or is a new one
    where it had none of that number. With lists, rows that stay keep their codes, which are those of the vectors that
    they were given at first.
    """
    inner = faiss.deserialize_index(faiss.serialize_index(candidate_index(index)))
    if isinstance(scanned_index(inner), faiss.IndexIVF):
        _replace_rows(inner, vectors, sources)
    else:
        inner.reset()
        _fill(inner, vectors)
    return inner if exact_rows(inner) is not None else faiss.IndexRefine(inner, store)


class Trainer:
    """Builds indexes of any kind over one catalogue; what kinds share is computed once."""

    def __init__(self, vectors: VectorFile, store: faiss.Index):
        """`store` holds the vectors themselves."""
        self._vectors, self.store = vectors, store
        self.centroids, self._trained = cache(self._train_centroids), cache(self._train_empty)

    def build(self, factory: str) -> faiss.Index:
        """Build an index of a kind over all vectors, which re-ranks by those in `store` unless it keeps them itself.

        Raises BadIndexKind where FAISS cannot make such an index of these vectors.
        """
        if _REFINEMENT.sub("", factory) == FLAT:
            return self.store
        index = self.train(factory)
        with _explained(factory):
            _fill(index, self._vectors)
        return index if exact_rows(index) is not None else faiss.IndexRefine(index, self.store)

    def train(self, factory: str) -> faiss.Index:
        """Return an empty index of a kind, trained with a sample. Raises BadIndexKind."""
        return faiss.clone_index(self._trained(factory))

    def _train_empty(self, factory: str) -> faiss.Index:
        kind = _REFINEMENT.sub("", factory)  # Every compressed kind is re-ranked, whether or not the string says so.
        with _explained(factory):
            index = _untrained(kind, self._vectors.dimension)
            if exact_rows(index) is not None and not isinstance(self.store, faiss.IndexFlat):
                raise BadIndexKind("a graph keeps its vectors as fp32; leave out --storage fp16")
            self._train(index, kind)
        return index

    def _train(self, index: faiss.Index, kind: str) -> None:
        if kind.startswith(PREFIX):
            self._train_tiers(index, parse_tiers(kind, self._vectors.dimension))
            return
        inner = scanned_index(index)
        if isinstance(inner, faiss.IndexIVF):
            inner.cp.niter = _LIST_ROUNDS
            inner.cp.min_points_per_centroid = 1  # No warnings: what small samples cost is measured.
        if hasattr(inner, "pq"):
            inner.pq.cp.min_points_per_centroid = 1
        index.train(self._sample)

    def _train_tiers(self, index: faiss.IndexPreTransform, kind: TieredKind) -> None:
        transform, inner = faiss.downcast_VectorTransform(index.chain.at(0)), scanned_index(index)
        faiss.copy_array_to_vector(kind.projection(self._axes).ravel(), transform.A)
        transform.is_trained = True
        inner.quantizer.add(transform.apply(self.centroids(kind.lists)))
        sample = transform.apply(self._sample[: _MAX_ROWS_PER_CODE * 2**_CODE_BITS])
        _, lists = inner.quantizer.search(sample, 1)
        _train_codes(inner.pq, kind, sample - inner.quantizer.reconstruct_batch(lists[:, 0]))
        inner.is_trained = index.is_trained = True

    @cached_property
    def _sample(self) -> NDArray[np.float32]:
        return self._vectors.sample(_TRAINING_ROWS, _SEED)

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        """The directions (d, d) in which the catalogue varies, widest first."""
        rows = max(_MIN_AXES_ROWS, _AXES_ROWS_PER_DIMENSION * self._vectors.dimension)
        sample = self._sample[:rows]
        centred = sample - sample.mean(axis=0)  # Single precision halves the memory of a large sample.
        _, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        return directions[:, ::-1].T

    def _train_centroids(self, lists: int) -> NDArray[np.float32]:
        """Return the centroids (lists, d) of a kind's lists."""
        if lists == 1:
            return self._sample.mean(axis=0, keepdims=True)
        if lists > len(self._sample):
            raise BadIndexKind(f"{lists} lists are more than the {len(self._sample)} vectors to train them with")
        # Centroids of one length make lists of like size, as rows go to the list of highest inner product.
        means = faiss.Kmeans(
            self._vectors.dimension,
            lists,
            niter=_LIST_ROUNDS,
            seed=_SEED,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=_MAX_ROWS_PER_LIST,
        )
        means.train(self._sample)
        return means.centroids


def _fill(index: faiss.Index, vectors: VectorFile) -> None:
    blocks = -(-vectors.rows // BLOCK_ROWS)
    for block in tqdm(vectors.blocks(), desc="filling the index", total=blocks, disable=None, leave=False):
        index.add(block)


def _replace_rows(index: faiss.Index, vectors: VectorFile, sources: NDArray[np.int64]) -> None:
    """Add the rows that an index with lists lacks, take away those it is to lose, and number all anew.

    They are added first: FAISS adds codes to what is left in the places of those that were taken away.
    """
    count = index.ntotal
    added = np.flatnonzero(sources >= count)
    for start in range(0, len(added), BLOCK_ROWS):
        rows = added[start : start + BLOCK_ROWS]
        index.add_with_ids(vectors.take(rows), sources[rows])
    numbers = np.full(int(max(count, sources.max() + 1)), -1)
    numbers[sources] = np.arange(len(sources))
    index.remove_ids(faiss.IDSelectorBitmap(pack(numbers[:count] < 0)))
    lists = scanned_index(index).invlists
    for number in range(lists.nlist):
        if size := lists.list_size(number):
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            ids[:] = numbers[ids]


def _untrained(kind: str, dimension: int) -> faiss.Index:
    if kind.startswith(PREFIX):
        tiers = parse_tiers(kind, dimension)
        codes = len(tiers.directions_of_codes)
        width = codes * tiers.code_width
        inner = faiss.IndexIVFPQFastScan(
            faiss.IndexFlatIP(width), width, tiers.lists, codes, _CODE_BITS, faiss.METRIC_INNER_PRODUCT
        )
        inner.by_residual = True
        return faiss.IndexPreTransform(faiss.LinearTransform(dimension, width, False), inner)
    index = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    _check_parts(index)
    return index


def _train_codes(quantizer: faiss.ProductQuantizer, kind: TieredKind, sample: NDArray[np.float32]) -> None:
    """Train the codebooks of a kind with a sample (n, codes * code_width), on one thread: the steps are small."""
    held = kind.holds_direction
    normal = np.zeros((len(held), 2**_CODE_BITS, kind.code_width))
    for code, directions in enumerate(kind.directions_of_codes):
        normal[code, :, :directions] = _normal_codebook(directions)
    mean, deviation = (each.reshape(len(held), 1, -1) for each in (sample.mean(axis=0), sample.std(axis=0)))
    faiss.copy_array_to_vector((mean + deviation * normal).astype(np.float32).ravel(), quantizer.centroids)
    quantizer.train_type = faiss.ProductQuantizer.Train_hot_start
    quantizer.cp.niter, quantizer.cp.max_points_per_centroid = _CODEBOOK_ROUNDS, _MAX_ROWS_PER_CODE
    quantizer.cp.min_points_per_centroid = 1  # No warnings: what small samples cost is measured.
    with one_thread():
        quantizer.train(sample)


@cache
def _normal_codebook(dimension: int) -> NDArray[np.float32]:
    """Return centroids (2 ** bits, dimension) of the standard normal distribution."""
    draws = np.random.default_rng(_SEED).normal(size=(_NORMAL_ROWS, dimension)).astype(np.float32)
    means = faiss.Kmeans(dimension, 2**_CODE_BITS, niter=_NORMAL_ROUNDS, seed=_SEED)
    with one_thread():
        means.train(draws)
    return means.centroids


def _check_parts(index: faiss.Index) -> None:
    """Raise BadIndexKind where an index, or one inside it, is no index of inner products or would crash FAISS."""
    index = faiss.downcast_index(index)
    name = type(index).__name__
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise BadIndexKind(f"FAISS's {name} ranks by distance; the kind must rank by inner product, as HNSW32 does")
    if isinstance(index, faiss.IndexHNSW) and index.hnsw.assign_probas.size() < 2:
        raise BadIndexKind("a graph needs at least two links a node, as in HNSW32")
    parts = (getattr(index, part, None) for part in ("base_index", "refine_index", "index", "quantizer", "storage"))
    for part in parts:
        if isinstance(part, faiss.Index):
            _check_parts(part)


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
