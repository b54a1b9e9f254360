"""The contract every search engine keeps, and that of engines which also look products up."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from retrieval.search.exact_scan import Pace
from retrieval.search.filters.language import Vocabulary
from retrieval.search.filters.tree import Filter
from retrieval.search.filters.values import FieldValues
from retrieval.search.ranking import Neighbours
from retrieval.search.reranking.limits import Values
from service.errors import BadSetting


@dataclass(frozen=True)
class DeltaInfo:
    """A delta, when it was `created`, the build that it is on, its `base`, and how many of its products it changes.

    `replaced` ones have another vector, `changed` ones other fields alone. Both have sizes, `bytes` and `base_bytes`.
    """

    base: str
    created: str
    added: int
    replaced: int
    changed: int
    deleted: int
    bytes: int
    base_bytes: int


@dataclass(frozen=True)
class IndexInfo:
    """What an engine serves.

    `recall` is the share of exact matches found on each side, as the builder measured it; `filterable` are the facts of
    each field to filter by; `embedding_model` is the label of the model that made the vectors, if the build has one;
    `quality` is what lists were like for the builder's users, if it has looked; `delta` is None where a build of all
    products is served.
    """

    build_id: str
    products: int
    dimension: int
    index: str
    recall: dict[str, Any]
    filterable: list[dict[str, Any]] = field(default_factory=list)
    embedding_model: str | None = None
    quality: dict[str, Any] | None = None
    delta: DeltaInfo | None = None


def check_label(label: str | None, is_required: bool) -> None:
    """Raise BadSetting where requests must name a build's embedding model, and it has no label of one."""
    if is_required and label is None:
        text = "the build has no embedding model; `python -m index_builder --embedding-model` gives it one"
        raise BadSetting(f"RECO_REQUIRE_EMBEDDING_MODEL=1: {text}")


def header_text(label: str | None) -> str | None:
    """Return a label as a header can carry it: earlier versions published any."""
    return label and "".join(
        each if each.isascii() and each.isprintable() else each.encode("unicode_escape").decode()
        for each in label.strip()
    )


class SearchEngine(Protocol):
    """Finds the products nearest to and farthest from users.

    A product is its catalogue position. An engine may be used from many threads at once. Its answer for a user does not
    depend on the other users of the call, and holds each product at most once on a side. `is_available` says whether
    the last search or probe was answered, `concurrency` how many searches at the same time are faster than one by one,
    and `search_seconds` how long a search for one user and ten matches takes, infinity where it waits for a network.
    `report` is the page about the build, of all its products, None where none is to be shown.
    """

    info: IndexInfo
    is_available: bool
    concurrency: int
    search_seconds: float
    report: bytes | None

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        """Return the k best and the k worst products for each row of (n, d) float32 vectors of length 1.

        Each side is (n, k), or as wide as the catalogue where k is more. An approximate engine that finds fewer pads
        with position -1 at the end. k is at least 1, n may be 0.
        """

    def prefixes(self, positions: NDArray[np.int64]) -> list[bytes]:
        """Return the JSON of the `id` and `name` of each product (m,), left open: `{"id":"p17","name":"Margherita"`."""


@runtime_checkable
class FieldEngine(Protocol):
    """Filters products by their fields, shows these, and finds products by id. May be used from many threads at once.

    An engine that can do all of it is one; another is a `SearchEngine` alone. Filters are over the fields in
    `vocabulary`, and match some of the `shown_products`, the number of those that may be shown at all. Both ways to
    search say which path they went, and find up to `max_matches` products a side.
    """

    vocabulary: Vocabulary
    shown_products: int
    max_matches: int

    def search_matching(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        query: Filter,
        excluded: Collection[str] = (),
        without: Filter | None = None,
    ) -> tuple[Neighbours, Neighbours, int]:
        """Do what `search` does with the products that match a filter, and return how many these are.

        Those with `excluded` ids, and those that the filter `without` lets through, are counted, but not found, and a
        side is no wider than there are others. An id that no product has is ignored.
        """

    def work(self) -> AbstractContextManager[object]:
        """Return what the calling thread enters to compute for long: it holds a core, as searches within it do."""

    def fields_of(self, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return all fields of each product (m,) as the catalogue gave them, its id and name among them."""

    def values_of(self, positions: Sequence[int], names: tuple[str, ...]) -> Iterable[Values]:
        """Yield the values of each product in the fields of these names, which hold strings or lists of them."""

    def vectors_of(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the float32 vectors (m, d) of length 1 of products (m,)."""

    def positions_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the product with each id (m,), and -1 for an id that none of those to be shown has."""


@runtime_checkable
class ExactEngine(Protocol):
    """Also finds what there is by scoring all of it, to compare with. May be used from many threads at once.

    `is_exact` says whether every search does so.
    """

    is_exact: bool

    def search_exactly(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        query: Filter | None,
        excluded: Collection[str],
        pace: Pace,
    ) -> tuple[Neighbours, Neighbours]:
        """Do what `search` and, where there is a query, `search_matching` do, in turns, each within a `pace`."""


@runtime_checkable
class Catalogue(FieldEngine, Protocol):
    """Looks up products by name too, and projects vectors onto a map. May be used from many threads at once.

    Each of `sample_users`, to try the engine with, has a `name`, `likes` and a `vector`.
    """

    sample_users: list[dict[str, Any]]

    @property
    def sampled_points(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Some thousands of products spread over the catalogue: their positions (m,) and map points (m, 2)."""

    def starting_with(self, prefix: str, limit: int) -> NDArray[np.int64]:
        """Return the first `limit` products, ordered by name, whose names begin with the prefix in any case."""

    def containing(self, text: str, limit: int) -> NDArray[np.int64]:
        """Return the first `limit` products whose names contain the text, whatever case and accents either is in.

        Names that begin with it come first, then those with a word that does.
        """

    def field_values(self, name: str, text: str, limit: int) -> FieldValues:
        """Return the values that products have in a filterable field: of texts, those that contain the text."""

    def project(self, unit_vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the map points (n, 2), as x and y, of (n, d) vectors of length 1; sampled ones lie within [-1, 1]."""
