"""Watches a server from outside while clients are unkind to it: health, honest requests, and what its workers take."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from service.settings import read_settings
from tests.support.api import Answer
from tests.support.figures import record
from tests.support.server import Server, answer_on

MAX_HEALTH_SECONDS = 1.0  # The aim is 0.25 s; a machine that runs other tests may take its time.
SPARE_MB = 24  # of the interpreter, besides a fifth of the budget
_PROBE_SECONDS = 0.05
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Watched:
    """Seconds that each probe of health took, and those that failed; what became of honest requests; memory."""

    budget_mb: float  # of a worker
    seconds: list[float] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)  # of each probe to begin: what the machine is busy with
    failed: list[str] = field(default_factory=list)
    honest: Counter[str] = field(default_factory=Counter)
    most_grown_mb: float = 0.0  # of any worker
    workers_lost: int = 0

    def report(self, name: str, max_grown_mb: float | None = None, **figures: object) -> None:
        """Record the figures, and fail where the server did not stand it, or grew by more than its budget or this."""
        assert self.seconds, self.failed
        times = {
            "health_median_ms": median(self.seconds) * 1e3,
            "health_max_ms": max(self.seconds) * 1e3,
            "probe_late_max_ms": max(self.late_seconds) * 1e3,
        }
        lost = Counter({how: count for how, count in self.honest.items() if how not in ("200", "429", "503")})
        record(
            name,
            **{what: round(figure, 1) for what, figure in times.items()},
            grown_mb=round(self.most_grown_mb),
            budget_mb=round(self.budget_mb),
            honest_answered=self.honest["200"],
            honest_refused=self.honest["429"] + self.honest["503"],
            honest_lost=lost.total(),
            workers_lost=self.workers_lost,
            **figures,
        )
        assert (self.failed, lost, self.workers_lost) == ([], {}, 0)
        assert max(self.seconds) < MAX_HEALTH_SECONDS
        assert self.most_grown_mb < (max_grown_mb or 1.2 * self.budget_mb + SPARE_MB)


@contextmanager
def watched(server: Server, **headers: str) -> Iterator[Watched]:
    """Ask for health twenty times a second and as an honest client ten times, until the block ends.

    Each time on a new connection, and with these headers.
    """
    before, stopping = workers(server), threading.Event()
    settings = read_settings(_environment(before[0]))
    seen = Watched(settings.memory_bytes / settings.workers / 2**20)
    dimension = server.send("GET", "/index", None, headers).json["dimension"]
    body = json.dumps({"name": "honest", "vector": [1, *[2] * (dimension - 1)]}).encode()
    expected = server.send("POST", "/infer", body, headers).body

    def keep_asking() -> None:
        while not stopping.wait(2 * _PROBE_SECONDS):
            seen.honest[_fate(server, body, headers, expected)] += 1

    def keep_probing() -> None:
        due = time.monotonic() + _PROBE_SECONDS
        while not stopping.wait(_PROBE_SECONDS):
            seen.late_seconds.append(time.monotonic() - due)
            _probe(server, seen)
            due = time.monotonic() + _PROBE_SECONDS

    at_rest = {worker: resident_megabytes(worker) for worker in before}
    for worker in before:
        forget_peak(worker)
    threads = [threading.Thread(target=each) for each in (keep_probing, keep_asking)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    after = workers(server)
    seen.workers_lost = len({*before} - {*after})
    seen.most_grown_mb = max(peak_megabytes(worker) - at_rest.get(worker, 0) for worker in after)


def _probe(server: Server, seen: Watched) -> None:
    began = time.monotonic()
    try:
        answer = health(server)
    except OSError as error:
        seen.failed.append(f"{type(error).__name__} after {time.monotonic() - began:.1f} s")
        return
    seen.seconds.append(time.monotonic() - began)
    if answer.status != 200:
        seen.failed.append(str(answer.status))


def _fate(server: Server, body: bytes, headers: dict[str, str], expected: bytes) -> str:
    """Return the status of the answer to an honest request, or how it was lost."""
    try:
        answer = server.send("POST", "/infer", body, headers)
    except OSError as error:
        return type(error).__name__
    is_right = answer.body == expected if answer.status == 200 else "Retry-After" in answer.headers
    return str(answer.status) if is_right else f"wrong {answer.status}"


def _environment(process: int) -> dict[str, str]:
    variables = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(text.split("=", 1) for text in variables if text.startswith("RECO_"))


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


def resident_megabytes(process: int) -> float:
    return int(Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def forget_peak(process: int) -> None:
    with suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")
