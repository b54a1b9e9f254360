"""A log that cannot be written costs lines, which are counted, and nothing else."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Publish, requests_to
from tests.support.api import Answer
from tests.support.figures import record
from tests.support.server import COMMAND, ROOT, SECONDS, Server, environment

LINE_BYTES = 100  # of a request's line, at least
PIPE_BYTES = 4096  # the least that a pipe can be made to hold


@contextmanager
def _full() -> Iterator[int]:
    with Path("/dev/full").open("wb") as file:
        yield file.fileno()


@contextmanager
def _closed() -> Iterator[None]:
    yield None


@contextmanager
def _gone() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        yield writes
    finally:
        os.close(writes)


@contextmanager
def _stuck() -> Iterator[int]:
    """A full pipe that nobody reads."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    while True:
        try:
            os.write(writes, b"x" * PIPE_BYTES)
        except BlockingIOError:
            break
    os.set_blocking(writes, True)
    try:
        yield writes
    finally:
        os.close(reads)
        os.close(writes)


STREAMS = {"full": _full, "closed": _closed, "reader gone": _gone, "stuck": _stuck}


@contextmanager
def serving_with_stderr(artifacts: Path, descriptor: int | None, **settings: str) -> Iterator[Server]:
    """A server whose stderr is a descriptor, or closed; it must end by SIGTERM, with exit code 0."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment(artifacts, RECO_PORT=str(port), **settings),
        stdout=subprocess.DEVNULL,
        stderr=descriptor,
        text=True,
        preexec_fn=None if descriptor is not None else lambda: os.close(2),
    )
    server = Server(process, port, [])
    try:
        _wait_until_ready(server)
        yield server
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        assert server.process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        try:
            if server.send("GET", "/health/ready", None, {}).status == 200:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)


def _metrics(server: Server) -> dict[str, float]:
    text = server.send("GET", "/metrics", None, {}).body.decode()
    samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in samples}


def serve_without_stderr(root: Path, build_id: str, stream: str, count: int) -> float:
    """Send so many requests, each of which must be answered right; return how many lines were dropped."""
    requests = requests_to(root, build_id)
    with STREAMS[stream]() as descriptor, serving_with_stderr(root, descriptor) as server:
        with closing(server.connect()) as connection:
            for number in range(count):
                request = requests[number % len(requests)]
                connection.request("POST", request.path, request.body)
                response = connection.getresponse()
                answer = Answer(response.status, response.headers, response.read())
                assert (answer.status, answer.body) == (200, request.answers[build_id])
        time.sleep(0.2)  # for the lines of the last moment
        metrics = _metrics(server)
    assert metrics.get("reco_worker_restarts_total", 0) == 0
    return metrics["reco_log_lines_dropped_total"]


@pytest.mark.parametrize("stream", ["full", "closed", "reader gone"])
def test_requests_are_answered_while_log_lines_are_refused(root: Path, publish: Publish, stream: str) -> None:
    assert serve_without_stderr(root, publish(0), stream, count=300) >= 300


@pytest.mark.slow
def test_requests_are_answered_and_a_stop_is_obeyed_while_the_log_is_stuck(root: Path, publish: Publish) -> None:
    serve_without_stderr(root, publish(0), "stuck", count=300)  # fewer than a queue holds


@pytest.mark.soak
@pytest.mark.parametrize("stream", STREAMS)
def test_many_requests_without_stderr(root: Path, publish: Publish, stream: str) -> None:
    requests = 30_000
    dropped = serve_without_stderr(root, publish(0), stream, requests)
    record(f"stderr {stream}", answered=requests, log_lines_dropped=dropped)
    assert dropped > requests / 2
