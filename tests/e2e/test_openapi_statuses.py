"""Every status that the document lists is provoked, and comes as the document says."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import urllib3
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.http.app import create_app
from service.http.openapi import URGENT_ROUTES, document
from service.recommender import Recommender, Serving
from service.settings import Settings
from tests.support.api import VECTOR, user_json
from tests.support.fake_engine import compass
from tests.support.server import Server, answer_on, serving

CONFORMANCE = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KEY = "sesame"
KNOWN = {"id": "pizza-01", "name": "cuisine"}
GOOD = {
    "/infer": user_json(),
    "/batch": b"[" + user_json() + b"]",
    "/similar": b'{"ids":["pizza-38"]}',
    "/map": b'{"ids":["pizza-38"]}',
    "/v2/models/reco/infer": json.dumps(
        {"inputs": [{"name": "vectors", "datatype": "FP32", "shape": [1, 300], "data": VECTOR}]}
    ).encode(),
}
GOOD_QUERY = {"/products": "?prefix=p"}
WRONG_QUERY = {"/map": "?field=nope", "/fields/{name}": "?limit=0"}
WRONG = {"/infer": b"{}", "/batch": b"{}", "/similar": b"{}", "/map": b"[]", "/v2/models/reco/infer": b"{}"}


@pytest.fixture(scope="module")
def guarded(sample_artifacts: Path) -> Iterator[Server]:
    with serving(sample_artifacts, RECO_API_KEYS=KEY, RECO_MAX_BODY_MB="1", RECO_WORKERS="1") as server:
        yield server


@pytest.fixture(scope="module")
def api(guarded: Server) -> dict[str, Any]:
    url = f"http://127.0.0.1:{guarded.port}/openapi.json"
    return requests.get(url, headers={"X-API-Key": KEY}, timeout=30).json()


def operations(api: dict[str, Any]) -> list[tuple[str, str, set[int]]]:
    """Path, method and statuses of each operation."""
    return [
        (path, method.upper(), {int(status) for status in operation["responses"]})
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]


def raw(server: Server, method: str, path: str, head: str, body: bytes = b"") -> requests.Response:
    """The answer to a request whose head is written by hand."""
    with server.raw() as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n{head}\r\n\r\n".encode() + body
        )
        answer = answer_on(connection)
    response = requests.Response()
    response.status_code, response._content = answer.status, answer.body
    response.headers.update(dict(answer.headers.items()))
    response.request = requests.Request(method, f"http://127.0.0.1:{server.port}{path}").prepare()
    response.raw = urllib3.HTTPResponse(headers=dict(answer.headers.items()), version=11)
    return response


def good(server: Server, method: str, path: str, parameters: dict[str, str]) -> requests.Response:
    body, whole = GOOD.get(path, b""), path.format_map(parameters) + GOOD_QUERY.get(path, "")
    return raw(server, method, whole, length(body), body)


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


PROVOKE: dict[int, Callable[[Server, str, str], requests.Response]] = {
    200: lambda server, method, path: good(server, method, path, KNOWN),
    404: lambda server, method, path: good(server, method, path, dict.fromkeys(KNOWN, "no-such-one")),
    400: lambda server, method, path: raw(server, method, path, "Content-Length: ten"),
    401: lambda server, method, path: requests.request(
        method, f"http://127.0.0.1:{server.port}{path}", data=GOOD.get(path), timeout=30
    ),
    403: lambda server, method, path: raw(server, method, path, "Origin: https://elsewhere.example"),
    413: lambda server, method, path: raw(server, method, path, "Content-Length: 1048577"),
    415: lambda server, method, path: raw(
        server, method, path, f"Content-Encoding: br\r\n{length(GOOD.get(path, b''))}", GOOD.get(path, b"")
    ),
    421: lambda server, method, path: requests.request(
        method, f"http://127.0.0.1:{server.port}{path}", headers={"Host": "rebound.example"}, timeout=30
    ),
    422: lambda server, method, path: (
        raw(server, method, path, length(WRONG[path]), WRONG[path])
        if method == "POST"
        else raw(server, method, path, "X-Embedding-Model: another")
    ),
    431: lambda server, method, path: raw(server, method, path, "X: " + "x" * 262_144),
    501: lambda server, method, path: raw(server, method, path, "Transfer-Encoding: gzip"),
}
IN_OTHER_TESTS = {429, 500, 503}
OF_OTHER_BUILDS = {"/report": {404}}  # in tests of the route itself


def check(api: dict[str, Any], path: str, method: str, response: requests.Response) -> None:
    case = schemathesis.openapi.from_dict(api)[path][method].Case(path_parameters=KNOWN)
    case.validate_response(response, checks=CONFORMANCE)


def test_every_status_but_those_of_load_bugs_and_stopping_comes_where_it_is_documented(
    guarded: Server, api: dict[str, Any]
) -> None:
    for path, method, documented in operations(api):
        found = set()
        for provoke in PROVOKE.values():
            response = provoke(guarded, method, path)
            check(api, path, method, response)
            found.add(response.status_code)
        assert found == documented - IN_OTHER_TESTS - OF_OTHER_BUILDS.get(path, set()), path


def test_too_much_to_do_is_refused_where_it_is_documented(sample_artifacts: Path) -> None:
    settings = {"RECO_MAX_IN_FLIGHT": "1", "RECO_WORKERS": "1", "RECO_THREADS": "1"}
    with serving(sample_artifacts, **settings) as server:
        api = requests.get(f"http://127.0.0.1:{server.port}/openapi.json", timeout=30).json()
        users = b"[" + b",".join([user_json(k=1000)] * 900) + b"]"  # keeps the one place taken for seconds

        def ask(method: str, path: str) -> requests.Response:
            return requests.request(method, f"http://127.0.0.1:{server.port}{path}", timeout=30)

        with server.raw() as busy:
            busy.sendall(b"POST /batch HTTP/1.1\r\nHost: localhost\r\n" + length(users).encode() + b"\r\n\r\n" + users)
            until = time.monotonic() + 30
            # /metrics takes no place, while any other request could have the batch refused as it arrives.
            while "reco_in_flight_requests 1.0\n" not in ask("GET", "/metrics").text:
                assert time.monotonic() < until
            assert ask("GET", "/index").status_code == 429, "the batch has not been admitted"
            refused = set()
            for path, method, _ in operations(api):
                response = ask(method, path)
                check(api, path, method, response)
                if response.status_code == 429:
                    refused.add(path)
            assert ask("GET", "/index").status_code == 429, "the batch ended too soon"
            assert answer_on(busy).status == 200
    assert refused == {path for path, _, documented in operations(api) if 429 in documented}
    assert not refused & URGENT_ROUTES


def test_a_bug_is_answered_as_documented_on_every_route() -> None:
    recommender = Recommender(compass())
    app = create_app(Serving(recommender), Settings())

    def fail() -> None:
        raise RuntimeError("a bug")

    app.before_request(fail)
    for path, method, documented in operations(document(recommender, Settings())):
        answer = app.test_client().open(path, method=method)
        assert answer.status_code == 500
        assert answer.get_json()["detail"] == "unexpected error; the log says more"
        assert 500 in documented


READY, LIVE = {"/health/ready", "/v2/health/ready", "/v2/models/reco/ready"}, {"/health/live", "/v2/health/live"}


@pytest.mark.parametrize(
    ("state", "expected"), [({"draining": True}, READY), ({"is_stuck": lambda: True}, LIVE)], ids=["stopping", "stuck"]
)
def test_a_service_is_unavailable_where_that_is_documented(state: dict[str, Any], expected: set[str]) -> None:
    recommender = Recommender(compass())
    client = create_app(Serving(recommender, **state), Settings()).test_client()
    described = operations(document(recommender, Settings()))
    assert {path for path, _, statuses in described if 503 in statuses} == READY | LIVE
    assert {path for path, method, _ in described if client.open(path, method=method).status_code == 503} == expected
