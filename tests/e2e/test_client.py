"""The client and `query.py` against a real server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.jetmlett_client import Answer, Client, Fault, Match, Refused, User, UserError
from service.recommender import Recommender
from tests.conftest import SAMPLE_MODEL, USERS
from tests.support.matches import answers_to, user_row
from tests.support.server import ROOT, Server, serving


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        yield client


def expected(recommender: Recommender, users: list[dict[str, Any]], k: int = 10) -> list[Answer]:
    rows = [user_row(user["name"], user["vector"], k) for user in users]
    return [as_answer(answer, recommender.info.build_id) for answer in answers_to(recommender, rows)]


def as_answer(answer: bytes, build: str) -> Answer:
    fields = json.loads(answer)
    best, worst = (tuple(Match(**match) for match in fields[side]) for side in ("best", "worst"))
    return Answer(fields["name"], best, worst, build)


def test_a_batch_in_several_requests_gets_the_answers_of_one(
    server: Server, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    users = [User(user["name"], user["vector"]) for user in sample_users]
    with Client(f"http://127.0.0.1:{server.port}", max_users=300) as client:
        assert list(client.batch(users)) == expected(recommender, sample_users)


def test_vectors_may_be_arrays_and_k_and_exclude_are_kept(
    client: Client, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    [user] = sample_users[:1]
    [whole] = expected(recommender, [user], k=4)
    shown = client.infer(User(user["name"], np.array(user["vector"]), k=3, exclude=[whole.best[0].id]))
    assert shown.best == whole.best[1:4]


def test_float32_vectors_get_the_answers_to_their_numbers(
    client: Client, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    floats = [np.array(user["vector"], np.float32) for user in sample_users[:5]]
    users = [User(user["name"], vector) for user, vector in zip(sample_users, floats, strict=False)]
    rows = [{**user, "vector": vector.tolist()} for user, vector in zip(sample_users, floats, strict=False)]
    assert list(client.batch(users)) == expected(recommender, rows)


def test_a_bad_user_is_a_value_in_a_batch_and_an_error_alone(
    client: Client, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    good, bad = User(sample_users[0]["name"], sample_users[0]["vector"]), User("zoe", [float("nan")] * 300)
    fault = "vector element 0 is not finite: nan"
    first, second = client.batch([good, bad])
    assert first == expected(recommender, sample_users[:1])[0]
    assert second == UserError("zoe", Fault("vector_not_finite", fault, "/1/vector/0"))
    with pytest.raises(Refused) as caught:
        client.infer(User("zoe", [1.0] * 299))
    assert (caught.value.status, caught.value.title) == (422, "Unprocessable Entity")
    assert caught.value.faults == (Fault("vector_dimension", "vector has 299 numbers, 300 are expected", "/vector"),)


def test_a_body_over_the_limit_is_refused_or_split(tight_server: Server, sample_users: list[dict[str, Any]]) -> None:
    users = [User(user["name"], user["vector"], 1, ["x" * 90_000]) for user in sample_users[:20]]
    url = f"http://127.0.0.1:{tight_server.port}"
    with Client(url, max_body_bytes=2**20) as client:
        assert [result.name for result in client.batch(users)] == [user.name for user in users]
    with (
        Client(url) as client,
        pytest.raises(Refused, match=r"413 .*the body is larger than the 1048576 bytes allowed"),
    ):
        list(client.batch(users))


def test_the_index_and_readiness_are_told(client: Client, recommender: Recommender) -> None:
    assert client.index()["build_id"] == recommender.info.build_id
    assert client.is_ready()


def test_a_key_is_sent_where_one_is_needed(sample_artifacts: Path) -> None:
    with serving(sample_artifacts, RECO_API_KEYS="k1,k2", RECO_WORKERS="1") as server:
        url = f"http://127.0.0.1:{server.port}"
        with Client(url, api_key="k2") as client:
            assert client.index()["dimension"] == 300
        with Client(url) as client, pytest.raises(Refused, match="401 Unauthorized: an API key is needed"):
            client.index()
        assert query(url, "--key", "k1", "--embedding-model", SAMPLE_MODEL).returncode == 0
        another = query(url, "--key", "k1", "--embedding-model", "words-200")
        assert f"the vectors are of 'words-200', and the products' are of '{SAMPLE_MODEL}'" in another.stderr
        assert "401" in query(url).stderr
        assert any("holders of 2 API keys may ask" in line for line in server.log)


def query(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "query.py", "--url", url, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def shown(user: dict[str, Any], answer: Answer) -> str:
    lines = [f"{user['name']} likes {', '.join(user['likes'])}", f"  {'best':<48}worst"]
    for best, worst in zip(answer.best, answer.worst, strict=True):
        lines.append(f"  {f'{best.score:.3f}  {best.name}':<48}{worst.score:.3f}  {worst.name}")
    return "\n".join(lines) + "\n\n"


def test_query_prints_each_users_matches_side_by_side(server: Server, recommender: Recommender) -> None:
    users = [json.loads(line) for line in USERS.read_text().splitlines()]
    answers = expected(recommender, users)
    printed = query(f"http://127.0.0.1:{server.port}")
    assert printed.stdout == "".join(map(shown, users, answers))
    assert (printed.returncode, printed.stderr) == (0, "")


def test_query_prints_the_first_of_a_batch(
    server: Server, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    answers = expected(recommender, sample_users[:5])
    end = "... 1,000 users answered, 0 failed; the first 5 are shown\n"
    assert (
        query(f"http://127.0.0.1:{server.port}", "--batch").stdout == "".join(map(shown, sample_users, answers)) + end
    )


def test_query_sends_a_filter_with_each_user(server: Server, recommender: Recommender) -> None:
    url, users = f"http://127.0.0.1:{server.port}", [json.loads(line) for line in USERS.read_text().splitlines()]
    assert query(url, "--filter", "{}").stdout == "".join(map(shown, users, expected(recommender, users)))
    refused = query(url, "--filter", '{"nothing like it": 1}')
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"{url} answered 422: ")
    assert '"pointer":"/filter/nothing like it"' in refused.stderr
    for text, detail in (("{", "not JSON"), ("[]", "must be an object, such as")):
        printed = query(url, "--filter", text)
        assert (printed.returncode, detail in printed.stderr) == (2, True)


def test_query_sends_the_options_of_lists(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    options: dict[str, Any] = {
        "filter": {"cuisine": {"$in": ["pizza", "wine", "thai"]}},
        "max_per": {"cuisine": 2},
        "diversity": 0.3,
    }
    users = [json.loads(line) for line in USERS.read_text().splitlines()]
    with Client(url) as client:
        answers = [client.infer(User(user["name"], user["vector"], **options)) for user in users]
    assert {len(answer.best) for answer in answers} == {6}
    texts = {name: json.dumps(value) for name, value in options.items()}
    printed = query(url, "--filter", texts["filter"], "--max-per", texts["max_per"], "--diversity", texts["diversity"])
    assert printed.stdout == "".join(map(shown, users, answers))


def test_query_says_when_nobody_answers() -> None:
    printed = query("http://127.0.0.1:1")
    assert printed.returncode == 1
    assert printed.stderr == (
        "no answer from http://127.0.0.1:1 ([Errno 111] Connection refused); is the service running? "
        "`make serve` starts it\n"
    )
