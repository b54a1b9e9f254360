"""SIGTERM under load: no request is lost, and no answer cut off."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import Publish, batch_body, requests_to
from tests.support.figures import record
from tests.support.load import load
from tests.support.raw_http import narrow_connection, post
from tests.support.server import serving
from tests.support.watched import workers


def stop_under_load(root: Path, publish: Publish, stops: int, connections: int) -> None:
    build_id = publish(0)
    small = requests_to(root, build_id)
    large = requests_to(root, build_id, users_at_once=200, k=500)  # answers of several megabytes
    answered, slowest = 0, 0.0
    for _ in range(stops):
        with serving(root, RECO_WORKERS="2", RECO_DRAIN_SECONDS="1") as server:
            with load(server.port, small, connections) as quick, load(server.port, large, 4, slow_readers=True) as slow:
                time.sleep(0.7)
                before = sum(quick.answered.values())
                began = time.monotonic()
                assert server.stop() == 0
                slowest = max(slowest, time.monotonic() - began)
                after = sum(quick.answered.values())
            assert (quick.failed, slow.failed) == ({}, {})
            assert set(quick.answered) | set(slow.answered) == {"200"}
            assert after > before, "nothing was answered while draining"
            assert sum(slow.answered.values()) >= 4
            answered += sum((quick.answered + slow.answered).values())
    facts = {"connections": connections + 4, "drain_seconds": 1, "slowest_stop_seconds": round(slowest, 1)}
    record("stop under load", stops=stops, **facts, answered=answered, lost=0)
    assert slowest < 1 + 11


def test_no_answer_is_lost_when_the_server_stops(root: Path, publish: Publish) -> None:
    stop_under_load(root, publish, stops=1, connections=16)


@pytest.mark.soak
def test_no_answer_is_lost_in_twenty_stops_under_sixty_four_connections(root: Path, publish: Publish) -> None:
    stop_under_load(root, publish, stops=20, connections=60)


@pytest.mark.soak
def test_a_stop_does_not_wait_for_clients_that_never_read(root: Path, publish: Publish) -> None:
    publish(0)
    batch = post("/batch", batch_body(1500, 200))
    with serving(root, RECO_WORKERS="2", RECO_DRAIN_SECONDS="1") as server, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(narrow_connection(server)).sendall(batch)
        time.sleep(5)
        began = time.monotonic()
        assert server.stop() == 0
        seconds = time.monotonic() - began
    record("stop beside clients that never read", clients=40, drain_seconds=1, stop_seconds=round(seconds, 1))
    assert seconds < 1 + 11


def test_a_draining_server_says_so_and_closes_its_connections(root: Path, publish: Publish) -> None:
    [request] = requests_to(root, publish(0), users=1)
    with serving(root, RECO_DRAIN_SECONDS="2") as server:
        assert server.send("GET", "/health/ready", None, {}).status == 200
        server.process.terminate()
        time.sleep(0.5)
        ready, live = (server.send("GET", f"/health/{name}", None, {}) for name in ("ready", "live"))
        assert (ready.status, ready.json["detail"]) == (503, "the service is stopping")
        answer = server.send("POST", "/infer", request.body, {})
        assert (live.status, answer.status, answer.body) == (200, 200, next(iter(request.answers.values())))
        assert {each.headers["Connection"] for each in (ready, live, answer)} == {"close"}
        assert server.process.wait(10) == 0


def test_a_second_signal_stops_at_once(root: Path, publish: Publish) -> None:
    publish(0)
    with serving(root, RECO_DRAIN_SECONDS="60") as server:
        server.process.terminate()
        time.sleep(0.3)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("drain_seconds", [0, 2])
@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_worker_that_hangs(root: Path, publish: Publish, drain_seconds: int) -> None:
    publish(0)
    with serving(root, RECO_WORKERS="2", RECO_DRAIN_SECONDS=str(drain_seconds), RECO_WATCHDOG_SECONDS="0") as server:
        hung = workers(server)
        for worker in hung:
            os.kill(worker, signal.SIGSTOP)
        began = time.monotonic()
        assert server.stop() == 0
        assert drain_seconds + 9 < time.monotonic() - began < drain_seconds + 11
        assert not any(Path(f"/proc/{worker}/maps").exists() for worker in hung)
    assert any("stopped 2 workers that had not ended in 10 s" in line for line in server.log)
