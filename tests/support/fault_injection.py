"""Builders with a fault injected at a chosen moment.

Each is a fork of one warm process that has never searched or built, so that hundreds of them take seconds. Run as a
module, it reads a `FaultSpec` a line and answers with an `Outcome` a line, both JSON.
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
from index_builder.tuning import clock

TOP = Path(__file__).parent.parent.parent
READING = {"read", "os.listdir", "os.scandir", "mmap.__new__"}
_CHANGING = {"open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate"}
_OPERATIONS = READING | _CHANGING | {"fcntl.flock"}
_STAGES = {"train": faiss.IndexPQFastScan, "add": faiss.IndexHNSWFlat}


@dataclass(frozen=True)
class FaultSpec:
    """The `arguments` of a builder, and the fault to inject into it.

    `effect` is "kill" or "fail", for its file operation number `at` under the directory `within`, or for a write beyond
    `max_file_bytes`. With a `stage` ("start" is the first), it is killed `delay_seconds` after that begins.
    """

    arguments: list[str]
    within: str
    effect: str = "none"
    at: int | None = None
    max_file_bytes: int | None = None
    stage: str | None = None
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a builder ended.

    `code` is its exit code, negative where a signal ended it; `operations` are its file operations and stages as
    (operation, seconds, path); `synced` are the inodes that it had synced.
    """

    code: int
    operations: list[tuple[str, float, str]]
    synced: list[int]
    stderr: str


class FaultyBuilders:
    """The client of the warm process."""

    def __enter__(self) -> "FaultyBuilders":
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

    def run(self, spec: FaultSpec) -> Outcome:
        orders, outcomes = self._pipes()
        orders.write(json.dumps(asdict(spec)) + "\n")
        orders.flush()
        return Outcome(**json.loads(outcomes.readline()))

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


class _Fault:
    """Logs every operation to a pipe, and kills or fails the chosen one."""

    def __init__(self, spec: FaultSpec, log: int):
        self._spec, self._log, self._count, self._started = spec, log, 0, time.perf_counter()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPERATIONS and (path := self._path(arguments[0])):
            reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self.operation("read" if reads else event, path)

    def operation(self, name: str, path: str) -> None:
        self.log(name, path)
        self._count += 1
        if self._count - 1 == self._spec.at:
            if self._spec.effect == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def opener(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `open` with a second operation, when a file to be written exists and is still empty."""

        def open_faulty(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            stream = opened(file, mode, *arguments, **options)
            if "w" in mode and (path := self._path(file)):
                with ExitStack() as on_error:
                    on_error.callback(stream.close)
                    self.operation("write", path)
                    on_error.pop_all()
            return stream

        return open_faulty

    def fsync(self, descriptor: int) -> None:
        """Count a sync without doing it: what is written survives a killed process anyway."""
        self.operation("os.fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        self.log("synced", str(os.fstat(descriptor).st_ino))

    def log(self, name: str, path: str) -> None:
        os.write(self._log, f"{name}\t{time.perf_counter() - self._started}\t{path}\n".encode())

    def _path(self, target: Any) -> str | None:
        """Return the path of an operation that counts; a relative one is of a directory tree that is being removed."""
        if isinstance(target, int):
            if target < 0:
                return None
            target = Path(f"/proc/self/fd/{target}").readlink()
        path = os.fsdecode(target)
        return path if path.startswith(self._spec.within) or not path.startswith("/") else None


def _logged(fault: _Fault, stage: str, method: Callable[..., None]) -> Callable[..., None]:
    def logged(*arguments: Any) -> None:
        fault.log(f"begin {stage}", "")
        method(*arguments)
        fault.log(f"end {stage}", "")

    return logged


def _build(spec: FaultSpec, log: int, stderr: int) -> int:
    os.dup2(stderr, 2)
    os.dup2(stderr, 1)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 (for the end)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if spec.max_file_bytes is not None:
        # The kernel ends a process that writes beyond its limit, unless that ignores the signal: the write fails then.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if spec.effect == "kill" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (spec.max_file_bytes, spec.max_file_bytes))
    fault = _Fault(spec, log)
    for stage, kind in _STAGES.items():
        setattr(kind, stage, _logged(fault, stage, getattr(kind, stage)))
    os.fsync = fault.fsync  # type: ignore[assignment]
    io.open = builtins.open = fault.opener(builtins.open)
    fault.log("begin start", "")
    sys.addaudithook(fault.audit)
    return builder.main(spec.arguments)


def _run(spec: FaultSpec) -> Outcome:
    log, childs_log = os.pipe()
    stderr, childs_stderr = os.pipe()  # no file, whose size might be limited
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _build(spec, childs_log, childs_stderr)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(childs_log)
    os.close(childs_stderr)
    text = b""
    while part := os.read(log, 65536):
        text += part
        if spec.stage and f"begin {spec.stage}\t".encode() in part:
            time.sleep(spec.delay_seconds)
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(log)
    message = os.read(stderr, 65536).decode()
    os.close(stderr)
    lines = [line.split("\t", 2) for line in text.decode().splitlines()]
    return Outcome(
        os.waitstatus_to_exitcode(status),
        [(name, float(seconds), path) for name, seconds, path in lines if name != "synced"],
        [int(inode) for name, _, inode in lines if name == "synced"],
        message,
    )


def _main() -> None:
    # Timing would take longer than the rest.
    clock._MAX_TIMED_CALLS = 15
    for line in sys.stdin:
        print(json.dumps(asdict(_run(FaultSpec(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    _main()
