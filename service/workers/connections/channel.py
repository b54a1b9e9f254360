"""A client's connection: one request at a time, and closed only when the client has taken all that was sent.

Nothing here waits. Threads that answer add to the output and wake the event loop, which does all the rest.
"""

import re
import socket
import time
from collections import deque
from fcntl import ioctl
from select import EPOLLIN, EPOLLOUT
from termios import TIOCOUTQ
from typing import Any

from waitress.channel import ClientDisconnected, HTTPChannel

from service.errors import OutOfMemory
from service.http.problems import NO_MEMORY
from service.workers.connections.budget import MIN_COUNTED_BYTES
from service.workers.connections.tasks import AnswerTask, ProblemTask

_MAX_SENT_BYTES = 1024 * 1024  # in one turn of the event loop
_MAX_PARSED_BYTES = 4 * 1024  # in one turn, of what is not a body of a known length
_MAX_BLANK_BYTES = 4 * 1024  # between two requests
# A client that sends a request, or takes an answer, does so at this rate over each such time.
_MIN_BYTES_PER_SECOND, _RATE_SECONDS = 1000, 20
_MAX_REQUEST_SECONDS = 600  # for a request to come whole, or for an answer to be taken, at whatever rate
_MAX_LINGERING_SECONDS = 60  # for a client's kernel to take the last of an answer
# How long the rest of a request is read after its refusal: a proxy that cannot send it on never looks at the answer.
_MAX_DISCARD_SECONDS = 5
_BLANK = re.compile(rb"[\r\n]*")


class Channel(HTTPChannel):
    """Answers requests in their order, then half-closes, and closes once the client's kernel has everything."""

    close_when_flushed: bool
    will_close: bool
    total_outbufs_len: int
    request: Any  # the RequestParser of what has not come whole, or None
    task_class = AnswerTask
    error_task_class = ProblemTask

    def __init__(self, server: Any, *arguments: Any, **options: Any):
        self.server, self._budget = server, server.budget
        self._unparsed, self._parsed_bytes, self._blank_bytes = b"", 0, 0
        self._output: deque[memoryview] = deque()
        self._moved_bytes, self._progress_bytes, self.last_progress = 0, 0, time.monotonic()
        self._has_advanced, self._awaited_since = True, self.last_progress
        self._interest, self._half_closed, self._half_closed_since = EPOLLIN, False, 0.0
        self._is_refused = False
        self._is_bulky, self._epoll = False, server.epoll  # Bulky transfers wait behind all others.
        super().__init__(server, *arguments, **options)
        self.parser_class = server.parser_class

    @property
    def has_unparsed(self) -> bool:
        """Whether more has been received than the requests so far."""
        return self._parsed_bytes < len(self._unparsed)

    @property
    def may_parse(self) -> bool:
        """Whether it is the next request's turn: the last one has been answered, and its answer been sent."""
        return self.has_unparsed and not (self.requests or self.total_outbufs_len or self._is_closing)

    @property
    def is_busy(self) -> bool:
        """Whether a request or an answer is under way."""
        return bool(self.requests or self.request or self.has_unparsed or self.total_outbufs_len or self._half_closed)

    @property
    def awaits_client(self) -> bool:
        """Whether the client has to send more of a request, or take an answer."""
        return bool(self.total_outbufs_len or (self.is_busy and not (self.requests or self._half_closed)))

    @property
    def held_bytes(self) -> int:
        """How much memory the connection takes."""
        requests = sum(request.held_bytes for request in (*self.requests, self.request) if request)
        return requests + len(self._unparsed) + self.total_outbufs_len

    def is_too_slow(self, now: float) -> bool:
        """Tell whether the client has sent and taken too little, or takes too long; `now` is monotonic.

        It has to be asked every second or so, as rates and times are measured from one question to another.
        """
        if self._has_advanced or not self.awaits_client:
            self._has_advanced, self._awaited_since = False, now
        enough = self._moved_bytes - self._progress_bytes >= _MIN_BYTES_PER_SECOND * _RATE_SECONDS
        if enough or not self.awaits_client:
            self._progress_bytes, self.last_progress = self._moved_bytes, now
        return now - self.last_progress > _RATE_SECONDS or now - self._awaited_since > _MAX_REQUEST_SECONDS

    def readable(self) -> bool:
        return self._half_closed or not (
            self.requests or self.has_unparsed or self.total_outbufs_len or self._is_closing
        )

    def add_channel(self, map: dict[int, Any] | None = None) -> None:
        super().add_channel(map)
        self._epoll.register(self._fileno, self._interest)

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        if self._fileno is not None:
            self._epoll.unregister(self._fileno)
        super().del_channel(map)

    def handle_read(self) -> None:
        if self.readable():
            super().handle_read()
        else:
            self._watch(0)

    def recv(self, buffer_size: int) -> bytes:
        """Receive so many bytes at most, or fewer while it is not known to be a transfer of many."""
        data: bytes = super().recv(buffer_size if self._is_bulky else MIN_COUNTED_BYTES)
        return data

    def received(self, data: bytes) -> None:
        """Take up what has come; it is parsed in slices, a request at a time."""
        self._moved_bytes += len(data)
        if not self._half_closed:
            self._unparsed, self._parsed_bytes = data, 0
            self._is_bulky = self.held_bytes >= MIN_COUNTED_BYTES
            if self._is_bulky:
                self._budget.watch(self)
            self.parse()

    def parse(self) -> None:
        """Parse a slice of what has been received, and hand a request over that is complete."""
        if not self.request:
            self._skip_blank()
        if self.may_parse:
            self.request = self.request or self.parser_class(self.adj)
            self._parse_slice()
            if self.has_unparsed and self._is_body_cheap:
                self._parse_slice()
            if self.request.completed:
                self._take_request()
            elif self.request.expect_continue:
                self.send_continue()
        self.settle()

    def settle(self) -> None:
        """Do what comes next, or have the event loop say when it can be done."""
        if self.socket is None or self._half_closed:
            return
        if self.total_outbufs_len or self._is_closing:
            self._watch(EPOLLOUT)
        elif self.may_parse:
            self._watch(0)
            self.server.parsing.append(self)
        elif not self.requests:
            self._watch(EPOLLIN)

    def service(self) -> None:
        """Answer the request that is complete; called by the thread of the event loop, or by another."""
        super().service()
        self.server.settle(self)

    def send_continue(self) -> None:
        """Ask the client for the body that it announced."""
        self.request.expect_continue = False
        self.write_soon(b"HTTP/1.1 100 Continue\r\n\r\n")

    def write_soon(self, data: bytes) -> int:
        """Send what the kernel takes at once, and leave the rest to the event loop."""
        if not self.connected:
            raise ClientDisconnected
        with self.outbuf_lock:
            if data:
                self._output.append(memoryview(data))
                self.total_outbufs_len += len(data)
                self._flush_exception(self._flush_some, do_close=False)
                if self.total_outbufs_len > MIN_COUNTED_BYTES:
                    self._is_bulky = True
                    self._budget.watch(self)
        return len(data)

    def reserve(self, more_bytes: int) -> None:
        """Count bytes that the body of the request under way becomes. Raises OutOfMemory."""
        if not self._budget.has_room(more_bytes, self):
            raise OutOfMemory(NO_MEMORY)
        self.requests[0].decoded_bytes += more_bytes
        self._budget.watch(self)

    def handle_write(self) -> None:
        closing, self.close_when_flushed = self.close_when_flushed, False
        super().handle_write()
        self._has_advanced |= not self.total_outbufs_len
        if closing and self.socket is not None:
            if self.total_outbufs_len:
                self.close_when_flushed = True
            else:
                self._half_close()
        self.settle()

    def handle_close(self) -> None:
        self.server.lingering.discard(self)
        with self.outbuf_lock:
            self._output.clear()
            super().handle_close()
        self._unparsed, self.request = b"", None

    def close_when_taken(self) -> None:
        """Close a half-closed connection once the kernel has nothing left to send, or has had time enough for it."""
        lingering_seconds = time.monotonic() - self._half_closed_since
        if self._is_refused and lingering_seconds < _MAX_DISCARD_SECONDS and not self.server.serving.draining:
            return
        unsent = int.from_bytes(ioctl(self.socket, TIOCOUTQ, bytes(4)), "little")
        if not unsent or lingering_seconds > _MAX_LINGERING_SECONDS:
            self.handle_close()

    @property
    def _is_closing(self) -> bool:
        return self.will_close or self.close_when_flushed

    def _watch(self, interest: int) -> None:
        """Have the event loop say when the socket can be read from or written to."""
        epoll = self.server.bulk_epoll if self._is_bulky else self.server.epoll
        if epoll is not self._epoll:
            self._epoll.unregister(self._fileno)
            epoll.register(self._fileno, interest)
        elif interest != self._interest:
            epoll.modify(self._fileno, interest)
        self._epoll, self._interest = epoll, interest

    def _skip_blank(self) -> None:
        """Skip the line ends that may stand before a request."""
        end = _BLANK.match(self._unparsed, self._parsed_bytes).end()  # type: ignore[union-attr]  # it always matches
        self._blank_bytes += end - self._parsed_bytes
        self._parsed_bytes = end
        if self._blank_bytes > _MAX_BLANK_BYTES:
            self.will_close = True

    @property
    def _is_body_cheap(self) -> bool:
        """Whether the rest of the request is a body of a known length, which is only copied."""
        return self.request.headers_finished and not (self.request.chunked or self.request.completed)

    def _parse_slice(self) -> None:
        """Have the request parse as much as it may in one turn."""
        start = self._parsed_bytes
        end = None if self._is_body_cheap else start + _MAX_PARSED_BYTES
        self._parsed_bytes += self.request.received(self._unparsed[start:end])

    def _take_request(self) -> None:
        request, self.request = self.request, None
        if request.empty:
            self._blank_bytes += _MAX_BLANK_BYTES // 16
        else:
            self._blank_bytes, self._has_advanced = 0, True
            self._is_refused = request.error is not None and bool(request.chunked or request.content_length)
            self.requests.append(request)
            self.server.add_task(self)

    def _flush_some(self, do_close: bool = True) -> bool:
        """Send until the kernel takes no more, or as much as one turn allows; tell whether anything was sent."""
        sent_bytes = 0
        while self._output and sent_bytes < _MAX_SENT_BYTES:
            count = self.send(self._output[0][:_MAX_SENT_BYTES], do_close=do_close)
            if not count:
                break
            sent_bytes += count
            self._moved_bytes += count
            self.total_outbufs_len -= count
            rest = self._output[0][count:]
            if rest:
                self._output[0] = rest
            else:
                self._output.popleft()
        if sent_bytes:
            self.last_activity = time.time()
        return sent_bytes > 0

    def _half_close(self) -> None:
        """Stop sending but go on reading.

        Closing while the client still sends would make the kernel throw away what the client has not taken yet.
        """
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # The client has gone.
            self.handle_close()
            return
        self._half_closed, self._half_closed_since, self._unparsed = True, time.monotonic(), b""
        self._watch(EPOLLIN)
        self.server.lingering.add(self)
