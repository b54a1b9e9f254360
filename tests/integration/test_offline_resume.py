"""A batch that is killed goes on where it was, and answers each user once."""

import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_builder.pipelines.build import BuildRequest, build
from service.errors import BadBatch
from tests.support.catalogues import products_of, write_lines
from tests.support.offline_runs import TOP, command, run, start, write_users

DIMENSION, PARTS, PART_ROWS = 6, 20, 200
IN_PARTS = ("--part-rows", PART_ROWS)
USERS = (PARTS - 1) * PART_ROWS + 100


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("small"), seed=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vectors = np.random.default_rng(1).normal(size=(USERS, DIMENSION))
    users = [{"name": f"user {i}", "vector": row} for i, row in enumerate(vectors.tolist())]
    users[PART_ROWS + 7]["vector"] = []
    return write_users(tmp_path_factory.mktemp("users") / "users.jsonl", users)


@pytest.fixture(scope="module")
def whole(artifacts: Path, source: Path) -> bytes:
    """What a run writes that nothing disturbs."""
    output = source.with_name("whole.jsonl")
    run(artifacts, source, output, part_rows=PART_ROWS)
    return output.read_bytes()


def publish(directory: Path, seed: int) -> Path:
    products = products_of(np.random.default_rng(seed).normal(size=(40, DIMENSION)))
    build(BuildRequest(write_lines(directory / "products.jsonl", products), directory / "artifacts"))
    return directory / "artifacts"


def parts_of(output: Path) -> list[Path]:
    return sorted(output.with_name(f"{output.name}.parts").glob("*.part"))


def wait_until(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.001)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the ids of a run's worker processes: what its fork server has forked."""
    return [child for server in children_of(process.pid) for child in children_of(server)]


def children_of(process_id: int) -> list[int]:
    """Return the ids of the child processes of a process, none where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]
    return []


def command_line(process_id: int) -> bytes:
    """Return the words of a process, or none where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    return b""


def has_parts(output: Path, count: int) -> bool:
    return len(parts_of(output)) >= count


def kill(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    """Kill the first process with signal 9 as soon as something is so; its workers are left to themselves."""
    wait_until(process, when)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, artifacts: Path, source: Path) -> Path:
    """The directory that a run leaves which is killed with two parts or more complete, but not all."""
    output = tmp_path_factory.mktemp("killed") / "matches.jsonl"
    with start(command(artifacts, source, output, *IN_PARTS)) as process:
        kill(process, partial(has_parts, output, 2))
    assert not output.exists()
    assert 2 <= len(parts_of(output)) < PARTS
    return output.parent


@pytest.fixture
def stopped(tmp_path: Path, killed: Path) -> Path:
    """The output of the killed run, for one test to go on with."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    return tmp_path / "matches.jsonl"


def test_a_killed_run_goes_on_without_losses_or_duplicates(
    stopped: Path, artifacts: Path, source: Path, whole: bytes
) -> None:
    before = {path.name: path.stat().st_ino for path in parts_of(stopped)}
    done = sum(int(name.split("-")[1]) for name in before)
    printed = run(artifacts, source, stopped, part_rows=PART_ROWS)
    assert (
        printed
        == f"{stopped}: {USERS:,} users, {done:,} of them by an earlier run; 1 have an error: 1 vector_dimension"
    )
    assert stopped.read_bytes() == whole
    assert [path.name for path in stopped.parent.iterdir()] == [stopped.name]


def test_a_run_can_be_killed_again_and_again(tmp_path: Path, artifacts: Path, source: Path, whole: bytes) -> None:
    output = tmp_path / "matches.jsonl"
    for complete in (1, 5, 9):
        with start(command(artifacts, source, output, *IN_PARTS)) as process:
            kill(process, partial(has_parts, output, complete))
    run(artifacts, source, output, part_rows=PART_ROWS)
    assert output.read_bytes() == whole


@pytest.mark.parametrize("workers_are", ["starting", "at work", "idle"])
def test_a_killed_run_leaves_no_workers_and_no_lock(
    tmp_path: Path, artifacts: Path, source: Path, whole: bytes, workers_are: str
) -> None:
    output = tmp_path / "matches.jsonl"
    words = command(artifacts, source, output, "--part-rows", 10)  # many more parts than are done before the kill
    with start(words, RECO_WORKERS="3") as process:
        wait_until(process, lambda: len(workers_of(process)) == 3)
        workers = workers_of(process)
        if workers_are != "starting":
            wait_until(process, lambda: len(parts_of(output)) >= 5)
        if workers_are == "idle":
            process.send_signal(signal.SIGSTOP)
            wait_until(process, lambda: not any(map(uses_processor, workers)))
            assert all(map(command_line, workers))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        deadline = time.monotonic() + 5
        while any(map(command_line, workers)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        lock = os.open(output.with_name(f"{output.name}.parts"), os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
    assert not output.exists()
    run(artifacts, source, output, part_rows=10)
    assert output.read_bytes() == whole
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def uses_processor(process_id: int) -> bool:
    """Tell whether a process gets processor time within a tenth of a second."""
    path = Path(f"/proc/{process_id}/schedstat")
    before = path.read_text().split()[0]
    time.sleep(0.1)
    return path.read_text().split()[0] != before


def test_a_run_that_is_complete_but_for_its_name_is_only_joined(
    stopped: Path, artifacts: Path, source: Path, whole: bytes
) -> None:
    directory = stopped.with_name(f"{stopped.name}.parts")
    run(artifacts, source, stopped, part_rows=PART_ROWS)
    directory.mkdir()
    stopped.rename(directory / "joined")  # as if killed just before
    printed = run(artifacts, source, stopped, part_rows=PART_ROWS)
    assert printed == f"{stopped}: {USERS:,} users; 1 have an error: 1 vector_dimension"
    assert stopped.read_bytes() == whole


@pytest.mark.parametrize("change", ["input", "build", "k", "format"])
def test_parts_of_another_input_build_or_option_are_not_used(
    tmp_path: Path, stopped: Path, artifacts: Path, source: Path, change: str
) -> None:
    k: int | None = None
    if change == "input":
        lines = source.read_bytes().splitlines(keepends=True)
        source = tmp_path / "other.jsonl"
        source.write_bytes(b"".join(lines[::-1]))
    elif change == "build":
        artifacts = publish(tmp_path, seed=5)
    elif change == "k":
        k = 3
    else:
        directory = stopped.with_name(f"{stopped.name}.parts")
        stopped = tmp_path / "matches.parquet"
        directory.rename(tmp_path / "matches.parquet.parts")
    fresh = tmp_path / f"fresh{stopped.suffix}"
    assert (
        run(artifacts, source, stopped, k, PART_ROWS)
        == f"{stopped}: {USERS:,} users; 1 have an error: 1 vector_dimension"
    )
    run(artifacts, source, fresh, k, PART_ROWS)
    if change == "format":
        assert pq.read_table(stopped).equals(pq.read_table(fresh))
    else:
        assert stopped.read_bytes() == fresh.read_bytes()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_parts_of_other_users_in_a_file_of_equal_size_and_time_are_not_used(
    tmp_path: Path, artifacts: Path, suffix: str
) -> None:
    """The parts of the blocks that are as they were are used, though."""
    draw = np.random.default_rng(2)
    before = [{"name": f"user {i:04}", "vector": row} for i, row in enumerate(draw.integers(1, 9, (900, 6)).tolist())]
    after = before[:400] + [{**user, "vector": user["vector"][::-1]} for user in before[400:]]
    source, output, fresh = (tmp_path / f"{name}.{suffix}" for name in ("users", "matches", "fresh"))
    write = write_users if suffix == "jsonl" else write_table
    write(source, before)
    with start(command(artifacts, source, output, "--part-rows", 200)) as process:
        kill(process, partial(has_parts, output, 3))
    facts = source.stat()
    write(source, after)
    os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert source.stat().st_size == facts.st_size
    summary = run(artifacts, source, output, part_rows=200)
    assert re.fullmatch(rf"{output}: 900 users, [24]00 of them by an earlier run; 0 have an error", summary)
    run(artifacts, source, fresh, part_rows=200)
    assert output.read_bytes() == fresh.read_bytes()


def write_table(path: Path, users: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(users), path, compression="none", use_dictionary=False)


def test_an_input_that_changes_meanwhile_is_not_published(
    tmp_path: Path, artifacts: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, output = tmp_path / "users.jsonl", tmp_path / "matches.jsonl"
    changing.write_bytes(source.read_bytes())
    with start(command(artifacts, changing, output, *IN_PARTS)) as process:
        wait_until(process, lambda: bool(parts_of(output)))
        os.utime(changing, ns=(1, 1))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == f"error: {changing}: has changed while it was read; run the command again\n"
    assert not output.exists()


def test_the_progress_bar_counts_what_was_done_before(
    stopped: Path, artifacts: Path, source: Path, whole: bytes
) -> None:
    terminal, ours = pty.openpty()
    termios.tcsetwinsize(ours, (24, 120))
    words = command(artifacts, source, stopped, *IN_PARTS)
    with subprocess.Popen(words, cwd=TOP, stdout=subprocess.DEVNULL, stderr=ours) as process:
        os.close(ours)
        shown = b""
        with suppress(OSError):  # how a terminal ends
            while some := os.read(terminal, 4096):
                shown += some
        assert process.wait(60) == 0
    os.close(terminal)
    last = shown.replace(b"\r", b"\n").decode().strip().splitlines()[-1]
    assert last.startswith("users: 100%|")
    assert f" {USERS / 1000:.2f}k/{USERS / 1000:.2f}k [" in last
    assert stopped.read_bytes() == whole


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path, artifacts: Path, source: Path) -> None:
    output, directory = tmp_path / "matches.jsonl", tmp_path / "matches.jsonl.parts"
    directory.mkdir()
    (directory / "thesis.doc").write_text("mine")
    with pytest.raises(BadBatch) as caught:
        run(artifacts, source, output, part_rows=PART_ROWS)
    assert str(caught.value) == f"{directory}: is in the way, and holds thesis.doc, which is no part of a batch"
    assert (directory / "thesis.doc").read_text() == "mine"


def test_two_runs_do_not_write_to_one_output(
    tmp_path: Path, artifacts: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.offline.parts._LOCK_TIMEOUT_SECONDS", 0.1)
    output = tmp_path / "matches.jsonl"
    with start(command(artifacts, source, output, *IN_PARTS)) as process:
        wait_until(process, lambda: bool(parts_of(output)))
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(BadBatch) as caught:
                run(artifacts, source, output, part_rows=PART_ROWS)
        finally:
            process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0
    assert str(caught.value) == f"{output}.parts: another run is at work in it"


def test_a_run_that_is_interrupted_says_how_to_go_on(tmp_path: Path, artifacts: Path, source: Path) -> None:
    output = tmp_path / "matches.jsonl"
    with start(command(artifacts, source, output, "--part-rows", 10)) as process:  # so many that it is not done before
        wait_until(process, lambda: bool(parts_of(output)))
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == f"error: stopped; the same command goes on from the parts in {output}.parts\n"


def test_a_worker_that_dies_ends_the_run_and_not_its_parts(
    tmp_path: Path, artifacts: Path, source: Path, whole: bytes
) -> None:
    output = tmp_path / "matches.jsonl"
    with start(command(artifacts, source, output, *IN_PARTS)) as process:
        wait_until(process, lambda: bool(parts_of(output)))
        os.kill(workers_of(process)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == ("error: a worker process ended unexpectedly, perhaps for lack of memory; the same command goes on\n")
    run(artifacts, source, output, part_rows=PART_ROWS)
    assert output.read_bytes() == whole
