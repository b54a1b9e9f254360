"""Answers to users: catalogue positions and scores, which know no JSON."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.shown_fields import ShownFields
from service.errors import FailedUser


@dataclass(frozen=True, slots=True)
class Matches:
    """One side of an answer, in its order: catalogue positions (m,), and cosine scores (m,) rounded to six decimals.

    `fields` are those of each match that the user wants to see, if any.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    fields: ShownFields | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one user: `best` from the highest score down, `worst` from the lowest up.

    `matched` is how many products the user's filter lets through, if there is one. `explain` is how it was found: the
    path, among how many products, how many candidates of each side were scored, and how many excluded ids are unknown.
    """

    name: str
    best: Matches
    worst: Matches
    matched: int | None = field(default=None, kw_only=True)
    explain: dict[str, Any] | None = field(default=None, kw_only=True)


Answer = Recommendation | FailedUser
