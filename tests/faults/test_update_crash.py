"""An update or a merge that is killed, or whose disk is full, at any moment leaves the old pair or the new in use."""

from collections.abc import Callable, Iterable, Iterator
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

Kill = Callable[[CrashHarness, int], bool]


@pytest.fixture(scope="module", params=["update"])
def harnesses(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashHarnesses]:
    """On a base and a delta, for builders that make the next delta or merge the two, as the parameter says."""
    make_baseline = partial(UpdatedBaseline, merges=request.param == "merge")
    with crash_harnesses(tmp_path_factory.mktemp(request.param), make_baseline=make_baseline) as harnesses:
        yield harnesses


either = pytest.mark.parametrize("harnesses", ["update", "merge"], indirect=True)


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


def check_killed(harnesses: CrashHarnesses, operations: list[str], chosen: list[int], kill: Kill = kill) -> None:
    tally = harnesses.try_all(chosen, kill)
    settle(f"{harnesses.command}: {kill.__name__} at a file operation", tally)
    assert tally.new_in_use == len([at for at in chosen if at > last_rename(operations)])


def tolerated_of(operations: list[str]) -> set[int]:
    """The numbers of those that a builder does without: making the root, which exists, and what follows publishing."""
    synced = operations.index("os.fsync", last_rename(operations))
    return {operations.index("os.mkdir"), *range(synced + 1, len(operations))}


def fail(tolerated: set[int], harness: CrashHarness, at: int) -> bool:
    """Fail one operation as a full disk would."""
    outcome = harness.build(effect="fail", at=at)
    if at in tolerated:
        assert outcome.code == 0, outcome.stderr
        return harness.check_complete()
    harness.check_refused(outcome)
    return False


def test_an_update_killed_at_any_change_to_files_while_it_is_published(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first)
    published = operations.index("os.rename")
    check_killed(harnesses, operations, [at for at in changes_among(operations) if at >= published])


@pytest.mark.parametrize("harnesses", ["merge"], indirect=True)
def test_a_merge_killed_around_the_moment_at_which_it_is_published(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first)
    published = last_rename(operations)
    check_killed(harnesses, operations, [published - 1, published, published + 1])


def test_a_disk_that_is_full_as_a_delta_is_written_and_as_it_is_published(harnesses: CrashHarnesses) -> None:
    operations = operations_of(harnesses.first)
    writes = [at for at, name in enumerate(operations) if name == "write"]
    chosen = [writes[0], writes[-1], operations.index("os.rename"), last_rename(operations)]
    assert {*chosen}.isdisjoint(tolerated_of(operations))
    settle("disk full at some file operations, update", harnesses.try_all(chosen, partial(fail, set())))


@pytest.mark.slow
@either
@pytest.mark.parametrize("kill", [kill, lose_power])
def test_an_update_or_a_merge_killed_at_any_change_to_files(harnesses: CrashHarnesses, kill: Kill) -> None:
    operations = operations_of(harnesses.first)
    check_killed(harnesses, operations, changes_among(operations), kill)


@pytest.mark.soak
@either
@pytest.mark.parametrize("kill", [kill, lose_power])
def test_an_update_or_a_merge_killed_at_any_file_operation(harnesses: CrashHarnesses, kill: Kill) -> None:
    operations = operations_of(harnesses.first)
    check_killed(harnesses, operations, [*range(len(operations))], kill)


@either
@pytest.mark.parametrize(
    "choose",
    [
        pytest.param(changes_among, marks=pytest.mark.slow, id="changes"),
        pytest.param(lambda operations: range(len(operations)), marks=pytest.mark.soak, id="all"),
    ],
)
def test_a_disk_that_fails_at_a_file_operation_of_an_update_or_a_merge(
    harnesses: CrashHarnesses, choose: Callable[[list[str]], Iterable[int]]
) -> None:
    operations = operations_of(harnesses.first)
    tally = harnesses.try_all(choose(operations), partial(fail, tolerated_of(operations)))
    settle(f"disk full at a file operation, {harnesses.command}", tally)
