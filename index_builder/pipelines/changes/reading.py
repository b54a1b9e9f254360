"""Reads a file of changes: products to add or replace, to delete, or to change fields of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from index_builder.catalogue import BadRow, parse_identifier, parse_product
from retrieval.records import lenient_json
from retrieval.records.lenient_json import BadJson
from retrieval.records.rows import ColumnRow, read_rows
from retrieval.vectors import BadVector, json_type, read_vector, unit_vectors

_DELETE, _SET = "delete", "set"  # the members that say what a line does; no product is added with such a field


@dataclass(frozen=True)
class Upsert:
    """A whole product, to be added or to replace the one with its id; `vector` (d,) is of unit length."""

    identifier: str
    name: str
    fields: dict[str, Any]
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Delete:
    """The end of a product."""

    identifier: str


@dataclass(frozen=True)
class SetFields:
    """New values of members of a product; a null takes the member away."""

    identifier: str
    members: dict[str, Any]


Change = Upsert | Delete | SetFields


class ChangeFile:
    """The changes of a file by line number, and why other lines are none.

    `faults` has what is wrong with each line at fault, `locations` where each line is.
    """

    def __init__(self, path: Path, dimension: int):
        """Read a file of changes to products of a dimension. Raises BadRows where it cannot be read."""
        self.path, self.changes, self.faults = path, dict[int, Change](), dict[int, str]()
        self.locations: list[str] = []
        number_of: dict[str, int] = {}
        for location, row in tqdm(
            read_rows(path, needs_vectors=False), desc="reading changes", disable=None, leave=False
        ):
            number = len(self.locations)
            self.locations.append(location)
            try:
                change = _parse(row, dimension)
                first = number_of.setdefault(change.identifier, number)
                if first != number:
                    raise BadRow(f"duplicate id {change.identifier!r}, first used at {self.locations[first]}")
                self.changes[number] = change
            except (BadRow, BadVector, BadJson) as reason:
                self.faults[number] = str(reason)

    def listed_faults(self) -> list[str]:
        """Return the faults in the order of the file, each behind its place."""
        return [f"{self.locations[number]}: {fault}" for number, fault in sorted(self.faults.items())]


def _parse(row: Any, dimension: int) -> Change:
    """Return the change in a row. Raises BadRow, BadVector or BadJson."""
    if isinstance(row, ColumnRow):
        row = _without_empty_columns(row)
    if isinstance(row, dict) and (_DELETE in row or _SET in row):
        return _parse_edit(row)
    has_only_members = isinstance(row, dict) and row.get("name") is None and row.get("vector") is None
    if has_only_members and parse_identifier(row.get("id")):
        raise BadRow(f'missing name; "{_SET}" changes members of a product that is there')
    identifier, name, fields = parse_product(row)
    values = fields.pop("vector", None)
    if values is None:
        raise BadRow("missing vector")
    [vector] = unit_vectors(read_vector(values, dimension)[np.newaxis])
    return Upsert(identifier, name, fields, vector)


def _without_empty_columns(row: ColumnRow) -> dict[str, Any]:
    """Return a row without the columns that are null in it, `delete` where it is false, and `set` parsed."""
    present = {name: value for name, value in row.items() if value is not None}
    if present.get(_DELETE) is False:
        del present[_DELETE]
    if isinstance(present.get(_SET), str):
        present[_SET] = lenient_json.loads(present[_SET].encode(errors="surrogatepass"))
    return present


def _parse_edit(row: dict[str, Any]) -> Delete | SetFields:
    kind = _DELETE if _DELETE in row else _SET
    if further := [name for name in row if name not in ("id", kind)]:
        raise BadRow(f"{kind} takes an id and nothing else, not {', '.join(map(repr, further))}")
    identifier = parse_identifier(row.get("id"))
    if identifier is None:
        raise BadRow("missing id")
    if kind == _DELETE:
        if row[kind] is not True:
            raise BadRow("delete must be true")
        return Delete(identifier)
    members = row[kind]
    if not isinstance(members, dict):
        raise BadRow(f"set must be an object, not {json_type(members)}")
    if not members:
        raise BadRow("set is empty")
    for name in ("id", "vector"):
        if name in members:
            raise BadRow(f"set cannot change {name!r}; a line with the whole product replaces it")
    if "name" in members and not isinstance(members["name"], str):
        raise BadRow(f"name must be a string, not {json_type(members['name'])}")
    return SetFields(identifier, members)
