"""A search that gives way scores everything, whatever the kind of index, and in turns."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from retrieval.search import exact_scan
from retrieval.search.filters.postings import pack
from retrieval.search.index import ProductIndex
from retrieval.search.pair import PairIndex, PairLayout, PairMaskMaker
from retrieval.search.ranking import RowGroups
from retrieval.search.settings import SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import LIGHT, faiss_index, index_over
from tests.support.masks import check_among, maker_of, mask_over
from tests.support.oracle import unit

COUNT, K, DIMENSION = 1500, 10, 40
DRAW = np.random.default_rng(7)
VECTORS = DRAW.normal(loc=0.3, size=(COUNT, DIMENSION))
VECTORS[1::50] = VECTORS[0]  # They share a row.
USERS = unit_vectors(DRAW.normal(loc=0.2, size=(3, DIMENSION)))
COSINES = unit(USERS) @ unit(VECTORS).T


class Turns:
    """Counts turns, of which no two may be taken at a time."""

    count, is_taken = 0, False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        assert not self.is_taken
        self.count, self.is_taken = self.count + 1, True
        yield
        self.is_taken = False


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_scan, "_PACED_SCORES", 300)


@pytest.mark.parametrize("kind", ["Flat", "HNSW4", "PQ10x4fs", "IVF16,SQ8"])
@pytest.mark.parametrize("matched", [COUNT, 700, 3, 0])
def test_every_product_is_scored_in_turns(kind: str, matched: int) -> None:
    index, turns = index_over(VECTORS, kind), Turns()
    positions = np.sort(DRAW.permutation(COUNT)[:matched])
    mask = mask_over(index.groups, positions)
    sides = index.search(USERS[:1], K, mask, turns)
    check_among(sides, COSINES[:1], K, positions)
    assert sides[0].path is not None
    assert sides[0].path.is_exact
    rows = mask.row_count if matched < COUNT else index.groups.row_count
    assert turns.count == -(-rows // 300)
    assert index.is_exact == (kind == "Flat")


def test_an_approximate_index_misses_what_a_paced_search_of_it_finds() -> None:
    index = index_over(VECTORS, "HNSW4")
    found, exact = index.search(USERS, K), index.search(USERS, K, pace=Turns())
    assert not all(np.array_equal(one.positions, other.positions) for one, other in zip(found, exact, strict=True))
    check_among(exact, COSINES, K, np.arange(COUNT))
    assert found[0].path is not None
    assert not found[0].path.is_exact


def test_a_base_and_its_delta_are_both_scored_in_turns() -> None:
    base_count, replaced, deleted = 1400, np.array([3, 77, 1399]), np.array([0, 500])
    positions = np.array([*replaced, *range(base_count, COUNT)])
    base = index_over(np.where(np.isin(np.arange(COUNT), replaced)[:, None], -VECTORS, VECTORS)[:base_count], "HNSW4")
    groups = RowGroups(np.arange(len(positions) + 1), positions)
    added = faiss_index(unit_vectors(VECTORS[positions]))
    delta = ProductIndex(added, groups, SideSettings(LIGHT, LIGHT))
    layout = PairLayout(base_count, positions, np.arange(len(positions)), deleted)
    left = np.setdiff1d(np.arange(COUNT), deleted)
    chosen = np.isin(np.arange(COUNT), left)
    turns = Turns()
    standing = PairMaskMaker(layout, maker_of(base.groups)).mask_of(pack(chosen))
    index = PairIndex(base, delta, standing)
    check_among(index.search(USERS[:1], K, pace=turns), COSINES[:1], K, left)
    assert turns.count == -(-standing.base.row_count // 300) + 1  # The delta takes one.
    assert not index.is_exact
