"""Routes, headers and what becomes of errors."""

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from index_builder.tuning.recall import summarise
from retrieval import VERSION
from retrieval.artifact.build import Build
from service.recommender import Recommender
from tests.conftest import SAMPLE_MODEL
from tests.integration.conftest import ApiOver
from tests.support.api import JSON, Api, array, check_problem, user_json
from tests.support.fake_engine import EAST, BrokenEngine

GOOD = user_json(vector=EAST, k=1)
GOOD_ANSWER = (
    b'{"name":"ann","best":[{"id":"east","name":"the east","score":1.0}],'
    b'"worst":[{"id":"east","name":"the east","score":1.0}]}'
)


def check_json(api: Api, path: str, expected: Any) -> None:
    answer = api.get(path)
    assert (answer.status, answer.headers["Content-Type"], answer.json) == (200, JSON, expected)


def test_the_index_tells_what_is_served(api: Api, sample_build: Build) -> None:
    assert sample_build.manifest.quality
    found = {"users": 250, "mean": 1.0}
    at_10, at_100 = (summarise(np.ones(250), k).lower_bound for k in (10, 100))
    of_side = {"users": 200, "mean": 1.0, "k": 10, "lower_bound": summarise(np.ones(200), 10).lower_bound}
    check_json(
        api,
        "/index",
        {
            "build_id": sample_build.id,
            "products": 2460,
            "dimension": 300,
            "index": "Flat",
            "recall": {
                "target": 0.99,
                "kept": True,
                "users_from": "users_batch.json",
                "best": [{**found, "k": 10, "lower_bound": at_10}, {**found, "k": 100, "lower_bound": at_100}],
                "worst": [{**found, "k": 10, "lower_bound": at_10}, {**found, "k": 100, "lower_bound": at_100}],
                "filtered": [
                    {"products": products, "share": share, "path": "exact", "best": of_side, "worst": of_side}
                    for share in (0.001, 0.01, 0.1, 0.5, 0.99)
                    for products in ("random", "liked", "disliked")
                ],
            },
            "filterable": [
                {"name": "cuisine", "type": "keyword", "values": 30, "coverage": 1.0},
                {"name": "section", "type": "keyword", "values": 5, "coverage": 1.0},
                {"name": "foods", "type": "list of keyword", "values": 182, "coverage": 2322 / 2460},
                {"name": "tags", "type": "list of keyword", "values": 15, "coverage": 964 / 2460},
                {"name": "description", "type": "keyword", "values": 2460, "coverage": 1.0},
            ],
            "embedding_model": SAMPLE_MODEL,
            "quality": asdict(sample_build.manifest.quality),
            "delta": None,
            "version": VERSION,
        },
    )


@pytest.mark.parametrize(("path", "status"), [("/health/live", "live"), ("/health/ready", "ready")])
def test_health_is_answered_in_json(api: Api, path: str, status: str) -> None:
    check_json(api, path, {"status": status})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/infer", {"POST", "OPTIONS"}),
        ("PUT", "/batch", {"POST", "OPTIONS"}),
        ("POST", "/index", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/health/live", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/health/ready", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_refused_with_the_right_ones(api: Api, method: str, path: str, allowed: set[str]) -> None:
    answer = api.request(method, path, b"{}")
    check_problem(answer, 405, "The method is not allowed for the requested URL.")
    assert set(answer.headers["Allow"].split(", ")) == allowed
    api.check_alive()


@pytest.mark.parametrize("path", ["/nope", "/infer/", "/INFER", "/infer/mike", "/%00", "/..%2f..%2fetc%2fpasswd"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_not_found(api: Api, method: str, path: str) -> None:
    detail = (
        "The requested URL was not found on the server. "
        "If you entered the URL manually please check your spelling and try again."
    )
    check_problem(api.request(method, path, user_json()), 404, detail)
    api.check_alive()


def test_a_query_string_changes_nothing(api: Api) -> None:
    assert api.post("/infer?k=3&name=bob", user_json()).body == api.infer(user_json()).body


@pytest.mark.parametrize(("path", "body"), [("/infer", GOOD), ("/batch", array([GOOD]))], ids=["one", "batch"])
def test_a_bug_is_answered_without_its_message_and_logged_with_it(
    api_over: ApiOver, caplog: pytest.LogCaptureFixture, path: str, body: bytes
) -> None:
    engine = BrokenEngine(east=EAST)
    api = api_over(Recommender(engine))
    with caplog.at_level(logging.ERROR):
        check_problem(api.post(path, body), 500, "unexpected error; the log says more")
    assert caplog.messages == [f"unexpected error on POST {path}"]
    assert "RuntimeError: index page 4711 is gone" in caplog.text
    assert "Traceback" in caplog.text
    engine.broken = False
    assert api.infer(GOOD).body == GOOD_ANSWER


def test_a_refused_request_never_reaches_the_engine(api_over: ApiOver) -> None:
    engine = BrokenEngine(east=EAST)
    answer = api_over(Recommender(engine)).batch(array([b"{}", b"[]"]), errors=2)
    assert [item["error"]["code"] for item in answer.json] == ["missing", "type"]
