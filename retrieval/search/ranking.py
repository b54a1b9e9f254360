"""Puts index rows in the order of an answer: by score in millionths, then by catalogue position."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SIDES = ("best", "worst")
SIGNS = {"best": 1.0, "worst": -1.0}  # The first match of a side has the highest score times its sign.
_SIGNS = np.array([[[1]], [[-1]]])
TOLERANCE = 1e-5  # A product counts as found when its score is within this of the exact k-th score.
UNITS = 10**6  # Scores are compared and reported in millionths.
# An index ranks by scores that differ in the seventh decimal with how many queries it is given. So a search fetches a
# few more than requested and computes their scores one by one. Where what it left out, whose scores may be off by the
# ranking error, could still tie with the last one requested, it fetches more.
SPARE_NEIGHBOURS = 6
RANKING_ERROR = 2e-6
_POSITION_BITS = 40
NOTHING = np.iinfo(np.int64).max  # the sort key of no row and of no product

Holds = Callable[[NDArray[np.integer]], NDArray[np.bool_]]  # tells which positions match, in their shape


@dataclass
class SearchPath:
    """Which way a search went, and how many index rows it scored for each side, by the side's name.

    Of a search for several queries, the way of the last one.
    """

    name: str
    candidates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))

    @property
    def is_exact(self) -> bool:
        """Whether all that could match was scored."""
        return "candidates" not in self.name

    def take(self, name: str, best: int, worst: int) -> None:
        """Note that the search goes this way, instead of any that it went before."""
        self.name, self.candidates = name, {"best": best, "worst": worst}

    def join(self, what: str, other: "SearchPath") -> None:
        """Note that the search also goes another way, over what has this name."""
        self.name = f"{self.name} and {what}"
        self.candidates = {side: count + other.candidates[side] for side, count in self.candidates.items()}


@dataclass(frozen=True)
class Neighbours:
    """The products nearest to each query on one side: `positions` in the catalogue and cosine `scores`, both (n, k).

    Best or worst first; scores are multiples of 1e-6 within [-1, 1], equal ones stand in catalogue order. `path` is how
    they were found, where an engine says so.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    path: SearchPath | None = None


@dataclass(frozen=True)
class RowGroups:
    """Which products share an index row: those of row r are `products[starts[r]:starts[r + 1]]`, in catalogue order."""

    starts: NDArray[np.integer]
    products: NDArray[np.integer]

    @classmethod
    def of_rows(cls, row_of_product: NDArray[np.int64], row_count: int) -> "RowGroups":
        """Return the groups of products (n,) whose rows these are."""
        products = np.argsort(row_of_product, kind="stable")
        return cls(np.searchsorted(row_of_product[products], np.arange(row_count + 1)), products)

    @property
    def row_count(self) -> int:
        return len(self.starts) - 1

    @property
    def product_count(self) -> int:
        return len(self.products)

    @property
    def is_one_to_one(self) -> bool:
        """Whether row r is that of product r, and of no other."""
        count = self.row_count  # The first products of rows rise.
        return count == self.product_count and (count == 0 or int(self.products[-1]) == count - 1)

    def row_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index row of each catalogue position, in the shape of `positions`."""
        rows = np.empty(self.product_count, np.int64)
        rows[self.products] = np.repeat(np.arange(self.row_count), np.diff(self.starts))
        return rows[positions]

    def matching(self, rows: NDArray[np.int64], holds: Holds) -> tuple["RowGroups", NDArray[np.int64]]:
        """Return groups of no rows but these, with their matching products, and the number in them of each of `rows`.

        A row that a batch has many times is read once, so that it takes no more memory than the catalogue.
        """
        distinct, numbers = np.unique(rows, return_inverse=True)
        first = self.starts[distinct].astype(np.int64)
        sizes = self.starts[distinct + 1] - first
        ends = sizes.cumsum()
        products = self.products[np.repeat(first - (ends - sizes), sizes) + np.arange(sizes.sum())]
        matches = holds(products)
        starts = np.append(0, matches.cumsum()[ends - 1])
        return RowGroups(starts, products[matches]), numbers.reshape(rows.shape)


def both_sides(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the queries (2n, d) that score a best row highest, and then those that score a worst row highest."""
    return np.concatenate((queries, -queries))


class RowAssigner:
    """Gives identical vectors one row: rows are numbered in the order in which their vectors first come."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._row_of_product: list[NDArray[np.int64]] = []

    def assign(self, unit_vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Assign rows to the next products' vectors (n, d). Returns which of them (n,) are the first of their row."""
        before = len(self._rows)
        digests = (hashlib.blake2b(vector.data, digest_size=16).digest() for vector in unit_vectors)
        rows = np.fromiter((self._rows.setdefault(each, len(self._rows)) for each in digests), np.int64)
        self._row_of_product.append(rows)
        return np.diff(np.maximum.accumulate(np.append(before - 1, rows))) > 0

    def groups(self) -> RowGroups:
        return RowGroups.of_rows(np.concatenate([np.empty(0, np.int64), *self._row_of_product]), len(self._rows))


def order_rows(rows: NDArray[np.int64], scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the first `count` of each query's rows (n, m), as sort keys in order; a row of -1 comes last."""
    keys = _key(to_millionths(scores), rows)
    keys[rows < 0] = NOTHING
    if count < keys.shape[1]:
        keys.partition(count - 1, axis=1)
        keys = keys[:, :count]
    keys.sort(axis=1)
    return keys


def rank(row_keys: NDArray[np.int64], groups: RowGroups, k: int, holds: Holds | None = None) -> NDArray[np.int64]:
    """Return the k first products of rows in order (n, m), of which m is at least k or all, as sort keys (n, k).

    Where some products do not match, each of the rows has one that does.
    """
    if groups.row_count == groups.product_count:
        return row_keys[:, :k] if groups.is_one_to_one else _renumbered(row_keys[:, :k], groups.products)
    found = row_keys != NOTHING
    rows, millionths = np.where(found, positions_of(row_keys), 0), UNITS - (row_keys >> _POSITION_BITS)
    if holds:
        groups, rows = groups.matching(rows, holds)
    sizes = np.where(found, groups.starts[rows + 1] - groups.starts[rows], 0).astype(np.int64)
    sizes = np.minimum(sizes, k)  # one row's products share one score, so only its first k can count
    sizes[millionths < _lowest_needed(millionths, sizes, k)] = 0
    keys = _product_keys(groups, rows, millionths, sizes, k)
    keys.sort(axis=1)
    return keys[:, :k]


def _renumbered(keys: NDArray[np.int64], numbers: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return keys with other numbers in the place of theirs, which rise as theirs do."""
    found = keys != NOTHING
    old = np.where(found, positions_of(keys), 0)
    return np.where(found, keys - old + numbers[old], NOTHING)


def rank_all(millionths: NDArray[np.int64], groups: RowGroups, k: int) -> NDArray[np.int64]:
    """Return the k first of all products, from the scores of all rows (row_count,), as sort keys (k,).

    k is at least 1.
    """
    keys = _key(np.repeat(millionths, np.diff(groups.starts)), groups.products)
    return np.sort(np.partition(keys, k - 1)[:k])


def may_tie(keys: NDArray[np.int64], row_keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell of each query (n,) whether what comes behind the last of its rows may tie with the last product of `keys`.

    Where rows are missing, anything may.
    """
    last = row_keys[:, -1]
    return ((last >> _POSITION_BITS) - (keys[:, -1] >> _POSITION_BITS) <= RANKING_ERROR * UNITS) | (last == NOTHING)


def to_millionths(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return scores as they are compared: within [-1, 1], in whole millionths."""
    millionths = scores * np.float64(UNITS)
    np.minimum(millionths, UNITS, out=millionths)  # np.clip takes several times as long
    np.maximum(millionths, -UNITS, out=millionths)
    return np.rint(millionths).astype(np.int64)


def positions_of(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    return keys & ((1 << _POSITION_BITS) - 1)


def cosines_of(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cosines of the sort keys (2, n, k) of both sides; that of a key for no product is none.

    In whole numbers there is no negative zero, which a score would show.
    """
    return _SIGNS * (UNITS - (keys >> _POSITION_BITS)) / UNITS


def _lowest_needed(millionths: NDArray[np.int64], sizes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the score (n, 1) at which each query has k products; rows below it need not be expanded."""
    reached = sizes.cumsum(axis=1) >= k
    last_needed = np.where(reached.any(axis=1), reached.argmax(axis=1), -1)
    return np.take_along_axis(millionths, last_needed[:, None], axis=1)


def _product_keys(
    groups: RowGroups, rows: NDArray[np.int64], millionths: NDArray[np.int64], sizes: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Return the sort keys of the first `sizes` products of each row, side by side for each query, then padding."""
    ends = sizes.cumsum(axis=1)
    keys = np.full((len(rows), int(ends[:, -1].max(initial=k))), NOTHING)
    counts = sizes.ravel()
    query = np.repeat(np.arange(len(rows)).repeat(rows.shape[1]), counts)
    within_row = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    column = np.repeat((ends - sizes).ravel(), counts) + within_row
    first = groups.starts[rows].astype(np.int64)
    products = groups.products[np.repeat(first.ravel(), counts) + within_row]
    keys[query, column] = _key(np.repeat(millionths.ravel(), counts), products)
    return keys


def _key(millionths: NDArray[np.int64], positions: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return keys that sort by falling score, then by rising position."""
    keys = UNITS - millionths
    keys <<= _POSITION_BITS
    keys |= positions
    return keys
