"""Recall: the share of the exact k best (or worst) products that an index finds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.manifest import RecallAtK
from retrieval.records.vector_file import VectorFile
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, SIGNS, TOLERANCE, RowGroups

K, LARGE_K = 10, 100
MAX_SCORES = 2**22  # computed at a time, which bounds the memory
_ONE_SIDED_95_PERCENT = 1.645

UserRecall = dict[str, list[NDArray[np.floating]]]  # by side: the recall of each user (u,), at each k
TopRows = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores and rows (u, m) for each user, the highest first


@dataclass(frozen=True)
class Panel:
    """Users (u, d) of a catalogue with its exact answers: the top rows of each side, the worst side's scores negated.

    Scores are computed from the catalogue's vectors: an index may keep them with less precision, and be wrong.
    """

    vectors: VectorFile
    users: NDArray[np.float32]
    exact: dict[str, TopRows]

    @classmethod
    def of(cls, vectors: VectorFile, users: NDArray[np.float32], depth: int = LARGE_K) -> Self:
        return cls(vectors, users, exact_top_rows(vectors, users, depth))

    def __add__(self, other: "Panel") -> "Panel":
        exact = {
            side: (np.concatenate([scores, other.exact[side][0]]), np.concatenate([rows, other.exact[side][1]]))
            for side, (scores, rows) in self.exact.items()
        }
        return Panel(self.vectors, np.concatenate([self.users, other.users]), exact)

    def queries(self, side: str) -> NDArray[np.float32]:
        """Return the users as an index of highest inner products is asked for this side."""
        return np.float32(SIGNS[side]) * self.users

    def scores(self, side: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores (u, m) of each user's query with rows of its own (u, m); row -1 scores minus infinity."""
        queries, rows, scores = self.queries(side), np.ascontiguousarray(rows), np.empty(rows.shape, np.float32)
        query, row, score = (faiss.swig_ptr(each) for each in (queries, rows, scores))
        vectors, (users, count) = faiss.swig_ptr(self.vectors.mapped()), rows.shape
        faiss.fvec_inner_products_by_idx(score, query, vectors, row, self.vectors.dimension, users, count)
        return scores


def exact_top_rows(vectors: VectorFile, users: NDArray[np.float32], k: int) -> dict[str, TopRows]:
    """Compare every user (u, d) with every row, and keep the k highest of each side, or all there are.

    The worst side's scores are negated.
    """
    heaps = {side: Heaps(len(users), min(k, vectors.rows)) for side in SIDES}
    rows_at_once, start = max(1, MAX_SCORES // len(users)), 0
    for block in vectors.blocks():
        for first in range(0, len(block), rows_at_once):
            scores = users @ block[first : first + rows_at_once].T
            for of_side in heaps.values():
                of_side.add(scores, start + first)
                np.negative(scores, out=scores)
        start += len(block)
    return {side: of_side.sorted() for side, of_side in heaps.items()}


def measure(
    index: ProductIndex, groups: RowGroups, panel: Panel, ks: Sequence[int] = (K, LARGE_K)
) -> dict[str, list[RecallAtK]]:
    """Search both sides for the users of a panel and compare what is found with the exact answers."""
    return summarised(recall_of_users(index, groups, panel, ks), ks)


def recall_of_users(
    index: ProductIndex, groups: RowGroups, panel: Panel, ks: Sequence[int] = (K, LARGE_K)
) -> UserRecall:
    """Return what `measure` summarises."""
    recall: UserRecall = {side: [] for side in SIDES}
    for k in ks:
        for side, found in zip(SIDES, index.search(panel.users, k), strict=True):
            exact_scores, exact_rows = panel.exact[side]
            rows = index.groups.row_of(found.positions)
            kth_scores = _kth_scores(exact_scores, exact_rows, groups, k)
            count = max(rows.shape[1], min(k, panel.vectors.rows))
            recall[side].append(_reached_shares(panel.scores(side, rows), kth_scores, count))
    return recall


def summarised(recall: UserRecall, ks: Sequence[int] = (K, LARGE_K)) -> dict[str, list[RecallAtK]]:
    """Return the mean and lower bound of each side's recall at each k."""
    return {side: [summarise(at_k, k) for at_k, k in zip(of_side, ks, strict=True)] for side, of_side in recall.items()}


def joined(recall: UserRecall, other: UserRecall) -> UserRecall:
    """Return the recall of the users of both."""
    return {side: [np.concatenate(each) for each in zip(recall[side], other[side], strict=True)] for side in recall}


def recall_at_k(scores: NDArray[np.floating], kth_scores: NDArray[np.float32], count: int, k: int) -> RecallAtK:
    """Return how many of `count` products each user's scores (u, m) reach the exact k-th (u, 1) with."""
    return summarise(_reached_shares(scores, kth_scores, count), k)


def _reached_shares(scores: NDArray[np.floating], kth_scores: NDArray[np.float32], count: int) -> NDArray[np.floating]:
    reached = (scores >= kth_scores - TOLERANCE).sum(axis=1)
    return np.minimum(reached, count) / count


def summarise(recall_of_user: NDArray[np.floating], k: int) -> RecallAtK:
    """Return mean and lower bound of the recall of users (u,).

    One imagined user who misses a product keeps the bound below 1 where every user found everything.
    """
    padded = np.append(recall_of_user, 1.0 - 1.0 / k)
    error = float(padded.std(ddof=1)) / math.sqrt(len(padded))
    bound = max(0.0, float(padded.mean()) - _ONE_SIDED_95_PERCENT * error)
    return RecallAtK(k, len(recall_of_user), float(recall_of_user.mean()), bound)


class Heaps:
    """The k highest scores, and their rows, that some users have been given so far."""

    def __init__(self, users: int, k: int):
        self._scores, self._rows = np.empty((users, k), np.float32), np.empty((users, k), np.int64)
        self._heaps = faiss.float_minheap_array_t()
        self._heaps.nh, self._heaps.k = users, k
        self._heaps.val, self._heaps.ids = faiss.swig_ptr(self._scores), faiss.swig_ptr(self._rows)
        self._heaps.heapify()

    def add(self, scores: NDArray[np.float32], start: int) -> None:
        """Add the scores (u, m) of rows from `start` on."""
        self._heaps.addn(scores.shape[1], faiss.swig_ptr(scores), start)

    def sorted(self) -> TopRows:
        """Return scores and rows (u, k), the highest first; nothing can be added later."""
        self._heaps.reorder()
        return self._scores, self._rows


def _kth_scores(scores: NDArray[np.float32], rows: NDArray[np.int64], groups: RowGroups, k: int) -> NDArray[np.float32]:
    """Return the score (u, 1) of each user's k-th product, or of the last one, of the top rows (u, m)."""
    products = (groups.starts[rows + 1] - groups.starts[rows]).cumsum(axis=1)
    columns = np.minimum((products < k).sum(axis=1, keepdims=True), rows.shape[1] - 1)
    return np.take_along_axis(scores, columns, axis=1)
