"""What lists are like, against the definitions in plain Python."""

import itertools
import math
import tracemalloc
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import orjson
import pytest

from index_builder.pipelines.build import BuildRequest, build
from index_builder.tuning import quality as measured
from index_builder.tuning.quality import find_near_duplicates, gini, intra_list_distance, lorenz_curve, skewness
from retrieval.artifact.build import open_build
from retrieval.artifact.quality import NearDuplicates
from retrieval.records.vector_file import VectorFile
from retrieval.vectors import unit_vectors
from tests.support.catalogues import products_of, write_lines
from tests.support.published import current, edit_manifest, publish

COUNTS = [[1, 1, 1, 1], [0, 0, 0, 7], [3, 0, 1, 1, 5], [2]]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_gini_is_half_the_mean_difference_of_two_counts_relative_to_their_mean(counts: list[int]) -> None:
    differences = [abs(one - other) for one in counts for other in counts]
    expected = sum(differences) / (2 * len(counts) ** 2 * (sum(counts) / len(counts)))
    assert gini(np.array(counts)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("counts", [*COUNTS, [*range(100)]], ids=str)
def test_a_lorenz_curve_goes_through_the_sums_of_the_lowest_counts(counts: list[int]) -> None:
    curve, n = lorenz_curve(np.array(counts)), len(counts)
    assert (len(curve), curve[0]) == (101, 0)
    for number in range(n + 1):
        if number * 100 % n == 0:
            assert curve[number * 100 // n] == pytest.approx(sum(sorted(counts)[:number]) / sum(counts), abs=1e-12)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_hubness_is_the_third_standardised_moment(counts: list[int]) -> None:
    mean = sum(counts) / len(counts)
    deviation = math.sqrt(sum((count - mean) ** 2 for count in counts) / len(counts))
    expected = sum(((count - mean) / deviation) ** 3 for count in counts) / len(counts) if deviation else 0.0
    assert skewness(np.array(counts)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_the_distance_within_a_list_is_the_mean_over_its_pairs(count: int) -> None:
    listed = unit_vectors(np.random.default_rng(count).normal(size=(count, 7)))
    pairs = [1.0 - float(np.dot(one, other)) for one, other in itertools.combinations(listed.astype(np.float64), 2)]
    assert intra_list_distance(listed) == pytest.approx(sum(pairs) / len(pairs) if pairs else 0.0, abs=1e-7)


def near_duplicates_of(vectors: np.ndarray, path: Path) -> tuple[NearDuplicates, list[tuple[int, int, float]]]:
    with closing(VectorFile(path)) as file:
        file.append(vectors)
        return find_near_duplicates(file)


def near_pairs(vectors: np.ndarray) -> list[tuple[int, int, float]]:
    found = [
        (one, other, float(np.dot(vectors[one], vectors[other])))
        for one, other in itertools.combinations(range(len(vectors)), 2)
        if np.dot(vectors[one], vectors[other]) >= 0.999
    ]
    return sorted(found, key=lambda pair: -pair[2])


def near_vectors(count: int) -> np.ndarray:
    """Random unit vectors, some of them close to others."""
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(count, 8))
    vectors[5:9] = vectors[0] + draw.normal(size=(4, 8)) * [[0.01], [0.02], [0.05], [0.2]]
    vectors[-1] = vectors[-2] + 0.005
    return unit_vectors(vectors)


@pytest.mark.parametrize("rows_at_once", [7, 1000])
def test_near_duplicates_are_the_pairs_of_a_cosine_of_0_999(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(measured, "_ROWS_AT_ONCE", rows_at_once)
    vectors = near_vectors(40)
    expected = near_pairs(vectors)
    found, nearest = near_duplicates_of(vectors, tmp_path / "vectors")
    involved = {row for one, other, _ in expected for row in (one, other)}
    assert found == NearDuplicates(40, len(involved), len(expected))
    assert 3 <= len(expected) <= 10
    assert [pair[:2] for pair in nearest] == [pair[:2] for pair in expected]
    assert [pair[2] for pair in nearest] == pytest.approx([pair[2] for pair in expected], abs=1e-6)


def test_of_a_large_catalogue_a_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_MAX_SAMPLED_ROWS", 20)
    vectors = unit_vectors(1 + np.random.default_rng(1).normal(scale=1e-3, size=(40, 8)))  # All are near each other.
    found, nearest = near_duplicates_of(vectors, tmp_path / "vectors")
    assert (found, len(nearest)) == (NearDuplicates(20, 20, 190), 10)
    exact = {pair[:2]: pair[2] for pair in near_pairs(vectors)}
    assert [pair[2] for pair in nearest] == pytest.approx([exact[pair[:2]] for pair in nearest], abs=1e-6)


def test_vectors_that_are_all_alike_do_not_fill_the_memory(tmp_path: Path) -> None:
    vectors = unit_vectors(1 + np.random.default_rng(1).normal(scale=1e-3, size=(1500, 8)))
    tracemalloc.start()
    try:
        found, _ = near_duplicates_of(vectors, tmp_path / "vectors")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == NearDuplicates(1500, 1500, 1500 * 1499 // 2)
    assert peak < 16 * found.pairs  # the bytes of a list of all pairs


def test_a_build_has_the_quality_of_its_exact_lists(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    vectors = draw.normal(size=(60, 6))
    vectors[7] = vectors[3]  # One row, two products.
    vectors[11] = vectors[4] * 1.001 + 0.0001
    users = draw.normal(size=(400, 6)) + 0.4
    queries = write_lines(tmp_path / "users.jsonl", [{"name": "u", "vector": each.tolist()} for each in users])
    root = tmp_path / "artifacts"
    source = write_lines(tmp_path / "products.jsonl", products_of(vectors))
    build_id = build(BuildRequest(products=source, out=root, queries=queries, index="Flat")).build_id
    quality, report = (
        open_build(root, build_id).manifest.quality,
        orjson.loads((current(root) / "recall.json").read_bytes()),
    )
    assert quality is not None
    assert (quality.k, quality.users, quality.users_from, quality.synthetic) == (10, 100, "users.jsonl", False)
    # Exact kinds confirm with the users that they are tuned with, and there are no fields to filter by.
    held_out = unit_vectors(np.random.default_rng(1).permutation(unit_vectors(users)))[100:200].astype(np.float64)
    units = unit_vectors(vectors).astype(np.float64)
    scores = np.round(held_out @ units.T, 6)
    for side, sign in (("best", -1), ("worst", 1)):
        lists = np.argsort(sign * scores, axis=1, kind="stable")[:, :10]
        counts = Counter(int(product) for one in lists for product in one)
        of_product = np.array([counts[product] for product in range(60)])
        shown = np.take_along_axis(scores, lists, axis=1)
        found = getattr(quality, side)
        assert found.coverage == len(counts) / 60
        assert found.gini == pytest.approx(gini(of_product))
        assert found.hubness == pytest.approx(skewness(of_product))
        assert found.largest_share == max(counts.values()) / 100
        assert found.ild == pytest.approx(np.mean([intra_list_distance(units[one]) for one in lists]), abs=1e-6)
        for quantiles, column in ((found.first_scores, shown[:, 0]), (found.last_scores, shown[:, -1])):
            assert quantiles == pytest.approx(np.quantile(column, np.linspace(0, 1, 21)).tolist(), abs=2e-6)
        hubs = sorted(range(60), key=lambda product: (-counts[product], product))[:10]
        assert report["lorenz"][side] == lorenz_curve(of_product)
        assert report["hubs"][side] == [
            {"id": f"p{product}", "name": f"product {product}", "lists": counts[product]} for product in hubs
        ]
    assert quality.near_duplicates == NearDuplicates(59, 2, 1)
    [pair] = report["near_pairs"]
    assert [product["id"] for product in pair["products"]] == ["p4", "p11"]
    assert pair["cosine"] == pytest.approx(float(units[4] @ units[11]), abs=1e-6)
    assert report["quality"]["best"]["coverage"] == quality.best.coverage


def test_without_users_of_a_file_the_lists_are_of_users_made_from_products(tmp_path: Path) -> None:
    quality = publish(tmp_path / "artifacts").quality
    assert quality is not None
    assert (quality.synthetic, quality.users_from) == (True, "means of random products")


def test_a_build_of_an_earlier_version_has_no_quality_and_opens(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    build_id = publish(root).build_id
    edit_manifest(current(root), lambda manifest: manifest.pop("quality"))
    assert open_build(root, build_id).manifest.quality is None
