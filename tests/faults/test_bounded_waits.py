"""No client makes the event loop or a thread wait for it: not by what it pipelines, and not by never reading."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import PRODUCTS, Publish, batch_body
from tests.support.raw_http import GET_LIVE, answers_on, narrow_connection, post
from tests.support.server import serving
from tests.support.watched import health, watched


def test_a_request_behind_a_large_answer_stops_nobody(root: Path, publish: Publish) -> None:
    publish(0)
    batch = post("/batch", batch_body(500, PRODUCTS))
    assert len(batch) < 128 * 1024
    with serving(root, RECO_WORKERS="2") as server, ExitStack() as stack:
        pipelining = [stack.enter_context(server.raw()) for _ in range(2)]
        for connection in pipelining:
            connection.sendall(batch + GET_LIVE)
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
        connection.sendall(b"\r\n".join([*(post("/batch", batch_body(size, 3)) for size in sizes), GET_LIVE]))
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
        connection.sendall(GET_LIVE + head)
        assert next(answers) == {"status": "live"}
        assert next(answers) is None  # 100 Continue
        connection.sendall(body + GET_LIVE.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert len(next(answers)) == 1
        assert next(answers) == {"status": "live"}
