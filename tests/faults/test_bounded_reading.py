"""What is received is read once: no framing of a request makes a worker compute more than its bytes are worth."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.faults.conftest import Publish
from tests.support.api import check_problem
from tests.support.raw_http import GET_LIVE
from tests.support.server import Server, answer_on, serving
from tests.support.watched import processor_seconds, watched, workers

HEAD = b"POST /batch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
CLIENTS, BYTES_PER_SECOND = 8, 700_000
MAX_SHARE = 0.5  # of a core; it was all of it
Pieces = Callable[[], Iterator[bytes]]


def one_byte_chunks() -> Iterator[bytes]:
    return chain([HEAD], repeat(b"1\r\n \r\n" * 40_000))


def line_ends() -> Iterator[bytes]:
    return repeat(b"\r\n" * 100_000)


def long_head_in_small_pieces() -> Iterator[bytes]:
    return chain([GET_LIVE[:-4], b"\r\nX: "], repeat(b"x" * 500))


def send(server: Server, pieces: Pieces, bytes_per_second: float, until: float) -> None:
    """Send from one connection after another, at this rate, whatever comes back."""
    sent, began = 0, time.monotonic()
    while time.monotonic() < until:
        with suppress(OSError), server.raw() as connection:
            for piece in pieces():
                connection.sendall(piece)
                sent += len(piece)
                time.sleep(max(0.0, began + sent / bytes_per_second - time.monotonic()))
                if time.monotonic() > until:
                    return


def share_of_a_core(root: Path, publish: Publish, pieces: Pieces, seconds: float) -> None:
    publish(0)
    with serving(root) as server, watched(server) as seen:
        [worker] = workers(server)
        before, began = processor_seconds(worker), time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as clients:
            arguments = (server, pieces, BYTES_PER_SECOND / CLIENTS, began + seconds)
            list(clients.map(send, *(repeat(argument, CLIENTS) for argument in arguments)))
        share = (processor_seconds(worker) - before) / (time.monotonic() - began)
    seen.report(f"reading {pieces.__name__.replace('_', ' ')}", clients=CLIENTS, share_of_a_core=round(share, 2))
    assert share < MAX_SHARE


KINDS = pytest.mark.parametrize("pieces", [one_byte_chunks, line_ends, long_head_in_small_pieces])


@KINDS
@pytest.mark.slow
def test_odd_framing_costs_little(root: Path, publish: Publish, pieces: Pieces) -> None:
    share_of_a_core(root, publish, pieces, seconds=3)


@pytest.mark.soak
@KINDS
def test_half_a_minute_of_odd_framing_costs_little(root: Path, publish: Publish, pieces: Pieces) -> None:
    share_of_a_core(root, publish, pieces, seconds=30)


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (HEAD + b"1" * 300, 400, "Invalid chunk size"),
        (HEAD + b"5\nhello\n", 400, "Invalid chunk size"),
        (HEAD + b"1\r\n xy", 400, "Chunk not properly terminated"),
        (HEAD + b"0\r\n" + b"X: y\r\n" * 2000, 400, "the trailer is larger than the 8192 bytes allowed"),
        (HEAD + b"fffffff\r\n", 413, "the body is larger than the 67108864 bytes allowed"),
        (GET_LIVE[:-2] + b"a: b\r\n" * 300 + b"\r\n", 431, "more than 256 header lines"),
    ],
    ids=["control line", "bare line feeds", "end of a chunk", "trailer", "announced chunk", "header lines"],
)
@pytest.mark.slow
def test_what_frames_a_request_is_bounded(root: Path, publish: Publish, sent: bytes, status: int, detail: str) -> None:
    publish(0)
    with serving(root) as server, server.raw() as connection:
        connection.sendall(sent)
        check_problem(answer_on(connection), status, detail)


@pytest.mark.slow
def test_a_body_comes_in_no_more_chunks_than_its_bytes_are_worth(root: Path, publish: Publish) -> None:
    publish(0)
    with serving(root) as server, server.raw() as connection:
        connection.sendall(HEAD + b"1\r\n \r\n" * 8400)
        answer = answer_on(connection)
    assert answer.status == 400
    assert answer.json["detail"].endswith("bytes are too many")


@pytest.mark.slow
def test_trailers_and_extensions_are_skipped(root: Path, publish: Publish) -> None:
    publish(0)
    body = b'3;name="value"\r\n[{"\r\n2 ; a\r\n":\r\n4\r\n 1}]\r\n0\r\nX: y\r\nZ: z\r\n\r\n'
    with serving(root) as server, server.raw() as connection:
        for byte in HEAD + body:
            connection.sendall(bytes([byte]))
        answer = answer_on(connection)
        assert (answer.status, answer.headers["X-Batch-Errors"]) == (200, "1")
        connection.sendall(b"\r\n\r\n" + GET_LIVE)
        assert answer_on(connection).status == 200
