"""The supervisor process: verifies what is to be served, and keeps the workers running until it is stopped."""

import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from retrieval.artifact.watch import BuildWatch, PinnedBuild, verify_current
from service.errors import CannotServe
from service.settings import Settings
from service.workers.handshake_filter import refuse_handshakes
from service.workers.listener import bound_socket
from service.workers.worker_pool import WorkerPool

_BACKLOG_CONNECTIONS = 1024
_HANDSHAKE_SECONDS = 0.05  # in which handshakes that have begun come to their end

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once. SIGHUP checks for a new build.

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
        # Milvus holds a verified build.
        alias = settings.milvus and settings.milvus.alias
        build = PinnedBuild(alias, lambda: None) if alias else verify_current(settings.artifacts)
        stack.callback(build.release)
        listener.listen(_BACKLOG_CONNECTIONS)
        workers.broadcast("load", build.build_id)
        while not signals.stops and not workers.all_serve(build.build_id):
            workers.poll()
        if not signals.stops:
            workers.start_accepting()
            host, port = listener.getsockname()[:2]
            log.info("serving build %s on http://%s:%d", build.build_id, f"[{host}]" if ":" in host else host, port)
        _follow_builds(settings, workers, signals, build)
        _drain(settings, listener, workers, signals)


def _follow_builds(settings: Settings, workers: WorkerPool, signals: "_Signals", build: PinnedBuild) -> None:
    """Keep the workers on the newest good build until a signal to stop."""
    watch = BuildWatch(settings.artifacts, settings.reload_seconds, build.build_id)
    builds = [build]
    while not signals.stops:
        workers.poll()
        if settings.milvus:
            continue  # Its workers follow the alias by themselves.
        if signals.reloads:
            signals.reloads.clear()
            watch.check_now()
        try:
            newer = watch.poll_new_build()
        except Exception as error:  # noqa: BLE001 (whatever is wrong with a new build, the old one answers on)
            log.error("a new build is refused, the old one stays in use: %s", error)
            workers.count("failed reload")
            continue
        if newer:
            log.info("changing over to build %s", newer.build_id)
            workers.broadcast("load", newer.build_id)
            workers.count("reload")
            builds.append(newer)
        if len(builds) > 1 and workers.all_serve(builds[-1].build_id):
            log.info("serving build %s", builds[-1].build_id)
            for old in builds[:-1]:
                old.release()
            builds = builds[-1:]


def _drain(settings: Settings, listener: socket.socket, workers: WorkerPool, signals: "_Signals") -> None:
    """Let load balancers and clients go elsewhere, then refuse connections, and wait for the last answer."""
    log.info("stopping: draining for %d s", settings.drain_seconds)
    workers.broadcast("drain")
    until = time.monotonic() + settings.drain_seconds
    while time.monotonic() < until and not signals.stop_at_once:
        workers.poll()
    refuse_handshakes(listener)
    time.sleep(_HANDSHAKE_SECONDS)
    workers.broadcast("end")
    while workers.are_running and not signals.stop_at_once:
        workers.poll()
    log.info("stopped at once, by a second signal" if signals.stop_at_once else "stopped")


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
