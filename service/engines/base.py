"""The contract every search engine keeps."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Matches:
    """One user's matches: `best` from the highest score down, `worst` from the lowest up.

    A match is the JSON object of a product's `id` and `name` and its `score`, the cosine similarity to the user, within
    [-1, 1] and rounded to six decimals. Equal scores stand in catalogue order on both sides.
    """

    best: list[bytes]
    worst: list[bytes]


def encode_matches(heads: list[bytes], scores: NDArray[np.float64]) -> list[bytes]:
    """Matches from the products' JSON, left open after `id` and `name`, and a score (m,) for each."""
    numbers = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    tails = (b',"score":' + numbers.replace(b",", b'}\n,"score":') + b"}").split(b"\n")
    return [head + tail for head, tail in zip(heads, tails)]  # noqa: B905 (no heads still make one tail)


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

    @property
    def is_available(self) -> bool:
        """Whether searches could be answered when last found out; says so at once."""
        ...

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> list[Matches]:
        """The k best and k worst products for each row of (n, d) float32 vectors of length 1.

        Each side has exactly k matches, or the whole catalogue where k is more. k is at least 1, n may be 0.
        """
        ...
