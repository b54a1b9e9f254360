"""Routes that recommend products to users: `/infer` and `/batch`."""

from collections.abc import Iterable, Iterator, Sequence

from flask import Response, request

from service.errors import FailedUser, TooLarge
from service.http import encoding, metrics
from service.http.dynamic_batching import BatchedAnswer
from service.http.routes.base import ANSWERED, USERS, Routes, View, respond
from service.http.user_reader import reader_for
from service.recommender import Answer, Recommendation, Recommender, User, UserBlock
from service.settings import Limits

_MAX_SCORES_OBSERVED = 10  # of a batch


class Recommendations(Routes):
    def views(self) -> dict[str, View]:
        return {"infer": self.infer, "batch": self.batch}

    def infer(self, recommender: Recommender) -> Response:
        answered: BatchedAnswer = request.environ.get(ANSWERED) or self._answer_user(recommender)
        observe_answers([answered.answer])
        [written] = encoding.write_answers(answered.recommender.prefixes, [answered.answer])
        return respond(answered.recommender, written)

    def batch(self, recommender: Recommender) -> Response:
        reader, body = reader_for(recommender.info.dimension, self.settings.limits), self.read_body()
        if request.mimetype == encoding.NDJSON:
            read, write, media_type = reader.read_lines, encoding.write_lines, encoding.NDJSON
        else:
            read, write, media_type = reader.read_array, encoding.write_array, encoding.JSON
        answers = recommender.recommend(limit_matches(read(body), self.settings.limits))
        observe_batch(answers)
        failed = [answer for answer in answers if isinstance(answer, FailedUser)]
        for user in failed:
            metrics.FAILED_USERS.labels(user.error.code).inc()
        written = write(encoding.write_answers(recommender.prefixes, answers))
        response = respond(recommender, written, media_type)
        response.headers["X-Batch-Errors"] = str(len(failed))
        return response

    def _answer_user(self, recommender: Recommender) -> BatchedAnswer:
        user = reader_for(recommender.info.dimension, self.settings.limits).read_user(self.read_body())
        return BatchedAnswer(recommender, recommender.recommend_one(*user))


def limit_matches(blocks: Iterable[UserBlock], limits: Limits) -> Iterator[UserBlock]:
    """Yield the users of a batch. Raises TooLarge when they come to ask for more matches than are allowed."""
    matches = 0
    for block in blocks:
        matches += sum(item.k for item in block.items if isinstance(item, User))
        if matches > limits.users_times_k:
            raise TooLarge(f"the batch asks for more than {limits.users_times_k} matches a side (users x k)")
        yield block


def observe_batch(answers: Sequence[Answer]) -> None:
    """Count the users of a batch and some of their scores."""
    observe_answers(answers)
    metrics.BATCH_USERS.observe(len(answers))


def observe_answers(answers: Sequence[Answer]) -> None:
    """Count the users of the current request and the best scores of the first of them."""
    request.environ[USERS] = len(answers)
    for answer in answers[:_MAX_SCORES_OBSERVED]:
        if isinstance(answer, Recommendation) and len(answer.best.scores):
            metrics.BEST_SCORE.observe(answer.best.scores[0])
