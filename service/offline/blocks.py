"""The pieces of a users file that worker processes answer."""

from dataclasses import dataclass
from typing import NamedTuple


class BlockKey(NamedTuple):
    """A block's number, the row of its first user in the whole file, and its count of users."""

    number: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class Block:
    """The bytes of some consecutive users; `share` is the part of the file read so far, from 0 to 1."""

    key: BlockKey
    content: bytes
    share: float
