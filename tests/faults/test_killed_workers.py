"""kill -9 of workers under load: only what a worker had in hand is lost, and it is soon back."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Publish, requests_to
from tests.support.figures import record
from tests.support.load import load
from tests.support.server import SECONDS, serving
from tests.support.watched import workers

INFER_REQUESTS = 'reco_requests_total{route="/infer"'


def has_build_open(worker: int) -> bool:
    try:
        return "best.faiss" in Path(f"/proc/{worker}/maps").read_text()
    except OSError:
        return False


def kill_under_load(root: Path, publish: Publish, kills: int, connections: int) -> None:
    queries = requests_to(root, publish(0))
    slowest = 0.0
    with serving(root, RECO_WORKERS="2") as server, load(server.port, queries, connections) as seen:
        time.sleep(0.5)
        for number in range(kills):
            if number:
                time.sleep(1.1)  # a worker that dies within its first second waits before it is started again
            victim = workers(server)[number % 2]
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            while True:
                now = workers(server)
                if victim not in now and len(now) == 2 and all(map(has_build_open, now)):
                    break
                assert time.monotonic() - began < SECONDS, "".join(server.log)
                time.sleep(0.02)
            slowest = max(slowest, time.monotonic() - began)
        assert len([line for line in server.log if "is started again" in line]) == kills
    assert set(seen.answered) == {"200"}
    assert "wrong answer" not in seen.failed
    assert sum(seen.failed.values()) <= kills * connections, seen.failed
    assert sum(seen.answered.values()) > 20 * kills
    record(
        "workers killed under load",
        kills=kills,
        connections=connections,
        answered=sum(seen.answered.values()),
        failed=sum(seen.failed.values()),
        slowest_return_seconds=round(slowest, 2),
    )


def test_a_killed_worker_costs_only_its_own_requests(root: Path, publish: Publish) -> None:
    kill_under_load(root, publish, kills=2, connections=8)


@pytest.mark.soak
def test_twenty_killed_workers_cost_only_their_own_requests(root: Path, publish: Publish) -> None:
    kill_under_load(root, publish, kills=20, connections=16)


def test_workers_end_when_their_supervisor_is_killed(root: Path, publish: Publish) -> None:
    publish(0)
    orphans: list[int] = []

    def serve_and_kill() -> None:
        with serving(root, RECO_WORKERS="2") as server:
            orphans.extend(workers(server))
            server.process.kill()
            until = time.monotonic() + SECONDS
            while any(Path(f"/proc/{orphan}/maps").exists() for orphan in orphans):
                assert time.monotonic() < until, "orphans live on"
                time.sleep(0.05)

    # `serving` complains that the server has not ended with exit code 0, and shows its log
    with pytest.raises(AssertionError, match="serving build"):
        serve_and_kill()
    assert len(orphans) == 2


def metrics_directory(worker: int) -> Path:
    variables = Path(f"/proc/{worker}/environ").read_text().split("\0")
    [directory] = [text.partition("=")[2] for text in variables if text.startswith("PROMETHEUS_MULTIPROC_DIR=")]
    return Path(directory)


def count_on(root: Path, publish: Publish, kills: int) -> None:
    """Kill a worker again and again: the others' files and its own are all there is to count with."""
    [request] = requests_to(root, publish(0), users=1)
    with serving(root, RECO_WORKERS="2") as server:

        def requests_counted() -> float:
            lines = server.send("GET", "/metrics", None, {}).body.decode().splitlines()
            return sum(
                float(line.split()[-1]) for line in lines if line.startswith('reco_requests_total{route="/infer')
            )

        files = metrics_directory(workers(server)[0])
        for number in range(kills):
            assert server.send("POST", "/infer", request.body, {}).status == 200
            victim = workers(server)[-1]
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            while not (victim not in workers(server) and len(workers(server)) == 2):
                assert time.monotonic() - began < SECONDS, "".join(server.log)
                time.sleep(0.05)
            while not all(map(has_build_open, workers(server))):
                time.sleep(0.05)
            assert requests_counted() == number + 1
        kinds = {path.name.rpartition("_")[0] for path in files.iterdir()}
        assert sorted(path.name for path in files.iterdir()) == sorted(
            f"{kind}_{n}.db" for kind in kinds for n in (0, 1)
        )
        began = time.monotonic()
        requests_counted()
        scrape_ms = (time.monotonic() - began) * 1e3
        record("counters of killed workers", kills=kills, files=2 * len(kinds), scrape_ms=round(scrape_ms, 1))


@pytest.mark.slow
def test_counters_of_killed_workers_go_on_in_the_same_files(root: Path, publish: Publish) -> None:
    count_on(root, publish, kills=3)


@pytest.mark.soak
def test_counters_of_sixty_killed_workers_go_on_in_the_same_files(root: Path, publish: Publish) -> None:
    count_on(root, publish, kills=60)
