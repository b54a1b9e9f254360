"""The products table: a line of JSON for each product, found by position, id or name without reading the others."""

import mmap
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.errors import BadArtifact
from retrieval.search.folded_texts import FoldedTexts
from retrieval.search.ranking import RowGroups

# The files' names are part of the format of a build: "head" stands for the JSON prefix in them.
LINES, LINE_STARTS, PREFIX_LENGTHS = "products.jsonl", "products.line_starts.npy", "products.head_lengths.npy"
ROW_STARTS, ROW_PRODUCTS, ROWS = "products.row_starts.npy", "products.by_row.npy", "products.rows.npy"
BY_ID, BY_NAME = "products.by_id.npy", "products.by_name.npy"
_ARRAYS = (LINE_STARTS, PREFIX_LENGTHS, BY_ID, BY_NAME)
TABLE_FILES, ROW_FILES = (LINES, *_ARRAYS), (ROW_STARTS, ROW_PRODUCTS, ROWS)

_NAMES_AT_ONCE = 10_000
_SPARSE_STEP = 16  # One id of so many is kept in memory. It is a power of two, as ids between are found by halving.

Prefixes = Callable[[NDArray[np.int64]], list[bytes]]  # catalogue positions (m,) to `ProductTable.prefixes`


class ProductTable:
    """Products by catalogue position, memory-mapped."""

    def __init__(self, lines: mmap.mmap | bytes, arrays: dict[str, NDArray[np.unsignedinteger]]):
        """`arrays` are those of a build by file name; all but LINE_STARTS have a number a product."""
        self.lines, self.line_starts, self.prefix_lengths = lines, arrays[LINE_STARTS], arrays[PREFIX_LENGTHS]
        self.by_id, self.by_name = arrays[BY_ID], arrays[BY_NAME]

    def __len__(self) -> int:
        return len(self.line_starts) - 1

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return the product's `id`, `name` and further fields."""
        return orjson.loads(self.line(position))

    def line(self, position: int) -> bytes:
        """Return the JSON of the product, which begins with its prefix."""
        return self.lines[self.line_starts[position] : self.line_starts[position + 1] - 1]

    def sizes_behind_prefix(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return how many bytes the JSON of each product (m,) has behind its prefix."""
        starts, ends = (self.line_starts[each].astype(np.int64) for each in (positions, positions + 1))
        return ends - starts - self.prefix_lengths[positions] - 1

    def standing(self) -> NDArray[np.int64]:
        """Return the position of each product, in catalogue order."""
        return np.arange(len(self))

    def prefixes(self, positions: NDArray[np.integer]) -> list[bytes]:
        """Return each product's JSON up to its `id` and `name`, left open: `{"id":"p17","name":"Margherita pizza"`."""
        starts = self.line_starts[positions].astype(np.int64)
        ends = starts + self.prefix_lengths[positions]
        lines = self.lines
        return [lines[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def positions(self, identifiers: Sequence[str]) -> NDArray[np.int64]:
        """Return the catalogue position of the product with each id (m,), and -1 for an id that no product has.

        All ids take each step of their bisections together, as NumPy and the parser are slow for one.
        """
        if not len(self):
            return np.full(len(identifiers), -1)
        starts = [max(0, bisect_right(self._sparse_ids, each) - 1) for each in identifiers]
        ranks, step = np.array(starts, np.int64) * _SPARSE_STEP, _SPARSE_STEP
        while step := step // 2:
            further = np.minimum(ranks + step, len(self) - 1)
            pairs = zip(self.ids(self.by_id[further]), identifiers, strict=True)
            ranks = np.where(np.fromiter((found <= each for found, each in pairs), np.bool_), further, ranks)
        positions = self.by_id[ranks].astype(np.int64)
        pairs = zip(self.ids(positions), identifiers, strict=True)
        return np.where(np.fromiter((found == each for found, each in pairs), np.bool_), positions, -1)

    def starting_with(self, prefix: str) -> Iterator[NDArray[np.integer]]:
        """Yield positions, in parts and in the order of names, of products whose names begin so in any case."""
        folded = prefix.casefold()
        start = bisect_left(self.by_name, folded, key=self._folded_name)
        end = bisect_right(self.by_name, folded, start, key=lambda position: self._folded_name(position)[: len(folded)])
        yield self.by_name[start:end]

    def containing(self, text: str) -> Iterator[NDArray[np.integer]]:
        """Yield positions, in parts and in the order of `ranked_containing`, of products whose names contain a text."""
        yield from (positions for _, positions in self.ranked_containing(text))

    def ranked_containing(self, text: str) -> Iterator[tuple[int, NDArray[np.integer]]]:
        """Yield the positions of products whose names contain the text, as `FoldedTexts` does the numbers of texts.

        Among those of a rank, names are in their order. The first call folds all names: 2 s for a million.
        """
        for rank, numbers in self._folded_texts.containing(text):
            yield rank, self.by_name[numbers]

    @cached_property
    def _sparse_ids(self) -> list[str]:
        """Every so manieth id in their order."""
        return self.ids(self.by_id[::_SPARSE_STEP])

    @cached_property
    def _folded_texts(self) -> FoldedTexts:
        """The names in their order."""
        starts = range(0, len(self), _NAMES_AT_ONCE)
        parts = (parse_prefixes(self.prefixes(self.by_name[start : start + _NAMES_AT_ONCE])) for start in starts)
        return FoldedTexts(label["name"] for labels in parts for label in labels)

    def ids(self, positions: NDArray[np.integer]) -> list[str]:
        """Return the id of each product."""
        return parse_ids(self.prefixes(positions))

    def folded_names(self, positions: NDArray[np.integer]) -> list[str]:
        """Return the name of each product as names are ordered."""
        return [label["name"].casefold() for label in parse_prefixes(self.prefixes(positions))]

    def _folded_name(self, position: int) -> str:
        [name] = self.folded_names(np.array([position]))
        return name


class ProductWriter:
    """Writes the table of a build product by product."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._lines = (directory / LINES).open("wb")
        self._lengths, self._prefix_lengths = array("q"), array("q")
        self._ids: list[str] = []
        self._folded_names: list[str] = []

    def append(self, identifier: str, name: str, fields: dict[str, Any]) -> None:
        """Add the next product. Raises orjson.JSONEncodeError where it cannot be written as JSON."""
        prefix = orjson.dumps({"id": identifier, "name": name})[:-1]
        line = prefix + (b"," + orjson.dumps(fields)[1:] if fields else b"}") + b"\n"
        self._lines.write(line)
        self._lengths.append(len(line))
        self._prefix_lengths.append(len(prefix))
        self._ids.append(identifier)
        self._folded_names.append(name.casefold())

    def close(self) -> None:
        self._lines.close()

    def finish(self) -> None:
        """Write the arrays that find lines and prefixes, and products by id and name."""
        starts = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])
        arrays = starts, np.asarray(self._prefix_lengths), _order(self._ids), _order(self._folded_names)
        for name, numbers in zip(_ARRAYS, arrays, strict=True):
            write_numbers(self._directory / name, numbers)


@dataclass(frozen=True)
class RowTable:
    """Which products share an index row: the `groups` of them, and the row of each product (n,)."""

    groups: RowGroups
    row_of_product: NDArray[np.unsignedinteger]

    def of(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the index row of each catalogue position."""
        return self.row_of_product[positions].astype(np.int64)


def write_rows(directory: Path, groups: RowGroups) -> None:
    """Write the row table of a build."""
    rows = groups.row_of(np.arange(groups.product_count))
    for name, numbers in zip(ROW_FILES, (groups.starts, groups.products, rows), strict=True):
        write_numbers(directory / name, numbers)


def open_rows(directory: Path, product_count: int) -> RowTable:
    """Map the row table of a build. Raises BadArtifact where it is not that of so many products."""
    starts, products, rows = (map_numbers(directory / name) for name in ROW_FILES)
    for name, numbers in ((ROW_PRODUCTS, products), (ROWS, rows)):
        if len(numbers) != product_count:
            raise BadArtifact(f"{directory / name}: {len(numbers)} products, {LINE_STARTS} has {product_count}")
    return RowTable(RowGroups(starts, products), rows)


def write_numbers(path: Path, numbers: NDArray[np.integer]) -> None:
    """Write numbers of no sign, in four bytes each, or in eight where they need them."""
    np.save(path, numbers.astype(np.uint32 if numbers.max(initial=0) < 2**32 else np.uint64))


def parse_prefixes(prefixes: list[bytes]) -> list[dict[str, str]]:
    """Return the `id` and `name` in each product's JSON prefix."""
    return orjson.loads(b"[" + b",".join([prefix + b"}" for prefix in prefixes]) + b"]")


def parse_ids(prefixes: list[bytes]) -> list[str]:
    """Return the id of each product."""
    return [label["id"] for label in parse_prefixes(prefixes)]


def open_products(directory: Path) -> ProductTable:
    """Map the table of a build. Raises BadArtifact where its files do not fit together."""
    with (directory / LINES).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    arrays = {name: map_numbers(directory / name) for name in _ARRAYS}
    table = ProductTable(lines, arrays)
    for name in (PREFIX_LENGTHS, BY_ID, BY_NAME):
        if len(arrays[name]) != len(table):
            raise BadArtifact(f"{directory / name}: {len(arrays[name])} products, {LINE_STARTS} has {len(table)}")
    if len(lines) != arrays[LINE_STARTS][-1]:
        raise BadArtifact(f"{directory / LINES}: has {len(lines)} bytes, which is not where {LINE_STARTS} ends")
    return table


def _order(keys: list[str]) -> NDArray[np.int64]:
    """Return the catalogue positions in the order of their keys; equal keys stand in catalogue order."""
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def map_numbers(path: Path) -> NDArray[np.unsignedinteger]:
    """Map what `write_numbers` has written. Raises BadArtifact."""
    try:
        return np.asarray(np.load(path, mmap_mode="r"))  # An np.memmap is slow to index.
    except FileNotFoundError as error:
        raise BadArtifact(f"{path}: is missing; `python -m index_builder` makes a build with all files") from error
    except (ValueError, EOFError) as error:
        raise BadArtifact(f"{path}: not a NumPy array: {error}") from error
