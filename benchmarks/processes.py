"""The service, or what it is compared with, as processes of their own."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Service:
    """A running server, or the first of its processes."""

    label: str
    port: int
    process: subprocess.Popen[bytes]


def build(tree: Path, directory: Path, out: Path) -> None:
    sources = ["--products", str(directory / "products.npz"), "--queries", str(directory / "queries.npz")]
    command = [sys.executable, "-m", "index_builder", *sources, "--out", str(out)]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def service(label: str, tree: Path, artifacts: Path) -> Iterator[Service]:
    """The service of a source tree, ready."""
    port = free_port()
    settings = {"RECO_ARTIFACTS": str(artifacts), "RECO_HOST": "127.0.0.1", "RECO_PORT": str(port)}
    with running(["-m", "service", "serve"], tree, {**settings, "RECO_DRAIN_SECONDS": "0"}) as process:
        wait_for(port, "/health/ready")
        yield Service(label, port, process)


@contextmanager
def baseline(label: str, *arguments: object) -> Iterator[Service]:
    port = free_port()
    kind, *rest = map(str, arguments)
    with running(["-m", "benchmarks.baselines", kind, str(port), *rest], ROOT, {}) as process:
        wait_for(port, "/")
        yield Service(label, port, process)


@contextmanager
def running(arguments: Sequence[str], cwd: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process and its children, in a group of their own that is ended with it."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(port: int, path: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                connection.request("GET", path)
                if connection.getresponse().status < 500:
                    return
        except OSError:
            pass
        assert time.monotonic() < until, f"nothing answers on port {port}"
        time.sleep(0.02)


@contextmanager
def checkout(revision: str, directory: Path) -> Iterator[Path]:
    subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(directory), revision], cwd=ROOT, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(directory)], cwd=ROOT, check=True)


def children(process: int) -> list[int]:
    """Return the process ids of a process's children, none if it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
