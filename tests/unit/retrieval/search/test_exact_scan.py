"""An exact scan returns all rows that may be among the k best and the k worst, and few others."""

import numpy as np
import pytest

from retrieval.search import exact_scan
from retrieval.search.exact_scan import nearest_rows
from retrieval.search.stored_vectors import open_vectors
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index

COUNT = 3000


@pytest.fixture(params=[2**22, 1000], ids=["at once", "block by block"], autouse=True)
def scores_at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_scan, "_MAX_SCORES", request.param)


def found(units: np.ndarray, queries: np.ndarray, k: int, storage: str = "fp32") -> list[set[int]]:
    """The rows of the best side of each query, and then of the worst."""
    lines = nearest_rows(open_vectors(faiss_index(units, storage=storage)), queries, k)
    sets = [set(line[line >= 0].tolist()) for line in lines]
    assert [len(each) for each in sets] == (lines >= 0).sum(axis=1).tolist(), "a row is there twice"
    return sets


def needed(units: np.ndarray, queries: np.ndarray, k: int) -> list[set[int]]:
    """The rows whose scores in millionths reach the k-th."""
    scores = queries.astype(np.float64) @ units.T.astype(np.float64)
    signed = np.rint(np.concatenate([scores, -scores]) * 1e6)
    kth = np.sort(signed, axis=1)[:, -min(k, len(units))]
    return [set(np.flatnonzero(line >= least).tolist()) for line, least in zip(signed, kth, strict=True)]


@pytest.mark.parametrize("k", [1, 2, 10, 11, 700, COUNT - 1, COUNT, COUNT + 1])
@pytest.mark.parametrize("queries", [1, 5])
def test_all_rows_that_count_are_found(k: int, queries: int) -> None:
    draw = np.random.default_rng(k)
    units, users = (unit_vectors(draw.normal(size=(count, 12))) for count in (COUNT, queries))
    for rows, least in zip(found(units, users, k), needed(units, users, k), strict=True):
        assert rows >= least


def test_few_others_are() -> None:
    draw = np.random.default_rng(0)
    units, users = (unit_vectors(draw.normal(size=(count, 12))) for count in (20_000, 3))
    assert max(map(len, found(units, users, 10))) < 60 * 64  # 60 blocks at most, of which each has its own k best


def test_rows_that_tie_are_all_found() -> None:
    draw = np.random.default_rng(1)
    units = unit_vectors(draw.integers(-2, 3, (COUNT, 4)) + np.array([0.5, 0, 0, 0]))
    users = np.eye(4, dtype=np.float32)
    for rows, least in zip(found(units, users, 3), needed(units, users, 3), strict=True):
        assert len(least) > 3
        assert rows >= least


def test_a_query_with_too_many_ties_has_no_rows_and_the_others_have_theirs() -> None:
    draw = np.random.default_rng(2)
    cone = np.concatenate([np.full((COUNT, 1), 0.6), 0.8 * unit_vectors(draw.normal(size=(COUNT, 3)))], axis=1)
    units, users = unit_vectors(cone), np.eye(4, dtype=np.float32)[[1, 0, 2, 0]]
    rows, least = found(units, users, 10), needed(units, users, 10)
    crowded = exact_scan._MAX_SCORES > COUNT  # A smaller block has fewer rows than a query may have.
    for query in (1, 3, 5, 7):
        assert rows[query] == (set() if crowded else set(range(COUNT)))
    for query in (0, 2, 4, 6):
        assert rows[query] >= least[query]


@pytest.mark.parametrize("queries", [1, 5])
def test_rows_that_half_precision_lengthens_tie_at_one(queries: int) -> None:
    draw = np.random.default_rng(3)
    user = unit_vectors(draw.normal(size=(1, 48)))
    near = unit_vectors(user + 1e-4 * draw.normal(size=(300, 48)))
    units = unit_vectors(np.concatenate([near, draw.normal(size=(COUNT, 48))]))
    stored = units.astype(np.float16).astype(np.float64)
    tied = np.flatnonzero(np.rint(stored @ user[0] * 1e6) >= 1e6)
    assert (stored @ user[0]).max() > 1 + 1e-5
    assert 20 < len(tied) < 300
    rows = found(units, np.repeat(user, queries, axis=0), 5, "fp16")
    assert all(of_query >= set(tied.tolist()) for of_query in rows[:queries])
    rows = found(units, np.repeat(-user, queries, axis=0), 5, "fp16")
    assert all(of_query >= set(tied.tolist()) for of_query in rows[queries:])
