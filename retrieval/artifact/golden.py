"""Golden queries: user vectors with the answers a build gave when it was made, replayed before it serves."""

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.manifest import GoldenQuery
from retrieval.artifact.products import ProductTable
from retrieval.errors import BadArtifact
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, TOLERANCE, Neighbours

MATCHES = 10
_MIN_SHARE_FOUND = 0.95  # another CPU rounds differently, which can swap near-ties at the last place

Answers = list[dict[str, float]]  # one side's score for each product id, query by query


def record(index: ProductIndex, products: ProductTable, users: NDArray[np.float32]) -> list[GoldenQuery]:
    """Record what an index answers to (n, d) unit vectors."""
    best, worst = (_answers(side, products) for side in index.search(users, MATCHES))
    return [*map(GoldenQuery, users.tolist(), best, worst)]


def replay(index: ProductIndex, products: ProductTable, queries: list[GoldenQuery]) -> None:
    """Raise BadArtifact where the index no longer gives the recorded answers."""
    for query in queries:
        if len(query.vector) != index.dimension:
            raise BadArtifact(f"manifest.json: a golden query of {len(query.vector)} numbers, not {index.dimension}")
    answers = [_answers(side, products) for side in index.search(vectors_of(queries), MATCHES)]
    for side, found, expected in zip(SIDES, answers, recorded(queries), strict=True):
        check_answers(f"{side}.faiss", expected, found)


def vectors_of(queries: list[GoldenQuery]) -> NDArray[np.float32]:
    """Return the unit vectors (n, d) of the queries."""
    return np.array([query.vector for query in queries], np.float32)


def recorded(queries: list[GoldenQuery]) -> tuple[Answers, Answers]:
    """Return the recorded answers of the best and of the worst side."""
    return [query.best for query in queries], [query.worst for query in queries]


def check_answers(subject: str, expected: Answers, answers: Answers) -> None:
    """Raise BadArtifact naming the `subject` where too few of one side's answers are those expected."""
    same = sum(map(_agreeing, expected, answers))
    count = sum(map(len, expected))
    if same < _MIN_SHARE_FOUND * count:
        raise BadArtifact(f"{subject}: gives {same} of the {count} golden answers in manifest.json")


def _answers(side: Neighbours, products: ProductTable) -> Answers:
    pairs = zip(side.positions.tolist(), side.scores.tolist(), strict=True)
    return [
        {products[position]["id"]: score for position, score in zip(positions, scores, strict=True)}
        for positions, scores in pairs
    ]


def _agreeing(expected: dict[str, float], answer: dict[str, float]) -> int:
    return sum(abs(answer.get(product, np.inf) - score) <= TOLERANCE for product, score in expected.items())
