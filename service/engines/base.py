"""The contract every search engine keeps."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Match:
    """A product and its cosine similarity to the user, rounded to six decimals and within [-1, 1]."""

    id: str
    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Matches:
    """One user's matches: `best` from the highest score down, `worst` from the lowest up.

    Equal scores stand in catalogue order on both sides.
    """

    best: list[Match]
    worst: list[Match]


@dataclass(frozen=True)
class IndexInfo:
    """What an engine serves; `recall` is the share of exact matches found on each side, as the builder measured it."""

    build_id: str
    products: int
    dimension: int
    index: str
    recall: dict[str, Any]


class SearchEngine(Protocol):
    """Finds the products nearest to and farthest from users.

    An engine may be used from many threads at once. Its answer for a user does not depend on the other users of the
    call, and holds each product at most once on a side.
    """

    @property
    def info(self) -> IndexInfo: ...

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> list[Matches]:
        """The k best and k worst products for each row of (n, d) float32 vectors of length 1.

        Each side has exactly k matches, or the whole catalogue where k is more. k is at least 1, n may be 0.
        """
        ...
