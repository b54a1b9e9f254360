"""The worker processes: started, commanded, watched, and started again when they die."""

import logging
import math
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from retrieval import VERSION
from retrieval.cores import available_cores
from service.cores import shared_cores
from service.errors import CannotServe
from service.settings import Settings
from service.workers.listener import ConnectionCount, shared_counts
from service.workers.logs import counted

MAX_OPENING_SECONDS = 300.0  # for a worker to open a build
_MAX_FIRST_TICK_SECONDS = 10.0  # then for its event loop to turn
POLL_SECONDS = 0.1
_MAX_LATE_SECONDS = 2.0  # between two polls; if there are more, the machine or this process was stopped
_EXIT_SECONDS = 1.0  # for a worker whose pipe is closed to be gone
_MIN_RESTART_SECONDS, _MAX_RESTART_SECONDS = 1.0, 30.0
# A search is one thread; the searches of many users run beside each other.
_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    failures: int  # of those before it, one after the other, that ended before they served
    started: float = field(default_factory=time.monotonic)
    commanded: float = math.inf  # when it last got to do what ends with a tick
    build_id: str = ""  # what it serves
    prepared_id: str = ""  # what it has opened to serve next
    is_killed: bool = False

    def command(self, command: tuple[str, ...]) -> None:
        if command[0] in ("serve", "accept"):
            self.commanded = time.monotonic()
        self.send(command)

    def send(self, message: object) -> None:
        with suppress(OSError):  # The worker has died, which `poll` will find.
            self.connection.send(message)


@dataclass(frozen=True)
class _Restart:
    due: float
    failures: int


class WorkerPool:
    """The worker processes of a service. One that dies or hangs is replaced, until they have been told to drain."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics_directory: Path):
        self._settings, self._listener, self._metrics_directory = settings, listener, metrics_directory
        self._cores, self._core_count = shared_cores(), available_cores()
        self._shared_counts = shared_counts(settings.workers)
        self._counts = [
            ConnectionCount(self._shared_counts, settings.workers, number) for number in range(settings.workers)
        ]
        self._workers: dict[int, _Worker] = {}
        self._restarts: dict[int, _Restart] = {}
        self._commands: dict[str, tuple[str, ...]] = {}  # The last of each kind, for workers that start later.
        self._have_served = False
        self._last_poll = self._watched_since = time.monotonic()
        self.refusal = ""  # why a worker cannot serve what all prepare

    def kill(self) -> int:
        """Kill all workers that are running, and return how many there were."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.wait()
        return len(self._workers)

    def start(self) -> None:
        for number in range(self._settings.workers):
            self._start(number)

    def start_accepting(self) -> None:
        """Have the workers accept connections: once all can, so that the first does not get those of all."""
        self.broadcast("accept")
        workers, cores = counted(self._settings.workers, "worker"), counted(self._core_count, "core")
        log.info("jetmlett %s: %s; searches use at most %s", VERSION, workers, cores)

    def prepare(self, build_id: str) -> None:
        """Have all workers open a build, beside the one that they serve."""
        self.refusal = ""
        self.broadcast("prepare", build_id)

    def drop(self) -> None:
        """Have all workers close the build that they have prepared."""
        del self._commands["prepare"]
        for worker in self._workers.values():
            worker.prepared_id = ""
            worker.send(("drop",))

    def serve(self, build_id: str) -> None:
        """Have all workers serve a build, which those that have not prepared it open first."""
        self._commands.pop("prepare", None)
        self.broadcast("serve", build_id)
        # Workers that could not open the build before may open this one.
        self._restarts = {number: _Restart(time.monotonic(), 0) for number in self._restarts}

    def broadcast(self, command: str, *arguments: str) -> None:
        self._commands[command] = (command, *arguments)
        for worker in self._workers.values():
            worker.command(self._commands[command])

    def record(self, event: str, amount: float = 1) -> None:
        """Have one worker add an event of the supervisor's, or so much of it, to the metrics."""
        for worker in list(self._workers.values())[:1]:
            worker.send(("record", event, amount))

    def all_prepared(self, build_id: str) -> bool:
        """Whether no worker is left that would have to open a build first; those that are not running will."""
        return all(worker.prepared_id == build_id for worker in self._workers.values())

    def all_serve(self, build_id: str) -> bool:
        serving = [worker for worker in self._workers.values() if worker.build_id == build_id]
        return len(serving) == self._settings.workers

    @property
    def any_serve(self) -> bool:
        return any(worker.build_id for worker in self._workers.values())

    def has_changed_over(self, build_id: str) -> bool:
        """Whether all workers that serve a build serve this one; others may be starting, or fail to."""
        return {worker.build_id for worker in self._workers.values() if worker.build_id} == {build_id}

    @property
    def are_running(self) -> bool:
        return bool(self._workers)

    @property
    def _preparing_id(self) -> str:
        """What all workers prepare, if anything."""
        return self._commands.get("prepare", ("", ""))[1]

    @property
    def _is_ending(self) -> bool:
        return not self._commands.keys().isdisjoint(("drain", "end"))

    def poll(self, seconds: float = POLL_SECONDS) -> None:
        """Handle messages of the workers, end those that hang, and start again those that have died.

        It waits some seconds for messages. Raises CannotServe where no worker has served yet, and one of them cannot.
        """
        by_connection = {worker.connection: number for number, worker in self._workers.items()}
        for ready in wait(list(by_connection), seconds):
            number = by_connection[ready]  # type: ignore[index]
            try:
                self._handle_message(number, *self._workers[number].connection.recv())
            except (EOFError, OSError):
                self._reap(number)
        self._watch()
        for number, restart in list(self._restarts.items()):
            if time.monotonic() >= restart.due and not self._is_ending:
                self._restart(number, self._restarts.pop(number).failures)

    def _restart(self, number: int, failures: int) -> None:
        try:
            self._start(number, failures)
        except OSError as error:  # Memory, processes or descriptors may be short for a while.
            log.error("worker %d cannot be started: %s", number, error)
            self._schedule_restart(number, time.monotonic(), failures + 1)
        else:
            self.record("worker restart")

    def _schedule_restart(self, number: int, started: float, failures: int) -> float:
        """Plan the next start of a worker that was `started` before, and return in how many seconds it is due."""
        due = started + min(_MIN_RESTART_SECONDS * 2 ** min(failures, 10), _MAX_RESTART_SECONDS)
        self._restarts[number] = _Restart(due, failures)
        return max(0.0, due - time.monotonic())

    def _start(self, number: int, failures: int = 0) -> None:
        ours, theirs = Pipe()
        descriptors = (self._listener.fileno(), self._cores, self._shared_counts)
        metrics = {"PROMETHEUS_MULTIPROC_DIR": str(self._metrics_directory), "PROMETHEUS_PROCESS": str(number)}
        with theirs:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "service.workers.worker", str(theirs.fileno())],
                env={**os.environ, **_WORKER_ENVIRONMENT, **metrics},
                pass_fds=[theirs.fileno(), *descriptors],
            )
        worker = self._workers[number] = _Worker(process, ours, failures)
        worker.send((self._settings, number, self._core_count, descriptors))
        for command in self._commands.values():
            worker.command(command)

    def _handle_message(self, number: int, event: str, build_id: str, text: str = "") -> None:
        worker = self._workers[number]
        if event == "serving":
            worker.build_id, worker.prepared_id = build_id, ""
            self._have_served, worker.commanded = True, math.inf
            if "accept" in self._commands:
                worker.commanded = time.monotonic()
            log.debug("worker %d serves build %s", number, build_id)
        elif event == "prepared":
            worker.prepared_id = build_id
        elif worker.build_id:
            if build_id == self._preparing_id:
                self.refusal = f"worker {number}: {text}"
        elif self._have_served:
            log.error("worker %d cannot serve build %s: %s", number, build_id, text)
        else:
            raise CannotServe(f"worker {number}: {text}")

    def _reap(self, number: int) -> None:
        worker = self._workers.pop(number)
        worker.connection.close()
        self._counts[number].remove()
        try:
            status = worker.process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        mark_process_dead(number, str(self._metrics_directory))  # type: ignore[no-untyped-call]
        if self._is_ending:
            return
        if not self._have_served:
            raise CannotServe(f"worker {number} ended with status {status} before it could serve")
        if worker.build_id and self._preparing_id not in ("", worker.prepared_id):
            self.refusal = f"worker {number} ended with status {status} while it opened build {self._preparing_id}"
        failures = 0 if worker.build_id else worker.failures + 1
        seconds = self._schedule_restart(number, worker.started, failures)
        log.error("worker %d ended with status %d and is started again in %.1f s", number, status, seconds)

    def _watch(self) -> None:
        """Kill workers whose event loop does not turn, or takes too long until it does.

        What happened while this process itself was stopped is not held against them.
        """
        now = time.monotonic()
        if now - self._last_poll > _MAX_LATE_SECONDS:
            self._watched_since = now
        self._last_poll = now
        if not self._settings.watchdog_seconds or "end" in self._commands:
            return
        for number, worker in self._workers.items():
            last_tick, limit = self._counts[number].last_tick, float(self._settings.watchdog_seconds)
            if last_tick == -math.inf:
                last_tick = worker.commanded
                limit = _MAX_FIRST_TICK_SECONDS if worker.build_id else MAX_OPENING_SECONDS
            seconds = now - max(last_tick, self._watched_since)
            if seconds > limit and not worker.is_killed:
                log.error("worker %d has not ticked for %.1f s and is killed", number, seconds)
                worker.is_killed = True
                worker.process.kill()
