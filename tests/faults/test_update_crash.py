"""An update or a merge that is killed, or whose disk is full, at any moment leaves a complete build in use."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from index_builder.changes.update import UpdateRequest, update
from retrieval.artifact.store import open_current
from tests.support.catalogues import write_lines
from tests.support.changes import Product
from tests.support.crash_harness import POINTERS, CrashHarnesses, Tally
from tests.support.fault_injection import READING, FaultSpec, FaultyBuilders, Outcome
from tests.support.figures import record
from tests.support.published import DIMENSION, publish
from tests.support.served import answers_of

KILLED = -signal.SIGKILL
VECTORS = np.random.default_rng(8).normal(size=(4, DIMENSION)).tolist()
FIRST: list[Product] = [{"id": "p1", "delete": True}, {"id": "new 0", "name": "first", "vector": VECTORS[0]}]
SECOND: list[Product] = [
    {"id": "p2", "delete": True},
    {"id": "p3", "name": "replaced", "vector": VECTORS[1]},
    {"id": "new 0", "set": {"name": "changed"}},
    {"id": "new 1", "name": "second", "vector": VECTORS[2], "size": 4},
]
LAST: list[Product] = [{"id": "new 2", "name": "third", "vector": VECTORS[3]}]


class ChangedRoot:
    """A root with a pair in use, and what it serves: as it is, after further changes, and after one more then."""

    def __init__(self, directory: Path):
        self.root, self._directory = directory / "baseline", directory
        self.base = publish(self.root).build_id
        self.second, self.last = (
            write_lines(directory / name, lines) for name, lines in (("second", SECOND), ("last", LAST))
        )
        self.old = self._change(self.root, write_lines(directory / "first", FIRST))
        self.answers = {"old": self._answers("old"), "update": self._answers("update", self.second)}
        self.answers["merge"] = self.answers["old"]
        last = {name: self._answers(f"{name} last", *files) for name, files in self._files().items()}
        self.last_answers = {**last, "merge": last["old"]}

    def _files(self) -> dict[str, list[Path]]:
        return {"old": [self.last], "update": [self.second, self.last]}

    def _answers(self, name: str, *changes: Path) -> list[bytes]:
        root = self._directory / name
        shutil.copytree(self.root, root)
        for path in changes:
            self._change(root, path)
        return answers_of(open_current(root))

    def _change(self, root: Path, path: Path) -> str:
        return update(UpdateRequest(update=path, out=root)).manifest.build_id


class ChangeHarness:
    """Runs faulty updates and merges, each in a fresh copy of the root."""

    def __init__(self, baseline: ChangedRoot, directory: Path, builders: FaultyBuilders):
        self.baseline, self.root, self._builders = baseline, directory / "artifacts", builders
        directory.mkdir()
        self._options = {"update": ["--update", str(baseline.second)], "merge": ["--merge"]}

    def run(self, command: str, **fault: object) -> Outcome:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.baseline.root, self.root)
        return self._run(self._options[command], **fault)

    def check_complete(self, command: str) -> bool:
        """The old pair or the new build is in use, whole. Tells whether it is the new one."""
        opened = open_current(self.root)
        is_new = opened.id != self.baseline.old
        assert answers_of(opened) == self.baseline.answers[command if is_new else "old"]
        return is_new

    def check_refused(self, outcome: Outcome) -> None:
        """It failed with a message, and left nothing behind."""
        assert outcome.code == 1, outcome.stderr
        assert outcome.stderr.startswith("error: ")
        assert outcome.stderr.endswith("\nnothing was published\n")
        assert "Traceback" not in outcome.stderr
        assert not self.check_complete("old")
        assert self._entries() == {self.baseline.base, self.baseline.old}

    def check_next_update(self, command: str, is_new: bool) -> None:
        """It publishes, and leaves nothing but complete builds."""
        before = self._entries()
        outcome = self._run(["--update", str(self.baseline.last)])
        assert outcome.code == 0, outcome.stderr
        newest = open_current(self.root)
        assert answers_of(newest) == self.baseline.last_answers[command if is_new else "old"]
        assert self._entries() == {name for name in before if not name.startswith((".draft-", *POINTERS))} | {newest.id}

    def _entries(self) -> set[str]:
        return {path.name for path in self.root.iterdir()} - {*POINTERS, ".updating"}

    def _run(self, options: list[str], **fault: object) -> Outcome:
        arguments = ["--out", str(self.root), *options]
        return self._builders.run(FaultSpec(arguments, str(self.root), **fault))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def harnesses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashHarnesses[ChangeHarness]]:
    directory = tmp_path_factory.mktemp("changes")
    baseline = ChangedRoot(directory)
    with ExitStack() as stack:
        builders = [stack.enter_context(FaultyBuilders()) for _ in range(2)]
        yield CrashHarnesses(
            [ChangeHarness(baseline, directory / f"harness {i}", each) for i, each in enumerate(builders)]
        )


def changes_of(harness: ChangeHarness, command: str) -> list[int]:
    """The numbers of the file operations of a command that do more than read."""
    outcome = harness.run(command)
    assert outcome.code == 0, outcome.stderr
    names = [name for name, _, _ in outcome.operations if " " not in name]
    return [at for at, name in enumerate(names) if name not in READING]


def kill_at(command: str, power_fails: bool) -> Callable[[ChangeHarness, int], bool]:
    def kill(harness: ChangeHarness, at: int) -> bool:
        outcome = harness.run(command, effect="kill", at=at)
        assert outcome.code == KILLED, outcome.stderr
        if power_fails:
            cut_the_power(harness, outcome)
        is_new = harness.check_complete(command)
        harness.check_next_update(command, is_new)
        return is_new

    return kill


def cut_the_power(harness: ChangeHarness, outcome: Outcome) -> None:
    """Empty every file that was written and had not been synced."""
    kept = {harness.baseline.base, harness.baseline.old}
    for path in harness.root.rglob("*"):
        is_kept = path.parent.name in kept or (path.name in POINTERS and path.read_text() == old_text(harness, path))
        if path.is_file() and not is_kept and path.stat().st_ino not in outcome.synced:
            path.write_bytes(b"")


def old_text(harness: ChangeHarness, path: Path) -> str:
    return (harness.baseline.root / path.name).read_text()


def fail_at(command: str) -> Callable[[ChangeHarness, int], bool]:
    """Fail one operation as a full disk would; once it is published, the rest may be left out."""

    def fail(harness: ChangeHarness, at: int) -> bool:
        outcome = harness.run(command, effect="fail", at=at)
        if outcome.code == 0:
            assert harness.check_complete(command)
            return True
        harness.check_refused(outcome)
        return False

    return fail


def settle(subject: str, tally: Tally) -> None:
    record(subject, **tally.figures)
    assert tally.failed == []


def test_an_update_killed_now_and_then(harnesses: CrashHarnesses[ChangeHarness]) -> None:
    cases = changes_of(harnesses.first, "update")[::9]
    settle("update killed now and then", harnesses.try_all(cases, kill_at("update", power_fails=False)))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["update", "merge"])
def test_a_command_killed_at_any_change_to_files(harnesses: CrashHarnesses[ChangeHarness], command: str) -> None:
    tally = harnesses.try_all(changes_of(harnesses.first, command), kill_at(command, power_fails=False))
    settle(f"{command} killed at a change to files", tally)
    assert 0 < tally.new_in_use < 8  # by what follows the last rename


@pytest.mark.slow
@pytest.mark.parametrize("command", ["update", "merge"])
def test_the_power_fails_at_any_change_to_files(harnesses: CrashHarnesses[ChangeHarness], command: str) -> None:
    tally = harnesses.try_all(changes_of(harnesses.first, command), kill_at(command, power_fails=True))
    settle(f"power lost at a change to files, {command}", tally)
    assert 0 < tally.new_in_use < 8


@pytest.mark.slow
@pytest.mark.parametrize("command", ["update", "merge"])
def test_a_disk_that_is_full_at_any_change_to_files(harnesses: CrashHarnesses[ChangeHarness], command: str) -> None:
    settle(
        f"disk full at a change to files, {command}",
        harnesses.try_all(changes_of(harnesses.first, command), fail_at(command)),
    )
