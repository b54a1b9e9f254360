"""What is no HTTP, or no HTTP that the server takes, gets a problem too."""

import pytest

from tests.support.api import Api, check_problem, user_json
from tests.support.server import Server, answer_on

HEAD = b"POST /infer HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"GARBAGE\r\n\r\n", 400, "Start line is invalid"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "Bad URI"),
        (HEAD + b"Content-Length: ten\r\n\r\n", 400, "Content-Length is invalid"),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400, "Content-Length is invalid"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "Invalid chunk size"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, "Transfer-Encoding requested is not supported."),
        ((HEAD + b"X: ").ljust(262_144, b"x"), 431, "exceeds max_header of 262144"),
        (
            HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
            413,
            "the body is larger than the 67108864 bytes allowed",
        ),
    ],
    ids=[
        "no start line",
        "no ASCII",
        "length a word",
        "length negative",
        "chunk size no number",
        "unknown encoding",
        "headers too large",
        "length of 30 digits",
    ],
)
def test_a_malformed_request_gets_a_problem_that_names_the_build(
    server: Server, api: Api, sent: bytes, status: int, detail: str
) -> None:
    with server.raw() as connection:
        connection.sendall(sent)
        answer = answer_on(connection)
    check_problem(answer, status, detail)
    assert answer.headers["X-Index-Version"] == api.build_id
    api.check_alive()


def test_a_target_that_is_no_uri_gets_a_problem_that_names_the_build(server: Server, api: Api) -> None:
    with server.raw() as connection:
        connection.sendall(b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = answer_on(connection)
    check_problem(answer, 400, "Bad URI")
    assert answer.headers["X-Index-Version"] == api.build_id


@pytest.mark.parametrize(
    "sent", [b"", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{", user_json(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"]
)
def test_a_client_that_leaves_halfway_costs_the_others_nothing(server: Server, api: Api, sent: bytes) -> None:
    with server.raw() as connection:
        connection.sendall(sent)
    api.check_alive()
