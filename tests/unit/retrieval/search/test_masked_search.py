"""A search under a mask answers both sides as exact NumPy does over the products that the mask holds."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.search import index as index_module
from retrieval.search.candidates import Candidates
from retrieval.search.filters.masks import Mask
from retrieval.search.index import ProductIndex
from retrieval.search.settings import SearchSettings, SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index, group_identical, index_over
from tests.support.masks import check_among, maker_of, mask_over
from tests.support.oracle import unit

KINDS = ["Flat", "HNSW16", "PQ20x4fs", "Tiers8x1+32x1", "Tiers8x1+32x1,IVF16", "IVF8,SQ8"]
MASKED_KINDS = KINDS[3:]
COUNT, K, DIMENSION = 1500, 10, 40
DENSITIES = [0, 1, K - 1, K, 40, COUNT // 2, COUNT - 1, COUNT]
DRAW = np.random.default_rng(0)
# A third of the products have the vector of an earlier one, so that rows and products are told apart.
DISTINCT = DRAW.normal(loc=0.3, size=(COUNT, DIMENSION))
SHARED = DISTINCT[np.where(np.arange(COUNT) % 3, np.arange(COUNT), DRAW.integers(0, COUNT, COUNT))]
USERS = unit_vectors(DRAW.normal(loc=0.2, size=(70, DIMENSION)))
ENOUGH = SearchSettings(candidates=160, nprobe=16)  # The codes leave nothing out that matters.


@cache
def index_of(kind: str, storage: str, shares_rows: bool) -> ProductIndex:
    if kind == "HNSW16" and storage == "fp16":
        pytest.skip("a graph keeps single precision")
    return index_over(SHARED if shares_rows else DISTINCT, kind, storage, ENOUGH)


@cache
def cosines_of(storage: str, shares_rows: bool) -> np.ndarray:
    if storage == "fp32":
        return unit(USERS) @ unit(SHARED if shares_rows else DISTINCT).T
    index = index_of("Flat", storage, shares_rows)  # It has rounded the vectors.
    return unit(USERS) @ index.vectors(index.groups.row_of(np.arange(COUNT))).astype(np.float64).T


def drawn(matched: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(COUNT)[:matched])


def as_bytes(index: ProductIndex, users: np.ndarray, k: int, mask: Mask | None) -> list[list[bytes]]:
    """Return what each user gets."""
    sides = index.search(users, k, mask)
    return [[each[i].tobytes() for side in sides for each in (side.positions, side.scores)] for i in range(len(users))]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Make codes be scanned for every mask of more than some rows; count the users for whom they are."""
    counts: Counter[str] = Counter()
    find = Candidates.find

    def count_find(self: Candidates, queries: np.ndarray, depth: int, mask: Mask | None = None) -> np.ndarray:
        counts["masked" if mask else "plain"] += len(queries)
        return find(self, queries, depth, mask)

    monkeypatch.setattr(Candidates, "find", count_find)
    monkeypatch.setattr(Candidates, "picked_rows", lambda self, depth, mask, _codes: self.count_for(depth, mask))
    return counts


@pytest.mark.parametrize("shares_rows", [False, True], ids=["distinct", "shared rows"])
@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_mask_gives_the_exact_products(kind: str, storage: str, shares_rows: bool, work: Counter[str]) -> None:
    index, cosines = index_of(kind, storage, shares_rows), cosines_of(storage, shares_rows)
    for matched in DENSITIES:
        positions = drawn(matched)
        for size in (1, 9):
            sides = index.search(USERS[:size], K, mask_over(index.groups, positions))
            check_among(sides, cosines[:size], K, positions)
    assert (work["masked"] > 0) == (kind in MASKED_KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 100, COUNT + 1])
def test_any_k_gives_the_exact_products(kind: str, k: int, work: Counter[str]) -> None:
    index, positions = index_of(kind, "fp32", True), drawn(700)
    check_among(
        index.search(USERS[:5], k, mask_over(index.groups, positions)), cosines_of("fp32", True)[:5], k, positions
    )


@pytest.mark.parametrize("shares_rows", [False, True], ids=["distinct", "shared rows"])
@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_user_gets_the_same_bytes_alone_and_in_any_batch(
    kind: str, storage: str, shares_rows: bool, work: Counter[str]
) -> None:
    index = index_of(kind, storage, shares_rows)
    for matched in (30, 800):
        mask = mask_over(index.groups, drawn(matched))
        alone = [as_bytes(index, user[None], K, mask)[0] for user in USERS]
        for size in (2, 5, len(USERS)):
            assert as_bytes(index, USERS[:size], K, mask) == alone[:size]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_everything_changes_nothing(kind: str) -> None:
    index = index_of(kind, "fp32", True)
    assert as_bytes(index, USERS, K, mask_over(index.groups, np.arange(COUNT))) == as_bytes(index, USERS, K, None)


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(1, 30),
    stricter=st.lists(st.integers(0, COUNT - 1), max_size=200),
    more=st.lists(st.integers(0, COUNT - 1), max_size=200),
)
def test_a_stricter_filter_never_loses_a_product_that_still_matches(
    k: int, stricter: list[int], more: list[int]
) -> None:
    index = index_of("Flat", "fp32", True)
    wide = index.search(USERS[:2], k, mask_over(index.groups, sorted({*stricter, *more})))
    narrow = index.search(USERS[:2], k, mask_over(index.groups, sorted({*stricter})))
    for of_wide, of_narrow in zip(wide, narrow, strict=True):
        for before, after in zip(of_wide.positions.tolist(), of_narrow.positions.tolist(), strict=True):
            assert [each for each in before if each in stricter] == after[: len([e for e in before if e in stricter])]


@settings(max_examples=40, deadline=None)
@given(held=st.sets(st.integers(0, COUNT - 1)), excluded=st.lists(st.integers(0, COUNT - 1), max_size=60))
def test_a_mask_without_some_products_is_that_of_the_others(held: set[int], excluded: list[int]) -> None:
    for shares_rows in (False, True):
        groups = index_of("Flat", "fp32", shares_rows).groups
        found = maker_of(groups).without(mask_over(groups, sorted(held)), np.array(excluded, np.int64))
        expected = mask_over(groups, sorted(held - {*excluded}))
        assert (found.matched, found.row_count) == (expected.matched, expected.row_count)
        assert (found.products.tobytes(), found.rows.tobytes()) == (
            expected.products.tobytes(),
            expected.rows.tobytes(),
        )
        assert found.row_ids is not None
        assert expected.row_ids is not None
        assert found.row_ids.tolist() == expected.row_ids.tolist()


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_many_rows_are_read_block_by_block(monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    """More rows than are listed, in blocks of which some hold no match."""
    monkeypatch.setattr("retrieval.search.exact_scan._MAX_SCORES", 90)
    monkeypatch.setattr("retrieval.search.filters.masks.MAX_LISTED_ROWS", 0)
    index, positions = index_of("Flat", storage, True), [*range(130, 400), 402, *range(1300, COUNT, 7)]
    for size in (1, 9):
        mask = mask_over(index.groups, positions)
        assert mask.row_ids is None
        check_among(index.search(USERS[:size], K, mask), cosines_of(storage, True)[:size], K, positions)


@pytest.mark.parametrize("kind", MASKED_KINDS)
def test_matches_of_equal_score_stand_in_catalogue_order(kind: str, work: Counter[str]) -> None:
    """All score the same with the user but one each side, and are rows of their own."""
    angles = np.random.default_rng(1).uniform(0, 2 * np.pi, (COUNT, DIMENSION - 1))
    cone = np.concatenate([np.full((COUNT, 1), 0.6), 0.8 * unit(np.cos(angles))], axis=1)
    positions = np.delete(np.arange(COUNT), [3, 7, 100])
    index = index_over(cone, kind, "fp32", SearchSettings(40, nprobe=2))
    best, worst = index.search(unit_vectors(np.eye(1, DIMENSION)), 20, mask_over(index.groups, positions))
    assert best.positions[0].tolist() == worst.positions[0].tolist() == positions[:20].tolist()
    assert set(best.scores[0].tolist() + worst.scores[0].tolist()) == {0.6}


@pytest.mark.parametrize("kind", MASKED_KINDS)
def test_a_search_that_finds_too_few_ends_in_all_that_match(
    kind: str, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the codes find is lost, but for one row a side."""
    index, positions = index_of(kind, "fp32", False), drawn(800)
    find = Candidates.find

    def find_one(self: Candidates, queries: np.ndarray, depth: int, mask: Mask | None = None) -> np.ndarray:
        rows = find(self, queries, depth, mask)
        rows[:, 1:] = -1
        return rows

    monkeypatch.setattr(Candidates, "find", find_one)
    check_among(
        index.search(USERS[:4], K, mask_over(index.groups, positions)), cosines_of("fp32", False)[:4], K, positions
    )
    assert work["masked"] == 4


def test_few_matches_are_picked_and_many_are_looked_for_in_the_codes() -> None:
    units = unit_vectors(DRAW.normal(size=(4000, 72)))
    groups = group_identical(units)[1]
    index = ProductIndex(
        faiss_index(units, "Tiers8x1+64x1"), groups, SideSettings(SearchSettings(40), SearchSettings(40))
    )
    paths = [index.path(K, mask_over(groups, np.arange(matched))) for matched in (0, 40, 3900, 4000)]
    assert paths == ["exact", "exact", "candidates", "candidates"]


@pytest.mark.parametrize("max_ordered", [0, 2**11], ids=["chosen first", "straight in order"])
@pytest.mark.parametrize("draw", [np.random.default_rng(seed) for seed in range(30)], ids=range(30))
def test_ties_stand_in_catalogue_order_where_the_first_products_of_their_rows_do_not_match(
    monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator, max_ordered: int
) -> None:
    monkeypatch.setattr(index_module, "_MAX_ORDERED_SCORES", max_ordered)
    vectors = unit_vectors(
        draw.integers(-1, 2, (40, 3)) + np.array([0, 0, 1.5])
    )  # Most share their vectors and scores.
    first, groups = group_identical(vectors)
    index = ProductIndex(faiss_index(vectors[first]), groups, SideSettings())
    user, chosen = unit_vectors(np.array([[0.0, 0.0, 2.0]])), np.flatnonzero(draw.random(40) < 0.4)
    millionths = np.rint(1e6 * (vectors.astype(np.float64) @ user[0]))[chosen]
    for k in (1, 2, 5):
        found = index.search(user, k, mask_over(groups, chosen))
        for sign, side in zip((1, -1), found, strict=True):
            assert side.positions[0].tolist() == chosen[np.lexsort((chosen, -sign * millionths))][:k].tolist()
