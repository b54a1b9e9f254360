"""Reads a users file into unit vectors to measure recall with."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index_builder.errors import BadQueries
from index_builder.lenient_json import BadJson
from index_builder.rows import read_rows
from index_builder.vectors import BadVector, read_vector, unit_vectors


def read_users(path: Path, dimension: int) -> NDArray[np.float32]:
    """The unit vectors (u, d) of a users file (`rows.py` says which formats). Raises BadQueries naming the bad row."""
    vectors = []
    for place, row in read_rows(path):
        if isinstance(row, BadJson):
            raise BadQueries(f"{path}: {place}: {row}")
        values = row.get("vector") if isinstance(row, dict) else None
        try:
            vectors.append(read_vector(values, dimension))
        except BadVector as error:
            raise BadQueries(f"{path}: {place}: {error}") from None
    if not vectors:
        raise BadQueries(f"{path}: holds no users")
    return unit_vectors(np.stack(vectors))
