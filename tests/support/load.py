"""Clients that keep a server busy and hold every answer against the right one."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

_SECONDS = 30  # after which an answer is taken to be lost
_RETRY_SECONDS = 0.05  # how soon a client that was refused comes back
_THINK_SECONDS = 0.02  # between two requests of a client, so that a few of them leave a machine time for other tests


@dataclass
class Load:
    """What the clients have seen so far. `failed` says how requests failed that should not have."""

    answered: Counter[str] = field(default_factory=Counter)  # by status
    builds: Counter[str] = field(default_factory=Counter)  # by X-Index-Version, of answers with status 200
    failed: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # seconds, of answers with status 200
    shed_latencies: list[float] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class ExpectedRequest:
    """A request, and the right answer of each build, by build id; an answer of any other build is wrong."""

    path: str
    body: bytes
    answers: dict[str, bytes]

    @property
    def bytes(self) -> bytes:
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(self.body)}\r\n\r\n"
        return head.encode() + self.body


@contextmanager
def load(
    port: int,
    requests: Sequence[ExpectedRequest],
    connections: int,
    slow_readers: bool = False,
    think_seconds: float = _THINK_SECONDS,
) -> Iterator[Load]:
    """Keep so many connections busy with the requests in turn, from another thread, until the block ends.

    A client reconnects when it is told that the connection closes; when the server is gone, it stops.
    """
    seen = Load()

    async def run() -> None:
        parts = (requests[first::connections] or requests for first in range(connections))
        await asyncio.gather(*(_client(seen, port, part, slow_readers, think_seconds) for part in parts))

    clients = threading.Thread(target=lambda: asyncio.run(run()))
    clients.start()
    try:
        yield seen
    finally:
        seen.stopping.set()
        clients.join(_SECONDS + 10)
        assert not clients.is_alive(), "clients hang"


async def _client(seen: Load, port: int, requests: Sequence[ExpectedRequest], slow: bool, think_seconds: float) -> None:
    turn = 0
    while not seen.stopping.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        except OSError:
            return  # nobody listens any more
        try:
            fresh = True
            while not seen.stopping.is_set():
                request = requests[turn % len(requests)]
                turn += 1
                if not await _send(seen, reader, writer, request, fresh, slow):
                    break
                fresh = False
                await asyncio.sleep(think_seconds)
        finally:
            writer.close()


async def _send(
    seen: Load,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: ExpectedRequest,
    fresh: bool,
    slow: bool,
) -> bool:
    """Whether the connection can be used again."""
    began = monotonic()
    received = b""
    try:
        writer.write(request.bytes)
        await writer.drain()
        async with asyncio.timeout(_SECONDS):
            received = await reader.readuntil(b"\r\n\r\n")
            head = received.decode("latin-1")
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            length = int(headers["content-length"])
            body = await (_read_slowly(reader, length) if slow else reader.readexactly(length))
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        partial = received or getattr(error, "partial", b"")
        if fresh or partial:  # a kept-alive connection may be closed between two requests
            seen.failed[f"{'cut off' if partial else 'lost'}: {type(error).__name__}"] += 1
        return False
    status = head.split(" ", 2)[1]
    seen.answered[status] += 1
    if status == "200":
        build_id = head.split("X-Index-Version: ")[1].split("\r\n")[0]
        seen.builds[build_id] += 1
        seen.latencies.append(monotonic() - began)
        if request.answers.get(build_id) != body:
            seen.failed["wrong answer"] += 1
    elif status == "429":
        seen.shed_latencies.append(monotonic() - began)
        await asyncio.sleep(_RETRY_SECONDS)
    return headers.get("connection") != "close"


async def _read_slowly(reader: asyncio.StreamReader, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = await reader.read(min(2**16, length - len(parts)))
        if not part:
            raise asyncio.IncompleteReadError(bytes(parts) or b"?", length)
        parts += part
        await asyncio.sleep(0.001)
    return bytes(parts)
