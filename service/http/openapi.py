"""The OpenAPI 3.1 document: `static/openapi.json`, and what only the running service knows about it.

The written document defines which operations there are. `{name}` in it stands for a value that `document` fills in;
what all operations share is added to each by `_complete`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval import VERSION
from retrieval.search.reranking.fields import ALL_FIELDS
from service.engines.shown_fields import ShownFields
from service.http import encoding, lookups, open_inference, tensors
from service.http.requests import schemas
from service.http.requests.user_reader import UserReader
from service.recommender import Recommender
from service.settings import Limits, Settings

_DOCUMENT = orjson.loads((resources.files("service.http") / "static" / "openapi.json").read_bytes())
_COMMON_PROBLEMS = ("400", "413", "431", "500", "501")  # Any request may come to these by its head, size or our fault.
_MAX_LISTED_NAMES = 100
_COMMON_HEADERS = ("X-Index-Version", "X-Embedding-Model", "X-Request-Id")


@dataclass(frozen=True)
class Operation:
    """A method of a path, as the document describes it."""

    path: str
    method: str
    described: Mapping[str, Any]

    @property
    def is_internal(self) -> bool:
        """Whether it is our pages' own and so none of the document that is answered."""
        return "x-internal" in self.described

    def needs_key(self, settings: Settings) -> bool:
        is_open = self.described.get("security") == [] or (self is OPERATIONS["metrics"] and settings.open_metrics)
        return bool(settings.api_keys) and not is_open


OPERATIONS = {
    described["operationId"]: Operation(path, method, described)
    for path, methods in _DOCUMENT["paths"].items()
    for method, described in methods.items()
}
# Answered before anything that waits, and so never refused with 429.
URGENT_ROUTES = frozenset(each.path for each in OPERATIONS.values() if "429" not in each.described["responses"])
# Those of them that cost next to nothing.
HEALTH_ROUTES = frozenset(OPERATIONS[name].path for name in ("live", "live_v2", "ready", "ready_v2", "model_ready"))
# They bring users' vectors, and so may have to name an embedding model.
VECTOR_OPERATIONS = frozenset(("infer", "batch", "infer_tensors"))

_ROUTES = {operation.path: operation.path.partition("{") for operation in OPERATIONS.values()}


def route_of(path: str) -> str:
    """Return the path of the operation that a request's path belongs to, "other" where there is none."""
    if path in _ROUTES:
        return path
    openings = {start: route for route, (start, has_parameter, _) in _ROUTES.items() if has_parameter}
    return next((route for start, route in openings.items() if path.startswith(start)), "other")


def open_routes(settings: Settings) -> frozenset[str]:
    """Return the paths that are answered without a key."""
    return frozenset(operation.path for operation in OPERATIONS.values() if not operation.needs_key(settings))


def describe_index(recommender: Recommender) -> dict[str, Any]:
    """Return what is served, and the version of the code that serves it."""
    return {**asdict(recommender.info), "version": VERSION}


def document(recommender: Recommender, settings: Settings) -> dict[str, Any]:
    """Return the document of what is served; the examples are answered by the recommender."""
    filled: dict[str, Any] = _filled(_DOCUMENT, _values(recommender, settings.limits))
    del filled["security"]  # Each operation that needs a key says so itself.
    for response in filled["components"]["responses"].values():
        _add_common_headers(response)
    model = filled["components"]["parameters"]["EmbeddingModel"]
    if recommender.info.embedding_model is not None:
        model["schema"]["enum"] = [recommender.info.embedding_model]
    for name, operation in OPERATIONS.items():
        if operation.is_internal:
            del filled["paths"][operation.path]
            continue
        described = filled["paths"][operation.path][operation.method]
        _complete(described, operation.needs_key(settings), operation.path in HEALTH_ROUTES)
        if settings.require_embedding_model and name in VECTOR_OPERATIONS:
            described["parameters"][described["parameters"].index(_EMBEDDING_MODEL)] = {**model, "required": True}
    return filled


def _values(recommender: Recommender, limits: Limits) -> dict[str, Any]:
    """Return limits, and examples that the recommender has answered, for the placeholders of the written document."""
    dimension, vocabulary = recommender.info.dimension, recommender.vocabulary
    limit = lookups.request_schemas(dimension, limits, vocabulary)["ProductsQuery"].fields["limit"]
    limited = [field["name"] for field in recommender.info.filterable if field["type"].endswith("keyword")]
    vector = [round(math.sin(number), 1) for number in range(1, dimension + 1)]
    users = [{"name": "mike", "vector": vector, "k": 2}, {"name": "zoe", "vector": vector[:-1], "k": 2}]
    read = UserReader(dimension, limits, vocabulary).read_array(encoding.write_json(users))
    found = recommender.recommend(read)
    answers = encoding.write_answers(recommender.prefixes, found)
    answer = orjson.loads(answers[0])
    return {
        **asdict(limits),
        "dimension": dimension,
        "default_completions": limit.load_default,
        **_base64_form(dimension),
        "shown_field": _field_name(vocabulary.names if vocabulary else (), ALL_FIELDS),
        "limited_field": _field_name(limited),
        "filters": _example_filters(recommender, found[0].best.positions[:1]),
        "limits": [{name: 2} for name in limited[:1]],
        "field_name": next((field["name"] for field in recommender.info.filterable), "name"),
        "product_id": next((match["id"] for match in answer["best"]), "id"),
        "user": users[0],
        "users": users,
        "user_lines": encoding.write_lines(map(encoding.write_json, users)).decode(),
        "answer": answer,
        "answers": [orjson.loads(answer) for answer in answers],
        "answer_lines": encoding.write_lines(answers).decode(),
        "index": describe_index(recommender),
        "server": open_inference.SERVER,
        "model": open_inference.describe_model(dimension),
        "output_names": [*open_inference.OUTPUTS],
        "tensor": {
            "name": tensors.INPUT,
            "datatype": open_inference.FLOAT,
            "shape": [1, dimension],
            "data": vector,
        },
    }


def _base64_form(dimension: int) -> dict[str, Any]:
    """Return the length and the pattern of a vector in base64."""
    padding = -dimension * schemas.VECTOR_DTYPE.itemsize % 3
    length = 4 * math.ceil(dimension * schemas.VECTOR_DTYPE.itemsize / 3)
    pattern = f"^[A-Za-z0-9+/]{{{length - padding}}}{'=' * padding}$"
    return {"base64_length": length, "base64_pattern": pattern}


def _field_name(names: Iterable[str], *others: str) -> dict[str, Any]:
    """Return the schema of the name of a field, or another one, with those that there are, if they are not too many."""
    listed = sorted(names)
    return {"type": "string", **({"enum": [*others, *listed]} if 0 < len(listed) <= _MAX_LISTED_NAMES else {})}


def _example_filters(recommender: Recommender, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return a filter that one of the products (m,) matches, where one has a single value to filter by."""
    vocabulary, names = recommender.vocabulary, [field["name"] for field in recommender.info.filterable]
    are_shown = names and vocabulary and not vocabulary.unshown
    shown = ShownFields(recommender.field_engine, positions, names) if are_shown else ()
    values = [(name, value) for each in shown for name, value in each.items() if not isinstance(value, list)]
    return [{name: value} for name, value in values[:1]]


def _filled(node: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of a part of the document with the values of its placeholders."""
    if isinstance(node, dict):
        return {name: _filled(member, values) for name, member in node.items()}
    if isinstance(node, list):
        return [_filled(member, values) for member in node]
    if not isinstance(node, str):
        return node
    whole = re.fullmatch(r"{(\w+)}", node)
    return values[whole[1]] if whole else node.format_map(values)


def _complete(operation: dict[str, Any], needs_key: bool, is_health: bool) -> None:
    """Add the parameters, headers and problems that all operations have."""
    responses = operation["responses"]
    _add_common_headers(responses["200"])
    codings = ("415",) if "requestBody" in operation else ()
    denials = () if is_health else ("403", "421", "422")
    statuses = [*_COMMON_PROBLEMS, *codings, *denials, *(("401",) if needs_key else ())]
    responses |= {status: _ref("responses", f"Problem{status}") for status in statuses}
    operation["responses"] = dict(sorted(responses.items()))
    common_parameters = [_ref("parameters", "RequestId"), *([] if is_health else [_EMBEDDING_MODEL])]
    operation["parameters"] = [*common_parameters, *operation.get("parameters", [])]
    operation.pop("security", None)
    if needs_key:
        operation["security"] = _DOCUMENT["security"]


def _add_common_headers(response: dict[str, Any]) -> None:
    common_headers = {name: _ref("headers", name) for name in _COMMON_HEADERS}
    response["headers"] = common_headers | response.get("headers", {})


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


_EMBEDDING_MODEL = _ref("parameters", "EmbeddingModel")
