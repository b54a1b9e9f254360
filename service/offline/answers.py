"""Answers to any number of users, in pieces that fit the memory whatever `k` they ask for."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from retrieval.artifact.store import current_build_id
from service.cores import Cores, shared_cores
from service.engines.faiss_engine import open_engine
from service.errors import BadBatch
from service.http.requests.user_reader import UserReader
from service.recommender import Answer, Recommender, User, UserBlock, find_mismatch
from service.settings import Limits

_MAX_MATCHES_PER_PIECE = 200_000  # on each side
_MATCHES_PER_SHOWN = 16  # A match that is shown with fields counts as so many.


class Answerer:
    """Reads and answers users with one build, on one core."""

    def __init__(
        self, artifacts: Path, limits: Limits, build_id: str | None = None, shown: str = "", verified: bool = False
    ):
        """Open a build, or the current one, as `open_engine` does. Raises BadArtifact or BadSetting."""
        chosen = build_id or current_build_id(artifacts)
        self._recommender = Recommender(open_engine(artifacts, chosen, Cores(shared_cores(), 1), shown, verified))
        self.prefixes = self._recommender.prefixes
        self.dimension, self.limits = self._recommender.info.dimension, limits
        self.embedding_model = self._recommender.info.embedding_model
        self.reader = UserReader(self.dimension, limits, self._recommender.vocabulary)

    def answer(self, blocks: Iterable[UserBlock]) -> Iterator[list[Answer]]:
        """Yield the answers to all users, in order, some at a time; one who could not be read is the answer."""
        for block in blocks:
            for piece in _pieces(block):
                yield self._recommender.recommend_inline(piece)


def check_model(label: str | None, named: str | None, is_required: bool = False) -> None:
    """Raise BadBatch where a build with this label is not of the embedding model that users' vectors are said to be."""
    if named is not None and label is None:
        mismatch = f"the vectors are of {named!r}, and the build has no embedding model to hold them to"
    else:
        mismatch = find_mismatch(label, named, is_required)
    if mismatch:
        raise BadBatch(f"embedding model: {mismatch}")


def _pieces(block: UserBlock) -> Iterator[UserBlock]:
    """Yield a block in pieces that have a bounded number of matches."""
    start = first_row = row = matches = 0
    for i, item in enumerate(block.items):
        depth = item.full_depth * (_MATCHES_PER_SHOWN if item.fields else 1) if isinstance(item, User) else 1
        if i > start and matches + depth > _MAX_MATCHES_PER_PIECE:
            yield UserBlock(block.items[start:i], block.vectors[first_row:row])
            start, first_row, matches = i, row, 0
        row += isinstance(item, User)
        matches += depth
    if start < len(block.items):
        yield UserBlock(block.items[start:], block.vectors[first_row:])
