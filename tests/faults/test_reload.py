"""New builds under load: every answer comes from exactly one build, and a bad build changes nothing."""

import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from retrieval.artifact.store import build_ids, prune
from service.__main__ import main
from tests.faults.conftest import Publish, damaged_copy, point, requests_to
from tests.support import published
from tests.support.figures import record
from tests.support.load import load
from tests.support.server import SECONDS, Server, serving
from tests.support.watched import workers


def wait_for_build(server: Server, build_id: str) -> None:
    until = time.monotonic() + SECONDS
    serving_line = re.compile(rf"INFO serving build {build_id}( \(a delta on \S+\))?\n")
    while not serving_line.search("".join(server.log)):
        assert time.monotonic() < until, "".join(server.log)
        time.sleep(0.02)


def wait_for_refusal(server: Server, build_id: str) -> None:
    until = time.monotonic() + SECONDS
    while not any("refused" in line and build_id in line for line in server.log):
        assert time.monotonic() < until, "".join(server.log)
        time.sleep(0.02)


def metric(server: Server, name: str) -> float:
    lines = server.send("GET", "/metrics", None, {}).body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def reload_under_load(root: Path, publish: Publish, good: int, bad: int, connections: int) -> None:
    builds = [publish(seed) for seed in range(good + 1)]
    queries = requests_to(root, *builds)
    point(root, builds[0])
    with serving(root, RECO_WORKERS="2") as server:
        with load(server.port, queries, connections) as seen:
            for number, build_id in enumerate(builds[1:]):
                point(root, build_id)
                wait_for_build(server, build_id)
                if number < bad:
                    broken = damaged_copy(root, build_id, number)
                    os.kill(server.process.pid, signal.SIGHUP)  # sooner than the second until the next look
                    wait_for_refusal(server, broken)
        assert seen.failed == {}
        assert set(seen.answered) == {"200"}
        assert set(seen.builds) == set(builds)
        assert metric(server, "reco_reloads_total") == good
        assert metric(server, "reco_failed_reloads_total") == bad
    record("reload under load", reloads=good, broken=bad, answered=sum(seen.answered.values()), failed=0)


def test_no_request_fails_when_builds_change(root: Path, publish: Publish) -> None:
    reload_under_load(root, publish, good=3, bad=1, connections=8)


@pytest.mark.soak
def test_no_request_fails_in_twenty_changes_of_build(root: Path, publish: Publish) -> None:
    reload_under_load(root, publish, good=15, bad=5, connections=64)


def test_sighup_looks_for_a_new_build(root: Path, publish: Publish) -> None:
    first = publish(0)
    with serving(root, RECO_RELOAD_SECONDS="0") as server:
        second = publish(1)
        time.sleep(0.5)
        assert server.send("GET", "/index", None, {}).json["build_id"] == first
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for_build(server, second)
        assert server.send("GET", "/index", None, {}).json["build_id"] == second
        until = time.monotonic() + SECONDS
        while any(first in Path(f"/proc/{worker}/maps").read_text() for worker in workers(server)):
            assert time.monotonic() < until, "the old build is still open"
            time.sleep(0.05)


def test_a_build_without_the_fields_of_the_filter_for_all_is_refused_by_the_settings_name(root: Path) -> None:
    fitting = published.publish(root, 0).build_id
    with serving(root, RECO_FILTER='{"season": {"$gte": 0}}') as server:
        unfit = published.publish(root, 1, filterable=()).build_id
        wait_for_refusal(server, unfit)
        [line] = [line for line in server.log if "refused" in line]
        assert f'build {unfit}: worker 0: RECO_FILTER=\'{{"season": {{"$gte": 0}}}}\' does not fit the build: ' in line
        assert server.send("GET", "/index", None, {}).json["build_id"] == fitting
        assert len(server.send("GET", "/map", None, {}).json["products"]) == published.PRODUCTS
        wait_for_build(server, published.publish(root, 2).build_id)


def test_a_build_without_the_embedding_model_that_requests_must_name_is_refused(root: Path) -> None:
    labelled = published.publish(root, 0, embedding_model="m-1").build_id
    with serving(root, RECO_REQUIRE_EMBEDDING_MODEL="1") as server:
        unlabelled = published.publish(root, 1).build_id
        wait_for_refusal(server, unlabelled)
        [line] = [line for line in server.log if "refused" in line]
        assert f"build {unlabelled}: worker 0: RECO_REQUIRE_EMBEDDING_MODEL=1: the build has no embedding model" in line
        index = server.send("GET", "/index", None, {})
        assert (index.json["build_id"], index.headers["X-Embedding-Model"]) == (labelled, "m-1")
        next_model = published.publish(root, 2, embedding_model="m-2").build_id
        wait_for_build(server, next_model)
        assert server.send("GET", "/index", None, {"X-Embedding-Model": "m-1"}).status == 422


def test_a_rollback_is_a_deployment(root: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = publish(0), publish(1)
    with serving(root) as server:
        assert server.send("GET", "/index", None, {}).json["build_id"] == second
        assert main(["rollback", "--artifact", str(root)]) == 0
        assert capsys.readouterr().out == f"rolled back from build {second} to {first}\n"
        wait_for_build(server, first)
    assert main(["rollback", "--artifact", str(root)]) == 1
    assert "has no build older than the current one" in capsys.readouterr().err


def test_a_build_in_use_is_not_pruned(root: Path, publish: Publish) -> None:
    builds = [publish(seed) for seed in range(4)]
    point(root, builds[1])
    with serving(root, RECO_RELOAD_SECONDS="0") as server:
        point(root, builds[3])
        assert prune(root, keep=1) == [builds[0], builds[2]]
        assert build_ids(root) == [builds[1], builds[3]]
        assert server.send("GET", "/index", None, {}).json["build_id"] == builds[1]
    assert prune(root, keep=1) == [builds[1]]


def open_builds(server: Server, *build_ids: str) -> list[list[str]]:
    """Which of the builds each worker has open."""
    maps = [Path(f"/proc/{worker}/maps").read_text() for worker in workers(server)]
    return [[build_id for build_id in build_ids if build_id in text] for text in maps]


def wait_until_open(server: Server, expected: list[list[str]], *build_ids: str) -> None:
    until = time.monotonic() + SECONDS
    while open_builds(server, *build_ids) != expected:
        assert time.monotonic() < until, f"{open_builds(server, *build_ids)} {''.join(server.log)}"
        time.sleep(0.05)


def first_free_descriptor(process: int) -> int:
    used = {int(path.name) for path in Path(f"/proc/{process}/fd").iterdir()}
    return min(set(range(len(used) + 1)) - used)


@pytest.mark.slow
def test_a_build_that_one_worker_cannot_open_is_served_by_none_until_all_can(root: Path, publish: Publish) -> None:
    first = publish(0)
    second = publish(1)
    requests = requests_to(root, first, second)
    point(root, first)
    with serving(root, RECO_WORKERS="2") as server:
        with load(server.port, requests, connections=8) as seen:
            time.sleep(0.5)
            limited = workers(server)[1]
            allowed = resource.prlimit(limited, resource.RLIMIT_NOFILE)
            resource.prlimit(limited, resource.RLIMIT_NOFILE, (first_free_descriptor(limited), allowed[1]))
            point(root, second)
            wait_for_refusal(server, second)
            time.sleep(4)  # for some more attempts
            assert set(seen.builds) == {first}
            assert open_builds(server, first, second) == [[first], [first]]
            resource.prlimit(limited, resource.RLIMIT_NOFILE, allowed)
            wait_for_build(server, second)
            wait_until_open(server, [[second], [second]], first, second)
        assert seen.failed == {}
        assert set(seen.builds) == {first, second}
        assert len([line for line in server.log if "a new build is refused" in line]) == 1
        assert (metric(server, "reco_reloads_total"), metric(server, "reco_failed_reloads_total")) == (1, 1)


@pytest.mark.slow
def test_a_worker_that_dies_in_a_reload_does_not_stop_it(root: Path, publish: Publish) -> None:
    builds = [publish(seed) for seed in range(4)]
    point(root, builds[0])
    with serving(root, RECO_WORKERS="2") as server:
        for number, build_id in enumerate(builds[1:]):
            point(root, build_id)
            time.sleep(0.1 * number)  # noticed, verified, prepared
            os.kill(workers(server)[0], signal.SIGKILL)
            wait_for_build(server, build_id)
            wait_until_open(server, [[build_id], [build_id]], *builds)
            time.sleep(1)


def truncate_until_no_worker_serves(root: Path, server: Server, build_id: str) -> bytes:
    """Cut a file of the build that is served, as a bad copy does, and return what it held."""
    path = root / build_id / "best.faiss"
    content = path.read_bytes()
    os.truncate(path, 100)
    for worker in workers(server):
        os.kill(worker, signal.SIGKILL)
    until = time.monotonic() + SECONDS
    while len([line for line in server.log if f"cannot serve build {build_id}" in line]) < 2:
        assert time.monotonic() < until, "".join(server.log)
        time.sleep(0.05)
    return content


@pytest.mark.slow
def test_a_service_whose_build_was_damaged_serves_again_when_its_files_are_back(root: Path, publish: Publish) -> None:
    build_id = publish(0)
    [request] = requests_to(root, build_id, users=1)
    with serving(root, RECO_WORKERS="2") as server:
        content = truncate_until_no_worker_serves(root, server, build_id)
        ready = server.send("GET", "/health/ready", None, {})
        assert (ready.status, ready.headers["Retry-After"], ready.json["status"]) == (503, "1", 503)
        assert ready.json["detail"] == "no worker can serve the current build"
        (root / build_id / "best.faiss").write_bytes(content)
        wait_until_open(server, [[build_id], [build_id]], build_id)
        answer = server.send("POST", "/infer", request.body, {})
        assert (answer.status, answer.body) == (200, request.answers[build_id])


@pytest.mark.slow
def test_a_service_whose_build_was_damaged_serves_a_new_one(root: Path, publish: Publish) -> None:
    first = publish(0)
    with serving(root, RECO_WORKERS="2") as server:
        truncate_until_no_worker_serves(root, server, first)
        second = publish(1)
        wait_until_open(server, [[second], [second]], first, second)
        assert server.send("GET", "/index", None, {}).json["build_id"] == second


@pytest.mark.slow
def test_a_build_that_arrives_after_current_is_served(root: Path, publish: Publish, tmp_path: Path) -> None:
    first = publish(0)
    with serving(root) as server:
        second = publish(1)
        wait_for_build(server, second)
        point(root, first)
        wait_for_build(server, first)
        (root / second).rename(tmp_path / "copied")
        point(root, second)
        wait_for_refusal(server, second)
        server.log.clear()
        for file in sorted((tmp_path / "copied").iterdir(), reverse=True):  # with the manifest in the middle
            (root / second).mkdir(exist_ok=True)
            time.sleep(0.4)
            shutil.copy2(file, root / second)
        wait_for_build(server, second)
        assert not [line for line in server.log if "refused" in line]
