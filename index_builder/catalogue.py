"""Reads a product file into a catalogue of unit vectors, naming every row that is no product."""

from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tqdm import tqdm

from retrieval.artifact.products import ProductWriter
from retrieval.errors import BadCatalogue
from retrieval.records.lenient_json import BadJson
from retrieval.records.rows import read_rows
from retrieval.records.vector_file import VectorFile
from retrieval.search.ranking import RowAssigner, RowGroups
from retrieval.vectors import BadVector, json_type, read_vector, unit_vectors

VECTORS = "unit_vectors.f32"  # scratch, no part of a build
_BLOCK_ROWS = 4096
_MAX_LISTED_ROWS = 20


@dataclass(frozen=True)
class Catalogue:
    """A catalogue that has been read: each distinct unit vector once, and the products that share it."""

    vectors: VectorFile
    groups: RowGroups
    norms: NDArray[np.floating]
    dropped_rows: int

    def __len__(self) -> int:
        return self.groups.product_count


def read_catalogue(path: Path, directory: Path, on_bad_row: str = "fail") -> Catalogue:
    """Read a product file (`rows.py` says which formats), and write its table and vectors into the directory.

    The first good row sets the dimension. `on_bad_row` is "fail" or "drop". Raises BadCatalogue, which names every bad
    row's location, or says that no product is left; and BadRows where the file cannot be read.
    """
    with ExitStack() as on_error, closing(ProductWriter(directory)) as products:
        vectors = on_error.enter_context(closing(VectorFile(directory / VECTORS)))
        collector, faults = _Collector(products, vectors), []
        for location, row in tqdm(read_rows(path), desc="reading products", disable=None, leave=False):
            try:
                collector.add(location, row)
            except (_BadRow, BadVector, BadJson) as reason:
                faults.append(f"{location}: {reason}")
        if faults and (on_bad_row == "fail" or not collector.locations):
            raise BadCatalogue(_listing(path, faults))
        if not collector.locations:
            raise BadCatalogue(f"{path}: holds no products")
        catalogue = collector.catalogue(dropped_rows=len(faults))
        on_error.pop_all()
        return catalogue


class _BadRow(Exception):
    """Why one row is no product."""


@dataclass
class _Collector:
    """Takes rows one by one, and writes products and their vectors."""

    _products: ProductWriter
    _vectors: VectorFile
    locations: dict[str, str] = field(default_factory=dict)  # by product id
    _dimension: int | None = None
    _rows: RowAssigner = field(default_factory=RowAssigner)
    _norms: list[NDArray[np.floating]] = field(default_factory=list)
    _block: list[NDArray[np.floating]] = field(default_factory=list)

    def add(self, location: str, row: Any) -> None:
        if isinstance(row, BadJson):
            raise row
        if not isinstance(row, dict):
            raise _BadRow(f"a product must be an object, not {json_type(row)}")
        fields = dict(row)
        identifier, name = _labels(fields.pop("id", None), fields.pop("name", None))
        if identifier in self.locations:
            raise _BadRow(f"duplicate id {identifier!r}, first used at {self.locations[identifier]}")
        values = fields.pop("vector", None)
        if values is None:
            raise _BadRow("missing vector")
        vector = read_vector(values, self._dimension)
        try:
            self._products.append(identifier, name, fields)
        except orjson.JSONEncodeError as error:  # a lone surrogate, an integer beyond 64 bits
            raise _BadRow(f"cannot be stored as JSON: {error}") from error

        self._dimension = len(vector)
        self.locations[identifier] = location
        self._block.append(vector)
        if len(self._block) == _BLOCK_ROWS:
            self._close_block()

    def catalogue(self, dropped_rows: int) -> Catalogue:
        self._close_block()
        groups = self._rows.groups()
        self._products.finish(groups)
        return Catalogue(self._vectors, groups, np.concatenate(self._norms), dropped_rows)

    def _close_block(self) -> None:
        if self._block:
            block = np.stack(self._block)
            self._block.clear()
            vectors = unit_vectors(block)
            self._norms.append(np.sqrt(np.square(block).sum(axis=1)))
            self._vectors.append(vectors[self._rows.assign(vectors)])


def _labels(identifier: Any, name: Any) -> tuple[str, str]:
    """Return a row's id and name; the id defaults to the name, and an integer id becomes a string."""
    if name is not None and not isinstance(name, str):
        raise _BadRow(f"name must be a string, not {json_type(name)}")
    if identifier is None:
        identifier = name
    if type(identifier) is int:
        identifier = str(identifier)
    if identifier is None or identifier == "":
        raise _BadRow("missing id (and no name to take for one)")
    if not isinstance(identifier, str):
        raise _BadRow(f"id must be a string or an integer, not {json_type(identifier)}")
    if name is None:
        raise _BadRow("missing name")
    return identifier, name


def _listing(path: Path, faults: list[str]) -> str:
    shown = "".join(f"\n  {fault}" for fault in faults[:_MAX_LISTED_ROWS])
    rest = len(faults) - _MAX_LISTED_ROWS
    return f"{path}: {len(faults)} bad rows{shown}" + (f"\n  and {rest} more" if rest > 0 else "")
