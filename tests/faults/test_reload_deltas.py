"""Deltas that come to a busy service: every answer is of one of them, a bad one changes nothing, none stays open."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.artifact.store import build_ids, current_build_id
from tests.faults.conftest import DIMENSION, PRODUCTS, point, requests_to
from tests.faults.test_reload import metric, wait_for_build
from tests.faults.test_soak import descriptors, resident_kb
from tests.support.figures import record
from tests.support.load import load
from tests.support.published import publish
from tests.support.server import SECONDS, Server, serving
from tests.support.updated import ChangingCatalogue, Row, random_changes, random_rows
from tests.support.watched import workers

CHANGES = 5  # of each kind in a delta
DELTAS, WARM_UP_DELTAS = 300, 50
MOST_GROWTH_KB_PER_DELTA = 8


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(4)


@pytest.fixture
def catalogue(root: Path, draw: np.random.Generator) -> ChangingCatalogue:
    return ChangingCatalogue(root, random_rows(draw, 0, PRODUCTS, DIMENSION))


@pytest.fixture
def update(catalogue: ChangingCatalogue, draw: np.random.Generator) -> Callable[[], str]:
    """A function that publishes a delta, and returns its id."""
    return lambda: catalogue.update(random_changes(draw, catalogue, CHANGES, DIMENSION)).build_id


def test_no_request_fails_when_deltas_come(root: Path, catalogue: ChangingCatalogue, update: Callable[[], str]) -> None:
    builds = [current_build_id(root), *(update() for _ in range(3))]
    queries = requests_to(root, *builds)
    point(root, builds[0])
    with serving(root, RECO_WORKERS="2") as server:
        with load(server.port, queries, connections=8) as seen:
            for build_id in [*builds[1:], builds[2], builds[0], builds[3]]:
                server.log.clear()
                point(root, build_id)
                wait_for_build(server, build_id)
            wait_until_closed(server, root, builds[1:3])
        assert seen.failed == {}
        assert set(seen.answered) == {"200"}
        assert set(seen.builds) == {*builds}
        assert (metric(server, "reco_reloads_total"), metric(server, "reco_failed_reloads_total")) == (6, 0)
        assert metric(server, "reco_reload_seconds_count") == 4  # without those that were rolled back to
    record("deltas under load", reloads=6, answered=sum(seen.answered.values()), failed=0)


def open_builds(process: int, root: Path) -> set[str]:
    """Which builds a process has files open of, those that are no more among them."""
    maps = Path(f"/proc/{process}/maps").read_text()
    return {line.split(f"{root}/")[1].split("/")[0] for line in maps.splitlines() if f"{root}/" in line}


def wait_until_closed(server: Server, root: Path, builds: list[str]) -> None:
    until = time.monotonic() + SECONDS
    while any(open_builds(process, root) & {*builds} for process in workers(server)):
        assert time.monotonic() < until, "a build that was replaced is still open"
        time.sleep(0.05)


def refusal(server: Server) -> str:
    """Look for a new build, and return why it is refused."""
    server.log.clear()
    os.kill(server.process.pid, signal.SIGHUP)
    until = time.monotonic() + SECONDS
    while not (lines := [line for line in server.log if "refused" in line]):
        assert time.monotonic() < until, "".join(server.log)
        time.sleep(0.02)
    return lines[0]


@pytest.mark.slow
def test_a_bad_delta_is_refused_by_the_file_at_fault_and_the_one_before_stays_in_use(
    root: Path, catalogue: ChangingCatalogue, update: Callable[[], str], tmp_path: Path
) -> None:
    base, old, new = current_build_id(root), update(), update()
    [request] = requests_to(root, old, new, users=1)
    point(root, old)
    with serving(root, RECO_RELOAD_SECONDS="0") as server:

        def check_unchanged() -> None:
            assert server.send("POST", "/infer", request.body, {}).body == request.answers[old]

        point(root, new)
        for path in sorted((root / new).iterdir()):
            intact = path.read_bytes()
            path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
            assert str(path) in refusal(server)
            check_unchanged()
            path.unlink()
            assert str(path) in refusal(server)
            path.write_bytes(intact)
        (root / base).rename(tmp_path / "away")
        assert f"{root / base}: cannot be read ([Errno 2] No such file or directory" in refusal(server)
        check_unchanged()
        other = publish(tmp_path / "other").build_id
        shutil.copytree(tmp_path / "other" / other, root / base)
        assert f"is of a delta on another build {base} than {root / base}\n" in refusal(server)
        check_unchanged()
        shutil.rmtree(root / base)
        (tmp_path / "away").rename(root / base)
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for_build(server, new)
        assert server.send("POST", "/infer", request.body, {}).body == request.answers[new]


def small_change(number: int) -> list[Row]:
    """Changes that keep a delta small: of the same products again and again, but for a deletion."""
    draw = np.random.default_rng(number)
    changed = [{"id": f"p{i}", "set": {"price": number, f"field {number % 7}": "new"}} for i in range(5)]
    replaced = random_rows(draw, 5, 5, DIMENSION)
    added = [{**random_rows(draw, 0, 1, DIMENSION)[0], "id": f"added {number}"}]
    deleted = [{"id": f"added {number - 1}" if number % 3 else f"p{20 + number}", "delete": True}] if number else []
    return [*changed, *replaced, *added, *deleted]


@pytest.mark.soak
def test_hundreds_of_deltas_leave_memory_and_descriptors_as_they_were(root: Path, catalogue: ChangingCatalogue) -> None:
    base = current_build_id(root)
    [request] = requests_to(root, base, users=1)
    with serving(root, RECO_WORKERS="2", RECO_RELOAD_SECONDS="0.05") as server:
        processes = [server.process.pid, *workers(server)]
        memory, opened = [], []
        for number in range(DELTAS):
            build_id = catalogue.update(small_change(number), keep=3).build_id
            wait_for_build(server, build_id)
            server.log.clear()
            for _ in range(4):
                body = request.body[:-1] + b',"filter":{"price":{"$gte":%d}}}' % (number % 20)
                assert server.send("POST", "/infer", body, {}).headers["X-Index-Version"] == build_id
            memory.append([resident_kb(process) for process in processes])
            opened.append([descriptors(process) for process in processes])
        assert [server.process.pid, *workers(server)] == processes
        assert [open_builds(process, root) - {*build_ids(root)} for process in workers(server)] == [set(), set()]
        assert len(build_ids(root)) == 4
    slopes = np.polyfit(np.arange(DELTAS - WARM_UP_DELTAS), np.array(memory[WARM_UP_DELTAS:]), 1)[0]
    more = max(after - before for before, after in zip(opened[WARM_UP_DELTAS], opened[-1], strict=True))
    record("deltas", deltas=DELTAS, steepest_growth_kb_per_delta=round(float(slopes.max()), 1), descriptors_more=more)
    assert slopes.max() < MOST_GROWTH_KB_PER_DELTA
    assert more <= 1
