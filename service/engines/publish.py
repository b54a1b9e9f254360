"""Publishes the current build to Milvus: `python -m service publish`."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.artifact.golden import Answers
from retrieval.artifact.store import Build, open_current
from retrieval.errors import BadArtifact
from service.engines.export import check_golden, product_blocks
from service.engines.milvus_engine import LONGEST_HEAD, Cluster, MilvusEngine, build_id_of, collection_of
from service.errors import CannotPublish, EngineUnavailable
from service.settings import MILVUS_INDEXES, MilvusSettings

_MOST_BYTES_AT_ONCE = 8 * 2**20  # of vectors in one request
_MOST_PRODUCTS_AT_ONCE = 5_000


@dataclass(frozen=True)
class Layout:
    """How Milvus keeps a collection: the kind of index, and over how many shards and replicas it is spread."""

    index: str = MILVUS_INDEXES[0]
    shards: int = 1
    replicas: int = 1


def publish(artifacts: Path, settings: MilvusSettings, layout: Layout) -> str:
    """Load the current build into a collection of its own, check it, and point the alias to it; says what was done.

    The collection that the alias named before stays, and those of older builds go. Raises BadArtifact, CannotPublish or
    EngineUnavailable; the alias then names what it did before, and the new collection is dropped.
    """
    build = open_current(artifacts)
    cluster = Cluster(settings)
    collection, before = collection_of(settings.alias, build.id), cluster.target()
    if before == collection:
        _check_same_index(cluster, collection, layout)
        _verify(cluster, collection, build)
        return f"nothing to do: {settings.alias} names {collection} already, and it is complete"
    cluster.drop(collection)  # what a publish that was killed has left
    try:
        _load(cluster, collection, build, layout)
        _verify(cluster, collection, build)
        cluster.call("alter_alias" if before else "create_alias", collection, settings.alias)
    except BaseException:
        with suppress(EngineUnavailable):
            if cluster.target() != collection:
                cluster.drop(collection)
        raise
    _drop_others(cluster, {collection, before})
    return f"published   {collection}: {len(build.products):,} products, {layout.index}, named by {settings.alias}"


def _load(cluster: Cluster, collection: str, build: Build, layout: Layout) -> None:
    dimension = build.index.dimension
    at_once = max(1, min(_MOST_PRODUCTS_AT_ONCE, _MOST_BYTES_AT_ONCE // (4 * dimension)))
    cluster.create(collection, dimension, layout.shards)
    for first, heads, vectors in product_blocks(build, at_once):
        _check_heads(first, heads)
        cluster.insert(collection, first, heads, vectors)
    cluster.make_searchable(collection, len(build.products), layout.index, layout.replicas)


def _check_heads(first: int, heads: list[bytes]) -> None:
    for position, head in enumerate(heads, first):
        if len(head) > LONGEST_HEAD:
            number = position + 1
            raise CannotPublish(f"product {number}: id and name take {len(head)} bytes, Milvus keeps {LONGEST_HEAD}")


def _verify(cluster: Cluster, collection: str, build: Build) -> None:
    engine = MilvusEngine(cluster, collection)
    if engine.info.products != len(build.products):
        raise CannotPublish(f"{collection}: holds {engine.info.products:,} products, the build {len(build.products):,}")

    def search(unit_vectors: NDArray[np.float32], k: int) -> tuple[Answers, Answers]:
        found = engine.search(unit_vectors, k)
        return [_scores(user.best) for user in found], [_scores(user.worst) for user in found]

    try:
        check_golden(build, collection, search)
    except BadArtifact as error:
        raise CannotPublish(str(error)) from None


def _scores(matches: list[bytes]) -> dict[str, float]:
    return {match["id"]: match["score"] for match in map(orjson.loads, matches)}


def _check_same_index(cluster: Cluster, collection: str, layout: Layout) -> None:
    index = cluster.index_of(collection)
    if index != layout.index:
        raise CannotPublish(
            f"{collection}: is in use with the index {index}; build again to publish it as {layout.index}"
        )


def _drop_others(cluster: Cluster, kept: set[str]) -> None:
    for collection in cluster.call("list_collections"):
        if collection not in kept and build_id_of(cluster.alias, collection):
            cluster.drop(collection)
