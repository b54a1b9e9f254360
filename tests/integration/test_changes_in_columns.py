"""Files of columns, and directories of parts, change what JSON lines do."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.update import FileCounts, UpdateRequest, update
from retrieval.artifact.manifest import Source
from retrieval.artifact.store import open_current
from retrieval.errors import BadCatalogue
from tests.support.catalogues import products_of, write_lines
from tests.support.changes import ChangedProducts, answers, build_whole

VECTOR = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
COLUMNS: dict[str, list[Any]] = {
    "id": ["p1", "p2", "p3", "new"],
    "name": ["other", None, None, "new"],
    "vector": [VECTOR, None, None, VECTOR],
    "price": [None, None, None, 7],
    "delete": [None, True, False, False],
    "set": [None, None, '{"price": null, "name": "set"}', None],
}
LINES: list[dict[str, Any]] = [
    {"id": "p1", "name": "other", "vector": VECTOR},
    {"id": "p2", "delete": True},
    {"id": "p3", "set": {"price": None, "name": "set"}},
    {"id": "new", "name": "new", "vector": VECTOR, "price": 7},
]


@pytest.fixture
def small(tmp_path: Path) -> ChangedProducts:
    """A build of twenty products in `artifacts`, with a price each."""
    vectors = np.random.default_rng(5).normal(size=(20, len(VECTOR)))
    rows = [{**row, "price": i} for i, row in enumerate(products_of(vectors))]
    build(BuildRequest(products=write_lines(tmp_path / "f", rows), out=tmp_path / "artifacts"))
    return ChangedProducts(rows)


def write_parquet(path: Path, columns: dict[str, list[Any]] = COLUMNS) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)


def write_parts(path: Path) -> None:
    """Write a part of two rows each, as Spark does."""
    path.mkdir()
    for i in (0, 2):
        write_parquet(path / f"part-0000{i}.parquet", {name: values[i : i + 2] for name, values in COLUMNS.items()})


def write_text(path: Path, separator: str, columns: dict[str, list[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows([json.dumps(each) if each in (True, False) else each for each in row] for row in rows(columns))


def rows(columns: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
    return [*zip(*columns.values(), strict=True)]


def write_numbers(path: Path) -> None:
    """Write a number of the vector a column."""
    numbers = {f"vector_{i}": [vector and vector[i] for vector in COLUMNS["vector"]] for i in range(len(VECTOR))}
    write_text(path, ",", {**{name: values for name, values in COLUMNS.items() if name != "vector"}, **numbers})


WRITERS: dict[str, Callable[[Path], None]] = {
    "Parquet": write_parquet,
    "parts": write_parts,
    "CSV": lambda path: write_text(path, ",", COLUMNS),
    "TSV": lambda path: write_text(path, "\t", COLUMNS),
    "numbers": write_numbers,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_columns_change_what_lines_do(tmp_path: Path, small: ChangedProducts, write: Callable[[Path], None]) -> None:
    write(tmp_path / "columns")
    updated = update(UpdateRequest(update=tmp_path / "columns", out=tmp_path / "artifacts"))
    assert updated.counts == FileCounts(added=1, replaced=1, changed=1, deleted=1)
    small.apply(LINES)
    whole = build_whole(tmp_path, small.products)
    assert answers(open_current(tmp_path / "artifacts"), 30) == answers(whole, 30)


@pytest.mark.parametrize(
    "write", [write_parquet, lambda path, columns: write_text(path, ",", columns)], ids=["Parquet", "CSV"]
)
def test_columns_without_vectors_delete_products(
    tmp_path: Path, small: ChangedProducts, write: Callable[[Path, dict[str, list[Any]]], None]
) -> None:
    write(tmp_path / "columns", {"id": ["p1", "p2"], "delete": [True, True]})
    updated = update(UpdateRequest(update=tmp_path / "columns", out=tmp_path / "artifacts"))
    assert updated.counts == FileCounts(0, 0, 0, 2)


def test_lines_are_no_columns_whatever_their_file_is_called(tmp_path: Path, small: ChangedProducts) -> None:
    directory = tmp_path / "parts"
    directory.mkdir()
    write_lines(directory / "row 1.jsonl", [{"id": "p1", "delete": False}, {"id": "p2", "set": '{"price": 1}'}])
    with pytest.raises(BadCatalogue) as caught:
        update(UpdateRequest(update=directory, out=tmp_path / "artifacts"))
    assert str(caught.value).splitlines()[1:] == [
        "  row 1.jsonl line 1: delete must be true",
        "  row 1.jsonl line 2: set must be an object, not a string",
    ]


def test_a_directory_is_named_as_a_build_of_it_would(tmp_path: Path, small: ChangedProducts) -> None:
    directory = tmp_path / "parts"
    directory.mkdir()
    write_lines(directory / "part-0.jsonl", [{"id": "new", "name": "new", "vector": VECTOR}])
    updated = update(UpdateRequest(update=directory, out=tmp_path / "artifacts"))
    whole = build(BuildRequest(products=directory, out=tmp_path / "whole"))
    assert updated.manifest.source == whole.source == Source("parts", whole.source.sha256)
