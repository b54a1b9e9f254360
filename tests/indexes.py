"""Product indexes made in memory, as the builder makes them."""

import numpy as np

from index_builder.index import ProductIndex, build_index, group_identical, negated
from index_builder.vectors import unit_vectors
from tests.oracle import Oracle


def index_over(vectors: np.ndarray, factory: str = "Flat") -> ProductIndex:
    """An index of products with these vectors (n, d), of any length."""
    units = unit_vectors(vectors)
    first_products, groups = group_identical(units)
    best = build_index(factory, units[first_products])
    return ProductIndex(best, negated(best), groups)


def check_exact(index: ProductIndex, vectors: np.ndarray, users: np.ndarray, k: int) -> None:
    """Assert that each of the users (u, d) gets NumPy's k best and worst products."""
    oracle = Oracle(vectors)
    for side, found in zip(("best", "worst"), index.search(unit_vectors(users), k), strict=True):
        assert len(found.positions) == len(users)
        for i, user in enumerate(users):
            oracle.check(user, side, found.positions[i].tolist(), found.scores[i].tolist(), k)
