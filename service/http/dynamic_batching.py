"""Users who wait at the same time for `/infer`: one search answers several in less time than as many searches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from service.http.schemas import UserReader
from service.recommender import Recommendation, Recommender, Serving
from service.settings import Limits


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a user, and who gave it."""

    recommender: Recommender
    answer: Recommendation


class DynamicBatcher:
    """Answers the bodies of requests that the app has yet to see. What the app finds amiss, and what fails, is left
    for it to answer.
    """

    def __init__(self, serving: Serving, limits: Limits):
        self._serving = serving
        self._reader_for = cache(partial(UserReader, limits=limits))

    def answer(self, bodies: Sequence[bytes]) -> list[Answered | None]:
        """One for each body, or None for what is left."""
        recommender = self._serving.recommender
        reader = self._reader_for(recommender.info.dimension)
        users = [reader.read_plain_user(body) for body in bodies]
        try:
            answers = iter(recommender.recommend([user for user in users if user], here=True))
        except Exception:  # noqa: BLE001 (each request meets it again, and says so in its own answer)
            return [None] * len(bodies)
        return [Answered(recommender, next(answers)) if user else None for user in users]
