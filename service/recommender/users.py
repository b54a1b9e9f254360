"""Users, as valid requests describe them, and the searches that they share."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.search.reranking.request import ListOptions, Request
from service.errors import FailedUser

_MIN_USERS_PER_SEARCH = 8  # Fewer are not worth a thread.


@dataclass(frozen=True, slots=True, kw_only=True)
class User(ListOptions):
    """What a valid request asks beside its vector: two lists, and how to show them.

    Each match is shown with the `fields` of these names, "*" for all. With `explain`, the answer says how it was found.
    `ignored` are members of the request that are no options, but look like misspelt ones.
    """

    name: str
    fields: tuple[str, ...] = ()
    explain: bool = False
    ignored: tuple[str, ...] = ()


Item = User | FailedUser


@dataclass(frozen=True, slots=True)
class UserBlock:
    """Users in a row, with a FailedUser where one could not be read.

    `vectors` (m, d) has a row for each User, in their order: finite float64, not all zeros.
    """

    items: Sequence[Item]
    vectors: NDArray[np.float64]


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
        rows_of_search[user.request(engine_excludes, user.explain)].append(row)
    for request, rows in rows_of_search.items():
        vectors = block.vectors[rows] if len(rows) < len(users) else block.vectors
        search = Search(request, [indices[row] for row in rows], [users[row] for row in rows], vectors)
        yield from search.split(request.max_users)


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
            if waiting and len(waiting.users) + len(search.users) <= request.max_users:
                search = waiting.join(search)
            elif waiting:
                yield waiting
            pending[request] = search
        items += block.items


def divide(searches: Iterable[Search], concurrency: int) -> Iterator[Search]:
    """Yield searches in parts, one for each core where there are enough users."""
    for search in searches:
        yield from search.split(max(_MIN_USERS_PER_SEARCH, -(-len(search.users) // concurrency)))
