"""Tiered kinds of index: four-bit codes that go to the directions in which a catalogue varies most.

`Tiers32x1+64x2+128x4,IVF512` turns the vectors onto the 224 directions of greatest variance. The first 32 have a code
each, the next 64 share one between two, the last 128 one between four: 96 codes, which FAISS scans with SIMD look-ups.
The rows are kept in 512 lists, or in one where no lists are named.
"""

import math
import re
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BadIndexKind

PREFIX = "Tiers"
_KIND = re.compile(PREFIX + r"(\d{1,9}x\d{1,9}(?:\+\d{1,9}x\d{1,9})*)(?:,IVF(\d{1,9}))?", re.ASCII)
_DIRECTIONS_PER_CODE = (1, 2, 4)
_SEED = 3


@dataclass(frozen=True)
class Tier:
    """So many directions, of which each code holds `per_code`; the last code of a tier may hold fewer."""

    directions: int
    per_code: int

    @property
    def codes(self) -> int:
        return math.ceil(self.directions / self.per_code)


@dataclass(frozen=True)
class TieredKind:
    """A kind in the notation of this module; the first tier takes the directions of greatest variance."""

    tiers: tuple[Tier, ...]
    lists: int = 1

    def __str__(self) -> str:
        tiers = "+".join(f"{tier.directions}x{tier.per_code}" for tier in self.tiers)
        return f"{PREFIX}{tiers}" + (f",IVF{self.lists}" if self.lists > 1 else "")

    @property
    def directions(self) -> int:
        return sum(tier.directions for tier in self.tiers)

    @cached_property
    def directions_of_codes(self) -> list[int]:
        """How many directions each code holds, one after the other."""
        return [
            min(tier.per_code, tier.directions - start)
            for tier in self.tiers
            for start in range(0, tier.directions, tier.per_code)
        ]

    @cached_property
    def code_width(self) -> int:
        """The numbers that each code stands for; codes of fewer directions are filled up with zeros."""
        return max(self.directions_of_codes)

    def projection(self, axes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the matrix (codes * code_width, d) onto a kind's directions, given all axes (d, d), widest first.

        Each tier is turned at random, so that its codes carry a like share of its variance. There is no offset, so
        inner products keep their order but for what the directions left out add.
        """
        turned, start = [], 0
        for tier in self.tiers:
            turned.append(_turn(tier.directions) @ axes[start : start + tier.directions])
            start += tier.directions
        matrix = np.zeros((len(self.directions_of_codes), self.code_width, axes.shape[1]), np.float32)
        matrix[self.holds_direction] = np.concatenate(turned)
        return matrix.reshape(-1, axes.shape[1])

    @property
    def holds_direction(self) -> NDArray[np.bool_]:
        """Tell which of each code's numbers (codes, code_width) stand for a direction."""
        return np.arange(self.code_width) < np.array(self.directions_of_codes)[:, None]


@cache
def _turn(directions: int) -> NDArray[np.float32]:
    """Return a random rotation (directions, directions); kinds share those of one size, which take long to make."""
    draw = np.random.default_rng(_SEED)
    turn, _ = np.linalg.qr(draw.normal(size=(directions, directions)))
    return turn.astype(np.float32)


def parse_tiers(text: str, dimension: int) -> TieredKind:
    """Read a tiered kind. Raises BadIndexKind where it is none, or none for vectors of this dimension."""
    parts = _KIND.fullmatch(text)
    if parts is None:
        raise BadIndexKind("tiers are written as Tiers32x1+64x2+128x4 or Tiers64x1,IVF512")
    kind = TieredKind(
        tuple(Tier(*map(int, tier.split("x"))) for tier in parts[1].split("+")),
        1 if parts[2] is None else int(parts[2]),
    )
    for tier in kind.tiers:
        if tier.directions == 0 or tier.per_code not in _DIRECTIONS_PER_CODE:
            raise BadIndexKind(f"{tier.directions}x{tier.per_code} is no tier: 1, 2 or 4 directions share a code")
    if kind.directions > dimension:
        raise BadIndexKind(f"its tiers take {kind.directions} directions, but the vectors have {dimension}")
    if kind.lists == 0:
        raise BadIndexKind("IVF0 has no lists")
    return kind
