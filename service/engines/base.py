"""The contract every search engine keeps, and that of engines which also look products up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import orjson
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Matches:
    """One user's matches: `best` from the highest score down, `worst` from the lowest up.

    A match is the compact JSON object of a product's `id` and `name` and its `score`, in this order; the score is the
    cosine similarity to the user, within [-1, 1] and rounded to six decimals. Equal scores stand in catalogue order on
    both sides.
    """

    best: list[bytes]
    worst: list[bytes]


def encode_matches(heads: list[bytes], scores: NDArray[np.float64]) -> list[bytes]:
    """Matches from the products' JSON, left open after `id` and `name`, and a score (m,) for each."""
    numbers = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    tails = (b',"score":' + numbers.replace(b",", b'}\n,"score":') + b"}").split(b"\n")
    return [head + tail for head, tail in zip(heads, tails)]  # noqa: B905 (no heads still make one tail)


def encode_points(heads: list[bytes], points: NDArray[np.float32]) -> list[bytes]:
    """Products with their map points (m, 2), from their JSON, left open after `id` and `name`."""
    return [b'%b,"x":%.4f,"y":%.4f}' % (head, x, y) for head, (x, y) in zip(heads, points.tolist(), strict=True)]


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

    @property
    def concurrency(self) -> int:
        """How many searches at the same time are faster than one after the other."""
        ...

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> list[Matches]:
        """The k best and k worst products for each row of (n, d) float32 vectors of length 1.

        Each side has exactly k matches, or the whole catalogue where k is more. k is at least 1, n may be 0.
        """
        ...


@runtime_checkable
class Catalogue(Protocol):
    """Looks up products by name and id, and places vectors on a map. May be used from many threads at once.

    An engine that can do all of it is one; another is a `SearchEngine` alone.
    """

    @property
    def sample_users(self) -> list[dict[str, Any]]:
        """Users to try the engine with: `name`, `likes` and `vector` of each."""
        ...

    @property
    def landmarks(self) -> list[bytes]:
        """Some thousands of products spread over the catalogue: JSON objects of `id`, `name` and map point `x`, `y`."""
        ...

    def starting_with(self, prefix: str, limit: int) -> list[bytes]:
        """The first `limit` products, in the order of their names, whose names begin with the prefix in any case.

        A product is the JSON object of its `id` and `name`.
        """
        ...

    def unit_vectors_of(self, ids: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """The float32 vector (d,) of length 1 of each product, None for an id that no product has."""
        ...

    def place(self, unit_vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map points (n, 2), as x and y, of (n, d) vectors of length 1. Landmarks lie within [-1, 1]."""
        ...
