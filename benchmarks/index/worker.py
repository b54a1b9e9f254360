"""A process of one contestant: builds it, writes its facts, and times it whenever a line comes in.

python -m benchmarks.index.worker CONTESTANT DIRECTORY
"""

import json
import resource
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.index.contestants import CONTESTANTS, RIVAL_NAMES, Contestant, Facts, Vectors
from benchmarks.index.recall import KS, recall
from benchmarks.index.sources import read_products, read_users
from benchmarks.index.tuned import Tuned
from benchmarks.report import answers_only
from retrieval.search.ranking import SIGNS

_TIMED_USERS, _WARMING_USERS = 100, 10
_MAX_TIMED_SECONDS, _MAX_RECALL_SECONDS = 3.0, 30.0
_MIN_USERS = 10


def main(name: str, directory: Path) -> None:
    with answers_only() as answers:
        facts, contestant = prepare(name, directory)
        print(json.dumps(asdict(facts)), file=answers, flush=True)
        users = read_users(directory, "held_out").vectors
        for turn, _ in enumerate(sys.stdin):
            print(json.dumps(take_times(contestant, np.roll(users, -turn * _TIMED_USERS, 0))), file=answers, flush=True)


def prepare(name: str, directory: Path) -> tuple[Facts, Contestant]:
    """Build and tune a contestant, and measure what it finds for held-out users, one by one."""
    _, module, maker = CONTESTANTS[name]
    began = time.perf_counter()
    made = getattr(import_module(module), maker)(directory)
    build_seconds = time.perf_counter() - began
    usage = (resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak_bytes, products = max(usage), read_products(directory)
    is_rival = name in RIVAL_NAMES
    contestant = Tuned(made, products, read_users(directory, "tuning")) if is_rival else made
    with threadpool_limits(1):
        recalls = {str(k): recall_of(contestant, directory, k) for k in contestant.ks}
    sizes = peak_bytes, contestant.size_bytes
    return Facts(contestant.label, contestant.settings, contestant.reaches, build_seconds, *sizes, recalls), contestant


def recall_of(contestant: Contestant, directory: Path, k: int) -> dict[str, float]:
    """Return a side's recall at k, on as many held-out users as half a minute allows."""
    products, users = read_products(directory), read_users(directory, "held_out")
    began, found = time.process_time(), []
    for i in range(len(users.vectors)):
        found.append(contestant.search(users.vectors[i : i + 1], k))
        if i >= _MIN_USERS and time.process_time() - began > _MAX_RECALL_SECONDS:
            break
    answered = len(found)
    return {
        side: recall(
            products,
            np.float32(sign) * users.vectors[:answered],
            np.concatenate(rows),
            users.kth_scores[side][:answered, KS.index(k)],
        )
        for (side, sign), rows in zip(SIGNS.items(), zip(*found, strict=True), strict=True)
    }


def take_times(contestant: Contestant, users: Vectors) -> list[float]:
    """Return the processor seconds of some users' searches of both sides, one user at a time on one thread."""
    times: list[float] = []
    with threadpool_limits(1):
        for i in range(_WARMING_USERS):
            contestant.search(users[-i - 1 :][:1], KS[0])
        for i in range(_TIMED_USERS):
            began = time.thread_time()
            contestant.search(users[i : i + 1], KS[0])
            times.append(time.thread_time() - began)
            if i >= _MIN_USERS and sum(times) > _MAX_TIMED_SECONDS:
                break
    return times


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
