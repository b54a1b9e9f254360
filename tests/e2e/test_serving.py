"""A real server gives the answers that the app gives."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.recommender import Recommender
from tests.support.api import JSON, NDJSON, Api, array, check_problem, user_json
from tests.support.matches import answers_to, user_row
from tests.support.server import Server, exchange, serving

THREADS = 16


@pytest.fixture(scope="module")
def expected(recommender: Recommender, sample_users: list[dict[str, Any]]) -> list[bytes]:
    """The answer to each sample user, computed without a server."""
    return answers_to(recommender, [user_row(user["name"], user["vector"], 10) for user in sample_users])


def test_sixteen_clients_at_once_get_their_own_users_answers(
    server: Server, sample_users: list[dict[str, Any]], expected: list[bytes]
) -> None:
    bodies = [json.dumps(user).encode() for user in sample_users]

    def ask_every_sixteenth(first: int) -> list[bytes]:
        with closing(server.connect()) as connection:
            return [
                exchange(connection, "POST", "/infer", body, {"Content-Type": JSON}).body
                for body in bodies[first::THREADS]
            ]

    with ThreadPoolExecutor(THREADS) as clients:
        answers = list(clients.map(ask_every_sixteenth, range(THREADS)))
    assert answers == [expected[first::THREADS] for first in range(THREADS)]


def test_a_batch_of_a_thousand_is_answered_like_a_thousand_users(
    api: Api, sample_users: list[dict[str, Any]], expected: list[bytes]
) -> None:
    assert api.batch(json.dumps(sample_users).encode()).body == array(expected)


def test_lines_are_answered_in_kind(api: Api, sample_users: list[dict[str, Any]], expected: list[bytes]) -> None:
    lines = [json.dumps(user).encode() for user in sample_users[:30]]
    answer = api.batch(b"\r\n".join([*lines, b"", b"x"]), errors=1, content_type=NDJSON)
    assert answer.body.startswith(b"\n".join(expected[:30]) + b'\n{"name":null,"error":{"code":"not_json",')


def test_the_index_and_health_are_told(api: Api) -> None:
    assert api.get("/index").json["build_id"] == api.build_id
    assert api.get("/health/live").json == {"status": "live"}
    assert api.get("/health/ready").json == {"status": "ready"}


def test_one_connection_carries_good_and_bad_requests(server: Server) -> None:
    with closing(server.connect()) as connection:
        for _ in range(3):
            good = exchange(connection, "POST", "/infer", user_json(), {})
            bad = exchange(connection, "POST", "/infer", b"{", {})
            lost = exchange(connection, "GET", "/nope", None, {})
            assert [answer.status for answer in (good, bad, lost)] == [200, 400, 404]


def test_a_name_of_a_megabyte_is_echoed(api: Api) -> None:
    assert api.infer(user_json(name="x" * 2**20)).json["name"] == "x" * 2**20


@pytest.mark.parametrize("levels", [5_000, 200_000])
def test_deep_nesting_does_not_end_a_worker_thread(api: Api, levels: int) -> None:
    api.refuse(b"[" * levels + b"]" * levels, 400, "the body is nested too deeply")
    api.refuse(b'{"a":' * levels + b"1" + b"}" * levels, 400, "the body is nested too deeply", "/batch")


def test_limits_come_from_the_environment(tight_api: Api) -> None:
    assert len(tight_api.infer(user_json()).json["best"]) == 3
    assert len({match["id"] for match in tight_api.infer(user_json(k=5000)).json["best"]}) == 2460
    detail = "the batch has 21 users, 20 are allowed"
    tight_api.refuse(array([user_json()] * 21), 413, detail, "/batch")


def test_users_times_k_over_a_million_is_refused(api: Api) -> None:
    answer = api.post("/batch", array([user_json(k=1000)] * 1001))
    check_problem(answer, 413, "the batch asks for more than 1000000 matches a side (users x k)")


def test_sigterm_ends_the_server_with_exit_code_0(sample_artifacts: Path) -> None:
    with serving(sample_artifacts) as server:
        assert server.send("GET", "/health/live", None, {}).status == 200
        assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            server.send("GET", "/health/live", None, {})
    assert [line for line in server.log if "Traceback" in line] == []
