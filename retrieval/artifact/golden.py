"""Golden queries: user vectors with the answers a build gave when it was made, replayed before it serves."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.manifest import MANIFEST, GoldenQuery
from retrieval.artifact.products import Prefixes, parse_prefixes
from retrieval.errors import BadArtifact
from retrieval.search.ranking import SIDES, TOLERANCE, Neighbours

MATCHES = 10
_MIN_SHARE_FOUND = 0.95  # Another CPU rounds differently, which can swap near-ties at the last place.

Answers = list[dict[str, float]]  # one side's score for each product id, query by query
Search = Callable[[NDArray[np.float32], int], tuple[Neighbours, Neighbours]]  # unit vectors (n, d) and k to both sides


def record(search: Search, prefixes: Prefixes, users: NDArray[np.float32]) -> list[GoldenQuery]:
    """Record what a search answers to (n, d) unit vectors."""
    best, worst = (_answers(side, prefixes) for side in search(users, MATCHES))
    return [*map(GoldenQuery, users.tolist(), best, worst)]


def replay(queries: list[GoldenQuery], search: Search, prefixes: Prefixes, subject: str) -> None:
    """Raise BadArtifact where too few of a search's answers are those recorded.

    The error names the `subject`, in which `{side}` stands for the side at fault.
    """
    found = search(np.array([query.vector for query in queries], np.float32), MATCHES)
    for side, neighbours in zip(SIDES, found, strict=True):
        recorded: Answers = [getattr(query, side) for query in queries]
        answers = zip(recorded, _answers(neighbours, prefixes), strict=True)
        errors = [abs(score - answer.get(id_, np.inf)) for scores, answer in answers for id_, score in scores.items()]
        same, count = sum(error <= TOLERANCE for error in errors), len(errors)
        if same < _MIN_SHARE_FOUND * count:
            raise BadArtifact(f"{subject.format(side=side)}: gives {same} of the {count} golden answers in {MANIFEST}")


def _answers(side: Neighbours, prefixes: Prefixes) -> Answers:
    answers = []
    for positions, scores in zip(side.positions, side.scores.tolist(), strict=True):
        found = parse_prefixes(prefixes(positions[positions >= 0]))  # An approximate engine pads what it did not find.
        answers.append({product["id"]: score for product, score in zip(found, scores, strict=False)})
    return answers
