"""A worker process: `python -m service.worker`. The supervisor starts it, tells it what to do, and it ends with it."""

import argparse
import logging
import os
import resource
import signal
import socket
import threading
from multiprocessing.connection import Connection

from index_builder.artifact import open_build
from index_builder.errors import BadArtifact
from service import metrics
from service.app import create_app
from service.cores import Cores, cores_of_worker
from service.engines.faiss_engine import FaissEngine
from service.logs import set_up_logs
from service.recommender import Recommender, Serving
from service.server import Server
from service.settings import Settings, read_settings

log = logging.getLogger(__name__)


def main() -> None:
    options = _parser().parse_args()
    for signal_number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # they may come to all processes; the supervisor's word counts
        signal.signal(signal_number, signal.SIG_IGN)
    settings = read_settings(os.environ)
    set_up_logs(settings)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    cores = cores_of_worker(options.cores, options.core_count, options.number, settings.workers)
    work(settings, cores, Connection(options.supervisor), socket.socket(fileno=options.listener))


def work(settings: Settings, cores: Cores, supervisor: Connection, listener: socket.socket) -> None:
    """Wait for a build to serve, and serve until told to end.

    The supervisor sends ("load", build id), ("count", event), ("drain",) and ("end",), and gets ("serving", build id)
    or ("refused", message) for each build.
    """
    recommender = None
    while recommender is None:
        try:
            command, *arguments = supervisor.recv()
        except EOFError:
            return
        if command == "end":
            return
        if command == "load":
            recommender = _load(settings, cores, supervisor, *arguments)
    serving = Serving(recommender)
    server = Server(create_app(serving, settings), serving, listener, settings)
    threading.Thread(target=_obey, args=(settings, cores, supervisor, serving, server), daemon=True).start()
    server.run()


def _obey(settings: Settings, cores: Cores, supervisor: Connection, serving: Serving, server: Server) -> None:
    while True:
        try:
            command, *arguments = supervisor.recv()
        except (EOFError, OSError):  # the supervisor has died
            server.end()
            return
        if command == "load":
            serving.recommender = _load(settings, cores, supervisor, *arguments) or serving.recommender
        elif command == "count":
            metrics.EVENTS[arguments[0]].inc()
        elif command == "drain":
            serving.draining = True
        elif command == "end":
            server.end()


def _load(settings: Settings, cores: Cores, supervisor: Connection, build_id: str) -> Recommender | None:
    try:
        build = open_build(settings.artifacts, build_id, verified=True)
    except (BadArtifact, OSError) as error:
        supervisor.send(("refused", str(error)))
        return None
    build.index.warm()
    supervisor.send(("serving", build_id))
    return Recommender(FaissEngine(build, cores))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.worker")
    for name in ("number", "listener", "supervisor", "cores", "core-count"):  # the middle three are descriptors
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser


if __name__ == "__main__":
    main()
