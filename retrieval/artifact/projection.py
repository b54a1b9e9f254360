"""The projection of a catalogue: the plane in which its unit vectors vary most, as a map for people to look at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.records.vector_file import VectorFile
from retrieval.search.ranking import RowGroups

FILE = "map.json"
_MAX_SAMPLED_POINTS = 5000
_SUBSPACE_SIZE, _ITERATIONS, _SEED = 8, 40, 4


@dataclass(frozen=True)
class Projection:
    """An affine map of unit vectors to points: `matrix` (2, d) times the vector, plus `offset` (2,).

    `positions` (m,) are sampled products, spread evenly over the catalogue; their points lie within [-1, 1].
    """

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]
    positions: NDArray[np.int64]

    def project(self, unit_vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the points (n, 2), as x and y, of unit vectors (n, d)."""
        return unit_vectors @ self.matrix.T + self.offset


def write_projection(directory: Path, vectors: VectorFile, groups: RowGroups) -> None:
    """Fit a catalogue's projection and write it into the directory of its build."""
    count = groups.product_count
    positions = np.linspace(0, count - 1, min(count, _MAX_SAMPLED_POINTS)).round().astype(np.int64)
    fitted = fit_projection(vectors.take(groups.row_of(positions)), positions)
    content = {"projection": fitted.matrix, "offset": fitted.offset, "positions": positions}
    (directory / FILE).write_bytes(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


def open_projection(directory: Path) -> Projection:
    """Read the projection of a build. Raises BadArtifact where there is none."""
    path = directory / FILE
    try:
        content = orjson.loads(path.read_bytes())
        matrix, offset = (np.array(content[name], np.float32) for name in ("projection", "offset"))
        return Projection(matrix, offset, np.array(content["positions"], np.int64))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{path}: not a readable map ({error})") from error


def fit_projection(unit_vectors: NDArray[np.float32], positions: NDArray[np.int64]) -> Projection:
    """Fit plane and scale to the unit vectors (m, d) of the products at these positions (m,)."""
    middle = unit_vectors.mean(axis=0, dtype=np.float64)
    centred = unit_vectors - middle
    matrix = _principal_directions(centred)
    extent = np.abs(centred @ matrix.T).max()
    matrix /= extent if extent > 0 else 1.0
    return Projection(np.ascontiguousarray(matrix, np.float32), (-matrix @ middle).astype(np.float32), positions)


def _principal_directions(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two orthonormal directions (2, d) in which centred vectors (m, d) vary most, by subspace iteration.

    Its memory grows with d and not with its square. The largest number of a direction is positive.
    """
    dimension = centred.shape[1]
    start = np.random.default_rng(_SEED).normal(size=(dimension, min(_SUBSPACE_SIZE, dimension)))
    basis = np.linalg.qr(start)[0]
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    reduced = centred @ basis
    directions: NDArray[np.float64] = (basis @ np.linalg.eigh(reduced.T @ reduced)[1][:, :-3:-1]).T
    largest = np.abs(directions).argmax(axis=1)
    return directions * np.where(directions[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
