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

LINES, LINE_STARTS, HEAD_LENGTHS = "products.jsonl", "products.line_starts.npy", "products.head_lengths.npy"
ROW_STARTS, ROW_PRODUCTS = "products.row_starts.npy", "products.by_row.npy"
TABLE_FILES = (LINES, LINE_STARTS, HEAD_LENGTHS, ROW_STARTS, ROW_PRODUCTS)


class ProductTable:
    """Products by catalogue position, memory-mapped; and `groups`, which of them share an index row."""

    def __init__(
        self, lines: mmap.mmap, line_starts: NDArray[np.int64], head_lengths: NDArray[np.uint32], groups: RowGroups
    ):
        self._lines, self._line_starts, self._head_lengths = lines, line_starts, head_lengths
        self.groups = groups

    def __len__(self) -> int:
        return len(self._line_starts) - 1

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The product's `id`, `name` and further fields."""
        return orjson.loads(self._lines[self._line_starts[position] : self._line_starts[position + 1]])

    def heads(self, positions: NDArray[np.int64]) -> list[bytes]:
        """The JSON of each product's `id` and `name`, left open for more: `{"id":"p17","name":"Margherita pizza"`."""
        starts = self._line_starts[positions]
        ends = starts + self._head_lengths[positions]
        lines = self._lines
        return [lines[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


class ProductWriter:
    """Writes the table of a build product by product."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._lines = (directory / LINES).open("wb")
        self._lengths, self._head_lengths = array("q"), array("I")

    def append(self, identifier: str, name: str, fields: dict[str, Any]) -> None:
        """Take the next product. Raises orjson.JSONEncodeError where it cannot be written as JSON."""
        head = orjson.dumps({"id": identifier, "name": name})[:-1]
        line = head + (b"," + orjson.dumps(fields)[1:] if fields else b"}") + b"\n"
        self._lines.write(line)
        self._lengths.append(len(line))
        self._head_lengths.append(len(head))

    def close(self) -> None:
        self._lines.close()

    def finish(self, groups: RowGroups) -> None:
        """Write what finds the lines and their heads, and the products of an index row."""
        starts = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])
        np.save(self._directory / LINE_STARTS, starts)
        np.save(self._directory / HEAD_LENGTHS, np.asarray(self._head_lengths, np.uint32))
        np.save(self._directory / ROW_STARTS, groups.starts)
        np.save(self._directory / ROW_PRODUCTS, groups.products)


def open_products(directory: Path) -> ProductTable:
    """Map the table of a build. Raises BadArtifact where its files do not fit together."""
    lines = _mapped(directory / LINES)
    groups = RowGroups(_array(directory / ROW_STARTS), _array(directory / ROW_PRODUCTS))
    table = ProductTable(lines, _array(directory / LINE_STARTS), _array(directory / HEAD_LENGTHS), groups)
    for name, count in ((ROW_PRODUCTS, groups.product_count), (HEAD_LENGTHS, len(_array(directory / HEAD_LENGTHS)))):
        if count != len(table):
            raise BadArtifact(f"{directory / name}: {count} products, {LINE_STARTS} has {len(table)}")
    if len(lines) != _array(directory / LINE_STARTS)[-1]:
        raise BadArtifact(f"{directory / LINES}: has {len(lines)} bytes, which is not where {LINE_STARTS} ends")
    return table


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise BadArtifact(f"{path}: {error}") from None


def _array(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r"))  # np.memmap itself is slow to index
    except (ValueError, EOFError) as error:
        raise BadArtifact(f"{path}: not a NumPy array: {error}") from None
