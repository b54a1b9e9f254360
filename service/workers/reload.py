"""Notices new builds in the artifacts root, and verifies each once before it is served."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from retrieval.artifact.store import current_build_id, open_build, pinned
from retrieval.errors import BadArtifact

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verified:
    """A build that may be served, and is not pruned before `release`."""

    build_id: str
    _hold: ExitStack

    def release(self) -> None:
        self._hold.close()


def verify_current(root: Path) -> Verified:
    """Raises BadArtifact."""
    return _verify(root, current_build_id(root))


class BuildWatch:
    """Looks at CURRENT now and then, and verifies what is new in a thread of its own."""

    def __init__(self, root: Path, every_seconds: float, served: str):
        """`every_seconds` of 0 is never; `served` is the build that is no news."""
        self._root, self._every_seconds = root, every_seconds
        self._served, self._refused = served, ""
        self._verifier = ThreadPoolExecutor(1, "verify")
        self._verifying: Future[Verified] | None = None
        self._next_look = 0.0

    def look_now(self) -> None:
        """Look at the next call of `news`, and once more at a build that was refused."""
        self._next_look, self._refused = time.monotonic(), ""

    def news(self) -> Verified | None:
        """A new build once it is verified. Raises BadArtifact, once for each build that is refused."""
        if self._verifying is None:
            self._look()
            return None
        if not self._verifying.done():
            return None
        done, self._verifying = self._verifying, None
        verified = done.result()
        self._served = verified.build_id
        return verified

    def _look(self) -> None:
        now = time.monotonic()
        due = self._next_look or (now if self._every_seconds else float("inf"))
        if now < due:
            return
        self._next_look = now + self._every_seconds if self._every_seconds else 0.0
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
            self._refused = build_id  # until it is verified
            self._verifying = self._verifier.submit(_verify, self._root, build_id)


def _verify(root: Path, build_id: str) -> Verified:
    with ExitStack() as hold:
        hold.enter_context(pinned(root, build_id))
        open_build(root, build_id)
        return Verified(build_id, hold.pop_all())
