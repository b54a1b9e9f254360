"""The use case of the explorer: products like those that somebody likes, and places on the map. Knows no HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.vectors import unit_vectors
from service.engines.base import Catalogue
from service.errors import BadRequest, Fault
from service.recommender import Recommendation, Recommender, User

_MOST_FAULTS, _MOST_SHOWN = 20, 60
_NO_DIRECTION = 1e-6  # length of a mean of unit vectors that is rounding error and nothing else


@dataclass(frozen=True, slots=True)
class Prefix:
    """How a product's name begins, and how many products are wanted."""

    prefix: str
    limit: int


@dataclass(frozen=True, slots=True)
class Likes:
    """Ids of products to find similar ones to; `k` matches a side, none of them in `ids` or `exclude`."""

    ids: tuple[str, ...]
    k: int
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Places:
    """What to place on the map: products, a user's vector (d,), and a user who likes some products."""

    ids: tuple[str, ...] = ()
    vector: NDArray[np.float64] | None = None
    likes: tuple[str, ...] = ()


def similar(recommender: Recommender, likes: Likes) -> Recommendation:
    """The matches of a user whose vector is the mean of the liked products' unit vectors; one named twice counts once.

    Raises BadRequest naming each unknown id.
    """
    taste = _mean(recommender.catalogue, likes.ids, "ids")
    user = User("", likes.k, likes.exclude.union(likes.ids))
    return recommender.recommend_one(user, taste)


def places(catalogue: Catalogue, wanted: Places) -> dict[str, object]:
    """The map points, as [x, y], of each of the `products`, of the `vector` and of the `likes`, which may be null.

    Raises BadRequest naming each unknown id.
    """
    products = _known(catalogue, wanted.ids, "ids")
    users: dict[str, NDArray[np.float64] | None] = {
        "vector": wanted.vector,
        "likes": _mean(catalogue, wanted.likes, "likes") if wanted.likes else None,
    }
    points = {
        name: None if user is None else _points(catalogue, unit_vectors(user[None]))[0] for name, user in users.items()
    }
    return {"products": _points(catalogue, products), **points}


def _points(catalogue: Catalogue, vectors: NDArray[np.float32]) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in catalogue.project(vectors).tolist()] if len(vectors) else []


def _mean(catalogue: Catalogue, ids: Sequence[str], field: str) -> NDArray[np.float64]:
    vectors = dict(zip(ids, _known(catalogue, ids, field), strict=True))
    mean: NDArray[np.float64] = np.mean([*vectors.values()], axis=0, dtype=np.float64)
    if np.linalg.norm(mean) < _NO_DIRECTION:
        detail = f"{field} are of products whose vectors cancel out, which leaves no direction"
        raise BadRequest([Fault("vector_zero", detail, f"/{field}")])
    return mean


def _known(catalogue: Catalogue, ids: Sequence[str], field: str) -> NDArray[np.float32]:
    """The unit vectors (m, d) of products; raises BadRequest naming each unknown id."""
    vectors = catalogue.unit_vectors_of(ids)
    unknown = [i for i, vector in enumerate(vectors) if vector is None]
    if unknown:
        raise BadRequest([_unknown(field, i, ids[i]) for i in unknown[:_MOST_FAULTS]])
    return np.array(vectors, np.float32)


def _unknown(field: str, place: int, identifier: str) -> Fault:
    detail = f"{field} element {place} is the id of no product: {identifier[:_MOST_SHOWN]!r}"
    return Fault("unknown_id", detail, f"/{field}/{place}")
