"""Admitting requests while there is room for them, and running those that are admitted.

The thread that reads and writes the sockets answers what takes it a moment for certain: health, refusals, and single
users, in the order of their arrival, whose search is estimated to take less than a slice of time. So the answer to a
user costs no change of threads. All else runs on a few threads of its own: batches of any size, users who ask for many
matches, and whatever the batcher leaves to the app. Metrics and pages have a thread that no search keeps busy.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from waitress.channel import HTTPChannel

from service.http import metrics
from service.http.dynamic_batching import TAKES_LONG, DynamicBatcher
from service.http.openapi import HEALTH_ROUTES, URGENT_ROUTES
from service.http.routes.content_coding import should_compress
from service.recommender import Serving
from service.settings import Settings
from service.workers.connections.parser import OVERLOADED

_MAX_SMALL_BODY_BYTES = 64 * 1024  # A single user with a longer body waits for a thread.
_MAX_SLICE_SECONDS = 0.003  # One user takes no more of the event loop.
_TURN_SECONDS = 0.005  # Small requests run so long before the sockets are polled again.
MAX_BATCHED_USERS = 8


class Admission:
    """Holds the requests that wait; waitress calls `add_task` for each that has arrived."""

    def __init__(self, serving: Serving, settings: Settings):
        self._serving = serving
        self._batcher = DynamicBatcher(serving, settings.limits, settings.require_embedding_model)
        self._max_in_flight = max(1, settings.max_in_flight // settings.workers)
        self._engine_is_remote = settings.milvus is not None
        self._in_flight = self._running = 0
        self._counting = threading.Lock()
        self._watchdog_seconds = settings.watchdog_seconds
        self._last_progress = time.monotonic()  # A request was then begun or ended.
        self._urgent: deque[HTTPChannel] = deque()
        self._small: deque[HTTPChannel] = deque()
        self._slow: deque[HTTPChannel] = deque()  # They ask for single users, and are for the threads.
        self._large = ThreadPoolExecutor(settings.threads, "large")
        self._pages = ThreadPoolExecutor(1, "pages")
        self._last_reported = (0, 0)

    @property
    def has_waiting(self) -> bool:
        """Whether requests wait for the thread that calls `run_waiting`."""
        return bool(self._urgent or self._small)

    @property
    def has_queue(self) -> bool:
        """Whether requests have been admitted that do not run yet."""
        return self._in_flight > self._running

    @property
    def is_stuck(self) -> bool:
        """Whether requests wait, and those that run have not come further for longer than a worker may hang."""
        last_progress = max(self._last_progress, self._serving.recommender.last_progress)
        seconds = time.monotonic() - last_progress
        return self.has_queue and 0 < self._watchdog_seconds < seconds

    def is_full(self) -> bool:
        return self._in_flight >= self._max_in_flight

    def add_task(self, channel: HTTPChannel) -> None:
        """Queue the next request of a channel, or its refusal."""
        request = channel.requests[0]
        request.arrived = time.perf_counter()
        if request.error is None and request.path not in URGENT_ROUTES and self.is_full():
            request.error = OVERLOADED
        if request.error or request.path in HEALTH_ROUTES:
            self._urgent.append(channel)
        elif request.path in URGENT_ROUTES:
            self._pages.submit(channel.service)
        else:
            self._admit(channel)

    def run_waiting(self, clients_connect: bool) -> None:
        """Answer what is urgent, then small requests for one turn, or only one of them while clients connect."""
        while self._urgent:
            self._urgent.popleft().service()
        seconds, max_users = (0.0, 1) if clients_connect else (_TURN_SECONDS, MAX_BATCHED_USERS)
        until = time.monotonic() + seconds
        while self._small:
            channels = [self._small.popleft() for _ in range(min(len(self._small), max_users))]
            self._run_batch(channels, _MAX_SLICE_SECONDS)
            if time.monotonic() >= until:
                break
        self._report()

    def shut_down(self) -> None:
        self._large.shutdown()
        self._pages.shutdown()

    def _admit(self, channel: HTTPChannel) -> None:
        with self._counting:
            self._in_flight += 1
        request = channel.requests[0]
        if request.is_single and request.body_bytes <= _MAX_SMALL_BODY_BYTES and not self._engine_is_remote:
            self._small.append(channel)
        else:
            self._large.submit(self._run, channel)

    def _run(self, channel: HTTPChannel) -> None:
        request = channel.requests[0]
        with self._counting:
            self._running += 1
            self._last_progress = time.monotonic()
        request.on_answer = self._leave
        try:
            channel.service()
        finally:
            request.begin_answer()

    def _leave(self) -> None:
        """Make room for the next request: before the client has its answer, as it may then send that."""
        with self._counting:
            self._in_flight -= 1
            self._running -= 1
            self._last_progress = time.monotonic()

    def _run_batch(self, channels: Sequence[HTTPChannel], max_seconds: float) -> None:
        """Answer users who wait at the same time by one search, and leave to threads whom it did not answer."""
        requests = [channel.requests[0] for channel in channels]
        models = [request.embedding_model for request in requests]
        answers = self._batcher.run_batch([request.body for request in requests], max_seconds, models)
        for channel, request, answer in zip(channels, requests, answers, strict=True):
            if answer is TAKES_LONG:
                self._slow.append(channel)
                self._large.submit(self._run_slow)
                continue
            request.batched_answer = answer
            if answer is None:
                self._large.submit(self._run, channel)
            elif should_compress(len(answer.json), request.accept_encoding):
                self._pages.submit(self._run, channel)  # The event loop does not compress.
            else:
                self._run(channel)

    def _run_slow(self) -> None:
        """Answer some of the single users that the event loop has left to a thread, if another has not done so."""
        channels: list[HTTPChannel] = []
        with suppress(IndexError):
            while len(channels) < MAX_BATCHED_USERS:
                channels.append(self._slow.popleft())
        if channels:
            self._run_batch(channels, math.inf)

    def _report(self) -> None:
        in_flight_and_queued = (self._in_flight, self._in_flight - self._running)
        if in_flight_and_queued != self._last_reported:
            self._last_reported = in_flight_and_queued
            metrics.IN_FLIGHT.set(in_flight_and_queued[0])
            metrics.QUEUED.set(in_flight_and_queued[1])
