"""However much clients ask for at once, the event loop computes a moment at a time, and health is answered."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import pytest

from tests.faults.conftest import PRODUCTS, Publish, batch_body
from tests.support.raw_http import GET_LIVE, answers_on, post
from tests.support.server import Server, answer_on, serving
from tests.support.watched import watched

CLIENTS = 24


def worst_case_batches(root: Path, publish: Publish, seconds: float) -> None:
    publish(0)
    batch = post("/batch", batch_body(400, PRODUCTS))
    assert len(batch) < 128 * 1024
    statuses: list[int] = []

    def ask(server: Server, until: float) -> None:
        while time.monotonic() < until:
            with server.raw() as connection:
                connection.sendall(batch)
                statuses.append(answer_on(connection).status)

    with serving(root, RECO_WORKERS="2") as server, watched(server) as seen, ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, repeat(server, CLIENTS), repeat(time.monotonic() + seconds)))
    assert set(statuses) <= {200, 429, 503}
    assert statuses.count(200) > 0
    seen.report("worst-case batches", clients=CLIENTS, answered=statuses.count(200))


@pytest.mark.slow
def test_batches_of_few_bytes_and_much_work_hold_nobody_up(root: Path, publish: Publish) -> None:
    worst_case_batches(root, publish, seconds=3)


@pytest.mark.soak
def test_half_a_minute_of_worst_case_batches(root: Path, publish: Publish) -> None:
    worst_case_batches(root, publish, seconds=30)


@pytest.mark.slow
def test_metrics_do_not_queue_behind_batches(root: Path, publish: Publish) -> None:
    publish(0)
    with serving(root, RECO_THREADS="1") as server, server.raw() as busy:
        busy.sendall(post("/batch", batch_body(1000, PRODUCTS)))
        time.sleep(0.05)
        assert server.send("GET", "/metrics", None, {}).status == 200
        busy.setblocking(False)
        with suppress(BlockingIOError):
            pytest.fail(f"the batch was answered first: {busy.recv(20)!r}")
        busy.settimeout(30)
        busy.sendall(GET_LIVE)
        answers = answers_on(busy)
        assert len(next(answers)) == 1000
        assert next(answers) == {"status": "live"}
