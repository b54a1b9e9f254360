"""The distributed engine: a build in a Milvus collection, found through an alias."""

import logging
import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.search.ranking import RANKING_ERROR, SPARE_NEIGHBOURS, UNITS, Neighbours, to_millionths
from service.engines.base import IndexInfo
from service.engines.milvus_cluster import (
    METRIC,
    POSITION,
    PREFIX,
    SEARCH_PARAMETERS,
    STORED,
    VECTOR,
    Cluster,
    build_id_of,
)
from service.errors import EngineUnavailable, TooLarge
from service.settings import MILVUS_MAX_MATCHES, MilvusSettings

_DEPTH_FACTOR = 4  # A search that was not deep enough is repeated with so many times the depth.
_MAX_VECTOR_BYTES_PER_ANSWER = 4 * 2**20  # One user's vectors may be more.
_MAX_CACHED_PREFIXES = 200_000

log = logging.getLogger(__name__)


def open_engine(settings: MilvusSettings) -> "MilvusEngine":
    """Connect, and serve what the alias names. Raises EngineUnavailable."""
    cluster = Cluster(settings)
    target = cluster.target()
    if not target:
        raise EngineUnavailable(f"{cluster.alias}: Milvus has no such alias; `python -m service publish` makes it")
    if not build_id_of(cluster.alias, target):
        problem = f"names the collection {target}, which `python -m service publish` has not made"
        raise EngineUnavailable(f"{cluster.alias}: {problem}")
    return MilvusEngine(cluster, target)


class MilvusEngine:
    """Serves one collection, which never changes. Where the alias has moved, `latest` gives the engine to serve next.

    An approximate index may find fewer products than requested; both sides are then padded.
    """

    concurrency = 4  # Searches take most of their time elsewhere.
    search_seconds = math.inf
    report: bytes | None = None

    def __init__(self, cluster: Cluster, collection: str):
        """Raises EngineUnavailable."""
        self._cluster, self._collection = cluster, collection
        self._load()
        fields = cluster.call("describe_collection", collection)["fields"]
        [self._dimension] = [int(field["params"]["dim"]) for field in fields if field["name"] == VECTOR]
        index = cluster.index_of(collection)
        self._products = cluster.count(collection)
        self._search_parameters = partial(SEARCH_PARAMETERS[index], self._products)
        self._prefixes: dict[int, bytes] = {}
        self.is_available = True
        build_id = build_id_of(cluster.alias, collection)
        self.info = IndexInfo(build_id, self._products, self._dimension, f"Milvus {index}", recall={})

    def latest(self) -> "MilvusEngine":
        """Return this engine, or one of the collection that the alias names by now; probes whether Milvus answers."""
        try:
            target = self._cluster.target()
            if target != self._collection and build_id_of(self._cluster.alias, target):
                return MilvusEngine(self._cluster, target)
            self._load()
            self.is_available = True
        except EngineUnavailable as error:
            if self.is_available:
                log.error("%s", error)
            self.is_available = False
        return self

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        """Raises EngineUnavailable, and TooLarge where k is more than Milvus finds at once."""
        k = min(k, self._products)
        if k > MILVUS_MAX_MATCHES:
            raise TooLarge(f"k and exclude ask for {k} matches, Milvus finds {MILVUS_MAX_MATCHES} at once")
        if not self.is_available:
            raise EngineUnavailable("Milvus did not answer when last asked")
        users = len(unit_vectors)
        queries = np.concatenate([unit_vectors, -unit_vectors])
        positions, scores = np.full((2 * users, k), -1, np.int64), np.zeros((2 * users, k))
        for i, (found, found_scores) in enumerate(self._nearest(queries, k, k + SPARE_NEIGHBOURS) if users else ()):
            positions[i, : len(found)], scores[i, : len(found)] = found, found_scores
        return Neighbours(positions[:users], scores[:users]), Neighbours(positions[users:], 0.0 - scores[users:])

    def prefixes(self, positions: NDArray[np.int64]) -> list[bytes]:
        """Return JSON prefixes, which searches have mostly brought along. Raises EngineUnavailable."""
        requested = positions.tolist()
        known = self._prefixes
        if missing := [position for position in requested if position not in known]:
            known = {**known, **{row[POSITION]: row[PREFIX].encode() for row in self._query(missing)}}
        return [known[position] for position in requested]

    def _load(self) -> None:
        """Load the collection unless it is loaded: some servers forget at a restart what was."""
        state = self._cluster.call("get_load_state", self._collection)["state"]
        if state.name != "Loaded":
            self._cluster.call("load_collection", self._collection)

    def _nearest(self, queries: NDArray[np.float32], k: int, depth: int) -> "list[_Ranked]":
        """Return the k nearest products of each query (n, d), from its `depth` nearest or, where needed, from more."""
        if depth >= self._products <= MILVUS_MAX_MATCHES:
            catalogue = self._hits(self._query(range(self._products)))
            return [_rank(catalogue, query, k) for query in queries]
        depth = min(depth, MILVUS_MAX_MATCHES)
        queries_at_once = max(1, _MAX_VECTOR_BYTES_PER_ANSWER // (4 * self._dimension * depth))
        ranked = []
        for start in range(0, len(queries), queries_at_once):
            ranked += self._search(queries[start : start + queries_at_once], k, depth)
        return ranked

    def _search(self, queries: NDArray[np.float32], k: int, depth: int) -> "list[_Ranked]":
        hits_of_queries = self._cluster.call(
            "search",
            self._collection,
            data=list(queries),
            anns_field=VECTOR,
            limit=depth,
            output_fields=STORED,
            search_params={"metric_type": METRIC, "params": self._search_parameters(depth)},
        )
        ranked = []
        for query, hits in zip(queries, hits_of_queries, strict=True):
            found = _rank(self._hits([hit["entity"] for hit in hits]), query, k)
            reach = hits[-1]["distance"] if len(hits) == depth else np.inf
            is_settled = len(found[0]) == k and found[1][-1] > reach + RANKING_ERROR
            if not is_settled and depth < MILVUS_MAX_MATCHES:
                [found] = self._nearest(query[None], k, _DEPTH_FACTOR * depth)
            ranked.append(found)
        return ranked

    def _query(self, positions: "range | list[int]") -> list[dict[str, Any]]:
        """Return the stored rows of products, some at a time."""
        rows_at_once = max(1, _MAX_VECTOR_BYTES_PER_ANSWER // (4 * self._dimension))
        rows: list[dict[str, Any]] = []
        for start in range(0, len(positions), rows_at_once):
            part = positions[start : start + rows_at_once]
            expression = f"{POSITION} in {[*part]}"
            rows += self._cluster.call("query", self._collection, filter=expression, output_fields=STORED)
        return rows

    def _hits(self, rows: list[dict[str, Any]]) -> "_Hits":
        if len(self._prefixes) + len(rows) > _MAX_CACHED_PREFIXES:
            self._prefixes = {}
        self._prefixes.update((row[POSITION], row[PREFIX].encode()) for row in rows)
        return np.array([row[POSITION] for row in rows], np.int64), np.array([row[VECTOR] for row in rows], np.float64)


_Hits = tuple[NDArray[np.int64], NDArray[np.float64]]  # positions and vectors of products as Milvus gave them
_Ranked = tuple[NDArray[np.int64], NDArray[np.float64]]  # positions and scores of the products nearest to one query


def _rank(hits: _Hits, query: NDArray[np.float32], k: int) -> _Ranked:
    """Return the k hits with the highest scores; equal ones in catalogue order."""
    positions, vectors = hits
    if not len(positions):
        return positions, np.empty(0)
    products = (vectors * query).sum(axis=1)  # Row by row: a matrix product rounds by the number of rows.
    millionths = to_millionths(products)
    order = np.lexsort((positions, -millionths))[:k]
    return positions[order], millionths[order] / UNITS
