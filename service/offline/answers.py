"""Answers to any number of users, in pieces that fit the memory whatever `k` they ask for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval.artifact.store import Build, current_build_id, open_build
from service.cores import cores_of_worker, shared_cores
from service.engines.faiss_engine import FaissEngine
from service.http.schemas import UserReader
from service.recommender import Answer, Item, Recommender, User
from service.settings import Limits

_MOST_MATCHES = 200_000  # a side of a piece


class Answerer:
    """Reads and answers users with one build, on one core."""

    def __init__(self, build: Build, limits: Limits):
        self._recommender = Recommender(FaissEngine(build, cores_of_worker(shared_cores(), 1, 0, 1)))
        self.dimension, self.limits = self._recommender.info.dimension, limits
        self.reader = UserReader(self.dimension, limits)

    def answer(self, items: Sequence[Item]) -> Iterator[list[Answer]]:
        """The answers to all users, in order, some at a time; who could not be read is their own answer."""
        for piece in _pieces(items):
            yield [*self._recommender.recommend(piece, here=True)]


def open_answerer(artifacts: Path, limits: Limits, build_id: str | None = None, verified: bool = False) -> Answerer:
    """Open a build, or the current one, and verify it unless it was `verified` before. Raises BadArtifact."""
    build = open_build(artifacts, build_id or current_build_id(artifacts), verified)
    build.index.warm()
    return Answerer(build, limits)


def _pieces(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    start = matches = 0
    for i, item in enumerate(items):
        depth = item.k + len(item.exclude) if isinstance(item, User) else 1
        if i > start and matches + depth > _MOST_MATCHES:
            yield items[start:i]
            start, matches = i, 0
        matches += depth
    if start < len(items):
        yield items[start:]
