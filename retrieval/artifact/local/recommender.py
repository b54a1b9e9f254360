"""Recommends the products of a build in Python: the lists that the service answers with, as arrays and frames."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.build import Build
from retrieval.artifact.local.arguments import Arguments
from retrieval.artifact.local.lists import ListMaker
from retrieval.artifact.products import parse_prefixes
from retrieval.artifact.store import open_current, open_pinned
from retrieval.search.ranking import SIDES
from retrieval.search.reranking.fields import pick_fields
from retrieval.search.reranking.lists import Ranked
from retrieval.search.reranking.options import read_count, read_field_names, read_id_set, read_max_per, read_number
from retrieval.search.reranking.request import ListOptions

_MAX_COUNT = 2**31


@dataclass(frozen=True)
class Matches:
    """One side of the answers to n users: a row a user, as wide as the longest list, in the order of the list.

    `positions` (n, m) are catalogue positions, -1 behind the end of a shorter list, where `ids` and `names` (n, m) are
    empty and `scores` (n, m), cosine similarities rounded to six decimals, are NaN. `fields` (n, m) are those of each
    match that were asked for, if any.
    """

    positions: NDArray[np.int64]
    ids: NDArray[np.object_]
    names: NDArray[np.object_]
    scores: NDArray[np.float64]
    fields: NDArray[np.object_] | None = None


@dataclass(frozen=True)
class Recommendations:
    """The answers to n `users`, their names or numbers: the best matches of each, and the worst.

    `matched` is how many products the filter lets through, before `exclude`.
    """

    users: list[Any]
    best: Matches
    worst: Matches
    matched: int

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with a row a match: user, side, rank (from 1), id, name, score and any fields."""
        import pandas

        columns: dict[str, list[Any]] = {name: [] for name in ("user", "side", "rank", "id", "name", "score")}
        shown: list[Any] = []
        for row, user in enumerate(self.users):
            for side in SIDES:
                matches: Matches = getattr(self, side)
                count = int(np.count_nonzero(matches.positions[row] >= 0))
                columns["user"] += [user] * count
                columns["side"] += [side] * count
                columns["rank"] += range(1, count + 1)
                for name, values in (("id", matches.ids), ("name", matches.names), ("score", matches.scores)):
                    columns[name] += values[row, :count].tolist()
                shown += [] if matches.fields is None else matches.fields[row, :count].tolist()
        return pandas.DataFrame(columns if self.best.fields is None else {**columns, "fields": shown})


def open_local(artifacts: Path, build_id: str | None = None) -> "LocalRecommender":
    """Verify and open a build, the current one by default. Raises BadArtifact naming the file at fault."""
    return LocalRecommender(open_pinned(artifacts, build_id) if build_id else open_current(artifacts))


class LocalRecommender:
    """Recommends the products of an open build, on the calling thread. Safe to use from many threads."""

    def __init__(self, build: Build):
        self.build, self._lists = build, ListMaker(build)

    def recommend(
        self,
        vectors: Any,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        max_score: float | None = None,
        max_per: Mapping[str, int] | None = None,
        diversity: float = 0.0,
        fields: Sequence[str] | None = None,
    ) -> Recommendations:
        """Return the k best and k worst matches of users, as the service answers requests with the same options.

        `vectors` are those of all users (n, d), that of one (d,), or a pandas DataFrame with a column `vector` and
        perhaps `name`. Raises BadOption, a ValueError, naming each option and each vector at fault.
        """
        build, given = self.build, Arguments(self.build.manifest.dimension, self.build.filters.vocabulary)
        users, read_vectors = given.users(vectors)
        options = ListOptions(
            k=min(given.read("k", partial(read_count, _MAX_COUNT), k), max(1, build.manifest.products)),
            exclude=given.read("exclude", read_id_set, exclude),
            filter=None if filter is None else given.read("filter", build.filters.parse, filter),
            min_score=None if min_score is None else given.read("min_score", partial(read_number, -1, 1), min_score),
            max_score=None if max_score is None else given.read("max_score", partial(read_number, -1, 1), max_score),
            max_per=() if max_per is None else given.read("max_per", given.by_fields(read_max_per), max_per),
            diversity=given.read("diversity", partial(read_number, 0, 1), diversity),
        )
        shown = () if fields is None else given.read("fields", given.by_fields(read_field_names), fields)
        given.check()
        matched = build.manifest.products if options.filter is None else build.filters.mask(options.filter).matched
        best, worst = (self._matches(lists, shown) for lists in self._lists.lists_of(options, read_vectors))
        return Recommendations(users, best, worst, matched)

    def _matches(self, lists: list[Ranked], shown: Sequence[str]) -> Matches:
        shape = len(lists), max((len(each.positions) for each in lists), default=0)
        positions, scores = np.full(shape, -1), np.full(shape, np.nan)
        for row, ranked in enumerate(lists):
            positions[row, : len(ranked.positions)] = ranked.positions
            scores[row, : len(ranked.positions)] = ranked.scores
        distinct, places = np.unique(positions, return_inverse=True)
        is_padded = int(len(distinct) > 0 and distinct[0] < 0)
        products = [{"id": "", "name": ""}] * is_padded
        products += parse_prefixes(self.build.products.prefixes(distinct[is_padded:]))
        places = places.reshape(shape)
        ids, names = (_objects([product[key] for product in products])[places] for key in ("id", "name"))
        fields = None
        if shown:
            lines = [pick_fields(self.build.products[each], shown) for each in distinct[is_padded:].tolist()]
            fields = _objects([None] * is_padded + lines)[places]
        return Matches(positions, ids, names, scores, fields)


def _objects(values: list[Any]) -> NDArray[np.object_]:
    """Return an array (n,) of any values."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
