"""The API document says what the app does: routes, limits, and examples that are answered as it shows."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from flask import Flask
from marshmallow import ValidationError, missing

from retrieval.search.filters.language import Vocabulary
from service.http.app import add_routes, create_app
from service.http.lookups import request_schemas
from service.http.openapi import OPERATIONS, _base64_form, _field_name, document
from service.http.requests.schemas import user_schema
from service.http.routes import views_of
from service.recommender import Recommender, Serving
from service.settings import Limits, Settings
from tests.integration.conftest import ApiOver
from tests.structure.source import ROOT
from tests.support.api import JSON, NDJSON, Api
from tests.support.fake_engine import compass

LIMITS = Limits(default_k=3, max_k=7, max_ids=4, max_completions=5)
VOCABULARY = Vocabulary({}, {}, {"p"})
REQUESTS = {"User": user_schema(2, LIMITS, VOCABULARY), **request_schemas(2, LIMITS, VOCABULARY)}
QUERIES = {"ProductsQuery": "/products", "FieldQuery": "/fields/{name}", "MapQuery": "/map"}
AUTOMATIC = {"HEAD", "OPTIONS"}  # Flask's own, and the same for every route
PAGES = {"/", "/docs"}


@pytest.fixture(scope="module")
def sample_document(recommender: Recommender) -> dict[str, Any]:
    return document(recommender, Settings())


def routes_of(app: Flask) -> set[tuple[str, str]]:
    return {
        (re.sub("<text:([a-z]+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if not OPERATIONS[rule.endpoint].is_internal
        for method in (rule.methods or set()) - AUTOMATIC
    }


def routes_in(api: dict[str, Any]) -> set[tuple[str, str]]:
    return {(path, method.upper()) for path, methods in api["paths"].items() for method in methods}


def operations(api: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield from ((path, method, operation) for path in api["paths"] for method, operation in api["paths"][path].items())


def test_the_document_has_the_routes_and_methods_of_the_app_and_no_others() -> None:
    recommender = Recommender(compass())
    app = create_app(Serving(recommender), Settings())
    assert routes_in(document(recommender, Settings())) == routes_of(app)


def test_an_operation_without_a_view_and_a_view_without_an_operation_stop_the_start() -> None:
    serving = Serving(Recommender(compass()))
    views = views_of(serving, Settings())
    views["infer_all"] = views.pop("infer")
    with pytest.raises(ValueError, match=re.escape("['infer', 'infer_all']")):
        add_routes(Flask("test"), views, serving)


def test_the_document_is_valid_openapi(sample_document: dict[str, Any]) -> None:
    assert sample_document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(sample_document).validate()


def test_every_reference_leads_somewhere(sample_document: dict[str, Any]) -> None:
    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                target: Any = sample_document
                for name in node["$ref"].removeprefix("#/").split("/"):
                    target = target[name]
            for member in node.values():
                check(member)
        elif isinstance(node, list):
            for member in node:
                check(member)

    check(sample_document)


def test_the_app_serves_the_document_of_its_own_index_and_settings(
    api_over: ApiOver, api: Api, sample_document: dict[str, Any]
) -> None:
    answer = api.get("/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON)
    assert answer.json == json.loads(json.dumps(sample_document))
    other = api_over(Recommender(compass()), Limits(default_k=3, max_k=7, max_batch=5)).get("/openapi.json").json
    user = other["components"]["schemas"]["User"]
    assert user["required"] == ["name", "vector"]
    bounds = {name: user["properties"]["vector"][name] for name in ("minItems", "maxItems", "minLength", "maxLength")}
    assert bounds == {"minItems": 2, "maxItems": 2, "minLength": 12, "maxLength": 12}
    limits = {name: user["properties"]["k"][name] for name in ("type", "minimum", "maximum", "default")}
    assert limits == {"type": "integer", "minimum": 1, "maximum": 7, "default": 3}
    assert user["properties"]["exclude"]["default"] == []
    assert other["paths"]["/batch"]["post"]["requestBody"]["content"][JSON]["schema"]["maxItems"] == 5


def test_the_names_of_fields_to_show_are_listed_where_they_are_not_too_many(sample_document: dict[str, Any]) -> None:
    names = {"type": "string", "enum": ["*", "cuisine", "description", "foods", "section", "tags"]}
    for request in ("User", "SimilarRequest"):
        assert sample_document["components"]["schemas"][request]["properties"]["fields"]["items"] == names
    [_, _, of_map] = sample_document["paths"]["/map"]["get"]["parameters"]
    assert (of_map["name"], of_map["schema"]) == ("field", names)
    limited = sample_document["components"]["schemas"]["MaxPer"]["propertyNames"]
    assert limited == {"type": "string", "enum": ["cuisine", "description", "foods", "section", "tags"]}
    assert _field_name([]) == _field_name(f"f{i}" for i in range(101)) == {"type": "string"}
    assert _field_name(("b", "a"), "*") == {"type": "string", "enum": ["*", "a", "b"]}


@pytest.mark.parametrize("dimension", [2, 3, 4, 300, 301, 302])
def test_the_form_of_a_vector_in_base64_is_that_of_its_length(dimension: int) -> None:
    text = b64encode(np.ones(dimension, "<f4").tobytes()).decode()
    form = _base64_form(dimension)
    assert form["base64_length"] == len(text)
    assert re.fullmatch(form["base64_pattern"], text)
    for other in (text[:-1], f"{text}=", f"{text[:-1]}*", text[:-2] + "=="):
        assert (re.fullmatch(form["base64_pattern"], other) is not None) == (other == text)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_document_names_the_fields_of_a_request_and_their_defaults(name: str) -> None:
    fields, (properties, required) = REQUESTS[name].fields, described(name)
    assert list(properties) == list(fields)
    assert required == [member for member, field in fields.items() if field.required]
    for member, field in fields.items():
        default = field.load_default() if callable(field.load_default) else field.load_default
        default = list(default) if isinstance(default, frozenset | tuple) else default
        assert properties[member].get("default", missing) == default
        assert ("null" in properties[member]["type"]) == field.allow_none


@pytest.mark.parametrize("name", REQUESTS)
def test_the_bounds_in_the_document_are_those_of_the_fields(name: str) -> None:
    properties, _ = described(name)
    for member, shape in properties.items():
        for bound, step in (("minimum", -1), ("maximum", 1), ("minItems", -1), ("maxItems", 1)):
            if shape.get(bound):
                REQUESTS[name].fields[member].deserialize(sized(shape, shape[bound]))
                with pytest.raises(ValidationError):
                    REQUESTS[name].fields[member].deserialize(sized(shape, shape[bound] + step))


def described(name: str) -> tuple[dict[str, Any], list[str]]:
    """The properties of a request, and which of them are required."""
    api = document(Recommender(compass()), Settings(limits=LIMITS))
    if name in QUERIES:
        parameters = [each for each in api["paths"][QUERIES[name]]["get"]["parameters"] if each.get("in") == "query"]
        required = [each["name"] for each in parameters if each["required"]]
        return {each["name"]: each["schema"] for each in parameters}, required
    shape = api["components"]["schemas"][name]
    return shape["properties"], shape["required"]


def sized(shape: dict[str, Any], size: int) -> Any:
    """A number, or a list of as many numbers or strings."""
    if shape["type"] in ("integer", "number"):
        return size
    return [1 if shape["items"].get("type") == "number" else "p"] * size


def test_a_new_build_gets_a_document_of_its_own(recommender: Recommender) -> None:
    serving = Serving(recommender)
    client = create_app(serving, Settings()).test_client()
    vectors = []
    for served in (recommender, Recommender(compass()), recommender):
        serving.recommender = served
        vectors.append(client.get("/openapi.json").get_json()["components"]["schemas"]["User"]["properties"]["vector"])
    assert [vector["minItems"] for vector in vectors] == [300, 2, 300]


def test_every_example_of_a_body_is_answered_with_the_example_of_an_answer(
    api: Api, sample_document: dict[str, Any]
) -> None:
    tried = 0
    for path, method, operation in operations(sample_document):
        answers = operation["responses"]["200"]["content"]
        bodies = operation.get("requestBody", {"content": {JSON: None}})["content"]
        for media_type, body in bodies.items():
            if "example" not in answers.get(media_type, {}):
                continue
            headers = {"Content-Type": media_type}
            answer = api.request(method.upper(), path, body and encoded(body["example"]), headers)
            assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)
            expected = answers[media_type]["example"]
            assert (answer.body.decode() if media_type == NDJSON else answer.json) == expected
            tried += 1
    assert tried == 11


def encoded(example: Any) -> bytes:
    return (example if isinstance(example, str) else json.dumps(example)).encode()


def test_the_examples_of_a_batch_show_an_answer_and_a_failed_user(sample_document: dict[str, Any]) -> None:
    answered, failed = sample_document["paths"]["/batch"]["post"]["responses"]["200"]["content"][JSON]["example"]
    assert answered == sample_document["paths"]["/infer"]["post"]["responses"]["200"]["content"][JSON]["example"]
    assert len(answered["best"]) == len(answered["worst"]) == 2
    detail = "vector has 299 numbers, 300 are expected"
    assert failed == {
        "name": "zoe",
        "error": {"code": "vector_dimension", "detail": detail, "pointer": "/1/vector"},
    }


@pytest.mark.parametrize(("open_metrics", "open_routes"), [(False, set()), (True, {"/metrics"})])
def test_with_keys_the_document_asks_for_one_where_the_service_does(
    served_api_over: ApiOver, open_metrics: bool, open_routes: set[str]
) -> None:
    settings, recommender = Settings(api_keys=("k1",), open_metrics=open_metrics), Recommender(compass())
    client = served_api_over(recommender, api_keys=("k1",), open_metrics=open_metrics)
    free = set()
    for path, method, operation in operations(document(recommender, settings)):
        refused = client.request(method.upper(), path).status == 401
        assert refused == ("401" in operation["responses"]) == ("security" in operation), path
        if not refused:
            free.add(path)
    health = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/reco/ready"}
    assert free == health | open_routes | PAGES


def test_without_keys_the_document_asks_for_none(sample_document: dict[str, Any]) -> None:
    assert [path for path, _, operation in operations(sample_document) if "401" in operation["responses"]] == []


def test_the_readme_names_every_status_of_an_error(recommender: Recommender) -> None:
    api = document(recommender, Settings(api_keys=("key",)))
    statuses = {status for _, _, operation in operations(api) for status in operation["responses"] if status >= "400"}
    paragraph = re.search(r"Errors are \[RFC 9457\].*?:\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert paragraph is not None
    assert statuses - {*re.findall(r"\b\d{3}\b", paragraph[0])} == set()


def test_the_files_of_pages_are_not_in_the_document(sample_document: dict[str, Any]) -> None:
    assert OPERATIONS["page_file"].path == "/static/{file}"
    assert [path for path in sample_document["paths"] if "static" in path] == []
    assert set(sample_document["paths"]) > PAGES
