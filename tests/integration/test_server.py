"""Users who wait at the same time are answered by one search; and workers share connections evenly."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from service.http.requests.user_reader import UserReader
from service.recommender import Recommender
from service.settings import Settings
from tests.support.api import Answer
from tests.support.fake_engine import EAST, NORTH, WEST, FakeEngine, compass
from tests.support.matches import answers_to
from tests.support.server import SECONDS, answer_on
from tests.support.threaded_server import ThreadedServer, threaded_server

ANN: dict[str, object] = {"name": "ann", "vector": EAST}
BOB: dict[str, object] = {"name": "bob", "vector": NORTH}
CID: dict[str, object] = {"name": "cid", "vector": WEST}


@dataclass(frozen=True)
class Worker:
    """A server over an engine that remembers its searches."""

    engine: FakeEngine
    server: ThreadedServer

    def answers_to(self, *requests: bytes, head: str = "X: y") -> list[Answer]:
        """What comes to requests that wait, each on a connection of its own, while an earlier one is searched."""
        with ExitStack() as stack:
            connections = [stack.enter_context(self.server.connection()) for _ in requests]
            for connection in connections:  # each is accepted before the search
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert answer_on(connection).status == 200
            first = stack.enter_context(self.server.connection())
            with self.engine.paused():
                first.sendall(post("/infer", ANN, head))
                wait_for(lambda: len(self.engine.searches) == 1)
                for connection, request in zip(connections, requests, strict=True):
                    connection.sendall(request)
            answers = [answer_on(connection) for connection in connections]
            assert answer_on(first).status == 200
        return answers

    @property
    def users_of_searches(self) -> list[int]:
        """After the first search, which `answers_to` makes."""
        return [len(vectors) for vectors, _ in self.engine.searches[1:]]


@contextmanager
def worker(**settings: Any) -> Iterator[Worker]:
    engine = compass()
    with threaded_server(Recommender(engine), Settings(log_level="WARNING", **settings)) as server:
        yield Worker(engine, server)


def post(path: str, body: object, *headers: str) -> bytes:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(sent)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + sent


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def alone(user: dict[str, object]) -> bytes:
    return answers_to(Recommender(compass()), [UserReader(2, Settings().limits).read(user)])[0]


def test_one_search_answers_users_who_wait_together() -> None:
    users = [ANN, BOB, CID, {**BOB, "k": 1}, {**CID, "exclude": ["west"]}]
    with worker() as one:
        answers = one.answers_to(*(post("/infer", user) for user in users))
        assert sorted(one.users_of_searches) == [1, 1, 3]
    assert [answer.body for answer in answers] == [alone(user) for user in users]
    assert {answer.headers["X-Index-Version"] for answer in answers} == {"fake-build"}


def test_whatever_else_waits_is_answered_as_ever() -> None:
    with worker() as one:
        answers = one.answers_to(
            post("/infer", ANN),
            post("/infer", {"name": "cid", "vector": [1.0]}),
            post("/infer", b"{"),
            post("/batch", [BOB, ANN]),
            post("/infer", BOB),
            b"GET /infer HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000\r\n\r\n",
        )
    assert [answer.status for answer in answers] == [200, 422, 400, 200, 200, 405, 413]
    assert [answers[0].body, answers[4].body] == [alone(ANN), alone(BOB)]
    assert answers[3].body == b"[" + alone(BOB) + b"," + alone(ANN) + b"]"


def test_an_answer_has_the_bytes_that_it_has_through_flask() -> None:
    padding = b" " * 70_000  # A body of this size is left to the app.
    answers = []
    with worker() as one:
        for version, *headers in (("1.1",), ("1.0",), ("1.0", "Connection: keep-alive")):
            for body in (json.dumps(ANN).encode(), json.dumps(ANN).encode() + padding):
                head = [*headers, "X-Request-ID: r1"]
                with one.server.connection() as connection:
                    connection.sendall(post("/infer", body, *head).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
                    answer = answer_on(connection)
                del answer.headers["Date"]
                answers.append((answer.status, answer.headers.items(), answer.body))
    assert answers[::2] == answers[1::2]
    assert answers[0][1] == [
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(alone(ANN)))),
        ("Content-Type", "application/json"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Index-Version", "fake-build"),
        ("X-Request-Id", "r1"),
    ]


def test_a_user_with_further_options_is_parsed_once_on_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = orjson.loads, list[bytes]()

    def noting(text: bytes) -> Any:
        parsed.append(bytes(text))
        return parse(text)

    bodies = [json.dumps(user).encode() for user in (ANN, {**ANN, "min_score": 0.1}, {**ANN, "k": 800})]
    with worker() as served, served.server.connection() as connection:
        monkeypatch.setattr(orjson, "loads", noting)
        for body in bodies:
            connection.sendall(post("/infer", body))
            assert answer_on(connection).status == 200
    assert [parsed.count(body) for body in bodies] == [1, 2, 2]


def test_nobody_without_a_key_takes_part_in_a_search() -> None:
    key = "X-API-Key: secret"
    with worker(api_keys=("secret",)) as one:
        answers = one.answers_to(
            post("/infer", ANN), post("/infer", BOB, key), post("/infer", CID, "Authorization: Bearer secret"), head=key
        )
        assert one.users_of_searches == [2]
    assert [answer.status for answer in answers] == [401, 200, 200]
    assert [answer.body for answer in answers[1:]] == [alone(BOB), alone(CID)]


def test_a_large_body_without_a_key_is_refused_before_it_arrives() -> None:
    with worker(api_keys=("secret",)) as one:
        for length in (b"Content-Length: 300000", b"Transfer-Encoding: chunked"):
            sent = b"" if b"Content" in length else b"50000\r\n" + b" " * 0x50000
            with one.server.connection() as connection:
                connection.sendall(b"POST /batch HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n" + sent)
                answer = answer_on(connection)
            assert (answer.status, answer.headers["Connection"]) == (401, "close")


def test_a_small_request_without_a_key_keeps_its_connection() -> None:
    with worker(api_keys=("secret",)) as one, one.server.connection() as connection:
        for headers, status in (((), 401), (("X-API-Key: other",), 401), (("X-API-Key: secret",), 200)):
            connection.sendall(post("/infer", ANN, *headers))
            answer = answer_on(connection)
            assert (answer.status, answer.headers["Connection"]) == (status, None)
        assert len(one.engine.searches) == 1


def test_a_new_connection_is_yielded_to_a_worker_that_has_fewer_but_not_for_long() -> None:
    with worker() as one, one.server.connection() as first:
        first.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_on(first).status == 200
        one.server.other_count.report(0)
        began = time.monotonic()
        with one.server.connection() as second:
            second.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_on(second).status == 200
        assert time.monotonic() - began > 0.009
        wait_for(lambda: not one.server.open_count.is_lowest)
