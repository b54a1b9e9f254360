"""The listening socket that all workers share, and the count of connections that each of them has open."""

import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from service.errors import BadSetting

_NO_WORKER = 2**32 - 1


class ConnectionCounts:
    """How many connections each worker has open, in memory that the supervisor and the workers share."""

    def __init__(self, shared: int, workers: int):
        """Map the file that `shared_counts` made, given its descriptor."""
        self._counts = memoryview(mmap.mmap(shared, 4 * workers)).cast("I")

    def report(self, worker: int, count: int) -> None:
        self._counts[worker] = count

    def remove(self, worker: int) -> None:
        """Leave out a worker that has died, until it reports again."""
        self._counts[worker] = _NO_WORKER

    def has_fewest(self, worker: int) -> bool:
        """Whether no worker has fewer connections than this one."""
        return self._counts[worker] == min(self._counts)


@dataclass(frozen=True)
class SharedListener:
    """A listening socket that several workers share, and what one of them needs to share it fairly."""

    socket: socket.socket
    counts: ConnectionCounts
    worker: int

    @property
    def has_fewest(self) -> bool:
        return self.counts.has_fewest(self.worker)


def shared_counts(workers: int) -> int:
    """Open a file that the `ConnectionCounts` of several processes can share, and return its descriptor."""
    shared = os.memfd_create("connections")
    os.write(shared, struct.pack("I", _NO_WORKER) * workers)
    return shared


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket that does not listen yet: connections are refused until there is a build to serve.

    Raises:
        BadSetting: where the address cannot be listened on.
    """
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
