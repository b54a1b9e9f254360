"""A real server process."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.api import Answer

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "service", "serve"]
SECONDS = 30  # after which a server is taken to hang


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    log: list[str]

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        with closing(self.connect()) as connection:
            return exchange(connection, method, path, body, headers)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as connection:
            yield connection

    def stop(self) -> int:
        """Send SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> Answer:
    connection.request(method, path, body, headers)
    return read_answer(connection.getresponse())


def read_answer(response: http.client.HTTPResponse) -> Answer:
    return Answer(response.status, response.headers, response.read())


def answer_on(connection: socket.socket) -> Answer:
    """The answer to what was sent by hand."""
    with closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        return read_answer(response)


@contextmanager
def serving(artifacts: Path, **settings: str) -> Iterator[Server]:
    """A server that listens; ended, if the test has not done so, by a SIGTERM that it must obey with exit code 0."""
    with started(COMMAND, ROOT, artifacts, **settings) as server:
        yield server


@contextmanager
def started(command: Sequence[str], directory: Path, artifacts: Path, **settings: str) -> Iterator[Server]:
    """A server as `serving` gives it, by another command, in another directory."""
    log: list[str] = []
    with subprocess.Popen(
        command, cwd=directory, env=environment(artifacts, **settings), stderr=subprocess.PIPE, text=True
    ) as process:
        reader = threading.Thread(target=log.extend, args=(process.stderr,))
        try:
            server = Server(process, _listening_port(process, log), log)
            reader.start()
            yield server
            exit_code = server.stop()
        finally:
            process.kill()
            if reader.is_alive():
                reader.join(SECONDS)
    assert exit_code == 0, "".join(log)


def wait_until_in_flight(server: Server) -> None:
    until = time.monotonic() + 20
    while "\nreco_in_flight_requests 1.0\n" not in server.send("GET", "/metrics", None, {}).body.decode():
        assert time.monotonic() < until


def environment(artifacts: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECO_")}
    ours = {
        "RECO_ARTIFACTS": str(artifacts),
        "RECO_HOST": "127.0.0.1",
        "RECO_PORT": "0",
        "RECO_DRAIN_SECONDS": "0",
        "RECO_WORKERS": "1",  # a test that is about several says so
    }
    return {**inherited, **ours, **settings}


def _listening_port(process: subprocess.Popen[str], log: list[str]) -> int:
    """The port of the log line that says where the server listens."""
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        found = re.search(r"serving build .+ on http://127\.0\.0\.1:(\d+)\b", line.rstrip())
        if found:
            return int(found[1])
    raise AssertionError(f"the server ended: {''.join(log)}")
