"""The directory of a batch's answers so far: parts, each of which is there whole or not at all."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from retrieval.artifact.durable import AT_ONCE, EXCLUSIVE, locked, replace_text
from service.errors import BadBatch
from service.offline.inputs import BlockKey

_STATE, _JOINED, _ERRORS = "state.json", "joined", ".errors"
_FILE_NAMES = re.compile(r"(state\.json|joined|\d+(-\w+)?\.draft|\d+-\d+(-\w+)*\.(part|errors))(\.new)?")
_LOCK_TIMEOUT_SECONDS = 10.0


class PartsDirectory:
    """The parts in a locked directory. The name of a part's file is its block's key.

    Beside it, a file counts the users who have an error by its code, if there are any.

    Only the process that holds the lock names a draft a part. Drafts have names of their own in each run, so a worker
    that outlives a killed run for a moment writes to no file that another run uses.
    """

    def __init__(self, directory: Path):
        self.joined = directory / _JOINED
        self._directory, self._run = directory, token_hex(4)
        self._errors: dict[BlockKey, Counter[str]] = {}
        for path in directory.glob("*.part"):
            first_row, rows, digest = path.stem.split("-")
            counts = path.with_suffix(_ERRORS)
            errors = Counter(json.loads(counts.read_text()) if counts.exists() else {})
            self._errors[BlockKey(int(first_row), int(rows), digest)] = errors

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._errors

    def errors(self, key: BlockKey) -> Counter[str]:
        """Return how many users of a block have an error of each code."""
        return self._errors[key]

    def path(self, key: BlockKey) -> Path:
        return self._directory / f"{'-'.join(map(str, key))}.part"

    def draft(self, key: BlockKey) -> Path:
        """Return where to write a part that is not complete."""
        return self._directory / f"{key.first_row}-{self._run}.draft"

    def add(self, key: BlockKey, errors: Counter[str]) -> None:
        """Make the draft of a block a part."""
        self._errors[key] = errors
        if errors:
            replace_text(self.path(key).with_suffix(_ERRORS), json.dumps(errors))
        self.draft(key).rename(self.path(key))

    def remove(self) -> None:
        _clear(self._directory)
        self._directory.rmdir()


@contextmanager
def open_parts(directory: Path, state: dict[str, Any]) -> Iterator[PartsDirectory]:
    """Lock a directory, which is made if need be, and keep the parts in it if a run with an equal `state` wrote them.

    Raises BadBatch where the directory holds other files, or another run is at work.
    """
    path, text = directory / _STATE, json.dumps(state, separators=(",", ":"))  # of a path that is not UTF-8 too
    with ExitStack() as lock:
        _lock(directory, lock)
        foreign = sorted(path.name for path in directory.iterdir() if not _FILE_NAMES.fullmatch(path.name))
        if foreign:
            raise BadBatch(f"{directory}: is in the way, and holds {foreign[0]}, which is no part of a batch")
        if not (path.exists() and path.read_text() == text):
            _clear(directory)
            replace_text(path, text)
        for draft in directory.glob("*.draft"):
            draft.unlink()
        yield PartsDirectory(directory)


def _lock(directory: Path, lock: ExitStack) -> None:
    """Keep other runs out of the directory until the lock is closed or this process ends."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            directory.mkdir(exist_ok=True)
            found = directory.stat()
            lock.enter_context(locked(directory, EXCLUSIVE | AT_ONCE))
            if os.path.samestat(found, directory.stat()):
                return
        except (BlockingIOError, FileNotFoundError):
            pass  # Another run is at work in the directory, or is complete and has just removed it.
        except OSError as error:
            raise BadBatch(f"{directory}: cannot be used: {error}") from error
        lock.close()
        time.sleep(0.05)
    raise BadBatch(f"{directory}: another run is at work in it")


def _clear(directory: Path) -> None:
    """Remove the files of a batch; the state goes first, so that a half-cleared directory is not resumed."""
    for path in sorted(directory.iterdir(), key=lambda path: path.name != _STATE):
        if _FILE_NAMES.fullmatch(path.name):
            path.unlink()
