"""The distributed engine: a build in a Milvus collection, found through an alias."""

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from service.engines.base import IndexInfo, Matches, encode_matches
from service.errors import EngineUnavailable, TooLarge
from service.settings import MILVUS_MOST_MATCHES, MilvusSettings

METRIC = "IP"  # of unit vectors: the cosine
POSITION, HEAD, VECTOR = "position", "head", "vector"  # a product's catalogue position, its open JSON, its unit vector
LONGEST_HEAD = 65_535  # bytes that Milvus keeps of a string
_CONNECT_SECONDS = 10.0

# Milvus's scores differ in the seventh decimal with the number of queries. So a search fetches a few products more than
# asked with their vectors, every score is then computed product by product, and where the products left out could still
# tie with the last one asked for, it fetches more.
_SPARE_PRODUCTS = 6
_RANKING_ERROR = 2e-6
_DEEPER = 4  # times the depth, where it was not enough
_MOST_BYTES_AT_ONCE = 4 * 2**20  # of vectors in one answer of Milvus, unless one user's are more
_UNITS = 10**6  # scores are compared and reported in millionths


@dataclass(frozen=True)
class IndexKind:
    """How Milvus builds an index over so many products, and how hard it searches one for the `depth` nearest."""

    parameters: Callable[[int], dict[str, int]] = lambda products: {}
    effort: Callable[[int, int], dict[str, int]] = lambda products, depth: {}


def _lists(products: int) -> int:
    return min(65_536, max(1, round(4 * math.sqrt(products))))


# The worst side's products lie far from the query and from each other: finding them takes several times the effort that
# is usual for the best side.
INDEXES = {
    "FLAT": IndexKind(),
    "HNSW": IndexKind(
        lambda products: {"M": 32, "efConstruction": 400}, lambda products, depth: {"ef": max(2048, 4 * depth)}
    ),
    "IVF_FLAT": IndexKind(
        lambda products: {"nlist": _lists(products)}, lambda products, depth: {"nprobe": -(-_lists(products) // 3)}
    ),
}


def collection_of(alias: str, build_id: str) -> str:
    """The collection's name for a build: Milvus takes letters, digits and underscores."""
    return f"{alias}_{re.sub('[^0-9A-Za-z]', '_', build_id)}"


def build_id_of(alias: str, collection: str) -> str:
    """The build id in a collection's name, or "" where the name was not made by `collection_of`."""
    found = re.fullmatch(rf"{alias}_(\d{{8}}T\d{{6}})_(\d{{6}}Z)_([0-9a-f]{{8}})", collection)
    return f"{found[1]}.{found[2]}-{found[3]}" if found else ""


class Cluster:
    """A connection to Milvus. What it refuses, or does not answer within `timeout` seconds, is EngineUnavailable."""

    def __init__(self, settings: MilvusSettings):
        self.alias, self._timeout = settings.alias, settings.timeout
        self._address = settings.uri.rpartition("@")[2]  # a user and password may stand before it
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs the errors that it raises, with traces
        patience = min(settings.timeout, _CONNECT_SECONDS)
        with self._translated():
            self._client = MilvusClient(settings.uri, token=settings.token, timeout=patience, dedicated=True)

    def close(self) -> None:
        self._client.close()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of `MilvusClient` returns."""
        with self._translated():
            return getattr(self._client, method)(*arguments, timeout=self._timeout, **options)

    def target(self) -> str:
        """The collection that the alias names, or "" where there is no such alias."""
        with suppress(EngineUnavailable):
            return str(self.call("describe_alias", self.alias)["collection_name"])
        for collection in self.call("list_collections"):  # finds out why that failed
            if self.alias in self.call("list_aliases", collection)["aliases"]:
                return str(collection)
        return ""

    def drop(self, collection: str) -> None:
        """Remove a collection, if there is one."""
        if self.call("has_collection", collection):
            self.call("drop_collection", collection)

    def count(self, collection: str) -> int:
        """The products in a loaded collection, those just inserted included."""
        rows = self.call("query", collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])

    def create(self, collection: str, dimension: int, shards: int) -> None:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(POSITION, DataType.INT64, is_primary=True)
        schema.add_field(HEAD, DataType.VARCHAR, max_length=LONGEST_HEAD)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
        self.call("create_collection", collection, schema=schema, num_shards=shards)

    def insert(self, collection: str, first: int, heads: list[bytes], vectors: NDArray[np.float32]) -> None:
        """Add the products from catalogue position `first` on: their open JSON, and unit vectors (n, d)."""
        rows = [
            {POSITION: position, HEAD: head.decode(), VECTOR: vector}
            for position, (head, vector) in enumerate(zip(heads, vectors, strict=True), first)
        ]
        self.call("insert", collection, rows)

    def make_searchable(self, collection: str, products: int, index: str, replicas: int) -> None:
        """Write everything inserted, build the index and load it into memory, `replicas` times."""
        built = INDEXES[index].parameters(products)
        parameters = MilvusClient.prepare_index_params()
        parameters.add_index(VECTOR, index_type=index, index_name=VECTOR, metric_type=METRIC, params=built)
        self.call("flush", collection)
        self.call("create_index", collection, parameters)
        self.call("load_collection", collection, replica_number=replicas)

    def index_of(self, collection: str) -> str:
        [name] = self.call("list_indexes", collection)
        return str(self.call("describe_index", collection, name)["index_type"])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except MilvusException as error:
            raise EngineUnavailable(f"Milvus at {self._address}: {error.message}") from None
        except (grpc.RpcError, grpc.FutureTimeoutError) as error:
            code = error.code().name if isinstance(error, grpc.Call) else "no connection"
            raise EngineUnavailable(
                f"Milvus at {self._address}: no answer within {self._timeout:g} s ({code})"
            ) from None


def open_engine(settings: MilvusSettings) -> "MilvusEngine":
    """Connect, and serve what the alias names. Raises EngineUnavailable."""
    cluster = Cluster(settings)
    target = cluster.target()
    if not target:
        raise EngineUnavailable(f"{cluster.alias}: Milvus has no such alias; `python -m service publish` makes it")
    return MilvusEngine(cluster, target)


class MilvusEngine:
    """Serves one collection, which never changes. Where the alias has moved, `latest` gives the engine to serve next.

    An approximate index may find fewer products than asked for; both sides are then shorter.
    """

    concurrency = 4  # searches take most of their time elsewhere

    def __init__(self, cluster: Cluster, collection: str):
        """Raises EngineUnavailable."""
        self._cluster, self._collection = cluster, collection
        self._load()
        fields = cluster.call("describe_collection", collection)["fields"]
        [self._dimension] = [int(field["params"]["dim"]) for field in fields if field["name"] == VECTOR]
        index = cluster.index_of(collection)
        self._effort = INDEXES[index].effort
        self._products = cluster.count(collection)
        self.is_available = True
        self.info = IndexInfo(
            build_id=build_id_of(cluster.alias, collection),
            products=self._products,
            dimension=self._dimension,
            index=f"Milvus {index}",
            recall={},
        )

    def latest(self) -> "MilvusEngine":
        """This engine, or one of the collection that the alias names by now; also finds out whether Milvus answers."""
        try:
            target = self._cluster.target()
            if target not in ("", self._collection):
                return MilvusEngine(self._cluster, target)
            self._load()
            self.is_available = True
        except EngineUnavailable as error:
            if self.is_available:
                logging.getLogger(__name__).error("%s", error)
            self.is_available = False
        return self

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> list[Matches]:
        """Raises EngineUnavailable, and TooLarge where k is more than Milvus finds at once."""
        k = min(k, self._products)
        if k > MILVUS_MOST_MATCHES:
            raise TooLarge(f"k and exclude ask for {k} matches, Milvus finds {MILVUS_MOST_MATCHES} at once")
        if not self.is_available:
            raise EngineUnavailable("Milvus did not answer when last asked")
        users = len(unit_vectors)
        if not users:
            return []
        sides = self._nearest(np.concatenate([unit_vectors, -unit_vectors]), k, k + _SPARE_PRODUCTS)
        best = [side.encoded(1) for side in sides[:users]]
        worst = [side.encoded(-1) for side in sides[users:]]
        return [*map(Matches, best, worst)]

    def _load(self) -> None:
        """Some servers forget at a restart what was loaded."""
        state = self._cluster.call("get_load_state", self._collection)["state"]
        if state.name != "Loaded":
            self._cluster.call("load_collection", self._collection)

    def _nearest(self, queries: NDArray[np.float32], k: int, depth: int) -> "list[_Ranked]":
        """The k nearest products of each query (n, d), from its `depth` nearest or, where it needs them, from more."""
        if depth >= self._products <= MILVUS_MOST_MATCHES:
            catalogue = _Products(self._everything())
            return [catalogue.ranked(query, k) for query in queries]
        depth = min(depth, MILVUS_MOST_MATCHES)
        at_once = max(1, _MOST_BYTES_AT_ONCE // (4 * self._dimension * depth))
        ranked = []
        for start in range(0, len(queries), at_once):
            ranked += self._searched(queries[start : start + at_once], k, depth)
        return ranked

    def _searched(self, queries: NDArray[np.float32], k: int, depth: int) -> "list[_Ranked]":
        hits_of_queries = self._cluster.call(
            "search",
            self._collection,
            data=list(queries),
            anns_field=VECTOR,
            limit=depth,
            output_fields=[HEAD, VECTOR],
            search_params={"metric_type": METRIC, "params": self._effort(self._products, depth)},
        )
        ranked = []
        for query, hits in zip(queries, hits_of_queries, strict=True):
            found = _Products([{POSITION: hit[POSITION], **hit["entity"]} for hit in hits]).ranked(query, k)
            reach = hits[-1]["distance"] if len(hits) == depth else np.inf
            settled = len(found.heads) == k and found.scores[-1] > reach + _RANKING_ERROR
            if not settled and depth < MILVUS_MOST_MATCHES:
                [found] = self._nearest(query[None], k, _DEEPER * depth)
            ranked.append(found)
        return ranked

    def _everything(self) -> list[dict[str, Any]]:
        at_once = max(1, _MOST_BYTES_AT_ONCE // (4 * self._dimension))
        rows: list[dict[str, Any]] = []
        for start in range(0, self._products, at_once):
            positions = f"{POSITION} >= {start} and {POSITION} < {start + at_once}"
            rows += self._cluster.call("query", self._collection, filter=positions, output_fields=[HEAD, VECTOR])
        return rows


class _Products:
    """Products as Milvus gave them."""

    def __init__(self, rows: list[dict[str, Any]]):
        self._heads = [row[HEAD].encode() for row in rows]
        self._positions = np.array([row[POSITION] for row in rows], np.int64)
        self._vectors = np.array([row[VECTOR] for row in rows], np.float64)

    def ranked(self, query: NDArray[np.float32], k: int) -> "_Ranked":
        """The k of them with the highest scores; equal ones in catalogue order."""
        if not self._heads:
            return _Ranked([], np.empty(0))
        products = (self._vectors * query).sum(axis=1)  # row by row: a matrix product rounds by the number of rows
        millionths = np.rint(np.clip(products, -1.0, 1.0) * _UNITS)
        order = np.lexsort((self._positions, -millionths))[:k]
        return _Ranked([self._heads[i] for i in order], millionths[order] / _UNITS)


class _Ranked:
    """The products nearest to one query, in the order of the answer."""

    def __init__(self, heads: list[bytes], scores: NDArray[np.float64]):
        self.heads, self.scores = heads, scores

    def encoded(self, sign: int) -> list[bytes]:
        return encode_matches(self.heads, sign * self.scores + 0.0)
