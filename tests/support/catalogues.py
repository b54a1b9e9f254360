"""Product files for tests of the builder."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index_builder import catalogue
from retrieval.artifact.products import LINES


@dataclass(frozen=True)
class ReadCatalogue:
    """What the builder read: `lines` of the products table, and the unit vector of each product (n, d)."""

    lines: bytes
    unit_vectors: np.ndarray
    dropped_rows: int

    @property
    def products(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.splitlines()]


def read_catalogue(path: Path, on_bad_row: str = "fail") -> ReadCatalogue:
    """Read a product file into a scratch directory, and everything that was written there."""
    with tempfile.TemporaryDirectory() as directory:
        read = catalogue.read_catalogue(path, Path(directory), on_bad_row)
        units = read.vectors.take(read.groups.row_of(np.arange(len(read))))
        lines = (Path(directory) / LINES).read_bytes()
        read.vectors.close()
        assert len(units) == len(lines.splitlines())
        return ReadCatalogue(lines, units, read.dropped_rows)


def products_of(vectors: np.ndarray) -> list[dict[str, Any]]:
    """Return a product for each row: p0 named product 0, p1 named product 1, and so on."""
    return [{"id": f"p{i}", "name": f"product {i}", "vector": row} for i, row in enumerate(vectors.tolist())]


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Write a row a line; bytes stand as they are, anything else is written as JSON."""
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
