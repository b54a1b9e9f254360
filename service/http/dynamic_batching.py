"""Dynamic batching: one search answers several users who wait for `/infer` in less time than as many searches."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

from service.engines.base import IndexInfo
from service.http import metrics
from service.http.encoding import encode_answers
from service.http.requests.user_reader import reader_for
from service.recommender import Serving, UserBlock, find_mismatch
from service.settings import Limits

_MATCH_SECONDS = 5e-6  # both sides of one match, found and written
# An estimate holds for most users, not for those near a crowd of products that tie, whose searches score all rows.
# Where a batch has computed for longer than its estimates may come to, users are left to threads for a while.
_MAX_OVERRUN, _CAUTIOUS_SECONDS = 8, 1.0


class TakesLong(Enum):
    """What stands for an answer that has not been looked for, as it would take too long."""

    TAKES_LONG = auto()


TAKES_LONG = TakesLong.TAKES_LONG


@dataclass(frozen=True, slots=True)
class BatchedAnswer:
    """The JSON of the answer to a user, and the build that gave it."""

    info: IndexInfo
    json: bytes


class DynamicBatcher:
    """Answers the bodies of requests that the app then need not see."""

    def __init__(self, serving: Serving, limits: Limits, requires_model: bool = False):
        self._serving, self._limits, self._requires_model = serving, limits, requires_model
        self._cautious_until = -math.inf

    def run_batch(
        self, bodies: Sequence[bytes], max_seconds: float = math.inf, models: Sequence[str | None] = ()
    ) -> list[BatchedAnswer | TakesLong | None]:
        """Return an answer for each body, or None where the app must look: at anything unusual, valid or not.

        `models` are the embedding models that requests name, where one may.
        TAKES_LONG, at no cost, stands for a user whose search is estimated to take longer than `max_seconds`, and for
        all for a second after such an estimate was far too low.
        """
        if math.isfinite(max_seconds) and time.monotonic() < self._cautious_until:
            return [TAKES_LONG] * len(bodies)
        began, recommender = time.thread_time(), self._serving.recommender
        try:
            reader = reader_for(recommender.info.dimension, self._limits, recommender.vocabulary)
            users, vectors = reader.parse_fast(
                self._of_fitting_models(recommender.info.embedding_model, bodies, models)
            )
            max_depth = (max_seconds - recommender.engine.search_seconds) / _MATCH_SECONDS
            fits = [user.full_depth <= max_depth for user in users if user]
            quick = [user for user in users if user and user.full_depth <= max_depth]
            block = UserBlock(quick, vectors if all(fits) else vectors[fits])
            answers = recommender.recommend_inline(block, partial(encode_answers, recommender.prefixes))
        except Exception:  # noqa: BLE001 (Each request meets it again, and says so in its own answer.)
            return [None] * len(bodies)
        if time.thread_time() - began > _MAX_OVERRUN * max_seconds:
            self._cautious_until = time.monotonic() + _CAUTIOUS_SECONDS
        for answer in answers:
            metrics.observe_answers([answer.outcome], recommender)
        found, info, fit = iter(answers), recommender.info, iter(fits)
        return [
            None if user is None else BatchedAnswer(info, next(found).json) if next(fit) else TAKES_LONG
            for user in users
        ]

    def _of_fitting_models(
        self, label: str | None, bodies: Sequence[bytes], models: Sequence[str | None]
    ) -> Sequence[bytes]:
        """Return bodies, with nothing in the place of those whose embedding model is not that of the build."""
        if not self._requires_model and not any(models):
            return bodies
        named = models or [None] * len(bodies)
        return [
            b"" if find_mismatch(label, model, self._requires_model) else body
            for body, model in zip(bodies, named, strict=True)
        ]
