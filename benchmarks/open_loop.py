"""Sends requests when they are due, whether or not earlier ones have been answered, as independent users do."""

import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_SEED = 5


@dataclass
class _Connection:
    socket: socket.socket
    due: float = 0.0
    received: bytearray = field(default_factory=bytearray)


def open_loop(port: int, bodies: Sequence[bytes], per_second: float, seconds: float, connections: int) -> list[float]:
    """Post the bodies to /infer at random moments for some seconds; the seconds from when each was due to its answer.

    A request that finds all connections busy waits, and its wait counts.
    """
    gaps = np.random.default_rng(_SEED).exponential(1 / per_second, int(per_second * seconds))
    selector = selectors.DefaultSelector()
    idle = deque(_Connection(socket.create_connection(("127.0.0.1", port))) for _ in range(connections))
    for connection in idle:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    everyone = list(idle)
    due = deque((time.perf_counter() + 0.1 + np.cumsum(gaps)).tolist())
    total, sent = len(due), 0
    taken: list[float] = []
    while len(taken) < total:
        now = time.perf_counter()
        while due and due[0] <= now and idle:
            connection = idle.popleft()
            connection.due = due.popleft()
            body = bodies[sent % len(bodies)]
            connection.socket.sendall(
                b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            sent += 1
        wait = max(0.0, due[0] - time.perf_counter()) if due and idle else 1.0
        for key, _ in selector.select(wait):
            connection = key.data
            connection.received += connection.socket.recv(2**18)
            if _is_complete(connection.received):
                taken.append(time.perf_counter() - connection.due)
                connection.received.clear()
                idle.append(connection)
    for connection in everyone:
        connection.socket.close()
    return taken


def _is_complete(answer: bytearray) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
    return len(body) >= int(length)
