"""While Milvus does not answer, neither hangs nor bugs: 503, until it does again."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.vectors import unit_vectors
from service.errors import EngineUnavailable
from service.http.app import create_app
from service.recommender import Recommender, Serving
from service.settings import MilvusSettings, Settings
from tests.support.api import Answer, check_problem, user_json
from tests.support.matches import found_by
from tests.support.milvus import MilvusServer, on_milvus
from tests.support.published import DIMENSION, publish

pytestmark = on_milvus

TIMEOUT = 1.0
SLACK = 5.0  # seconds that a busy machine may add
DETAIL = "the search engine does not answer; try again in 1 s"
USER = unit_vectors(np.arange(1.0, 1 + DIMENSION)[None])


@pytest.fixture
def engine(milvus: MilvusServer, tmp_path: Path) -> Any:
    """An engine on a published build."""
    from service.engines.milvus_engine import open_engine
    from service.engines.milvus_publish import Layout
    from service.engines.milvus_publish import publish as publish_to_milvus

    publish(tmp_path / "artifacts")
    publish_to_milvus(tmp_path / "artifacts", MilvusSettings(milvus.uri, timeout=20.0), Layout("FLAT"))
    return open_engine(MilvusSettings(milvus.uri, timeout=TIMEOUT))


def failure(engine: Any) -> tuple[str, float]:
    """What a search fails with, and after how many seconds."""
    started = time.monotonic()
    with pytest.raises(EngineUnavailable) as error:
        engine.search(USER, 3)
    return str(error.value), time.monotonic() - started


def answers(engine: Any) -> bool:
    """Whether it searches in time, which a server that has just started may not, though it answers probes."""
    try:
        found_by(engine, USER, 3)
    except EngineUnavailable:
        return False
    return True


def test_a_search_of_a_dead_server_fails_and_of_its_successor_does_not(milvus: MilvusServer, engine: Any) -> None:
    before = found_by(engine, USER, 3)
    milvus.kill()
    message, seconds = failure(engine)
    assert message.startswith(f"Milvus at {milvus.uri}: ")
    assert seconds < TIMEOUT + SLACK
    assert engine.latest() is engine
    assert not engine.is_available
    milvus.start()
    _until(lambda: engine.latest() is engine and engine.is_available and answers(engine))
    assert found_by(engine, USER, 3) == before


def test_a_search_that_gets_no_answer_ends_with_the_timeout(milvus: MilvusServer, engine: Any) -> None:
    with milvus.paused():
        message, seconds = failure(engine)
        assert message == f"Milvus at {milvus.uri}: no answer within 1 s (DEADLINE_EXCEEDED)"
        assert TIMEOUT <= seconds < TIMEOUT + SLACK
        assert not engine.latest().is_available
        assert failure(engine)[1] < TIMEOUT  # it does not ask again
    assert engine.latest().is_available
    assert len(found_by(engine, USER, 3)[0]["best"]) == 3


def test_searches_under_way_when_the_server_dies_answer_or_fail_in_time(milvus: MilvusServer, engine: Any) -> None:
    expected = found_by(engine, USER, 3)
    outcomes: list[tuple[Any, float]] = []

    def search_until_it_fails() -> None:
        while True:
            started = time.monotonic()
            try:
                outcome: Any = found_by(engine, USER, 3)
            except Exception as error:  # noqa: BLE001
                outcome = error
            outcomes.append((outcome, time.monotonic() - started))
            if isinstance(outcome, Exception):
                return

    threads = [threading.Thread(target=search_until_it_fails) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    milvus.kill()
    for thread in threads:
        thread.join(30)
    errors = [outcome for outcome, _ in outcomes if isinstance(outcome, Exception)]
    assert [type(error) for error in errors] == [EngineUnavailable] * 8
    answers = [outcome for outcome, _ in outcomes if not isinstance(outcome, Exception)]
    assert len(answers) > 8
    assert all(answer == expected for answer in answers)
    assert max(seconds for _, seconds in outcomes) < 2 * TIMEOUT + SLACK


def test_clients_are_told_to_come_back_and_readiness_follows(milvus: MilvusServer, engine: Any) -> None:
    client = create_app(Serving(Recommender(engine)), Settings()).test_client()
    body = user_json(vector=USER[0].tolist(), k=2)

    def ask(method: str, path: str) -> Answer:
        response = client.open(path, method=method, data=body)
        return Answer(response.status_code, response.headers, response.data)

    good = ask("POST", "/infer")
    assert good.status == 200
    milvus.kill()
    for path, sent in (("/infer", body), ("/batch", b"[" + body + b"]")):
        body = sent
        answer = ask("POST", path)
        check_problem(answer, 503, DETAIL)
        assert answer.headers["Retry-After"] == "1"
    assert engine.latest() is engine
    check_problem(ask("GET", "/health/ready"), 503, DETAIL)
    assert ask("GET", "/health/live").status == 200
    milvus.start()
    _until(lambda: engine.latest().is_available and answers(engine))
    body = user_json(vector=USER[0].tolist(), k=2)
    assert ask("POST", "/infer").body == good.body
    assert ask("GET", "/health/ready").json == {"status": "ready"}


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
