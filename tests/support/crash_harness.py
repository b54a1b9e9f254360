"""Artifacts roots with a build in use, and builders that fail while they publish another catalogue there."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from index_builder.kinds.training import STORAGES
from index_builder.tuning.users import MIN_USERS
from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from retrieval.search.index import use_threads
from tests.support.catalogues import write_lines
from tests.support.fault_injection import FaultSpec, FaultyBuilders, Outcome
from tests.support.published import DIMENSION, publish
from tests.support.served import answers_of

Case = TypeVar("Case")
Harness = TypeVar("Harness")
_HARNESSES = 2
POINTERS = ("CURRENT", "HISTORY")


class Baseline:
    """A root with the old build, what that serves, and what a build of the new catalogue serves."""

    def __init__(self, directory: Path):
        self.root = directory / "baseline"
        self.old = publish(self.root).build_id
        self.old_files = _contents(self.root / self.old)
        self.old_answers = answers_of(open_current(self.root))
        self.new_answers = {}  # by storage
        for storage in STORAGES:
            publish(directory / storage, seed=1, storage=storage)
            self.new_answers[storage] = answers_of(open_current(directory / storage))
        self.source = directory / "products 1.jsonl"
        users = np.random.default_rng(3).normal(size=(MIN_USERS, DIMENSION))
        self.users = write_lines(directory / "users.jsonl", [{"vector": user} for user in users.tolist()])


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
        return self._run(source, options, **fault)

    def check_complete(self) -> bool:
        """The old build or the new one is in use, whole, and the old one is as it was. Tells whether it is the new."""
        if self.empty and not (self.root / "CURRENT").exists():
            return False
        opened = open_current(self.root)
        is_new = opened.id != self.baseline.old
        new_answers = self.baseline.new_answers[opened.manifest.index.storage]
        assert answers_of(opened) == (new_answers if is_new else self.baseline.old_answers)
        assert self.empty or _contents(self.root / self.baseline.old) == self.baseline.old_files
        return is_new

    def check_refused(self, outcome: Outcome) -> None:
        """The builder failed with a message, and left nothing behind."""
        assert outcome.code == 1, outcome.stderr
        message, last = outcome.stderr.splitlines()[-2:]
        assert message.startswith("error: ")
        assert last == "nothing was published"
        assert "Traceback" not in outcome.stderr
        assert not self.check_complete()
        assert self.entries() == ([] if self.empty else sorted([self.baseline.old, *POINTERS]))

    def check_next_builder(self) -> None:
        """It publishes, and leaves nothing but complete builds."""
        builds = {name for name in self.entries() if not name.startswith((".draft-", *POINTERS))}
        outcome = self._run(None, ())
        assert outcome.code == 0, outcome.stderr
        newest = open_current(self.root)
        assert newest.id not in builds
        assert answers_of(newest) == self.baseline.new_answers["fp32"]
        assert self.entries() == sorted({*builds, newest.id, *POINTERS})

    def entries(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []

    def _run(self, source: Path | None, options: tuple[str, ...], **fault: Any) -> Outcome:
        files = [source] if source else [self.baseline.source, "--queries", self.baseline.users]
        arguments = ["--out", self.root, "--products", *files, *options]
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


class CrashHarnesses(Generic[Harness]):
    """As many harnesses as work at once."""

    def __init__(self, members: list[Harness]):
        self._members = members

    @property
    def first(self) -> Harness:
        return self._members[0]

    def try_all(self, cases: Iterable[Case], try_one: Callable[[Harness, Case], bool]) -> Tally:
        """Try every case; `try_one` tells whether the new build came into use, and raises where anything is wrong."""

        def work(member: Harness, own: list[Case]) -> list[bool | str]:
            use_threads(1)
            return [_outcome_of(try_one, member, case) for case in own]

        cases, count = list(cases), len(self._members)
        with ThreadPoolExecutor(count) as threads:
            parts = threads.map(work, self._members, [cases[i::count] for i in range(count)])
            ends = [end for part in parts for end in part]
        return Tally(len(ends), ends.count(True), [end for end in ends if isinstance(end, str)])


def _outcome_of(try_one: Callable[[Harness, Case], bool], harness: Harness, case: Case) -> bool | str:
    try:
        return try_one(harness, case)
    except (AssertionError, BadArtifact) as fault:
        return f"{case}: {fault}"


@contextmanager
def crash_harnesses(directory: Path, empty: bool = False) -> Iterator[CrashHarnesses[CrashHarness]]:
    baseline = Baseline(directory)
    with ExitStack() as stack:
        members = []
        for i in range(_HARNESSES):
            scratch = directory / f"harness {i}"
            scratch.mkdir()
            members.append(CrashHarness(baseline, scratch, stack.enter_context(FaultyBuilders()), empty))
        yield CrashHarnesses(members)


def _contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
