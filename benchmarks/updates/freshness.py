"""How long after a command the last worker of a running service answers from what it has published."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.catalogues import draw_users
from benchmarks.processes import ROOT, Service
from retrieval.artifact.store import current_build_id

_CONNECTIONS = 16  # A new one goes to the worker that has the fewest, so all workers have some.
_PROBE_SECONDS = 0.005
_MAX_SECONDS = 600.0
_VERSION = "X-Index-Version"


@dataclass(frozen=True)
class Freshness:
    """Seconds from the start of a command until it published a build, and until the last worker answered from it."""

    published: float
    served: float


class Watcher:
    """Asks all workers of a service for answers."""

    def __init__(self, service: Service, stack: ExitStack):
        self._connections = [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", service.port)))
            for _ in range(_CONNECTIONS)
        ]
        self._body = json.dumps({"name": "u", "vector": draw_users(1, seed=3)[0].tolist()})

    def reconnect(self) -> None:
        """Have the next requests open the connections again: the service closes those that nobody uses."""
        for connection in self._connections:
            connection.close()

    def serve(self, build_id: str) -> bool:
        """Whether a request on every connection is answered from a build."""
        return all(self._version(connection) == build_id for connection in self._connections)

    def _version(self, connection: http.client.HTTPConnection) -> str | None:
        connection.request("POST", "/infer", self._body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        return answer.headers[_VERSION]


@contextmanager
def watcher(service: Service) -> Iterator[Watcher]:
    with ExitStack() as stack:
        yield Watcher(service, stack)


def run_builder(root: Path, *options: object) -> subprocess.Popen[str]:
    """Start the builder's command."""
    words = [sys.executable, "-m", "index_builder", *map(str, options), "--out", str(root)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def publish(watcher: Watcher, root: Path, *options: object) -> Freshness:
    """Run the builder, and wait until all workers answer from what it has published."""
    before, began = current_build_id(root), time.perf_counter()
    with run_builder(root, *options) as command:
        while (build_id := current_build_id(root)) == before and command.poll() is None:
            time.sleep(_PROBE_SECONDS)
        published = time.perf_counter() - began
        watcher.reconnect()
        while build_id != before and not watcher.serve(build_id):
            assert time.perf_counter() - began < _MAX_SECONDS, "nobody serves what was published"
            time.sleep(_PROBE_SECONDS)
        served = time.perf_counter() - began
        _, errors = command.communicate()
    assert command.returncode == 0, errors
    return Freshness(published, served)


def figure(printed: str, pattern: str) -> str:
    """Return what a command has printed in the place of a pattern's group."""
    found = re.search(pattern, printed)
    assert found, printed
    return found[1]
