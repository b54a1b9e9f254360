"""The index kinds that can be asked for."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from index_builder.kinds.negation import negate
from retrieval.errors import BadArtifact, BadIndexKind
from retrieval.search.files import open_index, write_index
from retrieval.search.index import ProductIndex
from retrieval.search.settings import SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import check_exact, faiss_index, group_identical, index_over, negated


@pytest.mark.parametrize("factory", ["HNSW32", "HNSW8,Flat"])
def test_an_approximate_index_reports_true_cosines_in_true_order(factory: str) -> None:
    draw = np.random.default_rng(0)
    vectors, users = draw.normal(size=(3000, 32)), unit_vectors(draw.normal(size=(50, 32)))
    best, worst = index_over(vectors, factory).search(users, 10)
    cosines = users.astype(np.float64) @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    for sign, side in ((1, best), (-1, worst)):
        true = np.take_along_axis(cosines, side.positions, axis=1)
        np.testing.assert_allclose(side.scores, true, rtol=0, atol=1e-6)
        assert (np.diff(sign * side.scores, axis=1) <= 0).all()
        assert [len(set(row)) for row in side.positions.tolist()] == [10] * 50


@pytest.mark.parametrize("k", [200, 1000], ids=["all", "more than all"])
def test_an_approximate_index_gives_the_whole_catalogue_when_asked(k: int) -> None:
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(200, 8))
    check_exact(index_over(vectors, "HNSW4"), vectors, draw.normal(size=(5, 8)), k)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_approximate_index_of_few_products_is_exact(count: int) -> None:
    draw = np.random.default_rng(2)
    vectors = draw.normal(size=(count, 8))
    check_exact(index_over(vectors, "HNSW32"), vectors, draw.normal(size=(5, 8)), 10)


def test_an_approximate_index_keeps_groups_of_identical_vectors_whole() -> None:
    draw = np.random.default_rng(3)
    vectors = np.repeat(draw.normal(size=(4, 8)), 25, axis=0)
    check_exact(index_over(vectors, "HNSW32"), vectors, draw.normal(size=(5, 8)), 30)


@pytest.mark.parametrize("factory", ["IVF2,Flat", "SQ8", "PCA4,Flat", "PCA4,PQ2x4"])
def test_kinds_that_negation_does_not_hold_for_are_refused(factory: str) -> None:
    index = faiss_index(unit_vectors(np.random.default_rng(0).normal(size=(400, 8))), factory)
    with pytest.raises(BadIndexKind, match=r"cannot be negated; build with --worst shared$"):
        negate(index)


@pytest.mark.parametrize(
    "factory",
    ["", "nonsense", "flat", "PQ3", "HNSWx", "Flat\nFlat", "IVF0,PQ2x4fs"],
    ids=repr,
)
def test_what_faiss_cannot_make_is_refused_in_one_line(factory: str) -> None:
    with pytest.raises(BadIndexKind) as caught:
        faiss_index(np.eye(8, dtype=np.float32), factory)
    assert str(caught.value).startswith(f"--index {factory}: FAISS cannot build it: ")
    assert "\n" not in str(caught.value).removeprefix(f"--index {factory}")


@pytest.mark.parametrize("factory", ["Flat", "HNSW32"])
def test_an_index_searches_the_same_from_its_file_as_from_memory(tmp_path: Path, factory: str) -> None:
    draw = np.random.default_rng(4)
    units, users = unit_vectors(draw.normal(size=(500, 24))), unit_vectors(draw.normal(size=(20, 24)))
    best = faiss_index(units, factory)
    _, groups = group_identical(units)
    for index, sign in ((best, 1), (negated(best), -1)):
        write_index(index, tmp_path / "index")
        opened = ProductIndex(open_index(tmp_path / "index"), groups, SideSettings())
        for kept, read in zip(
            ProductIndex(best, groups, SideSettings()).search(users, 10), opened.search(sign * users, 10), strict=True
        ):
            assert read.positions.tolist() == kept.positions.tolist()
            assert read.scores.tolist() == kept.scores.tolist()


def test_negation_turns_the_index_itself() -> None:
    index = faiss_index(np.eye(3, dtype=np.float32))
    negate(index)
    assert index.reconstruct(1).tolist() == [0.0, -1.0, 0.0]
    negate(index)
    assert index.reconstruct(1).tolist() == [0.0, 1.0, 0.0]


def test_what_is_no_index_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "best.faiss").write_bytes(b"nothing that FAISS would write")
    with pytest.raises(BadArtifact, match=f"^{tmp_path / 'best.faiss'}: not a readable FAISS index: "):
        open_index(tmp_path / "best.faiss")


def test_an_index_that_does_not_fit_the_groups_is_refused() -> None:
    _, groups = group_identical(np.eye(3, dtype=np.float32))
    with pytest.raises(BadArtifact, match=r"^holds 2 vectors, the products table 3$"):
        ProductIndex(faiss_index(np.eye(3, dtype=np.float32)[:2]), groups, SideSettings())


def test_an_index_that_keeps_no_exact_vectors_is_not_served() -> None:
    coarse = faiss.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    units = np.eye(8, dtype=np.float32)
    coarse.train(units)
    coarse.add(units)
    message = r"^a IndexScalarQuantizer does not keep the vectors themselves$"
    with pytest.raises(BadArtifact, match=message):
        ProductIndex(coarse, group_identical(units)[1], SideSettings())
