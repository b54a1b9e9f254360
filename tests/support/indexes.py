"""Product indexes made in memory, as the builder makes them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np

from index_builder.kinds.negation import negate
from index_builder.kinds.training import Trainer, store_vectors
from retrieval.records.vector_file import VectorFile
from retrieval.search.index import ProductIndex
from retrieval.search.kinds import candidate_index
from retrieval.search.ranking import RowAssigner, RowGroups
from retrieval.search.settings import SearchSettings, SideSettings
from retrieval.vectors import unit_vectors
from tests.support.oracle import Oracle

LIGHT = SearchSettings()
WHOLE = SearchSettings(candidates=10**9)


@contextmanager
def vector_file(units: np.ndarray) -> Iterator[VectorFile]:
    """A matrix in a scratch file that holds these unit vectors (n, d)."""
    with tempfile.TemporaryDirectory() as directory:
        matrix = VectorFile(Path(directory) / "unit_vectors.f32")
        matrix.append(np.asarray(units, np.float32))
        try:
            yield matrix
        finally:
            matrix.close()


def group_identical(units: np.ndarray) -> tuple[np.ndarray, RowGroups]:
    """The first product (m,) of each index row, and the groups."""
    rows = RowAssigner()
    return np.flatnonzero(rows.assign(units)), rows.groups()


def faiss_index(units: np.ndarray, factory: str = "Flat", storage: str = "fp32") -> faiss.Index:
    """The FAISS index of distinct unit vectors (n, d)."""
    with vector_file(units) as matrix:
        return Trainer(matrix, store_vectors(matrix, storage)).build(factory)


def negated(index: faiss.Index) -> faiss.Index:
    """A negated copy, without the vectors that it would only re-rank by."""
    copy = faiss.deserialize_index(faiss.serialize_index(candidate_index(index)))
    negate(copy)
    return copy


def index_over(
    vectors: np.ndarray,
    factory: str = "Flat",
    storage: str = "fp32",
    settings: SearchSettings = LIGHT,
) -> ProductIndex:
    """An index of products with these vectors (n, d), of any length; both sides look equally hard."""
    units = unit_vectors(vectors)
    first_products, groups = group_identical(units)
    best = faiss_index(units[first_products], factory, storage)
    return ProductIndex(best, groups, SideSettings(settings, settings))


def check_exact(index: ProductIndex, vectors: np.ndarray, users: np.ndarray, k: int) -> None:
    """Assert that each of the users (u, d) gets NumPy's k best and worst products."""
    oracle = Oracle(vectors)
    for side, found in zip(("best", "worst"), index.search(unit_vectors(users), k), strict=True):
        assert len(found.positions) == len(users)
        for i, user in enumerate(users):
            oracle.check(user, side, found.positions[i].tolist(), found.scores[i].tolist(), k)
