"""Matches and answers as tests compare them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.search.ranking import Neighbours
from service.engines.base import SearchEngine
from service.http.encoding import write_answers, write_sides
from service.http.requests.user_reader import UserRow, collect_block
from service.recommender import Matches, Recommender, User


@dataclass
class Match:
    id: str
    name: str
    score: float


def matches_in(encoded: bytes) -> list[Match]:
    """The matches of a JSON array."""
    return [Match(**fields) for fields in json.loads(encoded)]


def matches_of(engine: SearchEngine | Recommender, side: Matches) -> list[Match]:
    """The matches of one side of an answer."""
    [encoded] = write_sides(engine.prefixes, [side])
    return matches_in(encoded)


def found_by(engine: SearchEngine, unit_vectors: NDArray[np.float32], k: int) -> list[dict[str, list[Match]]]:
    """Both sides of what an engine finds for each user, without padding."""
    best, worst = engine.search(unit_vectors, k)
    assert best.positions.shape == best.scores.shape == worst.positions.shape == worst.scores.shape
    assert len(best.positions) == len(unit_vectors)
    return [{"best": _row(engine, best, i), "worst": _row(engine, worst, i)} for i in range(len(unit_vectors))]


def _row(engine: SearchEngine, side: Neighbours, i: int) -> list[Match]:
    positions = side.positions[i]
    count = int((positions >= 0).sum())
    assert (positions[:count] >= 0).all()
    return matches_of(engine, Matches(positions[:count], side.scores[i][:count]))


def user_row(name: str, vector: Iterable[float], k: int, exclude: Iterable[str] = ()) -> UserRow:
    """A user and the vector, as readers give them."""
    return User(k, frozenset(exclude), name=name), np.array(vector, np.float64)


def answers_to(recommender: Recommender, rows: list[UserRow]) -> list[bytes]:
    """The JSON of the answers to users of one block."""
    block = collect_block(rows, recommender.info.dimension)
    return write_answers(recommender.prefixes, recommender.recommend([block]))
