"""New builds under load: every answer comes from exactly one build, and a bad build changes nothing."""

import os
import signal
import time
from pathlib import Path

import pytest

from retrieval.artifact.store import build_ids, prune
from service.__main__ import main
from tests.faults.conftest import Publish, damaged_copy, point, questions
from tests.support.figures import record
from tests.support.load import load
from tests.support.server import SECONDS, Server, serving
from tests.support.watched import workers


def wait_for_build(server: Server, build_id: str) -> None:
    until = time.monotonic() + SECONDS
    while f"INFO serving build {build_id}\n" not in "".join(server.log):
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
    asked = questions(root, *builds)
    point(root, builds[0])
    with serving(root, RECO_WORKERS="2") as server:
        with load(server.port, asked, connections) as seen:
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
