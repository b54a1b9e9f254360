"""What lists of matches are to be, and what a search is asked for to make them."""

from dataclasses import dataclass

from retrieval.search.filters.tree import Filter
from retrieval.search.reranking.limits import MaxPer

MAX_USERS_PER_SEARCH = 128  # More make others wait longer for a core, and take no less time each.
_MAX_MATCHES_PER_SEARCH = 1_000_000  # This bounds the memory of a search.
_MAX_DEEPENING = 64  # Longer exclude lists are part of the mask: it takes less time to make one than to search deeper.
_POOL_PER_MATCH, _MAX_POOL = 10, 2000  # of the products that diversity picks from
_WEIGHED_PER_MATCH = 50  # Diversity weighs so many products for a pick in the time that a match takes.
_SPARE_PER_MATCH, _MAX_SPARE = 3, 64  # Most lists are full with so many more products than are wanted.


@dataclass(frozen=True, slots=True)
class Request:
    """What a search is asked for: so many products that match a filter, if there is one, and are not excluded.

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

    @property
    def max_users(self) -> int:
        """How many users may share the search; what is explained is the search of one user."""
        most = 1 if self.is_explained else MAX_USERS_PER_SEARCH
        return min(most, max(1, _MAX_MATCHES_PER_SEARCH // self.depth))


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What both lists of a user are to be: `k` matches each, none of them in `exclude`.

    They match the `filter`; no best one scores less than `min_score`, and no worst one more than `max_score`. Few have
    the same value of a field (`max_per`), and they are unlike each other (`diversity`, from 0 to 1).
    """

    k: int
    exclude: frozenset[str] = frozenset()
    filter: Filter | None = None
    min_score: float | None = None
    max_score: float | None = None
    max_per: MaxPer = ()
    diversity: float = 0.0

    @property
    def is_reranked(self) -> bool:
        """Whether a list is another one than the first k that qualify."""
        return bool(self.max_per or self.diversity)

    @property
    def is_restricted(self) -> bool:
        """Whether any products are not to be among the best ones."""
        return bool(self.exclude or self.filter or self.min_score is not None)

    @property
    def wanted(self) -> int:
        """How many products have to be found: k, or as many as diversity picks from."""
        return max(self.k, min(_POOL_PER_MATCH * self.k, _MAX_POOL)) if self.diversity else self.k

    @property
    def work(self) -> int:
        """How many matches, of lists without options, take about the time of these: k, and more with diversity."""
        return max(self.wanted, self.k * self.wanted // _WEIGHED_PER_MATCH) if self.diversity else self.k

    @property
    def depth(self) -> int:
        """How many products that qualify to look for at first; with `max_per`, some of them are left out."""
        return self.wanted + (min(_SPARE_PER_MATCH * self.wanted, _MAX_SPARE) if self.max_per else 0)

    @property
    def full_depth(self) -> int:
        """How many products to look for at first where those in `exclude` may be among them."""
        return self.depth + len(self.exclude)

    def request(self, search_excludes: bool = True, is_explained: bool = False) -> Request:
        """Return what to ask a search, which may leave out products itself, for at first."""
        if search_excludes and len(self.exclude) > _MAX_DEEPENING:
            return Request(self.depth, self.filter, self.exclude, is_explained)
        return Request(self.full_depth, self.filter, is_explained=is_explained)
