"""One delta a second while wrk keeps a service busy, against the same without deltas, in turns."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.processes import Service
from benchmarks.serve import Load, wrk
from benchmarks.updates.changes import Changes
from benchmarks.updates.freshness import run_builder
from retrieval.artifact.durable import replace_text
from retrieval.artifact.store import CURRENT, current_build_id

ROUNDS, SECONDS, CONNECTIONS = 3, 20, 16
CHANGES_PER_DELTA = 100

Publish = Callable[[], object]


def elsewhere(root: Path, changes: Changes) -> list[Publish]:
    """Build all deltas now, and return what makes each of them current, as if it came from another machine."""
    before, build_ids = current_build_id(root), []
    for _ in range(ROUNDS * SECONDS):
        _build(root, changes.write_mixed(CHANGES_PER_DELTA))
        build_ids.append(current_build_id(root))
    _point(root, before)
    return [partial(_point, root, build_id) for build_id in build_ids]


def beside(root: Path, changes: Changes) -> list[Publish]:
    """Return what builds each delta, on the same cores."""
    files = [changes.write_mixed(CHANGES_PER_DELTA) for _ in range(ROUNDS * SECONDS)]
    return [partial(_build, root, file) for file in files]


def measure(service: Service, bodies: Path, publishes: list[Publish]) -> list[str]:
    """Return failed requests, deltas served, and by what deltas multiply the throughput and the p99."""
    quiet: list[Load] = []
    changing: list[Load] = []
    reloads = _reloads(service)
    for turn in range(ROUNDS):
        quiet.append(wrk(service, CONNECTIONS, bodies, SECONDS))
        with _every_second(publishes[turn * SECONDS : (turn + 1) * SECONDS]):
            changing.append(wrk(service, CONNECTIONS, bodies, SECONDS))
    pairs = [*zip(changing, quiet, strict=True)]
    return [
        f"{sum(load.failed for load in changing):.0f}",
        f"{_reloads(service) - reloads:.0f} of {len(publishes)}",
        f"{median(load.per_second for load in quiet):,.0f}",
        f"{median(new.per_second / old.per_second for new, old in pairs):.2f}",
        f"{median(load.p99_ms for load in quiet):.2f}",
        f"{median(new.p99_ms / old.p99_ms for new, old in pairs):.2f}",
    ]


@contextmanager
def _every_second(publishes: list[Publish]) -> Iterator[None]:
    """Publish one after the other from a thread, no sooner than a second after the last, until the block ends."""
    ended = threading.Event()

    def run() -> None:
        due = time.monotonic()
        for publish in publishes:
            if ended.wait(max(0.0, due - time.monotonic())):
                return
            publish()
            due = max(due + 1, time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _build(root: Path, file: Path) -> None:
    with run_builder(root, "--update", file, "--keep", 2 * ROUNDS * SECONDS) as command:
        _, errors = command.communicate()
    assert command.returncode == 0, errors


def _point(root: Path, build_id: str) -> None:
    replace_text(root / CURRENT, f"{build_id}\n")


def _reloads(service: Service) -> float:
    service.connection.close()  # The service may have closed it meanwhile; a request opens it again.
    service.connection.request("GET", "/metrics")
    text = service.connection.getresponse().read().decode()
    found = re.search(r"^reco_reloads_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
