"""Deltas: a base and the changes since answer as a build of the same products does, byte for byte."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.update import FileCounts
from retrieval.artifact import golden
from retrieval.artifact.manifest import DeltaFacts, GoldenQuery
from retrieval.artifact.store import open_current
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.ranking import SIDES
from tests.support.catalogues import products_of, write_lines
from tests.support.changes import ChangedProducts, RandomChanges, answers, build_whole, change
from tests.support.filter_oracle import RandomFilters
from tests.support.filtered import DIMENSION, FilteredProducts

TOP = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(("seed", "storage"), [(0, "fp32"), (1, "fp16")])
def test_a_pair_answers_what_a_build_of_the_same_products_does(tmp_path: Path, seed: int, storage: Any) -> None:
    start = FilteredProducts(seed=seed)
    start.build(tmp_path, index="Flat", storage=storage)
    expected, changes, filters = ChangedProducts(start.rows), RandomChanges(DIMENSION, seed), RandomFilters(seed)
    for _ in range(3):
        lines = changes.lines(expected.products, 25)
        expected.apply(lines)
        change(tmp_path, lines)
        pair, whole = open_current(tmp_path / "artifacts"), build_whole(tmp_path, expected.products, storage=storage)
        assert pair.manifest.products == len(expected.products)
        assert sorted(pair.manifest.filterable, key=name_of) == sorted(whole.manifest.filterable, key=name_of)
        for k in (1, 10, 1000):
            assert answers(pair, k) == answers(whole, k)
        for query in [filters.filter() for _ in range(15)]:
            assert answers(pair, 10, query) == answers(whole, 10, query)
        excluded = [product["id"] for product in expected.products[::3]]
        assert answers(pair, 10, None, excluded) == answers(whole, 10, None, excluded)


def name_of(field: FieldFacts) -> str:
    return field.name


@pytest.fixture
def small(tmp_path: Path) -> ChangedProducts:
    """A build of twenty products in `artifacts`, with a price each."""
    rows = [
        {**row, "price": i} for i, row in enumerate(products_of(np.random.default_rng(5).normal(size=(20, DIMENSION))))
    ]
    build(BuildRequest(products=write_lines(tmp_path / "f", rows), out=tmp_path / "artifacts"))
    return ChangedProducts(rows)


def test_an_update_counts_what_its_file_changed_and_what_has_changed_since_the_base(
    tmp_path: Path, small: ChangedProducts
) -> None:
    vector = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    first: list[dict[str, Any]] = [
        {"id": "new", "name": "new", "vector": vector},
        {"id": "p1", "name": "other", "vector": vector},
        {"id": "p2", "set": {"price": 1}},
        {"id": "p3", "delete": True},
    ]
    second: list[dict[str, Any]] = [
        {"id": "new", "set": {"price": 1}},
        {"id": "p1", "delete": True},
        {"id": "p2", "name": "other", "vector": vector},
        {"id": "p3", "name": "again", "vector": vector},
    ]
    base = open_current(tmp_path / "artifacts").manifest
    updated = change(tmp_path, first)
    assert updated.counts == FileCounts(1, 1, 1, 1)
    # Products of the base had the prices 1, 2 and 3 alone, and one has 1 again.
    assert updated.manifest.filterable == [FieldFacts("price", "number", 18, 18 / 20)]
    updated = change(tmp_path, second)
    assert updated.counts == FileCounts(1, 1, 1, 1)
    expected = DeltaFacts(base.build_id, base.checksum, added=2, replaced=1, changed=0, deleted=2)
    assert updated.manifest.delta == expected
    assert updated.manifest.distinct_vectors == 20 + 1


def test_all_that_was_changed_can_be_taken_back(tmp_path: Path, small: ChangedProducts) -> None:
    before = answers(open_current(tmp_path / "artifacts"), 30)
    new: dict[str, Any] = {"id": "new", "name": "new", "vector": [*range(1, 7)], "fresh": [True]}
    change(tmp_path, [new, {"id": "p1", "set": {"price": None, "fresh": 5}}])
    change(tmp_path, [{"id": "new", "delete": True}, {"id": "p1", "set": {"price": 1, "fresh": None}}])
    pair = open_current(tmp_path / "artifacts")
    assert answers(pair, 30) == before
    delta: Any = pair.manifest.delta
    assert delta == replace(delta, added=0, replaced=0, changed=1, deleted=0)


def test_a_field_that_nothing_has_any_more_takes_values_of_another_type(tmp_path: Path, small: ChangedProducts) -> None:
    change(tmp_path, [{"id": "p1", "set": {"fresh": "text"}}])
    change(tmp_path, [{"id": "p1", "set": {"fresh": None}}])
    change(tmp_path, [{"id": "p2", "set": {"fresh": 5}}])
    pair = open_current(tmp_path / "artifacts")
    assert pair.manifest.filterable[1] == FieldFacts("fresh", "number", 1, 1 / 20)
    assert answers(pair, 3, {"fresh": 5})[0] == 1


def test_a_base_without_fields_gets_some(tmp_path: Path) -> None:
    rows = products_of(np.eye(5, DIMENSION))
    build(BuildRequest(products=write_lines(tmp_path / "f", rows), out=tmp_path / "artifacts"))
    change(tmp_path, [{"id": "p1", "set": {"brand": "a", "shop": {"city": "Roma"}}}])
    pair = open_current(tmp_path / "artifacts")
    assert pair.manifest.filterable == [
        FieldFacts("brand", "keyword", 1, 0.2),
        FieldFacts("shop.city", "keyword", 1, 0.2),
    ]
    assert "objects" in pair.filters.vocabulary.reasons["shop"]


def test_deletions_of_every_recorded_answer_leave_golden_queries(tmp_path: Path) -> None:
    """What the base would answer behind those is not known without a search."""
    rows = products_of(np.random.default_rng(5).normal(size=(200, DIMENSION)))
    base = build(BuildRequest(products=write_lines(tmp_path / "f", rows), out=tmp_path / "artifacts"))
    gone = {identifier for query in base.golden_queries for identifier in (*query.best, *query.worst)}
    manifest = change(tmp_path, [{"id": identifier, "delete": True} for identifier in sorted(gone)]).manifest
    whole = build_whole(tmp_path, [row for row in rows if row["id"] not in gone])
    expected = golden.record(whole.index.search, whole.products.prefixes, vectors_of(manifest.golden_queries))
    assert manifest.golden_queries == expected
    assert len(expected) == len(base.golden_queries)


def vectors_of(queries: list[GoldenQuery]) -> NDArray[np.float32]:
    return np.array([query.vector for query in queries], np.float32)


def test_golden_queries_are_what_the_pair_answers(tmp_path: Path) -> None:
    rows = products_of(np.random.default_rng(5).normal(size=(200, DIMENSION)))
    base = build(BuildRequest(products=write_lines(tmp_path / "f", rows), out=tmp_path / "artifacts"))
    recorded = {tuple(query.vector): query for query in base.golden_queries}
    changes, gone = RandomChanges(DIMENSION, 5), set[str]()
    changed = ChangedProducts(rows)
    for _ in range(2):
        lines = changes.lines(changed.products, 40)
        changed.apply(lines)
        gone |= {line["id"] for line in lines if "set" not in line}
        manifest = change(tmp_path, lines).manifest
        whole = build_whole(tmp_path, changed.products)
        expected = golden.record(whole.index.search, whole.products.prefixes, vectors_of(manifest.golden_queries))
        for query, answer in zip(manifest.golden_queries, expected, strict=True):
            for side in SIDES:
                found, known = getattr(query, side), getattr(answer, side)
                standing = getattr(recorded[tuple(query.vector)], side).keys() - gone
                assert len(found) >= len(standing) > 0
                assert [*found.items()] == [*known.items()][: len(found)]


def start_update(changes: Path, root: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "index_builder", "--update", str(changes), "--out", str(root)]
    return subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_updates_at_once_wait_for_each_other_and_lose_nothing(tmp_path: Path, small: ChangedProducts) -> None:
    processes = []
    for i in range(3):
        path = write_lines(tmp_path / f"changes {i}", [{"id": f"p{i}", "delete": True}])
        processes.append(start_update(path, tmp_path / "artifacts"))
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == [b""] * 3
    pair = open_current(tmp_path / "artifacts")
    assert pair.products.positions([f"p{i}" for i in range(4)]).tolist() == [-1, -1, -1, 3]
