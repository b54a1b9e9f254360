"""The supervisor process: listens, verifies what is to be served, and keeps the workers running until it is stopped."""

import ctypes
import errno
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import mkdtemp

from prometheus_client.multiprocess import mark_process_dead

from service.cores import available_cores, shared_cores
from service.errors import BadSetting, CannotServe
from service.settings import Settings
from service.workers.connections import ConnectionCounts, shared_counts
from service.workers.reload import BuildWatch, Verified, verify_current

_BACKLOG = 1024
_TICK_SECONDS = 0.1
_SLOWEST_RESTART_SECONDS = 1.0
_SETTLE_SECONDS = 0.05  # in which handshakes that have begun come to their end
_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}  # a search is one thread; many users are many searches

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once. SIGHUP looks for a new build.

    Raises BadSetting, BadArtifact, or CannotServe.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(_bound(settings.host, settings.port))
        signals = stack.enter_context(_signals())
        counts = stack.enter_context(_directory_for_counts())
        workers = stack.enter_context(_Workers(settings, listener, counts))
        workers.start()
        build = _first_build(settings)
        stack.callback(build.release)
        listener.listen(_BACKLOG)
        workers.load(build.build_id)
        while not signals.stops and not workers.all_serve(build.build_id):
            workers.attend()
        if not signals.stops:
            workers.begin()
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("serving build %s on http://%s:%d", build.build_id, shown, port)
            log.info(
                "%d workers on %d cores, which at most as many searches share", settings.workers, workers.core_count
            )
        _follow(settings, workers, signals, build)
        _drain(settings, listener, workers, signals)


def _first_build(settings: Settings) -> Verified:
    """What to start with. Milvus was filled with a verified build, and workers follow its alias by themselves."""
    return Verified(settings.milvus.alias, ExitStack()) if settings.milvus else verify_current(settings.artifacts)


def _follow(settings: Settings, workers: "_Workers", signals: "_Signals", build: Verified) -> None:
    """Keep the workers at work on the newest good build until a signal to stop."""
    if settings.milvus:
        while not signals.stops:
            workers.attend()
        return
    watch = BuildWatch(settings.artifacts, settings.reload_seconds, build.build_id)
    holds = [build]
    while not signals.stops:
        workers.attend()
        if signals.reloads:
            signals.reloads.clear()
            watch.look_now()
        try:
            newer = watch.news()
        except Exception as error:  # noqa: BLE001 (whatever is wrong with a new build, the old one answers on)
            log.error("a new build is refused, the old one stays in use: %s", error)
            workers.count("failed reload")
            continue
        if newer:
            log.info("changing over to build %s", newer.build_id)
            workers.load(newer.build_id)
            workers.count("reload")
            holds.append(newer)
        if len(holds) > 1 and workers.all_serve(holds[-1].build_id):
            log.info("serving build %s", holds[-1].build_id)
            for old in holds[:-1]:
                old.release()
            holds = holds[-1:]


def _drain(settings: Settings, listener: socket.socket, workers: "_Workers", signals: "_Signals") -> None:
    """Let load balancers and clients go elsewhere, then refuse connections, and wait for the last answer."""
    log.info("stopping: draining for %d s", settings.drain_seconds)
    workers.tell("drain")
    until = time.monotonic() + settings.drain_seconds
    while time.monotonic() < until and len(signals.stops) == 1:
        workers.attend()
    _refuse_handshakes(listener)
    time.sleep(_SETTLE_SECONDS)
    workers.tell("end")
    while workers.are_running and len(signals.stops) == 1:
        workers.attend()
    log.info("stopped" if len(signals.stops) == 1 else "stopped at once, by a second signal")


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    started: float
    build_id: str = ""


class _Workers:
    """The worker processes. One that dies is started again, until they have been told to drain."""

    def __init__(self, settings: Settings, listener: socket.socket, counts: Path):
        self._settings, self._listener, self._counts = settings, listener, counts
        self._cores, self.core_count = shared_cores(), available_cores()
        self._connections = shared_counts(settings.workers)
        self._workers: dict[int, _Worker] = {}
        self._restarts: dict[int, float] = {}  # when to start which worker again
        self._build_id = ""
        self._have_served = self._have_begun = self._ending = False

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.wait()

    def start(self) -> None:
        for number in range(self._settings.workers):
            self._start(number)

    def load(self, build_id: str) -> None:
        self._build_id = build_id
        self.tell("load", build_id)

    def begin(self) -> None:
        """Have them accept connections: once all can, so that the first does not get those of all."""
        self._have_begun = True
        self.tell("begin")

    def tell(self, command: str, *arguments: str) -> None:
        self._ending = self._ending or command in ("drain", "end")
        for worker in self._workers.values():
            _send(worker.connection, (command, *arguments))

    def count(self, event: str) -> None:
        """Have one worker count an event of the supervisor's."""
        for worker in list(self._workers.values())[:1]:
            _send(worker.connection, ("count", event))

    def all_serve(self, build_id: str) -> bool:
        serving = [worker for worker in self._workers.values() if worker.build_id == build_id]
        return len(serving) == self._settings.workers

    @property
    def are_running(self) -> bool:
        return bool(self._workers)

    def attend(self) -> None:
        """Hear what the workers say, for a moment, and start again those that have died."""
        by_connection = {worker.connection: number for number, worker in self._workers.items()}
        for ready in wait(list(by_connection), _TICK_SECONDS):
            number = by_connection[ready]  # type: ignore[index]
            try:
                self._hear(number, *self._workers[number].connection.recv())
            except (EOFError, OSError):
                self._bury(number)
        for number, due in list(self._restarts.items()):
            if self._ending:
                del self._restarts[number]
            elif time.monotonic() >= due:
                del self._restarts[number]
                self._start(number)
                self.count("worker restart")

    def _start(self, number: int) -> None:
        ours, theirs = Pipe()
        descriptors = {
            "listener": self._listener.fileno(),
            "supervisor": theirs.fileno(),
            "cores": self._cores,
            "connections": self._connections,
        }
        options = {"number": number, "core-count": self.core_count, **descriptors}
        words = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "service.workers.worker", *words],
            env={**os.environ, **_WORKER_ENVIRONMENT, "PROMETHEUS_MULTIPROC_DIR": str(self._counts)},
            pass_fds=list(descriptors.values()),
        )
        theirs.close()
        self._workers[number] = _Worker(process, ours, time.monotonic())
        if self._build_id:
            _send(ours, ("load", self._build_id))
        if self._have_begun:
            _send(ours, ("begin",))

    def _hear(self, number: int, what: str, text: str) -> None:
        if what == "serving":
            self._workers[number].build_id = text
            self._have_served = True
            log.debug("worker %d serves build %s", number, text)
        elif self._have_served:
            log.error("worker %d cannot serve a build: %s", number, text)
        else:
            raise CannotServe(f"worker {number}: {text}")

    def _bury(self, number: int) -> None:
        worker = self._workers.pop(number)
        worker.connection.close()
        ConnectionCounts(self._connections, self._settings.workers).forget(number)
        status = worker.process.wait()
        mark_process_dead(worker.process.pid, str(self._counts))  # type: ignore[no-untyped-call]
        if self._ending:
            return
        if not self._have_served:
            raise CannotServe(f"worker {number} ended with status {status} before it could serve")
        log.error("worker %d ended with status %d and is started again", number, status)
        age = time.monotonic() - worker.started
        self._restarts[number] = time.monotonic() + max(0.0, _SLOWEST_RESTART_SECONDS - age)


def _send(connection: Connection, message: tuple[str, ...]) -> None:
    with suppress(OSError):  # the worker has died, which `attend` will find
        connection.send(message)


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound but does not listen: until there is a build to serve, connections are refused."""
    with ExitStack() as stack:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
            where = f"RECO_PORT={port}" if getattr(error, "errno", None) == errno.EADDRINUSE else f"RECO_HOST={host!r}"
            raise BadSetting(f"{where}: cannot listen there: {error}") from None
        yield listener


@contextmanager
def _directory_for_counts() -> Iterator[Path]:
    """Where workers count for Prometheus: in memory if possible, as the file system may be read-only."""
    for place in ("/dev/shm", None):  # noqa: S108
        with suppress(OSError):
            directory = Path(mkdtemp(prefix="reco-", dir=place))
            break
    else:
        raise CannotServe("neither /dev/shm nor a directory for temporary files can be written to")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class _Signals:
    """The signals received so far, by what they ask for."""

    stops: list[int] = field(default_factory=list)
    reloads: list[int] = field(default_factory=list)


@contextmanager
def _signals() -> Iterator[_Signals]:
    signals = _Signals()
    receivers = {
        signal.SIGTERM: signals.stops,
        signal.SIGINT: signals.stops,
        signal.SIGHUP: signals.reloads,
    }
    before = {
        number: signal.signal(number, lambda number, frame: receivers[signal.Signals(number)].append(number))
        for number in receivers
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_handshakes(listener: socket.socket) -> None:
    """Make the kernel drop the packets that begin a connection: one that it accepted now, nobody might take."""
    # load the TCP flags; with SYN among them, keep nothing of the packet, otherwise everything
    program = ((0x30, 0, 0, 13), (0x45, 1, 0, 0x02), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    attach_filter = 26  # SO_ATTACH_FILTER, which Python does not name
    try:
        listener.setsockopt(socket.SOL_SOCKET, attach_filter, struct.pack("HL", len(program), ctypes.addressof(code)))
    except OSError:  # some kernels let only CAP_NET_ADMIN filter TCP
        listener.listen(0)  # then the kernel keeps one at most, for the moment between the last accept and the end
