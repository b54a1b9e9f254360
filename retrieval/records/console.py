"""The words of a command line, and its messages, which take nothing back from what the command has done."""

import argparse
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_MAX_WAIT_MILLISECONDS = 2000


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make the standard streams fit to print any text to, whatever their encoding is and even if they are closed.

    A closed one is opened, here and for child processes, as the next file or socket would get its descriptor
    otherwise; printing to it still fails.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDONLY)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        yield
    finally:
        _print("", sys.stdout, end="")  # Otherwise Python complains at its end of what it could not print.


def print_result(text: str) -> None:
    """Print on stdout, or on stderr where stdout is closed, full or no longer read."""
    if not _print(text, sys.stdout):
        print_message(text)


def print_message(text: str) -> None:
    """Print on stderr, if it takes anything: a pipe that nobody reads stops no command."""
    taking = select.poll()
    with suppress(OSError):  # It is no file, and takes everything.
        taking.register(sys.stderr.fileno(), select.POLLOUT)
        if not taking.poll(_MAX_WAIT_MILLISECONDS):
            return
    _print(text, sys.stderr)


def readable(text: str) -> str:
    r"""Return a file's name, or an argument, with each byte that is not UTF-8 as an escape, such as `\xe1`."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def parse_share(text: str) -> float:
    """Return the share from 0 to 1 that an option is given, as a `type` of argparse. Raises its ArgumentTypeError."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return share


def parse_count(text: str) -> int:
    """Return the count, 1 at least, that an option is given, as a `type` of argparse. Raises its ArgumentTypeError."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return count


def _print(text: str, stream: TextIO, end: str = "\n") -> bool:
    """Print, and return whether the stream took it; one that did not is given no more."""
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True
