"""Tunes an engine: each side gets the quickest settings that reach the recall wanted on tuning users."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.index.contestants import Engine, Rows, Vectors
from benchmarks.index.recall import KS, recall
from benchmarks.index.sources import Users
from retrieval.search.ranking import SIGNS

TARGET = 0.99
_TIMED_USERS = 50
_STRIDE = 4


class Tuned:
    """A contestant that searches the worst side with negated queries, at settings of each side's own."""

    ks = KS[:1]

    def __init__(self, engine: Engine, products: Vectors, users: Users):
        self._engine, self.label = engine, engine.label
        chosen = {side: _tune(engine, side, products, users) for side in SIGNS}
        self._settings = {side: settings for side, (settings, _) in chosen.items()}
        self.reaches = all(reaches for _, reaches in chosen.values())
        self.settings = " / ".join(map(str, self._settings.values()))
        with tempfile.TemporaryDirectory() as name:
            more = engine.save(Path(name))
            self.size_bytes = more + sum(file.stat().st_size for file in Path(name).rglob("*"))

    def search(self, user: Vectors, k: int) -> tuple[Rows, Rows]:
        find, settings = self._engine.find, self._settings
        return find(user, k, settings["best"]), find(-user, k, settings["worst"])


def _tune(engine: Engine, side: str, products: Vectors, users: Users) -> tuple[Any, bool]:
    """Return the quickest settings of all ladders that reach the target, or else the dearest ones; and whether."""
    queries = np.float32(SIGNS[side]) * users.vectors
    firsts = [
        _first_reaching(engine, ladder, queries, users.kth_scores[side][:, 0], products) for ladder in engine.ladders
    ]
    reaching = [settings for settings in firsts if settings is not None]
    if not reaching:
        return engine.ladders[-1][-1], False
    return (min(reaching, key=lambda each: _seconds(engine, queries, each)) if reaching[1:] else reaching[0]), True


def _first_reaching(
    engine: Engine, ladder: Sequence[Any], queries: Vectors, kth_scores: Vectors, products: Vectors
) -> Any:
    """Return the lowest settings of a ladder that reach the target; None where the highest do not.

    Strides come first, then single rungs: the highest settings of a graph take as long as all others together.
    """

    def reaches(settings: Any) -> bool:
        return recall(products, queries, engine.find(queries, KS[0], settings), kth_scores) >= TARGET

    landings = range(_STRIDE, len(ladder) + _STRIDE, _STRIDE)
    landing = next((end for end in landings if reaches(ladder[min(end, len(ladder)) - 1])), None)
    if landing is None:
        return None
    stride = ladder[landing - _STRIDE : landing]
    return next((settings for settings in stride[:-1] if reaches(settings)), stride[-1])


def _seconds(engine: Engine, queries: Vectors, settings: Any) -> float:
    """Return the median processor time of one query on one thread."""
    times = []
    with threadpool_limits(1):
        for i in range(_TIMED_USERS):
            began = time.thread_time()
            engine.find(queries[i : i + 1], KS[0], settings)
            times.append(time.thread_time() - began)
    return median(times)
