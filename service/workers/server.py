"""waitress in one worker process: reads and answers on one thread, admits what there is room for, and drains.

Small requests run on the thread that reads and writes the sockets, in the order of their arrival, between two looks at
the sockets; large ones run on a few threads of their own. So the answer to a user costs no change of threads, and a
large batch keeps nobody waiting. Health is answered before anything that waits.
"""

import logging
import math
import resource
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fcntl import ioctl
from functools import cache, partial
from http import HTTPStatus
from termios import TIOCOUTQ
from typing import Any

from flask import Flask
from prometheus_client import Counter, Histogram
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, Task, WSGITask
from waitress.utilities import Error, RequestEntityTooLarge

from service.http import metrics
from service.http.access import has_key
from service.http.dynamic_batching import BatchedAnswer, DynamicBatcher
from service.http.openapi import OPERATIONS, URGENT_ROUTES
from service.http.problems import PROBLEM, RETRY_SECONDS, problem_body
from service.http.routes.base import ANSWERED, BUILD, INDEX_VERSION, USERS
from service.recommender import Serving
from service.settings import Settings
from service.workers.connections import ConnectionCounts
from service.workers.logs import RequestLog, request_id

_SMALL_BODY = 128 * 1024  # bytes; some dozens of users
_LARGE_BODY = 256 * 1024  # bytes worth refusing before they arrive
_TURN_SECONDS = 0.005  # of small requests, before the sockets are looked at again; one, while connections come
_MOST_TOGETHER = 8  # users whom one search answers
_POLL_SECONDS, _SHORT_POLL_SECONDS = 1.0, 0.01
_PATIENCE_SECONDS = 60  # with a client that sends or takes nothing
_LAST_PATIENCE_SECONDS = {True: 10.0, False: 1.0}  # at the end, by whether a request or an answer is under way
_TOO_MANY = str(HTTPStatus.TOO_MANY_REQUESTS.value)
_LEAVE_SECONDS, _RECENT_SECONDS = 0.01, 1.0  # a connection to other workers, and how long ago that is not repeated
_OTHER_FILES = 100  # that a process has open besides connections

log = logging.getLogger(__name__)


@cache
def _counters(route: str, status: str) -> tuple[Counter, Histogram]:
    return metrics.REQUESTS.labels(route, status), metrics.SECONDS.labels(route)


class Overloaded(Error):
    code, reason = HTTPStatus.TOO_MANY_REQUESTS.value, HTTPStatus.TOO_MANY_REQUESTS.phrase


@dataclass(frozen=True)
class SharedListener:
    """A listening socket that several workers share, and what one of them needs to share it fairly."""

    socket: socket.socket
    counts: ConnectionCounts
    worker: int


class Server(TcpWSGIServer):
    """Serves the app as one of the workers that share a listening socket."""

    accepting: bool

    def __init__(self, app: Flask, serving: Serving, listener: SharedListener, settings: Settings):
        self.serving = serving
        self._listener, self._has_callers, self._left = listener, False, -math.inf
        self.max_body_bytes = settings.max_body_bytes
        self.lingering: set[_Channel] = set()
        self._batcher, self._api_keys = DynamicBatcher(serving, settings.limits), settings.api_keys
        self._most_in_flight = max(1, settings.max_in_flight // settings.workers)
        self._engine_waits = settings.milvus is not None  # for a network, which nobody else may have to
        self._in_flight = self._running = 0
        self._counting = threading.Lock()
        self._urgent: deque[_Channel] = deque()
        self._small: deque[_Channel] = deque()
        self._told = (0, 0)
        self._large = ThreadPoolExecutor(settings.threads, "large")
        self._thread = threading.get_ident()
        self._ending = False
        self._log = RequestLog(settings)
        self._routes = frozenset(rule.rule for rule in app.url_map.iter_rules())
        received_at_most = 2 * settings.max_body_bytes  # with the framing of chunks, which the limit does not count
        adjustments = Adjustments(
            sockets=[listener.socket],
            max_request_body_size=received_at_most,
            # Bodies and answers stay in memory: the file system may be read-only.
            inbuf_overflow=received_at_most,
            outbuf_overflow=2**40,
            recv_bytes=2**18,
            connection_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES,
            channel_timeout=_PATIENCE_SECONDS,
            clear_untrusted_proxy_headers=False,  # no header of a proxy is trusted or read
            ident=None,
        )
        shared = listener.socket
        family = (shared.family, shared.type, shared.proto, shared.getsockname())
        super().__init__(app, {}, True, shared, self, adjustments, family, bind_socket=False)
        self.channel_class = _Channel

    def run(self) -> None:
        """Serve until `end`, and then until the last answer has been taken."""
        self._thread = threading.get_ident()
        while not (self._ending and not self.active_channels):
            self._listener.counts.tell(self._listener.worker, len(self.active_channels))
            short = self.lingering or self._ending or self._leaves_connections
            waiting = self._urgent or self._small
            wasyncore.poll2(0.0 if waiting else _SHORT_POLL_SECONDS if short else _POLL_SECONDS, self._map)
            self._run_waiting()
            self._log.flush()
            for channel in list(self.lingering):
                channel.close_when_taken()
            if self._ending:
                self._accept_the_rest()
                self._hurry()
        self._large.shutdown()

    def readable(self) -> bool:
        return bool(super().readable()) and (self._has_fewest or not self._leaves_connections)

    def handle_accept(self) -> None:
        """Accept a connection, or leave it for a moment to workers that have fewer."""
        self._has_callers, now = True, time.monotonic()
        if now - self._left > _RECENT_SECONDS and not self._has_fewest:
            self._left = now
            return
        self._left = -math.inf
        super().handle_accept()

    def end(self) -> None:
        """Accept who has already connected, finish what is under way, and return from `run`."""
        self.serving.draining = self._ending = True
        self.trigger.pull_trigger()

    @property
    def _has_fewest(self) -> bool:
        return self._listener.counts.are_fewest(self._listener.worker)

    @property
    def _leaves_connections(self) -> bool:
        return time.monotonic() - self._left < _LEAVE_SECONDS

    @property
    def is_full(self) -> bool:
        return self._in_flight >= self._most_in_flight

    def add_task(self, channel: "_Channel") -> None:
        """Queue the next request of a channel, or its refusal."""
        request = channel.requests[0]
        request.arrived = time.perf_counter()
        if request.error is None and request.path not in URGENT_ROUTES:
            if not self.is_full:
                self._admit(channel)
                return
            request.error = Overloaded("")
        self._urgent.append(channel)

    def observe(self, task: "_Task | _ProblemTask") -> None:
        """Count and log an answer."""
        request, status = task.request, task.status[:3]
        seconds = time.perf_counter() - request.arrived
        path = getattr(request, "path", "")
        route = path if path in self._routes else "other"
        requests, duration = _counters(route, status)
        requests.inc()
        duration.observe(seconds)
        if status == _TOO_MANY:
            metrics.SHED.inc()
        facts = task.environ or {}
        self._log.add(
            request_id=task.request_id,
            route=route,
            status=int(status),
            milliseconds=round(seconds * 1e3, 3),
            users=facts.get(USERS, 0),
            build=facts.get(BUILD, ""),
        )

    def pull_trigger(self) -> None:
        """Wake the thread that looks at the sockets, unless it is the one that calls."""
        if threading.get_ident() != self._thread:
            self.trigger.pull_trigger()

    def _admit(self, channel: "_Channel") -> None:
        with self._counting:
            self._in_flight += 1
        # While an answer waits to be sent, its channel's next request may have to wait for that: not on this thread.
        small = channel.requests[0].content_length <= _SMALL_BODY and not self._engine_waits
        if small and not channel.total_outbufs_len:
            self._small.append(channel)
        else:
            self._large.submit(self._run, channel)

    def _run(self, channel: "_Channel") -> None:
        with self._counting:
            self._running += 1
        try:
            channel.service()
        finally:
            with self._counting:
                self._in_flight -= 1
                self._running -= 1

    def _run_waiting(self) -> None:
        while self._urgent:
            self._urgent.popleft().service()
        seconds, most = (0.0, 1) if self._has_callers else (_TURN_SECONDS, _MOST_TOGETHER)
        until, self._has_callers = time.monotonic() + seconds, False
        while self._small:
            together = [self._small.popleft() for _ in range(min(len(self._small), most))]
            self._answer_together([channel.requests[0] for channel in together])
            for channel in together:
                self._run(channel)
            if time.monotonic() >= until:
                break
        now = (self._in_flight, self._in_flight - self._running)
        if now != self._told:
            self._told = now
            metrics.IN_FLIGHT.set(now[0])
            metrics.QUEUED.set(now[1])

    def _answer_together(self, requests: Sequence["_Parser"]) -> None:
        """Find the answers to users who wait together by one search; the app will write them."""
        users = [each for each in requests if each.is_single and has_key(self._api_keys, *each.credentials)]
        if len(users) > 1:
            for request, answered in zip(users, self._batcher.run_batch([each.body for each in users]), strict=True):
                request.answered = answered

    def _accept_the_rest(self) -> None:
        """Take all connections that the kernel has accepted for us, and stop listening."""
        if self.accepting:
            before = -1
            while before != len(self.active_channels):
                before = len(self.active_channels)
                super().handle_accept()
            self.accepting = False
            self.del_channel()
            self.socket.close()

    def _hurry(self) -> None:
        now = time.time()
        for channel in list(self.active_channels.values()):
            is_ours_to_do = channel.requests and not channel.total_outbufs_len  # however long it takes
            if not is_ours_to_do and now - channel.last_activity > _LAST_PATIENCE_SECONDS[channel.is_busy]:
                channel.will_close = True


class _Parser(HTTPRequestParser):
    """Refuses too large a body, or a large one that there is no room for, on its headers or as it grows."""

    error: Error | None
    answered: BatchedAnswer | None = None

    def __init__(self, server: Server, adjustments: Adjustments):
        super().__init__(adjustments)
        self._server = server

    @property
    def is_single(self) -> bool:
        """Whether this asks for the matches of one user."""
        return bool(self.command == "POST" and self.path == OPERATIONS["infer"].path)

    @property
    def credentials(self) -> tuple[str, str]:
        return self.headers.get("AUTHORIZATION", ""), self.headers.get("X_API_KEY", "")

    @property
    def body(self) -> bytes:
        stream = self.get_body_stream()
        body: bytes = stream.read()
        stream.seek(0)
        return body

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # of urllib, over which waitress would drop the connection
            raise ParsingError("Bad URI") from None
        if self._server.is_full and self.content_length > _LARGE_BODY:
            self.error = Overloaded("")

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.error is None and max(self.content_length, len(self.body_rcv or b"")) > self._server.max_body_bytes:
            self.error = RequestEntityTooLarge("")
        if self.error is not None:
            self.completed = True
        return consumed


class _Identified(Task):
    """Tells the client the request's id, and the server what became of it."""

    environ: dict[str, Any] | None = None

    def __init__(self, channel: "_Channel", request: HTTPRequestParser):
        super().__init__(channel, request)
        self.request_id = request_id(request.headers)

    def build_response_header(self) -> bytes:
        self.response_headers.append(("X-Request-Id", self.request_id))
        self.channel.server.observe(self)  # before the client can know
        return super().build_response_header()


class _Task(_Identified, WSGITask):
    """Writes the head and the body of an answer in one piece, and closes the connection of a server that drains."""

    wrote_header: bool

    def write(self, data: bytes) -> None:
        if self.wrote_header or not data or not self.has_body or self.content_length != len(data):
            super().write(data)
            return
        head = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written = len(data)
        self.channel.write_soon(head + data)

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[ANSWERED] = self.request.answered
        return environ

    def build_response_header(self) -> bytes:
        if self.channel.server.serving.draining:
            self.set_close_on_finish()
        return super().build_response_header()


class _ProblemTask(_Identified, ErrorTask):
    """Answers what never reaches the app in the app's own words."""

    def execute(self) -> None:
        error, server = self.request.error, self.channel.server
        status = HTTPStatus(error.code)
        self.status = f"{status.value} {status.phrase}"
        self.response_headers += [("Content-Type", PROBLEM), (INDEX_VERSION, server.serving.recommender.info.build_id)]
        detail = error.body
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = f"the body is larger than the {server.max_body_bytes} bytes allowed"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            detail = f"there is more to do than can wait; try again in {RETRY_SECONDS} s"
            self.response_headers.append(("Retry-After", str(RETRY_SECONDS)))
        has_come_whole = self.request.body_rcv is None or self.request.body_rcv.completed
        if not isinstance(error, Overloaded) or not has_come_whole or server.serving.draining:
            self.set_close_on_finish()
        body = problem_body(status, detail, getattr(self.request, "path", ""))
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    """A connection that is closed only when the client has taken all that was sent."""

    close_when_flushed: bool
    task_class = _Task
    error_task_class = _ProblemTask

    def __init__(self, server: Server, *arguments: Any, **options: Any):
        super().__init__(server, *arguments, **options)
        self.parser_class = partial(_Parser, server)
        self._half_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a request or an answer is under way."""
        return bool(self.requests or self.request or self.total_outbufs_len or self._half_closed)

    def readable(self) -> bool:
        return self._half_closed or super().readable()

    def received(self, data: bytes) -> bool:
        return not self._half_closed and super().received(data)

    def handle_write(self) -> None:
        closing, self.close_when_flushed = self.close_when_flushed, False
        super().handle_write()
        if closing and self.socket is not None:
            if self.total_outbufs_len:
                self.close_when_flushed = True
            else:
                self._half_close()

    def handle_close(self) -> None:
        self.server.lingering.discard(self)
        super().handle_close()

    def close_when_taken(self) -> None:
        """Close a half-closed connection once the kernel has nothing left to send, or the client takes nothing."""
        waiting = int.from_bytes(ioctl(self.socket, TIOCOUTQ, bytes(4)), "little")
        if not waiting or time.time() - self.last_activity > _PATIENCE_SECONDS:
            self.handle_close()

    def _half_close(self) -> None:
        """Closing while the client still sends would make the kernel throw away what it has not taken yet."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # the client has gone
            self.handle_close()
            return
        self._half_closed = True
        self.server.lingering.add(self)
