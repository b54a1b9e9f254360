"""The use case: users in, their best and worst products out. Knows no HTTP."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from index_builder.vectors import unit_vectors
from service.engines.base import Catalogue, IndexInfo, SearchEngine
from service.errors import CannotLookUp

_MOST_MATCHES_AT_ONCE = 1_000_000  # bounds the memory that long exclude lists can take


@dataclass(frozen=True, slots=True)
class User:
    """A valid request: `vector` (d,), finite and not all zeros; `k` matches a side, none of them in `exclude`."""

    name: str
    vector: NDArray[np.float64]
    k: int
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one user: `best` and `worst` are JSON arrays of matches (`engines/base.py`)."""

    name: str
    best: bytes
    worst: bytes


class Recommender:
    """Asks an engine for the matches of users."""

    def __init__(self, engine: SearchEngine):
        self._engine = engine

    @property
    def info(self) -> IndexInfo:
        return self._engine.info

    @property
    def is_available(self) -> bool:
        """Whether the engine could answer when last found out."""
        return self._engine.is_available

    @property
    def catalogue(self) -> Catalogue:
        """The engine, where it also looks products up. Raises CannotLookUp where it does not."""
        if not isinstance(self._engine, Catalogue):
            raise CannotLookUp(f"the {self.info.index} engine does not look products up; /infer and /batch work")
        return self._engine

    def recommend(self, users: Sequence[User]) -> list[Recommendation]:
        """One answer a user, in order; the same one whatever other users stand in the call."""
        answers: dict[int, Recommendation] = {}
        for depth, members in _searches(users):
            vectors = unit_vectors(np.stack([users[i].vector for i in members]))
            for i, matches in zip(members, self._engine.search(vectors, depth), strict=True):
                user = users[i]
                answers[i] = Recommendation(user.name, _array(matches.best, user), _array(matches.worst, user))
        return [answers[i] for i in range(len(users))]


@dataclass
class Serving:
    """What a process serves at the moment. A request takes `recommender` once; a new build replaces it whole."""

    recommender: Recommender
    draining: bool = False


def _searches(users: Sequence[User]) -> Iterator[tuple[int, list[int]]]:
    """Who can share a search, and its depth: a user may need k matches and as many as are excluded."""
    members = defaultdict(list)
    for i, user in enumerate(users):
        members[user.k + len(user.exclude)].append(i)
    for depth, group in members.items():
        at_once = max(1, _MOST_MATCHES_AT_ONCE // depth)
        yield from ((depth, group[start : start + at_once]) for start in range(0, len(group), at_once))


def _array(matches: list[bytes], user: User) -> bytes:
    if user.exclude:
        matches = [match for match in matches if orjson.loads(match)["id"] not in user.exclude][: user.k]
    return b"[" + b",".join(matches) + b"]"
