"""Approximate kinds: what they find has true scores, and either way of searching the worst side gives the same."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from threading import Barrier

import faiss
import numpy as np
import pytest

from index_builder.tuning.recall import Panel, measure
from retrieval.errors import BadIndexKind
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import Neighbours
from retrieval.search.settings import SearchSettings, SideSettings
from retrieval.search.stored_vectors import NegatedVectors
from retrieval.vectors import unit_vectors
from tests.support.indexes import check_exact, faiss_index, group_identical, index_over, negated, vector_file

KINDS = [
    "Flat",
    "HNSW32",
    "PQ8x4fs",
    "PQ8x4fs,RFlat",
    "RR8,PQ8x4fs",  # What builds of earlier versions hold: a linear map, and codes without lists.
    "Tiers8x1",
    "Tiers4x1+4x2+5x4,IVF16",
    "IVF16,PQ8x4fs,Refine(SQfp16)",
]
COUNT, DIMENSION = 1500, 16
SETTINGS = SearchSettings(candidates=40, per_match=2.0, nprobe=3)
DRAW = np.random.default_rng(0)
VECTORS, USERS = DRAW.normal(size=(COUNT, DIMENSION)), unit_vectors(DRAW.normal(size=(427, DIMENSION)))
COSINES = USERS.astype(np.float64) @ unit_vectors(VECTORS).T.astype(np.float64)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["fp32", "fp16"])
def storage(request: pytest.FixtureRequest, kind: str) -> str:
    """Both precisions, for the kinds that can store both: a graph keeps its vectors as fp32."""
    if kind == "HNSW32" and request.param == "fp16":
        with pytest.raises(
            BadIndexKind, match="--index HNSW32: a graph keeps its vectors as fp32; leave out --storage fp16"
        ):
            faiss_index(unit_vectors(VECTORS), kind, "fp16")
        return "fp32"
    return request.param


@cache
def indexed(kind: str, storage: str = "fp32") -> ProductIndex:
    return index_over(VECTORS, kind, storage, SETTINGS)


@pytest.fixture(scope="module")
def index(kind: str) -> ProductIndex:
    return indexed(kind)


def as_bytes(sides: tuple[Neighbours, Neighbours]) -> list[bytes]:
    return [array.tobytes() for side in sides for array in (side.positions, side.scores)]


def check_true(found: Neighbours, sign: int, users: slice, k: int, error: float) -> None:
    """Distinct products of the catalogue with their true cosines, in order."""
    assert found.positions.shape == found.scores.shape == (len(USERS[users]), k)
    assert (found.positions.min(), found.positions.max()) >= (0, 0)
    assert found.positions.max() < COUNT
    assert all(len(set(row)) == k for row in found.positions.tolist())
    true = np.take_along_axis(COSINES[users], found.positions, axis=1)
    np.testing.assert_allclose(found.scores, true, rtol=0, atol=error)
    falling = -sign * np.rint(found.scores * 1e6)
    ordered = np.lexsort((found.positions, falling), axis=1)
    assert (ordered == np.arange(k)).all()


@pytest.mark.parametrize("k", [1, 10, 150, 700])
def test_what_is_found_has_true_cosines_in_true_order(index: ProductIndex, k: int) -> None:
    for sign, side in zip((1, -1), index.search(USERS[:30], k), strict=True):
        check_true(side, sign, slice(30), k, 1e-6)


@pytest.mark.parametrize("k", [COUNT, COUNT + 1, 10 * COUNT], ids=["all", "one more", "far more"])
def test_the_whole_catalogue_comes_in_exact_order(index: ProductIndex, k: int) -> None:
    check_exact(index, VECTORS, USERS[:4], k)


def test_measured_recall_is_numpys(index: ProductIndex, kind: str) -> None:
    units = unit_vectors(VECTORS)
    with vector_file(units) as vectors:
        recall = measure(index, group_identical(units)[1], Panel.of(vectors, USERS))
    for i, k in enumerate((10, 100)):
        measured = [recall[side][i].mean for side in ("best", "worst")]
        for sign, found, mean in zip((1, -1), index.search(USERS, k), measured, strict=True):
            kth = np.sort(sign * COSINES, axis=1)[:, -k]
            reached = np.take_along_axis(sign * COSINES, found.positions, axis=1) >= kth[:, None] - 1e-5
            assert mean == pytest.approx(reached.mean(), abs=1e-3)
            assert mean == 1.0 if kind == "Flat" else 0.2 < mean <= 1.0


@pytest.mark.parametrize("k", [10, 300])
def test_a_worst_side_of_its_own_and_a_shared_one_answer_alike_to_the_bit(kind: str, storage: str, k: int) -> None:
    units, settings = unit_vectors(VECTORS), SideSettings(SETTINGS, replace(SETTINGS, candidates=70, nprobe=5))
    groups, best = group_identical(units)[1], faiss_index(units, kind, storage)
    shared = ProductIndex(best, groups, settings)
    own = ProductIndex(negated(best), groups, settings, NegatedVectors(shared.stored_vectors))
    for size in (1, 60):
        assert as_bytes(own.search(-USERS[:size], k)) == as_bytes(shared.search(USERS[:size], k))


def test_scores_are_close_in_either_precision(kind: str, storage: str) -> None:
    for sign, side in zip((1, -1), indexed(kind, storage).search(USERS, 10), strict=True):
        check_true(side, sign, slice(None), 10, 2**-11)  # the rounding of each number


def test_a_user_gets_the_same_answer_alone_and_in_any_batch(kind: str, storage: str) -> None:
    index = indexed(kind, storage)
    alone = [index.search(user[None], 10) for user in USERS]
    for size in (1, 19, 20, 427):
        for side, batch in enumerate(index.search(USERS[-size:], 10)):
            assert batch.positions.tolist() == [found[side].positions[0].tolist() for found in alone[-size:]]
            assert batch.scores.tolist() == [found[side].scores[0].tolist() for found in alone[-size:]]


def test_eight_threads_at_once_get_what_one_gets(index: ProductIndex) -> None:
    depths = [1, 5, 10, 20, 40, 60, 80, 100]
    serial = [as_bytes(index.search(USERS[:9], k)) for k in depths]
    together = Barrier(len(depths))

    def search(k: int) -> list[list[bytes]]:
        together.wait(timeout=20)
        return [as_bytes(index.search(USERS[:9], k)) for _ in range(10)]

    with ThreadPoolExecutor(len(depths)) as pool:
        assert list(pool.map(search, depths)) == [[answer] * 10 for answer in serial]


@pytest.mark.parametrize("factory", ["HNSW32", "IVF16,PQ8x4fs", "Tiers4x1+4x2+5x4,IVF16"])
def test_a_search_leaves_the_index_its_own_parameters(factory: str) -> None:
    best = faiss_index(unit_vectors(VECTORS), factory)
    groups = index_over(VECTORS).groups
    before = own_parameters(best)
    ProductIndex(best, groups, SideSettings(SETTINGS, SETTINGS)).search(USERS[:30], 50)
    assert own_parameters(best) == before


def own_parameters(index: faiss.Index) -> list[float]:
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return [index.k_factor, *own_parameters(index.base_index)]
    if isinstance(index, faiss.IndexPreTransform):
        return own_parameters(index.index)
    return [index.hnsw.efSearch] if isinstance(index, faiss.IndexHNSW) else [index.nprobe]


@pytest.mark.parametrize("factory", ["PCA8,PQ8x4fs", "IVF16,SQ8", "SQ8"])
def test_a_kind_that_cannot_be_negated_serves_both_sides_shared(factory: str) -> None:
    with pytest.raises(BadIndexKind, match=r"cannot be negated; build with --worst shared$"):
        negated(faiss_index(unit_vectors(VECTORS), factory))
    index = index_over(VECTORS, factory, settings=SETTINGS)
    for sign, side in zip((1, -1), index.search(USERS[:30], 10), strict=True):
        check_true(side, sign, slice(30), 10, 1e-6)
