"""The map of a catalogue: unit vectors on the plane in which its products vary most, for people to look at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.records.vector_file import UnitMatrix
from retrieval.search.ranking import RowGroups

FILE = "map.json"
_MOST_POINTS = 5000
_DIRECTIONS_TRIED, _ROUNDS, _SEED = 8, 40, 4


@dataclass(frozen=True)
class Atlas:
    """Places vectors on the map: at `projection` (2, d) times the unit vector, plus `offset` (2,).

    `positions` (m,) are products spread evenly over the catalogue; they lie within [-1, 1] on both axes.
    """

    projection: NDArray[np.float32]
    offset: NDArray[np.float32]
    positions: NDArray[np.int64]

    def place(self, unit_vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The points (n, 2), as x and y, of unit vectors (n, d)."""
        return unit_vectors @ self.projection.T + self.offset


def write_atlas(directory: Path, vectors: UnitMatrix, groups: RowGroups) -> None:
    """Write the map of a catalogue into the directory of its build."""
    count = groups.product_count
    positions = np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(np.int64)
    atlas = chart(vectors.take(groups.row_of(positions)), positions)
    content = {"projection": atlas.projection, "offset": atlas.offset, "positions": atlas.positions}
    (directory / FILE).write_bytes(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


def open_atlas(directory: Path) -> Atlas:
    """Read the map of a build. Raises BadArtifact where there is none."""
    path = directory / FILE
    try:
        content = orjson.loads(path.read_bytes())
        projection, offset = (np.array(content[name], np.float32) for name in ("projection", "offset"))
        return Atlas(projection, offset, np.array(content["positions"], np.int64))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{path}: not a readable map ({error})") from None


def chart(unit_vectors: NDArray[np.float32], positions: NDArray[np.int64]) -> Atlas:
    """The map whose plane and scale fit these unit vectors (m, d), of the products at these positions (m,)."""
    middle = unit_vectors.mean(axis=0, dtype=np.float64)
    centred = unit_vectors - middle
    projection = _principal_directions(centred)
    reach = np.abs(centred @ projection.T).max()
    projection /= reach if reach > 0 else 1.0
    return Atlas(np.ascontiguousarray(projection, np.float32), (-projection @ middle).astype(np.float32), positions)


def _principal_directions(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two orthonormal directions (2, d) in which centred vectors (m, d) vary most, by subspace iteration.

    Its memory grows with d and not with its square. The largest number of a direction is positive.
    """
    dimension = centred.shape[1]
    start = np.random.default_rng(_SEED).normal(size=(dimension, min(_DIRECTIONS_TRIED, dimension)))
    basis = np.linalg.qr(start)[0]
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    seen = centred @ basis
    directions: NDArray[np.float64] = (basis @ np.linalg.eigh(seen.T @ seen)[1][:, :-3:-1]).T
    largest = np.abs(directions).argmax(axis=1)
    return directions * np.where(directions[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
