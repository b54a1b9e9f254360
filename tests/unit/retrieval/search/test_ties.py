"""Products of equal rounded score stand in catalogue order, however many tie and however deep they lie."""

from collections import Counter

import numpy as np
import pytest

from retrieval.search.candidates import Candidates
from retrieval.search.exact_scan import Pace, nearest_rows
from retrieval.search.filters.masks import Mask
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SPARE_NEIGHBOURS, SearchPath
from retrieval.search.stored_vectors import StoredVectors
from retrieval.vectors import unit_vectors
from tests.support.indexes import LIGHT, index_over
from tests.support.oracle import Oracle

COUNT = 20_000
MARGIN = 0.3  # of a millionth: how far an exact score stays from where rounding would turn


def near_identical_directions() -> np.ndarray:
    """Distinct 2-d vectors close to east, whose cosines with east are 1.000000, 0.999999, … without a doubt."""
    draw = np.random.default_rng(0)
    angles = draw.uniform(-2.5e-3, 2.5e-3, 3 * COUNT)
    units = unit_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    units = np.unique(units, axis=0)
    millionths = units[:, 0].astype(np.float64) * 1e6
    clear = units[np.abs(millionths - np.rint(millionths)) < 0.5 - MARGIN]
    return draw.permutation(clear)[:COUNT]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return near_identical_directions()


@pytest.fixture(scope="module")
def index(vectors: np.ndarray) -> ProductIndex:
    return index_over(vectors)


def ranked(vectors: np.ndarray, user: np.ndarray, sign: int) -> list[tuple[float, int]]:
    """Every (score, position), best or worst first, from cosines in float64."""
    scores = np.round(unit_vectors(vectors).astype(np.float64) @ user, 6)
    return sorted(zip(scores.tolist(), range(len(scores)), strict=True), key=lambda pair: (-sign * pair[0], pair[1]))


def found(index: ProductIndex, users: np.ndarray, k: int) -> list[list[list[tuple[float, int]]]]:
    return [
        [list(zip(*pair, strict=True)) for pair in zip(side.scores.tolist(), side.positions.tolist(), strict=True)]
        for side in index.search(users.astype(np.float32), k)
    ]


def test_the_catalogue_is_as_hard_as_it_should_be(vectors: np.ndarray, index: ProductIndex) -> None:
    assert (len(vectors), index.groups.row_count) == (COUNT, COUNT)
    best = ranked(vectors, np.array([1.0, 0.0]), 1)
    assert [score for score, _ in best[:5000]] == [1.0] * 5000
    assert [position for _, position in best[:3]] != [0, 1, 2]


@pytest.mark.parametrize("k", [1, 10, 1000, COUNT, COUNT + 1])
def test_thousands_of_tied_products_stand_in_catalogue_order(vectors: np.ndarray, index: ProductIndex, k: int) -> None:
    east = np.array([1.0, 0.0])
    assert found(index, east[None], k) == [[ranked(vectors, east, 1)[:k]], [ranked(vectors, east, -1)[:k]]]


def test_the_opposite_user_sees_the_sides_swapped(vectors: np.ndarray, index: ProductIndex) -> None:
    west = np.array([-1.0, 0.0])
    assert found(index, west[None], 50) == [[ranked(vectors, west, 1)[:50]], [ranked(vectors, west, -1)[:50]]]


def test_users_who_need_a_deep_search_do_not_change_the_others(vectors: np.ndarray, index: ProductIndex) -> None:
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    batch = np.stack([north, east, -north, -east] * 10)
    alone = [found(index, user[None], 10) for user in batch[:4]]
    assert found(index, batch, 10) == [[alone[i % 4][side][0] for i in range(40)] for side in (0, 1)]


@pytest.mark.parametrize("k", [1, 6, 7, 50])
def test_ties_that_reach_across_the_last_place_are_cut_by_position(k: int) -> None:
    """All score 0.6 with the user but differ in direction, so that the index holds each by itself."""
    angles = np.random.default_rng(1).uniform(0, 2 * np.pi, 3000)
    cone = np.stack([np.full(3000, 0.6), 0.8 * np.cos(angles), 0.8 * np.sin(angles)], axis=1)
    cone[[100, 2900]] = [[0.7, 0.0, 0.1], [-0.6, 0.8, 0.0]]
    best, worst = (side.positions[0].tolist() for side in index_over(cone).search(np.eye(1, 3, dtype=np.float32), k))
    rest = [position for position in range(3000) if position not in (100, 2900)]
    assert best == [100, *rest][:k]
    assert worst == [2900, *rest][:k]


KINDS = [("Flat", "fp32"), ("Flat", "fp16"), ("HNSW16", "fp32"), ("IVF16,PQ4x4fs,RFlat", "fp32"), ("PQ4x4fs", "fp16")]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts users whose candidates are looked for, users for whom all rows are scanned, and rows scored one by one."""
    counts: Counter[str] = Counter()
    find, order = Candidates.find, ProductIndex._order

    def count_find(self: Candidates, queries: np.ndarray, depth: int, mask: Mask | None) -> np.ndarray:
        counts["searched"] += len(queries)
        return find(self, queries, depth, mask)

    def count_nearest_rows(
        vectors: StoredVectors, queries: np.ndarray, k: int, mask: Mask | None, pace: Pace | None
    ) -> np.ndarray:
        counts["scanned"] += len(queries)
        return nearest_rows(vectors, queries, k, mask, pace)

    def count_order(self: ProductIndex, signed: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        counts["scored"] += rows.size
        return order(self, signed, rows, count)

    monkeypatch.setattr(Candidates, "find", count_find)
    monkeypatch.setattr("retrieval.search.index.nearest_rows", count_nearest_rows)
    monkeypatch.setattr(ProductIndex, "_order", count_order)
    return counts


@pytest.mark.parametrize(("kind", "storage"), KINDS)
@pytest.mark.parametrize("k", [1, 10, 300])
def test_near_identical_vectors_are_told_apart_in_bounded_work(
    work: Counter[str], kind: str, storage: str, k: int
) -> None:
    count = 40_000 if kind == "Flat" else 20_000  # A scan of more than 32,768 rows has three depths.
    draw = np.random.default_rng(7)
    base, side = np.eye(2, 8)
    vectors = base + 1e-7 * draw.normal(size=(count, 8))
    users = np.stack([base, -base, base + side, *draw.normal(size=(5, 8))])
    index = index_over(vectors, kind, storage)
    batch = index.search(unit_vectors(users), k)
    assert work["searched"] <= 3 * len(users)
    assert work["scanned"] <= len(users)
    assert work["scored"] <= 1.5 * 2 * count * len(users)
    for found, score in zip(batch, (1.0, 1.0), strict=True):  # All tie with either of the first two.
        assert found.positions[:2].tolist() == [list(range(k))] * 2
        assert found.scores[:2].tolist() == [[score] * k, [-score] * k]
    alone = [index.search(user[None], k) for user in unit_vectors(users)]
    oracle = Oracle(vectors)
    for name, side_found, singles in zip(("best", "worst"), batch, zip(*alone, strict=True), strict=True):
        for i, user in enumerate(users):
            assert side_found.positions[i].tolist() == singles[i].positions[0].tolist()
            assert side_found.scores[i].tolist() == singles[i].scores[0].tolist()
            if storage == "fp32" or i < 2:
                oracle.check(user, name, side_found.positions[i].tolist(), side_found.scores[i].tolist(), k)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_ties_that_are_settled_by_all_scores_are_those_of_the_whole_order(copies: int, k: int) -> None:
    """Vectors of few and small whole numbers: many equal cosines, in thousands of rows, some of several products."""
    draw = np.random.default_rng(8)
    east = np.array([5, 0, 0, 0, 0, 0])
    vectors = np.repeat(east + draw.integers(-2, 3, (9000, 6)), copies, axis=0)
    vectors = draw.permutation(vectors)
    index, users = index_over(vectors), unit_vectors(np.concatenate([np.eye(2, 6), -np.eye(1, 6)]))
    every = index.search(users, len(vectors))
    for found, whole in zip(index.search(users, k), every, strict=True):
        assert found.positions.tolist() == whole.positions[:, :k].tolist()
        assert found.scores.tolist() == whole.scores[:, :k].tolist()


def test_a_search_says_which_way_it_went_and_with_how_many_candidates() -> None:
    draw = np.random.default_rng(3)
    spread = draw.normal(size=(5000, 8))
    spread[:, 0] = -np.abs(spread[:, 0])
    vectors = np.concatenate([spread, np.eye(1, 8) + 1e-4 * draw.normal(size=(100, 8))])
    few, many = (LIGHT.candidates_for(depth) for depth in (10 + SPARE_NEIGHBOURS, 256))
    index, east, north = index_over(vectors, "PQ4x4fs,RFlat"), np.eye(1, 8), np.eye(1, 8, 1)
    paths = [index.search(user.astype(np.float32), 10)[0].path for user in (north, east)]
    assert paths == [
        SearchPath("candidates", {"best": few, "worst": few}),
        SearchPath("deeper candidates", {"best": many, "worst": many}),
    ]
    _, worst = index.search(north.astype(np.float32), 5000)
    assert worst.path == SearchPath("exact", {"best": 5100, "worst": 5100})
