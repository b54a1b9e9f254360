"""A worker's server in a thread of the test's process, as the first of two workers."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.recommender import Recommender, Serving
from service.settings import Settings
from service.workers.listener import ConnectionCount, shared_counts
from service.workers.server import Server
from tests.support.server import SECONDS


@dataclass(frozen=True)
class ThreadedServer:
    """Where it listens, and the connection counts of itself and of a second worker, which is only a number there."""

    address: tuple[str, int]
    open_count: ConnectionCount
    other_count: ConnectionCount

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=SECONDS) as connection:
            yield connection


@contextmanager
def threaded_server(recommender: Recommender, settings: Settings) -> Iterator[ThreadedServer]:
    serving = Serving(recommender)
    shared = shared_counts(2)
    open_count, other_count = (ConnectionCount(shared, 2, worker) for worker in range(2))
    other_count.report(10_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(serving, listener, open_count, settings)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield ThreadedServer(listener.getsockname(), open_count, other_count)
        finally:
            server.end()
            thread.join(SECONDS)
            server.trigger.close()
            os.close(shared)
    assert not thread.is_alive()
