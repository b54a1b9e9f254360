"""Candidates are the same alone, in any batch, in one call for both sides and in two."""

import faiss
import numpy as np
import pytest

from retrieval.search.candidates import Candidates, CodeScan
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import Neighbours
from retrieval.search.settings import SearchSettings, SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index, group_identical

KINDS = ["PQ8x4fs", "Tiers8x1+32x2", "Tiers8x1+32x2,IVF16", "HNSW16", "PCA24,PQ8x4fs", "IVF16,SQ8"]
DRAW = np.random.default_rng(0)
UNITS, USERS = (unit_vectors(DRAW.normal(size=(count, 72))) for count in (4000, 500))
GROUPS = group_identical(UNITS)[1]
ALIKE = SideSettings(SearchSettings(30, nprobe=3), SearchSettings(50, nprobe=3))
UNLIKE = SideSettings(SearchSettings(20, nprobe=2), SearchSettings(60, nprobe=6))


@pytest.fixture(scope="module", params=KINDS)
def best(request: pytest.FixtureRequest) -> faiss.Index:
    return faiss_index(UNITS, request.param)


def as_bytes(sides: tuple[Neighbours, Neighbours], user: int) -> list[bytes]:
    return [array[user].tobytes() for side in sides for array in (side.positions, side.scores)]


@pytest.mark.parametrize("settings", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_a_user_gets_the_same_bytes_alone_and_in_any_batch(best: faiss.Index, settings: SideSettings, k: int) -> None:
    index = ProductIndex(best, GROUPS, settings)
    sizes = (2, 7, 64, 500) if k == 10 else (2, 7, 64)
    alone = [as_bytes(index.search(user[None], k), 0) for user in USERS[: sizes[-1]]]
    for size in sizes:
        batch = index.search(USERS[:size], k)
        assert [as_bytes(batch, user) for user in range(size)] == alone[:size]


@pytest.mark.parametrize("settings", [ALIKE, UNLIKE], ids=["alike", "unlike"])
def test_each_side_has_its_own_candidates(best: faiss.Index, settings: SideSettings) -> None:
    both, scan = Candidates(best, settings).find(USERS[:9], 10), CodeScan(best)
    for sign, side, rows in ((1, settings.best, both[:9]), (-1, settings.worst, both[9:])):
        own = scan.find(scan.transformed(sign * USERS[:9]), side.candidates, side, 10)
        for found, expected in zip(rows, own, strict=True):
            assert len(found[found >= 0]) == side.candidates
            assert len(set(found.tolist()) & set(expected.tolist())) >= side.candidates - 2  # of equal coarse scores


def test_a_query_is_transformed_alone() -> None:
    """FAISS's product of many queries rounds otherwise, and would change what the codes find."""
    scan = CodeScan(faiss_index(UNITS, "Tiers8x1+32x2"))
    together = scan.transformed(USERS)
    assert together.tobytes() == b"".join(scan.transformed(user[None]).tobytes() for user in USERS)
