"""An index filled with other vectors: it has the codes that its training gives them."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from index_builder.kinds.training import Trainer, refill, store_vectors
from retrieval.search.files import open_index, read_index, write_index
from retrieval.search.kinds import candidate_index, scanned_index
from retrieval.vectors import unit_vectors
from tests.support.indexes import vector_file

BEFORE, NEW = (unit_vectors(np.random.default_rng(seed).normal(size=(700, 8))) for seed in (0, 1))
STAYING = np.flatnonzero(np.random.default_rng(2).random(700) < 0.8)
SOURCES = {
    "many": np.insert(STAYING, np.arange(0, 400, 4), np.arange(700, 800)),
    "none are new": STAYING,
    "none stay": np.arange(700, 1400),
    "all are new, out of order": np.random.default_rng(3).permutation(np.arange(700, 1400)),
    "all stay": np.arange(700),
    "one is new": np.append(np.arange(700), 700),
}


def vectors_of(sources: np.ndarray) -> np.ndarray:
    return np.concatenate([BEFORE, NEW])[sources]


def refilled_and_expected(kind: str, sources: np.ndarray, directory: Path) -> tuple[faiss.Index, faiss.Index]:
    after = vectors_of(sources)
    with vector_file(BEFORE) as vectors, vector_file(after) as others:
        trainer, store = Trainer(vectors, store_vectors(vectors, "fp32")), store_vectors(others, "fp32")
        write_index(trainer.build(kind), directory / "before")
        refilled = refill(open_index(directory / "before"), others, store, sources)
        trained = trainer.train(kind)
    trained.add(after)
    return refilled, trained if kind.startswith("HNSW") else faiss.IndexRefine(trained, store)


@pytest.mark.parametrize("kind", ["HNSW8", "PQ4x4fs", "OPQ4,PQ4x4fs"])
def test_a_refilled_index_has_the_bytes_of_one_filled_after_its_training(tmp_path: Path, kind: str) -> None:
    refilled, expected = refilled_and_expected(kind, SOURCES["many"], tmp_path)
    write_index(refilled, tmp_path / "refilled")
    write_index(expected, tmp_path / "expected")
    assert (tmp_path / "refilled").read_bytes() == (tmp_path / "expected").read_bytes()


def scores(index: faiss.Index, query: np.ndarray) -> np.ndarray:
    """The scores of all rows by their codes."""
    candidates = candidate_index(index)
    found_scores, rows = candidates.search(query[None], index.ntotal, params=_all_lists(candidates))
    of_rows = np.full(index.ntotal, np.nan, np.float32)
    of_rows[rows[0]] = found_scores[0]
    return of_rows


def _all_lists(index: faiss.Index) -> faiss.SearchParameters:
    every = faiss.SearchParametersIVF(nprobe=scanned_index(index).nlist)
    is_turned = isinstance(faiss.downcast_index(index), faiss.IndexPreTransform)
    return faiss.SearchParametersPreTransform(index_params=every) if is_turned else every


@pytest.mark.parametrize("sources", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("kind", ["IVF8,PQ4x4fs", "Tiers4x1+2x2,IVF4", "Tiers4x1+2x2", "IVF4,SQ8", "OPQ4,IVF4,PQ4x4fs"])
def test_rows_of_an_index_with_lists_have_the_codes_of_one_filled_after_its_training(
    tmp_path: Path, kind: str, sources: np.ndarray
) -> None:
    refilled, expected = refilled_and_expected(kind, sources, tmp_path)
    write_index(refilled, tmp_path / "refilled")
    reopened = read_index(tmp_path / "refilled")
    assert reopened.ntotal == candidate_index(reopened).ntotal == scanned_index(reopened).ntotal == len(sources)
    for query in [*NEW[:20], *vectors_of(sources)[-20:]]:
        found = scores(reopened, query)
        assert not np.isnan(found).any()
        np.testing.assert_array_equal(found, scores(expected, query))
    for index in (refilled, reopened):
        _, rows = index.search(vectors_of(sources)[:50], 1, params=faiss.IndexRefineSearchParameters(k_factor=200))
        np.testing.assert_array_equal(rows[:, 0], np.arange(50))
