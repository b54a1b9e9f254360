"""Users, as valid requests describe them, and the searches that they share."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.tree import Filter
from retrieval.search.reranking.limits import MaxPer
from retrieval.search.reranking.lists import ListOptions
from service.errors import FailedUser

MAX_USERS_PER_SEARCH = 128  # More make others wait longer for a core, and take no less time each.
_MIN_USERS_PER_SEARCH = 8  # Fewer are not worth a thread.
_MAX_MATCHES_PER_SEARCH = 1_000_000  # This bounds the memory of a search.
_MAX_DEEPENING = 64  # Longer exclude lists are part of the mask: it takes less time to make one than to search deeper.


@dataclass(frozen=True, slots=True)
class User:
    """What a valid request asks beside its vector: `k` matches a side, none of them in `exclude`.

    They match the `filter`; no best one scores less than `min_score`, and no worst one more than `max_score`. How they
    are picked, `max_per` and `diversity` say (`ListOptions`). Each is shown with the `fields` of these names, "*" for
    all. With `explain`, the answer says how it was found. `ignored` are members of the request that are no options, but
    look like misspelt ones.
    """

    name: str
    k: int
    exclude: frozenset[str] = frozenset()
    filter: Filter | None = None
    min_score: float | None = None
    max_score: float | None = None
    max_per: MaxPer = ()
    diversity: float = 0.0
    fields: tuple[str, ...] = ()
    explain: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """How many products a side are looked for at first: as many as the list takes, and as many as are excluded."""
        return (self.list_options.depth if self.is_reranked else self.k) + len(self.exclude)

    @property
    def is_reranked(self) -> bool:
        """Whether the list is another one than the first k that qualify."""
        return bool(self.max_per or self.diversity)

    @property
    def is_restricted(self) -> bool:
        """Whether any products are not to be among the best ones."""
        return bool(self.exclude or self.filter or self.min_score is not None)

    @property
    def list_options(self) -> ListOptions:
        return ListOptions(self.k, self.max_per, self.diversity)

    def request(self, engine_excludes: bool) -> "Request":
        """Return what to ask an engine, which may leave out products itself."""
        if engine_excludes and len(self.exclude) > _MAX_DEEPENING:
            return Request(self.depth - len(self.exclude), self.filter, self.exclude, self.explain)
        return Request(self.depth, self.filter, is_explained=self.explain)


Item = User | FailedUser


@dataclass(frozen=True, slots=True)
class UserBlock:
    """Users in a row, with a FailedUser where one could not be read.

    `vectors` (m, d) has a row for each User, in their order: finite float64, not all zeros.
    """

    items: Sequence[Item]
    vectors: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked for: so many products that match a filter, if there is one, and are not excluded.

    Those that the filter `without` lets through are left out.
    """

    depth: int
    filter: Filter | None = None
    excluded: frozenset[str] = frozenset()
    is_explained: bool = False
    without: Filter | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is among all products, and only they are wanted."""
        return self.filter is None and self.without is None and not self.excluded and not self.is_explained


@dataclass(frozen=True, slots=True)
class Search:
    """Users who share a search, as they ask the engine for the same: their indices among all, and vectors (n, d)."""

    request: Request
    indices: list[int]
    users: list[User]
    vectors: NDArray[np.float64]

    def join(self, other: "Search") -> "Search":
        vectors = np.concatenate([self.vectors, other.vectors])
        return Search(self.request, self.indices + other.indices, self.users + other.users, vectors)

    def split(self, size: int) -> Iterator["Search"]:
        for start in range(0, len(self.users), size):
            part = slice(start, start + size)
            yield Search(self.request, self.indices[part], self.users[part], self.vectors[part])


Pending = dict[Request, Search]


def searches_of(block: UserBlock, engine_excludes: bool, first: int = 0) -> Iterator[Search]:
    """Yield the searches, some for each request, of a block whose first item is number `first` of all."""
    indices = [index for index, item in enumerate(block.items, first) if isinstance(item, User)]
    users = [item for item in block.items if isinstance(item, User)]
    rows_of_search: defaultdict[Request, list[int]] = defaultdict(list)
    for row, user in enumerate(users):
        rows_of_search[user.request(engine_excludes)].append(row)
    for request, rows in rows_of_search.items():
        vectors = block.vectors[rows] if len(rows) < len(users) else block.vectors
        search = Search(request, [indices[row] for row in rows], [users[row] for row in rows], vectors)
        yield from search.split(_max_users(request))


def full_searches(
    blocks: Iterable[UserBlock], items: list[Item], pending: Pending, engine_excludes: bool
) -> Iterator[Search]:
    """Yield searches as full as they may be, and add all items to `items`.

    The last search of each request is left in `pending`, to be divided between the cores once all is read.
    """
    for block in blocks:
        for search in searches_of(block, engine_excludes, len(items)):
            request = search.request
            waiting = pending.pop(request, None)
            if waiting and len(waiting.users) + len(search.users) <= _max_users(request):
                search = waiting.join(search)
            elif waiting:
                yield waiting
            pending[request] = search
        items += block.items


def divide(searches: Iterable[Search], concurrency: int) -> Iterator[Search]:
    """Yield searches in parts, one for each core where there are enough users."""
    for search in searches:
        yield from search.split(max(_MIN_USERS_PER_SEARCH, -(-len(search.users) // concurrency)))


def _max_users(request: Request) -> int:
    most = 1 if request.is_explained else MAX_USERS_PER_SEARCH  # What is explained is the search of one user.
    return min(most, max(1, _MAX_MATCHES_PER_SEARCH // request.depth))
