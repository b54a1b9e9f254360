"""Users that a cluster answers, and what exact NumPy says of their answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_builder.pipelines.build import BuildRequest, build
from service.offline.record_batches import ANSWERS
from tests.support.catalogues import products_of, write_lines
from tests.support.oracle import Oracle

USERS, DIMENSION = 200, 5
BAD, FILTERED = 17, 42  # users: one whose vector is short, and one whose filter every other product matches
PRODUCTS = np.random.default_rng(4).normal(size=(30, DIMENSION))
_K = (3, 10, 30)
_VECTORS = np.random.default_rng(5).normal(size=(USERS, DIMENSION))


def publish(root: Path, products: NDArray[np.float64]) -> str:
    """Build products of which every other one is odd, and return the build's id."""
    rows = [{**row, "odd": i % 2 == 1} for i, row in enumerate(products_of(products))]
    return build(BuildRequest(write_lines(root.parent / "products.jsonl", rows), root)).build_id


def user_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"name": f"user {i}", "vector": vector, "k": _K[i % len(_K)], "filter": None}
        for i, vector in enumerate(_VECTORS.tolist())
    ]
    rows[BAD]["vector"] = rows[BAD]["vector"][:-1]
    rows[FILTERED]["filter"] = '{"odd": true}'
    return rows


def check_answers(answers: Sequence[dict[str, Any]], products: NDArray[np.float64]) -> None:
    """Assert that these are the answers to `user_rows`, in their order, and exact NumPy's."""
    assert [row["name"] for row in answers] == [f"user {i}" for i in range(USERS)]
    for i, row in enumerate(answers):
        assert list(row) == ANSWERS.names
        if i == BAD:
            detail = f"vector has {DIMENSION - 1} numbers, {DIMENSION} are expected"
            failed = {"name": f"user {BAD}", "error_code": "vector_dimension", "error_detail": detail}
            assert row == {**dict.fromkeys(ANSWERS.names), **failed}
            continue
        step = 2 if i == FILTERED else 1
        assert row["matched"] == (len(products) // 2 if i == FILTERED else None)
        assert [row[name] for name in ANSWERS.names if name not in ("name", "best", "worst", "matched")] == [None] * 5
        for side in ("best", "worst"):
            positions = [int(match["id"].removeprefix("p")) for match in row[side]]
            assert [match["name"] for match in row[side]] == [f"product {position}" for position in positions]
            scores = [match["score"] for match in row[side]]
            rows = [position // step for position in positions]
            assert all(position % step == step - 1 for position in positions)
            Oracle(products[step - 1 :: step]).check(_VECTORS[i], side, rows, scores, _K[i % len(_K)])
