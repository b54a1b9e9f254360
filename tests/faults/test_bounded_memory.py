"""Requests that never come whole, and answers that nobody takes, stay within a worker's budget of memory."""

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import repeat
from pathlib import Path

import pytest

from tests.faults.conftest import PRODUCTS, Publish, batch_body
from tests.support.api import check_problem
from tests.support.raw_http import narrow_connection, post
from tests.support.server import SECONDS, Server, answer_on, serving
from tests.support.watched import SPARE_MB, peak_megabytes, watched, workers

MEGABYTE = 2**20
BUDGET_MB, BODY_MB = 64, 16


def head(length: int) -> bytes:
    return b"POST /batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length


def send_unfinished_body(connection: socket.socket, megabytes: int) -> None:
    with suppress(OSError):
        connection.sendall(head(megabytes * MEGABYTE))
        for _ in range(megabytes - 1):
            connection.sendall(b" " * MEGABYTE)


def send_unfinished_bodies(connections: list[socket.socket], megabytes: int) -> None:
    with ThreadPoolExecutor(len(connections)) as executor:
        list(executor.map(send_unfinished_body, connections, repeat(megabytes)))


def unfinished_bodies(root: Path, publish: Publish, clients: int, body_mb: int, budget_mb: int) -> None:
    publish(0)
    settings = {"RECO_MEMORY_MB": str(budget_mb), "RECO_MAX_BODY_MB": str(body_mb)}
    with serving(root, **settings) as server, watched(server) as seen, ExitStack() as stack:
        send_unfinished_bodies([stack.enter_context(server.raw()) for _ in range(clients)], body_mb)
        assert server.send("POST", "/batch", batch_body(3, 3), {}).status == 200
    seen.report("unfinished bodies", clients=clients)


@pytest.mark.slow
def test_bodies_that_never_come_whole_stay_within_the_budget(root: Path, publish: Publish) -> None:
    unfinished_bodies(root, publish, clients=24, body_mb=BODY_MB, budget_mb=BUDGET_MB)


@pytest.mark.soak
def test_forty_bodies_of_64_mb_without_a_key_are_hardly_held(root: Path, publish: Publish) -> None:
    publish(0)
    settings, headers = {"RECO_API_KEYS": "secret", "RECO_MAX_IN_FLIGHT": "8"}, {"Authorization": "Bearer secret"}
    with serving(root, **settings) as server, watched(server, **headers) as seen, ExitStack() as stack:
        send_unfinished_bodies([stack.enter_context(server.raw()) for _ in range(40)], 64)
        time.sleep(2)
    seen.report("unfinished bodies without a key", clients=40, max_grown_mb=100)


@pytest.mark.soak
def test_forty_bodies_of_64_mb_stay_within_the_budget(root: Path, publish: Publish) -> None:
    unfinished_bodies(root, publish, clients=40, body_mb=64, budget_mb=256)


def test_a_body_that_finds_no_room_is_refused_on_its_headers(root: Path, publish: Publish) -> None:
    publish(0)
    with serving(root, RECO_MEMORY_MB=str(BUDGET_MB), RECO_MAX_BODY_MB=str(BUDGET_MB)) as server, ExitStack() as stack:
        first, second = (stack.enter_context(server.raw()) for _ in range(2))
        send_unfinished_body(first, BUDGET_MB - 8)
        time.sleep(0.5)
        second.sendall(head(32 * MEGABYTE))
        refused = answer_on(second)
        check_problem(refused, 429, "requests and answers take all the memory that they may; try again in 1 s")
        assert refused.headers["Retry-After"] == "1"
        first.sendall(b" " * (MEGABYTE - 2) + b"[]")
        assert answer_on(first).status == 200


def closed(connections: list[socket.socket]) -> int:
    """How many connections the server has closed, whatever it had sent before."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            while connection.recv(MEGABYTE):
                pass
            count += 1
        except BlockingIOError:
            pass
        except OSError:
            count += 1
    return count


@pytest.mark.slow
def test_answers_that_nobody_takes_stay_within_the_budget(root: Path, publish: Publish) -> None:
    publish(0)
    batch = post("/batch", batch_body(800, PRODUCTS))
    with serving(root, RECO_MEMORY_MB=str(2 * BUDGET_MB), RECO_THREADS="1") as server, ExitStack() as stack:
        [worker] = workers(server)
        with server.raw() as one:  # what making an answer takes is not what keeping answers takes
            one.sendall(batch)
            assert len(answer_on(one).body) > 30_000_000
        before = peak_megabytes(worker)
        deaf = [stack.enter_context(narrow_connection(server)) for _ in range(8)]
        for connection in deaf:
            connection.sendall(batch)
        assert answered(server, 9)["/batch"] == 9
        peak = peak_megabytes(worker) - before
        assert peak < 1.2 * 2 * BUDGET_MB + SPARE_MB
        assert server.send("POST", "/batch", batch_body(3, 3), {}).status == 200
        until = time.monotonic() + SECONDS
        while (count := closed(deaf)) < 4 and time.monotonic() < until:  # What was sent before the end comes first.
            time.sleep(0.05)
        assert count >= 4


def answered(server: Server, batches: int) -> Counter[str]:
    """Wait until so many batches have been answered, and return the answers by route."""
    until = time.monotonic() + 60
    while True:
        text = server.send("GET", "/metrics", None, {}).body.decode()
        counts = Counter[str]()
        for line in text.splitlines():
            if line.startswith("reco_requests_total{"):
                counts[line.split('route="')[1].split('"')[0]] += int(float(line.rsplit(" ", 1)[1]))
        if counts["/batch"] >= batches or time.monotonic() > until:
            return counts
        time.sleep(0.1)


@pytest.mark.soak
def test_a_trickle_does_not_keep_a_connection(root: Path, publish: Publish) -> None:
    publish(0)
    with serving(root) as server, server.raw() as connection:
        connection.sendall(head(MEGABYTE))
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < 60:
                connection.sendall(b" " * 10)
                time.sleep(0.1)
        assert 19 < time.monotonic() - began < 30
