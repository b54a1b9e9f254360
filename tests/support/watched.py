"""Watches a server from outside while clients are unkind to it: how soon health answers, and what its workers take."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.support.api import Answer
from tests.support.figures import record
from tests.support.server import Server, answer_on

MAX_HEALTH_SECONDS = 1.0  # The aim is 0.25 s; a machine that runs other tests may take its time.
_PROBE_SECONDS = 0.05
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Watched:
    """Seconds that each probe of health took, and those that never came back."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def report(self, name: str, **figures: object) -> None:
        """Record the figures, and fail where health was not answered in time."""
        assert self.seconds, self.failed
        times = {"health_median_ms": median(self.seconds) * 1e3, "health_max_ms": max(self.seconds) * 1e3}
        record(name, **{what: round(figure, 1) for what, figure in times.items()}, **figures)
        assert self.failed == []
        assert max(self.seconds) < MAX_HEALTH_SECONDS


@contextmanager
def watched(server: Server) -> Iterator[Watched]:
    """Ask for health twenty times a second, each time on a new connection, until the block ends."""
    seen, stopping = Watched(), threading.Event()

    def probe() -> None:
        while not stopping.wait(_PROBE_SECONDS):
            began = time.monotonic()
            try:
                answer = health(server)
                seen.seconds.append(time.monotonic() - began)
                if answer.status != 200:
                    seen.failed.append(str(answer.status))
            except OSError as error:
                seen.failed.append(f"{type(error).__name__} after {time.monotonic() - began:.1f} s")

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        thread.join()


def health(server: Server) -> Answer:
    with server.raw() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return answer_on(connection)


def workers(server: Server) -> list[int]:
    listing = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(word) for word in listing.read_text().split()]


def processor_seconds(process: int) -> float:
    """How long a process has computed so far."""
    facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / _CLOCK_TICKS


def peak_megabytes(process: int) -> float:
    """How much memory a process has had at most, since it began or since `forget_peak`."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def forget_peak(process: int) -> None:
    with suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")
