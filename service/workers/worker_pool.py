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
from service.workers.listener import ConnectionCounts, shared_counts

_POLL_SECONDS = 0.1
_MIN_SECONDS_BETWEEN_STARTS = 1.0
# A search is one thread; the searches of many users run beside each other.
_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    started: float
    build_id: str = ""


class WorkerPool:
    """The worker processes of a service. One that dies is started again, until they have been told to drain."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics_directory: Path):
        self._settings, self._listener, self._metrics_directory = settings, listener, metrics_directory
        self._cores, self._core_count = shared_cores(), available_cores()
        self._connections = shared_counts(settings.workers)
        self._workers: dict[int, _Worker] = {}
        self._restarts: dict[int, float] = {}  # When each dead worker is to be started again.
        self._build_id = ""
        self._have_served = self._accept = self._ending = False

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.wait()

    def start(self) -> None:
        for number in range(self._settings.workers):
            self._start(number)

    def load(self, build_id: str) -> None:
        self._build_id = build_id
        self.broadcast("load", build_id)

    def start_accepting(self) -> None:
        """Have the workers accept connections: once all can, so that the first does not get those of all."""
        self._accept = True
        self.broadcast("accept")
        count = self._settings.workers
        log.info("%d workers started; at most %d searches run at once", count, self._core_count)

    def broadcast(self, command: str, *arguments: str) -> None:
        self._ending = self._ending or command in ("drain", "end")
        for worker in self._workers.values():
            _send(worker.connection, (command, *arguments))

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

    def poll(self) -> None:
        """Handle messages of the workers for a moment, and start again those that have died.

        Raises:
            CannotServe: where no worker has served yet, and one of them cannot.
        """
        by_connection = {worker.connection: number for number, worker in self._workers.items()}
        for ready in wait(list(by_connection), _POLL_SECONDS):
            number = by_connection[ready]  # type: ignore[index]
            try:
                self._handle_message(number, *self._workers[number].connection.recv())
            except (EOFError, OSError):
                self._reap(number)
        for number, due in list(self._restarts.items()):
            if self._ending:
                del self._restarts[number]
            elif time.monotonic() >= due:
                del self._restarts[number]
                self._start(number)
                self.count("worker restart")

    def _start(self, number: int) -> None:
        ours, theirs = Pipe()
        descriptors = {
            "listener": self._listener.fileno(),
            "supervisor": theirs.fileno(),
            "cores": self._cores,
            "connections": self._connections,
        }
        options = {"number": number, "core-count": self._core_count, **descriptors}
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "service.workers.worker", *(f"--{name}={value}" for name, value in options.items())],
            env={**os.environ, **_WORKER_ENVIRONMENT, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_directory)},
            pass_fds=list(descriptors.values()),
        )
        theirs.close()
        self._workers[number] = _Worker(process, ours, time.monotonic())
        _send(ours, self._settings)
        if self._build_id:
            _send(ours, ("load", self._build_id))
        if self._accept:
            _send(ours, ("accept",))

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
        ConnectionCounts(self._connections, self._settings.workers).remove(number)
        status = worker.process.wait()
        mark_process_dead(worker.process.pid, str(self._metrics_directory))  # type: ignore[no-untyped-call]
        if self._ending:
            return
        if not self._have_served:
            raise CannotServe(f"worker {number} ended with status {status} before it could serve")
        log.error("worker %d ended with status %d and is started again", number, status)
        age = time.monotonic() - worker.started
        self._restarts[number] = time.monotonic() + max(0.0, _MIN_SECONDS_BETWEEN_STARTS - age)


def _send(connection: Connection, message: object) -> None:
    with suppress(OSError):  # The worker has died, which `poll` will find.
        connection.send(message)
