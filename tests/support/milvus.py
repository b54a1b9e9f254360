"""A Milvus Lite server: the real protocol from a process of its own, which can be paused, killed and started again."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

SECONDS = 30  # after which a server is taken to hang

needs_milvus = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite"))),
    reason="pymilvus and milvus-lite are not installed",
)


class MilvusServer:
    def __init__(self, directory: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        options = {"data-dir": directory, "host": "127.0.0.1", "port": self.port}
        self._command = [sys.executable, "-m", "milvus_lite", "server"]
        self._command += [f"--{name}={value}" for name, value in options.items()]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert self._process.poll() is None, "Milvus Lite has ended"
            time.sleep(0.02)
        self.kill()
        raise AssertionError("Milvus Lite does not listen")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It accepts connections, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until then its threads may still answer
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def milvus_server(directory: Path) -> Iterator[MilvusServer]:
    from pymilvus.client import grpc_handler

    quick = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.01))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpc_handler, "time", quick)  # pymilvus looks twice a second whether an index is built
        server = MilvusServer(directory)
        try:
            yield server
        finally:
            server.kill()
