"""waitress: listens, serves the app, and answers what never reaches the app in the app's own words."""

import errno
import logging
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType

import waitress
from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask
from waitress.utilities import Error, RequestEntityTooLarge

from service.app import INDEX_VERSION, PROBLEM, problem_body
from service.errors import BadSetting
from service.settings import Settings

log = logging.getLogger(__name__)


def serve(app: Flask, settings: Settings, build_id: Callable[[], str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    listener = _listen(settings.host, settings.port)
    received_at_most = (
        2 * settings.max_body_bytes
    )  # with the framing of chunks, which waitress counts and the limit does not
    server = waitress.create_server(
        app,
        sockets=[listener],
        threads=settings.threads,
        max_request_body_size=received_at_most,
        # Bodies and answers stay in memory: the file system may be read-only.
        inbuf_overflow=received_at_most,
        outbuf_overflow=2**40,
        ident=None,
    )
    server.channel_class = _channel_class(build_id, settings.max_body_bytes)
    signal.signal(signal.SIGTERM, _stop)
    host, port = listener.getsockname()[:2]
    log.info("serving build %s on http://%s:%d", build_id(), f"[{host}]" if ":" in host else host, port)
    server.run()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=1024)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
        where = f"RECO_PORT={port}" if getattr(error, "errno", None) == errno.EADDRINUSE else f"RECO_HOST={host!r}"
        raise BadSetting(f"{where}: cannot listen there: {error}") from None


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _channel_class(build_id: Callable[[], str], max_body_bytes: int) -> type[HTTPChannel]:
    """A channel that refuses too large a body on its headers or as it grows, and whose errors are problems."""

    class Parser(HTTPRequestParser):
        error: Error | None

        def parse_header(self, header_plus: bytes) -> None:
            try:
                super().parse_header(header_plus)
            except ValueError:  # of urllib, over which waitress would drop the connection
                raise ParsingError("Bad URI") from None

        def received(self, data: bytes) -> int:
            consumed: int = super().received(data)
            if self.error is None and max(self.content_length, len(self.body_rcv or b"")) > max_body_bytes:
                self.error, self.completed = RequestEntityTooLarge(""), True
            return consumed

    class ProblemTask(ErrorTask):
        def execute(self) -> None:
            error = self.request.error
            status = HTTPStatus(error.code)
            too_large = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            body = problem_body(
                status, f"the body is larger than the {max_body_bytes} bytes allowed" if too_large else error.body
            )
            self.status = f"{status.value} {status.phrase}"
            self.response_headers += [("Content-Type", PROBLEM), (INDEX_VERSION, build_id())]
            self.set_close_on_finish()
            self.content_length = len(body)
            self.write(body)

    class Channel(HTTPChannel):
        parser_class = Parser
        error_task_class = ProblemTask

    return Channel
