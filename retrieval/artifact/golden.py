"""Golden queries: user vectors with the answers a build gave when it was made, replayed before it serves."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.manifest import MANIFEST, GoldenQuery
from retrieval.artifact.products import ProductTable
from retrieval.errors import BadArtifact
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, TOLERANCE, Neighbours

MATCHES = 10
_MIN_SHARE_FOUND = 0.95  # another CPU rounds differently, which can swap near-ties at the last place

Answers = list[dict[str, float]]  # one side's score for each product id, query by query
Search = Callable[[NDArray[np.float32], int], Sequence[Answers]]  # unit vectors (n, d) and k to both sides' answers


def record(index: ProductIndex, products: ProductTable, users: NDArray[np.float32]) -> list[GoldenQuery]:
    """Record what an index answers to (n, d) unit vectors."""
    best, worst = (_answers(side, products) for side in index.search(users, MATCHES))
    return [*map(GoldenQuery, users.tolist(), best, worst)]


def replay(index: ProductIndex, products: ProductTable, queries: list[GoldenQuery]) -> None:
    """Raise BadArtifact where the index no longer gives the recorded answers."""
    for query in queries:
        if len(query.vector) != index.dimension:
            raise BadArtifact(f"{MANIFEST}: a golden query of {len(query.vector)} numbers, not {index.dimension}")

    def search(unit_vectors: NDArray[np.float32], k: int) -> list[Answers]:
        return [_answers(side, products) for side in index.search(unit_vectors, k)]

    check(queries, search, "{side}.faiss")


def check(queries: list[GoldenQuery], search: Search, subject: str) -> None:
    """Raise BadArtifact where too few of a search's answers are those recorded.

    The error names the `subject`, in which `{side}` stands for the side at fault.
    """
    answers = search(np.array([query.vector for query in queries], np.float32), MATCHES)
    recorded = [query.best for query in queries], [query.worst for query in queries]
    for side, expected, found in zip(SIDES, recorded, answers, strict=True):
        same = sum(map(_agreeing, expected, found))
        count = sum(map(len, expected))
        if same < _MIN_SHARE_FOUND * count:
            raise BadArtifact(f"{subject.format(side=side)}: gives {same} of the {count} golden answers in {MANIFEST}")


def _answers(side: Neighbours, products: ProductTable) -> Answers:
    pairs = zip(side.positions.tolist(), side.scores.tolist(), strict=True)
    return [
        {products[position]["id"]: score for position, score in zip(positions, scores, strict=True)}
        for positions, scores in pairs
    ]


def _agreeing(expected: dict[str, float], answer: dict[str, float]) -> int:
    return sum(abs(answer.get(product, np.inf) - score) <= TOLERANCE for product, score in expected.items())
