"""Builders that are struck at a chosen moment.

Each is a fork of one warm process that has never searched or built, so that hundreds of them take seconds. Run as a
module, it reads an order a line and answers with an outcome a line, both JSON.
"""

import builtins
import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import faiss

from index_builder import __main__ as builder
from index_builder import tuning

TOP = Path(__file__).parent.parent.parent
READING = {"read", "os.listdir", "os.scandir", "mmap.__new__"}
_CHANGING = {"open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate"}
_OPERATIONS = READING | _CHANGING | {"fcntl.flock"}
_STAGES = {"train": faiss.IndexPQFastScan, "add": faiss.IndexHNSWFlat}


@dataclass(frozen=True)
class Order:
    """A run of the builder with `arguments`, and how to strike it.

    `kill` or `fail` its file operation number `at` under `within`, or cut its files at `largest_file` bytes, or kill it
    `delay` seconds after `stage` begins ("start" is the first).
    """

    arguments: list[str]
    within: str
    how: str = "spare"
    at: int | None = None
    largest_file: int | None = None
    stage: str | None = None
    delay: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a builder ended.

    Its exit code, negative where a signal ended it; its operations and stages, each as (what, seconds, path); inodes it
    had synced; what it printed to stderr.
    """

    code: int
    operations: list[tuple[str, float, str]]
    synced: list[int]
    stderr: str


class StruckBuilders:
    """The warm process, as its user sees it."""

    def __enter__(self) -> "StruckBuilders":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_injection"],
            cwd=TOP,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        orders, outcomes = self._pipes()
        orders.close()
        self._process.wait(30)
        outcomes.close()

    def run(self, order: Order) -> Outcome:
        orders, outcomes = self._pipes()
        orders.write(json.dumps(asdict(order)) + "\n")
        orders.flush()
        return Outcome(**json.loads(outcomes.readline()))

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


class _Blow:
    """Notes every operation in a pipe, and strikes at the chosen one."""

    def __init__(self, order: Order, notes: int):
        self._order, self._notes, self._count, self._started = order, notes, 0, time.perf_counter()

    def audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPERATIONS and (path := self._path(arguments[0])):
            reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self.operation("read" if reads else event, path)

    def operation(self, what: str, path: str) -> None:
        self.note(what, path)
        self._count += 1
        if self._count - 1 == self._order.at:
            if self._order.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def opener(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        """`open` with a second operation, where a file that is to be written exists and is still empty."""

        def open_and_strike(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            stream = opened(file, mode, *arguments, **options)
            if "w" in mode and (path := self._path(file)):
                with ExitStack() as on_error:
                    on_error.callback(stream.close)
                    self.operation("write", path)
                    on_error.pop_all()
            return stream

        return open_and_strike

    def fsync(self, descriptor: int) -> None:
        """What is written survives a killed process without a sync, so the disk is spared."""
        self.operation("os.fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        self.note("synced", str(os.fstat(descriptor).st_ino))

    def note(self, what: str, path: str) -> None:
        os.write(self._notes, f"{what}\t{time.perf_counter() - self._started}\t{path}\n".encode())

    def _path(self, target: Any) -> str | None:
        """The path of an operation that counts; a relative one is of a directory tree that is being removed."""
        if isinstance(target, int):
            if target < 0:
                return None
            target = Path(f"/proc/self/fd/{target}").readlink()
        path = os.fsdecode(target)
        return path if path.startswith(self._order.within) or not path.startswith("/") else None


def _announced(blow: _Blow, stage: str, method: Callable[..., None]) -> Callable[..., None]:
    def announced(*arguments: Any) -> None:
        blow.note(f"begin {stage}", "")
        method(*arguments)
        blow.note(f"end {stage}", "")

    return announced


def _build(order: Order, notes: int, stderr: int) -> int:
    os.dup2(stderr, 2)
    os.dup2(stderr, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order.largest_file is not None:
        # The kernel ends a process that writes beyond its limit, unless that ignores the signal: the write fails then.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if order.how == "kill" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.largest_file, order.largest_file))
    blow = _Blow(order, notes)
    for stage, kind in _STAGES.items():
        setattr(kind, stage, _announced(blow, stage, getattr(kind, stage)))
    os.fsync = blow.fsync  # type: ignore[assignment]
    io.open = builtins.open = blow.opener(builtins.open)
    blow.note("begin start", "")
    sys.addaudithook(blow.audited)
    return builder.main(order.arguments)


def _run(order: Order) -> Outcome:
    notes, childs_notes = os.pipe()
    stderr, childs_stderr = os.pipe()  # no file, whose size might be limited
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _build(order, childs_notes, childs_stderr)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(childs_notes)
    os.close(childs_stderr)
    text = b""
    while part := os.read(notes, 65536):
        text += part
        if order.stage and f"begin {order.stage}\t".encode() in part:
            time.sleep(order.delay)
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(notes)
    message = os.read(stderr, 65536).decode()
    os.close(stderr)
    lines = [line.split("\t", 2) for line in text.decode().splitlines()]
    return Outcome(
        os.waitstatus_to_exitcode(status),
        [(what, float(seconds), path) for what, seconds, path in lines if what != "synced"],
        [int(inode) for what, _, inode in lines if what == "synced"],
        message,
    )


def _main() -> None:
    # Drawing and timing would take longer than the rest.
    sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]
    tuning._TIMED_USERS = 15
    for line in sys.stdin:
        print(json.dumps(asdict(_run(Order(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    _main()
