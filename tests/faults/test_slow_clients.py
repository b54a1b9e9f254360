"""Clients that send a byte now and then, or nothing at all, do not keep others waiting."""

import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import Publish, questions
from tests.faults.test_bounded_waits import batch_body, narrow_connection, post
from tests.support.figures import record
from tests.support.load import load
from tests.support.server import serving
from tests.support.watched import watched

HEAD = b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{"


def slow_clients(root: Path, publish: Publish, count: int, seconds: float) -> None:
    queries = questions(root, publish(0))
    with serving(root, RECO_WORKERS="2") as server:
        with load(server.port, queries, 4) as alone:
            time.sleep(seconds / 2)
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(count)]
        try:
            for number, connection in enumerate(slow):
                connection.sendall(HEAD if number % 2 else HEAD[: number % len(HEAD)])
            with load(server.port, queries, 4) as beside:
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    for connection in slow:
                        connection.sendall(b" ")
                    time.sleep(1)
        finally:
            for connection in slow:
                connection.close()
    assert (alone.failed, beside.failed) == ({}, {})
    assert set(beside.answered) == {"200"}
    p99 = [float(np.quantile(seen.latencies, 0.99)) * 1e3 for seen in (alone, beside)]
    record("slow clients", slow=count, p99_alone_ms=round(p99[0], 1), p99_beside_ms=round(p99[1], 1))


def test_slow_clients_do_not_keep_others_from_their_answers(root: Path, publish: Publish) -> None:
    slow_clients(root, publish, count=100, seconds=2)


@pytest.mark.soak
def test_clients_that_take_their_answers_by_drops(root: Path, publish: Publish) -> None:
    publish(0)
    batch = post("/batch", batch_body(800, 200))
    with serving(root, RECO_WORKERS="2") as server, ExitStack() as stack, watched(server) as seen:
        readers = [stack.enter_context(narrow_connection(server)) for _ in range(200)]
        for reader in readers:
            reader.sendall(batch)
            reader.setblocking(False)
        until = time.monotonic() + 40
        while time.monotonic() < until:
            for reader in readers:
                with suppress(OSError):
                    reader.recv(100)
            time.sleep(0.2)
    seen.report("clients that read by drops", clients=200)


@pytest.mark.soak
def test_five_hundred_slow_clients(root: Path, publish: Publish) -> None:
    slow_clients(root, publish, count=500, seconds=20)
