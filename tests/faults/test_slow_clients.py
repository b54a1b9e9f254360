"""Clients that send a byte now and then, or nothing at all, do not keep others waiting."""

import socket
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import Publish, requests_to
from tests.support.figures import record
from tests.support.load import load
from tests.support.server import serving

HEAD = b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{"


def slow_clients(root: Path, publish: Publish, count: int, seconds: float) -> None:
    queries = requests_to(root, publish(0))
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
def test_five_hundred_slow_clients(root: Path, publish: Publish) -> None:
    slow_clients(root, publish, count=500, seconds=20)
