"""Who takes a new connection: all workers hear of it on the socket that they share; who has the fewest should."""

import mmap
import os
import struct

_NOBODY = 2**32 - 1


class ConnectionCounts:
    """How many connections each worker has open, in memory that the supervisor and the workers share."""

    def __init__(self, shared: int, workers: int):
        """`shared` is the descriptor of a file made by `shared_counts`."""
        self._counts = memoryview(mmap.mmap(shared, 4 * workers)).cast("I")

    def tell(self, worker: int, count: int) -> None:
        self._counts[worker] = count

    def forget(self, worker: int) -> None:
        """Leave out a worker that has died, until it tells again."""
        self._counts[worker] = _NOBODY

    def are_fewest(self, worker: int) -> bool:
        """Whether no worker has fewer than this one."""
        return self._counts[worker] == min(self._counts)


def shared_counts(workers: int) -> int:
    """The descriptor of a file that the `ConnectionCounts` of several processes can share."""
    shared = os.memfd_create("connections")
    os.write(shared, struct.pack("I", _NOBODY) * workers)
    return shared
