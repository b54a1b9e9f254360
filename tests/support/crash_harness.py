"""Artifacts roots with a build in use, and builders that fail while they publish another catalogue there."""

import hashlib
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from index_builder.kinds.training import STORAGES
from index_builder.tuning.users import MIN_USERS
from retrieval.artifact.store import build_ids, current_build_id, open_current
from retrieval.errors import BadArtifact
from retrieval.search.index import use_threads
from tests.support.catalogues import write_lines
from tests.support.fault_injection import FaultSpec, FaultyBuilders, Outcome
from tests.support.figures import record
from tests.support.published import DIMENSION, PRODUCTS, publish
from tests.support.served import answers_of
from tests.support.updated import ChangingCatalogue, random_changes, random_rows

Case = TypeVar("Case")
_HARNESSES = 2
KILLED = -signal.SIGKILL
POINTERS = ("CURRENT", "HISTORY")


class Baseline:
    """A root with the old build, what that serves, and what comes instead of it.

    `command` are the arguments of a builder that makes the new build, which gives the `new_answers`, by storage. The
    builder that follows it has the arguments `next_command`, and its build gives the `next_answers`.
    """

    command: list[object]
    new_answers: dict[str, list[bytes]]
    next_answers: list[bytes]

    def __init__(self, root: Path):
        self.root, self.old = root, current_build_id(root)
        self.old_files = {build_id: _contents(root / build_id) for build_id in build_ids(root)}
        self.old_entries = sorted(path.name for path in root.iterdir())
        self.old_answers = answers_of(open_current(root))

    def next_command(self, _is_new: bool) -> list[object]:
        """Return the command of the builder that comes after one that has made the new build, or has failed."""
        return self.command


class FullBaseline(Baseline):
    """A full build, and builders of another catalogue."""

    def __init__(self, directory: Path):
        publish(directory / "baseline")
        super().__init__(directory / "baseline")
        self.new_answers = {}
        for storage in STORAGES:
            publish(directory / storage, seed=1, storage=storage)
            self.new_answers[storage] = answers_of(open_current(directory / storage))
        self.next_answers = self.new_answers["fp32"]
        users = np.random.default_rng(3).normal(size=(MIN_USERS, DIMENSION))
        users_file = write_lines(directory / "users.jsonl", [{"vector": user} for user in users.tolist()])
        self.command = ["--products", directory / "products 1.jsonl", "--queries", users_file]


class UpdatedBaseline(Baseline):
    """A pair, and builders that update it, or merge it."""

    def __init__(self, directory: Path, merges: bool = False):
        draw, root = np.random.default_rng(8), directory / "baseline"
        catalogue = ChangingCatalogue(root, random_rows(draw, 0, PRODUCTS, DIMENSION))
        catalogue.update(random_changes(draw, catalogue, 2, DIMENSION))
        super().__init__(root)
        changes = random_changes(draw, catalogue, 2, DIMENSION)
        update = ["--update", write_lines(directory / "changes.jsonl", changes)]
        # Products that are deleted cannot be deleted again.
        left = [line for line in changes if merges or "delete" not in line]
        self._next_commands = {False: update, True: ["--update", write_lines(directory / "changes left.jsonl", left)]}
        self.command = ["--merge"] if merges else update
        catalogue.root = Path(shutil.copytree(root, directory / "updated"))
        catalogue.update(changes)
        self.next_answers = answers_of(open_current(catalogue.root))
        self.new_answers = {"fp32": self.old_answers if merges else self.next_answers}

    def next_command(self, is_new: bool) -> list[object]:
        return self._next_commands[is_new]


@dataclass
class CrashHarness:
    """Runs one faulty builder after the other, each in a fresh copy of the baseline root, or in an `empty` one."""

    baseline: Baseline
    directory: Path
    builders: FaultyBuilders
    empty: bool = False

    @property
    def root(self) -> Path:
        return self.directory / "artifacts"

    def build(self, *options: str, source: Path | None = None, **fault: Any) -> Outcome:
        """Run a builder of the new catalogue, or of another `source`, in a fresh root, with a `FaultSpec`'s fault."""
        shutil.rmtree(self.root, ignore_errors=True)
        if not self.empty:
            shutil.copytree(self.baseline.root, self.root)
        command = ["--products", source] if source else self.baseline.command
        return self._run([*command, *options], **fault)

    def check_complete(self) -> bool:
        """The old build or the new one is in use, whole, and the old one is as it was. Tells whether it is the new."""
        if self.empty and not (self.root / "CURRENT").exists():
            return False
        opened = open_current(self.root)
        is_new = opened.id != self.baseline.old
        new_answers = self.baseline.new_answers[opened.manifest.index.storage]
        assert answers_of(opened) == (new_answers if is_new else self.baseline.old_answers)
        for build_id, contents in {} if self.empty else self.baseline.old_files.items():
            assert _contents(self.root / build_id) == contents
        return is_new

    def check_refused(self, outcome: Outcome) -> None:
        """The builder failed with a message, and left nothing behind."""
        assert outcome.code == 1, outcome.stderr
        message, last = outcome.stderr.splitlines()[-2:]
        assert message.startswith("error: ")
        assert last == "nothing was published"
        assert "Traceback" not in outcome.stderr
        assert not self.check_complete()
        assert self.entries() == ([] if self.empty else self.baseline.old_entries)

    def check_next_builder(self) -> None:
        """It publishes, and leaves nothing but complete builds."""
        builds = {name for name in self.entries() if not name.startswith((".draft-", *POINTERS))}
        is_new = not self.empty and (self.root / "CURRENT").read_text().strip() != self.baseline.old
        outcome = self._run(self.baseline.next_command(is_new))
        assert outcome.code == 0, outcome.stderr
        newest = open_current(self.root)
        assert newest.id not in builds
        assert answers_of(newest) == self.baseline.next_answers
        assert self.entries() == sorted({*builds, newest.id, *POINTERS})

    def entries(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []

    def _run(self, command: Iterable[object], **fault: Any) -> Outcome:
        arguments = ["--out", self.root, *command]
        return self.builders.run(FaultSpec([str(argument) for argument in arguments], str(self.directory), **fault))


@dataclass(frozen=True)
class Tally:
    """How many cases were tried, how many ended with the new build in use, and what was wrong in those that failed."""

    cases: int
    new_in_use: int
    failed: list[str]

    @property
    def figures(self) -> dict[str, int]:
        return {"cases": self.cases, "new_build_in_use": self.new_in_use, "builds_lost": len(self.failed)}


class CrashHarnesses:
    """As many harnesses as work at once."""

    def __init__(self, members: list[CrashHarness]):
        self._members = members

    @property
    def first(self) -> CrashHarness:
        return self._members[0]

    @property
    def command(self) -> str:
        """The first word of what the builders are told."""
        return str(self.first.baseline.command[0]).strip("-")

    def try_all(self, cases: Iterable[Case], try_one: Callable[[CrashHarness, Case], bool]) -> Tally:
        """Try every case; `try_one` tells whether the new build came into use, and raises where anything is wrong."""

        def work(member: CrashHarness, own: list[Case]) -> list[bool | str]:
            use_threads(1)
            return [_outcome_of(try_one, member, case) for case in own]

        cases, count = list(cases), len(self._members)
        with ThreadPoolExecutor(count) as threads:
            parts = threads.map(work, self._members, [cases[i::count] for i in range(count)])
            ends = [end for part in parts for end in part]
        return Tally(len(ends), ends.count(True), [end for end in ends if isinstance(end, str)])


def _outcome_of(try_one: Callable[[CrashHarness, Case], bool], harness: CrashHarness, case: Case) -> bool | str:
    try:
        return try_one(harness, case)
    except (AssertionError, BadArtifact) as fault:
        return f"{case}: {fault}"


@contextmanager
def crash_harnesses(
    directory: Path, empty: bool = False, make_baseline: Callable[[Path], Baseline] = FullBaseline
) -> Iterator[CrashHarnesses]:
    baseline = make_baseline(directory)
    with ExitStack() as stack:
        members = []
        for i in range(_HARNESSES):
            scratch = directory / f"harness {i}"
            scratch.mkdir()
            members.append(CrashHarness(baseline, scratch, stack.enter_context(FaultyBuilders()), empty))
        yield CrashHarnesses(members)


def settle(subject: str, tally: Tally) -> None:
    record(subject, **tally.figures)
    assert tally.failed == []


def cut_the_power(harness: CrashHarness, outcome: Outcome) -> None:
    """Empty every file that the builder wrote and had not synced."""
    kept, old = harness.baseline.old_files, harness.baseline.old
    for path in harness.root.rglob("*"):
        is_old = path.parent.name in kept or (path.name in POINTERS and path.read_text().split()[-1] == old)
        if path.is_file() and not is_old and path.stat().st_ino not in outcome.synced:
            path.write_bytes(b"")


def _contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
