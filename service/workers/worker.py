"""A worker process, `python -m service.workers.worker`, started and commanded by the supervisor."""

import logging
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

from retrieval.artifact.store import open_build
from service.cores import Cores
from service.engines.faiss_engine import FaissEngine
from service.errors import BadSetting
from service.http import metrics
from service.recommender import Recommender, Serving
from service.settings import MilvusSettings, Settings
from service.workers.listener import ConnectionCount
from service.workers.logs import set_up_logs
from service.workers.server import Server

if TYPE_CHECKING:
    from service.engines.milvus_engine import MilvusEngine

_FOLLOW_SECONDS = 1.0  # between two looks at the cluster
# How long a thread with a search to begin or to end waits for one that reads a large batch.
_THREAD_SWITCH_SECONDS = 0.0005

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
    servers: SimpleQueue[Server | None] = SimpleQueue()
    own_cores = Cores(cores, core_count, number, settings.workers)
    Thread(target=_run_commands, args=(settings, own_cores, supervisor, make_server, servers), daemon=True).start()
    if server := servers.get():
        if settings.milvus:
            Thread(target=_follow_alias, args=(server.serving,), daemon=True).start()
        server.run()


def _run_commands(
    settings: Settings,
    cores: Cores,
    supervisor: Connection,
    make_server: Callable[[Serving], Server],
    servers: "SimpleQueue[Server | None]",
) -> None:
    """Do what the supervisor commands until it says to end, and hand over the server to run, or None if there is none.

    The server comes with the first build once connections may be accepted. The supervisor sends ("load", build id),
    ("accept",), ("count", event), ("drain",) and ("end",), and gets ("serving", build id) or ("refused", message) for
    each build.
    """
    serving, server, may_accept = None, None, False
    try:
        for command, *arguments in _commands(supervisor):
            if command == "load":
                engine = _load(settings, cores, supervisor, *arguments)
                if engine:
                    recommender = Recommender(engine)
                    serving = serving or Serving(recommender)
                    serving.recommender = recommender
                    supervisor.send(("serving", *arguments))  # Not before: once this is logged, clients may ask.
                elif settings.milvus:
                    return  # The supervisor starts another worker, which tries again.
            elif command == "accept":
                may_accept = True
            elif command == "count":
                metrics.EVENTS[arguments[0]].inc()
            elif command == "drain" and serving:
                serving.draining = True
            if serving and may_accept and not server:
                server = make_server(serving)
                servers.put(server)
    finally:
        if server:
            server.end()
        servers.put(None)


def _commands(supervisor: Connection) -> Iterator[tuple[str, ...]]:
    """Yield what the supervisor sends until it says to end, or has died."""
    with suppress(EOFError, OSError):
        yield from iter(supervisor.recv, ("end",))


def _follow_alias(serving: Serving) -> None:
    """Keep serving what Milvus's alias names, and knowing whether Milvus answers."""
    engine: MilvusEngine = serving.recommender.engine  # type: ignore[assignment]
    while True:
        time.sleep(_FOLLOW_SECONDS)
        latest = engine.latest()
        if latest is not engine:
            engine, serving.recommender = latest, Recommender(latest)
            log.info("serving build %s", engine.info.build_id)


def _load(
    settings: Settings, cores: Cores, supervisor: Connection, build_id: str
) -> "FaissEngine | MilvusEngine | None":
    try:
        if settings.milvus:
            return _milvus_engine(settings.milvus)
        build = open_build(settings.artifacts, build_id, verified=True)
        build.index.warm()
        return FaissEngine(build, cores)
    except Exception as error:  # noqa: BLE001 (a worker that cannot serve this build may be sent others)
        supervisor.send(("refused", str(error)))
        return None


def _milvus_engine(settings: MilvusSettings) -> "MilvusEngine":
    try:
        from service.engines.milvus_engine import open_engine
    except ModuleNotFoundError as error:
        raise BadSetting(f"RECO_ENGINE='milvus': {error}; pip install 'jetmlett[milvus]'") from error
    return open_engine(settings)


if __name__ == "__main__":
    main()
