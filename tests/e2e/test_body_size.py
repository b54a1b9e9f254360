"""Bodies up to the limit are read, larger ones refused; the server lives on."""

from collections.abc import Iterator

import pytest

from tests.support.api import Answer, Api, array, check_problem, user_json
from tests.support.server import Server, answer_on

MEGABYTE = 2**20
TOO_LARGE = "the body is larger than the {} bytes allowed"
HEAD = b"POST /infer HTTP/1.1\r\nHost: localhost\r\n"


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        part = body[start : start + size]
        yield b"%x\r\n%b\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def send_chunked(server: Server, body: bytes, size: int) -> Answer:
    with server.raw() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunked(body, size)))
        return answer_on(connection)


def check_refused_or_cut_off(server: Server, parts: list[bytes], limit: int) -> None:
    """Send the parts; the server may answer, and close, before it has read them all."""
    with server.raw() as connection:
        try:
            for part in parts:
                connection.sendall(part)
            answer = answer_on(connection)
        except (BrokenPipeError, ConnectionResetError):
            return
    check_problem(answer, 413, TOO_LARGE.format(limit))


@pytest.mark.parametrize("path", ["/infer", "/batch"])
def test_a_body_of_exactly_the_limit_is_answered(tight_api: Api, path: str) -> None:
    body = user_json() if path == "/infer" else array([user_json()])
    answer = tight_api.post(path, body.ljust(MEGABYTE))
    assert (answer.status, answer.body) == (200, tight_api.post(path, body).body)


def test_a_body_of_one_byte_more_is_refused_on_its_headers_alone(tight_server: Server, tight_api: Api) -> None:
    with tight_server.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (MEGABYTE + 1))
        answer = answer_on(connection)
    check_problem(answer, 413, TOO_LARGE.format(MEGABYTE))
    assert answer.headers["X-Index-Version"] == tight_api.build_id
    tight_api.check_alive()


def test_a_client_that_sends_all_of_a_refused_body_gets_the_answer(tight_server: Server) -> None:
    with tight_server.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (30 * MEGABYTE) + bytes(30 * MEGABYTE))
        check_problem(answer_on(connection), 413, TOO_LARGE.format(MEGABYTE))


def test_eighty_megabytes_are_refused_by_default(server: Server, api: Api) -> None:
    with server.raw() as connection:
        connection.sendall(HEAD + b"Content-Length: 80000000\r\n\r\n")
        answer = answer_on(connection)
    check_problem(answer, 413, TOO_LARGE.format(64 * MEGABYTE))
    assert answer.headers["X-Index-Version"] == api.build_id
    api.check_alive()


def test_a_client_that_sends_all_eighty_megabytes_is_refused_or_cut_off(server: Server, api: Api) -> None:
    head = HEAD + b"Content-Length: 80000000\r\n\r\n"
    check_refused_or_cut_off(server, [head, *[b" " * 1_000_000] * 80], 64 * MEGABYTE)
    api.check_alive()


@pytest.mark.parametrize("size", [1, 1000, 10**6], ids="{} bytes a chunk".format)
def test_a_chunked_body_is_answered_like_any_other(tight_server: Server, tight_api: Api, size: int) -> None:
    answer = send_chunked(tight_server, user_json(), size)
    assert (answer.status, answer.body) == (200, tight_api.infer(user_json()).body)


def test_a_chunked_body_of_exactly_the_limit_is_answered(tight_server: Server, tight_api: Api) -> None:
    answer = send_chunked(tight_server, user_json().ljust(MEGABYTE), 2**16)
    assert (answer.status, answer.body) == (200, tight_api.infer(user_json()).body)


def test_a_chunked_body_over_the_limit_is_refused_or_cut_off(tight_server: Server, tight_api: Api) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    check_refused_or_cut_off(tight_server, [head, *chunked(user_json().ljust(MEGABYTE + 1), MEGABYTE + 1)], MEGABYTE)
    tight_api.check_alive()


def test_a_chunked_body_without_end_is_refused_or_cut_off(tight_server: Server, tight_api: Api) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    check_refused_or_cut_off(tight_server, [head, *[b"10000\r\n" + b" " * 0x10000 + b"\r\n"] * 80], MEGABYTE)
    tight_api.check_alive()
