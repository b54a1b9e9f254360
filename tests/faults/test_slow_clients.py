"""Clients that send a byte now and then, or nothing at all, do not keep others waiting."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from service.recommender import Recommender
from service.settings import Settings
from service.workers.connections import channel
from tests.faults.conftest import Publish, batch_body, requests_to
from tests.support.fake_engine import EAST, compass
from tests.support.figures import record
from tests.support.load import load
from tests.support.raw_http import GET_LIVE, narrow_connection, post
from tests.support.server import answer_on, serving
from tests.support.threaded_server import threaded_server
from tests.support.watched import watched

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


def closed_after(connection: socket.socket, send: Callable[[], object], most_seconds: float) -> float:
    """Send again and again, read nothing, and return after how many seconds the server had closed the connection."""
    began = time.monotonic()
    while time.monotonic() - began < most_seconds:
        try:
            send()
        except OSError:
            break
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.slow
def test_a_body_that_comes_just_fast_enough_has_to_come_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_MAX_REQUEST_SECONDS", 2)
    with threaded_server(Recommender(compass()), Settings()) as server, server.connection() as connection:
        connection.sendall(HEAD)
        assert 1.5 < closed_after(connection, lambda: connection.sendall(b" " * 1000), 10) < 9


@pytest.mark.slow
def test_a_client_that_asks_on_and_on_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_MAX_REQUEST_SECONDS", 1)
    with threaded_server(Recommender(compass()), Settings()) as server, server.connection() as connection:

        def ask() -> None:
            connection.sendall(GET_LIVE[:20])
            time.sleep(0.2)
            connection.sendall(GET_LIVE[20:] + GET_LIVE[:20])
            assert answer_on(connection).status == 200
            connection.sendall(GET_LIVE[20:])
            assert answer_on(connection).status == 200

        assert closed_after(connection, ask, 4) >= 4


@pytest.mark.slow
def test_a_client_that_takes_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_RATE_SECONDS", 1)
    users = [{"name": "n" * 2000, "vector": EAST}] * 5000
    batch = post("/batch", json.dumps(users).encode())
    with threaded_server(Recommender(compass()), Settings()) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(server.address)
        connection.sendall(batch)
        assert connection.recv(1)
        server.other_count.report(0)  # A server whose count is the lowest then has no connection either.
        assert not server.open_count.is_lowest
        until = time.monotonic() + 10
        while not server.open_count.is_lowest:
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.slow
def test_a_half_closed_connection_ends_whatever_its_client_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_MAX_LINGERING_SECONDS", 1)
    monkeypatch.setattr(channel, "ioctl", lambda *_: (1).to_bytes(4, "little"))  # a kernel that cannot send the rest
    with threaded_server(Recommender(compass()), Settings()) as server, server.connection() as connection:
        connection.sendall(GET_LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer_on(connection).status == 200
        assert 0.5 < closed_after(connection, lambda: connection.sendall(b" "), 10) < 9


@pytest.mark.soak
def test_clients_that_take_their_answers_by_drops(root: Path, publish: Publish) -> None:
    publish(0)
    batch = post("/batch", batch_body(800, 200))
    with serving(root, RECO_WORKERS="2") as server, ExitStack() as stack:
        readers = [stack.enter_context(narrow_connection(server)) for _ in range(200)]
        with watched(server) as seen:
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
