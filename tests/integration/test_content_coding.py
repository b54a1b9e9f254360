"""Bodies that come as gzip, and answers that go out so."""

import gzip
import json
import socket
import threading
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest

from service.errors import OutOfMemory, TooLarge
from service.http.app import create_app
from service.http.routes import content_coding
from service.http.routes.base import RESERVE
from service.http.routes.content_coding import decode, should_compress
from service.recommender import Recommender, Serving
from service.settings import Limits, Settings
from tests.integration.conftest import ApiOver
from tests.support.api import JSON, NDJSON, VECTOR, Answer, Api, array, check_problem, user_json
from tests.support.fake_engine import EAST, FakeEngine, compass
from tests.support.server import answer_on
from tests.support.threaded_server import threaded_server

TENSOR = {"name": "vectors", "datatype": "FP32", "shape": [1, 300]}
BINARY_HEADER = json.dumps({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 1200}}]}).encode()
BINARY_SIZE = {"Inference-Header-Content-Length": str(len(BINARY_HEADER))}
BODIES: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "infer": ("/infer", user_json(k=3), {}),
    "batch": ("/batch", array([user_json(), b"{}", user_json(k=2)]), {}),
    "lines": ("/batch", user_json() + b"\n7\n" + user_json(k=2), {"Content-Type": NDJSON}),
    "similar": ("/similar", b'{"ids":["pizza-38"]}', {}),
    "map": ("/map", b'{"ids":["pizza-38"]}', {}),
    "tensors": ("/v2/models/reco/infer", json.dumps({"inputs": [{**TENSOR, "data": VECTOR}]}).encode(), {}),
    "binary tensors": ("/v2/models/reco/infer", BINARY_HEADER + np.array(VECTOR, "<f4").tobytes(), BINARY_SIZE),
}
GOOD = gzip.compress(user_json())
BAD = {
    "not gzip": (user_json(), "the body is not gzip: Error -3 while decompressing data: incorrect header check"),
    "deflate": (
        zlib.compress(user_json()),
        "the body is not gzip: Error -3 while decompressing data: incorrect header check",
    ),
    "empty": (b"", "the body is gzip that breaks off"),
    "cut": (GOOD[:-9], "the body is gzip that breaks off"),
    "cut in its checksum": (GOOD[:-1], "the body is gzip that breaks off"),
    "only a header": (GOOD[:10], "the body is gzip that breaks off"),
    "bad checksum": (
        GOOD[:-8] + b"\0" * 4 + GOOD[-4:],
        "the body is not gzip: Error -3 while decompressing data: incorrect data check",
    ),
    "followed by garbage": (GOOD + b"x", "something follows the gzip of the body"),
    "two members": (GOOD + GOOD, "something follows the gzip of the body"),
    "gzip of nothing": (gzip.compress(b""), "the body is empty, JSON is expected"),
}


@pytest.fixture(scope="module")
def served(served_api_over: Any) -> Api:
    return served_api_over()


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", "identity, gzip", ""])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "body", "headers"), BODIES.values(), ids=BODIES)
def test_a_body_as_gzip_is_answered_as_the_body(
    served: Api, path: str, body: bytes, headers: dict[str, str], chunked: bool, coding: str
) -> None:
    plain = served.request("POST", path, body, headers)
    assert plain.status == 200
    sent: Any = gzip.compress(body) if coding else body
    sent = iter([sent[:100], sent[100:]]) if chunked else sent
    answer = served.request("POST", path, sent, {**headers, "Content-Encoding": coding})
    assert (answer.status, answer.body) == (200, plain.body)
    assert answer.headers["X-Batch-Errors"] == plain.headers["X-Batch-Errors"]


@pytest.mark.parametrize(("body", "detail"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("path", ["/infer", "/batch"])
def test_gzip_that_is_none_is_a_bad_body(served: Api, path: str, body: bytes, detail: str) -> None:
    answer = served.request("POST", path, body, {"Content-Encoding": "gzip"})
    check_problem(answer, 400, detail)
    served.check_alive()


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "gzip, br", "*", "gzipped"])
@pytest.mark.parametrize(("path", "body", "headers"), BODIES.values(), ids=BODIES)
def test_other_codings_are_refused_with_the_one_that_is_read(
    api: Api, path: str, body: bytes, headers: dict[str, str], coding: str
) -> None:
    answer = api.request("POST", path, body, {**headers, "Content-Encoding": coding})
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "gzip")
    assert answer.json["detail"] == f"the body may come as gzip or as it is, not as {coding!r}"


def test_the_limit_of_a_body_counts_what_it_becomes(api_over: ApiOver) -> None:
    body = user_json()
    exact, less = (api_over(max_body_bytes=len(body) - short) for short in (0, 1))
    assert exact.request("POST", "/infer", gzip.compress(body), {"Content-Encoding": "gzip"}).status == 200
    answer = less.request("POST", "/infer", gzip.compress(body), {"Content-Encoding": "gzip"})
    check_problem(answer, 413, f"the body is larger than the {len(body) - 1} bytes allowed")


def test_a_bomb_takes_no_more_memory_than_a_body_may() -> None:
    limit = 2 * 2**20
    bomb = gzip.compress(bytes(200 * 2**20))
    reserved: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match=rf"^the body is larger than the {limit} bytes allowed$"):
            decode(bomb, "gzip", limit, reserved.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(reserved) <= limit + content_coding._PIECE_BYTES
    assert peak < 2 * limit


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 3 * 2**18, 2**20 + 7])
@pytest.mark.parametrize("level", [0, 9])
def test_every_byte_is_decoded_and_reserved(size: int, level: int) -> None:
    for body in (np.random.default_rng(size).bytes(size), bytes(size)):
        reserved: list[int] = []
        assert decode(gzip.compress(body, level), "gzip", size, reserved.append) == body
        assert sum(reserved) == size


def test_a_body_that_grows_beyond_the_memory_is_refused_for_now(recommender: Recommender) -> None:
    def reserve(_more_bytes: int) -> None:
        raise OutOfMemory("too much")

    client = create_app(Serving(recommender), Settings()).test_client()
    sent = {"data": GOOD, "headers": {"Content-Encoding": "gzip"}}
    response = client.post("/infer", environ_overrides={RESERVE: reserve}, **sent)
    check_problem(Answer(response.status_code, response.headers, response.data), 429, "too much")
    assert response.headers["Retry-After"] == "1"


def is_live(connection: socket.socket) -> bool:
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    return answer_on(connection).status == 200


def test_decoded_bytes_count_in_the_memory_that_all_requests_may_take() -> None:
    settings = Settings(memory_bytes=2 * 2**20, workers=1, log_level="WARNING")
    bomb = gzip.compress(b" " * 3 * 2**20)
    head = b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with (
        threaded_server(Recommender(compass()), settings) as server,
        server.connection() as other,
        server.connection() as connection,
    ):
        connection.sendall(head + bomb)
        assert answer_on(connection).status == 400, "alone it may be larger"
        assert is_live(connection), "what it held is free"
        other.sendall(b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b" " * 100_000)
        assert is_live(connection)
        connection.sendall(head + bomb)
        answer = answer_on(connection)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    assert answer.json["detail"].startswith("requests and answers take all the memory")


@pytest.mark.parametrize(
    ("accepted", "expected"),
    {
        "": False,
        "gzip": True,
        "x-gzip": True,
        "GZIP": True,
        "gzip, deflate, br": True,
        "gzip;q=0": False,
        "gzip;q=0.0, *": False,
        "gzip; q=0.001": True,
        "*": True,
        "*;q=0": False,
        "*;q=0, gzip": True,
        "identity": False,
        "identity, gzip": True,
        "identity, gzip;q=0.5": False,
        "identity;q=0.5, gzip;q=1.0": True,
        "identity;q=0, *": True,
        "br": False,
        "gzipped": False,
        "gzip;q=nonsense": False,
    }.items(),
)
def test_the_client_says_whether_it_takes_gzip(accepted: str, expected: bool) -> None:
    assert should_compress(16_001, accepted) is expected
    assert not should_compress(16_000, accepted)


@pytest.mark.parametrize("media_type", [JSON, NDJSON])
def test_large_answers_are_the_same_bytes_compressed(served: Api, media_type: str) -> None:
    body = array([user_json(k=200)] * 2) if media_type == JSON else user_json(k=200) + b"\n" + user_json()
    plain = served.request("POST", "/batch", body, {"Content-Type": media_type})
    zipped = served.request("POST", "/batch", body, {"Content-Type": media_type, "Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert "Vary" not in plain.headers
    assert (zipped.headers["Content-Encoding"], zipped.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert int(zipped.headers["Content-Length"]) == len(zipped.body) < len(plain.body) / 2
    assert gzip.decompress(zipped.body) == plain.body


@pytest.mark.parametrize("path", ["/openapi.json", "/map"])
def test_large_answers_to_questions_without_a_body_are_compressed_too(served: Api, path: str) -> None:
    answer = served.request("GET", path, headers={"Accept-Encoding": "gzip"})
    assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(answer.body) == served.get(path).body


def test_small_answers_and_pages_with_an_etag_go_out_as_they_are(served: Api) -> None:
    for method, path, body in (
        ("POST", "/infer", user_json()),
        ("GET", "/static/explorer/explorer.js", None),
        ("GET", "/", None),
    ):
        plain = served.request(method, path, body)
        answer = served.request(method, path, body, {"Accept-Encoding": "gzip"})
        assert (answer.status, answer.body) == (200, plain.body)
        assert answer.headers.keys() == plain.headers.keys()
        assert answer.headers["ETag"] == plain.headers["ETag"]


def test_the_thread_of_the_sockets_neither_decodes_nor_compresses(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    for name in ("_decoded_pieces", "zlib"):
        original = getattr(content_coding, name)

        class Watched:
            """Notes which thread calls."""

            def __init__(self, original: Any):
                self.original = original

            def __call__(self, body: bytes) -> Any:
                threads.append(threading.current_thread().name)
                return self.original(body)

            def __getattr__(self, member: str) -> Any:
                threads.append(threading.current_thread().name)
                return getattr(self.original, member)

        monkeypatch.setattr(content_coding, name, Watched(original))
    engine = FakeEngine(**{f"product-{'x' * 40}-{i}": [float(np.cos(i)), float(np.sin(i))] for i in range(300)})
    settings = Settings(log_level="WARNING", limits=Limits(max_k=300))
    user = json.dumps({"name": "ann", "vector": EAST, "k": 150}).encode()
    plain, zipped = user, gzip.compress(user)
    with threaded_server(Recommender(engine), settings) as server, server.connection() as connection:
        answers: list[Answer] = []
        for body, coding in ((plain, "identity"), (zipped, "gzip"), (plain, "identity")):
            accepted = "gzip" if len(answers) < 2 else "identity"
            head = f"Content-Encoding: {coding}\r\nAccept-Encoding: {accepted}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(f"POST /infer HTTP/1.1\r\nHost: x\r\n{head}".encode() + body)
            answers.append(answer_on(connection))
    assert [answer.headers["Content-Encoding"] for answer in answers] == ["gzip", "gzip", None]
    assert gzip.decompress(answers[0].body) == gzip.decompress(answers[1].body) == answers[2].body
    assert threads
    assert all(name.startswith("large") for name in threads), threads
