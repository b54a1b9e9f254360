"""What an on-call engineer sees: metrics of all workers together, and a line a request."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from retrieval import VERSION
from retrieval.cores import available_cores
from tests.support.api import VECTOR, array, user_json
from tests.support.server import Server, exchange, serving

REQUESTS, FILTERED = 40, 3


@pytest.fixture(scope="module")
def server(sample_artifacts: Path) -> Iterator[Server]:
    with serving(sample_artifacts, RECO_WORKERS="2", RECO_LOG_FORMAT="json") as server:
        yield server


@pytest.fixture(scope="module")
def before(server: Server) -> dict[str, float]:
    """The metrics after some requests of each kind, each on a connection of its own so that both workers get some."""
    for _ in range(REQUESTS):
        server.send("POST", "/infer", user_json(name="secret name"), {})
    bad = [user_json(vector=[1.0]), user_json(k=0), b"1"]
    server.send("POST", "/batch", array([user_json()] * 5 + bad), {})
    server.send("POST", "/infer", b"{", {})
    server.send("GET", "/nobody/knows/this", None, {})
    for _ in range(FILTERED):
        server.send("POST", "/similar", b'{"ids": ["pizza-38"], "filter": {}, "k": 1}', {})
    return metrics(server)


def metrics(server: Server) -> dict[str, float]:
    text = server.send("GET", "/metrics", None, {}).body.decode()
    samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in samples}


def test_requests_of_all_workers_are_counted_by_route_and_status(before: dict[str, float]) -> None:
    assert before['reco_requests_total{route="/infer",status="200"}'] == REQUESTS
    assert before['reco_requests_total{route="/infer",status="400"}'] == 1
    assert before['reco_requests_total{route="/batch",status="200"}'] == 1
    assert before['reco_requests_total{route="other",status="404"}'] == 1
    assert before['reco_request_seconds_count{route="/infer"}'] == REQUESTS + 1
    assert 0 < before['reco_request_seconds_sum{route="/infer"}'] < 60
    assert before['reco_request_seconds_bucket{le="+Inf",route="/infer"}'] == REQUESTS + 1


def test_batches_and_their_failures_are_counted(before: dict[str, float]) -> None:
    assert (before["reco_batch_users_count"], before["reco_batch_users_sum"]) == (1, 8)
    for code in ("vector_dimension", "range", "type"):
        assert before[f'reco_failed_users_total{{code="{code}"}}'] == 1
    assert before["reco_best_score_count"] == REQUESTS + 5


def test_filters_are_counted_with_what_they_let_through(before: dict[str, float]) -> None:
    assert before["reco_filtered_requests_total"] == FILTERED
    assert (before["reco_matched_share_count"], before["reco_matched_share_sum"]) == (FILTERED, FILTERED)
    masks = [before.get(f'reco_masks_total{{source="{source}"}}', 0) for source in ("compiled", "cached")]
    assert sum(masks) == FILTERED
    assert masks[0] in (1, 2)  # Each worker that gets any of them compiles the filter once.


def test_the_index_is_told(server: Server, before: dict[str, float]) -> None:
    index = server.send("GET", "/index", None, {}).json
    assert before[f'reco_index_info{{build_id="{index["build_id"]}",kind="Flat"}}'] == 1
    assert before["reco_index_products"] == 2460
    for side in ("best", "worst"):
        assert before[f'reco_index_recall{{side="{side}"}}'] == index["recall"][side][0]["mean"]


def test_what_has_not_happened_is_zero_or_missing(before: dict[str, float]) -> None:
    for name in ("reloads", "failed_reloads", "worker_restarts", "shed_requests"):
        assert before.get(f"reco_{name}_total", 0) == 0
    assert before["reco_queued_requests"] == 0


def test_all_names_begin_alike_and_no_label_holds_a_name(before: dict[str, float]) -> None:
    assert [name for name in before if not name.startswith("reco_")] == []
    assert [name for name in before if "secret" in name or "nobody" in name] == []


def test_every_request_has_a_line_without_vector_or_name(server: Server, before: dict[str, float]) -> None:
    body = array([user_json(name="secret name")] * 3)
    answer = server.send("POST", "/batch", body, {"X-Request-ID": "find-me"})
    assert answer.headers["X-Request-Id"] == "find-me"
    entry = line_of(server, "find-me")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry.pop("time"))
    assert 0 < entry.pop("milliseconds") < 10_000
    assert entry == {
        "level": "INFO",
        "message": "request",
        "request_id": "find-me",
        "client": "127.0.0.1",
        "method": "POST",
        "route": "/batch",
        "status": 200,
        "request_bytes": len(body),
        "answer_bytes": len(answer.body),
        "users": 3,
        "build": answer.headers["X-Index-Version"],
    }
    numbers = [str(number) for number in VECTOR[:3]]  # One of them may be a time too.
    assert [line for line in server.log if "secret" in line or all(number in line for number in numbers)] == []
    assert [line for line in server.log if '"route":"/infer","status":400' in line]


def line_of(server: Server, request_id: str) -> dict[str, Any]:
    """The line of a request, once it is there."""
    until = time.monotonic() + 10
    while not (lines := [line for line in server.log if request_id in line]):
        assert time.monotonic() < until
        time.sleep(0.02)
    entry: dict[str, Any] = json.loads(lines[0])
    return entry


@pytest.mark.parametrize(
    ("method", "path", "body", "has_answer"),
    [
        ("GET", "/metrics", None, True),
        ("HEAD", "/index", None, False),
        ("OPTIONS", "/infer", None, False),
        ("BREW", "/index", b"coffee", True),
        ("POST", "/infer", b"{", True),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_line_says_what_was_sent_and_what_was_answered(
    server: Server, method: str, path: str, body: bytes | None, has_answer: bool
) -> None:
    name = f"sent-{method}-{path[1:]}"
    answer = server.send(method, path, body, {"X-Request-ID": name})
    entry = line_of(server, name)
    assert entry["method"] == ("other" if method == "BREW" else method)
    assert (entry["request_bytes"], entry["answer_bytes"]) == (len(body or b""), len(answer.body))
    assert (len(answer.body) > 0) == has_answer


def test_probes_that_succeed_have_no_line_and_others_have(server: Server) -> None:
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/reco/ready"):
        assert server.send("GET", path, None, {"X-Request-ID": "a-probe"}).status == 200
    assert server.send("POST", "/health/ready", b"", {"X-Request-ID": "no-probe"}).status == 405
    assert line_of(server, "no-probe")["status"] == 405
    assert not [line for line in server.log if "a-probe" in line]


def test_the_version_of_the_code_is_told_everywhere(server: Server, before: dict[str, float]) -> None:
    assert before[f'reco_build_info{{version="{VERSION}"}}'] == 1
    assert server.send("GET", "/index", None, {}).json["version"] == VERSION
    messages = [json.loads(line)["message"] for line in server.log[:10]]
    cores = f"{count} core{'s' * (count > 1)}" if (count := available_cores()) else ""
    assert f"jetmlett {VERSION}: 2 workers; searches use at most {cores}" in messages
    assert "everybody may ask, as RECO_API_KEYS has no keys" in messages


def test_a_problem_that_never_reached_the_app_is_counted_logged_and_named(server: Server) -> None:
    before = metrics(server).get('reco_requests_total{route="other",status="400"}', 0)
    with server.raw() as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        assert b"X-Request-Id: " in connection.recv(2**16)
    assert metrics(server)['reco_requests_total{route="other",status="400"}'] == before + 1


def test_health_is_told_in_both_protocols(server: Server) -> None:
    with closing(server.connect()) as connection:
        for prefix in ("", "/v2"):
            for name in ("live", "ready"):
                answer = exchange(connection, "GET", f"{prefix}/health/{name}", None, {})
                assert (answer.status, answer.json) == (200, {"status": name, **({name: True} if prefix else {})})
