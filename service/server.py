"""waitress: listens, serves the app, and answers what never reaches the app in the app's own words."""

import logging
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType

import waitress
from flask import Flask
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from service.app import INDEX_VERSION, PROBLEM, problem_body
from service.settings import Settings

log = logging.getLogger(__name__)


def serve(app: Flask, settings: Settings, build_id: Callable[[], str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    listener = _listen(settings.host, settings.port)
    whole_body = settings.max_body_bytes + 1
    server = waitress.create_server(
        app,
        sockets=[listener],
        threads=settings.threads,
        max_request_body_size=whole_body,
        # Bodies and answers stay in memory: the file system may be read-only.
        inbuf_overflow=whole_body,
        outbuf_overflow=2**40,
        ident=None,
    )
    server.channel_class = _channel_class(
        build_id, f"the body is larger than the {settings.max_body_bytes} bytes allowed"
    )
    signal.signal(signal.SIGTERM, _stop)
    host, port = listener.getsockname()[:2]
    log.info("serving build %s on http://%s:%d", build_id(), f"[{host}]" if ":" in host else host, port)
    server.run()


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family, backlog=1024)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _channel_class(build_id: Callable[[], str], too_large: str) -> type[HTTPChannel]:
    """A channel whose own errors (bad HTTP, too large a body) are problems like the app's."""

    class ProblemTask(ErrorTask):
        def execute(self) -> None:
            error = self.request.error
            status = HTTPStatus(error.code)
            detail = too_large if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else error.body
            body = problem_body(status, detail)
            self.status = f"{status.value} {status.phrase}"
            self.response_headers += [("Content-Type", PROBLEM), (INDEX_VERSION, build_id())]
            self.set_close_on_finish()
            self.content_length = len(body)
            self.write(body)

    class Channel(HTTPChannel):
        error_task_class = ProblemTask

    return Channel
