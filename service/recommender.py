"""The use case: users in, their best and worst products out. Knows no HTTP."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import overload

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.vectors import unit_vectors
from service.engines.base import Catalogue, IndexInfo, SearchEngine
from service.errors import CannotLookUp, FailedUser

_FEWEST_AT_ONCE, _MOST_AT_ONCE = 8, 128  # users that are worth a thread, and that others wait for at most
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


Item = User | FailedUser
Answer = Recommendation | FailedUser
_Search = Future[list[Recommendation]]


class Recommender:
    """Asks an engine for the matches of users."""

    def __init__(self, engine: SearchEngine):
        self._engine = engine
        self._threads = ThreadPoolExecutor(max(1, engine.concurrency - 1), "search")  # besides those that ask

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

    @overload
    def recommend(self, users: Iterable[User], here: bool = ...) -> Sequence[Recommendation]: ...
    @overload
    def recommend(self, users: Iterable[Item], here: bool = ...) -> Sequence[Answer]: ...
    def recommend(self, users: Iterable[Item], here: bool = False) -> Sequence[Answer]:
        """One answer a user, in order; the same one whatever other users stand in the call.

        A FailedUser comes back as it is. Searches begin while users still come, so it pays to read them lazily; what
        that raises is raised here. With `here`, all is done on the calling thread, as is best for a few users.
        """
        items: list[Item] = []
        searches: list[tuple[list[int], list[User], _Search]] = []
        found: dict[int, Recommendation] = {}
        try:
            for places, asked in _shared_searches(users, items, 1 if here else self._engine.concurrency):
                search = self._search_here(asked) if here else self._threads.submit(self._search, asked)
                searches.append((places, asked, search))
            for i, (places, asked, search) in enumerate(searches):
                if search.cancel():  # no thread has begun it yet
                    searches[i] = (places, asked, self._search_here(asked))
            for places, _, search in searches:
                found.update(zip(places, search.result(), strict=True))
        finally:
            for *_, search in searches:
                search.cancel()
        return [found[place] if isinstance(item, User) else item for place, item in enumerate(items)]

    def _search_here(self, users: Sequence[User]) -> "_Search":
        search = _Search()
        search.set_result(self._search(users))
        return search

    def _search(self, users: Sequence[User]) -> list[Recommendation]:
        """The answers to users of one depth."""
        vectors = unit_vectors(np.stack([user.vector for user in users]))
        found = self._engine.search(vectors, _depth(users[0]))
        return [
            Recommendation(user.name, _array(matches.best, user), _array(matches.worst, user))
            for user, matches in zip(users, found, strict=True)
        ]


@dataclass
class Serving:
    """What a process serves at the moment. A request takes `recommender` once; a new build replaces it whole."""

    recommender: Recommender
    draining: bool = False


def _shared_searches(
    users: Iterable[Item], items: list[Item], concurrency: int
) -> Iterator[tuple[list[int], list[User]]]:
    """Users who can share a search, because it has the same depth, and their places in `items`, where all users go."""
    waiting: defaultdict[int, tuple[list[int], list[User]]] = defaultdict(lambda: ([], []))
    for user in users:
        if isinstance(user, User):
            depth = _depth(user)
            if len(waiting[depth][0]) == min(_MOST_AT_ONCE, max(1, _MOST_MATCHES_AT_ONCE // depth)):
                yield waiting.pop(depth)  # there are more, so that the last of them can be shared out
            places, asked = waiting[depth]
            places.append(len(items))
            asked.append(user)
        items.append(user)
    for places, asked in waiting.values():
        at_once = max(_FEWEST_AT_ONCE, -(-len(asked) // concurrency))
        for start in range(0, len(asked), at_once):
            yield places[start : start + at_once], asked[start : start + at_once]


def _depth(user: User) -> int:
    """A user may need k matches and as many as are excluded."""
    return user.k + len(user.exclude)


def _array(matches: list[bytes], user: User) -> bytes:
    if user.exclude:
        matches = [match for match in matches if orjson.loads(match)["id"] not in user.exclude][: user.k]
    return b"[" + b",".join(matches) + b"]"
