"""A real server on Milvus: follows the alias, and outlives the cluster's outages."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.settings import MilvusSettings
from tests.support.api import Answer, check_problem, user_json
from tests.support.milvus import MilvusServer, on_milvus
from tests.support.published import DIMENSION, publish
from tests.support.server import SECONDS, Server, serving

pytestmark = on_milvus

TIMEOUT = 1.0
DETAIL = "the search engine does not answer; try again in 1 s"
ALONE = {"RECO_PORT": "0", "RECO_HOST": "127.0.0.1", "RECO_WORKERS": "1"}
USER = user_json(vector=list(range(1, 1 + DIMENSION)), k=4, exclude=["p5"])


@pytest.fixture
def publish_build(tmp_path: Path, milvus: MilvusServer) -> Callable[[int], str]:
    """A function that builds thirty products and publishes them to Milvus; gives the build id."""
    from service.engines.milvus_publish import Layout
    from service.engines.milvus_publish import publish as publish_to_milvus

    def publish_build(seed: int) -> str:
        build_id = publish(tmp_path / "artifacts", seed).build_id
        publish_to_milvus(tmp_path / "artifacts", MilvusSettings(milvus.uri, timeout=20.0), Layout("FLAT"))
        return build_id

    return publish_build


def settings_of(uri: str) -> dict[str, str]:
    return {
        "RECO_ENGINE": "milvus",
        "RECO_MILVUS_URI": uri,
        "RECO_MILVUS_TIMEOUT": str(TIMEOUT),
        "RECO_WORKERS": "2",
    }


@pytest.fixture
def settings(milvus: MilvusServer) -> dict[str, str]:
    return settings_of(milvus.uri)


def ask(server: Server) -> Answer:
    return server.send("POST", "/infer", USER, {})


def health(server: Server, what: str) -> int:
    return server.send("GET", f"/health/{what}", None, {}).status


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 2 * SECONDS  # a whole server takes some time to be itself again
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def answered(send: Callable[[], Any]) -> Any:
    """What is answered, once the connection is not refused."""
    with suppress(OSError):
        return send()
    return None


def test_answers_are_those_of_the_embedded_engine(
    tmp_path: Path, publish_build: Callable[[int], str], settings: dict[str, str]
) -> None:
    build_id = publish_build(0)
    with serving(tmp_path / "artifacts") as embedded:
        expected = ask(embedded)
    with serving(tmp_path / "no artifacts", **settings) as server:
        found = ask(server)
        info = server.send("GET", "/index", None, {}).json
    assert (found.status, found.headers["X-Index-Version"]) == (200, build_id)
    assert (info["build_id"], info["products"], info["dimension"]) == (build_id, 30, DIMENSION)
    for side in ("best", "worst"):
        ours, theirs = found.json[side], expected.json[side]
        assert [match["id"] for match in ours] == [match["id"] for match in theirs]
        assert [match["score"] for match in ours] == pytest.approx([match["score"] for match in theirs], abs=1.5e-6)


@pytest.mark.soak
def test_a_moved_alias_is_followed_with_no_failed_request(
    tmp_path: Path, publish_build: Callable[[int], str], settings: dict[str, str]
) -> None:
    first = publish_build(0)
    with serving(tmp_path, **settings) as server:
        bodies: dict[str, set[bytes]] = {first: {ask(server).body}}
        statuses, done = set(), threading.Event()

        def keep_asking() -> None:
            while not done.is_set():
                answer = ask(server)
                statuses.add(answer.status)
                bodies.setdefault(answer.headers["X-Index-Version"], set()).add(answer.body)

        clients = [threading.Thread(target=keep_asking) for _ in range(3)]
        for client in clients:
            client.start()
        second = publish_build(1)
        until(lambda: all(ask(server).headers["X-Index-Version"] == second for _ in range(10)))
        done.set()
        for client in clients:
            client.join(SECONDS)
    assert statuses == {200}
    assert {build_id: len(answers) for build_id, answers in bodies.items()} == {first: 1, second: 1}
    assert bodies[first] != bodies[second]


@pytest.mark.soak
def test_an_outage_is_told_to_clients_and_probes_and_survived(
    tmp_path: Path, publish_build: Callable[[int], str], settings: dict[str, str], milvus: MilvusServer
) -> None:
    publish_build(0)
    with serving(tmp_path, **settings) as server:
        good = ask(server).body
        milvus.kill()
        answer = ask(server)
        check_problem(answer, 503, DETAIL)
        assert answer.headers["Retry-After"] == "1"
        until(lambda: [health(server, "ready") for _ in range(6)] == [503] * 6)
        assert health(server, "live") == 200
        for worker in children(server.process.pid):
            os.kill(worker, signal.SIGKILL)
        time.sleep(2.5)  # in which the supervisor starts others, which find no Milvus
        milvus.start()
        until(lambda: answered(lambda: health(server, "ready")) == 200)
        until(lambda: [ask(server).body for _ in range(6)] == [good] * 6)
    assert [line for line in server.log if "Traceback" in line] == []


@pytest.mark.soak
def test_health_answers_at_once_while_milvus_hangs(
    tmp_path: Path, publish_build: Callable[[int], str], settings: dict[str, str], milvus: MilvusServer
) -> None:
    publish_build(0)
    with serving(tmp_path, **settings, RECO_DRAIN_SECONDS="0") as server:
        good = ask(server).body
        with milvus.paused():
            slowest, answers = hang(server)
        until(lambda: health(server, "ready") == 200)
        until(lambda: [ask(server).body for _ in range(6)] == [good] * 6)
    assert slowest < TIMEOUT  # they are not behind the searches
    assert [(answer.status, answer.headers["Retry-After"]) for answer, _ in answers] == [(503, "1")] * 20
    assert max(seconds for _, seconds in answers) < 2 * TIMEOUT + 5.0
    assert [line for line in server.log if "Traceback" in line] == []


def hang(server: Server) -> tuple[float, list[tuple[Answer, float]]]:
    """The seconds of the slowest answer about health while twenty clients ask, and their answers with their seconds."""
    answers: list[tuple[Answer, float]] = []

    def ask_once() -> None:
        started = time.monotonic()
        answers.append((ask(server), time.monotonic() - started))

    clients = [threading.Thread(target=ask_once) for _ in range(20)]
    for client in clients:
        client.start()
    slowest = 0.0
    for _ in range(10):
        started = time.monotonic()
        assert health(server, "live") == 200
        slowest = max(slowest, time.monotonic() - started)
    for client in clients:
        client.join(SECONDS)
    return slowest, answers


def test_a_start_without_milvus_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {**settings_of("http://127.0.0.1:9"), **ALONE}.items():
        monkeypatch.setenv(name, value)
    assert main(["serve"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: worker ")
    assert "Milvus at http://127.0.0.1:9: " in message


def test_an_alias_that_nothing_was_published_to_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, str]
) -> None:
    for name, value in {**settings, **ALONE, "RECO_MILVUS_ALIAS": "unpublished"}.items():
        monkeypatch.setenv(name, value)
    assert main(["serve"]) == 1
    assert "unpublished: Milvus has no such alias; `python -m service publish` makes it" in capsys.readouterr().err


def test_a_filter_for_all_requests_that_does_not_fit_what_is_published_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    publish_build: Callable[[int], str],
) -> None:
    publish_build(0)
    for name, value in {**settings, **ALONE, "RECO_FILTER": '{"prise": 1}'}.items():
        monkeypatch.setenv(name, value)
    assert main(["serve"]) == 1
    assert """RECO_FILTER='{"prise": 1}' does not fit the build: filter/prise is no field""" in capsys.readouterr().err


def children(process: int) -> list[int]:
    return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
