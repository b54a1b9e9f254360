"""Connections that do nothing cost little, and make room for those that ask."""

import resource
import socket
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from tests.faults.conftest import Publish, requests_to
from tests.support.server import serving
from tests.support.watched import health, watched, workers

MAX_CONNECTIONS = 1000


def idle_connections(root: Path, publish: Publish, count: int) -> None:
    [request] = requests_to(root, publish(0), users=1)
    with serving(root) as server, ExitStack() as stack:
        seconds = []
        for _ in range(2):
            connections = [stack.enter_context(server.raw()) for _ in range(count // 2)]
            with watched(server) as seen:
                for _ in range(100):
                    began = time.monotonic()
                    assert server.send("POST", request.path, request.body, {}).status == 200
                    seconds.append(time.monotonic() - began)
        assert is_open(connections[-1])
    seen.report("idle connections", connections=count, infer_median_ms=round(median(seconds) * 1e3, 1))


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_idle_connections_cost_little(root: Path, publish: Publish) -> None:
    idle_connections(root, publish, count=800)


@pytest.mark.soak
def test_five_thousand_idle_connections(root: Path, publish: Publish) -> None:
    idle_connections(root, publish, count=5000)


@pytest.mark.slow
def test_idle_connections_make_room_for_new_ones_oldest_first(root: Path, publish: Publish) -> None:
    publish(0)
    with serving(root) as server, ExitStack() as stack:
        connections = []
        for _ in range(MAX_CONNECTIONS + 100):
            connection = stack.enter_context(server.raw())
            connections.append(connection)
        assert health(server).status == 200
        states = [is_open(connection) for connection in connections]
    assert states[0] is False
    assert states[200:] == [True] * (len(states) - 200)


@pytest.mark.slow
def test_with_few_descriptors_few_connections_are_served(
    root: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(0)
    with serving(root) as server, ExitStack() as stack:
        [worker] = workers(server)
        before = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    monkeypatch.setattr(subprocess, "Popen", partial(subprocess.Popen, preexec_fn=partial(limit_files, before + 60)))
    with serving(root) as server, ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(server.raw())
        assert health(server).status == 200


def limit_files(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


@pytest.mark.slow
def test_an_idle_connection_is_closed_in_time(root: Path, publish: Publish) -> None:
    publish(0)
    with serving(root, RECO_KEEP_ALIVE_SECONDS="1") as server, server.raw() as connection:
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 1 <= time.monotonic() - began < 10
