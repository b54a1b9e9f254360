"""The users that an index is tuned and confirmed with: of a file, or made from the catalogue."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadQueries
from retrieval.records.console import readable
from retrieval.records.lenient_json import BadJson
from retrieval.records.rows import read_rows
from retrieval.records.vector_file import VectorFile
from retrieval.vectors import BadVector, read_vector, unit_vectors

SYNTHETIC = "means of random products"
MIN_USERS = 300  # With fewer, a recall of 0.99 cannot be told from one of 0.97.
_TUNING_USERS, _CONFIRMING_USERS, _MAX_SYNTHETIC_USERS = 300, 1000, 7300
_SHARES = 4  # One to tune with, and three to confirm with.
_SEED = 1


class Rows(Protocol):
    """Vectors by row."""

    @property
    def rows(self) -> int: ...

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the given rows (m,) as (m, d)."""


def synthetic_users(vectors: Rows, count: int, seed: int) -> NDArray[np.float32]:
    """Make user-like unit vectors (at most count, d): each points to the mean of a random handful of products.

    Groups whose members cancel out are left out; where all do, the first product stands in.
    """
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 6, size=count)
    members = vectors.take(draw.integers(0, vectors.rows, int(sizes.sum()))).astype(np.float64)
    means = np.stack([group.mean(axis=0) for group in np.split(members, sizes.cumsum()[:-1])])
    directed = means[means.any(axis=1)]
    return unit_vectors(directed if len(directed) else vectors.take(np.zeros(1, np.int64)))


def read_users(path: Path, dimension: int) -> NDArray[np.float32]:
    """Read the unit vectors (u, d) of a users file (`rows.py` says which formats). Raises BadQueries naming the row."""
    vectors = []
    for location, row in read_rows(path):
        try:
            if isinstance(row, BadJson):
                raise row
            vectors.append(read_vector(row.get("vector") if isinstance(row, dict) else None, dimension))
        except (BadJson, BadVector) as error:
            raise BadQueries(f"{path}: {location}: {error}") from error
    if not vectors:
        raise BadQueries(f"{path}: holds no users")
    return unit_vectors(np.stack(vectors))


@dataclass
class UserPool:
    """A source of users, each handed out once: `tuning` to choose an index with, `confirming` to check the choice.

    `draw` returns a number of unit vectors (u, d) from the first one given on. Once all are used, choices are confirmed
    with those of `then`.
    """

    name: str
    _size: int
    _draw: Callable[[int, int], NDArray[np.float32]]
    _then: Self | None = None
    _used: int = 0

    @property
    def source(self) -> str:
        """Say where the users that were handed out last are from."""
        if self._then is not None and self._then._used:
            return f"{self._then.source}, as earlier choices used up {self.name}"
        return self.name

    @property
    def has_more(self) -> bool:
        """Tell whether there are users left to confirm another choice with."""
        return self._has_own or (self._then is not None and self._then.has_more)

    @property
    def is_synthetic(self) -> bool:
        """Whether its users are made from the catalogue."""
        return self._then is None

    def held_out(self) -> NDArray[np.float32]:
        """Return fresh users of this source, or, where it is used up, those to tune with again."""
        return self.confirming() if self._has_own else self._draw(0, self._share(_TUNING_USERS))

    def tuning(self) -> NDArray[np.float32]:
        return self._take(self._share(_TUNING_USERS))

    def confirming(self) -> NDArray[np.float32]:
        """Return fresh users, while `has_more`."""
        return self.more(_CONFIRMING_USERS)

    def more(self, count: int) -> NDArray[np.float32]:
        """Return so many fresh users, or as many as one choice may use of a small source, while `has_more`."""
        if self._then is not None and not self._has_own:
            return self._then.more(count)
        return self._take(self._share(count))

    @property
    def _has_own(self) -> bool:
        return self._used + self._share(_CONFIRMING_USERS) <= self._size

    def _share(self, count: int) -> int:
        return min(count, self._size // _SHARES)

    def _take(self, count: int) -> NDArray[np.float32]:
        start, self._used = self._used, self._used + count
        return self._draw(start, count)


def user_pool(vectors: VectorFile, path: Path | None) -> UserPool:
    """Return the users of the file in random order and then synthetic ones, or these alone.

    They are alone where there is no file, or where it has too few users.
    """
    source = SYNTHETIC
    if path is not None:
        users = np.random.default_rng(_SEED).permutation(read_users(path, vectors.dimension))
        if len(users) >= MIN_USERS:
            return UserPool(
                readable(path.name),
                len(users),
                lambda start, count: users[start : start + count],
                _synthetic_pool(vectors, source),
            )
        source += f", as {readable(path.name)} has only {len(users)} users of the {MIN_USERS} needed"
    return _synthetic_pool(vectors, source)


def _synthetic_pool(vectors: VectorFile, name: str) -> UserPool:
    return UserPool(
        name, _MAX_SYNTHETIC_USERS, lambda start, count: synthetic_users(vectors, count, seed=_SEED + start)
    )
