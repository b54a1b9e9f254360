"""How far vectors are from what an index holds of them."""

import faiss
import numpy as np
import pytest

from index_builder.kinds.codes import coding_error
from index_builder.kinds.training import Trainer, store_vectors
from retrieval.search.kinds import scanned_index
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index, vector_file

VECTORS, OTHERS = (unit_vectors(np.random.default_rng(seed).normal(size=(600, 8))) for seed in (0, 1))


@pytest.mark.parametrize("kind", ["Tiers2x1+3x2,IVF4", "Tiers3x1", "IVF4,PQ4x4fs", "PQ4x4fs"])
def test_the_error_is_the_mean_squared_distance_from_what_the_codes_hold(kind: str) -> None:
    with vector_file(VECTORS) as vectors:
        index = Trainer(vectors, store_vectors(vectors, "fp32")).train(kind)
    index.add(OTHERS)
    scanned = scanned_index(index)
    if isinstance(scanned, faiss.IndexIVF):
        scanned.make_direct_map()
    held = np.array([scanned.reconstruct(i) for i in range(len(OTHERS))])
    if kind.startswith("Tiers"):
        transform = faiss.downcast_VectorTransform(index.chain.at(0))
        held = held @ faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    expected = np.square(OTHERS - held).sum(axis=1).mean()
    refined = faiss.IndexRefine(index, faiss_index(OTHERS))
    assert coding_error(refined, OTHERS) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["Flat", "HNSW8", "IVF4,SQ8"])
def test_an_index_without_such_codes_has_no_error(kind: str) -> None:
    assert coding_error(faiss_index(VECTORS, kind), VECTORS) is None
