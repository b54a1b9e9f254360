"""Look products up by name, find similar ones, and project products and users onto the map; what each request is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from marshmallow import EXCLUDE, Schema, fields
from numpy.typing import NDArray

from retrieval.vectors import unit_vectors
from service.engines.base import Catalogue
from service.errors import BadRequest, Fault
from service.http import payload
from service.http.schemas import Count, Ids, OrderedIds, Text, Vector, load
from service.recommender import Recommendation, Recommender, User
from service.settings import Limits

_DEFAULT_COMPLETIONS = 10
_MAX_FAULTS, _MAX_CHARACTERS_SHOWN = 20, 60
_MIN_MEAN_LENGTH = 1e-6  # A shorter mean of unit vectors is rounding error and nothing else.


@dataclass(frozen=True, slots=True)
class ProductsQuery:
    """The first `limit` products whose names begin with `prefix`."""

    prefix: str
    limit: int


@dataclass(frozen=True, slots=True)
class SimilarRequest:
    """Ids of products to find similar ones to; `k` matches a side, none of them in `ids` or `exclude`."""

    ids: tuple[str, ...]
    k: int
    exclude: frozenset[str]


@dataclass(frozen=True, slots=True)
class MapRequest:
    """What to project: products, a user's vector (d,), and a user who likes some products."""

    ids: tuple[str, ...]
    vector: NDArray[np.float64] | None
    likes: tuple[str, ...]


@cache
def products_schema(limits: Limits) -> Schema:
    most = limits.max_completions
    limit = Count(most, load_default=min(_DEFAULT_COMPLETIONS, most))
    return _schema("ProductsQuery", prefix=Text(required=True), limit=limit)


@cache
def similar_schema(limits: Limits) -> Schema:
    return _schema(
        "SimilarRequest",
        ids=OrderedIds(1, limits.max_ids, required=True),
        k=Count(limits.max_k, load_default=limits.default_k),
        exclude=Ids(load_default=frozenset),
    )


@cache
def map_schema(dimension: int, limits: Limits) -> Schema:
    return _schema(
        "MapRequest",
        ids=OrderedIds(0, limits.max_ids, load_default=()),
        vector=Vector(dimension, load_default=None),
        likes=OrderedIds(0, limits.max_ids, load_default=()),
    )


def read_products_query(arguments: Mapping[str, str], limits: Limits) -> ProductsQuery:
    """The query in a URL's arguments, whose values are texts. Raises BadRequest with every fault."""
    limit = arguments.get("limit", "")
    number = {"limit": int(limit)} if limit.isascii() and limit.isdigit() and len(limit) < 19 else {}
    return ProductsQuery(**load(products_schema(limits), {**arguments, **number}, "a query"))


def read_similar_request(body: bytes, limits: Limits) -> SimilarRequest:
    """The request in a body. Raises BadBody, or BadRequest with every fault."""
    return SimilarRequest(**load(similar_schema(limits), payload.read_json(body), "the body"))


def read_map_request(body: bytes, dimension: int, limits: Limits) -> MapRequest:
    """The request in a body. Raises BadBody, or BadRequest with every fault."""
    return MapRequest(**load(map_schema(dimension, limits), payload.read_json(body), "the body"))


def similar(recommender: Recommender, query: SimilarRequest) -> Recommendation:
    """The matches of the mean of the products' unit vectors; a product named twice counts once.

    Raises BadRequest naming each unknown id.
    """
    mean = _mean_vector(recommender.catalogue, query.ids, "ids")
    user = User("", mean, query.k, query.exclude.union(query.ids))
    return recommender.recommend([user], here=True)[0]


def project(catalogue: Catalogue, query: MapRequest) -> dict[str, Any]:
    """The map points, as [x, y], of each of the `products`, of the `vector` and of the `likes`, which may be null.

    Raises BadRequest naming each unknown id.
    """
    products = _vectors_of(catalogue, query.ids, "ids")
    liked = _mean_vector(catalogue, query.likes, "likes") if query.likes else None
    return {
        "products": _points(catalogue, products),
        "vector": _point(catalogue, query.vector),
        "likes": _point(catalogue, liked),
    }


def _schema(name: str, **shape: fields.Field) -> Schema:
    return Schema.from_dict(shape, name=name)(unknown=EXCLUDE)


def _points(catalogue: Catalogue, vectors: NDArray[np.float32]) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in catalogue.place(vectors).tolist()] if len(vectors) else []


def _point(catalogue: Catalogue, vector: NDArray[np.float64] | None) -> list[float] | None:
    return None if vector is None else _points(catalogue, unit_vectors(vector[None]))[0]


def _mean_vector(catalogue: Catalogue, ids: Sequence[str], field: str) -> NDArray[np.float64]:
    vectors = dict(zip(ids, _vectors_of(catalogue, ids, field), strict=True))
    mean: NDArray[np.float64] = np.mean([*vectors.values()], axis=0, dtype=np.float64)
    if np.linalg.norm(mean) < _MIN_MEAN_LENGTH:
        detail = f"{field} are of products whose vectors cancel out, which leaves no direction"
        raise BadRequest([Fault("vector_zero", detail, f"/{field}")])
    return mean


def _vectors_of(catalogue: Catalogue, ids: Sequence[str], field: str) -> NDArray[np.float32]:
    """The unit vectors (m, d) of products; raises BadRequest naming each unknown id."""
    vectors = catalogue.unit_vectors_of(ids)
    unknown = [position for position, vector in enumerate(vectors) if vector is None]
    if unknown:
        raise BadRequest([_unknown_id(field, position, ids[position]) for position in unknown[:_MAX_FAULTS]])
    return np.array(vectors, np.float32)


def _unknown_id(field: str, position: int, product_id: str) -> Fault:
    detail = f"{field} element {position} is the id of no product: {product_id[:_MAX_CHARACTERS_SHOWN]!r}"
    return Fault("unknown_id", detail, f"/{field}/{position}")
