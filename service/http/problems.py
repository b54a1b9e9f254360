"""RFC 9457 problems: the one table from errors to statuses, and the body that says what is wrong."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Response, request
from werkzeug.exceptions import HTTPException

from service import errors
from service.errors import Fault
from service.http.encoding import write_json

PROBLEM = "application/problem+json"
RETRY_SECONDS = 1
NO_MEMORY = f"requests and answers take all the memory that they may; try again in {RETRY_SECONDS} s"
UNAVAILABLE = f"the search engine does not answer; try again in {RETRY_SECONDS} s"
SAFETY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_OPEN_INFERENCE = "/v2/"
STATUS = {
    errors.BadBody: HTTPStatus.BAD_REQUEST,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.ForeignOrigin: HTTPStatus.FORBIDDEN,
    errors.ForeignHost: HTTPStatus.MISDIRECTED_REQUEST,
    errors.UnsupportedEncoding: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.OutOfMemory: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.BadRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownProduct: HTTPStatus.NOT_FOUND,
    errors.UnknownField: HTTPStatus.NOT_FOUND,
    errors.NoReport: HTTPStatus.NOT_FOUND,
    errors.CannotLookUp: HTTPStatus.NOT_IMPLEMENTED,
    errors.CannotFilter: HTTPStatus.NOT_IMPLEMENTED,
    errors.EngineUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

log = logging.getLogger(__name__)


def answer_error(error: Exception) -> Response:
    """Return the problem for whatever a view has raised; what is no error of a request is a bug, and logged as one."""
    match error:
        case errors.EngineUnavailable():
            log.warning("%s", error)
            return problem(STATUS[errors.EngineUnavailable], UNAVAILABLE, headers={"Retry-After": str(RETRY_SECONDS)})
        case errors.Unauthorized():
            return problem(STATUS[errors.Unauthorized], str(error), headers={"WWW-Authenticate": "Bearer"})
        case errors.OutOfMemory():
            return problem(STATUS[errors.OutOfMemory], str(error), headers={"Retry-After": str(RETRY_SECONDS)})
        case errors.UnsupportedEncoding():
            return problem(STATUS[errors.UnsupportedEncoding], str(error), headers={"Accept-Encoding": "gzip"})
        case errors.BadRequest():
            return problem(STATUS[errors.BadRequest], str(error), error.faults)
        case errors.ServiceError():
            return problem(STATUS[type(error)], str(error))
        case HTTPException():
            allowed = error.get_response().headers.get("Allow")
            headers = {"Allow": allowed} if allowed else {}
            return problem(HTTPStatus(error.code or 500), error.description or "", headers=headers)
    log.error("unexpected error on %s %s", request.method, request.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected error; the log says more")


def problem(
    status: HTTPStatus, detail: str, faults: Sequence[Fault] = (), headers: dict[str, str] | None = None
) -> Response:
    """Return a problem as the answer to the current request, with the faults of its body if there are any."""
    body = problem_body(status, detail, request.path, faults)
    return Response(body, status, headers={"Content-Type": PROBLEM, **SAFETY_HEADERS, **(headers or {})})


def problem_body(status: HTTPStatus, detail: str, path: str, faults: Sequence[Fault] = ()) -> bytes:
    """Return the JSON of a problem; on paths of the Open Inference Protocol, with the `error` that its clients read."""
    body: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    if faults:
        body["errors"] = faults
    return write_json({**body, "error": detail} if f"{path}/".startswith(_OPEN_INFERENCE) else body)
