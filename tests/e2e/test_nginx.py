"""The service behind nginx, under a prefix, with the configuration that `deploy/` has as an example."""

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.recommender import Recommender
from tests.support.api import JSON, NDJSON, Answer, Api, check_problem, user_json
from tests.support.nginx import Proxy, needs_nginx, proxied
from tests.support.server import Server, serving, wait_until_in_flight

pytestmark = needs_nginx

MEGABYTE = 2**20
HOP_BY_HOP = {"connection", "date", "server", "transfer-encoding", "content-length", "x-request-id"}

on_and_off = pytest.mark.parametrize("buffering", [True, False], ids=["buffered", "unbuffered"])


@pytest.fixture(scope="module", params=[True, False], ids=["buffered", "unbuffered"])
def proxy(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxied(server, tmp_path_factory.mktemp("nginx"), request.param) as proxy:
        yield proxy


@pytest.fixture
def proxied_api(proxy: Proxy, recommender: Recommender) -> Api:
    return Api(proxy.send, recommender)


@pytest.fixture(scope="module")
def narrow_server(sample_artifacts: Path) -> Iterator[Server]:
    with serving(sample_artifacts, RECO_MAX_IN_FLIGHT="1", RECO_THREADS="1") as server:
        yield server


def seen(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Return what of an answer is the service's own."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return answer.status, {name: headers[name] for name in headers.keys() - HOP_BY_HOP}, answer.body


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/", None),
        ("GET", "/docs", None),
        ("GET", "/static/explorer/explorer.js", None),
        ("GET", "/openapi.json", None),
        ("GET", "/index", None),
        ("GET", "/health/ready", None),
        ("GET", "/products/pizza-38", None),
        ("GET", "/products/a%2F%2Fb", None),
        ("GET", "/products?contains=tea+%26+sushi%2F&limit=3", None),
        ("POST", "/infer", user_json(k=5)),
        ("POST", "/infer", user_json(k="five")),
        ("POST", "/similar", b'{"ids": ["pizza-38"], "k": 3}'),
        ("POST", "/nowhere", b"{}"),
    ],
)
def test_what_is_asked_under_the_prefix_is_answered_as_without(
    proxy: Proxy, server: Server, method: str, path: str, body: bytes | None
) -> None:
    assert seen(proxy.send(method, path, body, {})) == seen(server.send(method, path, body, {}))


def test_metrics_stay_inside(proxy: Proxy, server: Server) -> None:
    assert server.send("GET", "/metrics", None, {}).status == 200
    assert proxy.send("GET", "/metrics", None, {}).status == 404


def test_a_page_may_ask_where_it_came_from_and_no_other(proxy: Proxy, recommender: Recommender) -> None:
    host = f"localhost:{proxy.port}"
    own, other = {"Host": host, "Origin": f"https://{host}"}, {"Host": host, "Origin": "https://elsewhere"}
    assert proxy.send("POST", "/infer", user_json(), own).status == 200
    check_problem(
        proxy.send("POST", "/infer", user_json(), other), 403, "pages of 'https://elsewhere' may not ask here"
    )


@pytest.mark.parametrize(("content_type", "coding"), [(JSON, ""), (NDJSON, "gzip")], ids=["JSON", "gzipped lines"])
def test_a_large_batch_is_answered_byte_for_byte(
    proxy: Proxy, server: Server, sample_users: list[dict[str, Any]], content_type: str, coding: str
) -> None:
    lines = [json.dumps({**user, "k": 100}) for user in sample_users]
    text = "\n".join(lines) if content_type == NDJSON else f"[{','.join(lines)}]"
    headers = {"Content-Type": content_type, "Accept-Encoding": coding or "identity"}
    body = gzip.compress(text.encode(), 1) if coding else text.encode()
    answer = proxy.send("POST", "/batch", body, headers | ({"Content-Encoding": coding} if coding else {}))
    direct = server.send("POST", "/batch", text.encode(), {"Content-Type": content_type})
    assert (answer.status, answer.headers.get("Content-Encoding")) == (200, coding or None)
    assert (gzip.decompress(answer.body) if coding else answer.body) == direct.body
    assert len(direct.body) > 10 * MEGABYTE


def test_connections_to_the_service_are_kept(proxy: Proxy, proxied_api: Api) -> None:
    proxied_api.check_alive()
    before = proxy.upstream_ports
    for _ in range(20):
        proxied_api.check_alive()
    assert len(before) >= 1
    assert proxy.upstream_ports == before


@on_and_off
def test_a_body_too_large_gets_the_services_answer(tight_server: Server, tmp_path: Path, buffering: bool) -> None:
    body = user_json().ljust(30 * MEGABYTE)
    with proxied(tight_server, tmp_path, buffering) as proxy:
        for _ in range(3):
            answer = proxy.send("POST", "/infer", body, {})
            check_problem(answer, 413, f"the body is larger than the {MEGABYTE} bytes allowed")
        assert proxy.send("POST", "/infer", user_json(), {}).status == 200


@on_and_off
def test_an_overloaded_service_is_heard(
    narrow_server: Server, sample_users: list[dict[str, Any]], tmp_path: Path, buffering: bool
) -> None:
    large = json.dumps([{**user, "k": 400} for user in sample_users]).encode()
    with closing(narrow_server.connect()) as busy, proxied(narrow_server, tmp_path, buffering) as proxy:
        busy.request("POST", "/batch", large)
        wait_until_in_flight(narrow_server)
        for path, body in (("/infer", user_json()), ("/batch", large)):
            answer = proxy.send("POST", path, body, {})
            check_problem(answer, 429, "there is more to do than can wait; try again in 1 s")
            assert answer.headers["Retry-After"] == "1"
        answered = busy.getresponse()
        assert (answered.status, answered.read(1)) == (200, b"[")
        assert proxy.send("POST", "/infer", user_json(), {}).status == 200
