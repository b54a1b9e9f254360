"""The worker processes: started, commanded, and started again when they die."""

import logging
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from service.cores import available_cores, shared_cores
from service.errors import CannotServe
from service.settings import Settings
from service.workers.listener import ConnectionCount, shared_counts

_POLL_SECONDS = 0.1
_MIN_SECONDS_BETWEEN_STARTS = 1.0
# A search is one thread; the searches of many users run beside each other.
_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    build_id: str = ""


class WorkerPool:
    """The worker processes of a service. One that dies is started again, until they have been told to drain."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics_directory: Path):
        self._settings, self._listener, self._metrics_directory = settings, listener, metrics_directory
        self._cores, self._core_count = shared_cores(), available_cores()
        self._connections = shared_counts(settings.workers)
        self._workers: dict[int, _Worker] = {}
        self._started: dict[int, float] = {}
        self._commands: dict[str, tuple[str, ...]] = {}  # The last of each kind, for workers that start later.
        self._have_served = False

    def kill(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.wait()

    def start(self) -> None:
        for number in range(self._settings.workers):
            self._start(number)

    def start_accepting(self) -> None:
        """Have the workers accept connections: once all can, so that the first does not get those of all."""
        self.broadcast("accept")
        log.info("%d workers started; at most %d searches run at once", self._settings.workers, self._core_count)

    def broadcast(self, command: str, *arguments: str) -> None:
        self._commands[command] = (command, *arguments)
        for worker in self._workers.values():
            _send(worker.connection, self._commands[command])

    def count(self, event: str) -> None:
        """Have one worker count an event of the supervisor's."""
        for worker in list(self._workers.values())[:1]:
            _send(worker.connection, ("count", event))

    def all_serve(self, build_id: str) -> bool:
        serving = [worker for worker in self._workers.values() if worker.build_id == build_id]
        return len(serving) == self._settings.workers

    @property
    def are_running(self) -> bool:
        return bool(self._workers)

    @property
    def _is_ending(self) -> bool:
        return not self._commands.keys().isdisjoint(("drain", "end"))

    def poll(self) -> None:
        """Handle messages of the workers for a moment, and start again those that have died.

        Raises CannotServe where no worker has served yet, and one of them cannot.
        """
        by_connection = {worker.connection: number for number, worker in self._workers.items()}
        for ready in wait(list(by_connection), _POLL_SECONDS):
            number = by_connection[ready]  # type: ignore[index]
            try:
                self._handle_message(number, *self._workers[number].connection.recv())
            except (EOFError, OSError):
                self._reap(number)
        for number, started in self._started.items():
            is_due = time.monotonic() - started >= _MIN_SECONDS_BETWEEN_STARTS
            if number not in self._workers and is_due and not self._is_ending:
                self._start(number)
                self.count("worker restart")

    def _start(self, number: int) -> None:
        ours, theirs = Pipe()
        descriptors = (self._listener.fileno(), self._cores, self._connections)
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "service.workers.worker", str(theirs.fileno())],
            env={**os.environ, **_WORKER_ENVIRONMENT, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_directory)},
            pass_fds=[theirs.fileno(), *descriptors],
        )
        theirs.close()
        self._workers[number], self._started[number] = _Worker(process, ours), time.monotonic()
        for message in ((self._settings, number, self._core_count, descriptors), *self._commands.values()):
            _send(ours, message)

    def _handle_message(self, number: int, event: str, text: str) -> None:
        if event == "serving":
            self._workers[number].build_id = text
            self._have_served = True
            log.debug("worker %d serves build %s", number, text)
        elif self._have_served:
            log.error("worker %d cannot serve a build: %s", number, text)
        else:
            raise CannotServe(f"worker {number}: {text}")

    def _reap(self, number: int) -> None:
        worker = self._workers.pop(number)
        worker.connection.close()
        ConnectionCount(self._connections, self._settings.workers, number).remove()
        status = worker.process.wait()
        mark_process_dead(worker.process.pid, str(self._metrics_directory))  # type: ignore[no-untyped-call]
        if self._is_ending:
            return
        if not self._have_served:
            raise CannotServe(f"worker {number} ended with status {status} before it could serve")
        log.error("worker %d ended with status %d and is started again", number, status)


def _send(connection: Connection, message: object) -> None:
    with suppress(OSError):  # The worker has died, which `poll` will find.
        connection.send(message)
