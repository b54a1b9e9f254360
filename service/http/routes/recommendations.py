"""Routes that recommend products to users: `/infer` and `/batch`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from flask import Response, request

from service.errors import FailedUser, TooLarge
from service.http import encoding, metrics
from service.http.dynamic_batching import BatchedAnswer
from service.http.routes.base import ANSWERED, USERS, Routes, View, respond
from service.http.user_reader import UserReader, reader_for
from service.recommender import Recommender, User, UserBlock
from service.settings import Limits

_MAX_SCORES_OBSERVED_PER_BATCH = 10


class Recommendations(Routes):
    def views(self) -> dict[str, View]:
        return {"infer": self.infer, "batch": self.batch}

    def infer(self, recommender: Recommender) -> Response:
        answered: BatchedAnswer = request.environ.get(ANSWERED) or self._answer_user(recommender)
        observe_answers([answered.answer.best_score])
        return respond(answered.recommender, answered.answer.json)

    def batch(self, recommender: Recommender) -> Response:
        reader, body = self._reader(recommender), self.read_body()
        if request.mimetype == encoding.NDJSON:
            read, write, media_type = reader.read_lines, encoding.write_lines, encoding.NDJSON
        else:
            read, write, media_type = reader.read_array, encoding.write_array, encoding.JSON
        encode = partial(encoding.encode_answers, recommender.prefixes)
        answers = recommender.recommend(limit_matches(read(body), self.settings.limits), encode)
        failed = [answer for answer in answers if isinstance(answer, FailedUser)]
        for user in failed:
            metrics.FAILED_USERS.labels(user.error.code).inc()
        observe_batch([None if isinstance(answer, FailedUser) else answer.best_score for answer in answers])
        written = (encoding.write_json(each) if isinstance(each, FailedUser) else each.json for each in answers)
        response = respond(recommender, write(written), media_type)
        response.headers["X-Batch-Errors"] = str(len(failed))
        return response

    def _answer_user(self, recommender: Recommender) -> BatchedAnswer:
        user = self._reader(recommender).read_user(self.read_body())
        [answer] = encoding.encode_answers(recommender.prefixes, [recommender.recommend_one(*user)])
        return BatchedAnswer(recommender, answer)

    def _reader(self, recommender: Recommender) -> UserReader:
        return reader_for(recommender.info.dimension, self.settings.limits, recommender.vocabulary)


def limit_matches(blocks: Iterable[UserBlock], limits: Limits) -> Iterator[UserBlock]:
    """Yield the users of a batch. Raises TooLarge when they come to ask for more matches than are allowed."""
    matches = 0
    for block in blocks:
        matches += sum(item.k for item in block.items if isinstance(item, User))
        if matches > limits.users_times_k:
            raise TooLarge(f"the batch asks for more than {limits.users_times_k} matches a side (users x k)")
        yield block


def observe_batch(best_scores: Sequence[float | None]) -> None:
    """Count the users of a batch and some of their best scores; those without a match have None."""
    observe_answers(best_scores)
    metrics.BATCH_USERS.observe(len(best_scores))


def observe_answers(best_scores: Sequence[float | None]) -> None:
    """Count the users of the current request and the best scores of the first of them."""
    request.environ[USERS] = len(best_scores)
    for score in best_scores[:_MAX_SCORES_OBSERVED_PER_BATCH]:
        if score is not None:
            metrics.BEST_SCORE.observe(score)
