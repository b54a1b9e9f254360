"""The event loop of a worker: accepts connections, polls sockets, and stops without losing an answer."""

import math
import resource
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import nsmallest
from pathlib import Path

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from service.cores import never_wait
from service.http import metrics
from service.http.access import Access
from service.http.app import create_app
from service.recommender import LiveRecall, Serving
from service.settings import Settings
from service.workers.admission import Admission
from service.workers.connections.budget import Budget
from service.workers.connections.channel import Channel
from service.workers.connections.parser import RequestParser
from service.workers.listener import ConnectionCount
from service.workers.logs import RequestLog

# One turn of the event loop handles so many events, and then parses for so long what was received before.
# Transfers of many bytes have few of them: each lets the threads that answer compute for a moment.
_MAX_EVENTS, _MAX_BULK_EVENTS = 64, 8
_PARSING_SECONDS = 0.005
_POLL_SECONDS, _SHORT_POLL_SECONDS = 1.0, 0.01
_MAINTENANCE_SECONDS = 1  # Idle and slow clients are looked for so often.
_STOPPING_IDLE_TIMEOUT_SECONDS = 1.0
STOPPING_BUSY_TIMEOUT_SECONDS = 10.0  # Some clients are slow to send a request or to take an answer.
_YIELD_SECONDS = 0.01  # A new connection is left to other workers for so long.
_YIELD_INTERVAL_SECONDS = 1.0
_MAX_CONNECTIONS, _MIN_CONNECTIONS = 1000, 8
_MAX_ACCEPTS = 64  # One turn accepts no more connections, so that those that are open are answered.
_CLOSED_AT_ONCE = 16  # So many idle connections make room for new ones together.
_RESERVED_DESCRIPTORS = 32  # A worker opens files later too.


class Server(TcpWSGIServer):
    """Serves the app as one of the workers that share a listening socket."""

    accepting: bool
    channel_class = Channel

    def __init__(
        self,
        serving: Serving,
        listener: socket.socket,
        open_count: ConnectionCount,
        settings: Settings,
        live_recall: LiveRecall | None = None,
    ):
        self.serving = serving
        self.lingering: set[Channel] = set()
        self.parsing: deque[Channel] = deque()  # They have received more than is parsed.
        self._unsettled: deque[Channel] = deque()  # Another thread has answered them.
        self.budget = Budget(settings.memory_bytes // settings.workers)
        self.epoll, self.bulk_epoll, self._accepts = select.epoll(), select.epoll(), True
        self.epoll.register(self.bulk_epoll, select.EPOLLIN)
        self._open_count = open_count
        self._clients_connect, self._last_yielded, self._ending = False, -math.inf, False
        self._last_full, self._max_connections = -math.inf, _max_connections()
        self.last_tick = time.monotonic()  # The event loop last began a turn then.
        self.on_tick: Callable[[], object] = lambda: None
        self._thread = threading.get_ident()
        self.request_log = RequestLog(settings)
        self._admission = Admission(serving, settings)
        serving.is_stuck = lambda: self._admission.is_stuck
        if live_recall:
            live_recall.requests_wait = lambda: self._admission.has_queue
        self.parser_class = partial(
            RequestParser,
            access=Access(settings),
            is_full=self._admission.is_full,
            has_room=self.budget.has_room,
            max_body_bytes=settings.max_body_bytes,
        )
        app, adjustments = create_app(serving, settings), _adjustments(listener, settings)
        family = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(app, {}, True, listener, self._admission, adjustments, family, bind_socket=False)
        for descriptor in self._map:
            self.epoll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        """Serve until `end`, and then until the last answer has been taken."""
        self._thread = threading.get_ident()
        never_wait()
        while not (self._ending and not self.active_channels):
            self.last_tick = time.monotonic()
            self.on_tick()
            self._open_count.report(len(self.active_channels))
            self._poll()
            self._parse()
            clients_connect, self._clients_connect = self._clients_connect, False
            self._admission.run_waiting(clients_connect)
            for channel in list(self.lingering):
                channel.close_when_taken()
            if self._ending:
                self._drain_backlog()
                self._close_idle()
        self._admission.shut_down()
        self.bulk_epoll.close()
        self.epoll.close()

    def end(self) -> None:
        """Accept who has already connected, finish what is under way, and return from `run`."""
        self.serving.draining = self._ending = True
        self.trigger.pull_trigger()

    def settle(self, channel: Channel) -> None:
        """Do what comes next on a channel, whichever thread has answered it."""
        if threading.get_ident() == self._thread:
            channel.settle()
        else:
            self._unsettled.append(channel)
            self.trigger.pull_trigger()

    def maintenance(self, now: float) -> None:
        """Close connections that have been idle for too long, or whose clients are too slow."""
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.is_too_slow(time.monotonic()):
                metrics.SLOW_CLIENTS.inc()
                channel.handle_close()  # A client that takes nothing would not let its socket become writable.
            channel.settle()

    def readable(self) -> bool:
        yields = self._yields_connections and not self._open_count.is_lowest
        return bool(super().readable()) and not (self._is_full or yields)

    def handle_accept(self) -> None:
        """Accept a connection, or leave it for a moment to workers that have fewer."""
        self._clients_connect, now = True, time.monotonic()
        if now - self._last_yielded > _YIELD_INTERVAL_SECONDS and not self._open_count.is_lowest:
            self._last_yielded = now
            return
        self._last_yielded = -math.inf
        for _ in range(_MAX_ACCEPTS):
            if len(self.active_channels) >= self._max_connections and not self._make_room():
                self._last_full = now
                return
            before = len(self.active_channels)
            super().handle_accept()
            self._open_count.report(len(self.active_channels))
            if len(self.active_channels) == before or not self._open_count.is_lowest:
                return

    def pull_trigger(self) -> None:
        """Wake the thread that polls the sockets, unless it is the one that calls."""
        if threading.get_ident() != self._thread:
            self.trigger.pull_trigger()

    def _poll(self) -> None:
        """Wait until sockets can be read from or written to, and do that for some of them; the rest comes next turn."""
        accepts = self.readable()
        if accepts != self._accepts and self.accepting:
            self._accepts = accepts
            self.epoll.modify(self.socket, select.EPOLLIN if accepts else 0)
        ready_sockets = self.epoll.poll(self._poll_seconds, _MAX_EVENTS)
        self.budget.enforce()
        self._handle(ready_sockets)
        if any(descriptor == self.bulk_epoll.fileno() for descriptor, _ in ready_sockets):
            self._handle(self.bulk_epoll.poll(0, _MAX_BULK_EVENTS))

    def _handle(self, ready_sockets: list[tuple[int, int]]) -> None:
        for descriptor, events in ready_sockets:
            if ready := self._map.get(descriptor):
                wasyncore.readwrite(ready, events)

    def _make_room(self) -> bool:
        """Close connections that have been idle for longest, or else send a request most slowly; tell whether any."""
        closable = [each for each in self.active_channels.values() if not (each.requests or each.total_outbufs_len)]
        for channel in nsmallest(_CLOSED_AT_ONCE, closable, key=lambda each: (each.is_busy, each.last_activity)):
            channel.handle_close()
        return bool(closable)

    def _parse(self) -> None:
        """Go on with connections that other threads have answered, and parse for a moment what came before."""
        while self._unsettled:
            self._unsettled.popleft().settle()
        until = time.monotonic() + _PARSING_SECONDS
        for _ in range(len(self.parsing)):
            channel = self.parsing.popleft()
            if channel.may_parse:
                channel.parse()
            if time.monotonic() > until:
                break

    @property
    def _is_full(self) -> bool:
        return time.monotonic() - self._last_full < _YIELD_SECONDS

    @property
    def _yields_connections(self) -> bool:
        return time.monotonic() - self._last_yielded < _YIELD_SECONDS

    @property
    def _poll_seconds(self) -> float:
        if self._admission.has_waiting or self.parsing or self._unsettled:
            return 0.0
        is_short = self.lingering or self._ending or self._yields_connections or self._is_full
        return _SHORT_POLL_SECONDS if is_short else _POLL_SECONDS

    def _drain_backlog(self) -> None:
        """Take all connections that the kernel has accepted for us, and stop listening."""
        if self.accepting:
            before = -1
            while before != len(self.active_channels):
                before = len(self.active_channels)
                super().handle_accept()
            self.accepting = False
            self.epoll.unregister(self.socket)
            self.del_channel()
            self.socket.close()

    def _close_idle(self) -> None:
        """Close what has waited too long for its client; a request that is being answered may take its time."""
        now = time.time()
        for channel in list(self.active_channels.values()):
            timeout = STOPPING_BUSY_TIMEOUT_SECONDS if channel.is_busy else _STOPPING_IDLE_TIMEOUT_SECONDS
            is_being_answered = channel.requests and not channel.total_outbufs_len
            if not is_being_answered and now - channel.last_activity > timeout:
                channel.handle_close()


def _max_connections() -> int:
    """Return how many connections a worker may have open, with the descriptors that its process has left."""
    open_now = sum(1 for _ in Path("/proc/self/fd").iterdir())
    free = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - open_now - _RESERVED_DESCRIPTORS
    return max(_MIN_CONNECTIONS, min(_MAX_CONNECTIONS, free))


def _adjustments(listener: socket.socket, settings: Settings) -> Adjustments:
    # The framing of chunks comes on top of the body, whose own limit does not count it.
    max_received_bytes = 2 * settings.max_body_bytes
    return Adjustments(
        sockets=[listener],
        max_request_body_size=max_received_bytes,
        recv_bytes=2**18,
        connection_limit=2**31,  # `handle_accept` has a limit of its own.
        channel_timeout=settings.keep_alive_seconds,
        cleanup_interval=_MAINTENANCE_SECONDS,
        clear_untrusted_proxy_headers=False,  # No header of a proxy is trusted or read.
        ident=None,
    )
