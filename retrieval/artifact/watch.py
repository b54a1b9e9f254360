"""Notices new builds in the artifacts root, and verifies each once before it is served."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from retrieval.artifact.store import current_build_id, open_build, pin
from retrieval.errors import BadArtifact

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PinnedBuild:
    """A build that may be served, and is not pruned before `release`."""

    build_id: str
    release: Callable[[], None]


def verify_current(root: Path) -> PinnedBuild:
    """Verify and pin the current build. Raises BadArtifact."""
    return _verify(root, current_build_id(root))


class BuildWatch:
    """Reads CURRENT at intervals, and verifies a new build in a thread of its own."""

    def __init__(self, root: Path, interval_seconds: float, served: str):
        """Watch for builds other than `served`; an interval of 0 waits for `check_now`."""
        self._root, self._interval_seconds = root, interval_seconds or float("inf")
        self._served, self._refused = served, ""
        self._verifier = ThreadPoolExecutor(1, "verify")
        self._verification: Future[PinnedBuild] | None = None
        self._next_check = 0.0 if interval_seconds else float("inf")

    def check_now(self) -> None:
        """Check at the next poll, and once more a build that was refused."""
        self._next_check, self._refused = time.monotonic(), ""

    def poll_new_build(self) -> PinnedBuild | None:
        """Return a new build once it is verified. Raises BadArtifact, once for each build that is refused."""
        if self._verification is None:
            self._check_current()
            return None
        if not self._verification.done():
            return None
        verification, self._verification = self._verification, None
        build = verification.result()
        self._served = build.build_id
        return build

    def _check_current(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self._interval_seconds
        try:
            build_id = current_build_id(self._root)
        except BadArtifact as error:
            if self._refused != str(error):
                self._refused = str(error)
                raise
            return
        if build_id == self._served:
            self._refused = ""
        elif build_id != self._refused:
            log.info("verifying build %s", build_id)
            self._refused = build_id  # A build counts as refused until it is verified.
            self._verification = self._verifier.submit(_verify, self._root, build_id)


def _verify(root: Path, build_id: str) -> PinnedBuild:
    with pin(root, build_id) as pinned:
        open_build(root, build_id)
        return PinnedBuild(build_id, pinned.pop_all().close)
