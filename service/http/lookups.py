"""Looks up products by name and values by field, finds similar products, and projects them and users onto the map."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from marshmallow import Schema
from numpy.typing import NDArray

from retrieval.search.filters.language import Vocabulary, no_field_fault
from retrieval.search.filters.values import FieldValues
from retrieval.search.reranking.options import read_count, read_field_name
from retrieval.vectors import MAX_FAULTS, unit_vectors
from service.engines.base import Catalogue, FieldEngine
from service.errors import BadRequest, Fault, UnknownField
from service.http.requests.schemas import (
    Field,
    option_fields,
    read_by_fields,
    read_some_ids,
    read_text,
    read_user_vector,
    schema,
)
from service.recommender import Recommendation, Recommender, User
from service.settings import Limits

_DEFAULT_COMPLETIONS = 10
_MAX_CHARACTERS_SHOWN = 60
_MIN_MEAN_LENGTH = 1e-6  # A shorter mean of unit vectors is rounding error and nothing else.


@lru_cache(maxsize=1)
def request_schemas(dimension: int, limits: Limits, vocabulary: Vocabulary | None = None) -> dict[str, Schema]:
    """Return the schema of each request over products with these fields, by its name in the API document."""
    max_limit = limits.max_completions
    return {
        "ProductsQuery": schema(
            prefix=Field(read_text),
            contains=Field(read_text),
            limit=Field(partial(read_count, max_limit), load_default=min(_DEFAULT_COMPLETIONS, max_limit)),
        ),
        "FieldQuery": schema(
            contains=Field(read_text, load_default=""),
            limit=Field(partial(read_count, max_limit), load_default=min(_DEFAULT_COMPLETIONS, max_limit)),
        ),
        "MapQuery": schema(
            field=Field(partial(read_by_fields, vocabulary, "show fields; leave field out", read_field_name))
        ),
        "SimilarRequest": schema(
            ids=Field(partial(read_some_ids, 1, limits.max_ids), required=True),
            negative=Field(partial(read_some_ids, 0, limits.max_ids), load_default=()),
            **option_fields(limits, vocabulary),
        ),
        "MapRequest": schema(
            ids=Field(partial(read_some_ids, 0, limits.max_ids), load_default=()),
            vector=Field(partial(read_user_vector, dimension), load_default=None),
            likes=Field(partial(read_some_ids, 0, limits.max_ids), load_default=()),
        ),
    }


def similar(
    recommender: Recommender,
    ids: Sequence[str],
    negative: Sequence[str],
    k: int,
    exclude: frozenset[str],
    **options: Any,
) -> Recommendation:
    """Return the matches of the mean of the products' unit vectors, none in `ids`, `negative` or `exclude`.

    With `negative`, they are those of twice that mean less the mean of these. The further options are those of a
    `User`. An id given twice counts once. Raises BadRequest naming each id that is unknown or in both lists.
    """
    engine = recommender.field_engine
    if negative:
        _check_apart(ids, negative)
        liked, disliked = _vectors_of(engine, ids=ids, negative=negative)
        vector = 2 * _mean(ids, liked) - _mean(negative, disliked)
        _check_direction(vector, "/negative", "ids and negative cancel out, which has no direction")
    else:
        vector = _mean_vector(engine, ids, "ids")
    user = User(name="", k=k, exclude=exclude.union(ids, negative), **options)
    return recommender.recommend_one(user, vector)


def find_products(
    catalogue: Catalogue, limit: int, prefix: str | None = None, contains: str | None = None
) -> NDArray[np.int64]:
    """Return the first products whose names contain a text or else, where there is none, begin with the prefix."""
    if contains is not None:
        return catalogue.containing(contains, limit)
    if prefix is None:
        raise BadRequest([Fault("missing", "prefix is missing, and so is contains", "/prefix")])
    return catalogue.starting_with(prefix, limit)


def list_values(recommender: Recommender, name: str, contains: str, limit: int) -> FieldValues:
    """Return the values of a field that contain a text. Raises UnknownField, and BadRequest for one without texts."""
    catalogue, vocabulary = recommender.catalogue, recommender.field_engine.vocabulary
    facts = vocabulary.filterable.get(name)
    if facts is None:
        raise UnknownField(f"{name[:_MAX_CHARACTERS_SHOWN]!r} {no_field_fault(vocabulary, name, ()).detail}")
    if contains and facts.element != "keyword":
        detail = f"contains is about texts, and {name!r} is of type {facts.type}"
        raise BadRequest([Fault("type", detail, "/contains")])
    return catalogue.field_values(name, contains, limit)


def project(
    catalogue: Catalogue, ids: Sequence[str], vector: NDArray[np.float64] | None, likes: Sequence[str]
) -> dict[str, Any]:
    """Return the map points, as [x, y], of products, of a user's vector (d,), and of a user who likes some products.

    Those of the `vector` and the `likes` are null where there is none. Raises BadRequest naming each unknown id.
    """
    [products] = _vectors_of(catalogue, ids=ids)
    users = {"vector": vector, "likes": _mean_vector(catalogue, likes, "likes") if likes else None}
    points = {
        name: None if user is None else _points(catalogue, unit_vectors(user[None]))[0] for name, user in users.items()
    }
    return {"products": _points(catalogue, products), **points}


def _points(catalogue: Catalogue, vectors: NDArray[np.float32]) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in catalogue.project(vectors).tolist()] if len(vectors) else []


def _check_apart(ids: Sequence[str], negative: Sequence[str]) -> None:
    """Raise BadRequest naming each id in both lists."""
    known = frozenset(ids)
    faults = [
        Fault("value", f"negative element {i} is in ids too: {each[:_MAX_CHARACTERS_SHOWN]!r}", f"/negative/{i}")
        for i, each in enumerate(negative)
        if each in known
    ]
    if faults:
        raise BadRequest(faults[:MAX_FAULTS])


def _mean_vector(engine: FieldEngine, ids: Sequence[str], field: str) -> NDArray[np.float64]:
    [vectors] = _vectors_of(engine, **{field: ids})
    mean = _mean(ids, vectors)
    _check_direction(mean, f"/{field}", f"{field} are of products whose vectors cancel out, which leaves no direction")
    return mean


def _mean(ids: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean (d,) of the vectors (m, d) of products, each of which counts once."""
    distinct = dict(zip(ids, vectors, strict=True))
    mean: NDArray[np.float64] = np.mean([*distinct.values()], axis=0, dtype=np.float64)
    return mean


def _check_direction(vector: NDArray[np.float64], pointer: str, detail: str) -> None:
    """Raise BadRequest where the vectors of products, which add up to this one, cancel out."""
    if np.linalg.norm(vector) < _MIN_MEAN_LENGTH:
        raise BadRequest([Fault("vector_zero", detail, pointer)])


def _vectors_of(engine: FieldEngine, **ids_of_fields: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the unit vectors (m, d) of the products in each field; raises BadRequest naming each unknown id."""
    found = {field: engine.positions_of(ids) for field, ids in ids_of_fields.items()}
    faults = [
        Fault("unknown_id", f"{field} element {i} is the id of no product: {each[:_MAX_CHARACTERS_SHOWN]!r}", pointer)
        for field, ids in ids_of_fields.items()
        for i, each in enumerate(ids)
        if found[field][i] < 0 and (pointer := f"/{field}/{i}")
    ]
    if faults:
        raise BadRequest(faults[:MAX_FAULTS])
    return [engine.vectors_of(positions) for positions in found.values()]
