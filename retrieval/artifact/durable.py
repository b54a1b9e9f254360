"""Locks between processes, which end with them, and files and directories that survive a crash."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXCLUSIVE, SHARED, AT_ONCE = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB


@contextmanager
def locked(directory: Path, mode: int = EXCLUSIVE) -> Iterator[None]:
    """Keep a lock on a directory, wherever it is moved; it ends with the process at the latest.

    Raises OSError where there is no such directory, and, with AT_ONCE in the mode, where another process has a lock.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Replace a file atomically, by way of a scratch file beside it. Raises OSError, and leaves the file as it was."""
    scratch = path.with_name(f"{path.name}.new")
    try:
        scratch.write_text(text)
        fsync(scratch)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
