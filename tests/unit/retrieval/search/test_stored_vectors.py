"""Stored vectors are scored as NumPy does it, in either precision, from a file or from memory."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import BadArtifact
from retrieval.search.files import open_index, write_index
from retrieval.search.stored_vectors import SCORING_ERROR, NegatedVectors, StoredVectors, open_vectors
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index

COUNT = 1100  # three blocks
DIMENSIONS = [2, 3, 7, 300, 301]
HALVES = np.concatenate([np.arange(0x3C01), 0x8000 + np.arange(0x3C01)]).astype(np.uint16).view(np.float16)


def opened(tmp_path: Path, units: np.ndarray, storage: str, where: str) -> StoredVectors:
    index = faiss_index(units, storage=storage)
    if where == "file":
        write_index(index, tmp_path / "index")
        index = open_index(tmp_path / "index")
    return open_vectors(index)


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize(("storage", "rounding"), [("fp32", 0), ("fp16", 2**-11)])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_scores_are_numpys(tmp_path: Path, dimension: int, storage: str, rounding: float, where: str) -> None:
    draw = np.random.default_rng(dimension)
    units, queries = (unit_vectors(draw.normal(size=(count, dimension))) for count in (COUNT, 9))
    vectors = opened(tmp_path, units, storage, where)
    rounded = faiss_index(units, storage=storage).reconstruct_n()
    np.testing.assert_allclose(rounded, units, rtol=rounding, atol=2**-24)
    exact = queries.astype(np.float64) @ rounded.T.astype(np.float64)
    rows = draw.integers(0, COUNT, (9, 700))
    rows[:, 5] = -1
    scores = vectors.score(queries, rows)
    expected = np.take_along_axis(exact, rows, axis=1)
    expected[:, 5] = -np.inf
    np.testing.assert_allclose(scores, expected, rtol=0, atol=SCORING_ERROR / 2)
    for start, stop in ((0, COUNT), (511, 514), (700, COUNT)):
        for count in (1, 3, 4, 9):  # some are scanned one by one, more of them multiplied
            found = vectors.score_range(queries[:count], start, stop)
            np.testing.assert_allclose(found, exact[:count, start:stop], rtol=0, atol=SCORING_ERROR / 2)
    assert vectors.take(rows[0, 6:20]).tobytes() == rounded[rows[0, 6:20]].tobytes()


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_score_does_not_depend_on_what_else_is_scored(tmp_path: Path, dimension: int, storage: str) -> None:
    draw = np.random.default_rng(dimension)
    units, queries = (unit_vectors(draw.normal(size=(count, dimension))) for count in (COUNT, 7))
    vectors = opened(tmp_path, units, storage, "file")
    all_rows = np.tile(np.arange(COUNT), (7, 1))
    whole = vectors.score(queries, all_rows)
    assert (-vectors.score(-queries, all_rows) == whole).all()
    for query in range(7):
        order = draw.permutation(COUNT)
        assert vectors.score(queries[query : query + 1], order[None]).tobytes() == whole[query, order].tobytes()
        assert vectors.score(queries[query : query + 1], order[None, :1])[0, 0] == whole[query, order[0]]


def test_every_half_precision_number_is_decoded_exactly(tmp_path: Path) -> None:
    vectors = opened(tmp_path, np.stack([HALVES, HALVES[::-1]], axis=1).astype(np.float32), "fp16", "file")
    for axis, query in ((HALVES, [1, 0]), (HALVES[::-1], [0, 1])):
        queries = np.array([query], np.float32)
        for count in (1, 4):
            found = vectors.score_range(np.repeat(queries, count, axis=0), 0, len(HALVES))
            assert (found == axis.astype(np.float32)).all()
        assert (vectors.score(queries, np.arange(len(HALVES))[None]) == axis.astype(np.float32)).all()


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_negated_vectors_score_as_those_of_a_negated_index(tmp_path: Path, storage: str) -> None:
    draw = np.random.default_rng(0)
    units, queries = (unit_vectors(draw.normal(size=(count, 24))) for count in (COUNT, 5))
    negated, own = NegatedVectors(opened(tmp_path, units, storage, "file")), opened(tmp_path, -units, storage, "memory")
    rows = draw.integers(0, COUNT, (5, 40))
    assert (negated.count, negated.dimension) == (own.count, own.dimension)
    assert (negated.score(queries, rows) == own.score(queries, rows)).all()
    assert (negated.score_range(queries[:1], 3, COUNT) == own.score_range(queries[:1], 3, COUNT)).all()
    assert (negated.take(rows[0]) == own.take(rows[0])).all()


def test_an_index_of_codes_has_the_vectors_that_it_is_given_or_none(tmp_path: Path) -> None:
    units = unit_vectors(np.random.default_rng(0).normal(size=(300, 8)))
    index = faiss_index(units, "PQ4x4fs")  # Named, as FAISS's views keep nothing alive.
    codes = index.base_index
    with pytest.raises(BadArtifact, match=r"^a IndexPQFastScan does not keep the vectors themselves$"):
        open_vectors(codes)
    vectors = opened(tmp_path, units, "fp32", "memory")
    assert open_vectors(codes, otherwise=vectors) is vectors
