"""A worker's server in a thread of the test's process, as the first of two workers."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.http.app import create_app
from service.recommender import Recommender, Serving
from service.settings import Settings
from service.workers.listener import ConnectionCounts, SharedListener, shared_counts
from service.workers.server import Server
from tests.support.server import SECONDS


@dataclass(frozen=True)
class ThreadedServer:
    """Where it listens, and the connection counts that it shares with a second worker, which is only a number there."""

    address: tuple[str, int]
    counts: ConnectionCounts

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=SECONDS) as connection:
            yield connection


@contextmanager
def threaded_server(recommender: Recommender, settings: Settings) -> Iterator[ThreadedServer]:
    serving = Serving(recommender)
    shared = shared_counts(2)
    counts = ConnectionCounts(shared, 2)
    counts.report(1, 10_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(create_app(serving, settings), serving, SharedListener(listener, counts, 0), settings)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield ThreadedServer(listener.getsockname(), counts)
        finally:
            server.end()
            thread.join(SECONDS)
            server.trigger.close()
            os.close(shared)
    assert not thread.is_alive()
