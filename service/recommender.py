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
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.filters.tree import Filter
from retrieval.search.ranking import SIGNS, Neighbours, SearchPath
from retrieval.vectors import unit_vectors
from service.engines.base import Catalogue, FieldEngine, SearchEngine
from service.engines.shown_fields import ShownFields
from service.errors import CannotFilter, CannotLookUp, FailedUser

MAX_USERS_PER_SEARCH = 128  # More make others wait longer for a core, and take no less time each.
_MIN_USERS_PER_SEARCH = 8  # Fewer are not worth a thread.
_MAX_MATCHES_PER_SEARCH = 1_000_000  # Long exclude lists make a search deep; this bounds its memory.


@dataclass(frozen=True, slots=True)
class User:
    """What a valid request asks beside its vector: `k` matches a side, none of them in `exclude`.

    They match the `filter`; no best one scores less than `min_score`, and no worst one more than `max_score`. Each is
    shown with the `fields` of these names, "*" for all. With `explain`, the answer says how it was found. `ignored` are
    members of the request that are no options, but look like misspelt ones.
    """

    name: str
    k: int
    exclude: frozenset[str] = frozenset()
    filter: Filter | None = None
    min_score: float | None = None
    max_score: float | None = None
    fields: tuple[str, ...] = ()
    explain: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def search_key(self) -> "_SearchKey":
        """What users have in common who may share a search."""
        return self.depth, self.filter, self.explain

    @property
    def depth(self) -> int:
        """How many products a side may be needed: k matches and as many as are excluded."""
        return self.k + len(self.exclude)


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
    fields: ShownFields | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one user: `best` from the highest score down, `worst` from the lowest up.

    `matched` is how many products the user's filter lets through, if there is one. `explain` is how it was found: the
    path, among how many products, how many candidates of each side were scored, and how many excluded ids are unknown.
    """

    name: str
    best: Matches
    worst: Matches
    matched: int | None = field(default=None, kw_only=True)
    explain: dict[str, Any] | None = field(default=None, kw_only=True)


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
        [(_, answer)] = self._run(_Search([0], [user], vector[None]), list)
        return answer

    def recommend_inline(self, block: UserBlock, convert: Convert = list) -> list[Any]:
        """Do what `recommend` does on the calling thread: the fast way for a few users."""
        answers: list[Any] = list(block.items)
        for search in _searches_of(block):
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
            for search in _full_searches(self._noticed(blocks), items, pending):
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
        vectors, depth, query = unit_vectors(search.vectors), search.users[0].depth, search.users[0].filter
        if query is None:
            (best, worst), matched = self.engine.search(vectors, depth), None
        else:
            best, worst = self.field_engine.search_matching(vectors, depth, query)
            matched = self.field_engine.count_matching(query)
        sides = [
            (self._select(best, i, user, "best"), self._select(worst, i, user, "worst"))
            for i, user in enumerate(search.users)
        ]
        explanation = self._explain(search.users[0], best.path or SearchPath()) if search.users[0].explain else None
        names = (user.name for user in search.users)
        answers = [
            Recommendation(name, *pair, matched=matched, explain=explanation)
            for name, pair in zip(names, sides, strict=True)
        ]
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
        fields = ShownFields(self.field_engine, positions, user.fields) if user.fields else None
        return Matches(positions, scores, fields)

    def _explain(self, user: User, path: SearchPath) -> dict[str, Any]:
        matched = self.field_engine.count_matching(user.filter or EVERYTHING)
        unknown = sum(self.catalogue.find(identifier) is None for identifier in user.exclude)
        return {"path": path.name, "matched": matched, "candidates": path.candidates, "unknown_excluded": unknown}


@dataclass
class Serving:
    """What a process serves at the moment. A request takes `recommender` once; a new build replaces it whole.

    `is_stuck` tells whether requests wait in vain.
    """

    recommender: Recommender
    draining: bool = False
    is_stuck: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class _Search:
    """Users who share a search, with one search key: their indices among all items, and vectors (n, d)."""

    indices: list[int]
    users: list[User]
    vectors: NDArray[np.float64]

    def join(self, other: "_Search") -> "_Search":
        return _Search(
            self.indices + other.indices, self.users + other.users, np.concatenate([self.vectors, other.vectors])
        )

    def split(self, size: int) -> Iterator["_Search"]:
        for start in range(0, len(self.users), size):
            part = slice(start, start + size)
            yield _Search(self.indices[part], self.users[part], self.vectors[part])


_SearchKey = tuple[int, Filter | None, bool]  # depth, filter, and whether it is explained
_Pending = dict[_SearchKey, _Search]


def _searches_of(block: UserBlock, first: int = 0) -> Iterator[_Search]:
    """Yield the searches, some for each key, of a block whose first item is number `first` of all."""
    indices = [index for index, item in enumerate(block.items, first) if isinstance(item, User)]
    users = [item for item in block.items if isinstance(item, User)]
    rows_of_search: defaultdict[_SearchKey, list[int]] = defaultdict(list)
    for row, user in enumerate(users):
        rows_of_search[user.search_key].append(row)
    for key, rows in rows_of_search.items():
        vectors = block.vectors[rows] if len(rows) < len(users) else block.vectors
        search = _Search([indices[row] for row in rows], [users[row] for row in rows], vectors)
        yield from search.split(_max_users(key))


def _full_searches(blocks: Iterable[UserBlock], items: list[Item], pending: _Pending) -> Iterator[_Search]:
    """Yield searches as full as they may be, and add all items to `items`.

    The last search of each key is left in `pending`, to be divided between the cores once all is read.
    """
    for block in blocks:
        for search in _searches_of(block, len(items)):
            key = search.users[0].search_key
            waiting = pending.pop(key, None)
            if waiting and len(waiting.users) + len(search.users) <= _max_users(key):
                search = waiting.join(search)
            elif waiting:
                yield waiting
            pending[key] = search
        items += block.items


def _divide(searches: Iterable[_Search], concurrency: int) -> Iterator[_Search]:
    """Yield searches in parts, one for each core where there are enough users."""
    for search in searches:
        yield from search.split(max(_MIN_USERS_PER_SEARCH, -(-len(search.users) // concurrency)))


def _max_users(key: _SearchKey) -> int:
    depth, _, is_explained = key  # A path is that of one user, whatever the batch around them.
    return 1 if is_explained else min(MAX_USERS_PER_SEARCH, max(1, _MAX_MATCHES_PER_SEARCH // depth))
