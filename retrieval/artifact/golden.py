"""Golden queries: user vectors with the answers a build gave when it was made, replayed before it serves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.products import ProductTable
from retrieval.errors import BadArtifact
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import TOLERANCE, Neighbours

MATCHES = 10
_LEAST_SHARE_FOUND = 0.95  # another CPU rounds differently, which can swap near-ties at the last place


def record(index: ProductIndex, products: ProductTable, users: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The golden queries for (n, d) unit vectors, as JSON values."""
    best, worst = index.search(users, MATCHES)
    return [
        {"vector": users[i].tolist(), "best": _answer(best, i, products), "worst": _answer(worst, i, products)}
        for i in range(len(users))
    ]


def replay(index: ProductIndex, products: ProductTable, golden: list[dict[str, Any]]) -> None:
    """Raise BadArtifact where the index no longer gives the recorded answers."""
    for query in golden:
        if len(query["vector"]) != index.dimension:
            raise BadArtifact(f"manifest.json: a golden query of {len(query['vector'])} numbers, not {index.dimension}")
    users = np.array([query["vector"] for query in golden], np.float32)
    for side, found in zip(("best", "worst"), index.search(users, MATCHES), strict=True):
        expected = [query[side] for query in golden]
        answers = [_answer(found, i, products) for i in range(len(golden))]
        hold(f"{side}.faiss", expected, answers)


def hold(what: str, expected: list[dict[str, float]], answers: list[dict[str, float]]) -> None:
    """Raise BadArtifact where too few of one side's `answers`, a score for each id, are those `expected` of `what`."""
    same = sum(_agreeing(*pair) for pair in zip(expected, answers, strict=True))
    count = sum(map(len, expected))
    if same < _LEAST_SHARE_FOUND * count:
        raise BadArtifact(f"{what}: gives {same} of the {count} golden answers in manifest.json")


def _answer(side: Neighbours, i: int, products: ProductTable) -> dict[str, float]:
    pairs = zip(side.positions[i].tolist(), side.scores[i].tolist(), strict=True)
    return {products[position]["id"]: score for position, score in pairs}


def _agreeing(expected: dict[str, float], answer: dict[str, float]) -> int:
    return sum(abs(answer.get(product, np.inf) - score) <= TOLERANCE for product, score in expected.items())
