"""The map shows the plane in which the catalogue varies most."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.artifact.projection import Projection, fit_projection, open_projection, write_projection
from retrieval.errors import BadArtifact
from retrieval.vectors import unit_vectors
from tests.support.indexes import group_identical, vector_file

POINT_ERROR = 1e-4


def draw(count: int, dimension: int) -> np.ndarray:
    """Unit vectors that vary most in two directions, and differently in each."""
    spread = np.ones(dimension)
    spread[:2] = 4.0, 2.0
    return unit_vectors(np.random.default_rng(dimension).normal(size=(count, dimension)) * spread + 0.5)


def numpys_points(units: np.ndarray) -> np.ndarray:
    """The first two principal components (n, 2) by NumPy's singular values, scaled to [-1, 1]; signs are arbitrary."""
    centred = units - units.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:2].T
    return points / np.abs(points).max()


def all_of(units: np.ndarray) -> Projection:
    return fit_projection(units, np.arange(len(units)))


@pytest.mark.parametrize(("count", "dimension"), [(500, 2), (500, 3), (400, 24), (30, 300)])
def test_points_are_the_first_two_principal_components(count: int, dimension: int) -> None:
    units = draw(count, dimension)
    points, expected = all_of(units).project(units), numpys_points(units)
    for axis in (0, 1):
        sign = np.sign(points[:, axis] @ expected[:, axis])
        np.testing.assert_allclose(points[:, axis], sign * expected[:, axis], rtol=0, atol=POINT_ERROR)


def test_points_fill_the_square_and_no_more() -> None:
    units = draw(400, 24)
    assert np.abs(all_of(units).project(units)).max() == pytest.approx(1.0, abs=1e-5)


def test_other_vectors_are_placed_by_the_same_projection() -> None:
    units = draw(400, 24)
    projection = all_of(units)
    between = unit_vectors(units[3:4] + units[7:8])
    expected = between.astype(np.float64) @ projection.matrix.T + projection.offset
    np.testing.assert_allclose(projection.project(between), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 9])
def test_products_that_do_not_vary_lie_in_the_middle(count: int) -> None:
    units = np.tile(np.array([0.6, 0.0, 0.8], np.float32), (count, 1))
    np.testing.assert_allclose(all_of(units).project(units), np.zeros((count, 2)), atol=1e-5)


def test_a_large_catalogue_shows_five_thousand_products_spread_evenly(tmp_path: Path) -> None:
    units = draw(12_000, 4)
    units[7000] = units[2]
    first, groups = group_identical(units)
    with vector_file(units[first]) as matrix:
        write_projection(tmp_path, matrix, groups)
    projection = open_projection(tmp_path)
    assert len(projection.positions) == 5000
    assert (projection.positions[0], projection.positions[-1]) == (0, 11_999)
    assert set(np.diff(projection.positions)) == {2, 3}
    expected = fit_projection(units[projection.positions], projection.positions)
    np.testing.assert_array_equal(projection.matrix, expected.matrix)
    np.testing.assert_array_equal(projection.offset, expected.offset)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"projection": [[1, 0]]}'], ids=str)
def test_a_file_that_is_no_map_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "map.json").write_bytes(content)
    with pytest.raises(BadArtifact, match=rf"^{tmp_path / 'map.json'}: not a readable map \("):
        open_projection(tmp_path)
