"""The use case: users in, their best and worst products out. Knows no HTTP and no JSON."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.products import parse_prefixes
from retrieval.records.fields import pick_fields
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.filters.tree import Filter
from retrieval.search.ranking import SIGNS, Neighbours
from retrieval.vectors import unit_vectors
from service.engines.base import Catalogue, FieldEngine, SearchEngine
from service.errors import CannotFilter, CannotLookUp, FailedUser

MAX_USERS_PER_SEARCH = 128  # More make others wait longer for a core, and take no less time each.
_MIN_USERS_PER_SEARCH = 8  # Fewer are not worth a thread.
_MAX_MATCHES_PER_SEARCH = 1_000_000  # This bounds the memory of a search.
_MAX_DEEPENING = 64  # Longer exclude lists are part of the mask: it takes less time to make one than to search deeper.


@dataclass(frozen=True, slots=True)
class User:
    """What a valid request asks beside its vector: `k` matches a side, none of them in `exclude`.

    They match the `filter`; no best one scores less than `min_score`, and no worst one more than `max_score`. Each is
    shown with the `fields` of these names, "*" for all.
    """

    name: str
    k: int
    exclude: frozenset[str] = frozenset()
    filter: Filter | None = None
    min_score: float | None = None
    max_score: float | None = None
    fields: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """How many products a side may be needed: k matches and as many as are excluded."""
        return self.k + len(self.exclude)

    def request(self, engine_excludes: bool) -> "_Request":
        """Return what to ask an engine, which may leave out products itself."""
        if engine_excludes and len(self.exclude) > _MAX_DEEPENING:
            return _Request(self.k, self.filter, self.exclude)
        return _Request(self.depth, self.filter)


Item = User | FailedUser


@dataclass(frozen=True, slots=True)
class UserBlock:
    """Users in a row, with a FailedUser where one could not be read.

    `vectors` (m, d) has a row for each User, in their order: finite float64, not all zeros.
    """

    items: Sequence[Item]
    vectors: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matches:
    """One side of an answer, in its order: catalogue positions (m,), and cosine scores (m,) rounded to six decimals.

    `fields` are those of each match that the user wants to see, if any.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    fields: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one user: `best` from the highest score down, `worst` from the lowest up.

    `matched` is how many products the user's filter lets through, if there is one.
    """

    name: str
    best: Matches
    worst: Matches
    matched: int | None = field(default=None, kw_only=True)


Answer = Recommendation | FailedUser
Convert = Callable[[list[Recommendation]], Sequence[Any]]


class Recommender:
    """Asks an engine for the matches of users.

    `last_progress` is when it last began some users or had some read, as `time.monotonic` has it.
    """

    def __init__(self, engine: SearchEngine):
        self.engine = engine
        self.info, self.prefixes = engine.info, engine.prefixes
        self.last_progress = time.monotonic()
        self._field_engine = engine if isinstance(engine, FieldEngine) else None
        self._engine_excludes = self._field_engine is not None
        self.vocabulary = self._field_engine.vocabulary if self._field_engine else None
        self._threads = ThreadPoolExecutor(max(1, engine.concurrency - 1), "search")  # The calling thread searches too.

    @property
    def catalogue(self) -> Catalogue:
        """The engine, where it also looks products up. Raises CannotLookUp where it does not."""
        if not isinstance(self.engine, Catalogue):
            raise CannotLookUp(f"the {self.info.index} engine does not look products up; /infer and /batch work")
        return self.engine

    @property
    def field_engine(self) -> FieldEngine:
        """The engine, where it also filters products and shows their fields. Raises CannotFilter where it does not."""
        if self._field_engine is None:
            raise CannotFilter(f"the {self.info.index} engine does not know the fields of products")
        return self._field_engine

    def recommend_one(self, user: User, vector: NDArray[np.float64]) -> Recommendation:
        """Return the answer to one user, found on the calling thread."""
        [(_, answer)] = self._run(_Search(user.request(self._engine_excludes), [0], [user], vector[None]), list)
        return answer

    def recommend_inline(self, block: UserBlock, convert: Convert = list) -> list[Any]:
        """Do what `recommend` does on the calling thread: the fast way for a few users."""
        answers: list[Any] = list(block.items)
        for search in _searches_of(block, self._engine_excludes):
            for index, answer in self._run(search, convert):
                answers[index] = answer
        return answers

    def recommend(self, blocks: Iterable[UserBlock], convert: Convert = list) -> list[Any]:
        """Return one answer an item, in order; the same one whatever other users stand in the call.

        `convert` turns the Recommendations of a search into the caller's form, while other searches run. Searches begin
        while blocks are still being read, so it pays to read them lazily; what that raises is raised here.
        """
        items: list[Item] = []
        pending: _Pending = {}
        searches: list[tuple[_Search, Future[list[tuple[int, Any]]]]] = []
        found: dict[int, Any] = {}
        try:
            for search in _full_searches(self._noticed(blocks), items, pending, self._engine_excludes):
                searches.append((search, self._threads.submit(self._run, search, convert)))
            last = [*_divide(pending.values(), self.engine.concurrency)]
            searches += [(search, self._threads.submit(self._run, search, convert)) for search in last[:-1]]
            for search in last[-1:]:  # A batch of a few users needs no other thread than the calling one.
                found.update(self._run(search, convert))
            for search, future in searches:
                if future.cancel():  # No thread has begun it yet.
                    found.update(self._run(search, convert))
            for _, future in searches:
                if not future.cancelled():
                    found.update(future.result())
        finally:
            for _, future in searches:
                future.cancel()
        return [found[index] if isinstance(item, User) else item for index, item in enumerate(items)]

    def _noticed(self, blocks: Iterable[UserBlock]) -> Iterator[UserBlock]:
        for block in blocks:
            self.last_progress = time.monotonic()
            yield block

    def _run(self, search: "_Search", convert: Convert) -> list[tuple[int, Any]]:
        """Return each user's index among all items, and answer."""
        self.last_progress = time.monotonic()
        vectors, request = unit_vectors(search.vectors), search.request
        if request.is_plain:
            best, worst = self.engine.search(vectors, request.depth)
        else:
            query = request.filter or EVERYTHING
            best, worst = self.field_engine.search_matching(vectors, request.depth, query, request.excluded)
        matched = None if request.filter is None else self.field_engine.count_matching(request.filter)
        sides = [
            (self._select(best, i, user, "best"), self._select(worst, i, user, "worst"))
            for i, user in enumerate(search.users)
        ]
        names = (user.name for user in search.users)
        answers = [Recommendation(name, *pair, matched=matched) for name, pair in zip(names, sides, strict=True)]
        return [*zip(search.indices, convert(answers), strict=True)]

    def _select(self, side: Neighbours, row: int, user: User, name: str) -> Matches:
        """Return a user's first k matches that are not excluded, as far as their scores are within bounds."""
        positions, scores = side.positions[row], side.scores[row]
        if len(positions) and positions[-1] < 0:  # An approximate engine pads what it did not find.
            found = int(np.count_nonzero(positions >= 0))
            positions, scores = positions[:found], scores[:found]
        if user.exclude:
            kept = [product["id"] not in user.exclude for product in parse_prefixes(self.prefixes(positions))]
            positions, scores = positions[kept][: user.k], scores[kept][: user.k]
        bound, sign = (user.min_score if name == "best" else user.max_score), SIGNS[name]
        if bound is not None:
            within = int(np.count_nonzero(sign * scores >= sign * bound))
            positions, scores = positions[:within], scores[:within]
        return Matches(positions, scores, self._fields_of(positions, user.fields) if user.fields else None)

    def _fields_of(self, positions: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the further fields of these names that each product has."""
        return [pick_fields(product, names) for product in self.field_engine.fields_of(positions)]


@dataclass
class Serving:
    """What a process serves at the moment. A request takes `recommender` once; a new build replaces it whole.

    `is_stuck` tells whether requests wait in vain.
    """

    recommender: Recommender
    draining: bool = False
    is_stuck: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class _Request:
    """What an engine is asked for: so many products that match a filter, if there is one, and are not excluded."""

    depth: int
    filter: Filter | None = None
    excluded: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        return self.filter is None and not self.excluded


@dataclass(frozen=True, slots=True)
class _Search:
    """Users who share a search, as they ask the engine for the same: their indices among all, and vectors (n, d)."""

    request: _Request
    indices: list[int]
    users: list[User]
    vectors: NDArray[np.float64]

    def join(self, other: "_Search") -> "_Search":
        vectors = np.concatenate([self.vectors, other.vectors])
        return _Search(self.request, self.indices + other.indices, self.users + other.users, vectors)

    def split(self, size: int) -> Iterator["_Search"]:
        for start in range(0, len(self.users), size):
            part = slice(start, start + size)
            yield _Search(self.request, self.indices[part], self.users[part], self.vectors[part])


_Pending = dict[_Request, _Search]


def _searches_of(block: UserBlock, engine_excludes: bool, first: int = 0) -> Iterator[_Search]:
    """Yield the searches, some for each request, of a block whose first item is number `first` of all."""
    indices = [index for index, item in enumerate(block.items, first) if isinstance(item, User)]
    users = [item for item in block.items if isinstance(item, User)]
    rows_of_search: defaultdict[_Request, list[int]] = defaultdict(list)
    for row, user in enumerate(users):
        rows_of_search[user.request(engine_excludes)].append(row)
    for request, rows in rows_of_search.items():
        vectors = block.vectors[rows] if len(rows) < len(users) else block.vectors
        search = _Search(request, [indices[row] for row in rows], [users[row] for row in rows], vectors)
        yield from search.split(_max_users(request.depth))


def _full_searches(
    blocks: Iterable[UserBlock], items: list[Item], pending: _Pending, engine_excludes: bool
) -> Iterator[_Search]:
    """Yield searches as full as they may be, and add all items to `items`.

    The last search of each request is left in `pending`, to be divided between the cores once all is read.
    """
    for block in blocks:
        for search in _searches_of(block, engine_excludes, len(items)):
            request = search.request
            waiting = pending.pop(request, None)
            if waiting and len(waiting.users) + len(search.users) <= _max_users(request.depth):
                search = waiting.join(search)
            elif waiting:
                yield waiting
            pending[request] = search
        items += block.items


def _divide(searches: Iterable[_Search], concurrency: int) -> Iterator[_Search]:
    """Yield searches in parts, one for each core where there are enough users."""
    for search in searches:
        yield from search.split(max(_MIN_USERS_PER_SEARCH, -(-len(search.users) // concurrency)))


def _max_users(depth: int) -> int:
    return min(MAX_USERS_PER_SEARCH, max(1, _MAX_MATCHES_PER_SEARCH // depth))
