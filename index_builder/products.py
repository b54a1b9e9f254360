"""The products table: a line of JSON for each product, found by catalogue position without reading the others."""

import mmap
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index_builder.errors import BadArtifact
from index_builder.ranking import RowGroups

LINES, LINE_STARTS = "products.jsonl", "products.line_starts.npy"
ROW_STARTS, ROW_PRODUCTS = "products.row_starts.npy", "products.by_row.npy"


class ProductTable:
    """Products by catalogue position, memory-mapped; and `groups`, which of them share an index row."""

    def __init__(self, lines: mmap.mmap, line_starts: NDArray[np.int64], groups: RowGroups):
        self._lines, self._line_starts = lines, line_starts
        self.groups = groups

    def __len__(self) -> int:
        return len(self._line_starts) - 1

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The product's `id`, `name` and further fields."""
        return orjson.loads(self._lines[self._line_starts[position] : self._line_starts[position + 1]])


class ProductWriter:
    """Writes the table of a build product by product."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._lines = (directory / LINES).open("wb")
        self._lengths = array("q")

    def append(self, line: bytes) -> None:
        """Take the next product's `id`, `name` and further fields, as a line of JSON without its end."""
        self._lines.write(line + b"\n")
        self._lengths.append(len(line) + 1)

    def close(self) -> None:
        self._lines.close()

    def finish(self, groups: RowGroups) -> None:
        """Write what finds the lines, and the products of an index row."""
        np.save(self._directory / LINE_STARTS, np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]))
        np.save(self._directory / ROW_STARTS, groups.starts)
        np.save(self._directory / ROW_PRODUCTS, groups.products)


def open_products(directory: Path) -> ProductTable:
    """Map the table of a build. Raises BadArtifact where its files do not fit together."""
    with (directory / LINES).open("rb") as file:
        lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    groups = RowGroups(_array(directory / ROW_STARTS), _array(directory / ROW_PRODUCTS))
    table = ProductTable(lines, _array(directory / LINE_STARTS), groups)
    if len(table) != groups.product_count:
        raise BadArtifact(f"{directory / ROW_PRODUCTS}: {groups.product_count} products, {LINES} has {len(table)}")
    return table


def _array(path: Path) -> NDArray[np.int64]:
    try:
        return np.asarray(np.load(path, mmap_mode="r"))  # np.memmap itself is slow to index
    except ValueError as error:
        raise BadArtifact(f"{path}: not a NumPy array: {error}") from None
