"""An index filled with other vectors: it has the codes that its training gives them."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from index_builder.kinds.training import Trainer, refill, store_vectors
from retrieval.search.files import read_index, write_index
from retrieval.vectors import unit_vectors
from tests.support.indexes import vector_file

BEFORE, AFTER = (unit_vectors(np.random.default_rng(seed).normal(size=(700, 8))) for seed in (0, 1))
KINDS = ["HNSW8", "PQ4x4fs", "IVF8,PQ4x4fs", "Tiers4x1+2x2,IVF4", "OPQ4,PQ4x4fs", "IVF4,SQ8"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refilled_index_has_the_bytes_of_one_filled_after_its_training(tmp_path: Path, kind: str) -> None:
    with vector_file(BEFORE) as vectors, vector_file(AFTER) as others:
        trainer, store = Trainer(vectors, store_vectors(vectors, "fp32")), store_vectors(others, "fp32")
        write_index(trainer.build(kind), tmp_path / "before")
        write_index(refill(read_index(tmp_path / "before"), others, store), tmp_path / "refilled")
        trained = trainer.train(kind)
    trained.add(AFTER)
    expected = trained if kind.startswith("HNSW") else faiss.IndexRefine(trained, store)
    write_index(expected, tmp_path / "expected")
    assert (tmp_path / "refilled").read_bytes() == (tmp_path / "expected").read_bytes()
