"""What a delta and tombstones make of searches: the same users on a base and on the pair, in turns."""

import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import draw_users
from index_builder.tuning.recall import recall_at_k
from retrieval.artifact.build import Build
from retrieval.artifact.manifest import RecallAtK
from retrieval.artifact.store import open_current
from retrieval.search.index import use_threads
from retrieval.search.ranking import SIDES, SIGNS
from retrieval.vectors import unit_vectors

K, USERS, ROUNDS = 10, 300, 3
_BLOCK_PRODUCTS = 50_000


def compare(root: Path) -> list[str]:
    """Return the milliseconds a user on the base and on the pair, their ratio, and recall of the pair's sides."""
    pair = open_current(root)
    users = unit_vectors(draw_users(USERS, seed=3))
    with threadpool_limits(1):
        use_threads(1)
        taken = in_turns([pair.base, pair], users)
    ratio = median(median(of_pair) / median(of_base) for of_base, of_pair in taken)
    base_ms, pair_ms = (median(median(times) for times in side) * 1e3 for side in zip(*taken, strict=True))
    found = [f"{each.mean:.4f} ({each.lower_bound:.4f})" for each in recall_of(pair, users)]
    return [f"{base_ms:.3f}", f"{pair_ms:.3f}", f"{ratio:.2f}", *found]


def in_turns(builds: list[Build], users: NDArray[np.float32]) -> list[list[list[float]]]:
    """Return the thread's seconds of processor time a user, of each build in each round."""
    for build in builds:
        build.index.warm()
    rounds = []
    for _ in range(ROUNDS):
        times: list[list[float]] = [[] for _ in builds]
        for user in range(len(users)):
            for build, of_build in zip(builds, times, strict=True):
                began = time.thread_time()
                build.index.search(users[user : user + 1], K)
                of_build.append(time.thread_time() - began)
        rounds.append(times)
    return rounds


def recall_of(build: Build, users: NDArray[np.float32]) -> list[RecallAtK]:
    """Return the recall at ten of each side, against exact scores of all products."""
    exact = exact_top(build, users)
    recall = []
    for side, neighbours in zip(SIDES, build.index.search(users, K), strict=True):
        vectors = build.vectors(neighbours.positions.ravel()).reshape(*neighbours.positions.shape, -1)
        found = np.float32(SIGNS[side]) * np.einsum("uqd,ud->uq", vectors, users)
        recall.append(recall_at_k(found, exact[side][:, -1:], K, K))
    return recall


def exact_top(build: Build, users: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the k highest signed scores (u, k) of each side, the highest first."""
    top = {side: np.full((len(users), K), -np.inf, np.float32) for side in SIDES}
    positions = build.products.standing()
    for start in range(0, len(positions), _BLOCK_PRODUCTS):
        scores = users @ build.vectors(positions[start : start + _BLOCK_PRODUCTS]).T
        for side in SIDES:
            both = np.concatenate((top[side], np.float32(SIGNS[side]) * scores), axis=1)
            top[side] = -np.sort(-np.partition(both, -K, axis=1)[:, -K:], axis=1)
    return top
