"""The OpenAPI 3.1 document: `static/openapi.json`, and what only the running service knows about it.

The written document defines which operations there are. `{name}` in it stands for a value that `document` fills in;
what all operations share is added to each by `_completed`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import orjson
from marshmallow import Schema, missing

from service.http import encoding, lookups, open_inference
from service.http.problems import PROBLEM
from service.http.schemas import user_schema
from service.http.user_reader import UserReader
from service.recommender import Recommender
from service.settings import Limits, Settings

_DOCUMENT = orjson.loads((resources.files("service.http") / "static" / "openapi.json").read_bytes())
_EXAMPLE_K = 2
_COMMON_PROBLEMS = ("400", "413", "431", "500", "501")  # Any request may come to these by its head, size or our fault.
_COMMON_HEADERS = ("X-Index-Version", "X-Request-Id")


@dataclass(frozen=True)
class Operation:
    """A method of a path, as the document describes it."""

    path: str
    method: str
    described: Mapping[str, Any]

    @property
    def is_urgent(self) -> bool:
        """Whether it is answered before anything that waits, and so never refused with 429."""
        return "429" not in self.described["responses"]

    @property
    def media_type(self) -> str:
        """The first media type of its answer."""
        return next(iter(self.described["responses"]["200"]["content"]))

    def needs_key(self, settings: Settings) -> bool:
        is_open = self.described.get("security") == [] or (self is OPERATIONS["metrics"] and settings.open_metrics)
        return bool(settings.api_keys) and not is_open


OPERATIONS = {
    described["operationId"]: Operation(path, method, described)
    for path, methods in _DOCUMENT["paths"].items()
    for method, described in methods.items()
}
URGENT_ROUTES = frozenset(operation.path for operation in OPERATIONS.values() if operation.is_urgent)


def open_routes(settings: Settings) -> frozenset[str]:
    """The paths that are answered without a key."""
    return frozenset(operation.path for operation in OPERATIONS.values() if not operation.needs_key(settings))


def document(recommender: Recommender, settings: Settings) -> dict[str, Any]:
    """The document of what is served; the examples are answered by the recommender."""
    dimension, limits = recommender.info.dimension, settings.limits
    requests = {"User": user_schema(dimension, limits), **lookups.request_schemas(dimension, limits)}
    shapes = {name: json_schema(schema) for name, schema in requests.items()}
    values = {"products_query": _parameters(shapes.pop("ProductsQuery")), **_values(recommender, limits)}
    filled: dict[str, Any] = _filled(_DOCUMENT, values)
    del filled["security"]  # Each operation that needs a key says so itself.
    for operation in OPERATIONS.values():
        methods = filled["paths"][operation.path]
        methods[operation.method] = _completed(methods[operation.method], operation.needs_key(settings))
    components = filled["components"]
    for problem in components["responses"].values():
        problem["headers"] = _common_headers() | problem.get("headers", {})
        problem["content"] = {PROBLEM: {"schema": _ref("schemas", "Problem")}}
    for name, shape in shapes.items():
        for member, text in components["schemas"][name]["properties"].items():
            shape["properties"][member] |= text
    components["schemas"] |= shapes
    return filled


def json_schema(schema: Schema) -> dict[str, Any]:
    """JSON Schema of the objects that a marshmallow schema of our own kinds of field loads."""
    properties = {name: _property(field) for name, field in schema.fields.items()}
    required = [name for name, field in schema.fields.items() if field.required]
    return {"type": "object", "properties": properties, "required": required}


def _property(field: Any) -> dict[str, Any]:
    described = dict(field.json_schema)
    if field.allow_none:
        described["type"] = [described["type"], "null"]
    default = field.load_default() if callable(field.load_default) else field.load_default
    if default is not missing:
        described["default"] = list(default) if isinstance(default, tuple | frozenset) else default
    return described


def _values(recommender: Recommender, limits: Limits) -> dict[str, Any]:
    """Limits, and examples that the recommender has answered, for the placeholders of the written document."""
    dimension = recommender.info.dimension
    vector = [round(math.sin(number), 1) for number in range(1, dimension + 1)]
    users = [
        {"name": "mike", "vector": vector, "k": _EXAMPLE_K},
        {"name": "zoe", "vector": vector[:-1], "k": _EXAMPLE_K},
    ]
    read = UserReader(dimension, limits).read_array(encoding.write_json(users))
    answers = encoding.write_answers(recommender.prefixes, recommender.recommend(read))
    return {
        **asdict(limits),
        "user": users[0],
        "users": users,
        "user_lines": encoding.write_lines(map(encoding.write_json, users)).decode(),
        "answer": orjson.loads(answers[0]),
        "answers": [orjson.loads(answer) for answer in answers],
        "answer_lines": encoding.write_lines(answers).decode(),
        "index": asdict(recommender.info),
        "server": open_inference.SERVER,
        "model": open_inference.describe_model(dimension),
    }


def _parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": described}
        for name, described in schema["properties"].items()
    ]


def _filled(node: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a part of the document with the values of its placeholders."""
    if isinstance(node, dict):
        return {name: _filled(member, values) for name, member in node.items()}
    if isinstance(node, list):
        return [_filled(member, values) for member in node]
    if not isinstance(node, str):
        return node
    whole = re.fullmatch(r"{(\w+)}", node)
    return values[whole[1]] if whole else node.format_map(values)


def _completed(operation: dict[str, Any], needs_key: bool) -> dict[str, Any]:
    """An operation with the parameters, headers and problems that all operations have."""
    responses = operation["responses"]
    ok = responses.pop("200")
    for status in (*_COMMON_PROBLEMS, *(["401"] if needs_key else [])):
        responses[status] = _ref("responses", f"Problem{status}")
    ok["headers"] = _common_headers() | ok.get("headers", {})
    operation["parameters"] = [_ref("parameters", "RequestId"), *operation.get("parameters", [])]
    operation["responses"] = {"200": ok, **dict(sorted(responses.items()))}
    operation.pop("security", None)
    return {**operation, "security": _DOCUMENT["security"]} if needs_key else operation


def _common_headers() -> dict[str, Any]:
    return {name: _ref("headers", name) for name in _COMMON_HEADERS}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
