"""The distributed engine: a build in a Milvus collection, found through an alias."""

import hashlib
import logging
import math
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.artifact.products import parse_prefixes
from retrieval.errors import BadArtifact
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.filters.tree import Filter, complement, every
from retrieval.search.ranking import RANKING_ERROR, SPARE_NEIGHBOURS, Neighbours, SearchPath
from retrieval.search.reranking.limits import Values, values_in
from service.engines.base import IndexInfo, check_label, header_text
from service.engines.milvus_cluster import (
    FURTHER,
    ID,
    METRIC,
    POSITION,
    PREFIX,
    SEARCH_PARAMETERS,
    STORED,
    VECTOR,
    Cluster,
    build_id_of,
)
from service.engines.milvus_expressions import both_hold, either_text, expression_of
from service.engines.milvus_fields import read_fields
from service.engines.milvus_ranking import Hits, Ranked, rank
from service.engines.shown_fields import ShownFields
from service.engines.shown_products import read_shown
from service.errors import BadSetting, CannotFilter, EngineUnavailable, TooLarge
from service.settings import MILVUS_MAX_MATCHES, MilvusSettings

_DEPTH_FACTOR = 4  # A search that was not deep enough is repeated with so many times the depth.
_MAX_VECTOR_BYTES_PER_ANSWER = 4 * 2**20  # One user's vectors may be more.
_MAX_CACHED_PREFIXES, _MAX_CACHED_COUNTS = 200_000, 10_000
_MAX_IDS_PER_QUERY = 1_000
_SETTLING_SECONDS = 10.0  # Replicas of a collection may lack what was inserted within the last five.

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Selection:
    """The products to search among, `count` of them: those for which an expression holds, "" for all."""

    expression: str
    count: int


def open_engine(settings: MilvusSettings, shown: str = "", requires_model: bool = False) -> "MilvusEngine":
    """Connect, and serve what the alias names, of which the filter `shown` (JSON text) lets products through, or all.

    Raises EngineUnavailable, BadArtifact, or BadSetting where the filter does not fit, and where one `requires_model`
    that the collection has no label of.
    """
    cluster = Cluster(settings)
    return MilvusEngine(cluster, cluster.published_target(), shown, requires_model)


class MilvusEngine:
    """Serves one collection, which never changes. Where the alias has moved, `latest` gives the engine to serve next.

    An approximate index may find fewer products than requested; both sides are then padded.
    """

    concurrency = 4  # Searches take most of their time elsewhere.
    search_seconds = math.inf
    max_matches = MILVUS_MAX_MATCHES
    report: bytes | None = None
    work = staticmethod(nullcontext)

    def __init__(self, cluster: Cluster, collection: str, shown: str = "", requires_model: bool = False):
        """Raises what `open_engine` does."""
        self._cluster, self._collection = cluster, collection
        self._reopen = partial(MilvusEngine, cluster, shown=shown, requires_model=requires_model)
        self._load()
        fields = read_fields(cluster, collection)
        check_label(fields.embedding_model, requires_model)
        self._dimension = cluster.dimension_of(collection)
        index = cluster.index_of(collection)
        self._products = cluster.count(collection)
        self._search_parameters = partial(SEARCH_PARAMETERS[index], self._products)
        self._prefixes: dict[int, bytes] = {}
        self._counts: dict[bytes, int] = {}
        self._settled_at = time.monotonic() + _SETTLING_SECONDS
        self._columns, self.vocabulary = fields.columns, fields.vocabulary
        self._shown = read_shown(self.vocabulary, shown)
        self.shown_products = cluster.count(collection, self._expression(EVERYTHING))
        self.is_available, self._refused = True, ""
        build_id = build_id_of(cluster.alias, collection)
        filterable = [asdict(facts) for name, facts in fields.facts.items() if name in fields.columns]
        model = header_text(fields.embedding_model)
        self.info = IndexInfo(build_id, self._products, self._dimension, f"Milvus {index}", {}, filterable, model)

    def latest(self) -> "MilvusEngine":
        """Return this engine, or one of the collection that the alias names by now; probes whether Milvus answers."""
        try:
            target = self._cluster.target()
            if target not in (self._collection, self._refused) and build_id_of(self._cluster.alias, target):
                return self._reopen(target)
            self._load()
            self.is_available = True
        except EngineUnavailable as error:
            if self.is_available:
                log.error("%s", error)
            self.is_available = False
        except (BadArtifact, BadSetting) as error:
            log.error("%s is not served: %s", target, error)
            self._refused = target
        return self

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        """Raises EngineUnavailable, and TooLarge where k is more than Milvus finds at once."""
        return self.search_matching(unit_vectors, k, EVERYTHING)[:2]

    def search_matching(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        query: Filter,
        excluded: Collection[str] = (),
        without: Filter | None = None,
    ) -> tuple[Neighbours, Neighbours, int]:
        """Raises EngineUnavailable, and TooLarge where k is more than Milvus finds at once."""
        self._check_available()
        matching = self._select(self._expression(query))
        selection = self._leave_out(matching, excluded, without)
        k = min(k, selection.count)
        if k > MILVUS_MAX_MATCHES:
            raise TooLarge(f"k and exclude ask for {k} matches, Milvus finds {MILVUS_MAX_MATCHES} at once")
        users = len(unit_vectors)
        queries = np.concatenate([unit_vectors, -unit_vectors])
        positions, scores = np.full((2 * users, k), -1, np.int64), np.zeros((2 * users, k))
        ranked = self._nearest(queries, k, k + SPARE_NEIGHBOURS, selection) if users and k else []
        for i, each in enumerate(ranked):
            positions[i, : len(each.positions)], scores[i, : len(each.positions)] = each.positions, each.scores
        path = SearchPath("nothing matches")
        if ranked:
            best, worst = ranked[users - 1], ranked[-1]
            path.take(max(best, worst, key=lambda side: side.scored).path, best.scored, worst.scored)
        best_side = Neighbours(positions[:users], scores[:users], path)
        return best_side, Neighbours(positions[users:], 0.0 - scores[users:], path), matching.count

    def fields_of(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Raises EngineUnavailable, and CannotFilter where the collection holds no fields to show."""
        if self.vocabulary.unshown:
            raise CannotFilter(f"this engine does not show fields: {self.vocabulary.unshown}")
        rows = self._query(positions.tolist(), [POSITION, PREFIX, FURTHER])
        lines = {row[POSITION]: row[PREFIX] + row[FURTHER] for row in rows}
        return [orjson.loads(lines[position]) for position in positions.tolist()]

    def values_of(self, positions: Sequence[int], names: tuple[str, ...]) -> Iterable[Values]:
        return (values_in(fields, names) for fields in ShownFields(self, np.array(positions, np.int64), names))

    def positions_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Raises EngineUnavailable."""
        self._check_available()
        found: dict[str, int] = {}
        distinct = [*dict.fromkeys(ids)]
        for start in range(0, len(distinct), _MAX_IDS_PER_QUERY):
            asked = either_text(ID, distinct[start : start + _MAX_IDS_PER_QUERY])
            both = both_hold(asked, self._expression(EVERYTHING))
            rows = self._cluster.call("query", self._collection, filter=both, output_fields=[POSITION, PREFIX])
            labels = parse_prefixes([row[PREFIX].encode() for row in rows])
            found.update((label["id"], row[POSITION]) for label, row in zip(labels, rows, strict=True))
        return np.array([found.get(each, -1) for each in ids], np.int64)

    def vectors_of(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Raises EngineUnavailable."""
        vectors = {row[POSITION]: row[VECTOR] for row in self._query(positions.tolist(), [POSITION, VECTOR])}
        return np.array([*map(vectors.get, positions.tolist())], np.float32).reshape(-1, self._dimension)

    def prefixes(self, positions: NDArray[np.int64]) -> list[bytes]:
        """Return JSON prefixes, which searches have mostly brought along. Raises EngineUnavailable."""
        requested = positions.tolist()
        known = self._prefixes
        if missing := [position for position in requested if position not in known]:
            rows = self._query(missing, [POSITION, PREFIX])
            known = known | {row[POSITION]: row[PREFIX].encode() for row in rows}
        return [known[position] for position in requested]

    def _load(self) -> None:
        """Load the collection unless it is loaded: some servers forget at a restart what was."""
        if self._cluster.call("get_load_state", self._collection)["state"].name != "Loaded":
            self._cluster.call("load_collection", self._collection)

    def _check_available(self) -> None:
        if not self.is_available:
            raise EngineUnavailable("Milvus did not answer when last asked")

    def _leave_out(self, selection: _Selection, excluded: Collection[str], without: Filter | None) -> _Selection:
        """Return a selection without the products with these ids, and those that a filter lets through."""
        left_out = sorted({*self.positions_of([*excluded]).tolist()} - {-1})
        expression = both_hold(selection.expression, f"{POSITION} not in {left_out}" if left_out else "")
        if without:
            expression = both_hold(expression, expression_of(complement(without), self._columns))
        return selection if expression == selection.expression else self._select(expression)

    def _expression(self, query: Filter) -> str:
        tree = every((self._shown, query))
        return "" if tree == EVERYTHING else expression_of(tree, self._columns)

    def _select(self, expression: str) -> _Selection:
        """Return the products for which an expression holds. Their count is kept once all products are visible."""
        if expression == self._expression(EVERYTHING):
            return _Selection(expression, self.shown_products)
        key = hashlib.blake2b(expression.encode(), digest_size=16).digest()
        if (count := self._counts.get(key)) is None:
            count = self._cluster.count_matching(self._collection, expression)
            if len(self._counts) >= _MAX_CACHED_COUNTS:
                self._counts = {}
            if time.monotonic() > self._settled_at:
                self._counts[key] = count
        return _Selection(expression, count)

    def _nearest(
        self, queries: NDArray[np.float32], k: int, depth: int, selection: _Selection, path: str = "candidates"
    ) -> list[Ranked]:
        """Return the k nearest products of each query (n, d), from its `depth` nearest or, where needed, from more."""
        if depth >= selection.count <= MILVUS_MAX_MATCHES:
            found = self._hits(self._query(self._positions(selection), STORED))
            name = "matching rows" if selection.expression else "exact"
            return [rank(found, query, k, name) for query in queries]
        depth = min(depth, MILVUS_MAX_MATCHES)
        queries_at_once = max(1, _MAX_VECTOR_BYTES_PER_ANSWER // (4 * self._dimension * depth))
        ranked = []
        for start in range(0, len(queries), queries_at_once):
            ranked += self._search(queries[start : start + queries_at_once], k, depth, selection, path)
        return ranked

    def _search(
        self, queries: NDArray[np.float32], k: int, depth: int, selection: _Selection, path: str
    ) -> list[Ranked]:
        hits_of_queries = self._cluster.call(
            "search",
            self._collection,
            data=list(queries),
            anns_field=VECTOR,
            filter=selection.expression,
            limit=depth,
            output_fields=STORED,
            search_params={"metric_type": METRIC, "params": self._search_parameters(depth, selection.count)},
        )
        ranked = []
        for query, hits in zip(queries, hits_of_queries, strict=True):
            found = rank(self._hits([hit["entity"] for hit in hits]), query, k, path)
            reach = hits[-1]["distance"] if len(hits) == depth else np.inf
            is_settled = len(found.positions) == k and found.scores[-1] > reach + RANKING_ERROR
            if not is_settled and depth < MILVUS_MAX_MATCHES:
                [found] = self._nearest(query[None], k, _DEPTH_FACTOR * depth, selection, "deeper candidates")
            ranked.append(found)
        return ranked

    def _positions(self, selection: _Selection) -> Sequence[int]:
        """Return the positions of all products of a selection."""
        if not selection.expression:
            return range(self._products)
        rows = self._cluster.call("query", self._collection, filter=selection.expression, output_fields=[POSITION])
        return [row[POSITION] for row in rows]

    def _query(self, positions: Sequence[int], columns: list[str]) -> list[dict[str, Any]]:
        """Return what is stored of products in some columns, some products at a time."""
        rows_at_once = max(1, _MAX_VECTOR_BYTES_PER_ANSWER // (4 * self._dimension))
        rows: list[dict[str, Any]] = []
        for start in range(0, len(positions), rows_at_once):
            expression = f"{POSITION} in {[*positions[start : start + rows_at_once]]}"
            rows += self._cluster.call("query", self._collection, filter=expression, output_fields=columns)
        return rows

    def _hits(self, rows: list[dict[str, Any]]) -> Hits:
        if len(self._prefixes) + len(rows) > _MAX_CACHED_PREFIXES:
            self._prefixes = {}
        self._prefixes.update((row[POSITION], row[PREFIX].encode()) for row in rows)
        return np.array([row[POSITION] for row in rows], np.int64), np.array([row[VECTOR] for row in rows], np.float64)
