"""The work directory of a batch: the answers so far, in parts, each of which is there whole or not at all."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from service.errors import BadBatch
from service.offline.blocks import Place
from service.offline.outputs import sync

_STATE, _JOINED = "state.json", "joined"
_OURS = re.compile(r"(state\.json|joined|\d+\.draft|\d+-\d+-\d+-\d+\.part)(\.new)?")
_LOCK_SECONDS = 10.0  # workers of a killed run hold on to the directory until they have finished a part


@dataclass(frozen=True)
class Part:
    """A complete part: the answers to the users of one block, `failed` of whom have an error."""

    path: Path
    rows: int
    failed: int


class Parts:
    """The parts in a directory that nobody else uses. The name of a part says which users it answers."""

    def __init__(self, directory: Path, lock: int):
        self.directory, self.lock = directory, lock
        self._parts = dict(map(_read_name, directory.glob("*.part")))

    def find(self, place: Place) -> Part | None:
        return self._parts.get(place)

    def draft(self, place: Place) -> Path:
        """Where to write a part."""
        return self.directory / f"{place.number}.draft"

    def add(self, place: Place, failed: int) -> None:
        """Take the draft of a part for complete."""
        path = self.directory / f"{place.number}-{place.first}-{place.rows}-{failed}.part"
        self.draft(place).rename(path)
        self._parts[place] = Part(path, place.rows, failed)

    @property
    def joined(self) -> Path:
        """Where to write the whole."""
        return self.directory / _JOINED

    def remove(self) -> None:
        _clear(self.directory)
        self.directory.rmdir()


@contextmanager
def open_parts(directory: Path, state: dict[str, Any]) -> Iterator[Parts]:
    """The parts of a run with this `state`: what an earlier run with an equal one has left, or none.

    Raises BadBatch where the directory holds other files, or another run is at work.
    """
    lock = _lock(directory)
    try:
        foreign = sorted(path.name for path in directory.iterdir() if not _OURS.fullmatch(path.name))
        if foreign:
            raise BadBatch(f"{directory}: is in the way, and holds {foreign[0]}, which is no part of a batch")
        path = directory / _STATE
        if not (path.exists() and path.read_bytes() == orjson.dumps(state)):
            _clear(directory)
            draft = path.with_suffix(".json.new")
            draft.write_bytes(orjson.dumps(state))
            sync(draft)
            draft.rename(path)
        yield Parts(directory, lock)
    finally:
        os.close(lock)


def _lock(directory: Path) -> int:
    """A descriptor that keeps everyone else out of the directory, which is made if need be."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            directory.mkdir(exist_ok=True)
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise BadBatch(f"{directory}: cannot be used: {error}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), directory.stat()):
                return lock
        except (BlockingIOError, FileNotFoundError):  # in use; or just removed by a run that is complete
            pass
        os.close(lock)
        if time.monotonic() > until:
            raise BadBatch(f"{directory}: another run is at work in it")
        time.sleep(0.05)


def _clear(directory: Path) -> None:
    """Remove our files; the state goes first, so that what is left of a half-removed run is not taken up again."""
    for path in sorted(directory.iterdir(), key=lambda path: path.name != _STATE):
        if _OURS.fullmatch(path.name):
            path.unlink()


def _read_name(path: Path) -> tuple[Place, Part]:
    number, first, rows, failed = map(int, path.stem.split("-"))
    return Place(number, first, rows), Part(path, rows, failed)
