"""A worker process, `python -m service.workers.worker`, started and commanded by the supervisor."""

import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from service.cores import Cores
from service.engines.faiss_engine import FaissEngine, open_engine
from service.errors import INSTALL_MILVUS, BadSetting
from service.http import metrics
from service.recommender import LiveRecall, Recommender, Serving
from service.settings import MilvusSettings, Settings
from service.workers.listener import ConnectionCount
from service.workers.logs import set_up_logs
from service.workers.server import Server

if TYPE_CHECKING:
    from service.engines.milvus_engine import MilvusEngine

_MAX_ENDING_SECONDS = 12.0  # longer than a supervisor that lives gives a worker
_FOLLOW_SECONDS = 1.0  # between two looks at the cluster
# How long a thread with a search to begin or to end waits for one that reads a large batch.
_THREAD_SWITCH_SECONDS = 0.0005

MakeServer = Callable[[Serving], Server]
OpenRecommender = Callable[[str, Recommender | None], Recommender]  # of a build, beside the one in use

log = logging.getLogger(__name__)


def main() -> None:
    # These signals may come to every process of a group; only the supervisor acts on them.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    sys.setswitchinterval(_THREAD_SWITCH_SECONDS)
    supervisor = Connection(int(sys.argv[1]))
    try:
        settings, number, core_count, (listener, cores, connections) = supervisor.recv()
    except EOFError:
        return
    set_up_logs(settings, metrics.DROPPED_LOG_LINES.inc)
    _, max_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    open_count = ConnectionCount(connections, settings.workers, number)
    make_server = partial(Server, listener=socket.socket(fileno=listener), open_count=open_count, settings=settings)
    own_cores = Cores(cores, core_count, number, settings.workers)
    live_recall = LiveRecall(settings.recall_share, own_cores, metrics.observe_recall)
    open_recommender = partial(_open_recommender, settings, own_cores, live_recall)
    runner = _CommandRunner(supervisor, open_recommender, partial(make_server, live_recall=live_recall))
    Thread(target=runner.run, daemon=True).start()
    if server := runner.servers.get():
        if settings.milvus:
            Thread(target=_follow_alias, args=(server.serving,), daemon=True).start()
        server.run()


class _CannotOpen(Exception):
    """The build that should be served cannot be opened; the supervisor knows why."""


class _CommandRunner:
    """Does what the supervisor commands, and puts the server to run into `servers`, or None if there is none.

    The server comes with the first build once connections may be accepted. The supervisor sends ("prepare", build id),
    ("drop",), ("serve", build id), ("accept",), ("record", event, amount), ("drain",) and ("end",). It gets
    ("prepared", build id) or ("refused", build id, message), and ("serving", build id). At most two builds are open at
    a time.
    """

    def __init__(self, supervisor: Connection, open_recommender: OpenRecommender, make_server: MakeServer) -> None:
        self.servers: SimpleQueue[Server | None] = SimpleQueue()
        self._supervisor, self._open_recommender, self._make_server = supervisor, open_recommender, make_server
        self._serving: Serving | None = None
        self._served_id, self._prepared_id = "", ""
        self._prepared: Recommender | None = None
        self._server: Server | None = None
        self._may_accept = False

    def run(self) -> None:
        """Run commands until the supervisor says to end, or has died, or what it wants served cannot be opened."""
        run_command: dict[str, Callable[..., None]] = {
            "prepare": self._prepare,
            "drop": self._drop,
            "serve": self._serve,
            "accept": self._accept,
            "record": lambda event, amount: metrics.RECORD_EVENT[event](amount),
            "drain": self._drain,
        }
        try:
            for command, *arguments in _commands(self._supervisor):
                run_command[command](*arguments)
                if self._serving and self._may_accept and not self._server:
                    self._server = self._make_server(self._serving)
                    self.servers.put(self._server)
        except _CannotOpen:
            pass  # The supervisor starts another worker, which tries again.
        finally:
            if self._server:
                self._server.end()
            self.servers.put(None)
        time.sleep(_MAX_ENDING_SECONDS)  # Usually the process ends before.
        os._exit(1)  # Its supervisor has died, and so kills no worker that computes on and on.

    def _prepare(self, build_id: str) -> None:
        self._drop()
        try:
            if self._serving and build_id == self._served_id:
                self._prepared = self._serving.recommender
            else:
                in_use = self._serving.recommender if self._serving else None
                self._prepared = self._open_recommender(build_id, in_use)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with a build, the one before answers on)
            self._supervisor.send(("refused", build_id, str(error)))
        else:
            self._prepared_id = build_id
            self._supervisor.send(("prepared", build_id))

    def _drop(self) -> None:
        self._prepared, self._prepared_id = None, ""

    def _serve(self, build_id: str) -> None:
        if build_id != self._prepared_id:
            self._prepare(build_id)
        if self._prepared is None:
            raise _CannotOpen
        is_first = self._serving is None
        self._serving = self._serving or Serving(self._prepared)
        self._serving.recommender, self._served_id = self._prepared, build_id
        self._drop()
        self._supervisor.send(("serving", build_id))  # Not before: once this is logged, clients may ask.
        # Schemas of requests refer to themselves, and keep fields of builds that are served no more open until they are
        # collected. That takes a millisecond where what is there from the start on is left out, and else thirty. So
        # nothing that a build consists of may refer to itself: of the first build, it would never be collected.
        gc.collect()
        if is_first:
            gc.freeze()

    def _accept(self) -> None:
        self._may_accept = True

    def _drain(self) -> None:
        if self._serving:
            self._serving.draining = True


def _commands(supervisor: Connection) -> Iterator[tuple[str, ...]]:
    """Yield what the supervisor sends until it says to end, or has died."""
    with suppress(EOFError, OSError):
        yield from iter(supervisor.recv, ("end",))


def _follow_alias(serving: Serving) -> None:
    """Keep serving what Milvus's alias names, and knowing whether Milvus answers."""
    engine: MilvusEngine = serving.recommender.engine  # type: ignore[assignment]
    while True:
        time.sleep(_FOLLOW_SECONDS)
        try:
            latest = engine.latest()
            if latest is not engine:
                engine, serving.recommender = latest, Recommender(latest)
                log.info("serving build %s", engine.info.build_id)
        except Exception:  # Whatever is wrong with one look, the next one may find it right.
            log.exception("cannot look up what Milvus serves")


def _open_recommender(
    settings: Settings, cores: Cores, live_recall: LiveRecall, build_id: str, in_use: Recommender | None
) -> Recommender:
    """Open a build, and share what it has in common with the one in use."""
    if settings.milvus:
        return Recommender(_milvus_engine(settings, settings.milvus))
    reuse = in_use.engine.build if in_use and isinstance(in_use.engine, FaissEngine) else None
    engine = open_engine(
        settings.artifacts,
        build_id,
        cores,
        settings.filter,
        requires_model=settings.require_embedding_model,
        on_mask=metrics.count_mask,
        reuse=reuse,
    )
    return Recommender(engine, live_recall)


def _milvus_engine(settings: Settings, milvus: MilvusSettings) -> "MilvusEngine":
    try:
        from service.engines import milvus_engine
    except ModuleNotFoundError as error:
        raise BadSetting(f"RECO_ENGINE='milvus': {error}; {INSTALL_MILVUS}") from error
    return milvus_engine.open_engine(milvus, settings.filter, settings.require_embedding_model)


if __name__ == "__main__":
    main()
