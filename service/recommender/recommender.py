"""Asks an engine for the matches of users, on as many threads as it can use."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.products import parse_ids
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.ranking import SIDES, SearchPath
from retrieval.search.reranking.lists import Ranked
from retrieval.search.reranking.request import Request
from retrieval.search.reranking.user_lists import Found, UserLists
from retrieval.vectors import unit_vectors
from service.engines.base import Catalogue, ExactEngine, FieldEngine, IndexInfo, SearchEngine
from service.engines.shown_fields import ShownFields
from service.errors import CannotFilter, CannotLookUp
from service.recommender.answers import Matches, Recommendation
from service.recommender.live_recall import LiveRecall
from service.recommender.score_ranks import ScoreRanks
from service.recommender.users import (
    Item,
    Pending,
    Search,
    User,
    UserBlock,
    divide,
    full_searches,
    searches_of,
)

Convert = Callable[[list[Recommendation]], Sequence[Any]]


class Recommender:
    """Asks an engine for the matches of users.

    `last_progress` is when it last began some users or had some read, as `time.monotonic` has it; `shown_products` is
    how many products may be found at all. `score_ranks` is where best scores stand, if that is all of them, and the
    build was measured with users who are not made up.
    """

    def __init__(self, engine: SearchEngine, live_recall: LiveRecall | None = None):
        """Show some answers of an engine that may miss matches to the `live_recall`."""
        self.engine, self._live_recall = engine, live_recall
        self._measured_engine = engine if isinstance(engine, ExactEngine) and not engine.is_exact else None
        self.info, self.prefixes = engine.info, engine.prefixes
        self.last_progress = time.monotonic()
        self._field_engine = engine if isinstance(engine, FieldEngine) else None
        self._engine_excludes = self._field_engine is not None
        self.vocabulary = self._field_engine.vocabulary if self._field_engine else None
        self.shown_products = self._field_engine.shown_products if self._field_engine else engine.info.products
        # The builder's users are shown everything.
        self.score_ranks = _score_ranks(self.info) if self.shown_products == self.info.products else None
        self._threads = ThreadPoolExecutor(max(1, engine.concurrency - 1), "search")  # The calling thread searches too.

    @property
    def catalogue(self) -> Catalogue:
        """The engine, where it also looks products up by name and has a map. Raises CannotLookUp or CannotFilter."""
        if not isinstance(self.field_engine, Catalogue):
            problem = "does not look products up by name and has no map; /infer, /batch and /similar work"
            raise CannotLookUp(f"the {self.info.index} engine {problem}")
        return self.field_engine

    @property
    def field_engine(self) -> FieldEngine:
        """The engine, where it also knows the ids and fields of products. Raises CannotFilter where it does not."""
        if self._field_engine is None:
            raise CannotFilter(f"the {self.info.index} engine does not look products up; /infer and /batch work")
        return self._field_engine

    def recommend_one(self, user: User, vector: NDArray[np.float64]) -> Recommendation:
        """Return the answer to one user, found on the calling thread."""
        [(_, answer)] = self._run(
            Search(user.request(self._engine_excludes, user.explain), [0], [user], vector[None]), list
        )
        return answer

    def recommend_inline(self, block: UserBlock, convert: Convert = list) -> list[Any]:
        """Do what `recommend` does on the calling thread: the fast way for a few users."""
        answers: list[Any] = list(block.items)
        for search in searches_of(block, self._engine_excludes):
            for index, answer in self._run(search, convert):
                answers[index] = answer
        return answers

    def recommend(self, blocks: Iterable[UserBlock], convert: Convert = list) -> list[Any]:
        """Return one answer an item, in order; the same one whatever other users stand in the call.

        `convert` turns the Recommendations of a search into the caller's form, while other searches run. Searches begin
        while blocks are still being read, so it pays to read them lazily; what that raises is raised here.
        """
        items: list[Item] = []
        pending: Pending = {}
        searches: list[tuple[Search, Future[list[tuple[int, Any]]]]] = []
        found: dict[int, Any] = {}
        try:
            for search in full_searches(self._noticed(blocks), items, pending, self._engine_excludes):
                searches.append((search, self._threads.submit(self._run, search, convert)))
            last = [*divide(pending.values(), self.engine.concurrency)]
            searches += [(search, self._threads.submit(self._run, search, convert)) for search in last[:-1]]
            for search in last[-1:]:  # A batch of a few users needs no other thread than the calling one.
                found.update(self._run(search, convert))
            for search, future in searches:
                if future.cancel():  # No thread has begun it yet.
                    found.update(self._run(search, convert))
            for _, future in searches:
                if not future.cancelled():
                    found.update(future.result())
        finally:
            for _, future in searches:
                future.cancel()
        return [found[index] if isinstance(item, User) else item for index, item in enumerate(items)]

    def _noticed(self, blocks: Iterable[UserBlock]) -> Iterator[UserBlock]:
        for block in blocks:
            self.last_progress = time.monotonic()
            yield block

    def _run(self, search: Search, convert: Convert) -> list[tuple[int, Any]]:
        """Return each user's index among all items, and answer."""
        self.last_progress = time.monotonic()
        units = unit_vectors(search.vectors)
        lists = UserLists(search.request, search.users, units, self._ask, self._ids_of, self._field_engine)
        found = lists.find()
        if self._live_recall and self._measured_engine:
            self._live_recall.offer(self._measured_engine, units, search.request, found[:2])
        answers = [self._answer(user, lists, found, row) for row, user in enumerate(search.users)]
        return [*zip(search.indices, convert(answers), strict=True)]

    def _ask(self, vectors: NDArray[np.float32], request: Request) -> Found:
        """Return what the engine finds for unit vectors (n, d)."""
        if request.is_plain:
            best, worst = self.engine.search(vectors, request.depth)
            return best, worst, self.shown_products
        query = request.filter or EVERYTHING
        return self.field_engine.search_matching(vectors, request.depth, query, request.excluded, request.without)

    def _ids_of(self, positions: NDArray[np.int64]) -> list[str]:
        return parse_ids(self.prefixes(positions))

    def _answer(self, user: User, lists: UserLists, found: Found, row: int) -> Recommendation:
        best, worst = (self._matches(user, ranked) for ranked in self._make_lists(user, lists, found, row))
        matched = found[2]
        explain = self._explain(user, matched, lists.paths) if user.explain else None
        return Recommendation(
            user.name,
            best,
            worst,
            matched=None if user.filter is None else matched,
            explain=explain,
            is_restricted=user.is_restricted,
        )

    def _make_lists(self, user: User, lists: UserLists, found: Found, row: int) -> tuple[Ranked, Ranked]:
        """Return both lists of a user. To rerank takes a core, as a search does."""
        if not (user.is_reranked and self._field_engine):
            return lists.lists_of(found, row)
        with self._field_engine.work():
            self.last_progress = time.monotonic()
            return lists.lists_of(found, row)

    def _matches(self, user: User, ranked: Ranked) -> Matches:
        fields = ShownFields(self.field_engine, ranked.positions, user.fields) if user.fields else None
        return Matches(ranked.positions, ranked.scores, fields)

    def _explain(self, user: User, matched: int, paths: dict[str, list[SearchPath]]) -> dict[str, Any]:
        """Say how a user's matches were found: of several searches of a side, each way, and all that they scored."""
        names = dict.fromkeys(path.name for side in SIDES for path in paths[side])
        explain = {
            "path": ", then ".join(names),
            "matched": matched,
            "candidates": {side: sum(path.candidates[side] for path in paths[side]) for side in SIDES},
            "unknown_excluded": int(np.count_nonzero(self.field_engine.positions_of([*user.exclude]) < 0)),
        }
        if user.max_per:
            explain["searches"] = {side: len(paths[side]) for side in SIDES}
        return explain


def _score_ranks(info: IndexInfo) -> ScoreRanks | None:
    if info.quality is None or info.quality["synthetic"]:
        return None
    return ScoreRanks(info.quality["best"]["first_scores"])


@dataclass
class Serving:
    """What a process serves at the moment. A request takes `recommender` once; a new build replaces it whole.

    `is_stuck` tells whether requests wait in vain.
    """

    recommender: Recommender
    draining: bool = False
    is_stuck: Callable[[], bool] = lambda: False
