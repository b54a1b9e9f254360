"""The sample data as anyone reads it, without the builder."""

import gzip
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conftest import PRODUCTS, USERS


@dataclass(frozen=True)
class SampleProducts:
    """The products in file order; `vectors` is (n, d), as in the file."""

    rows: list[dict[str, Any]]
    vectors: NDArray[np.float64]
    positions: dict[str, int]  # of each id


def read_products() -> SampleProducts:
    with gzip.open(PRODUCTS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    vectors = np.array([row.pop("vector") for row in rows])
    return SampleProducts(rows, vectors, {row["id"]: i for i, row in enumerate(rows)})


def read_personas() -> list[dict[str, Any]]:
    """The users of `users.json`."""
    return [json.loads(line) for line in USERS.read_text(encoding="utf-8").splitlines()]
