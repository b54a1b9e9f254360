"""Talks to the service, in process or over HTTP, and holds its refusals to the contract."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from functools import cached_property
from http import HTTPStatus
from typing import Any

import numpy as np
from werkzeug.datastructures import Headers

from service.recommender import Recommender
from tests.support.matches import answers_to, user_row

JSON, NDJSON, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"
VECTOR = [round(float(number), 3) for number in np.sin(np.arange(1, 301))]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message | Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Fault:
    """A member of a problem's `errors`."""

    pointer: str
    code: str
    detail: str


Send = Callable[[str, str, bytes | None, dict[str, str]], Answer]


class Api:
    """The service's clients in tests; every answer must name the build, and its embedding model."""

    def __init__(self, send: Send, recommender: Recommender):
        self._send, self._recommender = send, recommender
        self.build_id = recommender.info.build_id

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, body: bytes | None, content_type: str = JSON) -> Answer:
        return self.request("POST", path, body, {"Content-Type": content_type})

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        answer = self._send(method, path, body, headers or {})
        assert answer.headers["X-Index-Version"] == self.build_id
        assert answer.headers.get("X-Embedding-Model") == self._recommender.info.embedding_model
        return answer

    def infer(self, body: bytes, content_type: str = JSON) -> Answer:
        """The answer to a request that must be a good one."""
        answer = self.post("/infer", body, content_type)
        assert (answer.status, answer.headers["Content-Type"]) == (200, JSON), answer.body
        return answer

    def batch(self, body: bytes, errors: int = 0, content_type: str = JSON) -> Answer:
        """The answer to a batch of which so many users must have failed."""
        answer = self.post("/batch", body, content_type)
        assert (answer.status, answer.headers["Content-Type"]) == (200, content_type), answer.body
        assert answer.headers["X-Batch-Errors"] == str(errors)
        return answer

    def refuse(
        self, body: bytes | None, status: int, detail: str, path: str = "/infer", content_type: str = JSON
    ) -> None:
        """Assert that the body gets exactly this problem, and the next good request its answer."""
        check_problem(self.post(path, body, content_type), status, detail)
        self.check_alive()

    def refuse_user(self, body: bytes, *faults: Fault, path: str = "/infer") -> None:
        """Assert that the body gets a 422 that lists exactly these faults, and the next good request its answer."""
        check_problem(self.post(path, body), 422, "; ".join(fault.detail for fault in faults), faults)
        self.check_alive()

    def check_alive(self) -> None:
        assert self.infer(user_json(name="good", k=3)).body == self._good_answer

    @cached_property
    def _good_answer(self) -> bytes:
        return answers_to(self._recommender, [user_row("good", VECTOR, 3)])[0]


def check_problem(answer: Answer, status: int, detail: str, faults: tuple[Fault, ...] = ()) -> None:
    expected: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if faults:
        expected["errors"] = [vars(fault) for fault in faults]
    assert answer.status == status
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.json == expected


def user_json(**fields: Any) -> bytes:
    """A good user's JSON, with fields replaced."""
    return json.dumps({"name": "ann", "vector": VECTOR, **fields}).encode()


def user_text(vector: str | None = None, **fields: str) -> bytes:
    """A good user's JSON, with fields replaced by texts that Python would not write."""
    texts = {"name": '"ann"', "vector": vector or json.dumps(VECTOR), **fields}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}").encode()


def vector_text(*numbers: str) -> str:
    """The text of a vector that begins with these numbers."""
    return "[" + ",".join([*numbers, *map(str, VECTOR[len(numbers) :])]) + "]"


def array(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
