"""The container's memory, and its cores, shared out so that searches have no more threads than it."""

import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_thread = threading.local()
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class Cores:
    """Hands out cores to searches, and to what makes lists of what they find.

    A core is a byte of a file in memory, which worker processes share; who has locked it, has the core. The kernel
    frees the locks of a process that dies.
    """

    def __init__(self, shared: int, count: int, worker: int = 0, workers: int = 1):
        """Open the file that `shared` is the descriptor of, for one of `workers` processes.

        Its own cores, of `count`, a process takes first and waits for; the others it takes only while they are idle.
        Every core is the own one of some worker, and every worker has one.
        """
        self.count = count
        self._file = os.open(f"/proc/self/fd/{shared}", os.O_RDWR)  # Each open file has locks of its own.
        self._in_process = [threading.Lock() for _ in range(count)]
        self._working = threading.local()
        self._own = [core for core in range(count) if core % workers == worker % count]
        self._others = [core for core in range(count) if core not in self._own]

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a core: one of the process's own, or any that is idle; while there is none, wait for an own one.

        A thread that has called `never_wait` goes on without a core then.
        """
        core = self._take_idle()
        if core is None and not getattr(_thread, "never_waits", False):
            core = self._await_own()
        with self._held(core):
            yield

    @contextmanager
    def work(self) -> Iterator[None]:
        """Do what `one` does, unless the calling thread is within `work` already: it goes on with its core."""
        if getattr(self._working, "is_within", False):
            yield
            return
        with self.one():
            self._working.is_within = True
            try:
                yield
            finally:
                self._working.is_within = False

    @contextmanager
    def idle(self) -> Iterator[bool]:
        """Hold a core that is idle, if there is one, and tell whether there is."""
        core = self._take_idle()
        with self._held(core):
            yield core is not None

    @contextmanager
    def _held(self, core: int | None) -> Iterator[None]:
        """Free the core, if there is one, at the end."""
        try:
            yield
        finally:
            if core is not None:
                self._lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, core)
                self._in_process[core].release()

    def _take_idle(self) -> int | None:
        for core in self._own + self._others:
            if self._in_process[core].acquire(blocking=False):
                try:
                    self._lock(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, core)
                    return core
                except OSError:  # Another process has it.
                    self._in_process[core].release()
        return None

    def _await_own(self) -> int:
        core = self._own[0]
        self._in_process[core].acquire()
        self._lock(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, core)
        return core

    def _lock(self, command: int, kind: int, core: int) -> None:
        fcntl.fcntl(self._file, command, struct.pack("hhqqi", kind, os.SEEK_SET, core, 1, 0))  # C's struct flock


def never_wait() -> None:
    """Let the calling thread compute without a core of its own rather than wait for one."""
    _thread.never_waits = True


def shared_cores() -> int:
    """Open a file that the `Cores` of several processes can share, and return its descriptor."""
    return os.memfd_create("cores")


def available_memory() -> int:
    """Return how many bytes this process may use: the machine's, or fewer where its container has a limit."""
    count = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            count = min(count, int(path.read_text()))
    return count
