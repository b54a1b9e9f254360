"""The OpenAPI 3.1 document of the running service: its limits, and examples that its own index has answered.

A route is an `_Operation` in `_operations`; what all routes share is added to it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import fields

from service.http import encoding, metrics, open_inference, pages, schemas, shapes
from service.http.schemas import user_schema
from service.http.user_reader import UserReader
from service.recommender import Recommender
from service.settings import Settings

_PROBLEM = "application/problem+json"
_LARGEST = 1.7976931348623157e308
_EXAMPLE_K = 2
_EVERYWHERE = (400, 413, 431, 500, 501)  # what any request may come to, by its head, its size or our fault

_ABOUT = """\
Best and worst matching products of user vectors, by cosine similarity.

Bodies are read as JSON whatever their content type says, except NDJSON in `/batch`; a body that is a JSON string \
holding JSON is decoded once more. `HEAD` is answered wherever `GET` is, and `OPTIONS` everywhere.

Every error is an RFC 9457 problem (`application/problem+json`). A path that does not exist gets 404, and a method \
that a path does not have 405 with `Allow`. Requests change nothing, so that any may be sent again.
"""

_PROBLEMS = {
    400: "Not HTTP or not JSON.",
    401: "No valid API key.",
    413: "The body or the batch is larger than the service takes.",
    422: "JSON that does not fit, with every fault listed.",
    429: "More to do than can wait; nothing of the request was done.",
    431: "The headers are larger than 256 kB.",
    500: "A fault of the service; its log says more.",
    501: "A Transfer-Encoding other than chunked.",
    503: "Not ready: the service is stopping.",
}
_PAGE_SUMMARIES = {"/": "The explorer page.", "/docs": "This document, for reading."}
_NAMES = {status: f"Problem{status}" for status in _PROBLEMS}

_HEADERS = {
    "X-Index-Version": "Id of the build that answers.",
    "X-Request-Id": "The request's id: the client's, cut and cleaned, or a new one. The log has it too.",
    "X-Batch-Errors": "How many users of the batch failed.",
    "Retry-After": "Seconds to wait before trying again.",
    "WWW-Authenticate": "How to present a key.",
}
_COUNTS = ("X-Batch-Errors", "Retry-After")
_ALWAYS = ("X-Index-Version", "X-Request-Id")
_WITH = {401: ["WWW-Authenticate"], 429: ["Retry-After"]}

Media = Mapping[str, Any]  # media type to OpenAPI's media type object


@dataclass(frozen=True)
class _Operation:
    """A method of a path. `problems` are the statuses that it has beside those that every route has."""

    method: str
    path: str
    tag: str
    name: str
    summary: str
    answer: Media
    text: str = ""
    body: Media | None = None
    headers: Sequence[str] = ()
    problems: Sequence[int] = ()
    needs_key: bool = True
    may_wait: bool = True  # refused with 429 where there is too much to do
    parameters: Sequence[Mapping[str, Any]] = field(default_factory=list)


class ApiDocument:
    """The document of whatever build is served, written once for each."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._written = ("", b"")

    def of(self, recommender: Recommender) -> bytes:
        """JSON in UTF-8."""
        build_id, written = self._written
        if build_id != recommender.info.build_id:
            written = encoding.write_json(document(recommender, self._settings))
            self._written = (recommender.info.build_id, written)
        return written


def document(recommender: Recommender, settings: Settings) -> dict[str, Any]:
    """The document of what is served; the examples are answered by the recommender."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name_of)
    spec = APISpec("jetmlett", "1", "3.1.0", plugins=[plugin], info={"description": _ABOUT})
    assert plugin.converter is not None  # noqa: S101 (APISpec has just made it)
    plugin.converter.add_attribute_function(_shape_of)  # type: ignore[no-untyped-call]
    user = user_schema(recommender.info.dimension, settings.limits)
    spec.components.schema("User", schema=user)
    for shape in (shapes.Answer, shapes.FailedUser, shapes.Problem, shapes.Index, shapes.Status):
        spec.components.schema(shape.__name__, schema=shape)
    for name, text in _HEADERS.items():
        shape_of_header = {"type": "integer", "minimum": 0} if name in _COUNTS else {"type": "string", "minLength": 1}
        spec.components.header(name, {"description": text, "schema": shape_of_header})
    for status, text in _PROBLEMS.items():
        problem = {_PROBLEM: {"schema": _ref("schemas", "Problem")}}
        spec.components.response(_NAMES[status], _answer(text, problem, [*_ALWAYS, *_WITH.get(status, [])]))
    spec.components.parameter("RequestId", "header", _REQUEST_ID)
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("key", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    for operation in _operations(recommender, settings):
        spec.path(operation.path, operations={operation.method: _described(operation, settings)})
    return spec.to_dict()


_REQUEST_ID = {
    "name": "X-Request-ID",
    "description": "An id for the request. Without it, the trace id of `traceparent` is taken, or a new one made.",
    "schema": {"type": "string"},
}


def _operations(recommender: Recommender, settings: Settings) -> list[_Operation]:
    limits, info = settings.limits, recommender.info
    reader = UserReader(info.dimension, limits)
    user = _example_user(info.dimension, "mike")
    bad_user = {"name": "zoe", "vector": user["vector"][:-1], "k": _EXAMPLE_K}
    users = [user, bad_user]
    answers = recommender.recommend(reader.read_array(encoding.write_json(users)))
    results = encoding.write_answers(recommender.prefixes, answers)
    item = {"anyOf": [_ref("schemas", "Answer"), _ref("schemas", "FailedUser")]}
    member = {"anyOf": [_ref("schemas", "User"), {"description": "Any other value fails alone."}]}
    ndjson = {"schema": {"type": "string", "description": "One JSON value a line."}}

    def health(what: str, path: str, name: str, summary: str, problems: Sequence[int] = ()) -> _Operation:
        example = {"status": what, what: True} if path.startswith("/v2") else {"status": what}
        answer = _json_media(_ref("schemas", "Status"), example)
        return _Operation(
            "get", path, "health", name, summary, answer, problems=problems, needs_key=False, may_wait=False
        )

    live, ready = "Whether the process answers.", "Whether requests should be sent here."
    return [
        _Operation(
            "post",
            "/infer",
            "matches",
            "infer",
            "The best and worst matches of one user.",
            _json_media(_ref("schemas", "Answer"), json.loads(results[0])),
            body=_json_media(_ref("schemas", "User"), user),
            problems=[422],
        ),
        _Operation(
            "post",
            "/batch",
            "matches",
            "batch",
            "The matches of many users; a user at fault costs nobody else theirs.",
            {
                **_json_media({"type": "array", "items": item}, [json.loads(result) for result in results]),
                encoding.NDJSON: {**ndjson, "example": b"".join(result + b"\n" for result in results).decode()},
            },
            text="An answer for each user, in order, in the form that was asked in; as NDJSON, a line that is not "
            f"JSON fails alone, and blank ones are skipped. At most {limits.max_batch:,} users and "
            f"{limits.users_times_k:,} matches a side (users x k).",
            body={
                **_json_media({"type": "array", "maxItems": limits.max_batch, "items": member}, users),
                encoding.NDJSON: {**ndjson, "example": "".join(json.dumps(user) + "\n" for user in users)},
            },
            headers=["X-Batch-Errors"],
            problems=[422],
        ),
        _Operation(
            "get",
            "/index",
            "index",
            "index",
            "The build that answers, and its recall as measured.",
            _json_media(_ref("schemas", "Index"), asdict(info)),
        ),
        health("live", "/health/live", "live", live),
        health("ready", "/health/ready", "ready", ready, [503]),
        health("live", "/v2/health/live", "live_v2", f"{live} (Open Inference Protocol)"),
        health("ready", "/v2/health/ready", "ready_v2", f"{ready} (Open Inference Protocol)", [503]),
        _Operation(
            "get",
            "/metrics",
            "operation",
            "metrics",
            "Metrics in Prometheus's text format.",
            {metrics.CONTENT_TYPE: {"schema": {"type": "string"}}},
            needs_key=not settings.open_metrics,
            may_wait=False,
        ),
        _Operation(
            "get",
            "/openapi.json",
            "documents",
            "openapi",
            "This document.",
            _json_media({"type": "object", "required": ["openapi", "info", "paths"]}),
        ),
        *_open_inference(recommender),
        *_lookups(recommender, settings),
        *(
            _Operation(
                "get",
                route,
                "pages",
                file.rpartition("/")[2].replace(".", "_"),
                _PAGE_SUMMARIES.get(route, "A file of a page."),
                {pages.media_type(route): {"schema": {"type": "string"}}},
                needs_key=False,
            )
            for route, file in pages.PAGES.items()
        ),
    ]


def _lookups(recommender: Recommender, settings: Settings) -> list[_Operation]:
    """What the explorer page asks. Engines that cannot look products up answer all of it with 501."""
    limits = settings.limits
    product = {"type": "object", "required": ["id", "name"], "properties": _typed("string", "id", "name")}
    landmark = {**product, "properties": {**product["properties"], **_typed("number", "x", "y")}}  # type: ignore[dict-item]
    point = {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    ids = {"type": "array", "items": {"type": "string"}, "maxItems": limits.max_ids}
    k = {"type": "integer", "minimum": 1, "maximum": limits.max_k, "default": limits.default_k}
    user = schemas.user_schema(recommender.info.dimension, limits).fields["vector"]
    matches = {"type": "array", "items": _ref("schemas", "Match")}
    return [
        _Operation(
            "get",
            "/products",
            "explorer",
            "products",
            "Products whose names begin so, in any case.",
            _json_media(_object(products={"type": "array", "items": product})),
            problems=[422],
            parameters=[
                {"name": "prefix", "in": "query", "required": True, "schema": {"type": "string"}},
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {"type": "integer", "minimum": 1, "maximum": limits.max_completions},
                },
            ],
        ),
        _Operation(
            "post",
            "/similar",
            "explorer",
            "similar",
            "The best and worst matches of the mean of some products, without these.",
            _json_media(_object(ids=ids, best=matches, worst=matches)),
            body=_json_media(
                {**_object(ids={**ids, "minItems": 1}, k=k, exclude=ids), "required": ["ids"]},
            ),
            problems=[422],
        ),
        _Operation(
            "get",
            "/samples",
            "explorer",
            "samples",
            "Some of the users that the build was measured with.",
            _json_media(_object(users={"type": "array", "items": {"type": "object", "required": ["name", "vector"]}})),
        ),
        _Operation(
            "get",
            "/map",
            "explorer",
            "landmarks",
            "Products with their places on the map.",
            _json_media(_object(products={"type": "array", "items": landmark})),
        ),
        _Operation(
            "post",
            "/map",
            "explorer",
            "places",
            "The places of products and users on the map.",
            _json_media(_object(products={"type": "array", "items": point}, vector=point, likes=point)),
            body=_json_media(
                {**_object(ids=ids, vector=_shape_of(None, user), likes=ids), "required": []},
            ),
            problems=[422],
        ),
    ]


def _open_inference(recommender: Recommender) -> list[_Operation]:
    """The Open Inference Protocol, which has a document of its own; see `open_inference.py`."""
    name, shape = {"type": "string"}, {"type": "array", "items": {"type": "integer"}}
    tensors = {"type": "array", "items": _object(name=name, datatype=name, shape=shape)}
    model, tag = f"/v2/models/{open_inference.MODEL}", "open inference protocol"
    bytes_alone = {"type": "string", "contentMediaType": "application/octet-stream"}
    answer = {"type": "object", "required": ["model_name", "outputs"], "properties": {"outputs": tensors}}
    return [
        _Operation(
            "get",
            "/v2",
            tag,
            "server",
            "The server, and what it adds to the protocol.",
            _json_media(_object(name=name, version=name), open_inference.SERVER),
        ),
        _Operation(
            "get",
            f"{model}/ready",
            tag,
            "model_ready",
            "Whether requests should be sent here.",
            _json_media(_object(name=name, ready={"type": "boolean"}), {"name": open_inference.MODEL, "ready": True}),
            problems=[503],
            needs_key=False,
            may_wait=False,
        ),
        _Operation(
            "get",
            model,
            tag,
            "model",
            "The tensors that are taken and given.",
            _json_media(
                _object(name=name, platform=name, inputs=tensors, outputs=tensors),
                open_inference.describe_model(recommender.info.dimension),
            ),
        ),
        _Operation(
            "post",
            f"{model}/infer",
            tag,
            "infer_tensors",
            "The matches of the rows of a tensor, as tensors; binary tensor data works both ways.",
            {**_json_media(answer), "application/octet-stream": {"schema": bytes_alone}},
            body=_json_media({"type": "object", "required": ["inputs"], "properties": {"inputs": tensors}}),
            problems=[422],
        ),
    ]


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*properties], "properties": properties}


def _typed(kind: str, *names: str) -> dict[str, Any]:
    return {name: {"type": kind} for name in names}


def _described(operation: _Operation, settings: Settings) -> dict[str, Any]:
    """OpenAPI's operation object."""
    keyed = bool(settings.api_keys) and operation.needs_key
    problems = {*_EVERYWHERE, *operation.problems, *([401] if keyed else []), *([429] if operation.may_wait else [])}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": ["RequestId", *operation.parameters],
        "responses": {
            "200": _answer(HTTPStatus.OK.phrase, operation.answer, [*_ALWAYS, *operation.headers]),
            **{str(status): _NAMES[status] for status in sorted(problems)},
        },
    }
    if operation.text:
        described["description"] = operation.text
    if operation.body:
        described["requestBody"] = {"required": True, "content": operation.body}
    if keyed:
        described["security"] = [{"bearer": []}, {"key": []}]
    return described


def _answer(text: str, content: Media, headers: Sequence[str]) -> dict[str, Any]:
    return {
        "description": text,
        "headers": {name: _ref("headers", name) for name in headers},
        "content": content,
    }


def _json_media(schema: Mapping[str, Any], example: Any = None) -> dict[str, Any]:
    return {encoding.JSON: {"schema": schema, **({} if example is None else {"example": example})}}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _name_of(schema: Any) -> str:
    return schema.__name__ if isinstance(schema, type) else type(schema).__name__


def _shape_of(converter: OpenAPIConverter | None, field: fields.Field, **_: Any) -> dict[str, Any]:
    """JSON Schema of our own kinds of field. It takes 10.0 for an integer, which `k` does not."""
    match field:
        case schemas.Vector():
            return {
                "type": "array",
                "items": {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
                "minItems": field.dimension,
                "maxItems": field.dimension,
                "contains": {"not": {"const": 0}},
                "description": f"{field.dimension} numbers, not all of them zeros; only their direction counts.",
            }
        case schemas.Count():
            return {
                "type": "integer",
                "minimum": 1,
                "maximum": field.most,
                "default": field.load_default,
                "description": "Matches a side, written without a fraction.",
            }
        case schemas.Ids():
            text = "Product ids to leave out; the lists are filled up from further down."
            return {"type": "array", "items": {"type": "string"}, "default": [], "description": text}
        case schemas.Text():
            return {"type": "string", "description": "Comes back in the answer."}
    return {}


def _example_user(dimension: int, name: str) -> dict[str, Any]:
    vector = [round(math.sin(number), 1) for number in range(1, dimension + 1)]
    return {"name": name, "vector": vector, "k": _EXAMPLE_K}
