"""Binary tensors over a real connection: exact, counted, logged, and refused in the protocol's words."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.build import Build
from service.recommender import Recommender
from tests.support.api import Api, check_problem
from tests.support.engines import engine_of
from tests.support.server import Server, serving
from tests.support.tensors import INFER, as_binary, read_tensors

ROWS = 150


@pytest.fixture(scope="module")
def server(sample_artifacts: Path) -> Iterator[Server]:
    with serving(sample_artifacts, RECO_WORKERS="1", RECO_LOG_FORMAT="json", RECO_MAX_BODY_MB="1") as server:
        yield server


@pytest.fixture(scope="module")
def api(server: Server, sample_build: Build) -> Api:
    return Api(server.send, Recommender(engine_of(sample_build)))


def test_rows_get_their_answers_and_count_as_users(
    server: Server, api: Api, sample_users: list[dict[str, Any]]
) -> None:
    vectors = np.array([user["vector"] for user in sample_users[:ROWS]], np.float32)
    users = [{"name": "", "vector": row} for row in vectors.astype(float).tolist()]
    answers = [*api.batch(json.dumps(users[:75]).encode()).json, *api.batch(json.dumps(users[75:]).encode()).json]
    answer = as_binary(vectors, parameters={"binary_data_output": True}).to(api)
    tensors = read_tensors(answer)
    for side in ("best", "worst"):
        expected = [[match["id"] for match in user[side]] for user in answers]
        assert tensors[f"{side}_ids"].tolist() == expected
        scores = np.array([[match["score"] for match in user[side]] for user in answers], np.float32)
        np.testing.assert_array_equal(tensors[f"{side}_scores"], scores)

    counted = api.get("/metrics").body.decode().splitlines()
    assert f'reco_requests_total{{route="{INFER}",status="200"}} 1.0' in counted
    assert f"reco_batch_users_sum {2 * ROWS}.0" in counted
    until = time.monotonic() + 10
    while not (lines := [line for line in server.log if answer.headers["X-Request-Id"] in line]):
        assert time.monotonic() < until
        time.sleep(0.02)
    entry = json.loads(lines[0])
    assert (entry["route"], entry["status"], entry["users"]) == (INFER, 200, ROWS)


@pytest.mark.parametrize("path", ["/v2/models/reco/infer", "/infer"])
def test_a_body_that_the_door_refuses_has_the_protocols_error_on_its_paths(api: Api, path: str) -> None:
    answer = api.request("POST", path, bytes(2**20 + 1))
    detail = "the body is larger than the 1048576 bytes allowed"
    if path == "/infer":
        check_problem(answer, 413, detail)
    else:
        assert (answer.status, answer.json["error"], answer.json["detail"]) == (413, detail, detail)
