"""Rows of one product each may be those of products at any rising positions, as the rows of a delta are."""

import numpy as np
import pytest

from retrieval.search.filters.masks import Mask
from retrieval.search.filters.postings import pack
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import RowGroups
from retrieval.search.settings import SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index
from tests.support.oracle import unit

DRAW = np.random.default_rng(3)
COUNT, DIMENSION = 300, 12
VECTORS = DRAW.normal(size=(COUNT, DIMENSION))
VECTORS[100:140] = VECTORS[7]  # These tie, in the order of their positions.
POSITIONS = np.sort(DRAW.choice(10_000, COUNT, replace=False))
USERS = unit_vectors(np.concatenate((DRAW.normal(size=(6, DIMENSION)), VECTORS[7:8])))
INDEX = ProductIndex(faiss_index(unit_vectors(VECTORS)), RowGroups(np.arange(COUNT + 1), POSITIONS), SideSettings())


def expected(user: np.ndarray, sign: int, rows: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The positions and scores of the first products of a side, by exact scores in millionths, then by position."""
    millionths = np.rint(unit(user[None])[0] @ unit(VECTORS[rows]).T * 1e6).astype(int)
    order = np.lexsort((POSITIONS[rows], -sign * millionths))[:k]
    return [(int(POSITIONS[rows][i]), millionths[i] / 1e6) for i in order]


@pytest.mark.parametrize("users", [1, len(USERS)])  # Few scores are all put in order, many are chosen from.
@pytest.mark.parametrize("k", [1, 10, 60, COUNT + 5])
@pytest.mark.parametrize("masked", [False, True])
def test_both_sides_are_those_of_exact_scores(users: int, k: int, masked: bool) -> None:
    rows = np.arange(0, COUNT, 2) if masked else np.arange(COUNT)
    mask = None
    if masked:
        of_rows, of_products = np.zeros(COUNT, np.bool_), np.zeros(10_000, np.bool_)
        of_rows[rows] = of_products[POSITIONS[rows]] = True
        mask = Mask(len(rows), pack(of_products), len(rows), pack(of_rows), rows)
    for sign, found in zip((1, -1), INDEX.search(USERS[-users:], k, mask), strict=True):
        for i, user in enumerate(USERS[-users:]):
            pairs = [*zip(found.positions[i].tolist(), found.scores[i].tolist(), strict=True)]
            exact = expected(user, sign, rows, k)
            assert [position for position, _ in pairs] == [position for position, _ in exact]
            np.testing.assert_allclose([score for _, score in pairs], [score for _, score in exact], atol=1.1e-6)
