"""Answers to users: catalogue positions and scores, which know no JSON."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class Outcome(NamedTuple):
    """What is measured of an answer: its best score where it has a match, and `matched` where the user filters.

    `is_restricted` says whether the user wants any products left out.
    """

    best_score: float | None
    matched: int | None
    is_restricted: bool


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to one user: `best` from the highest score down, `worst` from the lowest up.

    `matched` is how many products the user's filter lets through, if there is one. `explain` is how it was found: the
    path, among how many products, how many candidates of each side were scored, and how many excluded ids are unknown.
    `is_restricted` says whether the user wants any products left out.
    """

    name: str
    best: Matches
    worst: Matches
    matched: int | None = field(default=None, kw_only=True)
    explain: dict[str, Any] | None = field(default=None, kw_only=True)
    is_restricted: bool = field(default=False, kw_only=True)

    @property
    def outcome(self) -> Outcome:
        best_score = float(self.best.scores[0]) if len(self.best.scores) else None
        return Outcome(best_score, self.matched, self.is_restricted)


Answer = Recommendation | FailedUser
