"""Product files for tests of the builder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def products_of(vectors: np.ndarray) -> list[dict[str, Any]]:
    """A product a row: p0, p1, … named product 0, product 1, …"""
    return [{"id": f"p{i}", "name": f"product {i}", "vector": row} for i, row in enumerate(vectors.tolist())]


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Write a row a line; bytes stand as they are, anything else is written as JSON."""
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
