"""HTTP: routes, headers, and the one table that turns errors into answers."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from service.errors import (
    BadBody,
    BadRequest,
    CannotLookUp,
    EngineUnavailable,
    FailedUser,
    Fault,
    ServiceError,
    TooLarge,
)
from service.http import lookups, metrics, payload
from service.http.dynamic_batching import Answered
from service.http.lookup_requests import LookupReader
from service.http.open_inference import HEADER_LENGTH, MODEL, SERVER, InferenceReader, describe_model, write_answers
from service.http.openapi import ApiDocument
from service.http.pages import Page, read_pages
from service.http.schemas import UserReader
from service.recommender import Answer, Item, Recommendation, Recommender, Serving, User
from service.settings import Limits, Settings

PROBLEM = "application/problem+json"
LIVE_ROUTES = ("/health/live", "/v2/health/live")
READY_ROUTES = ("/health/ready", "/v2/health/ready")
SINGLE_ROUTE, METRICS_ROUTE, PROTOCOL_ROUTE = "/infer", "/metrics", "/v2"
MODEL_ROUTE = f"{PROTOCOL_ROUTE}/models/{MODEL}"
MODEL_READY_ROUTE = f"{MODEL_ROUTE}/ready"
URGENT_ROUTES = frozenset(
    {*LIVE_ROUTES, *READY_ROUTES, MODEL_READY_ROUTE, METRICS_ROUTE}
)  # answered before anything that waits
INDEX_VERSION, BATCH_ERRORS = "X-Index-Version", "X-Batch-Errors"
USERS, BUILD = "reco.users", "reco.build"  # in a request's environment: how many users it has, and whose answer it got
ANSWERED = "reco.answered"  # and the answer that was found before the app saw it
SAFETY_HEADERS = [("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]
_SCORES_OBSERVED = 10  # users of a batch whose best score is counted

_STATUS = {
    BadBody: HTTPStatus.BAD_REQUEST,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BadRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    CannotLookUp: HTTPStatus.NOT_IMPLEMENTED,
    EngineUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

RETRY_SECONDS = 1
_UNAVAILABLE = f"the search engine does not answer; try again in {RETRY_SECONDS} s"

_Item = TypeVar("_Item", bound=Item)

log = logging.getLogger(__name__)


def create_app(serving: Serving, settings: Settings) -> Flask:
    """The WSGI application over what is served."""
    app = Flask(__name__, static_folder=None)
    reader_for = cache(partial(UserReader, limits=settings.limits))
    document = ApiDocument(settings)

    @app.post(SINGLE_ROUTE)
    def infer() -> Response:
        answered: Answered | None = request.environ.get(ANSWERED)
        if not answered:
            recommender, body = serving.recommender, _body(settings.max_body_bytes)
            user = reader_for(recommender.info.dimension).read_user(body)
            answered = Answered(recommender, recommender.recommend([user], here=True)[0])
        _count([answered.answer])
        return _answer(answered.recommender, payload.write_answer(answered.answer))

    @app.post("/batch")
    def batch() -> Response:
        recommender, body = serving.recommender, _body(settings.max_body_bytes)
        reader = reader_for(recommender.info.dimension)
        lines = request.mimetype == payload.NDJSON
        users = reader.read_lines(body) if lines else reader.read_array(body)
        answers = recommender.recommend(_within(settings.limits, users))
        failed = [answer for answer in answers if isinstance(answer, FailedUser)]
        _count_batch(answers)
        for user in failed:
            metrics.FAILED_USERS.labels(user.error.code).inc()
        written = payload.write_ndjson(answers) if lines else payload.write_array(answers)
        response = _answer(recommender, written, payload.NDJSON if lines else payload.JSON)
        response.headers[BATCH_ERRORS] = str(len(failed))
        return response

    _add_lookups(app, serving, settings)
    _add_pages(app, read_pages())
    _add_open_inference(app, serving, settings)

    @app.get("/index")
    def index() -> Response:
        recommender = serving.recommender
        return _answer(recommender, payload.write_json(asdict(recommender.info)))

    @app.get(METRICS_ROUTE)
    def exposition() -> Response:
        recommender = serving.recommender
        return _answer(recommender, metrics.exposition(recommender.info), metrics.CONTENT_TYPE)

    @app.get("/openapi.json")
    def openapi() -> Response:
        recommender = serving.recommender
        return _answer(recommender, document.of(recommender))

    def live() -> Response:
        return _answer(serving.recommender, payload.write_json(_health("live")))

    def ready() -> Response:
        if serving.draining:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "the service is stopping")
        if not serving.recommender.is_available:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, _UNAVAILABLE)
        return _answer(serving.recommender, payload.write_json(_health("ready")))

    for route in LIVE_ROUTES:
        app.add_url_rule(route, view_func=live)
    for route in (*READY_ROUTES, MODEL_READY_ROUTE):
        app.add_url_rule(route, view_func=ready)

    @app.errorhandler(EngineUnavailable)
    def unavailable(error: EngineUnavailable) -> Response:
        log.warning("%s", error)
        answer = problem(_STATUS[EngineUnavailable], _UNAVAILABLE)
        answer.headers["Retry-After"] = str(RETRY_SECONDS)
        return answer

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
        response.headers.setdefault(INDEX_VERSION, serving.recommender.info.build_id)
        return response

    return app


def _add_lookups(app: Flask, serving: Serving, settings: Settings) -> None:
    """What the explorer page asks besides `/infer`."""
    reader_for = cache(partial(LookupReader, limits=settings.limits))

    @app.get("/products")
    def products() -> Response:
        recommender = serving.recommender
        wanted = reader_for(recommender.info.dimension).read_prefix(request.args.to_dict())
        found = recommender.catalogue.starting_with(wanted.prefix, wanted.limit)
        return _answer(recommender, payload.write_products(found))

    @app.post("/similar")
    def similar() -> Response:
        recommender, body = serving.recommender, _body(settings.max_body_bytes)
        likes = reader_for(recommender.info.dimension).read_likes(body)
        request.environ[USERS] = 1
        return _answer(recommender, payload.write_similar(likes.ids, lookups.similar(recommender, likes)))

    @app.get("/samples")
    def samples() -> Response:
        recommender = serving.recommender
        return _answer(recommender, payload.write_json({"users": recommender.catalogue.sample_users}))

    @app.get("/map")
    def landmarks() -> Response:
        recommender = serving.recommender
        return _answer(recommender, payload.write_products(recommender.catalogue.landmarks))

    @app.post("/map")
    def places() -> Response:
        recommender, body = serving.recommender, _body(settings.max_body_bytes)
        wanted = reader_for(recommender.info.dimension).read_places(body)
        return _answer(recommender, payload.write_json(lookups.places(recommender.catalogue, wanted)))


def _add_open_inference(app: Flask, serving: Serving, settings: Settings) -> None:
    """What clients of the Open Inference Protocol ask, besides health."""
    reader_for = cache(partial(InferenceReader, limits=settings.limits))

    @app.get(PROTOCOL_ROUTE)
    def server() -> Response:
        return _answer(serving.recommender, payload.write_json(SERVER))

    @app.get(MODEL_ROUTE)
    def model() -> Response:
        recommender = serving.recommender
        return _answer(recommender, payload.write_json(describe_model(recommender.info.dimension)))

    @app.post(f"{MODEL_ROUTE}/infer")
    def infer_tensors() -> Response:
        recommender, body = serving.recommender, _body(settings.max_body_bytes)
        wanted = reader_for(recommender.info.dimension).read(body, request.headers.get(HEADER_LENGTH))
        answers = recommender.recommend(_within(settings.limits, wanted.users))
        _count_batch(answers)
        written, header_length = write_answers(wanted, answers, recommender.info.products)
        if header_length is None:
            return _answer(recommender, written)
        response = _answer(recommender, written, "application/octet-stream")
        response.headers[HEADER_LENGTH] = str(header_length)
        return response


def _health(state: str) -> dict[str, Any]:
    """What says that a probe has gone well: to us, and to clients of the Open Inference Protocol."""
    if request.path == MODEL_READY_ROUTE:
        return {"name": MODEL, state: True}
    return {"status": state, state: True} if _speaks_protocol(request.path) else {"status": state}


def _speaks_protocol(path: str) -> bool:
    return f"{path}/".startswith(f"{PROTOCOL_ROUTE}/")


def _add_pages(app: Flask, pages: dict[str, Page]) -> None:
    def page() -> Response:
        asked = pages[request.path]
        response = Response(asked.content, headers=asked.headers)
        response.set_etag(asked.etag)
        response.make_conditional(request)
        return response

    for route in pages:
        app.add_url_rule(route, view_func=page)


def problem(status: HTTPStatus, detail: str, faults: Sequence[Fault] = ()) -> Response:
    """An RFC 9457 problem, with the faults of the request if there are any."""
    body = problem_body(status, detail, request.path, faults)
    return Response(body, status, headers=[("Content-Type", PROBLEM), *SAFETY_HEADERS])


def problem_body(status: HTTPStatus, detail: str, path: str, faults: Sequence[Fault] = ()) -> bytes:
    """The JSON of a problem; on a path of the Open Inference Protocol, with the `error` that its clients look for."""
    body: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    if faults:
        body["errors"] = faults
    return payload.write_json({**body, "error": detail} if _speaks_protocol(path) else body)


def _answer(recommender: Recommender, body: bytes, mimetype: str = payload.JSON) -> Response:
    build_id = request.environ[BUILD] = recommender.info.build_id
    headers = [("Content-Type", mimetype), (INDEX_VERSION, build_id), *SAFETY_HEADERS]
    return Response(body, headers=headers, direct_passthrough=True)


def _count(answers: Sequence[Answer]) -> None:
    request.environ[USERS] = len(answers)
    for answer in answers[:_SCORES_OBSERVED]:
        score = payload.first_score(answer.best) if isinstance(answer, Recommendation) else None
        if score is not None:
            metrics.BEST_SCORE.observe(score)


def _count_batch(answers: Sequence[Answer]) -> None:
    _count(answers)
    metrics.BATCH_USERS.observe(len(answers))


def _body(most: int) -> bytes:
    body: bytes = request.environ["wsgi.input"].read(most + 1)
    if len(body) > most:
        raise TooLarge(f"the body is larger than the {most} bytes allowed")
    return body


def _within(limits: Limits, users: Iterable[_Item]) -> Iterator[_Item]:
    """The users of a batch. Raises TooLarge when they come to ask for more matches than are allowed."""
    wanted = 0
    for user in users:
        wanted += user.k if isinstance(user, User) else 0
        if wanted > limits.users_times_k:
            raise TooLarge(f"the batch asks for more than {limits.users_times_k} matches a side (users x k)")
        yield user
