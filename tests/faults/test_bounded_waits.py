"""No client makes the event loop or a thread wait for it: not by what it pipelines, and not by never reading."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.conftest import DIMENSION, PRODUCTS, Publish
from tests.support.server import Server, serving
from tests.support.watched import health, watched

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def batch_body(users: int, k: int) -> bytes:
    vectors = np.random.default_rng(3).integers(-9, 9, (users, DIMENSION)) + 0
    return json.dumps(
        [{"name": "u", "vector": row.tolist(), "k": k} for row in vectors], separators=(",", ":")
    ).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answers_on(connection: socket.socket) -> Iterator[Any]:
    """The JSON of one answer after another."""
    with connection.makefile("rb") as received:
        while line := received.readline():
            length = 0
            while line.strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
                line = received.readline()
            yield json.loads(received.read(length) or "null")


def narrow_connection(server: Server) -> socket.socket:
    """A connection whose client's kernel takes little that the client does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    return connection


def test_a_request_behind_a_large_answer_stops_nobody(root: Path, publish: Publish) -> None:
    publish(0)
    batch = post("/batch", batch_body(500, PRODUCTS))
    assert len(batch) < 128 * 1024
    with serving(root, RECO_WORKERS="2") as server, ExitStack() as stack:
        pipelining = [stack.enter_context(server.raw()) for _ in range(2)]
        for connection in pipelining:
            connection.sendall(batch + GET)
        for _ in range(10):
            assert health(server).status == 200
            time.sleep(0.1)
        for connection in pipelining:
            answers = answers_on(connection)
            assert len(next(answers)) == 500
            assert next(answers) == {"status": "live"}


@pytest.mark.slow
def test_pipelined_requests_are_answered_in_their_order(root: Path, publish: Publish) -> None:
    publish(0)
    sizes = [1, 300, 2, 1, 40]
    with serving(root) as server, server.raw() as connection:
        connection.sendall(b"\r\n".join([*(post("/batch", batch_body(size, 3)) for size in sizes), GET]))
        answers = answers_on(connection)
        assert [len(next(answers)) for _ in sizes] == sizes
        assert next(answers) == {"status": "live"}


def never_read(root: Path, publish: Publish, clients: int, seconds: float, batches: int) -> None:
    publish(0)
    batch = post("/batch", batch_body(1500, 200))
    with serving(root, RECO_THREADS="2") as server, ExitStack() as stack:
        deaf = [stack.enter_context(narrow_connection(server)) for _ in range(clients)]
        with watched(server) as seen:
            for connection in deaf:
                connection.sendall(batch)
            time.sleep(seconds)
            honest = [server.send("POST", "/batch", batch_body(100, 10), {}).status for _ in range(batches)]
    assert honest == [200] * batches
    seen.report("clients that never read", clients=clients)


@pytest.mark.slow
def test_clients_that_never_read_keep_no_thread(root: Path, publish: Publish) -> None:
    never_read(root, publish, clients=12, seconds=2, batches=6)


@pytest.mark.soak
def test_five_hundred_clients_that_never_read(root: Path, publish: Publish) -> None:
    never_read(root, publish, clients=500, seconds=30, batches=0)  # They would wait for those of all others.


@pytest.mark.slow
def test_a_client_that_expects_to_continue_is_told_to_once(root: Path, publish: Publish) -> None:
    publish(0)
    body = batch_body(1, 3)
    request = post("/batch", body, "Expect: 100-continue")
    head = request[: -len(body)]
    with serving(root) as server, server.raw() as connection:
        answers = answers_on(connection)
        connection.sendall(GET + head)
        assert next(answers) == {"status": "live"}
        assert next(answers) is None  # 100 Continue
        connection.sendall(body + GET.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert len(next(answers)) == 1
        assert next(answers) == {"status": "live"}
