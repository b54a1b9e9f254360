"""A builder that is killed, or whose disk is full, at any moment of a publish leaves a complete build in use."""

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.crash_harness import (
    KILLED,
    CrashHarness,
    CrashHarnesses,
    crash_harnesses,
    cut_the_power,
    settle,
)
from tests.support.fault_injection import READING, Outcome

CUT_SHORT = -signal.SIGXFSZ
KINDS = {
    "default": (),
    "shared": ("--worst", "shared"),
    "fp16": ("--storage", "fp16"),
    "compressed": ("--index", "PQ1x4fs", "--allow-low-recall"),
}
LARGER = 4000  # products, of which an index takes some time
any_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def harnesses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashHarnesses]:
    with crash_harnesses(tmp_path_factory.mktemp("crash")) as harnesses:
        yield harnesses


@pytest.fixture(scope="module")
def empty_harnesses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashHarnesses]:
    """Where no build was published before."""
    with crash_harnesses(tmp_path_factory.mktemp("first"), empty=True) as harnesses:
        yield harnesses


def operations_of(harness: CrashHarness, kind: str) -> list[str]:
    """What a builder that nothing happens to does to files, in order."""
    outcome = harness.build(*KINDS[kind])
    assert outcome.code == 0, outcome.stderr
    operations = [name for name, _, _ in outcome.operations if " " not in name]
    assert {"open", "read", "write", "os.mkdir", "os.rename", "os.remove", "os.fsync"} <= set(operations)
    return operations


def changes_among(operations: list[str]) -> list[int]:
    """The numbers of those that do more than read; between two of them, a kill always finds the same files."""
    return [at for at, name in enumerate(operations) if name not in READING]


def kill_at(
    kind: str, after: Callable[[CrashHarness, Outcome], None] = lambda *_: None
) -> Callable[[CrashHarness, int], bool]:
    def kill(harness: CrashHarness, at: int) -> bool:
        outcome = harness.build(*KINDS[kind], effect="kill", at=at)
        assert outcome.code == KILLED, outcome.stderr
        after(harness, outcome)
        is_new = harness.check_complete()
        harness.check_next_builder()
        return is_new

    return kill


def test_a_builder_killed_at_any_change_to_files_while_it_publishes(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first, "default")
    published = operations.index("os.rename")
    tally = harnesses.try_all([at for at in changes_among(operations) if at >= published], kill_at("default"))
    settle("builder killed at a change to files while it publishes", tally)
    assert tally.new_in_use == 1  # by the last sync


@pytest.mark.slow
def test_a_builder_killed_at_any_change_to_files(harnesses: CrashHarnesses) -> None:
    tally = harnesses.try_all(changes_among(operations_of(harnesses.first, "default")), kill_at("default"))
    settle("builder killed at a change to files", tally)
    assert tally.new_in_use == 1  # by the last sync


@pytest.mark.soak
@any_kind
def test_a_builder_killed_at_any_file_operation(harnesses: CrashHarnesses, kind: str) -> None:
    tally = harnesses.try_all(range(len(operations_of(harnesses.first, kind))), kill_at(kind))
    settle(f"builder killed at a file operation, {kind}", tally)
    assert tally.new_in_use == 3  # by the reading and syncing after the last rename, and by the looking for old builds


@pytest.mark.soak
@any_kind
def test_the_power_fails_at_any_file_operation_of_a_builder(harnesses: CrashHarnesses, kind: str) -> None:
    tally = harnesses.try_all(range(len(operations_of(harnesses.first, kind))), kill_at(kind, cut_the_power))
    settle(f"power lost at a file operation, {kind}", tally)
    assert tally.new_in_use == 3  # by the reading and syncing after the last rename, and by the looking for old builds


@pytest.mark.soak
@any_kind
def test_the_first_builder_of_a_root_killed_at_any_file_operation(empty_harnesses: CrashHarnesses, kind: str) -> None:
    tally = empty_harnesses.try_all(range(len(operations_of(empty_harnesses.first, kind))), kill_at(kind))
    settle(f"first builder killed at a file operation, {kind}", tally)
    assert tally.new_in_use == 3  # by the reading and syncing after the last rename, and by the looking for old builds


def fail_at(kind: str, tolerated: set[int]) -> Callable[[CrashHarness, int], bool]:
    """Fail one operation as a full disk would; the builder may do without those `tolerated`."""

    def fail(harness: CrashHarness, at: int) -> bool:
        outcome = harness.build(*KINDS[kind], effect="fail", at=at)
        if at in tolerated and outcome.code == 0:
            return harness.check_complete()
        harness.check_refused(outcome)
        return False

    return fail


def making_a_root_that_exists(harness: CrashHarness) -> set[int]:
    return set() if harness.empty else {0}


def looking_for_old_builds(operations: list[str]) -> set[int]:
    """The last thing that a builder does, when its build is published."""
    assert operations[-1] == "os.listdir"
    return {len(operations) - 1}


def test_a_disk_that_is_full_as_a_build_is_written_and_as_it_is_published(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first, "default")
    writes, renames = ([at for at, each in enumerate(operations) if each == name] for name in ("write", "os.rename"))
    tally = harnesses.try_all([writes[0], writes[-1], *renames], fail_at("default", set()))
    settle("disk full as a build is written and published", tally)


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_change_to_files(harnesses: CrashHarnesses) -> None:
    changes = changes_among(operations_of(harnesses.first, "default"))
    tally = harnesses.try_all(changes, fail_at("default", making_a_root_that_exists(harnesses.first)))
    settle("disk full at a change to files", tally)


@pytest.mark.soak
@any_kind
@pytest.mark.parametrize("first", [False, True], ids=["a further build", "the first build"])
def test_a_disk_that_fails_at_any_file_operation(
    harnesses: CrashHarnesses, empty_harnesses: CrashHarnesses, kind: str, first: bool
) -> None:
    chosen = empty_harnesses if first else harnesses
    operations = operations_of(chosen.first, kind)
    tolerated = making_a_root_that_exists(chosen.first) | looking_for_old_builds(operations)
    tally = chosen.try_all(range(len(operations)), fail_at(kind, tolerated))
    settle(f"disk full at a file operation, {kind}{', first build' * first}", tally)


def cut_files(harness: CrashHarness, case: tuple[str, str, int]) -> bool:
    """No file may grow beyond a size: the kernel kills the builder in the middle of writing, or its write fails."""
    kind, effect, size = case
    outcome = harness.build(*KINDS[kind], effect=effect, max_file_bytes=size)
    if effect == "fail":
        harness.check_refused(outcome)
        return False
    assert outcome.code == CUT_SHORT, outcome.stderr
    assert not harness.check_complete()
    harness.check_next_builder()
    return False


_VARIES = {"recall.json": 500, "report.html": 500}  # bytes, by which another build's may be shorter


def sizes_of(harness: CrashHarness, kind: str) -> list[int]:
    """The sizes of the files that a builder writes for good; of those that hold times and so vary, somewhat less."""
    assert harness.build(*KINDS[kind]).code == 0
    directory = harness.root / (harness.root / "CURRENT").read_text().strip()
    return sorted({path.stat().st_size - _VARIES.get(path.name, 0) for path in directory.iterdir()})


def test_a_disk_that_takes_all_of_a_file_but_its_last_byte(harnesses: CrashHarnesses) -> None:
    cases = [
        ("default", effect, size - 1) for size in sizes_of(harnesses.first, "default") for effect in ("fail", "kill")
    ]
    settle("files cut by a byte", harnesses.try_all(cases, cut_files))


@pytest.mark.parametrize("effect", ["fail", "kill"])
def test_a_disk_that_takes_all_of_an_index_but_its_last_byte(
    harnesses: CrashHarnesses, tmp_path: Path, effect: str
) -> None:
    shape = (300, 64)  # wide enough that the index is by far the largest file of the build
    source = tmp_path / "wide.npz"
    np.savez(source, names=np.arange(shape[0]).astype(str), vectors=np.random.default_rng(6).normal(size=shape))
    harness = harnesses.first
    assert harness.build(source=source).code == 0
    size = (harness.root / (harness.root / "CURRENT").read_text().strip() / "best.faiss").stat().st_size
    outcome = harness.build(source=source, effect=effect, max_file_bytes=size - 1)
    if effect == "kill":
        assert outcome.code == CUT_SHORT
        assert not harness.check_complete()
        harness.check_next_builder()
    else:
        harness.check_refused(outcome)
        assert "best.faiss: cannot be written: [Errno 27] File too large" in outcome.stderr


@pytest.mark.soak
@any_kind
def test_a_disk_that_takes_only_part_of_a_file(harnesses: CrashHarnesses, kind: str) -> None:
    sizes = range(0, sizes_of(harnesses.first, kind)[-1], 331)
    cases = [(kind, effect, size) for size in sizes for effect in ("kill", "fail")]
    settle(f"files cut anywhere, {kind}", harnesses.try_all(cases, cut_files))


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("larger") / "products.npz"
    vectors = np.random.default_rng(4).normal(size=(LARGER, 16))
    np.savez(path, names=np.arange(LARGER).astype(str), vectors=vectors)
    return path


def kill_within(stage: str, index: str, source: Path) -> Callable[[CrashHarness, float], bool]:
    """Kill some seconds after a stage begins, or earlier if it is over by then."""

    def kill(harness: CrashHarness, delay: float) -> bool:
        while True:
            outcome = harness.build("--index", index, source=source, stage=stage, delay_seconds=delay)
            assert outcome.code == KILLED, outcome.stderr
            assert not harness.check_complete()
            harness.check_next_builder()
            if outcome.operations[-1][0] == f"begin {stage}":
                return False
            delay /= 2

    return kill


@pytest.mark.parametrize("count", [2, pytest.param(40, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("stage", "index"), [("train", "PQ8x4fs"), ("add", "HNSW16")])
def test_a_builder_killed_while_it_trains_or_fills_an_index(
    harnesses: CrashHarnesses, larger: Path, stage: str, index: str, count: int
) -> None:
    tally = harnesses.try_all(np.linspace(0, 0.02, count).tolist(), kill_within(stage, index, larger))
    settle(f"builder killed in {stage} of {index}, {count} times", tally)


@pytest.mark.soak
def test_a_builder_killed_at_any_time(harnesses: CrashHarnesses) -> None:
    whole = harnesses.first.build()
    draw = random.Random(5)
    last = whole.operations[-1][1] * 1.1

    def kill(harness: CrashHarness, delay: float) -> bool:
        outcome = harness.build(stage="start", delay_seconds=delay)
        assert outcome.code in (KILLED, 0), outcome.stderr
        is_new = harness.check_complete()
        harness.check_next_builder()
        return is_new

    settle("builder killed at any time", harnesses.try_all([draw.uniform(0, last) for _ in range(300)], kill))
