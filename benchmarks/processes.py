"""The builder, and the service or what it is compared with, as processes of their own."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_START_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Service:
    """A running server: its port, the first of its processes, and a connection to it."""

    label: str
    port: int
    process_id: int
    connection: http.client.HTTPConnection


def read_answer(process: "subprocess.Popen[str]") -> Any:
    """Return what the next line that a process prints holds as JSON. Raises SystemExit where it has ended instead."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended with status {process.wait()}")
    return json.loads(line)


def build(directory: Path, name: str, *options: str, tree: Path = ROOT) -> Path:
    """Build an index of the sources in a directory with a source tree's builder; return the artifacts root."""
    files = [
        "--products",
        directory / "products.npz",
        "--queries",
        directory / "queries.npz",
        "--out",
        directory / name,
    ]
    subprocess.run(
        [sys.executable, "-m", "index_builder", *map(str, files), *options],
        cwd=tree,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return directory / name


def service(label: str, artifacts: Path, tree: Path = ROOT) -> AbstractContextManager[Service]:
    """Run the service of a source tree."""
    port = _free_port()
    address = {"RECO_HOST": "127.0.0.1", "RECO_PORT": str(port)}
    settings = {"RECO_ARTIFACTS": str(artifacts), "RECO_DRAIN_SECONDS": "0", **address}
    return _running(label, port, "/health/ready", ["service", "serve"], tree, settings)


def baseline(label: str, kind: str, argument: object) -> AbstractContextManager[Service]:
    port = _free_port()
    return _running(label, port, "/", ["benchmarks.baselines", kind, str(port), str(argument)], ROOT, {})


@contextmanager
def _running(
    label: str, port: int, probe: str, words: Sequence[str], tree: Path, settings: Mapping[str, str]
) -> Iterator[Service]:
    """Run a module until it is ready and then on, in a process group of its own that is ended with it."""
    command, environment = [sys.executable, "-m", *words], {**os.environ, **settings}
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stderr=nowhere, stdout=nowhere, start_new_session=True
    )
    try:
        _wait_for(port, probe)
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            yield Service(label, port, process.pid, connection)
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(port: int, path: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", path)
            if connection.getresponse().status < 500:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing answers on port {port}")


@contextmanager
def checkout(revision: str, directory: Path) -> Iterator[Path]:
    subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(directory), revision], cwd=ROOT, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(directory)], cwd=ROOT, check=True)


def family(process_id: int) -> list[int]:
    """Return the ids of a process and its children."""
    children = ""
    with suppress(OSError):  # how a process that has ended answers
        children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [process_id, *map(int, children.split())]


def memory_bytes(process_id: int) -> dict[str, int]:
    """Return a process's memory of each kind that the kernel tells apart; none if it has ended."""
    try:
        lines = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    except OSError:
        return {}
    return {kind: int(size) * 1024 for kind, size in re.findall(r"^(\w+): +(\d+) kB", lines, re.MULTILINE)}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
