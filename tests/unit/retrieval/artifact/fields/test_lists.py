"""Which fields of a catalogue can be filtered by, and why others cannot."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_builder.catalogue import read_catalogue
from retrieval.artifact.fields import writer
from retrieval.artifact.fields.lists import FIELD_FILES
from retrieval.artifact.fields.writer import FieldReport, FieldWriter
from retrieval.errors import BadArtifact, BadCatalogue
from retrieval.search.filters.facts import FieldFacts
from tests.support.catalogues import write_lines
from tests.support.filter_oracle import matching
from tests.support.filters import filters_over, matches, open_filters, write_fields

OBJECTS = "holds objects, whose own fields have dotted names, first in product 'p0'"


def read(path: Path, **options: Any) -> FieldReport:
    directory = path.parent / "build"
    directory.mkdir(exist_ok=True)
    catalogue = read_catalogue(path, directory, **options)
    catalogue.vectors.close()
    return catalogue.fields


def types_of(report: FieldReport) -> dict[str, str]:
    return {field.name: field.type for field in report.filterable}


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        (["a", "b", None, "a"], FieldFacts("f", "keyword", 2, 0.75)),
        ([1, 2.0, 2, []], FieldFacts("f", "number", 2, 0.75)),
        ([True, True, None, []], FieldFacts("f", "boolean", 1, 0.5)),
        ([["a", "a"], ["b", None], [], [None]], FieldFacts("f", "list of keyword", 2, 0.5)),
        ([[1, 2], [2.5], None, []], FieldFacts("f", "list of number", 3, 0.5)),
        ([float("nan"), 1.5, float("inf"), None], FieldFacts("f", "number", 1, 0.25)),
        ([[float("nan"), 1.5], [float("nan")], None, None], FieldFacts("f", "list of number", 1, 0.25)),
        (["x" * 256, "é" * 128, None, None], FieldFacts("f", "keyword", 2, 0.5)),
        ([2**64 - 2**11, 1.5, None, None], FieldFacts("f", "number", 2, 0.5)),
        ([[*range(100)], None, None, None], FieldFacts("f", "list of number", 100, 0.25)),
    ],
    ids=lambda value: value.type if isinstance(value, FieldFacts) else "",
)
def test_the_type_of_a_field_is_that_of_its_values(tmp_path: Path, values: list[Any], facts: FieldFacts) -> None:
    report = write_fields(tmp_path, [{"f": value} for value in values])
    assert report == FieldReport([facts], {})
    filters = open_filters(tmp_path, report.filterable)
    assert len(matches(filters, {"f": {"$exists": True}})) == facts.coverage * len(values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1, "a"], "mixes number and keyword, first in product 'p1'"),
        ([1, True], "mixes number and boolean, first in product 'p1'"),
        ([False, 0.0], "mixes boolean and number, first in product 'p1'"),
        (["a", None, ["a"]], "mixes keyword and list of keyword, first in product 'p2'"),
        ([[1], ["a"]], "mixes list of number and list of keyword, first in product 'p1'"),
        ([["a", 1]], "holds lists of mixed types, first in product 'p0'"),
        ([[True]], "holds lists of booleans, first in product 'p0'"),
        ([[["a"]]], "holds lists of lists, first in product 'p0'"),
        ([[{"a": 1}]], "holds lists of objects, first in product 'p0'"),
        (["a", "x" * 257], "holds a string of 257 bytes (256 at most), first in product 'p1'"),
        (["é" * 129], "holds a string of 258 bytes (256 at most), first in product 'p0'"),
        ([["a", "x" * 2**20]], "holds a string of 1048576 bytes (256 at most), first in product 'p0'"),
        ([[*range(101)]], "holds a list of 101 elements (100 at most), first in product 'p0'"),
        ([[], [None], []], "has no value in any product"),
        ([2**64 - 1], "holds integers that 64 bits do not hold, or not together with its fractions"),
        ([2**53 + 1, 0.5], "holds integers that 64 bits do not hold, or not together with its fractions"),
        ([{}, {"a": 1}], OBJECTS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_is_not_filterable_says_why(tmp_path: Path, values: list[Any], reason: str) -> None:
    report = write_fields(tmp_path, [{"f": value} for value in values])
    assert "f" not in types_of(report)
    assert report.not_filterable["f"] == reason


def test_members_of_objects_are_fields_with_dotted_names(tmp_path: Path) -> None:
    products: list[dict[str, Any]] = [
        {"shop": {"city": "Roma", "at": {"floor": 2}}},
        {"shop": {"city": None}},
        {"shop": None},
        {"more": 1},
    ]
    report = write_fields(tmp_path, products)
    assert types_of(report) == {"shop.city": "keyword", "shop.at.floor": "number", "more": "number"}
    assert report.not_filterable == {"shop": OBJECTS, "shop.at": OBJECTS}
    filters = open_filters(tmp_path, report.filterable)
    assert matches(filters, {"shop.city": {"$exists": True}, "shop.at.floor": {"$gt": 1}}) == [0]
    assert matches(filters, {"shop.city": {"$ne": "Roma"}}) == [1, 2, 3]


def test_a_key_with_a_dot_is_a_field_unless_an_object_has_one_of_the_same_name(tmp_path: Path) -> None:
    assert matches(filters_over([{"a.b": 1}, {"a.b": 2}]), {"a.b": 2}) == [1]
    report = write_fields(tmp_path, [{"a.b": 1, "x.y": 1}, {"a": {"b": 2}}])
    assert types_of(report) == {"x.y": "number"}
    reason = "is the name of a field and of one within an object, first in product 'p1'"
    assert report.not_filterable["a.b"] == reason


def test_a_name_that_looks_like_an_operator_is_no_field_to_filter_by(tmp_path: Path) -> None:
    report = write_fields(tmp_path, [{"$and": 1, "a$": 1, "": 1, "Straße/~": 1}])
    assert types_of(report) == {"a$": "number", "": "number", "Straße/~": "number"}
    assert report.not_filterable == {"$and": "begins with $, as operators do"}
    assert matches(filters_over([{"": 1}, {"": 2}]), {"": 2}) == [1]


def test_objects_are_looked_into_eight_levels_deep(tmp_path: Path) -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"a": nested(levels - 1)} if levels > 1 else {"a": 1}

    assert "a.a.a.a.a.a.a.a" in types_of(write_fields(tmp_path, [nested(8)]))
    assert types_of(write_fields(tmp_path, [nested(200)])) == {}


def test_the_first_thousand_fields_are_looked_at(tmp_path: Path) -> None:
    report = write_fields(tmp_path, [{f"f{i}": i} for i in range(10_000)])
    assert types_of(report) == {f"f{i}": "number" for i in range(1000)}
    assert report.further == 9000
    filters = open_filters(tmp_path, report.filterable)
    assert matches(filters, {"f999": 999}) == [999]
    assert "f9999" in filters.vocabulary.names
    assert "f10000" not in filters.vocabulary.names
    assert types_of(write_fields(tmp_path, [{f"f{i}": i} for i in range(10_000)], ["f9999"])) == {"f9999": "number"}


def test_values_come_back_in_order_however_many_wait_in_the_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MAX_BUFFERED_VALUES", 7)
    products = [{"n": i % 9 if i % 2 else i % 9 + 0.5, "t": [f"{i % 5}", f"{i % 3}"]} for i in range(200)]
    report = write_fields(tmp_path, products)
    filters = open_filters(tmp_path, report.filterable)
    for query in ({"n": {"$gte": 3, "$lt": 4.5}}, {"t": {"$in": ["1", "4"]}}, {"n": {"$exists": False}}):
        assert matches(filters, query) == matching(products, query)
    assert sorted(path.name for path in tmp_path.glob("fields*")) == sorted(FIELD_FILES)


def test_products_without_further_fields_cost_no_file(tmp_path: Path) -> None:
    report = write_fields(tmp_path, [{}, {"f": None}])
    assert report == FieldReport([], {})
    assert [*tmp_path.glob("fields*")] == []
    filters = open_filters(tmp_path, [])
    assert matches(filters, {}) == [0, 1]


def test_chosen_fields_alone_are_filterable(tmp_path: Path) -> None:
    products: list[dict[str, Any]] = [{"a": 1, "b": "x", "c": {"d": True}, "mixed": 1}, {"mixed": "x"}]
    for chosen in ([], ["b"], ["c.d", "a"]):
        report = write_fields(tmp_path, products, chosen)
        assert sorted(types_of(report)) == sorted(chosen)
        assert report.not_filterable == {}
        filters = open_filters(tmp_path, report.filterable)
        assert {name for name in ("a", "b", "c", "c.d", "mixed", "x") if name in filters.vocabulary.names} == {
            *("a", "b", "c", "c.d", "mixed")
        }
    reasons = {
        "else": "no product has such a field",
        "prise": "no product has such a field; the nearest is 'price'",
        "mixed": "mixes number and keyword, first in product 'p1'",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadCatalogue) as caught:
            write_fields(tmp_path, [*products, {"price": 1}], ["b", name])
        assert str(caught.value) == f"--filterable {name}: {reason}"
        assert not (tmp_path / writer._SPOOL).exists()


def test_a_refused_product_leaves_no_value_behind(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": "a", "vector": [1, 2], "f": 1}, {"id": "b", "vector": [0, 0], "f": "x"}]
    source = write_lines(tmp_path / "p.jsonl", [{"name": "n", **row} for row in [*rows, {"id": "a", "f": "y"}]])
    assert read(source, on_bad_row="drop").filterable == [FieldFacts("f", "number", 1, 1.0)]


def test_parquet_npz_and_json_lines_give_the_same_fields(tmp_path: Path) -> None:
    fields: dict[str, list[Any]] = {
        "brand": ["acme", "zed", "acme"],
        "price": [1.5, 2.25, 2.0],
        "count": [1, 2, 2**53 + 1],
        "stock": [True, False, True],
        "tags": [["a", "b"], ["c", "a"], ["a", "a"]],
        "sizes": [[1, 2], [3, 4], [5, 6]],
    }
    vectors = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    columns = zip("xyz", vectors, *fields.values(), strict=True)
    rows = [dict(zip(["name", "vector", *fields], row, strict=True)) for row in columns]
    pq.write_table(pa.table({"name": [*"xyz"], "vector": vectors, **fields}), tmp_path / "p.parquet")
    np.savez(tmp_path / "p.npz", **{"names": [*"xyz"], "vectors": vectors, **fields})  # type: ignore[arg-type]
    reports = [read(path) for path in (write_lines(tmp_path / "p", rows), tmp_path / "p.parquet", tmp_path / "p.npz")]
    assert types_of(reports[0]) == {
        **{"brand": "keyword", "price": "number", "count": "number", "stock": "boolean"},
        **{"tags": "list of keyword", "sizes": "list of number"},
    }
    assert reports[1] == reports[0] == reports[2]


@pytest.mark.parametrize(
    ("place", "wrong"),
    [("price", {"starts": ["<u4", 0, 1]}), ("price", {"numbers": ["<f8", 10**9, 3]}), ("price", {}), ("brand", None)],
    ids=["short", "beyond the end", "without arrays", "missing"],
)
def test_a_directory_that_does_not_fit_its_arrays_is_refused(tmp_path: Path, place: str, wrong: Any) -> None:
    report = write_fields(tmp_path, [{"price": 1.5, "brand": "a"}, {"price": 2}])
    path = tmp_path / FIELD_FILES[0]
    found = orjson.loads(path.read_bytes())
    if wrong is None:
        del found["filterable"][place]
    else:
        found["filterable"][place] = {**found["filterable"][place], **wrong} if wrong else {}
    path.write_bytes(orjson.dumps(found))
    with pytest.raises(BadArtifact, match="^" + str(path)):
        open_filters(tmp_path, report.filterable)


def test_a_writer_that_is_given_up_leaves_no_scratch_file(tmp_path: Path) -> None:
    writer = FieldWriter(tmp_path)
    writer.append("a", {"f": 1})
    writer.close()
    assert [*tmp_path.iterdir()] == []
