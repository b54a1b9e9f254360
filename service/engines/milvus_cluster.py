"""A connection to Milvus: what a build's collection is made of, and how it is written."""

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from service.errors import EngineUnavailable
from service.settings import MilvusSettings

METRIC = "IP"  # The inner product of unit vectors is their cosine.
POSITION, PREFIX, VECTOR = "position", "head", "vector"  # Published collections have these names.
STORED = [POSITION, PREFIX, VECTOR]  # Servers name the primary key in a hit only where it is requested.
MAX_PREFIX_BYTES = 65_535  # Milvus takes no longer strings.
_CONNECT_SECONDS = 10.0
_SEARCHED_PER_FOUND = 4  # An approximate index looks at so many products for each of the `depth` that it is to find.


def _lists(products: int) -> int:
    return min(65_536, max(1, round(4 * math.sqrt(products))))


def _probes(products: int, depth: int) -> int:
    lists = _lists(products)
    return min(lists, math.ceil(lists * max(1 / 3, _SEARCHED_PER_FOUND * depth / products)))


# How Milvus builds an index over so many products.
BUILD_PARAMETERS: dict[str, Callable[[int], dict[str, int]]] = {
    "FLAT": lambda _products: {},
    "HNSW": lambda _products: {"M": 32, "efConstruction": 400},
    "IVF_FLAT": lambda products: {"nlist": _lists(products)},
}
# How hard it searches one for the `depth` nearest. The worst side's products lie far from the query and from each
# other: finding them takes several times the effort that is usual for the best side.
SEARCH_PARAMETERS: dict[str, Callable[[int, int], dict[str, int]]] = {
    "FLAT": lambda _products, _depth: {},
    "HNSW": lambda _products, depth: {"ef": max(2048, _SEARCHED_PER_FOUND * depth)},
    "IVF_FLAT": lambda products, depth: {"nprobe": _probes(products, depth)},
}


def collection_of(alias: str, build_id: str) -> str:
    """Return the collection's name for a build: Milvus takes letters, digits and underscores."""
    return f"{alias}_{re.sub('[^0-9A-Za-z]', '_', build_id)}"


def build_id_of(alias: str, collection: str) -> str:
    """Return the build id in a collection's name, or "" where the name was not made by `collection_of`."""
    found = re.fullmatch(rf"{alias}_(\d{{8}}T\d{{6}})_(\d{{6}}Z)_([0-9a-f]{{8}})", collection)
    return f"{found[1]}.{found[2]}-{found[3]}" if found else ""


class Cluster:
    """A connection to Milvus. What it refuses, or does not answer within `timeout` seconds, is EngineUnavailable."""

    def __init__(self, settings: MilvusSettings):
        self.alias, self._timeout = settings.alias, settings.timeout
        self._address = settings.uri.rpartition("@")[2]  # A user and password may stand before it.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # It logs the errors that it raises, with traces.
        timeout = min(settings.timeout, _CONNECT_SECONDS)
        try:
            with self._translated():
                self._client = MilvusClient(settings.uri, token=settings.token, timeout=timeout, dedicated=True)
        except ValueError as error:  # a port that is none
            raise EngineUnavailable(f"Milvus at {self._address}: {error}") from error

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of `MilvusClient`, and return its result."""
        with self._translated():
            return getattr(self._client, method)(*arguments, timeout=self._timeout, **options)

    def target(self) -> str:
        """Return the collection that the alias names, or "" where there is no such alias."""
        with suppress(EngineUnavailable):
            return str(self.call("describe_alias", self.alias)["collection_name"])
        # The description fails where there is no such alias, and where Milvus does not answer: this tells them apart.
        for collection in self.call("list_collections"):
            if self.alias in self.call("list_aliases", collection)["aliases"]:
                return str(collection)
        return ""

    def drop(self, collection: str) -> None:
        """Remove a collection, if there is one."""
        if self.call("has_collection", collection):
            self.call("drop_collection", collection)

    def count(self, collection: str) -> int:
        """Return the number of products in a loaded collection, those just inserted included."""
        rows = self.call("query", collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])

    def create(self, collection: str, dimension: int, shards: int) -> None:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(POSITION, DataType.INT64, is_primary=True)
        schema.add_field(PREFIX, DataType.VARCHAR, max_length=MAX_PREFIX_BYTES)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
        self.call("create_collection", collection, schema=schema, num_shards=shards)

    def insert(self, collection: str, first: int, prefixes: list[bytes], vectors: NDArray[np.float32]) -> None:
        """Add the products from catalogue position `first` on: their JSON prefixes, and unit vectors (n, d)."""
        rows = [
            {POSITION: position, PREFIX: prefix.decode(), VECTOR: vector}
            for position, (prefix, vector) in enumerate(zip(prefixes, vectors, strict=True), first)
        ]
        self.call("insert", collection, rows)

    def make_searchable(self, collection: str, products: int, index: str, replicas: int) -> None:
        """Write everything inserted, build the index and load it into memory, `replicas` times."""
        parameters = MilvusClient.prepare_index_params()
        built = BUILD_PARAMETERS[index](products)
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
            raise EngineUnavailable(f"Milvus at {self._address}: {error.message}") from error
        except grpc.FutureTimeoutError as error:
            raise EngineUnavailable(f"Milvus at {self._address}: no connection within {self._timeout:g} s") from error
        except grpc.RpcError as error:
            is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            failure = f"no answer within {self._timeout:g} s" if is_late else error.details()
            raise EngineUnavailable(f"Milvus at {self._address}: {failure} ({error.code().name})") from error
