"""nginx before a server, as `deploy/nginx.conf` has it."""

import http.client
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.api import Answer
from tests.support.milvus_process import free_ports
from tests.support.server import ROOT, SECONDS, Server, exchange

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
EXAMPLE = ROOT / "deploy" / "nginx.conf"
PREFIX = "/reco"

_ESTABLISHED = "01"  # a state of TCP in /proc

needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx is installed (apt-get install nginx-light)")

# What Debian's nginx.conf has around the files of conf.d, with all that is written in one directory.
_AROUND = """
daemon off;
master_process off;  # One process, which may write where the test may.
pid {directory}/pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    include {directory}/jetmlett.conf;
}}
"""


@dataclass(frozen=True)
class Proxy:
    """Passes what is below the prefix on to a server."""

    port: int
    directory: Path
    process_id: int
    server: Server

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        with closing(self.connect()) as connection:
            return exchange(connection, method, PREFIX + path, body, headers)

    @property
    def errors(self) -> str:
        return (self.directory / "error.log").read_text()

    @property
    def upstream_ports(self) -> set[int]:
        """Return the local ports of its open connections to the server."""
        own = set()
        for path in Path(f"/proc/{self.process_id}/fd").iterdir():
            with suppress(FileNotFoundError):  # It has closed a client's connection meanwhile.
                own.add(path.readlink().name)
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return {
            _port(local)
            for _, local, remote, state, *_, inode in (row[:10] for row in sockets)
            if (state, _port(remote)) == (_ESTABLISHED, self.server.port) and f"socket:[{inode}]" in own
        }


@contextmanager
def proxied(server: Server, directory: Path, buffering: bool = True) -> Iterator[Proxy]:
    """The example's proxy before a server, with its ports and its buffering replaced."""
    assert NGINX is not None
    [port] = free_ports(1)
    example = _replaced(EXAMPLE.read_text(), r"127\.0\.0\.1:5000", f"127.0.0.1:{server.port}", 1)
    example = _replaced(example, r"listen 80;", f"listen 127.0.0.1:{port};", 1)
    example = _replaced(example, r"(proxy_(request_)?buffering) on;", rf"\1 {'on' if buffering else 'off'};", 2)
    (directory / "jetmlett.conf").write_text(example)
    configuration = directory / "nginx.conf"
    configuration.write_text(_AROUND.format(directory=directory))
    process = subprocess.Popen([NGINX, "-e", directory / "error.log", "-c", configuration])
    try:
        _wait_until_listening(port, process)
        yield Proxy(port, directory, process.pid, server)
    finally:
        process.terminate()
        process.wait(SECONDS)


def _replaced(text: str, pattern: str, by: str, times: int) -> str:
    replaced, count = re.subn(pattern, by, text)
    assert count == times, f"{EXAMPLE} has {pattern} {count} times"
    return replaced


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise AssertionError(f"nginx does not listen: {process.returncode}")
