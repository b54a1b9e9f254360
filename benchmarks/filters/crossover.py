"""Where one way to score rows begins to take less time than another: measured here, beside what searches go by."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.filters.cases import K
from benchmarks.index.contestants import Vectors
from benchmarks.report import print_header, print_row
from retrieval.search.candidates import Candidates
from retrieval.search.exact_scan import DENSE_SHARE, nearest_rows
from retrieval.search.filters.masks import Mask, MaskMaker
from retrieval.search.filters.postings import pack
from retrieval.search.ranking import SPARE_NEIGHBOURS, RowGroups, both_sides
from retrieval.search.settings import SCAN_ADVANTAGE
from retrieval.search.stored_vectors import StoredVectors, open_vectors

_ROUNDS, _RANGE_ROWS, _BLOCK_ROWS, _SEED = 25, 20_000, 2**16, 8
_DEPTH = K + SPARE_NEIGHBOURS
_STEPS = np.geomspace(0.25, 4, 7)  # of the value in use


def print_crossovers(candidates: Candidates, vectors: StoredVectors, users: Vectors) -> None:
    """Print the constants that choose the way of a search, in use and measured, for each precision of its vectors."""
    print("\nWhere ways to search take the same time; searches go by the value in use, whatever is measured:\n")
    print_header("constant", "vectors", "in use", "measured")
    for precision, stored in (("single", vectors), ("half", in_half_precision(vectors))):
        for name, in_use, measured in (
            ("codes_per_number", stored.codes_per_number, codes_per_number(candidates, stored, users)),
            ("SCAN_ADVANTAGE", SCAN_ADVANTAGE, scan_advantage(candidates, stored, users)),
            ("DENSE_SHARE", DENSE_SHARE, dense_share(stored, users)),
        ):
            print_row(name, f"{precision} precision", f"{in_use:g}", measured)


def in_half_precision(vectors: StoredVectors) -> StoredVectors:
    index = faiss.IndexScalarQuantizer(vectors.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, vectors.count, _BLOCK_ROWS):
        index.add(vectors.take(np.arange(start, min(start + _BLOCK_ROWS, vectors.count))))
    return open_vectors(index)


def codes_per_number(candidates: Candidates, vectors: StoredVectors, users: Vectors) -> str:
    """Return how many codes are scanned while a number of a picked row is read and scored.

    With it, a search under a mask is estimated to take the same time by candidates and by all rows where it does.
    """
    if not candidates.takes_masks:
        return "none: the kind takes no masks"
    rows = np.arange(vectors.count + 1)
    maker = MaskMaker(RowGroups(rows, rows[:-1]), rows[:-1])
    order = np.random.default_rng(_SEED).permutation(vectors.count)
    guesses, ratios = vectors.codes_per_number * _STEPS, []
    for guess in guesses:
        count = vectors.count // 10
        for _ in range(2):  # The settings of the search depend on how many rows match.
            mask = maker.mask_of(pack(order < count))
            count = min(vectors.count, round(candidates.picked_rows(_DEPTH, mask, guess * vectors.dimension)))
        by_candidates, by_rows = times_of_ways(candidates, vectors, users, _DEPTH, maker.mask_of(pack(order < count)))
        ratios.append(by_rows / by_candidates)
    return crossing(guesses, ratios)


def scan_advantage(candidates: Candidates, vectors: StoredVectors, users: Vectors) -> str:
    """Return by how many rows a candidate there may be until it takes as long to scan all rows."""
    fewest = candidates.count_for(_DEPTH) / _DEPTH
    depths = [max(_DEPTH, round(vectors.count / advantage / fewest)) for advantage in SCAN_ADVANTAGE * _STEPS]
    times = [times_of_ways(candidates, vectors, users, depth) for depth in depths]
    advantages = np.array([vectors.count / candidates.count_for(depth) for depth in depths])
    return crossing(advantages, [by_candidates / by_rows for by_candidates, by_rows in times])


def times_of_ways(
    candidates: Candidates, vectors: StoredVectors, users: Vectors, depth: int, mask: Mask | None = None
) -> list[float]:
    """Return the seconds of finding candidates and scoring these, and of scoring all rows, or those of a mask."""

    def score_candidates(query: Vectors) -> None:
        vectors.score(both_sides(query), candidates.find(query, depth, mask))

    def score_all(query: Vectors) -> None:
        vectors.score(both_sides(query), nearest_rows(vectors, query, K, mask))

    return times_in_turns([score_candidates, score_all], users)


def dense_share(vectors: StoredVectors, users: Vectors) -> str:
    """Return from which share of some consecutive rows on it takes less time to score them all and leave some out."""
    count = min(_RANGE_ROWS, vectors.count)
    order = np.random.default_rng(_SEED).permutation(count)
    shares, ratios = np.linspace(0.3, 1, 8), []
    for share in shares:
        rows = np.flatnonzero(order < share * count)
        by_range, by_rows = times_in_turns(
            [partial(_score_range, vectors, rows), partial(_score_rows, vectors, rows)], users
        )
        ratios.append(by_range / by_rows)
    return crossing(shares, ratios)


def _score_range(vectors: StoredVectors, rows: NDArray[np.int64], query: Vectors) -> Vectors:
    return np.take(vectors.score_range(query, 0, int(rows[-1]) + 1), rows, axis=1)


def _score_rows(vectors: StoredVectors, rows: NDArray[np.int64], query: Vectors) -> Vectors:
    return vectors.score_rows(query, rows)


def crossing(values: NDArray[np.float64], falling: list[float]) -> str:
    """Return at which of rising values a ratio falls to 1."""
    if falling[0] < 1:
        return f"< {values[0]:.2g}"
    if min(falling) > 1:
        return f"> {values[-1]:.2g}"
    after = next(i for i, ratio in enumerate(falling) if ratio <= 1)
    return f"{np.exp(np.interp(0, -np.log(falling[after - 1 : after + 1]), np.log(values[after - 1 : after + 1]))):.2g}"


def times_in_turns(calls: list[Callable[[Vectors], object]], users: Vectors) -> list[float]:
    """Return the median processor seconds of each call, with one user (1, d) after another."""
    taken: list[list[float]] = [[] for _ in calls]
    for user in range(_ROUNDS):
        for call, times in zip(calls, taken, strict=True):
            began = time.thread_time()
            call(users[user : user + 1])
            times.append(time.thread_time() - began)
    return [statistics.median(times) for times in taken]
