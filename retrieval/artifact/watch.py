"""Notices new builds in the artifacts root, and verifies each before it is served."""

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from retrieval.artifact.build import check_build
from retrieval.artifact.store import current_build_id, named_build_id, pin
from retrieval.errors import BadArtifact

_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS = 1.0, 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PinnedBuild:
    """A build that may be served, and is not pruned before `release`. `base_id` is what it is a delta on, or itself."""

    build_id: str
    release: Callable[[], None]
    base_id: str = ""

    def __str__(self) -> str:
        on_base = f" (a delta on {self.base_id})" if self.base_id not in ("", self.build_id) else ""
        return f"build {self.build_id}{on_base}"


def start_verifying_current(root: Path) -> "Future[PinnedBuild]":
    """Verify and pin the current build in a thread. Raises BadArtifact, as the future will."""
    return _start_verifying(root, current_build_id(root))


class BuildWatch:
    """Reads CURRENT at intervals, and verifies a new build in a thread of its own.

    A build whose files are missing, cannot be read or have changed since it was refused is verified again at growing
    intervals, while CURRENT names it: they may be arriving.
    """

    def __init__(self, root: Path, interval_seconds: float, verified_base: str | None = None):
        """Watch for new builds; an interval of 0 waits for `check_now`.

        Of deltas on the `verified_base`, only their own files are verified.
        """
        self._root, self._interval_seconds = root, interval_seconds or math.inf
        self._next_check = 0.0 if interval_seconds else math.inf
        self._verification: tuple[str, Future[PinnedBuild]] | None = None
        self._verified_base = verified_base
        self._files: object = None  # of the build that was verified last, as they were before
        self._refused, self._may_pass = "", False
        self._retry_seconds, self._next_retry = _MIN_RETRY_SECONDS, math.inf

    @property
    def is_verifying(self) -> bool:
        return self._verification is not None

    def check_now(self) -> None:
        """Check at the next poll, and once more a build that was refused."""
        self._next_check, self._refused, self._next_retry = time.monotonic(), "", math.inf

    def poll_new_build(self, in_use: str) -> PinnedBuild | None:
        """Return a build other than the one in use once it is verified.

        Raises what is wrong with it, once for each build that is refused.
        """
        if self._verification is None:
            self._check_current(in_use)
            return None
        build_id, future = self._verification
        if not future.done():
            return None
        self._verification = None
        try:
            verified = future.result()
            self._verified_base = verified.base_id
            return verified
        except Exception as error:  # whatever is wrong with it, it must not be served
            if self.refuse(build_id, isinstance(_root_cause(error), OSError)):
                raise
            return None

    def refuse(self, build_id: str, may_pass: bool = True) -> bool:
        """Leave a build out until it is time to try it again; returns whether it is refused for the first time."""
        is_first = build_id != self._refused
        longer = min(2 * self._retry_seconds, _MAX_RETRY_SECONDS)
        self._refused, self._may_pass = build_id, may_pass
        self._retry_seconds = _MIN_RETRY_SECONDS if is_first else longer
        self._next_retry = time.monotonic() + self._retry_seconds
        return is_first

    def _check_current(self, in_use: str) -> None:
        now = time.monotonic()
        if now < min(self._next_check, self._next_retry):
            return
        self._next_check = now + self._interval_seconds if now >= self._next_check else self._next_check
        try:
            build_id = named_build_id(self._root)
        except BadArtifact as error:
            if self.refuse(str(error)):
                raise
            return
        if build_id != self._refused:
            self._refused, self._next_retry = "", math.inf
        if build_id != in_use and self._is_due(build_id):
            self._files = _files_of(self._root / build_id)
            self._verification = build_id, _start_verifying(self._root, build_id, self._verified_base)

    def _is_due(self, build_id: str) -> bool:
        if build_id != self._refused:
            log.info("verifying build %s", build_id)
            return True
        if time.monotonic() < self._next_retry:
            return False
        self._next_retry = time.monotonic() + self._retry_seconds
        return self._may_pass or self._files != _files_of(self._root / build_id)


def _start_verifying(root: Path, build_id: str, verified_base: str | None = None) -> "Future[PinnedBuild]":
    """Verify and pin a build in a thread that keeps no process from ending."""
    future: Future[PinnedBuild] = Future()

    def run() -> None:
        try:
            future.set_result(_verify(root, build_id, verified_base))
        except BaseException as error:  # noqa: BLE001 (whoever waits for the result gets it)
            future.set_exception(error)

    Thread(target=run, name="verify", daemon=True).start()
    return future


def _verify(root: Path, build_id: str, verified_base: str | None) -> PinnedBuild:
    with pin(root, build_id) as pinned:
        base_id = check_build(root, build_id, verified_base)
        return PinnedBuild(build_id, pinned.pop_all().close, base_id)


def _files_of(directory: Path) -> list[tuple[str, int, int, int]] | None:
    """Return what tells whether files in a directory were changed; None where there is no such directory."""
    try:
        stats = [(path.name, path.stat()) for path in sorted(directory.iterdir())]
    except OSError:
        return None
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats]


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__:
        error = error.__cause__
    return error
