"""The piece of a users file that one worker process answers at a time."""

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """Where a block stands: its number, the position of its first user among all, and how many users it has."""

    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Block:
    """Some users in a row, and the `share` of the file read so far."""

    place: Place
    content: bytes
    share: float
