"""Admitting requests while there is room for them, and running those that are admitted.

Small requests run on the thread that reads and writes the sockets, in the order of their arrival, between two polls of
the sockets; large ones run on a few threads of their own. So the answer to a user costs no change of threads, and a
large batch keeps nobody waiting. Health, metrics and refusals come before anything that waits.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from waitress.channel import HTTPChannel

from service.http import metrics
from service.http.dynamic_batching import DynamicBatcher
from service.http.openapi import URGENT_ROUTES
from service.settings import Settings
from service.workers.connections.parser import OVERLOADED, RequestParser

_MAX_SMALL_BODY_BYTES = 128 * 1024  # some dozens of users
_TURN_SECONDS = 0.005  # how long small requests run before the sockets are polled again
MAX_BATCHED_USERS = 8


class Admission:
    """Holds the requests that wait; waitress calls `add_task` for each that has arrived."""

    def __init__(self, batcher: DynamicBatcher, settings: Settings):
        self._batcher = batcher
        self._max_in_flight = max(1, settings.max_in_flight // settings.workers)
        self._engine_is_remote = settings.milvus is not None
        self._in_flight = self._running = 0
        self._counting = threading.Lock()
        self._urgent: deque[HTTPChannel] = deque()
        self._small: deque[HTTPChannel] = deque()
        self._large = ThreadPoolExecutor(settings.threads, "large")
        self._last_reported = (0, 0)

    @property
    def has_waiting(self) -> bool:
        """Whether requests wait for the thread that calls `run_waiting`."""
        return bool(self._urgent or self._small)

    def is_full(self) -> bool:
        return self._in_flight >= self._max_in_flight

    def add_task(self, channel: HTTPChannel) -> None:
        """Queue the next request of a channel, or its refusal."""
        request = channel.requests[0]
        request.arrived = time.perf_counter()
        if request.error is None and request.path not in URGENT_ROUTES:
            if not self.is_full():
                self._admit(channel)
                return
            request.error = OVERLOADED
        self._urgent.append(channel)

    def run_waiting(self, clients_connect: bool) -> None:
        """Answer what is urgent, then small requests for one turn, or only one of them while clients connect."""
        while self._urgent:
            self._urgent.popleft().service()
        seconds, max_users = (0.0, 1) if clients_connect else (_TURN_SECONDS, MAX_BATCHED_USERS)
        until = time.monotonic() + seconds
        while self._small:
            channels = [self._small.popleft() for _ in range(min(len(self._small), max_users))]
            self._run_batch([channel.requests[0] for channel in channels])
            for channel in channels:
                self._run(channel)
            if time.monotonic() >= until:
                break
        self._report()

    def shut_down(self) -> None:
        self._large.shutdown()

    def _admit(self, channel: HTTPChannel) -> None:
        with self._counting:
            self._in_flight += 1
        # The thread of the sockets must not wait for a network.
        if self._engine_is_remote or channel.requests[0].content_length > _MAX_SMALL_BODY_BYTES:
            self._large.submit(self._run, channel)
        else:
            self._small.append(channel)

    def _run(self, channel: HTTPChannel) -> None:
        with self._counting:
            self._running += 1
        try:
            channel.service()
        finally:
            with self._counting:
                self._in_flight -= 1
                self._running -= 1

    def _run_batch(self, requests: Sequence[RequestParser]) -> None:
        """Find the answers to users who wait at the same time by one search; the app will write them."""
        singles = [request for request in requests if request.is_single]
        if len(singles) > 1:
            answers = self._batcher.run_batch([request.body for request in singles])
            for request, answered in zip(singles, answers, strict=True):
                request.answered = answered

    def _report(self) -> None:
        in_flight_and_queued = (self._in_flight, self._in_flight - self._running)
        if in_flight_and_queued != self._last_reported:
            self._last_reported = in_flight_and_queued
            metrics.IN_FLIGHT.set(in_flight_and_queued[0])
            metrics.QUEUED.set(in_flight_and_queued[1])
