"""More work than fits: what is taken is answered, the rest is told so at once, and health goes on answering."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import Publish, requests_to
from tests.support.api import check_problem
from tests.support.figures import record
from tests.support.load import Load, load
from tests.support.server import Server, serving, wait_until_in_flight

IN_FLIGHT = 8
REFUSED = "there is more to do than can wait; try again in 1 s"


def health_seconds(server: Server) -> float:
    began = time.monotonic()
    assert server.send("GET", "/health/ready", None, {}).status == 200
    assert server.send("GET", "/metrics", None, {}).status == 200
    return (time.monotonic() - began) / 2


def goodput(seen: Load, seconds: float) -> float:
    return seen.answered["200"] / seconds


def overload(root: Path, publish: Publish, seconds: float) -> None:
    queries = requests_to(root, publish(0), users_at_once=20, k=100)
    with serving(root, RECO_WORKERS="2", RECO_MAX_IN_FLIGHT=str(IN_FLIGHT)) as server:
        with load(server.port, queries, IN_FLIGHT // 2, think_seconds=0) as fitting:
            time.sleep(seconds)
        with load(server.port, queries, 4 * IN_FLIGHT, think_seconds=0) as excessive:
            waits = []
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                waits.append(health_seconds(server))
                time.sleep(0.1)
        recovered = server.send("POST", queries[0].path, queries[0].body, {})
    assert (fitting.failed, excessive.failed) == ({}, {})
    assert set(fitting.answered) == {"200"}
    assert set(excessive.answered) == {"200", "429"}
    assert recovered.status == 200
    figures = {
        "peak_per_second": round(goodput(fitting, seconds)),
        "goodput_per_second": round(goodput(excessive, seconds)),
        "answered": excessive.answered["200"],
        "shed": excessive.answered["429"],
        "accepted_p99_ms": round(float(np.quantile(excessive.latencies, 0.99)) * 1e3, 1),
        "shed_median_ms": round(float(np.median(excessive.shed_latencies)) * 1e3, 1),
        "slowest_health_ms": round(max(waits) * 1e3, 1),
    }
    record("overload", connections=4 * IN_FLIGHT, in_flight=IN_FLIGHT, seconds=seconds, **figures)


def test_what_is_taken_is_answered_and_the_rest_told_so(root: Path, publish: Publish) -> None:
    overload(root, publish, seconds=1)


@pytest.mark.soak
def test_half_a_minute_of_overload(root: Path, publish: Publish) -> None:
    overload(root, publish, seconds=30)


def test_a_refusal_says_when_to_come_back_and_keeps_the_connection(root: Path, publish: Publish) -> None:
    publish(0)
    vectors = np.random.default_rng(0).normal(size=(1500, 24)).round(3)
    large = json.dumps([{"name": "u", "vector": row.tolist(), "k": 200} for row in vectors]).encode()
    with serving(root, RECO_WORKERS="1", RECO_MAX_IN_FLIGHT="1", RECO_THREADS="1") as server:
        busy = server.connect()
        busy.request("POST", "/batch", large)
        wait_until_in_flight(server)
        waiting = server.connect()
        until = time.monotonic() + 20
        while True:
            waiting.request("POST", "/infer", b"{}")
            socket = waiting.sock
            response = waiting.getresponse()
            body = response.read()
            if response.status == 429:
                break
            assert time.monotonic() < until
        assert json.loads(body)["detail"] == REFUSED
        assert (response.headers["Retry-After"], response.headers["Connection"]) == ("1", None)
        assert waiting.sock is socket
        assert server.send("GET", "/health/live", None, {}).status == 200
        refused = server.send("POST", "/batch", large, {})
        check_problem(refused, 429, REFUSED)
        assert len(json.loads(busy.getresponse().read())) == 1500
        busy.close()
        waiting.close()
