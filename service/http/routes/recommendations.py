"""Routes that recommend products to users: `/infer` and `/batch`."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial

from flask import Response, request

from retrieval.search.reranking.request import ListOptions
from service.errors import FailedUser, TooLarge
from service.http import encoding, metrics
from service.http.requests.misspelt import MAX_NAMES
from service.http.requests.user_reader import UserReader, reader_for
from service.http.routes.base import USERS, Routes, View, respond
from service.recommender import Outcome, Recommender, User, UserBlock
from service.settings import Limits


class Recommendations(Routes):
    def views(self) -> dict[str, View]:
        return {"infer": self.infer, "batch": self.batch}

    def infer(self, recommender: Recommender) -> Response:
        user, vector = self._reader(recommender).read_user(self.read_body())
        check_work(user, self.settings.limits)
        found = [recommender.recommend_one(user, vector)]
        [answer] = encoding.encode_answers(recommender.prefixes, found, self.reserve_answer())
        request.environ[USERS] = 1
        metrics.observe_answers([answer.outcome], recommender)
        response = respond(recommender, answer.json)
        name_ignored(response, user.ignored)
        return response

    def batch(self, recommender: Recommender) -> Response:
        reader, body = self._reader(recommender), self.read_body()
        if request.mimetype in encoding.LINES:
            read, write, media_type = reader.read_lines, encoding.write_lines, request.mimetype
        else:
            read, write, media_type = reader.read_array, encoding.write_array, encoding.JSON
        encode = partial(encoding.encode_answers, recommender.prefixes, reserve=self.reserve_answer())
        ignored: dict[str, None] = {}
        blocks = note_ignored(limit_matches(read(body), self.settings.limits), ignored)
        answers = recommender.recommend(blocks, encode)
        failed = [answer for answer in answers if isinstance(answer, FailedUser)]
        for user in failed:
            metrics.FAILED_USERS.labels(user.error.code).inc()
        outcomes = [answer.outcome for answer in answers if not isinstance(answer, FailedUser)]
        observe_batch(recommender, len(answers), outcomes)
        written = (encoding.write_json(each) if isinstance(each, FailedUser) else each.json for each in answers)
        response = respond(recommender, write(written), media_type)
        response.headers["X-Batch-Errors"] = str(len(failed))
        name_ignored(response, ignored)
        return response

    def _reader(self, recommender: Recommender) -> UserReader:
        return reader_for(recommender.info.dimension, self.settings.limits, recommender.vocabulary)


def limit_matches(blocks: Iterable[UserBlock], limits: Limits) -> Iterator[UserBlock]:
    """Yield the users of a batch. Raises TooLarge when they come to ask for more matches, or work, than is allowed."""
    matches = work = 0
    for block in blocks:
        users = [item for item in block.items if isinstance(item, User)]
        matches += sum(user.k for user in users)
        work += sum(user.work for user in users)
        if work > limits.users_times_k:
            counted = "users x k" if work == matches else "users x k, where k counts ten times and more with diversity"
            raise TooLarge(f"the batch asks for more than {limits.users_times_k} matches a side ({counted})")
        yield block


def check_work(options: ListOptions, limits: Limits) -> None:
    """Raise TooLarge where one user's diversity takes more work than all of a batch may."""
    if options.diversity and options.work > limits.users_times_k:
        raise TooLarge(f"k = {options.k} with diversity takes more work than {limits.users_times_k} matches")


def note_ignored(blocks: Iterable[UserBlock], ignored: dict[str, None]) -> Iterator[UserBlock]:
    """Yield the users of a batch, and add the members that look like misspelt options to `ignored`, in order."""
    for block in blocks:
        ignored.update((name, None) for item in block.items if isinstance(item, User) for name in item.ignored)
        yield block


def name_ignored(response: Response, names: Collection[str]) -> None:
    """Name members of the request that look like misspelt options, if there are any, in the answer's header."""
    if names:
        response.headers["X-Ignored-Fields"] = ", ".join([*names][:MAX_NAMES])


def observe_batch(recommender: Recommender, user_count: int, outcomes: Sequence[Outcome]) -> None:
    """Count the users of a batch, and some of their best scores and of the products that their filters let through."""
    request.environ[USERS] = user_count
    metrics.BATCH_USERS.observe(user_count)
    metrics.observe_answers(outcomes, recommender)
