"""API keys, and the headers that keep answers safe."""

import pytest

from tests.integration.conftest import ApiOver
from tests.support.api import Api, check_problem, user_json

KEYS = ("old-key", "new-key")
NEEDED = "an API key is needed, as Authorization: Bearer KEY or X-API-Key: KEY"
WRONG = "the API key is not one of those that this service takes"


@pytest.fixture(scope="module")
def locked(served_api_over: ApiOver) -> Api:
    return served_api_over(api_keys=KEYS)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("header", ["X-API-Key: {}", "Authorization: Bearer {}", "Authorization: bearer  {}"])
def test_any_of_the_keys_opens(locked: Api, api: Api, key: str, header: str) -> None:
    name, value = header.format(key).split(": ")
    answer = locked.request("POST", "/infer", user_json(), {name: value})
    assert (answer.status, answer.body) == (200, api.infer(user_json()).body)


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, NEEDED),
        ({"X-API-Key": ""}, NEEDED),
        ({"X-API-Key": "old-key,new-key"}, WRONG),
        ({"X-API-Key": "old-ke"}, WRONG),
        ({"X-API-Key": "ÖLD"}, WRONG),
        ({"Authorization": "old-key"}, NEEDED),
        ({"Authorization": "Basic old-key"}, NEEDED),
        ({"Authorization": "Bearer"}, NEEDED),
        ({"Authorization": "Bearer other", "X-API-Key": "old-key"}, WRONG),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/infer", "/batch", "/index", "/metrics", "/nope"])
def test_without_a_key_nothing_is_told(locked: Api, headers: dict[str, str], detail: str, path: str) -> None:
    method = "POST" if path in ("/infer", "/batch") else "GET"
    answer = locked.request(method, path, user_json() if method == "POST" else None, headers)
    check_problem(answer, 401, detail)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"])
def test_health_stays_open(locked: Api, path: str) -> None:
    assert locked.get(path).json["status"] == path.rsplit("/", 1)[1]


def test_metrics_are_open_by_setting(served_api_over: ApiOver) -> None:
    assert served_api_over(api_keys=KEYS, open_metrics=True).get("/metrics").status == 200


@pytest.mark.parametrize(
    "path", ["//metrics", "/metrics/", "/%6detrics", "http://x/metrics", "/metrics?x=/", "/./docs"]
)
def test_no_spelling_of_a_path_goes_round_the_check(locked: Api, path: str) -> None:
    assert locked.get(path).status == 401


@pytest.mark.parametrize("path", ["/index", "/health/live", "/metrics", "/nope"])
def test_every_answer_tells_browsers_to_guess_and_keep_nothing(api: Api, path: str) -> None:
    headers = api.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
