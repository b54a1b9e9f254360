"""The listening socket that all workers share, and the count of connections that each of them has open."""

import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from service.errors import BadSetting

_NO_WORKER = 2**32 - 1


class ConnectionCount:
    """How many connections a worker has open, beside the counts of the others in memory that all share."""

    def __init__(self, shared: int, workers: int, worker: int):
        """Map the file that `shared_counts` made, given its descriptor."""
        self._counts = memoryview(mmap.mmap(shared, 4 * workers)).cast("I")
        self._worker = worker

    def report(self, count: int) -> None:
        self._counts[self._worker] = count

    def remove(self) -> None:
        """Leave out a worker that has died, until it reports again."""
        self.report(_NO_WORKER)

    @property
    def is_lowest(self) -> bool:
        """Whether no worker has fewer connections than this one."""
        return self._counts[self._worker] == min(self._counts)


def shared_counts(workers: int) -> int:
    """Open a file for the counts of all workers, and return its descriptor."""
    shared = os.memfd_create("connections")
    os.write(shared, struct.pack("I", _NO_WORKER) * workers)
    return shared


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket that refuses connections until there is a build to serve. Raises BadSetting where it cannot."""
    with ExitStack() as stack:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(address)
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
            where = f"RECO_PORT={port}" if getattr(error, "errno", None) == errno.EADDRINUSE else f"RECO_HOST={host!r}"
            raise BadSetting(f"{where}: cannot listen there: {error}") from error
        yield bound
