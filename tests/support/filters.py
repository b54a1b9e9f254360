"""Filters over products as a build has them."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.artifact.fields.lists import open_fields
from retrieval.artifact.fields.writer import FieldReport, FieldWriter
from retrieval.artifact.products import ProductWriter, open_products, open_rows, write_rows
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.language import BadFilter
from retrieval.search.filters.masks import FilterIndex, Mask, MaskMaker
from retrieval.search.ranking import RowAssigner


def write_fields(
    directory: Path,
    products: Sequence[dict[str, Any]],
    chosen: Collection[str] | None = None,
    rows: Sequence[int] | None = None,
) -> FieldReport:
    """Write the tables of products with these further fields; products with the same number in `rows` share a row."""
    table, fields, assigner = ProductWriter(directory), FieldWriter(directory, chosen), RowAssigner()
    for i, product in enumerate(products):
        table.append(f"p{i}", f"product {i}", product)
        fields.append(f"p{i}", product)
    assigner.assign(np.array(rows or range(len(products)), np.float32)[:, np.newaxis])
    table.close()
    table.finish()
    write_rows(directory, assigner.groups())
    try:
        return fields.finish()
    finally:
        fields.close()


def open_filters(directory: Path, facts: list[FieldFacts]) -> FilterIndex[Mask]:
    """Open the filters over the products whose tables are in a directory."""
    products = open_products(directory)
    rows = open_rows(directory, len(products))
    vocabulary, lists = open_fields(directory, facts, len(products))
    return FilterIndex(vocabulary, lists, MaskMaker(rows.groups, rows.row_of_product))


def filters_over(products: Sequence[dict[str, Any]], rows: Sequence[int] | None = None) -> FilterIndex:
    with tempfile.TemporaryDirectory() as directory:
        report = write_fields(Path(directory), products, rows=rows)
        return open_filters(Path(directory), report.filterable)


def matches(filters: FilterIndex, query: dict[str, Any]) -> list[int]:
    """The positions of the products that a filter lets through."""
    return filters.mask(filters.parse(query)).positions().tolist()


def faults_of(filters: FilterIndex, query: Any) -> list[tuple[str, str, str]]:
    """The code, pointer and detail of each fault; none of a filter that fits."""
    try:
        filters.parse(query)
    except BadFilter as error:
        return [(fault.code, fault.pointer, fault.detail) for fault in error.faults]
    return []
