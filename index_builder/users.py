"""Users to tune and confirm an index with: from a file, or made from the products."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index_builder.recall import synthetic_users
from retrieval.errors import BadQueries
from retrieval.records.lenient_json import BadJson
from retrieval.records.rows import read_rows
from retrieval.records.vector_file import UnitMatrix
from retrieval.vectors import BadVector, read_vector, unit_vectors

FEWEST = 300  # with fewer, a recall of 0.99 cannot be told from one of 0.97
_TUNING, _CONFIRMING, _MOST_SYNTHETIC = 300, 1000, 5000
_SEED = 1


def read_users(path: Path, dimension: int) -> NDArray[np.float32]:
    """The unit vectors (u, d) of a users file (`rows.py` says which formats). Raises BadQueries naming the bad row."""
    vectors = []
    for place, row in read_rows(path):
        if isinstance(row, BadJson):
            raise BadQueries(f"{path}: {place}: {row}")
        try:
            vectors.append(read_vector(row.get("vector") if isinstance(row, dict) else None, dimension))
        except BadVector as error:
            raise BadQueries(f"{path}: {place}: {error}") from None
    if not vectors:
        raise BadQueries(f"{path}: holds no users")
    return unit_vectors(np.stack(vectors))


@dataclass
class UserPool:
    """Hands out users, each only once: `tuning` to choose with, `confirming` to hold the choice against."""

    source: str
    _vectors: UnitMatrix
    _from_file: NDArray[np.float32] | None = None
    _taken: int = 0

    @property
    def has_more(self) -> bool:
        """Whether there are users left to confirm another choice with."""
        limit = _MOST_SYNTHETIC if self._from_file is None else len(self._from_file)
        return self._taken + self._share(_CONFIRMING) <= limit

    def tuning(self) -> NDArray[np.float32]:
        return self._take(self._share(_TUNING))

    def confirming(self) -> NDArray[np.float32]:
        """Fresh users, while `has_more`."""
        return self._take(self._share(_CONFIRMING))

    def _share(self, count: int) -> int:
        return count if self._from_file is None else min(count, len(self._from_file) // 3)

    def _take(self, count: int) -> NDArray[np.float32]:
        start, self._taken = self._taken, self._taken + count
        if self._from_file is None:
            return synthetic_users(self._vectors, count, seed=_SEED + start)
        return self._from_file[start : start + count]


def user_pool(vectors: UnitMatrix, path: Path | None) -> UserPool:
    """Users from the file in random order, or synthetic ones where there is no file, or too few users in it to tell."""
    if path is None:
        return UserPool("means of random products", vectors)
    users = read_users(path, vectors.dimension)
    if len(users) < FEWEST:
        source = f"means of random products, as {path.name} has only {len(users)} users of the {FEWEST} needed"
        return UserPool(source, vectors)
    return UserPool(path.name, vectors, np.random.default_rng(_SEED).permutation(users))
