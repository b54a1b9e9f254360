"""HTTP written and read by hand, for clients that pipeline, do not read, or frame their requests oddly."""

import json
import socket
from collections.abc import Iterator
from typing import Any

from tests.support.server import SECONDS, Server

GET_LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answers_on(connection: socket.socket) -> Iterator[Any]:
    """The JSON of one answer after another."""
    with connection.makefile("rb") as received:
        while line := received.readline():
            length = 0
            while line.strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
                line = received.readline()
            yield json.loads(received.read(length) or "null")


def narrow_connection(server: Server) -> socket.socket:
    """A connection whose client's kernel takes little that the client does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(SECONDS)
    connection.connect(("127.0.0.1", server.port))
    return connection
