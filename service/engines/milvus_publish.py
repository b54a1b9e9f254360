"""Publishes the current build to Milvus: `python -m service publish`."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from retrieval.artifact import golden
from retrieval.artifact.build import Build
from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from service.engines.milvus_cluster import MAX_PREFIX_BYTES, Cluster, build_id_of, collection_of
from service.engines.milvus_engine import MilvusEngine
from service.errors import CannotPublish, EngineUnavailable
from service.settings import MILVUS_INDEXES, MilvusSettings

_MAX_VECTOR_BYTES_PER_INSERT = 8 * 2**20
_MAX_PRODUCTS_PER_INSERT = 5_000


@dataclass(frozen=True)
class Layout:
    """How Milvus keeps a collection: the kind of index, and over how many shards and replicas it is spread."""

    index: str = MILVUS_INDEXES[0]
    shards: int = 1
    replicas: int = 1


def publish(artifacts: Path, settings: MilvusSettings, layout: Layout) -> str:
    """Load the current build into a collection of its own, check it, and point the alias to it; return what was done.

    The collection that the alias named before stays, and those of older builds go. Raises BadArtifact, CannotPublish or
    EngineUnavailable; the alias then names what it did before, and the new collection is dropped.
    """
    build = open_current(artifacts)
    cluster = Cluster(settings)
    collection, before = collection_of(settings.alias, build.id), cluster.target()
    if before == collection:
        if (index := cluster.index_of(collection)) != layout.index:
            problem = f"is in use with the index {index}; build again to publish it as {layout.index}"
            raise CannotPublish(f"{collection}: {problem}")
        _verify(cluster, collection, build)
        return f"nothing to do: {settings.alias} names {collection} already, and it is complete"
    cluster.drop(collection)  # A publish that was killed may have left it.
    try:
        _load(cluster, collection, build, layout)
        _verify(cluster, collection, build)
        cluster.call("alter_alias" if before else "create_alias", collection, settings.alias)
    except BaseException:
        with suppress(EngineUnavailable):
            if cluster.target() != collection:
                cluster.drop(collection)
        raise
    done = f"published   {collection}: {len(build.products):,} products, {layout.index}, named by {settings.alias}"
    try:
        _drop_others(cluster, {collection, before})
    except EngineUnavailable as error:
        return f"{done}\nolder collections are dropped by the next publish: {error}"
    return done


def _load(cluster: Cluster, collection: str, build: Build, layout: Layout) -> None:
    """Insert all products in catalogue order and build the index. Raises CannotPublish or EngineUnavailable."""
    dimension = build.index.dimension
    size = max(1, min(_MAX_PRODUCTS_PER_INSERT, _MAX_VECTOR_BYTES_PER_INSERT // (4 * dimension)))
    cluster.create(collection, dimension, layout.shards)
    for first, prefixes, vectors in product_blocks(build, size):
        for number, prefix in enumerate(prefixes, first + 1):
            if len(prefix) > MAX_PREFIX_BYTES:
                problem = f"id and name take {len(prefix)} bytes, Milvus keeps {MAX_PREFIX_BYTES}"
                raise CannotPublish(f"product {number}: {problem}")
        cluster.insert(collection, first, prefixes, vectors)
    cluster.make_searchable(collection, len(build.products), layout.index, layout.replicas)


def product_blocks(build: Build, size: int) -> Iterator[tuple[int, list[bytes], NDArray[np.float32]]]:
    """Yield all products in catalogue order, `size` at a time: first position, JSON prefixes, unit vectors (n, d)."""
    positions = build.products.standing()
    for start in tqdm(range(0, len(positions), size), desc="products", disable=None, leave=False):
        part = positions[start : start + size]
        yield start, build.products.prefixes(part), build.vectors(part)


def _verify(cluster: Cluster, collection: str, build: Build) -> None:
    """Replay the build's golden queries in the collection. Raises CannotPublish."""
    engine = MilvusEngine(cluster, collection)
    if engine.info.products != len(build.products):
        raise CannotPublish(f"{collection}: holds {engine.info.products:,} products, the build {len(build.products):,}")
    try:
        golden.replay(build.manifest.golden_queries, engine.search, engine.prefixes, f"{collection}, {{side}} side")
    except BadArtifact as error:
        raise CannotPublish(str(error)) from error


def _drop_others(cluster: Cluster, kept: set[str]) -> None:
    for collection in cluster.call("list_collections"):
        if collection not in kept and build_id_of(cluster.alias, collection):
            cluster.drop(collection)
