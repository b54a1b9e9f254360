"""Routes that recommend products to users: `/infer` and `/batch`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

from flask import Response, request

from service.errors import FailedUser, TooLarge
from service.http import metrics, payload
from service.http.dynamic_batching import Answered
from service.http.schemas import UserReader
from service.http.wsgi import ANSWERED, USERS, Routes, View, respond
from service.recommender import Answer, Item, Recommendation, User
from service.settings import Limits

_MAX_SCORES_OBSERVED = 10  # of a batch

_reader_for = cache(UserReader)

_Item = TypeVar("_Item", bound=Item)


class Recommendations(Routes):
    def views(self) -> dict[str, View]:
        return {"infer": self.infer, "batch": self.batch}

    def infer(self) -> Response:
        answered: Answered = request.environ.get(ANSWERED) or self._answer_user()
        observe_answers([answered.answer])
        return respond(answered.recommender, payload.write_answer(answered.answer))

    def batch(self) -> Response:
        recommender, body = self.recommender, self.read_body()
        reader = _reader_for(recommender.info.dimension, self.settings.limits)
        is_ndjson = request.mimetype == payload.NDJSON
        users = reader.read_lines(body) if is_ndjson else reader.read_array(body)
        answers = recommender.recommend(limit_matches(users, self.settings.limits))
        observe_batch(answers)
        failed = [answer for answer in answers if isinstance(answer, FailedUser)]
        for user in failed:
            metrics.FAILED_USERS.labels(user.error.code).inc()
        if is_ndjson:
            response = respond(recommender, payload.write_ndjson(answers), payload.NDJSON)
        else:
            response = respond(recommender, payload.write_array(answers))
        response.headers["X-Batch-Errors"] = str(len(failed))
        return response

    def _answer_user(self) -> Answered:
        recommender, body = self.recommender, self.read_body()
        user = _reader_for(recommender.info.dimension, self.settings.limits).read_user(body)
        return Answered(recommender, recommender.recommend([user], here=True)[0])


def limit_matches(users: Iterable[_Item], limits: Limits) -> Iterator[_Item]:
    """Yield the users of a batch. Raises TooLarge when they come to ask for more matches than are allowed."""
    matches = 0
    for user in users:
        matches += user.k if isinstance(user, User) else 0
        if matches > limits.users_times_k:
            raise TooLarge(f"the batch asks for more than {limits.users_times_k} matches a side (users x k)")
        yield user


def observe_batch(answers: Sequence[Answer]) -> None:
    """Count the users of a batch and some of their scores."""
    observe_answers(answers)
    metrics.BATCH_USERS.observe(len(answers))


def observe_answers(answers: Sequence[Answer]) -> None:
    """Count the users of the current request and the best scores of the first of them."""
    request.environ[USERS] = len(answers)
    for answer in answers[:_MAX_SCORES_OBSERVED]:
        score = payload.first_score(answer.best) if isinstance(answer, Recommendation) else None
        if score is not None:
            metrics.BEST_SCORE.observe(score)
