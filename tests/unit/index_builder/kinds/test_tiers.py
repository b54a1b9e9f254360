"""Tiered kinds: their notation, their directions, and what they find in catalogues of any dimension."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from index_builder.kinds.tiers import Tier, TieredKind, parse_tiers
from index_builder.kinds.training import canonical_kind, check_negates
from retrieval.errors import BadIndexKind
from retrieval.search.files import open_index, write_index
from retrieval.search.index import ProductIndex
from retrieval.search.settings import SearchSettings, SideSettings
from retrieval.search.stored_vectors import NegatedVectors
from retrieval.vectors import unit_vectors
from tests.support.indexes import check_exact, faiss_index, group_identical, index_over, negated

ALL = SearchSettings(candidates=150, per_match=1.5, nprobe=10**6)
ORTHOGONAL = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Tiers64x1", TieredKind((Tier(64, 1),))),
        ("Tiers32x1+64x2+128x4", TieredKind((Tier(32, 1), Tier(64, 2), Tier(128, 4)))),
        ("Tiers48x1+161x2,IVF512", TieredKind((Tier(48, 1), Tier(161, 2)), 512)),
    ],
)
def test_a_kind_is_read_from_what_it_is_written_as(text: str, kind: TieredKind) -> None:
    assert parse_tiers(text, 300) == kind
    assert str(kind) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Tiers64x1", "Tiers64x1"),
        ("Tiers64x1,RFlat", "Tiers64x1"),
        ("Tiers064x1,IVF1", "Tiers64x1"),
        ("Tiers64x1,IVF7,Refine(Flat)", "Tiers64x1,IVF7"),
        ("PQ16x4fs,RFlat", "PQ16x4fs"),
        ("HNSW32", "HNSW32"),
    ],
)
def test_a_kind_is_written_in_one_way(text: str, written: str) -> None:
    assert canonical_kind(text, 300) == written


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Tiers", "tiers are written as Tiers32x1+64x2+128x4 or Tiers64x1,IVF512"),
        ("Tiers8", "tiers are written as "),
        ("Tiers8x1+", "tiers are written as "),
        ("Tiers8x1,PQ4", "tiers are written as "),
        ("Tiers8x1,IVF", "tiers are written as "),
        ("Tiers-8x1", "tiers are written as "),
        ("Tiers8x1\n", "tiers are written as "),
        ("Tiers٨x1", "tiers are written as "),
        ("Tiers9999999999x1", "tiers are written as "),
        ("Tiers0x1", "0x1 is no tier: 1, 2 or 4 directions share a code"),
        ("Tiers4x1+3x3", "3x3 is no tier: 1, 2 or 4 directions share a code"),
        ("Tiers4x0", "4x0 is no tier: 1, 2 or 4 directions share a code"),
        ("Tiers4x1+5x4", "its tiers take 9 directions, but the vectors have 8"),
        ("Tiers8x1,IVF0", "IVF0 has no lists"),
    ],
    ids=repr,
)
def test_what_is_no_tiered_kind_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadIndexKind) as caught:
        faiss_index(np.eye(8, dtype=np.float32), text)
    assert str(caught.value).startswith(f"--index {text}: {reason}")


def test_more_lists_than_vectors_are_refused() -> None:
    units = unit_vectors(np.random.default_rng(0).normal(size=(50, 8)))
    with pytest.raises(BadIndexKind, match=r"^--index Tiers8x1,IVF51: 51 lists are more than the 50 vectors"):
        faiss_index(units, "Tiers8x1,IVF51")


def test_a_projection_keeps_the_lengths_of_its_directions_and_fills_codes_up_with_zeros() -> None:
    kind = parse_tiers("Tiers2x1+3x2+2x4", 9)
    projection = kind.projection(ORTHOGONAL)
    assert projection.shape == (5 * 2, 9)
    assert projection.any(axis=1).reshape(5, 2).tolist() == [[1, 0], [1, 0], [1, 1], [1, 0], [1, 1]]
    np.testing.assert_allclose(projection.T @ projection, ORTHOGONAL[:7].T @ ORTHOGONAL[:7], rtol=0, atol=1e-6)


def test_each_tier_holds_the_directions_of_its_share_of_the_variance() -> None:
    draw = np.random.default_rng(1)
    scales = np.array([9, 8, 7, 3, 2.5, 1, 0.1, 0.1, 0.1])
    units = unit_vectors(draw.normal(size=(2000, 9)) * scales @ ORTHOGONAL)
    index = faiss_index(units, "Tiers3x1+2x2")
    transform = faiss.downcast_VectorTransform(faiss.downcast_index(index.base_index).chain.at(0))
    first, second = np.split(faiss.vector_to_array(transform.A).reshape(4, 2, 9).reshape(-1, 9), [6])
    np.testing.assert_allclose(np.linalg.norm(first @ ORTHOGONAL[:3].T), np.sqrt(3), rtol=0, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(second @ ORTHOGONAL[3:5].T), np.sqrt(2), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("dimension", "factory"),
    [
        (2, "Tiers2x1"),
        (2, "Tiers1x1+1x2,IVF5"),
        (8, "Tiers4x1+4x4"),
        (25, "Tiers3x1+9x2+13x4,IVF8"),
        (25, "Tiers25x2"),
        (300, "Tiers32x1+64x2+128x4,IVF8"),
        (512, "Tiers32x1+64x2+128x4"),
    ],
)
def test_kinds_of_any_dimension_find_what_numpy_finds(tmp_path: Path, dimension: int, factory: str) -> None:
    """The catalogue has fewer directions than the tiers take, from 25 dimensions on, so nothing is lost of it."""
    draw = np.random.default_rng(dimension)
    rank = min(dimension, 12)
    vectors = draw.normal(size=(300, rank)) @ draw.normal(size=(rank, dimension))
    users = draw.normal(size=(20, rank)) @ draw.normal(size=(rank, dimension))
    best = faiss_index(unit_vectors(vectors), factory)
    _, groups = group_identical(unit_vectors(vectors))
    settings = SideSettings(ALL, ALL)
    kept = ProductIndex(best, groups, settings)
    for index, sign, stored in ((best, 1, None), (negated(best), -1, NegatedVectors(kept.stored_vectors))):
        write_index(index, tmp_path / "index")
        opened = ProductIndex(open_index(tmp_path / "index"), groups, settings, stored)
        for read, in_memory in zip(
            opened.search(sign * unit_vectors(users), 10), kept.search(unit_vectors(users), 10), strict=True
        ):
            assert read.positions.tolist() == in_memory.positions.tolist()
            assert read.scores.tolist() == in_memory.scores.tolist()
    check_exact(kept, vectors, users, 10)


@pytest.mark.parametrize("factory", ["Tiers8x1+8x2", "Tiers8x1+8x2,IVF16"])
def test_a_mask_limits_the_candidates_of_a_tiered_kind(factory: str) -> None:
    draw = np.random.default_rng(2)
    units, users = unit_vectors(draw.normal(size=(2000, 16))), unit_vectors(draw.normal(size=(9, 16)))
    index = faiss_index(units, factory)  # Named, as FAISS's views keep nothing alive.
    members = np.sort(draw.choice(2000, 50, replace=False))
    mask = np.packbits(np.isin(np.arange(2000), members), bitorder="little")
    selector = faiss.IDSelectorBitmap(mask)
    inner = faiss.SearchParametersIVF(nprobe=16 if "IVF" in factory else 1, sel=selector)
    _, rows = index.base_index.search(users, 50, params=faiss.SearchParametersPreTransform(index_params=inner))
    assert np.sort(rows, axis=1).tolist() == [members.tolist()] * 9


def test_asking_for_more_lists_than_there_are_searches_all_of_them() -> None:
    draw = np.random.default_rng(3)
    vectors, users = draw.normal(size=(800, 16)), draw.normal(size=(9, 16))
    for factory in ("Tiers16x1", "Tiers16x1,IVF7"):
        few, many = (
            index_over(vectors, factory, settings=SearchSettings(90, 9.0, nprobe)).search(unit_vectors(users), 10)
            for nprobe in (7, 70)
        )
        assert [side.positions.tolist() for side in few] == [side.positions.tolist() for side in many]


@pytest.mark.parametrize(
    ("factory", "name"),
    [("HNSW32,PQ8", "IndexHNSWPQ"), ("HNSW32_PQ8", "IndexHNSWPQ"), ("ZnLattice2x4_4", "IndexLattice")],
)
def test_kinds_that_faiss_turns_into_distances_are_refused(factory: str, name: str) -> None:
    units = unit_vectors(np.random.default_rng(4).normal(size=(300, 16)))
    for refused in (lambda: faiss_index(units, factory), lambda: check_negates(factory, 16)):
        with pytest.raises(BadIndexKind, match=rf"^--index {factory}: FAISS's {name} ranks by distance; "):
            refused()
