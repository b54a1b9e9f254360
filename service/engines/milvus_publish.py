"""Publishes the current build to Milvus: `python -m service publish`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tqdm import tqdm

from retrieval.artifact import golden
from retrieval.artifact.build import Build
from retrieval.artifact.fields.writer import members
from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from retrieval.search.filters.tree import Exists
from retrieval.vectors import MIN_DIMENSION
from service.engines.milvus_cluster import (
    ABOUT,
    FURTHER,
    ID,
    MAX_VARCHAR_BYTES,
    POSITION,
    PREFIX,
    VECTOR,
    Cluster,
    Column,
    build_id_of,
    collection_of,
)
from service.engines.milvus_engine import MilvusEngine
from service.engines.milvus_fields import CollectionFields, fields_of_build
from service.errors import CannotPublish, EngineUnavailable
from service.settings import MILVUS_INDEXES, MilvusSettings

_MAX_VECTOR_BYTES_PER_INSERT = 8 * 2**20
_MAX_PRODUCTS_PER_INSERT = 5_000
_MAX_CHARACTERS_PER_INSERT = 4 * 2**20  # of the products' own JSON; a value of a field takes about as much again


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
        engine = _verify(cluster, collection, build)
        done = f"nothing to do: {settings.alias} names {collection} already, and it is complete"
        return "\n".join([done, *_limits_of(engine)])
    cluster.drop(collection)  # A publish that was killed may have left it.
    try:
        _load(cluster, collection, build, layout)
        engine = _verify(cluster, collection, build)
        cluster.call("alter_alias" if before else "create_alias", collection, settings.alias)
    except BaseException:
        with suppress(EngineUnavailable):
            if cluster.target() != collection:
                cluster.drop(collection)
        raise
    done = f"published   {collection}: {len(build.products):,} products, {layout.index}, named by {settings.alias}"
    lines = [done, *_limits_of(engine)]
    try:
        _drop_others(cluster, {collection, before})
    except EngineUnavailable as error:
        lines.append(f"older collections are dropped by the next publish: {error}")
    return "\n".join(lines)


def _load(cluster: Cluster, collection: str, build: Build, layout: Layout) -> None:
    """Insert all products in catalogue order and build the index. Raises CannotPublish or EngineUnavailable."""
    dimension = build.index.dimension
    size = max(1, min(_MAX_PRODUCTS_PER_INSERT, _MAX_VECTOR_BYTES_PER_INSERT // (4 * dimension)))
    fields = _create(cluster, collection, dimension, layout.shards, fields_of_build(build))
    about = _parts_of_about(fields, len(build.products))
    for first, lines, prefixes, vectors in product_blocks(build, size):
        products = zip(range(first, first + len(lines)), lines, prefixes, vectors, strict=True)
        rows = (_row(fields, *product) for product in products)
        for some in _group_rows({**row, ABOUT: about.get(row[POSITION], "")} for row in rows):
            cluster.insert(collection, some)
    cluster.make_searchable(collection, len(build.products), layout.index, layout.replicas, fields.schema)


def _create(
    cluster: Cluster, collection: str, dimension: int, shards: int, fields: CollectionFields
) -> CollectionFields:
    """Make a collection, and return the fields that it has columns for: of those given, those that Milvus takes."""
    try:
        cluster.create(collection, dimension, shards, fields.schema)
        return fields
    except EngineUnavailable:
        examples = {(each.type, each.is_list): each for each in fields.columns.values()}
        refused = {key for key, each in examples.items() if not _is_taken(cluster, collection, each.schema)}
        if not refused:
            raise
    fields = fields.without_types(refused)
    cluster.create(collection, dimension, shards, fields.schema)
    return fields


def _is_taken(cluster: Cluster, collection: str, columns: Sequence[Column]) -> bool:
    """Tell whether Milvus makes a collection with some columns; it is dropped again."""
    try:
        cluster.create(collection, MIN_DIMENSION, 1, columns)
    except EngineUnavailable:
        return False
    cluster.drop(collection)
    return True


def _parts_of_about(fields: CollectionFields, products: int) -> dict[int, str]:
    """Return the text about the fields in parts, which products keep, by their positions. Raises CannotPublish."""
    text = fields.to_json()
    parts = [text[start : start + MAX_VARCHAR_BYTES] for start in range(0, len(text), MAX_VARCHAR_BYTES)]
    if len(parts) > products:
        raise CannotPublish(f"the names of fields take {len(text)} bytes, Milvus keeps {products * MAX_VARCHAR_BYTES}")
    return dict(enumerate(parts))


def _row(
    fields: CollectionFields, position: int, line: bytes, prefix: bytes, vector: NDArray[np.float32]
) -> dict[str, Any]:
    """Return what Milvus keeps of a product. Raises CannotPublish where it does not keep the name."""
    if len(prefix) > MAX_VARCHAR_BYTES:
        problem = f"id and name take {len(prefix)} bytes, Milvus keeps {MAX_VARCHAR_BYTES}"
        raise CannotPublish(f"product {position + 1}: {problem}")
    product: dict[str, Any] = orjson.loads(line)
    row = {POSITION: position, ID: product.pop("id"), PREFIX: prefix.decode(), VECTOR: vector}
    del product["name"]
    row[FURTHER] = "" if fields.unshown else line[len(prefix) :].decode()
    row |= fields.row_of_none
    for path, value in members(product):
        if columns := fields.columns.get(".".join(path)):
            row |= columns.row(value)
    return row


def _group_rows(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield rows in groups that one request may bring."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row[PREFIX]) + len(row[FURTHER])
        if size >= _MAX_CHARACTERS_PER_INSERT:
            yield group
            group, size = [], 0
    if group:
        yield group


def product_blocks(build: Build, size: int) -> Iterator[tuple[int, list[bytes], list[bytes], NDArray[np.float32]]]:
    """Yield all products in catalogue order, `size` at a time.

    Of each part, it yields the number of its first product, the products' JSON, its prefixes, and unit vectors (n, d).
    """
    positions = build.products.standing()
    for start in tqdm(range(0, len(positions), size), desc="products", disable=None, leave=False):
        part = positions[start : start + size]
        lines = [build.products.line(position) for position in part.tolist()]
        yield start, lines, build.products.prefixes(part), build.vectors(part)


def _verify(cluster: Cluster, collection: str, build: Build) -> MilvusEngine:
    """Count products, also those with a value of each field, and replay the build's golden queries.

    Returns an engine on the collection. Raises CannotPublish.
    """
    engine = MilvusEngine(cluster, collection)
    if engine.info.products != len(build.products):
        raise CannotPublish(f"{collection}: holds {engine.info.products:,} products, the build {len(build.products):,}")
    no_users = np.empty((0, engine.info.dimension), np.float32)
    for name in [field["name"] for field in engine.info.filterable]:
        _, _, found = engine.search_matching(no_users, 1, Exists(name))
        expected = build.filters.mask(Exists(name)).matched
        if found != expected:
            raise CannotPublish(f"{collection}: {found:,} products have a value of {name}, in the build {expected:,}")
    try:
        golden.replay(build.manifest.golden_queries, engine.search, engine.prefixes, f"{collection}, {{side}} side")
    except BadArtifact as error:
        raise CannotPublish(str(error)) from error
    return engine


def _limits_of(engine: MilvusEngine) -> list[str]:
    """Return a line for all that an engine answers with 501 although the build has it."""
    vocabulary = engine.vocabulary
    lines = [f"left out    filters by {name}: {reason}" for name, reason in vocabulary.unsupported.items()]
    return [*lines, f"left out    fields of matches: {vocabulary.unshown}"] if vocabulary.unshown else lines


def _drop_others(cluster: Cluster, kept: set[str]) -> None:
    for collection in cluster.call("list_collections"):
        if collection not in kept and build_id_of(cluster.alias, collection):
            cluster.drop(collection)
