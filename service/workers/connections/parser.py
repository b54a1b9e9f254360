"""Parsing requests, and refusing on their headers, or as they grow, those that will not be answered."""

import time
from collections.abc import Callable
from http import HTTPStatus

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.utilities import Error, RequestEntityTooLarge, RequestHeaderFieldsTooLarge

from service.errors import ServiceError, Unauthorized
from service.http.access import Access
from service.http.dynamic_batching import BatchedAnswer
from service.http.openapi import OPERATIONS
from service.http.problems import NO_MEMORY, RETRY_SECONDS, STATUS
from service.workers.connections.body import Body, ChunkedBody
from service.workers.connections.budget import MIN_COUNTED_BYTES

MIN_EARLY_REFUSAL_BYTES = 256 * 1024  # A smaller body is received before its refusal, which keeps the connection.
_MAX_HEAD_LINES, _HEAD_END = 256, b"\r\n\r\n"


class Refusal(Error):
    """A refusal of a well-formed request; its connection is kept once the request has come whole."""

    def __init__(self, status: HTTPStatus, detail: str, *headers: tuple[str, str]):
        super().__init__(detail)
        self.code, self.reason, self.headers = status.value, status.phrase, headers


OVERLOADED = Refusal(
    HTTPStatus.TOO_MANY_REQUESTS,
    f"there is more to do than can wait; try again in {RETRY_SECONDS} s",
    ("Retry-After", str(RETRY_SECONDS)),
)

OUT_OF_MEMORY = Refusal(
    HTTPStatus.TOO_MANY_REQUESTS,
    NO_MEMORY,
    ("Retry-After", str(RETRY_SECONDS)),
)


class RequestParser(HTTPRequestParser):
    """A request as it arrives."""

    completed: bool
    headers_finished: bool
    error: Error | None
    body_rcv: Body | None
    arrived: float  # when the request was complete, by `time.perf_counter`
    batched_answer: BatchedAnswer | None = None
    decoded_bytes = 0  # The body has become so many.
    on_answer: Callable[[], None] | None = None
    _denial: Refusal | None = None

    def __init__(
        self,
        adjustments: Adjustments,
        access: Access,
        is_full: Callable[[], bool],
        has_room: Callable[[int], bool],
        max_body_bytes: int,
    ):
        super().__init__(adjustments)
        self.access, self._is_full, self._has_room = access, is_full, has_room
        self._max_body_bytes = max_body_bytes
        self._head, self.arrived = bytearray(), time.perf_counter()

    def begin_answer(self) -> None:
        """Tell whoever counts the request that its answer is there."""
        on_answer, self.on_answer = self.on_answer, None
        if on_answer:
            on_answer()

    @property
    def is_single(self) -> bool:
        """Whether this asks for the matches of one user, with a body that need not be decoded."""
        is_infer = self.command == "POST" and self.path == OPERATIONS["infer"].path
        return bool(is_infer and not self.headers.get("CONTENT_ENCODING"))

    @property
    def accept_encoding(self) -> str:
        return str(self.headers.get("ACCEPT_ENCODING", ""))

    @property
    def embedding_model(self) -> str | None:
        """What embedding model the request's vectors are of, as far as it says so."""
        named: str | None = self.headers.get("X_EMBEDDING_MODEL")
        return named

    @property
    def body_bytes(self) -> int:
        """How long the body is at least, with what has been announced of it."""
        return max(self.content_length, self.body_rcv.expected_bytes if self.body_rcv is not None else 0)

    @property
    def body(self) -> bytes:
        return self.body_rcv.getfile().getvalue() if self.body_rcv is not None else b""

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # waitress would drop the connection over this one, which urllib raises
            raise ParsingError("Bad URI") from error
        if self.body_rcv is not None:
            self.body_rcv = ChunkedBody() if self.chunked else Body(self.content_length)
        try:
            self.access.check(self.command, self.path, self.headers)
        except ServiceError as error:
            headers = [("WWW-Authenticate", "Bearer")] if isinstance(error, Unauthorized) else []
            self._denial = Refusal(STATUS[type(error)], str(error), *headers)
        if self.content_length > MIN_EARLY_REFUSAL_BYTES and self._is_full():
            self.error = OVERLOADED
        elif self.content_length > MIN_COUNTED_BYTES and not self._has_room(self.content_length):
            self.error = OUT_OF_MEMORY

    @property
    def held_bytes(self) -> int:
        """How much of the request is in memory."""
        return len(self._head) + (len(self.body_rcv) if self.body_rcv is not None else 0) + self.decoded_bytes

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data) if self.headers_finished else self._receive_head(data)
        body_bytes = self.body_bytes
        if isinstance(self.error, RequestEntityTooLarge) or (not self.error and body_bytes > self._max_body_bytes):
            self.error = RequestEntityTooLarge(f"the body is larger than the {self._max_body_bytes} bytes allowed")
        if self._denial and (self.completed or body_bytes > MIN_EARLY_REFUSAL_BYTES):
            self.error = self.error or self._denial
        if self.error is not None:
            self.completed = True
        return consumed

    def _receive_head(self, data: bytes) -> int:
        """Collect the lines before the body, and parse them once they are complete; each byte is searched once."""
        before = len(self._head)
        self._head += data
        end = self._head.find(_HEAD_END, max(0, before - len(_HEAD_END) + 1)) + len(_HEAD_END)
        is_complete = end >= len(_HEAD_END)
        if not is_complete and len(self._head) < self.adj.max_request_header_size:
            return len(data)
        head = bytes(self._head[:end] if is_complete else self._head)
        self._head.clear()
        if head.count(b"\n") > _MAX_HEAD_LINES:
            self.parse_header(b"GET / HTTP/1.0\r\n")
            self.error = RequestHeaderFieldsTooLarge(f"more than {_MAX_HEAD_LINES} header lines")
            self.completed = True
        else:
            super().received(head)
        return len(head) - before
