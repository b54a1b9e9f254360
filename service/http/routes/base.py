"""What all routes share: reading a body, answering, and the keys of what they exchange with the server."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from threading import Lock
from typing import Any

from flask import Response, request

from service.engines.base import IndexInfo
from service.errors import TooLarge
from service.http.encoding import JSON, Reserve, write_json
from service.http.problems import SAFETY_HEADERS
from service.http.routes.content_coding import decode
from service.recommender import Recommender
from service.settings import Settings

View = Callable[[Recommender], Response]  # It is given what is served as the request comes.

INDEX_VERSION, EMBEDDING_MODEL = "X-Index-Version", "X-Embedding-Model"
_ANSWERS_PER_BUDGET = 8  # An answer's fields are in up to four copies while it is put together.
# Keys of the WSGI environment: users in the request, the build that answered it, and what is told of bytes to be kept.
USERS, BUILD, RESERVE = "reco.users", "reco.build", "reco.reserve"


class Routes(ABC):
    """A group of routes."""

    def __init__(self, settings: Settings):
        self.settings = settings

    @abstractmethod
    def views(self) -> dict[str, View]:
        """Return the view of each operation, by the operation's id."""

    def read_body(self) -> bytes:
        """Return the body of the current request, decoded. Raises BadBody, TooLarge and what `decode` does."""
        limit = self.settings.max_body_bytes
        body: bytes = request.environ["wsgi.input"].read(limit + 1)
        if len(body) > limit:
            raise TooLarge(f"the body is larger than the {limit} bytes allowed")
        reserve = request.environ.get(RESERVE, lambda _more_bytes: None)
        return decode(body, request.headers.get("Content-Encoding", ""), limit, reserve)

    def reserve_answer(self) -> Reserve:
        """Return what counts the bytes of fields in the answer to the current request.

        It raises OutOfMemory where there is no room for them beside other requests, and TooLarge where one answer would
        take more than its share. Threads may share it.
        """
        reserve = request.environ.get(RESERVE, lambda _more_bytes: None)
        limit = self.settings.memory_bytes // self.settings.workers // _ANSWERS_PER_BUDGET
        counting, total_bytes = Lock(), 0

        def reserve_answer(more_bytes: int) -> None:
            nonlocal total_bytes
            with counting:
                total_bytes += more_bytes
                if total_bytes > limit:
                    detail = f"the answer's fields are larger than the {limit:,} bytes allowed"
                    raise TooLarge(f"{detail}: ask for fewer users, matches or fields")
                reserve(more_bytes)

        return reserve_answer


def respond(recommender: Recommender, body: bytes, media_type: str = JSON) -> Response:
    """Return the answer to the current request by a recommender, whose build it names."""
    request.environ[BUILD] = recommender.info.build_id
    return Response(body, headers=answer_headers(recommender.info, media_type), direct_passthrough=True)


def answer_headers(info: IndexInfo, media_type: str = JSON) -> dict[str, str]:
    """Return the headers of every answer by a build."""
    return {"Content-Type": media_type, **build_headers(info), **SAFETY_HEADERS}


def build_headers(info: IndexInfo) -> dict[str, str]:
    """Return the headers that name a build, and the embedding model that it is of."""
    version = {INDEX_VERSION: info.build_id}
    return version if info.embedding_model is None else {**version, EMBEDDING_MODEL: info.embedding_model}


def respond_json(recommender: Recommender, value: Any) -> Response:
    """Return the answer to the current request, given as plain values and dataclasses."""
    return respond(recommender, write_json(value))
