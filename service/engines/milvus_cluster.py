"""A connection to Milvus: what a build's collection is made of, and how it is written."""

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from pymilvus import DataType, MilvusClient, MilvusException

from service.errors import EngineUnavailable
from service.settings import MilvusSettings

METRIC = "IP"  # The inner product of unit vectors is their cosine.
# Published collections have columns of these names: of each product, its JSON in two parts, and of the first products
# the parts of a text about the fields, as not every server keeps a description of a collection.
POSITION, ID, PREFIX, FURTHER, ABOUT, VECTOR = "position", "id", "head", "further", "about", "vector"
STORED = [POSITION, PREFIX, VECTOR]  # Servers name the primary key in a hit only where it is requested.
MAX_VARCHAR_BYTES = 65_535  # Milvus takes no longer strings.
MAX_FIELD_COLUMNS = 64 - 6  # A collection has no more columns than 64.
SCALAR_INDEXES = ("INVERTED", "")  # The empty one is what a server makes by default, which older ones insist on.
_CONNECT_SECONDS = 10.0
_SEARCHED_PER_FOUND = 4  # An approximate index looks at so many products for each of the `depth` that it is to find.


def _lists(products: int) -> int:
    return min(65_536, max(1, round(4 * math.sqrt(products))))


def _probes(products: int, depth: int, matched: int) -> int:
    lists = _lists(products)
    searched = max(products / 3, _SEARCHED_PER_FOUND * depth)  # as many that match as without a filter
    return min(lists, math.ceil(lists * searched / matched))


# How Milvus builds an index over so many products.
BUILD_PARAMETERS: dict[str, Callable[[int], dict[str, int]]] = {
    "FLAT": lambda _products: {},
    "HNSW": lambda _products: {"M": 32, "efConstruction": 400},
    "IVF_FLAT": lambda products: {"nlist": _lists(products)},
}
# How hard it searches one for the `depth` nearest of `matched` products. The worst side's products lie far from the
# query and from each other: finding them takes several times the effort that is usual for the best side. A graph counts
# only products that match towards its effort, lists hold the others too.
SEARCH_PARAMETERS: dict[str, Callable[[int, int, int], dict[str, int]]] = {
    "FLAT": lambda _products, _depth, _matched: {},
    "HNSW": lambda _products, depth, _matched: {"ef": max(2048, _SEARCHED_PER_FOUND * depth)},
    "IVF_FLAT": lambda products, depth, matched: {"nprobe": _probes(products, depth, matched)},
}


def collection_of(alias: str, build_id: str) -> str:
    """Return the collection's name for a build: Milvus takes letters, digits and underscores."""
    return f"{alias}_{re.sub('[^0-9A-Za-z]', '_', build_id)}"


def build_id_of(alias: str, collection: str) -> str:
    """Return the build id in a collection's name, or "" where the name was not made by `collection_of`."""
    found = re.fullmatch(rf"{alias}_(\d{{8}}T\d{{6}})_(\d{{6}}Z)_([0-9a-f]{{8}})", collection)
    return f"{found[1]}.{found[2]}-{found[3]}" if found else ""


Column = Mapping[str, Any]  # the arguments of pymilvus's `add_field`


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

    def published_target(self) -> str:
        """Return the collection that the alias names. Raises EngineUnavailable where it names no published one."""
        target = self.target()
        if not target:
            raise EngineUnavailable(f"{self.alias}: Milvus has no such alias; `python -m service publish` makes it")
        if not build_id_of(self.alias, target):
            problem = f"names the collection {target}, which `python -m service publish` has not made"
            raise EngineUnavailable(f"{self.alias}: {problem}")
        return target

    def drop(self, collection: str) -> None:
        """Remove a collection, if there is one."""
        if self.call("has_collection", collection):
            self.call("drop_collection", collection)

    def count(self, collection: str, expression: str = "") -> int:
        """Do what `count_matching` does, and count those just inserted too, in a loaded collection."""
        return self.count_matching(collection, expression, consistency_level="Strong")

    def count_matching(self, collection: str, expression: str, **options: Any) -> int:
        """Return for how many products an expression holds, those of the last seconds perhaps not included."""
        rows = self.call("query", collection, filter=expression, output_fields=["count(*)"], **options)
        return int(rows[0]["count(*)"])

    def create(self, collection: str, dimension: int, shards: int, columns: Sequence[Column] = ()) -> None:
        """Make a collection with these columns beside those of every one."""
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(POSITION, DataType.INT64, is_primary=True)
        for name in (ID, PREFIX, FURTHER, ABOUT):
            schema.add_field(name, DataType.VARCHAR, max_length=MAX_VARCHAR_BYTES)
        for column in columns:
            schema.add_field(**column)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
        self.call("create_collection", collection, schema=schema, num_shards=shards)

    def insert(self, collection: str, rows: list[dict[str, Any]]) -> None:
        """Add products, given as what each column holds of them."""
        self.call("insert", collection, rows)

    def make_searchable(
        self, collection: str, products: int, index: str, replicas: int, columns: Sequence[Column] = ()
    ) -> None:
        """Write everything inserted, build the indexes and load it all into memory, `replicas` times."""
        built = BUILD_PARAMETERS[index](products)
        self.call("flush", collection)
        self._index(collection, VECTOR, index_type=index, metric_type=METRIC, params=built)
        for name in (ID, *(column["field_name"] for column in columns)):
            self._index_scalar(collection, name)
        self.call("load_collection", collection, replica_number=replicas)

    def dimension_of(self, collection: str) -> int:
        columns = self.call("describe_collection", collection)["fields"]
        [dimension] = [int(column["params"]["dim"]) for column in columns if column["name"] == VECTOR]
        return dimension

    def index_of(self, collection: str) -> str:
        """Return the kind of index over the vectors."""
        return str(self.call("describe_index", collection, VECTOR)["index_type"])

    def _index_scalar(self, collection: str, column: str) -> None:
        """Index a column as well as the server can; some index no arrays, and scan these."""
        for kind in SCALAR_INDEXES:
            with suppress(EngineUnavailable):
                self._index(collection, column, index_type=kind)
                return

    def _index(self, collection: str, column: str, **options: Any) -> None:
        parameters = MilvusClient.prepare_index_params()
        parameters.add_index(column, index_name=column, **options)
        self.call("create_index", collection, parameters)

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
