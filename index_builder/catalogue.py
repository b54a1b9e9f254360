"""Reads a product file into a catalogue of unit vectors, naming every row that is no product."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tqdm import tqdm

from retrieval.artifact.fields.writer import FieldReport, FieldWriter
from retrieval.artifact.products import ProductWriter, write_rows
from retrieval.errors import BadCatalogue
from retrieval.records.console import readable
from retrieval.records.lenient_json import BadJson
from retrieval.records.roles import hint
from retrieval.records.rows import AS_NAMED, Row, read_rows
from retrieval.records.vector_file import VectorFile
from retrieval.search.ranking import RowAssigner, RowGroups
from retrieval.vectors import BadVector, json_type, read_vector, unit_vectors

VECTORS = "unit_vectors.f32"  # A scratch file, which is not published.
_BLOCK_ROWS = 4096
_MAX_LISTED_ROWS = 20


@dataclass(frozen=True)
class Catalogue:
    """A catalogue that has been read: each distinct unit vector once, and the products that share it.

    `norms` (n,) are the lengths that the vectors came with; None where they come from builds, which do not keep these.
    `row_faults` says of the first dropped rows what is wrong with them.
    """

    vectors: VectorFile
    groups: RowGroups
    norms: NDArray[np.floating] | None
    dropped_rows: int
    row_faults: list[str]
    fields: FieldReport

    def __len__(self) -> int:
        return self.groups.product_count


class BadProducts(BadCatalogue):
    """Some rows are no products, and others are: `--on-bad-row drop` would leave the bad ones out."""


def read_catalogue(
    path: Path,
    directory: Path,
    on_bad_row: str = "fail",
    filterable: Collection[str] | None = None,
    source_of: Mapping[str, str] = AS_NAMED,
) -> Catalogue:
    """Read a product file (`rows.py` says which formats), and write its table, fields and vectors into the directory.

    The first good row sets the dimension. `on_bad_row` is "fail" or "drop"; `filterable` are the names of the fields to
    filter by, or None for all that can be; `source_of` says what the file calls ids, names and vectors. Raises
    BadCatalogue, which names every bad row's location, says that no product is left, or names a field that cannot be
    filtered by; and BadRows where the file cannot be read.
    """
    faults: list[str] = []
    fields_written = closing(FieldWriter(directory, filterable))
    with ExitStack() as on_error, closing(ProductWriter(directory)) as products, fields_written as fields:
        vectors = on_error.enter_context(closing(VectorFile(directory / VECTORS)))
        read, hints = read_rows(path, source_of=source_of), dict[str, str]()
        good, rows, norms = _write_products(read, products, fields, faults, hints), RowAssigner(), []
        while block := list(islice(good, _BLOCK_ROWS)):
            vectors_read = np.stack(block)
            units = unit_vectors(vectors_read)
            largest = np.abs(vectors_read).max(axis=1)  # Divided by it, the square of 1e200 is finite.
            norms.append(largest * np.sqrt(np.square(vectors_read / largest[:, np.newaxis]).sum(axis=1)))
            vectors.append(units[rows.assign(units)])
        if faults and (on_bad_row == "fail" or not norms):
            advice = "".join(f"\n{each[2:]}" for each in hints.values() if each)
            raise (BadProducts if norms else BadCatalogue)(list_faults(path, faults) + advice)
        if not norms:
            raise BadCatalogue(f"{path}: holds no products")
        groups = rows.groups()
        products.finish()
        write_rows(directory, groups)
        report, shown = fields.finish(), list(map(readable, faults[:_MAX_LISTED_ROWS]))
        on_error.pop_all()
        return Catalogue(vectors, groups, np.concatenate(norms), len(faults), shown, report)


class BadRow(Exception):
    """Why one row cannot be taken."""


class _Missing(BadRow):
    """A row lacks what has a role (`records/roles.py`)."""

    def __init__(self, role: str, message: str):
        super().__init__(message)
        self.role = role


def _write_products(
    rows: Iterable[Row],
    products: ProductWriter,
    further_fields: FieldWriter,
    faults: list[str],
    hints: dict[str, str],
) -> Iterator[NDArray[np.float64]]:
    """Write the rows that are products, and yield the vector (d,) of each; of all others, append the faults.

    The first of them that lacks a vector, or an id and a name, gives the hint which of its members may be that.
    """
    locations: dict[str, str] = {}
    dimension = None
    for location, row in tqdm(rows, desc="reading products", disable=None, leave=False):
        try:
            identifier, name, fields = parse_product(row)
            if identifier in locations:
                raise BadRow(f"duplicate id {identifier!r}, first used at {locations[identifier]}")
            values = fields.pop("vector", None)
            if values is None:
                raise _Missing("vector", "missing vector")
            vector = read_vector(values, dimension)
            products.append(identifier, name, fields)
        except (BadRow, BadVector, BadJson) as reason:
            faults.append(f"{location}: {reason}")
            if isinstance(reason, _Missing):
                hints.setdefault(reason.role, hint(reason.role, row))
        except orjson.JSONEncodeError as error:  # a lone surrogate, an integer beyond 64 bits
            faults.append(f"{location}: cannot be stored as JSON: {error}")
        else:
            further_fields.append(identifier, fields)
            locations[identifier], dimension = location, len(vector)
            yield vector


def parse_product(row: Any) -> tuple[str, str, dict[str, Any]]:
    """Return a row's id, name and other fields; the id defaults to the name, and an integer id becomes a string.

    Raises BadRow, and the BadJson that stands for a row that is none.
    """
    if isinstance(row, BadJson):
        raise row
    if not isinstance(row, dict):
        raise BadRow(f"a product must be an object, not {json_type(row)}")
    fields = dict(row)
    identifier, name = fields.pop("id", None), fields.pop("name", None)
    if name is not None and not isinstance(name, str):
        raise BadRow(f"name must be a string, not {json_type(name)}")
    identifier = parse_identifier(name if identifier is None else identifier)
    if identifier is None:
        raise _Missing("id", "missing id (and no name to take for one)")
    if name is None:
        raise _Missing("name", "missing name")
    return identifier, name, fields


def parse_identifier(value: Any) -> str | None:
    """Return an id, which an integer becomes as text, or None where there is none. Raises BadRow."""
    if value is None or value == "":
        return None
    if type(value) is not int and not isinstance(value, str):
        raise BadRow(f"id must be a string or an integer, not {json_type(value)}")
    return str(value)


def list_faults(path: Path, faults: list[str]) -> str:
    """Return the message that names the first faults of a file, each behind its place, and counts the others."""
    shown = "".join(f"\n  {fault}" for fault in faults[:_MAX_LISTED_ROWS])
    rest = len(faults) - _MAX_LISTED_ROWS
    return f"{path}: {len(faults)} bad rows{shown}" + (f"\n  and {rest} more" if rest > 0 else "")
