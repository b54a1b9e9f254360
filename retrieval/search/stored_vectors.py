"""The unit vectors of an index's rows, as its file keeps them: what the scores of every answer are computed from."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.search.kinds import exact_rows

SCORING_ERROR = 5e-7  # By so much the scores of a range may differ from those of picked rows.
_BLOCK_ROWS = 512  # What is decoded at a time stays in the cache.
_MIN_MATRIX_QUERIES = 4  # From here on a matrix product takes less time than as many scans.
_PAGE_BYTES = 4096
_HALF_MASK, _HALF_SHIFT, _HALF_SCALE = np.int32(-0x70000001), 13, np.float32(2.0**112)


class StoredVectors(ABC):
    """Unit vectors (count, dimension), which threads share: nothing changes after opening.

    A score is an inner product in single precision.
    """

    count: int
    dimension: int
    codes_per_number: float  # FAISS scans so many four-bit codes while one number of a picked row is read and scored.

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors (m, d) of rows (m,)."""

    @abstractmethod
    def score(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores (n, m) of each query (n, d) with rows of its own (n, m); row -1 scores minus infinity.

        The score of a query and a row is the same to the bit whatever else is scored.
        """

    @abstractmethod
    def score_range(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Return the scores (n, stop - start) of each query (n, d) with consecutive rows, within SCORING_ERROR."""

    @abstractmethod
    def score_rows(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores (n, m) of each query (n, d) with the same rows (m,), within SCORING_ERROR."""

    @abstractmethod
    def warm(self) -> None:
        """Map every page now, once; on demand, it would make the first searches several times slower."""


class NegatedVectors(StoredVectors):
    """The negation of other vectors, of which there is no copy."""

    def __init__(self, vectors: StoredVectors) -> None:
        self._vectors, self.count, self.dimension = vectors, vectors.count, vectors.dimension
        self.codes_per_number = vectors.codes_per_number

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return -self._vectors.take(rows)

    def score(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors.score(-queries, rows)

    def score_range(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        return self._vectors.score_range(-queries, start, stop)

    def score_rows(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors.score_rows(-queries, rows)

    def warm(self) -> None:
        self._vectors.warm()


def open_vectors(index: faiss.Index, otherwise: StoredVectors | None = None) -> StoredVectors:
    """Return the vectors of an index, which they keep alive, or the other ones where it keeps nothing but codes.

    Raises BadArtifact where there are none.
    """
    rows = exact_rows(index)
    if rows is None and otherwise is not None:
        return otherwise
    if rows is None:
        raise BadArtifact(f"a {type(faiss.downcast_index(index)).__name__} does not keep the vectors themselves")
    return _SingleVectors(index, rows) if isinstance(rows, faiss.IndexFlat) else _HalfVectors(index, rows)


class _MappedVectors(StoredVectors):
    """Vectors in the file or memory of a FAISS index."""

    _scale = np.float32(1)

    def __init__(self, owner: faiss.Index, rows: Any) -> None:
        """Read `rows`, the part of its `owner` that keeps each vector as an array of numbers."""
        self._owner, self._rows = owner, rows  # FAISS's views of what is inside do not keep it alive.
        self.count, self.dimension = int(rows.ntotal), int(rows.d)
        # In a file they start at any byte, which FAISS can read in place and NumPy cannot.
        self._bytes = faiss.rev_swig_ptr(rows.codes.data(), rows.codes.size()).reshape(self.count, -1)
        self._is_warm = False

    def score_range(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        blocks = (self._bytes[first : min(first + _BLOCK_ROWS, stop)] for first in range(start, stop, _BLOCK_ROWS))
        return self._score_blocks(queries, blocks, stop - start)

    def score_rows(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        blocks = (self._bytes[rows[first : first + _BLOCK_ROWS]] for first in range(0, len(rows), _BLOCK_ROWS))
        return self._score_blocks(queries, blocks, len(rows))

    def _score_blocks(
        self, queries: NDArray[np.float32], blocks: Iterable[NDArray[np.uint8]], count: int
    ) -> NDArray[np.float32]:
        """Return the scores (n, count) of each query (n, d) with stored vectors, of which a block comes at a time."""
        scores = np.empty((len(queries), count), np.float32)
        numbers = np.empty((_BLOCK_ROWS, self.dimension), np.float32)
        scaled, end = queries * self._scale, 0
        for stored in blocks:
            start, end = end, end + len(stored)
            block, of_block = numbers[: len(stored)], scores[:, start:end]
            self._decode(stored, block)
            if len(queries) < _MIN_MATRIX_QUERIES:
                np.vecdot(block, scaled[:, None], out=of_block)
            else:
                np.matmul(scaled, block.T, out=of_block)
        return scores

    def warm(self) -> None:
        if not self._is_warm:
            self._bytes.ravel()[::_PAGE_BYTES].max()
            self._is_warm = True

    @abstractmethod
    def _decode(self, stored: NDArray[np.uint8], numbers: NDArray[np.float32]) -> None:
        """Write the numbers (m, d), divided by `_scale`, of stored vectors."""


class _SingleVectors(_MappedVectors):
    """Vectors of single-precision numbers."""

    codes_per_number = 10.0

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._bytes[rows].view(np.float32)

    def score(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.empty(rows.shape, np.float32)
        query, score, row = faiss.swig_ptr(queries), faiss.swig_ptr(scores), faiss.swig_ptr(rows)
        self._rows.compute_distance_subset(len(queries), query, rows.shape[1], score, row)
        return scores

    def score_range(self, queries: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        if len(queries) >= _MIN_MATRIX_QUERIES:
            return super().score_range(queries, start, stop)
        scores = np.empty((len(queries), stop - start), np.float32)
        vectors = faiss.swig_ptr(self._bytes[start:stop].view(np.float32))
        for query, of_query in zip(queries, scores, strict=True):
            score = faiss.swig_ptr(of_query)
            faiss.fvec_inner_products_ny(score, faiss.swig_ptr(query), vectors, self.dimension, stop - start)
        return scores

    def score_rows(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if len(queries) >= _MIN_MATRIX_QUERIES:
            return super().score_rows(queries, rows)
        return self.score(queries, np.tile(rows, (len(queries), 1)))

    def _decode(self, stored: NDArray[np.uint8], numbers: NDArray[np.float32]) -> None:
        numbers.view(np.uint8)[:] = stored


class _HalfVectors(_MappedVectors):
    """Vectors of half-precision numbers.

    They are decoded by moving sign, exponent and fraction to where single precision has them, which leaves the number
    times 2**-112, its bias being greater: a fifth of the time that FAISS or NumPy takes for each number by itself.
    """

    codes_per_number = 20.0
    _scale = _HALF_SCALE

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._bytes[rows].view(np.float16).astype(np.float32)

    def score(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.empty(rows.shape, np.float32)
        numbers = np.empty((min(_BLOCK_ROWS, rows.shape[1]), self.dimension), np.float32)
        for query, of_query, row in zip(queries * self._scale, scores, rows, strict=True):
            for first in range(0, len(row), _BLOCK_ROWS):
                stored = self._bytes[row[first : first + _BLOCK_ROWS]]
                block = numbers[: len(stored)]
                self._decode(stored, block)
                np.vecdot(block, query, out=of_query[first : first + _BLOCK_ROWS])
        scores[rows < 0] = -np.inf
        return scores

    def _decode(self, stored: NDArray[np.uint8], numbers: NDArray[np.float32]) -> None:
        bits = numbers.view(np.int32)
        bits[:] = stored.view(np.int16)  # The sign fills the upper half.
        np.left_shift(bits, _HALF_SHIFT, out=bits)
        np.bitwise_and(bits, _HALF_MASK, out=bits)
