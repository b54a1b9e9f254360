"""The client against a server that does all that it should not."""

import base64
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from client.jetmlett_client import Answer, Client, Fault, Match, NoAnswer, Refused, User, UserError
from retrieval.search.reranking.request import ListOptions

ANN = User("ann", [1.0, 2.0])
BODY = {"name": "ann", "best": [{"id": "p", "name": "Pho", "score": 0.5}], "worst": []}
ANSWER = Answer("ann", (Match("p", "Pho", 0.5),), (), "b1")


def reply(status: str = "200 OK", body: Any = BODY, cut: int = 0, **headers: str) -> bytes:
    """An answer, without its last `cut` bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Length": str(len(content)), "X-Index-Version": "b1", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content[: len(content) - cut]


def problem(status: str, **headers: str) -> bytes:
    code, title = status.split(" ", 1)
    body = {"type": "about:blank", "title": title, "status": int(code), "detail": f"no {code}"}
    return reply(status, body, cut=0, **headers)


CLOSE = b""  # instead of an answer
GOOD, BUSY, DOWN = reply(), problem("429 Too Many Requests"), problem("503 Service Unavailable")


@dataclass
class Stub:
    """Gives the next of its answers to each request, and closes the connection where an answer is CLOSE or is cut."""

    port: int
    connections: int = 0
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def stub(*answers: bytes, close_after_each: bool = False) -> Iterator[Stub]:
    """`close_after_each` closes kept-alive connections after an answer, without having said so."""
    left = list(answers)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen = Stub(listener.getsockname()[1])

        def serve(connection: socket.socket) -> None:
            with closing(connection), connection.makefile("rb") as file:
                while line := file.readline():
                    headers = {}
                    while header := file.readline().strip():
                        name, _, value = header.decode().partition(": ")
                        headers[name] = value
                    body = file.read(int(headers.get("Content-Length", 0)))
                    seen.requests.append((line.decode().strip(), headers, body))
                    answer = left.pop(0)
                    connection.sendall(answer)
                    head, _, content = answer.partition(b"\r\n\r\n")
                    if close_after_each or f"Content-Length: {len(content)}".encode() not in head:
                        return

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                seen.connections += 1
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

        threads = [threading.Thread(target=accept, daemon=True)]
        threads[0].start()
        yield seen
        listener.shutdown(socket.SHUT_RDWR)
    threads[0].join(5)
    assert left == [], "answers that nobody asked for"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which take no time."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return waited


def test_a_user_is_sent_as_json_and_answered_with_matches() -> None:
    with stub(GOOD) as server, Client(server.url, api_key="sesame", embedding_model="m-1") as client:
        assert client.infer(User("ann", np.array([0.1, 2.5]), k=3, exclude=["x"])) == ANSWER
    [(line, headers, body)] = server.requests
    assert line == "POST /infer HTTP/1.1"
    assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer sesame", "application/json")
    assert headers["X-Embedding-Model"] == "m-1"
    assert json.loads(body) == {"name": "ann", "vector": [0.1, 2.5], "k": 3, "exclude": ["x"]}


def test_options_are_sent_as_the_service_takes_them_and_what_they_add_is_answered() -> None:
    body = {
        "name": "ann",
        "best": [{"id": "p", "name": "Pho", "score": 0.5, "fields": {"price": 7}}],
        "worst": [],
        "matched": 4,
        "explain": {"path": "exact"},
    }
    user = User(
        "ann",
        [1.0, 2.0],
        k=np.int64(3),  # type: ignore[arg-type]
        exclude=[np.str_("x"), 17, np.int64(4)],  # type: ignore[list-item]
        filter={"price": {"$lte": np.int32(12), "$gt": np.float32(0.5)}, "size": {"$in": np.array([1, 2])}},
        min_score=np.float64(0.25),
        max_score=0,
        fields=("price",),
        explain=True,
        max_per={"brand": np.int64(2)},  # type: ignore[dict-item]
        diversity=np.float64(0.25),
    )
    with stub(reply(body=body), reply(body=[body, BODY])) as server, Client(server.url) as client:
        answer = client.infer(user)
        assert [*client.batch([user, ANN])] == [answer, ANSWER]
    match = Match("p", "Pho", 0.5, {"price": 7})
    assert answer == Answer("ann", (match,), (), "b1", matched=4, explain={"path": "exact"})
    sent = server.requests[0][2]
    assert b'"k":3,' in sent
    assert b'"$lte":12,' in sent
    assert json.loads(sent) == {
        "name": "ann",
        "vector": floats(1, 2),
        "k": 3,
        "exclude": ["x", "17", "4"],
        "filter": {"price": {"$lte": 12, "$gt": 0.5}, "size": {"$in": [1, 2]}},
        "min_score": 0.25,
        "max_score": 0,
        "fields": ["price"],
        "explain": True,
        "max_per": {"brand": 2},
        "diversity": 0.25,
    }
    assert server.requests[1][2] == b"[%b,%b]" % (
        sent,
        json.dumps({"name": "ann", "vector": floats(1, 2)}, separators=(",", ":")).encode(),
    )


def test_a_filter_that_holds_for_all_is_sent_too() -> None:
    with stub(GOOD) as server, Client(server.url) as client:
        client.infer(User("ann", [1.0], filter={}))
    assert json.loads(server.requests[0][2])["filter"] == {}


def floats(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("vector", "exact", "rounded"),
    [
        ([1.0, 2], floats(1, 2), floats(1, 2)),
        (np.array([0.1, -1e-40], ">f4"), floats(0.1, -1e-40), floats(0.1, -1e-40)),
        ([np.float32(0.1), np.float64(0.5)], floats(0.1, 0.5), floats(0.1, 0.5)),
        ([0.1, 2.0], [0.1, 2.0], floats(0.1, 2)),
        (np.array([0.1, 2.0]), [0.1, 2.0], floats(0.1, 2)),
        (iter([3.0, 0.0]), floats(3, 0), floats(3, 0)),
        ([1e-50, 1.0], [1e-50, 1.0], [1e-50, 1.0]),
        ([1e300, 1.0], [1e300, 1.0], [1e300, 1.0]),
        ([True, 1.0], [True, 1.0], [True, 1.0]),
        (["1", 1.0], ["1", 1.0], ["1", 1.0]),
        ([None], [None], [None]),
        ([10**400, 1], [10**400, 1], [10**400, 1]),
        ([], [], []),
    ],
)
def test_a_vector_is_sent_as_base64_of_float32_where_that_does_not_change_it(
    vector: Any, exact: Any, rounded: Any
) -> None:
    vectors = [*vector]
    for rounds, expected in ((False, exact), (True, rounded)):
        given = vector if isinstance(vector, np.ndarray) else vectors
        with stub(GOOD) as server, Client(server.url, float32=rounds) as client:
            client.infer(User("ann", given))
        [(_, _, body)] = server.requests
        assert json.loads(body)["vector"] == expected


@pytest.mark.parametrize(("number", "text"), [("nan", b"NaN"), ("inf", b"Infinity")])
def test_numbers_that_are_not_finite_are_sent_as_they_are(number: str, text: bytes) -> None:
    with stub(GOOD) as server, Client(server.url, float32=True) as client:
        client.infer(User("ann", [float(number), 2.0]))
    [(_, _, body)] = server.requests
    assert b'"vector":[%b,2.0]' % text in body


def test_requests_share_a_connection() -> None:
    with stub(GOOD, GOOD, GOOD) as server, Client(server.url) as client:
        assert [client.infer(ANN) for _ in range(3)] == [ANSWER] * 3
    assert server.connections == 1


def test_a_path_in_the_url_comes_before_that_of_the_request() -> None:
    with stub(reply(body={"build_id": "b1"})) as server, Client(f"{server.url}/reco/") as client:
        assert client.index() == {"build_id": "b1"}
    assert server.requests[0][0] == "GET /reco/index HTTP/1.1"


@pytest.mark.parametrize("refusal", [BUSY, DOWN], ids=["429", "503"])
def test_too_much_to_do_is_tried_again_with_waits_that_double(waits: list[float], refusal: bytes) -> None:
    with stub(refusal, refusal, refusal, GOOD) as server, Client(server.url, backoff=0.1) as client:
        assert client.infer(ANN) == ANSWER
    assert waits == pytest.approx([0.1, 0.2, 0.4])
    assert server.connections == 1


@pytest.mark.parametrize(("given", "seconds"), [("2", 2.1), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.1), ("soon", 0.1)])
def test_the_server_may_say_how_long_to_wait(waits: list[float], given: str, seconds: float) -> None:
    with stub(problem("503 Service Unavailable", Retry_After=given), GOOD) as server, Client(server.url) as client:
        assert client.infer(ANN) == ANSWER
    assert waits == pytest.approx([seconds])


def test_a_wait_longer_than_allowed_is_not_begun(waits: list[float]) -> None:
    refusal = problem("429 Too Many Requests", Retry_After="3600")
    with stub(refusal) as server, Client(server.url) as client, pytest.raises(Refused, match=r"^429 .*: no 429$"):
        client.infer(ANN)
    assert waits == []


def test_the_tries_come_to_an_end(waits: list[float]) -> None:
    with stub(BUSY, BUSY, BUSY) as server, Client(server.url, retries=2) as client, pytest.raises(Refused) as caught:
        client.infer(ANN)
    assert (caught.value.status, len(waits)) == (429, 2)


def test_waits_are_spread_between_half_and_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with stub(*[BUSY, GOOD] * 30) as server, Client(server.url, backoff=1.0) as client:
        for _ in range(30):
            client.infer(ANN)
    assert len(set(waited)) == 30
    assert 0.5 <= min(waited) < max(waited) <= 1.0


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "413 Too Large", "500 Oops"])
def test_what_may_be_wrong_is_not_sent_again(waits: list[float], status: str) -> None:
    with stub(problem(status)) as server, Client(server.url) as client, pytest.raises(Refused) as caught:
        client.infer(ANN)
    code, title = status.split(" ", 1)
    assert (caught.value.status, caught.value.title, caught.value.detail) == (int(code), title, f"no {code}")
    assert waits == []


def test_a_refusal_carries_every_fault() -> None:
    faults = [{"pointer": "/k", "code": "range", "detail": "k is 0"}, {"pointer": "", "code": "type", "detail": "no"}]
    body = {"type": "about:blank", "title": "Bad", "status": 422, "detail": "k is 0; no", "errors": faults}
    with stub(reply("422 Bad", body)) as server, Client(server.url) as client, pytest.raises(Refused) as caught:
        client.infer(ANN)
    assert caught.value.faults == (Fault("range", "k is 0", "/k"), Fault("type", "no", ""))
    assert json.loads(caught.value.body) == body


def test_a_refusal_that_is_no_problem_is_shown_as_it_came() -> None:
    page = reply("502 Bad Gateway", b"<h1>proxy</h1>")
    with stub(page) as server, Client(server.url) as client, pytest.raises(Refused, match="502 Bad Gateway: <h1>proxy"):
        client.infer(ANN)


def test_a_kept_connection_that_was_closed_is_replaced_at_once(waits: list[float]) -> None:
    with stub(GOOD, GOOD, GOOD, close_after_each=True) as server, Client(server.url, retries=0) as client:
        assert [client.infer(ANN) for _ in range(3)] == [ANSWER] * 3
    assert (server.connections, waits) == (3, [])


def test_a_new_connection_that_is_closed_without_an_answer_is_tried_again_after_a_wait(waits: list[float]) -> None:
    with stub(CLOSE, CLOSE, GOOD) as server, Client(server.url) as client:
        assert client.infer(ANN) == ANSWER
    assert server.connections == 3
    assert waits == pytest.approx([0.1, 0.2])


def test_an_answer_cut_off_is_tried_again_and_never_taken(waits: list[float]) -> None:
    with stub(reply(cut=5), GOOD) as server, Client(server.url) as client:
        assert client.infer(ANN) == ANSWER
    assert waits == pytest.approx([0.1])
    with stub(reply(cut=5)) as server, Client(server.url, retries=0) as client, pytest.raises(NoAnswer, match="broke"):
        client.infer(ANN)


def test_a_server_that_says_nothing_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
        with pytest.raises(NoAnswer, match="timed out"):
            client.infer(ANN)
        assert not client.is_ready()


def test_nobody_listening_is_said_at_once(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoAnswer, match="Connection refused"):
        Client(f"http://127.0.0.1:{port}").infer(ANN)
    assert waits == []


def sizes(server: Stub) -> list[int]:
    return [len(json.loads(body)) for _, _, body in server.requests]


def results(*sizes: int) -> list[bytes]:
    return [reply(body=[BODY] * size) for size in sizes]


@pytest.mark.parametrize(
    ("limits", "k", "expected"),
    [
        ({"max_users": 3}, None, [3, 3, 1]),
        ({"max_matches": 20}, None, [2, 2, 2, 1]),
        ({"max_matches": 20, "default_k": 5}, None, [4, 3]),
        ({"max_matches": 20}, 7, [2, 2, 2, 1]),
        ({"max_matches": 20}, 21, [1] * 7),
        ({"max_body_bytes": 69}, None, [2, 2, 2, 1]),
        ({"max_body_bytes": 68}, None, [1] * 7),
        ({}, None, [7]),
    ],
)
def test_batches_are_split_to_the_limits(limits: dict[str, Any], k: int | None, expected: list[int]) -> None:
    users = [User("ann", [0.1, 0.2], k)] * 7
    with stub(*results(*expected)) as server, Client(server.url, **limits) as client:
        assert list(client.batch(users)) == [ANSWER] * 7
    assert sizes(server) == expected
    most = limits.get("max_body_bytes", 2**20)
    assert max(len(body) for _, _, body in server.requests) <= most


@pytest.mark.parametrize("k", [None, 1, 3, 40, 199, 200, 1000, 5000])
def test_a_user_with_diversity_counts_as_the_service_counts_one(k: int | None) -> None:
    work = ListOptions(k or 10, diversity=0.3).work
    users = [User("ann", [0.1, 0.2], k, diversity=0.3)] * 4
    for most, expected in ((2 * work, [2, 2]), (2 * work - 1, [1] * 4)):
        with stub(*results(*expected)) as server, Client(server.url, max_matches=most) as client:
            assert list(client.batch(users)) == [ANSWER] * 4
        assert sizes(server) == expected


def test_an_empty_batch_asks_nothing() -> None:
    assert list(Client("http://localhost:1").batch([])) == []


def test_a_failed_user_is_a_value_whose_pointer_counts_through_the_whole_batch() -> None:
    failed = {"name": None, "error": {"code": "vector_type", "detail": "no list", "pointer": "/1/vector"}}
    whole = {"name": None, "error": {"code": "type", "detail": "no object", "pointer": "/0"}}
    with stub(reply(body=[BODY, failed]), reply(body=[whole])) as server, Client(server.url, max_users=2) as client:
        assert list(client.batch([ANN] * 3)) == [
            ANSWER,
            UserError(None, Fault("vector_type", "no list", "/1/vector")),
            UserError(None, Fault("type", "no object", "/2")),
        ]


@pytest.mark.parametrize("answer", [reply(body=[BODY]), reply(body={}), reply(body=b"{")])
def test_an_answer_that_does_not_fit_the_batch_is_none(answer: bytes) -> None:
    with stub(answer) as server, Client(server.url) as client, pytest.raises(NoAnswer):
        list(client.batch([ANN, ANN]))


def test_threads_may_share_a_client() -> None:
    with stub(*[GOOD] * 40) as server, Client(server.url) as client:
        answers: list[Answer] = []
        threads = [
            threading.Thread(target=lambda: answers.extend(client.infer(ANN) for _ in range(5))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert answers == [ANSWER] * 40
    assert server.connections <= 8


@pytest.mark.parametrize(
    "make",
    [lambda: Client("localhost:5000"), lambda: Client("ftp://h"), lambda: Client("http://h", max_users=0)],
)
def test_what_cannot_be_used_is_refused_at_once(make: Callable[[], Client]) -> None:
    with pytest.raises(ValueError, match=r"URL|limits"):
        make()
