"""The worker processes of a batch: each answers one block at a time on one core."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from service.errors import BadBatch
from service.offline.blocks import Block, Place
from service.offline.parts import Parts
from service.offline.worker import Task

_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}  # a search is one thread; the processes keep the cores busy


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    at_work_on: Place | None = field(default=None)
    idle: bool = field(default=False)


class Pool:
    """Has blocks answered into parts. The processes start with the first block, and end with this one or before."""

    def __init__(self, task: Task, count: int, parts: Parts):
        self._task, self._count, self._parts = task, count, parts
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
            worker.process.wait()

    def give(self, block: Block) -> int:
        """Have a block answered, once a process has nothing else to do; how many users were answered meanwhile.

        Raises BadBatch where a process fails.
        """
        if not self._workers:
            self._workers = [self._start() for _ in range(self._count)]
        answered = 0
        while not any(worker.idle for worker in self._workers):
            answered += self._hear()
        worker = next(worker for worker in self._workers if worker.idle)
        worker.idle, worker.at_work_on = False, block.place
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which `_hear` will find
            worker.connection.send((self._parts.draft(block.place), block.place.first))
            worker.connection.send_bytes(block.content)
        return answered

    def finish(self) -> int:
        """Wait for all answers; how many users were answered meanwhile."""
        answered = 0
        while any(worker.at_work_on for worker in self._workers):
            answered += self._hear()
        return answered

    def _hear(self) -> int:
        """Wait until a process has finished something; how many users that answers."""
        answered = 0
        by_connection = {worker.connection: worker for worker in self._workers}
        for ready in wait(list(by_connection)):
            worker = by_connection[ready]  # type: ignore[index]
            try:
                failed = worker.connection.recv()
            except (EOFError, OSError):
                status = worker.process.wait()
                raise BadBatch(f"a worker process ended with status {status}; the same command goes on") from None
            if isinstance(failed, str):
                raise BadBatch(failed)
            if worker.at_work_on:
                self._parts.add(worker.at_work_on, failed)
                answered += worker.at_work_on.rows
            worker.idle, worker.at_work_on = True, None
        return answered

    def _start(self) -> _Worker:
        ours, theirs = Pipe()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "service.offline.worker", f"--connection={theirs.fileno()}"],
            env={**os.environ, **_ENVIRONMENT},
            process_group=0,  # Ctrl-C is for the first process, whose end ends the others
            pass_fds=[
                theirs.fileno(),
                self._parts.lock,
            ],  # the directory stays locked while one of them may write to it
        )
        theirs.close()
        ours.send(self._task)
        return _Worker(process, ours)
