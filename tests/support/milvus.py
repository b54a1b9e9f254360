"""A Milvus server, Lite or standalone: a process of its own, which can be paused, killed and started again."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import milvus_process

SECONDS = 60  # after which a server is taken to hang
_CONNECT_TRIES = 5

on_milvus = [
    pytest.mark.milvus,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite"))),
        reason="pymilvus and milvus-lite are not installed",
    ),
]


class MilvusServer:
    """Milvus Lite, or a standalone server where the interpreter of its environment is given."""

    def __init__(self, directory: Path, interpreter: str | None):
        self.is_standalone = interpreter is not None
        self.port, self._health_port = milvus_process.free_ports(2)
        self.uri = f"http://127.0.0.1:{self.port}"
        kind = "standalone" if self.is_standalone else "lite"
        self._command = [interpreter or sys.executable, "-P", milvus_process.__file__, kind, str(directory)]
        self._command += [str(self.port), str(self._health_port)]
        self._output = directory / "output.log"
        self.start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with suppress(OSError):
                if self._is_up():
                    return
            assert self.is_running, f"Milvus has ended: {self._output.read_text()[-2000:]}"
            time.sleep(0.02)
        self.kill()
        raise AssertionError("Milvus does not listen")

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

    def clear(self) -> None:
        """Drop every alias and collection."""
        with closing(self._connect()) as client:
            for collection in client.list_collections():
                for alias in client.list_aliases(collection)["aliases"]:
                    client.drop_alias(alias)
                client.drop_collection(collection)

    def _connect(self) -> Any:
        """Return a client. Lite hangs up on channels that ping as often as pymilvus does: a new one may meet that."""
        from pymilvus import MilvusClient, MilvusException

        for _ in range(_CONNECT_TRIES - 1):
            with suppress(MilvusException):
                return MilvusClient(self.uri, timeout=20.0, dedicated=True)
        return MilvusClient(self.uri, timeout=20.0, dedicated=True)

    def _is_up(self) -> bool:
        """Whether it listens; raises OSError where it does not."""
        socket.create_connection(("127.0.0.1", self.port)).close()
        if not self.is_standalone:
            return True
        with urllib.request.urlopen(f"http://127.0.0.1:{self._health_port}/healthz") as answer:
            return b"OK" in answer.read()


@contextmanager
def running_milvus(directory: Path, interpreter: str | None) -> Iterator[MilvusServer]:
    """A server until the end, or that of this process."""
    from pymilvus.client import grpc_handler

    quick = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.01))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpc_handler, "time", quick)  # pymilvus looks twice a second whether an index is built
        server = MilvusServer(directory, interpreter)
        try:
            yield server
        finally:
            server.kill()
