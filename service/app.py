"""HTTP: routes, headers, and the one table that turns errors into answers."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from index_builder.lenient_json import BadJson
from service import payload
from service.errors import BadBody, BadRequest, Fault, ServiceError, TooLarge
from service.recommender import Recommender, User
from service.schemas import UserReader
from service.settings import Limits

PROBLEM = "application/problem+json"
INDEX_VERSION, BATCH_ERRORS = "X-Index-Version", "X-Batch-Errors"

_STATUS = {
    BadBody: HTTPStatus.BAD_REQUEST,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BadRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedUser:
    """The answer to a user of a batch that does not fit the contract: its first fault."""

    name: str | None
    error: Fault


def create_app(recommender: Recommender, limits: Limits, max_body_bytes: int) -> Flask:
    """The WSGI application over one recommender."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    reader = UserReader(recommender.info.dimension, limits)

    @app.post("/infer")
    def infer() -> Response:
        user = reader.read(payload.read_json(_body()))
        return _answer(payload.write_json(recommender.recommend([user])[0]))

    @app.post("/batch")
    def batch() -> Response:
        lines = request.mimetype == payload.NDJSON
        values = payload.read_ndjson(_body()) if lines else _array(payload.read_json(_body()))
        if len(values) > limits.max_batch:
            raise TooLarge(f"the batch has {len(values)} users, {limits.max_batch} are allowed")
        items = [_read_item(reader, value, i) for i, value in enumerate(values)]
        users = [item for item in items if isinstance(item, User)]
        _check_matches(users, limits)
        answers = iter(recommender.recommend(users))
        results = [next(answers) if isinstance(item, User) else item for item in items]
        body = payload.write_ndjson(results) if lines else payload.write_array(results)
        response = _answer(body, mimetype=payload.NDJSON if lines else payload.JSON)
        response.headers[BATCH_ERRORS] = str(len(items) - len(users))
        return response

    @app.get("/index")
    def index() -> Response:
        return _answer(payload.write_json(asdict(recommender.info)))

    @app.get("/health/live")
    def live() -> Response:
        return _answer(payload.write_json({"status": "live"}))

    @app.get("/health/ready")
    def ready() -> Response:
        return _answer(payload.write_json({"status": "ready"}))

    @app.errorhandler(ServiceError)
    def service_error(error: ServiceError) -> Response:
        faults = error.faults if isinstance(error, BadRequest) else []
        return problem(_STATUS[type(error)], str(error), faults)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        answer = problem(HTTPStatus(error.code or 500), error.description or "")
        allow = error.get_response().headers.get("Allow")
        if allow:
            answer.headers["Allow"] = allow
        return answer

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        log.error("unexpected error on %s %s", request.method, request.path, exc_info=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected error; the log says more")

    @app.after_request
    def name_the_build(response: Response) -> Response:
        response.headers[INDEX_VERSION] = recommender.info.build_id
        return response

    return app


def problem(status: HTTPStatus, detail: str, faults: Sequence[Fault] = ()) -> Response:
    """An RFC 9457 problem, with the faults of the request if there are any."""
    return _answer(problem_body(status, detail, faults), status, PROBLEM)


def problem_body(status: HTTPStatus, detail: str, faults: Sequence[Fault] = ()) -> bytes:
    body: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return payload.write_json({**body, "errors": faults} if faults else body)


def _answer(body: bytes, status: HTTPStatus = HTTPStatus.OK, mimetype: str = payload.JSON) -> Response:
    return Response(body, status, mimetype=mimetype)


def _body() -> bytes:
    return request.get_data(cache=False)


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest([Fault("type", "a batch must be an array of users", "")])
    return value


def _read_item(reader: UserReader, value: Any, position: int) -> User | FailedUser:
    pointer = f"/{position}"
    if isinstance(value, BadJson):
        return FailedUser(None, Fault("not_json", f"the line is {value}", pointer))
    try:
        return reader.read(value, pointer)
    except BadRequest as error:
        name = value.get("name") if isinstance(value, dict) else None
        return FailedUser(name if isinstance(name, str) else None, error.faults[0])


def _check_matches(users: Sequence[User], limits: Limits) -> None:
    wanted = sum(user.k for user in users)
    if wanted > limits.users_times_k:
        raise TooLarge(f"the batch asks for {wanted} matches a side (users x k), {limits.users_times_k} are allowed")
