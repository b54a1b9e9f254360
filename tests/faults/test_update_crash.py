"""An update or a merge that is killed, or whose disk is full, at any moment leaves the old pair or the new in use."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.crash_harness import (
    KILLED,
    CrashHarness,
    CrashHarnesses,
    UpdatedBaseline,
    crash_harnesses,
    cut_the_power,
    settle,
)
from tests.support.fault_injection import READING


@pytest.fixture(scope="module")
def harnesses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashHarnesses]:
    """On a base and a delta."""
    with crash_harnesses(tmp_path_factory.mktemp("update"), make_baseline=UpdatedBaseline) as harnesses:
        yield harnesses


def operations_of(harness: CrashHarness) -> list[str]:
    """What a builder that nothing happens to does to files, in order."""
    outcome = harness.build()
    assert outcome.code == 0, outcome.stderr
    assert harness.check_complete()
    operations = [name for name, _, _ in outcome.operations if " " not in name]
    assert {"open", "read", "write", "os.mkdir", "os.rename", "os.fsync", "fcntl.flock"} <= set(operations)
    return operations


def last_rename(operations: list[str]) -> int:
    """The number of the operation after which CURRENT names the new build."""
    return len(operations) - 1 - operations[::-1].index("os.rename")


def changes_among(operations: list[str]) -> list[int]:
    """The numbers of those that do more than read; between two of them, a kill always finds the same files."""
    return [at for at, name in enumerate(operations) if name not in READING]


def kill(harness: CrashHarness, at: int) -> bool:
    outcome = harness.build(effect="kill", at=at)
    assert outcome.code == KILLED, outcome.stderr
    return settled(harness)


def lose_power(harness: CrashHarness, at: int) -> bool:
    outcome = harness.build(effect="kill", at=at)
    assert outcome.code == KILLED, outcome.stderr
    cut_the_power(harness, outcome)
    return settled(harness)


def settled(harness: CrashHarness) -> bool:
    is_new = harness.check_complete()
    harness.check_next_builder()
    return is_new


def fail(synced: int, harness: CrashHarness, at: int) -> bool:
    """Fail one operation as a full disk would; the builder does without those that come after CURRENT is `synced`."""
    outcome = harness.build(effect="fail", at=at)
    if at > synced:
        assert outcome.code == 0, outcome.stderr
        return harness.check_complete()
    harness.check_refused(outcome)
    return False


@pytest.mark.parametrize("begins", ["os.rename", pytest.param("fcntl.flock", marks=pytest.mark.slow)])
def test_an_update_killed_at_any_change_to_files(harnesses: CrashHarnesses, begins: str) -> None:
    """From the rename that gives a delta its name on; as a slow test, from the beginning on."""
    operations = operations_of(harnesses.first)
    changes = [at for at in changes_among(operations) if at >= operations.index(begins)]
    tally = harnesses.try_all(changes, kill)
    settle("update killed at a change to files", tally)
    assert tally.new_in_use == len([at for at in changes if at > last_rename(operations)])


@pytest.mark.soak
def test_an_update_killed_at_any_file_operation(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first)
    tally = harnesses.try_all(range(len(operations)), kill)
    settle("update killed at a file operation", tally)
    assert tally.new_in_use == len(operations) - 1 - last_rename(operations)


@pytest.mark.soak
def test_the_power_fails_at_any_file_operation_of_an_update(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first)
    tally = harnesses.try_all(range(len(operations)), lose_power)
    settle("power lost at a file operation of an update", tally)
    assert tally.new_in_use == len(operations) - 1 - last_rename(operations)


@pytest.mark.soak
def test_a_disk_that_fails_at_any_file_operation_of_an_update(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first)
    synced = operations.index("os.fsync", last_rename(operations))
    settle(
        "disk full at a file operation of an update", harnesses.try_all(range(len(operations)), partial(fail, synced))
    )
