"""The supervisor process: verifies what is to be served, and keeps the workers running until it is stopped."""

import logging
import math
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from retrieval.artifact.store import published_at
from retrieval.artifact.watch import BuildWatch, PinnedBuild, start_verifying_current
from service.errors import CannotServe
from service.settings import Settings
from service.workers.handshake_filter import refuse_handshakes
from service.workers.listener import bound_socket
from service.workers.logs import counted
from service.workers.worker_pool import MAX_OPENING_SECONDS, POLL_SECONDS, WorkerPool

_VERIFYING_POLL_SECONDS = 0.01  # A delta is verified in less than the usual time between two polls.
_BACKLOG_CONNECTIONS = 1024
_ENDING_SECONDS = 10  # Clients that are slow to take their answers have so long after draining.
_HANDSHAKE_SECONDS = 0.05  # Handshakes that have begun come to their end in this time.
_MAX_WITHOUT_WORKERS_SECONDS = 3.0  # A worker that is started again is back sooner, so clients wait for it.
_MAX_TURNED_AWAY = 100  # More clients at once wait in the backlog, so that their sockets stay few.
_TURNED_AWAY_SECONDS = 1.0  # A client has so long to take the answer.
_UNAVAILABLE_BODY = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,'
    b'"detail":"no worker can serve the current build"}'
)
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
) % (len(_UNAVAILABLE_BODY), _UNAVAILABLE_BODY)

log = logging.getLogger(__name__)


def serve(settings: Settings, dropped_lines: SimpleQueue[int]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once. SIGHUP checks for a new build.

    Log lines of this process that are dropped come in `dropped_lines`, for a worker to count.
    Raises BadSetting for an address that cannot be listened on, BadArtifact where there is no good build to start with,
    and CannotServe where the workers do not start.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(bound_socket(settings.host, settings.port))
        signals = stack.enter_context(_received_signals())
        metrics_directory = Path(stack.enter_context(_metrics_directory()))
        workers = WorkerPool(settings, listener, metrics_directory)
        stack.callback(workers.kill)
        workers.start()
        build = _first_build(settings, workers, signals)
        if build:
            stack.callback(build.release)
            listener.listen(_BACKLOG_CONNECTIONS)
            workers.serve(build.build_id)
            while not signals.stops and not workers.all_serve(build.build_id):
                workers.poll()
        if build and not signals.stops:
            workers.start_accepting()
            log.info(_askers(settings))
            host, port = listener.getsockname()[:2]
            listener.setblocking(False)
            log.info("serving %s on http://%s:%d", build, f"[{host}]" if ":" in host else host, port)
            _follow_builds(settings, listener, workers, signals, build, dropped_lines)
        _drain(settings, listener, workers, signals)


def _askers(settings: Settings) -> str:
    """Say who gets answers."""
    if not settings.api_keys:
        return "everybody may ask, as RECO_API_KEYS has no keys"
    others = "health, pages and metrics are" if settings.open_metrics else "health and pages are"
    return f"holders of {counted(len(settings.api_keys), 'API key')} may ask; {others} open to everybody"


def _first_build(settings: Settings, workers: WorkerPool, signals: "_Signals") -> PinnedBuild | None:
    """Verify the current build, or return None if a signal to stop comes before. Raises BadArtifact."""
    if settings.milvus:
        return PinnedBuild(settings.milvus.alias, lambda: None)  # Milvus holds a verified build.
    verification = start_verifying_current(settings.artifacts)
    while not verification.done():
        if signals.stops:
            return None
        workers.poll()
    return verification.result()


def _follow_builds(
    settings: Settings,
    listener: socket.socket,
    workers: WorkerPool,
    signals: "_Signals",
    build: PinnedBuild,
    dropped_lines: SimpleQueue[int],
) -> None:
    """Keep the workers on the newest good build until a signal to stop."""
    reloader = Reloader(workers, BuildWatch(settings.artifacts, settings.reload_seconds, build.base_id), build)
    substitute = Substitute(listener)
    while not signals.stops:
        workers.poll(_VERIFYING_POLL_SECONDS if reloader.watch.is_verifying else POLL_SECONDS)
        substitute.poll(workers.any_serve)
        while not dropped_lines.empty():
            workers.record("dropped log line", dropped_lines.get())
        if settings.milvus:
            continue  # Its workers follow the alias by themselves.
        if signals.reloads:
            signals.reloads.clear()
            reloader.watch.check_now()
        reloader.poll()


class Substitute:
    """Answers 503 in the place of workers while there is none, so that clients and probes need not wait to find out."""

    def __init__(self, listener: socket.socket):
        self._listener = listener
        self._last_served = time.monotonic()
        self._turned_away: deque[tuple[float, socket.socket]] = deque()

    def poll(self, any_serve: bool) -> None:
        """Turn clients away if no worker has served for some time, without waiting for any of them."""
        now = time.monotonic()
        if any_serve:
            self._last_served = now
        while self._turned_away and now - self._turned_away[0][0] > _TURNED_AWAY_SECONDS:
            self._turned_away.popleft()[1].close()
        while now - self._last_served > _MAX_WITHOUT_WORKERS_SECONDS and len(self._turned_away) < _MAX_TURNED_AWAY:
            try:
                client, _ = self._listener.accept()
            except OSError:  # There is none, or no descriptor for it.
                return
            client.setblocking(False)
            self._turned_away.append((now, client))
            with suppress(OSError):  # The client has gone.
                client.send(_UNAVAILABLE)
                client.shutdown(socket.SHUT_WR)


class Reloader:
    """Brings all workers from one build to the next: none serves the next before all have opened it."""

    def __init__(self, workers: WorkerPool, watch: BuildWatch, build: PinnedBuild):
        self.watch = watch
        self._workers, self._served = workers, build
        self._next: PinnedBuild | None = None
        self._prepare_until = math.inf
        self._replaced: list[PinnedBuild] = []  # Workers may still have them open.

    def poll(self) -> None:
        """Go on as far as builds and workers are ready."""
        try:
            newer = self.watch.poll_new_build((self._next or self._served).build_id)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with a new build, the old one answers on)
            self._count_refusal(error)
            newer = None
        if newer:
            self._release_next()
            self._next, self._prepare_until = newer, time.monotonic() + MAX_OPENING_SECONDS
            self._workers.prepare(newer.build_id)
        if self._next:
            self._change_over(self._next)
        if self._replaced and self._workers.has_changed_over(self._served.build_id):
            log.info("serving %s", self._served)
            self._record_reload()
            while self._replaced:
                self._replaced.pop().release()

    def _record_reload(self) -> None:
        """Record how long after its publishing a build is served by all; one that was rolled back to is old anyway."""
        build_id = self._served.build_id
        if all(build_id > replaced.build_id for replaced in self._replaced):
            age = datetime.now(UTC) - published_at(build_id)
            self._workers.record("reload seconds", max(0.0, age.total_seconds()))

    def _change_over(self, build: PinnedBuild) -> None:
        """Have all workers serve a build that all have opened, or none if one of them cannot."""
        is_late = time.monotonic() > self._prepare_until
        if refusal := self._workers.refusal or (is_late and f"not open in {MAX_OPENING_SECONDS:.0f} s"):
            self._workers.drop()
            self._release_next()
            if self.watch.refuse(build.build_id):
                self._count_refusal(f"build {build.build_id}: {refusal}")
        elif self._workers.all_prepared(build.build_id):
            log.info("changing over to %s", build)
            self._replaced.append(self._served)
            self._served, self._next = build, None
            self._workers.serve(build.build_id)
            self._workers.record("reload")

    def _release_next(self) -> None:
        if self._next:
            self._next.release()
            self._next = None

    def _count_refusal(self, reason: object) -> None:
        log.error("a new build is refused, the old one stays in use: %s", reason)
        self._workers.record("failed reload")


def _drain(settings: Settings, listener: socket.socket, workers: WorkerPool, signals: "_Signals") -> None:
    """Let load balancers and clients go elsewhere, then refuse connections, and wait for the last answer, but not long.

    What has not ended by then, because it hangs or its client does not take an answer, is killed.
    """
    log.info("stopping: draining for %d s", settings.drain_seconds)
    workers.broadcast("drain")
    until = time.monotonic() + settings.drain_seconds
    while time.monotonic() < until and not signals.stop_at_once:
        workers.poll()
    refuse_handshakes(listener)
    time.sleep(_HANDSHAKE_SECONDS)
    workers.broadcast("end")
    until += _ENDING_SECONDS
    while workers.are_running and not signals.stop_at_once and time.monotonic() < until:
        workers.poll()
    if signals.stop_at_once:
        log.info("stopped at once, by a second signal")
    elif workers.are_running:
        killed = counted(workers.kill(), "worker")
        log.error("stopped %s that had not ended in %d s", killed, _ENDING_SECONDS)
    else:
        log.info("stopped")


def _metrics_directory() -> TemporaryDirectory[str]:
    """Make the directory where workers count for Prometheus: in memory if possible, as files may be read-only."""
    for parent in ("/dev/shm", None):  # noqa: S108
        with suppress(OSError):
            return TemporaryDirectory(prefix="reco-", dir=parent, ignore_cleanup_errors=True)
    raise CannotServe("neither /dev/shm nor a directory for temporary files can be written to")


@dataclass
class _Signals:
    """The signals received so far, by what they ask for."""

    stops: list[int] = field(default_factory=list)
    reloads: list[int] = field(default_factory=list)

    @property
    def stop_at_once(self) -> bool:
        return len(self.stops) > 1


@contextmanager
def _received_signals() -> Iterator[_Signals]:
    signals = _Signals()
    receivers = {signal.SIGTERM: signals.stops, signal.SIGINT: signals.stops, signal.SIGHUP: signals.reloads}
    before = {
        number: signal.signal(number, lambda number, _frame: receivers[signal.Signals(number)].append(number))
        for number in receivers
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
