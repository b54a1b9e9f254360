"""A worker process, `python -m service.workers.worker`, started and commanded by the supervisor."""

import argparse
import logging
import resource
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from retrieval.artifact.store import open_build
from service.cores import Cores, cores_of_worker
from service.engines.faiss_engine import FaissEngine
from service.errors import BadSetting
from service.http import metrics
from service.http.app import create_app
from service.recommender import Recommender, Serving
from service.settings import MilvusSettings, Settings
from service.workers.listener import ConnectionCounts, SharedListener
from service.workers.logs import set_up_logs
from service.workers.server import Server

if TYPE_CHECKING:
    from service.engines.milvus_engine import MilvusEngine

_FOLLOW_SECONDS = 1.0  # between two looks at the cluster
# How long a thread with a search to begin or to end waits for one that reads a large batch.
_THREAD_SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


def main() -> None:
    options = _parser().parse_args()
    # These signals may come to every process of a group; only the supervisor acts on them.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, signal.SIG_IGN)
    sys.setswitchinterval(_THREAD_SWITCH_SECONDS)
    supervisor = Connection(options.supervisor)
    try:
        settings: Settings = supervisor.recv()
    except EOFError:
        return
    set_up_logs(settings)
    _, max_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    cores = cores_of_worker(options.cores, options.core_count, options.number, settings.workers)
    counts = ConnectionCounts(options.connections, settings.workers)
    work(settings, cores, supervisor, SharedListener(socket.socket(fileno=options.listener), counts, options.number))


def work(settings: Settings, cores: Cores, supervisor: Connection, listener: SharedListener) -> None:
    """Wait for a build to serve and for the command to accept connections, and serve until told to end.

    The supervisor sends the settings, ("load", build id), ("accept",), ("count", event), ("drain",) and ("end",), and
    gets ("serving", build id) or ("refused", message) for each build.
    """
    engine, may_accept = None, False
    while not (engine and may_accept):
        try:
            command, *arguments = supervisor.recv()
        except EOFError:
            return
        if command == "end":
            return
        may_accept = may_accept or command == "accept"
        if command == "load":
            loaded = _load(settings, cores, supervisor, *arguments)
            if loaded:
                engine = loaded
                supervisor.send(("serving", *arguments))
            elif settings.milvus:
                return  # The supervisor starts another worker, which tries again.
            del loaded  # A later build must not find this one still open.
    serving = Serving(Recommender(engine))
    server = Server(create_app(serving, settings), serving, listener, settings)
    threading.Thread(target=_run_commands, args=(settings, cores, supervisor, serving, server), daemon=True).start()
    if not isinstance(engine, FaissEngine):
        threading.Thread(target=_follow_alias, args=(serving, engine), daemon=True).start()
    del engine  # A later build must not find this one still open.
    server.run()


def _run_commands(settings: Settings, cores: Cores, supervisor: Connection, serving: Serving, server: Server) -> None:
    while True:
        try:
            command, *arguments = supervisor.recv()
        except (EOFError, OSError):  # The supervisor has died.
            server.end()
            return
        if command == "load":
            engine = _load(settings, cores, supervisor, *arguments)
            if engine:
                serving.recommender = Recommender(engine)
                supervisor.send(("serving", *arguments))  # Not before: once this is logged, clients may ask.
        elif command == "count":
            metrics.EVENTS[arguments[0]].inc()
        elif command == "drain":
            serving.draining = True
        elif command == "end":
            server.end()


def _follow_alias(serving: Serving, engine: "MilvusEngine") -> None:
    """Keep serving what Milvus's alias names, and knowing whether Milvus answers."""
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
        return _milvus_engine(settings.milvus) if settings.milvus else _faiss_engine(settings, cores, build_id)
    except Exception as error:  # noqa: BLE001 (a worker that cannot serve this build may be sent others)
        supervisor.send(("refused", str(error)))
        return None


def _faiss_engine(settings: Settings, cores: Cores, build_id: str) -> FaissEngine:
    build = open_build(settings.artifacts, build_id, verified=True)
    build.index.warm()
    return FaissEngine(build, cores)


def _milvus_engine(settings: MilvusSettings) -> "MilvusEngine":
    try:
        from service.engines.milvus_engine import open_engine
    except ModuleNotFoundError as error:
        raise BadSetting(f"RECO_ENGINE='milvus': {error}; pip install 'jetmlett[milvus]'") from error
    return open_engine(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.workers.worker")
    for name in ("number", "core-count"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("listener", "supervisor", "cores", "connections"):
        parser.add_argument(f"--{name}", type=int, required=True, help="file descriptor")
    return parser


if __name__ == "__main__":
    main()
