"""A page of another site can neither post to the service nor read it, by its own name or by one that it rebinds."""

import pytest

from tests.integration.conftest import ApiOver
from tests.support.api import Api, check_problem, user_json

SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def local(served_api_over: ApiOver) -> Api:
    return served_api_over(host="127.0.0.1")


@pytest.fixture(scope="module")
def named(served_api_over: ApiOver) -> Api:
    return served_api_over(allowed_hosts=("menu.example",), cors_origins=(SHOP,), api_keys=("key",))


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]", "[::1]:5000", "10.0.0.7"])
def test_on_a_loopback_address_local_names_are_served(local: Api, host: str) -> None:
    assert local.request("GET", "/index", None, {"Host": host}).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:5000", "127.0.0.1.evil.example"])
def test_on_a_loopback_address_a_rebound_name_is_not_served(local: Api, host: str) -> None:
    answer = local.request("POST", "/infer", user_json(), {"Host": host})
    check_problem(answer, 421, f"the service does not serve the host {host!r}")
    assert local.request("GET", "/health/live", None, {"Host": host}).status == 200


def test_only_allowed_hosts_are_served(named: Api) -> None:
    for host, status in (("menu.example", 200), ("MENU.example:80", 200), ("10.0.0.7", 421), ("localhost", 421)):
        assert named.request("GET", "/index", None, {"Host": host, "X-API-Key": "key"}).status == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:81"])
def test_a_page_of_another_origin_is_refused(local: Api, origin: str) -> None:
    headers = {"Host": "localhost:80", "Origin": origin, "Content-Type": "text/plain"}
    check_problem(local.request("POST", "/infer", user_json(), headers), 403, f"pages of {origin!r} may not ask here")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_services_own_pages_may_ask(local: Api, scheme: str) -> None:
    headers = {"Host": "localhost:80", "Origin": f"{scheme}://localhost:80"}
    answer = local.request("POST", "/infer", user_json(), headers)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, None)


@pytest.mark.parametrize("origin", ["", SHOP])
def test_without_origins_a_preflight_allows_nothing(local: Api, origin: str) -> None:
    headers = {"Host": "localhost", "Access-Control-Request-Method": "POST", **({"Origin": origin} if origin else {})}
    answer = local.request("OPTIONS", "/infer", None, headers)
    assert answer.status == (403 if origin else 200)
    assert not [name for name in map(str, answer.headers) if name.lower().startswith("access-control-")]


def test_a_preflight_of_another_origin_needs_the_key_and_is_refused(named: Api) -> None:
    headers = {"Host": "menu.example", "Access-Control-Request-Method": "POST"}
    assert named.request("OPTIONS", "/infer", None, {**headers, "Origin": "https://evil.example"}).status == 403
    assert named.request("OPTIONS", "/infer", None, headers).status == 401


def test_pages_of_an_allowed_origin_may_ask_and_see_the_answer(named: Api) -> None:
    headers = {"Host": "menu.example", "Origin": SHOP}
    preflight = named.request("OPTIONS", "/infer", None, {**headers, "Access-Control-Request-Method": "POST"})
    assert preflight.status == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == SHOP
    allowed = preflight.headers["Access-Control-Allow-Headers"].split(", ")
    assert allowed == sorted(
        [
            "Authorization",
            "Content-Encoding",
            "Content-Type",
            "Inference-Header-Content-Length",
            "Traceparent",
            "X-API-Key",
            "X-Embedding-Model",
            "X-Request-ID",
        ]
    )
    answer = named.request("POST", "/infer", user_json(), {**headers, "X-API-Key": "key"})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, SHOP)
    assert answer.headers["Vary"] == "Origin"
    assert answer.headers["Access-Control-Expose-Headers"].split(", ") == sorted(
        [
            "Accept-Encoding",
            "ETag",
            "Inference-Header-Content-Length",
            "Retry-After",
            "WWW-Authenticate",
            "X-Batch-Errors",
            "X-Embedding-Model",
            "X-Ignored-Fields",
            "X-Index-Version",
            "X-Request-ID",
        ]
    )
    refused = named.request("POST", "/infer", user_json(), headers)
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, SHOP)
