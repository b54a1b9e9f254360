"""Reads a product file into a catalogue of unit vectors, naming every row that is no product."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index_builder import lenient_json
from index_builder.errors import BadCatalogue
from index_builder.rows import read_rows
from index_builder.vectors import BadVector, json_type, read_vector, unit_vectors

_BLOCK_ROWS = 4096
_MOST_BAD_ROWS_SHOWN = 20


@dataclass(frozen=True)
class Catalogue:
    """Products in file order, each as a line of JSON (`id`, `name`, further fields); `unit_vectors` is (n, d)."""

    lines: list[bytes]
    unit_vectors: NDArray[np.float32]
    dropped_rows: int

    @property
    def dimension(self) -> int:
        return int(self.unit_vectors.shape[1])

    def __len__(self) -> int:
        return len(self.lines)


def read_catalogue(path: Path, on_bad_row: str = "fail") -> Catalogue:
    """Read the products of a file (`rows.py` says which formats). `on_bad_row` is "fail" or "drop".

    The first good row sets the dimension. Raises BadCatalogue, which names every bad row's place, or says that no
    product is left; and BadRows where the file cannot be read.
    """
    collector = _Collector()
    faults: list[str] = []
    for place, row in read_rows(path):
        try:
            collector.add(place, row)
        except _BadRow as reason:
            faults.append(f"{place}: {reason}")
    if faults and (on_bad_row == "fail" or not collector.places):
        raise BadCatalogue(_listing(path, faults))
    if not collector.places:
        raise BadCatalogue(f"{path}: holds no products")
    return collector.catalogue(dropped_rows=len(faults))


class _BadRow(Exception):
    """Why one row is no product."""


@dataclass
class _Collector:
    places: dict[str, str] = field(default_factory=dict)  # of each id, in order
    lines: list[bytes] = field(default_factory=list)
    dimension: int | None = None
    _blocks: list[NDArray[np.float32]] = field(default_factory=list)
    _block: list[NDArray[np.floating]] = field(default_factory=list)

    def add(self, place: str, row: Any) -> None:
        if isinstance(row, lenient_json.BadJson):
            raise _BadRow(str(row))
        if not isinstance(row, dict):
            raise _BadRow(f"a product must be an object, not {json_type(row)}")
        fields = dict(row)
        identifier, name = _labels(fields.pop("id", None), fields.pop("name", None))
        if identifier in self.places:
            raise _BadRow(f"duplicate id {identifier!r}, first used at {self.places[identifier]}")
        vector = self._vector(fields.pop("vector", None))
        line = _encode({"id": identifier, "name": name, **fields})

        self.dimension = len(vector)
        self.places[identifier] = place
        self.lines.append(line)
        self._block.append(vector)
        if len(self._block) == _BLOCK_ROWS:
            self._close_block()

    def catalogue(self, dropped_rows: int) -> Catalogue:
        self._close_block()
        return Catalogue(self.lines, np.concatenate(self._blocks), dropped_rows)

    def _close_block(self) -> None:
        if self._block:
            self._blocks.append(unit_vectors(np.stack(self._block)))
            self._block.clear()

    def _vector(self, values: Any) -> NDArray[np.floating]:
        if values is None:
            raise _BadRow("missing vector")
        try:
            return read_vector(values, self.dimension)
        except BadVector as error:
            raise _BadRow(str(error)) from None


def _labels(identifier: Any, name: Any) -> tuple[str, str]:
    """The row's id and name; the id defaults to the name, and an integer id becomes a string."""
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


def _encode(product: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(product)
    except orjson.JSONEncodeError as error:  # a lone surrogate, an integer beyond 64 bits
        raise _BadRow(f"cannot be stored as JSON: {error}") from None


def _listing(path: Path, faults: list[str]) -> str:
    shown = "".join(f"\n  {fault}" for fault in faults[:_MOST_BAD_ROWS_SHOWN])
    rest = len(faults) - _MOST_BAD_ROWS_SHOWN
    return f"{path}: {len(faults)} bad rows{shown}" + (f"\n  and {rest} more" if rest > 0 else "")
