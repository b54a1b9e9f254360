"""Writes the records of a delta: the lines, lists and vectors of the products that it has."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index_builder.catalogue import VECTORS, BadRow
from index_builder.kinds.training import store_vectors
from index_builder.pipelines.changes.answers import DeltaVectors
from index_builder.pipelines.changes.combining.fields import columns_of, write_fields
from index_builder.pipelines.changes.combining.tables import Part, write_table
from index_builder.pipelines.changes.current import CurrentProducts, names_of
from index_builder.pipelines.changes.plan import Plan
from index_builder.pipelines.changes.reading import ChangeFile, SetFields, Upsert
from index_builder.pipelines.changes.rules import FieldRules
from retrieval.artifact.delta import files as delta_files
from retrieval.artifact.fields.lists import open_fields
from retrieval.artifact.fields.values import Column
from retrieval.artifact.fields.writer import NO_VALUE, FieldReport, FieldWriter
from retrieval.artifact.products import ROW_PRODUCTS, ROW_STARTS, ProductWriter, open_products, write_numbers
from retrieval.records.vector_file import VectorFile
from retrieval.search.files import open_index, write_index
from retrieval.search.filters.facts import FieldType
from retrieval.search.ranking import RowAssigner, RowGroups
from retrieval.search.stored_vectors import open_vectors

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class RecordFields:
    """The filterable fields of a pair by type, why others are not filterable, and the values that records have."""

    types: Mapping[str, FieldType]
    reasons: dict[str, str]
    columns: dict[str, Column]


def write_changed(
    directory: Path, file: ChangeFile, plan: Plan, current: CurrentProducts, rules: FieldRules
) -> FieldReport:
    """Write the table and the lists of the products that a file brings, and add to its faults what is wrong there."""
    products_of = _checked_products(file, plan, current, rules)
    with closing(ProductWriter(directory)) as products, closing(FieldWriter(directory)) as lists:
        for number, change in plan.changes:
            name, fields = products_of[number]
            try:
                products.append(change.identifier, name, fields)
            except orjson.JSONEncodeError as error:  # a lone surrogate, an integer beyond 64 bits
                file.faults[number] = f"cannot be stored as JSON: {error}"
            else:
                lists.append(change.identifier, fields)
        products.finish()
        return lists.finish()


def _checked_products(
    file: ChangeFile, plan: Plan, current: CurrentProducts, rules: FieldRules
) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return the name and the further fields of each changed product, by the number of its change in the file.

    They are checked in the order of the file: the first one with a new field decides its type.
    """
    products = {}
    changed = zip(plan.changes, plan.changed.tolist(), strict=True)
    for (number, change), position in sorted(changed, key=lambda pair: pair[0][0]):
        if isinstance(change, Upsert):
            products[number] = change.name, change.fields
        else:
            products[number] = _edited(current, position, change)
        try:
            rules.check(products[number][1])
        except BadRow as reason:
            file.faults[number] = str(reason)
    return products


def _edited(current: CurrentProducts, position: int, change: SetFields) -> tuple[str, dict[str, Any]]:
    """Return the name and the further fields of a product in use, with the changes made."""
    members = {**current.table[position], **change.members}
    fields = {name: value for name, value in members.items() if name not in change.members or value is not None}
    del fields["id"]
    return str(fields.pop("name")), fields


def write_records(
    directory: Path,
    changed: Path,
    report: FieldReport,
    plan: Plan,
    current: CurrentProducts,
    rules: FieldRules,
) -> RecordFields:
    """Write the table and the lists of all records, of which `changed` has the new ones, as `report` says of them."""
    table = open_products(changed)
    vocabulary, lists = open_fields(changed, report.filterable, len(table))
    parts = [Part(table, lists, plan.new_targets)]
    if current.delta:
        parts.insert(0, Part(current.delta.table, current.delta.lists, plan.kept_targets))
    write_table(directory, *parts)
    known = current.vocabulary.reasons
    found = {name: reason for name, reason in report.not_filterable.items() if rules.takes(name)}
    vanished = dict.fromkeys(current.vocabulary.filterable, NO_VALUE)
    reasons = {name: reason for name, reason in {**vanished, **found, **known}.items() if name not in rules.types}
    names = names_of(current.vocabulary) | names_of(vocabulary)
    columns = columns_of(rules.types, parts, reasons)
    write_fields(directory, columns, len(plan.positions), names, reasons)
    return RecordFields(rules.types, reasons, columns)


def write_vectors(directory: Path, plan: Plan, current: CurrentProducts) -> DeltaVectors:
    """Write the vectors of the records that have one, which products share each, and where the records stand."""
    rows, units = _record_vectors(plan, current)
    assigner, vectors = RowAssigner(), None
    if len(rows):
        with closing(VectorFile(directory / VECTORS)) as file:
            for start in range(0, len(units), _BLOCK_ROWS):
                block = units[start : start + _BLOCK_ROWS]
                file.append(block[assigner.assign(block)])
            write_index(store_vectors(file, current.base.index.storage), directory / delta_files.VECTORS)
        (directory / VECTORS).unlink()
        vectors = open_vectors(open_index(directory / delta_files.VECTORS))
    groups = assigner.groups()
    groups = RowGroups(groups.starts, rows[groups.products])
    for name, numbers in (
        (ROW_STARTS, groups.starts),
        (ROW_PRODUCTS, plan.positions[groups.products]),
        (delta_files.POSITIONS, plan.positions),
        (delta_files.DELETED, plan.deleted),
    ):
        write_numbers(directory / name, numbers)
    table = open_products(directory)
    return DeltaVectors(vectors, groups, table, plan.positions)


def _record_vectors(plan: Plan, current: CurrentProducts) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the records that have a vector of their own, and their unit vectors (r, d)."""
    own_row = np.full(len(plan.positions), -1)  # in the last delta
    kept = plan.kept_targets >= 0
    own_row[plan.kept_targets[kept]] = current.layout.row_of_record[kept]
    before = current.layout.records_at(plan.changed)
    edited = before >= 0
    own_row[plan.new_targets[edited]] = current.layout.row_of_record[before[edited]]
    new = {
        int(target): change.vector
        for target, (_, change) in zip(plan.new_targets.tolist(), plan.changes, strict=True)
        if isinstance(change, Upsert)
    }
    own_row[[*new]] = -1
    is_new = np.zeros(len(own_row), np.bool_)
    is_new[[*new]] = True
    records = np.flatnonzero(is_new | (own_row >= 0))
    units = np.empty((len(records), current.manifest.dimension), np.float32)
    of_new = is_new[records]
    if of_new.any():
        units[of_new] = np.stack([new[record] for record in records[of_new].tolist()])
    if not of_new.all() and current.delta and current.delta.index:
        units[~of_new] = current.delta.index.vectors(own_row[records[~of_new]])
    return records, units
