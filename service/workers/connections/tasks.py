"""Writing answers and problems to a connection, each with the request's id, counted and logged."""

import logging
import time
from functools import cache
from http import HTTPMethod, HTTPStatus
from typing import Any

from prometheus_client import Counter, Histogram
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, Task, WSGITask

from service.http import metrics
from service.http.openapi import HEALTH_ROUTES, route_of
from service.http.problems import PROBLEM, problem_body
from service.http.routes.base import BUILD, RESERVE, USERS, answer_headers
from service.http.routes.content_coding import compress, should_compress
from service.workers.connections.parser import Refusal, RequestParser
from service.workers.logs import request_id

_OK_STATUS, _SHED_STATUS = str(HTTPStatus.OK.value), str(HTTPStatus.TOO_MANY_REQUESTS.value)
_METHODS = frozenset(map(str, HTTPMethod))
_MAPPED_IPV4 = "::ffff:"  # An IPv4 client of a socket for IPv6 has an address that begins so.


@cache
def _counters(route: str, status: str) -> tuple[Counter, Histogram]:
    return metrics.REQUESTS.labels(route, status), metrics.SECONDS.labels(route)


class _IdentifiedTask(Task):
    """Writes the request's id, and counts and logs the answer."""

    environ: dict[str, Any] | None = None

    def __init__(self, channel: HTTPChannel, request: RequestParser):
        super().__init__(channel, request)
        self.request_id = request_id(request.headers)

    def build_response_header(self) -> bytes:
        self.response_headers.append(("X-Request-Id", self.request_id))
        self.response_headers += self.request.access.cors_headers(self.request.headers)
        self.request.begin_answer()
        self._observe()  # This comes before the client can have seen the answer.
        return super().build_response_header()

    def _observe(self) -> None:
        """Count and log the answer."""
        status, path = self.status[:3], getattr(self.request, "path", "")
        route = route_of(path)
        seconds = time.perf_counter() - self.request.arrived
        requests, duration = _counters(route, status)
        requests.inc()
        duration.observe(seconds)
        if status == _SHED_STATUS:
            metrics.SHED.inc()
        facts, method = self.environ or {}, getattr(self.request, "command", "")
        self.channel.server.request_log.add(
            logging.DEBUG if route in HEALTH_ROUTES and status == _OK_STATUS else logging.INFO,
            request_id=self.request_id,
            client=self.channel.addr[0].removeprefix(_MAPPED_IPV4),
            method=method if method in _METHODS else "other",
            route=route,
            status=int(status),
            milliseconds=round(seconds * 1e3, 3),
            request_bytes=self.request.body_bytes,
            answer_bytes=(self.content_length or 0) if self.has_body and method != HTTPMethod.HEAD else 0,
            users=facts.get(USERS, 0),
            build=facts.get(BUILD, ""),
        )


class AnswerTask(_IdentifiedTask, WSGITask):
    """Writes the answer that dynamic batching has found, or has the app answer.

    Head and body go out in one piece, and the connection of a server that drains is closed.
    """

    wrote_header: bool

    def execute(self) -> None:
        if found := self.request.batched_answer:
            self.environ = {USERS: 1, BUILD: found.info.build_id}
            self.response_headers += answer_headers(found.info).items()
            body = found.json
            if should_compress(len(body), self.request.accept_encoding):
                body, headers = compress(body)
                self.response_headers += headers.items()
            self.content_length, self.complete = len(body), True
            self.write(body)
        else:
            super().execute()

    def write(self, data: bytes) -> None:
        if self.wrote_header or not data or not self.has_body or self.content_length != len(data):
            super().write(data)
            return
        head = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written = len(data)
        self.channel.write_soon(head + data)

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[RESERVE] = self.channel.reserve
        return environ

    def build_response_header(self) -> bytes:
        if self.channel.server.serving.draining:
            self.set_close_on_finish()
        return super().build_response_header()


class ProblemTask(_IdentifiedTask, ErrorTask):
    """Writes a problem about a request that never reaches the app, as the app would."""

    def execute(self) -> None:
        error, serving = self.request.error, self.channel.server.serving
        status = HTTPStatus(error.code)
        self.status = f"{status.value} {status.phrase}"
        self.response_headers += answer_headers(serving.recommender.info, PROBLEM).items()
        if isinstance(error, Refusal):
            self.response_headers += error.headers
        has_come_whole = self.request.body_rcv is None or self.request.body_rcv.completed
        if not isinstance(error, Refusal) or not has_come_whole or serving.draining:
            self.set_close_on_finish()
        body = problem_body(status, error.body, getattr(self.request, "path", ""))
        self.content_length = len(body)
        self.write(body)
