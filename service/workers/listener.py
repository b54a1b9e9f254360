"""The listening socket that all workers share, and what each of them reports in memory that all share."""

import errno
import math
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from service.errors import BadSetting

_NO_WORKER = (math.inf, -math.inf)  # connections, and when the event loop turned
_REPORT = struct.Struct("dd")


class ConnectionCount:
    """How many connections a worker has open and when its event loop last turned, beside the reports of the others."""

    def __init__(self, shared: int, workers: int, worker: int):
        """Map the file that `shared_counts` made, given its descriptor."""
        reports = memoryview(mmap.mmap(shared, _REPORT.size * workers)).cast("d")
        self._counts, self._ticks = reports[:workers], reports[workers:]
        self._worker = worker

    def report(self, count: int) -> None:
        """Report so many connections, and that the event loop turns: a worker does it at least every second."""
        self._counts[self._worker], self._ticks[self._worker] = count, time.monotonic()

    def remove(self) -> None:
        """Leave out a worker that has died, until it reports again."""
        self._counts[self._worker], self._ticks[self._worker] = _NO_WORKER

    @property
    def last_tick(self) -> float:
        """When the worker reported last, as `time.monotonic` has it; -inf if it has not yet."""
        return self._ticks[self._worker]

    @property
    def is_lowest(self) -> bool:
        """Whether no worker has fewer connections than this one."""
        return self._counts[self._worker] == min(self._counts)


def shared_counts(workers: int) -> int:
    """Open a file for the reports of all workers, and return its descriptor."""
    shared = os.memfd_create("connections")
    os.truncate(shared, _REPORT.size * workers)
    for worker in range(workers):
        ConnectionCount(shared, workers, worker).remove()
    return shared


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket that refuses connections until there is a build to serve. Raises BadSetting where it cannot.

    On `::` it takes IPv4 as well.
    """
    with ExitStack() as stack:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind(address)
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
            where = f"RECO_PORT={port}" if getattr(error, "errno", None) == errno.EADDRINUSE else f"RECO_HOST={host!r}"
            raise BadSetting(f"{where}: cannot listen there: {error}") from error
        yield bound
