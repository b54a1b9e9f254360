"""Files that hold columns: Parquet, NPY and the less usual NPZ."""

import gzip
import json
import sys
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.errors import BadCatalogue, BadRows
from retrieval.records.rows import read_rows
from tests.support.catalogues import read_catalogue

VECTORS = [[3.0, 4.0], [0.0, -2.0]]
UNITS = [[np.float32(0.6), np.float32(0.8)], [0.0, -1.0]]


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
        pa.list_(pa.int64()),
        pa.list_(pa.int8()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float16()),
        pa.list_view(pa.float32()),
        pa.large_list_view(pa.float64()),
    ],
    ids=str,
)
def test_parquet_products_are_read_like_any_other(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path / "f", id=["a", "b"], name=["tea", "Éclair"], vector=pa.array(VECTORS, kind), more=[1, 2])
    catalogue = read_catalogue(path)
    assert catalogue.products == [{"id": "a", "name": "tea", "more": 1}, {"id": "b", "name": "Éclair", "more": 2}]
    assert catalogue.unit_vectors.tolist() == UNITS


def test_parquet_ids_may_be_integers_or_left_out(tmp_path: Path) -> None:
    assert read_catalogue(parquet(tmp_path / "f", id=[7, 8], name=["a", "b"], vector=VECTORS)).products == [
        {"id": "7", "name": "a"},
        {"id": "8", "name": "b"},
    ]
    assert read_catalogue(parquet(tmp_path / "g", name=["a", "b"], vector=VECTORS)).products == [
        {"id": "a", "name": "a"},
        {"id": "b", "name": "b"},
    ]


def test_more_parquet_rows_than_a_block_keep_their_order(tmp_path: Path) -> None:
    angles = np.linspace(0, 3, 9001)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    catalogue = read_catalogue(
        parquet(tmp_path / "f", name=[str(i) for i in range(9001)], vector=pa.array(vectors.tolist()))
    )
    assert [product["id"] for product in catalogue.products] == [str(i) for i in range(9001)]
    np.testing.assert_allclose(catalogue.unit_vectors, vectors, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (None, "missing vector"),
        ([1.0], "vector has 1 numbers, 2 are expected"),
        ([1.0, None], "vector element 1 is not finite: nan"),
        ([0.0, 0.0], "vector is all zeros, which has no direction"),
    ],
    ids=["null", "short", "null number", "zeros"],
)
def test_a_bad_parquet_row_is_named(tmp_path: Path, vector: Any, reason: str) -> None:
    path = parquet(tmp_path / "f", name=["a", "b"], vector=pa.array([[1.0, 2.0], vector], pa.list_(pa.float32())))
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(path)
    assert str(caught.value) == f"{path}: 1 bad rows\n  row 2: {reason}"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"name": ["a"]}, "needs columns 'vector' and 'id' or 'name', has name"),
        ({"vector": [[1.0]]}, "needs columns 'vector' and 'id' or 'name', has vector"),
        ({"name": ["a"], "vector": [1.0]}, "column 'vector' must hold lists of numbers, not double"),
        ({"name": ["a"], "vector": ["1 2"]}, "column 'vector' must hold lists of numbers, not string"),
        ({"name": ["a"], "vector": [["1"]]}, "column 'vector' must hold lists of numbers, not list<element: string>"),
    ],
    ids=["no vector", "no labels", "numbers", "text", "lists of text"],
)
def test_parquet_columns_that_are_no_products_are_refused(tmp_path: Path, columns: Any, reason: str) -> None:
    with pytest.raises(BadRows) as caught:
        list(read_rows(parquet(tmp_path / "f", **columns)))
    assert str(caught.value) == f"{tmp_path / 'f'}: {reason}"


@pytest.mark.parametrize(
    "content", [b"PAR1", b"PAR1 is how it begins", b"PAR1" * 50], ids=["magic", "text", "repeated"]
)
def test_what_only_begins_like_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(BadRows, match=f"^{tmp_path / 'f'}: not a readable Parquet file: "):
        list(read_rows(tmp_path / "f"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "f", name=["a"], vector=[[1.0, 2.0]])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadRows, match=f"^{path}: reading Parquet needs pyarrow: `pip install pyarrow`"):
        list(read_rows(path))


def test_the_rows_of_a_matrix_are_named_by_their_number(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.array(VECTORS, np.float32))
    catalogue = read_catalogue(tmp_path / "f.npy")
    assert catalogue.products == [{"id": "0", "name": "0"}, {"id": "1", "name": "1"}]
    assert catalogue.unit_vectors.tolist() == UNITS


@pytest.mark.parametrize("end", [-1, 40], ids=["a byte short", "in the header"])
def test_a_matrix_that_ends_early_is_refused(tmp_path: Path, end: int) -> None:
    np.save(tmp_path / "whole.npy", np.ones((50, 3)))
    (tmp_path / "f").write_bytes((tmp_path / "whole.npy").read_bytes()[:end])
    with pytest.raises(BadRows, match=f"^{tmp_path / 'f'}: not a readable NPY file: "):
        list(read_rows(tmp_path / "f"))


def test_npz_vectors_may_lie_column_by_column_and_labels_be_bytes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(5000, 3))
    ids = np.array([f"p{i}".encode() for i in range(5000)])
    np.savez(tmp_path / "f.npz", ids=ids, names=ids, vectors=np.asfortranarray(vectors))
    np.savez(tmp_path / "g.npz", ids=ids.astype(str), names=ids.astype(str), vectors=vectors)
    columns, rows = read_catalogue(tmp_path / "f.npz"), read_catalogue(tmp_path / "g.npz")
    assert columns.lines == rows.lines
    assert columns.unit_vectors.tobytes() == rows.unit_vectors.tobytes()


def test_npz_labels_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", names=np.array([b"\xff"]), vectors=np.ones((1, 2)))
    with pytest.raises(BadRows, match=f"^{tmp_path / 'f.npz'}: "):
        list(read_rows(tmp_path / "f.npz"))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["a", None], pa.dictionary(pa.int8(), pa.string()), ["a", None]),
        ([1.5, None], pa.float32(), [1.5, None]),
        ([2**63 + 1, 0], pa.uint64(), [2**63 + 1, 0]),
        ([Decimal("12.90"), Decimal(2**60)], pa.decimal128(38, 2), [12.9, 2**60]),
        ([date(2024, 2, 29), None], pa.date32(), ["2024-02-29", None]),
        ([datetime(2024, 2, 29, 1, 2, 3)] * 2, pa.timestamp("s"), ["2024-02-29T01:02:03"] * 2),
        ([1_700_000_000_123_456_789] * 2, pa.timestamp("ns", "UTC"), ["2023-11-14T22:13:20.123456+00:00"] * 2),
        ([time(1, 2), None], pa.time64("us"), ["01:02:00", None]),
        ([{"city": "Roma", "at": [date(2024, 1, 1)]}, None], None, [{"city": "Roma", "at": ["2024-01-01"]}, None]),
        ([["a", None], []], pa.large_list(pa.string()), [["a", None], []]),
    ],
    ids=str,
)
def test_further_parquet_columns_have_the_values_of_json(
    tmp_path: Path, values: list[Any], kind: pa.DataType | None, expected: list[Any]
) -> None:
    path = parquet(tmp_path / "f", name=["a", "b"], vector=VECTORS, more=pa.array(values, kind))
    assert [product["more"] for product in read_catalogue(path).products] == expected


@pytest.mark.parametrize(
    ("values", "kind"),
    [([b"\xff", b""], pa.binary()), ([1, 2], pa.duration("s")), ([[("a", 1)], []], pa.map_(pa.string(), pa.int8()))],
    ids=["binary", "duration", "map"],
)
def test_a_parquet_column_that_json_has_no_form_for_is_left_out(
    tmp_path: Path, values: list[Any], kind: pa.DataType
) -> None:
    path = parquet(tmp_path / "f", name=["a", "b"], vector=VECTORS, bad=pa.array(values, kind), good=[1, 2])
    assert [*read_catalogue(path).products[0]] == ["id", "name", "good"]


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array([[1.0, 2.0]]), pa.array([1]), pa.array([2])]
    table = pa.Table.from_arrays(columns, names=["name", "vector", "x", "x"])
    pq.write_table(table, tmp_path / "f")
    with pytest.raises(BadRows) as caught:
        read_catalogue(tmp_path / "f")
    assert str(caught.value) == f"{tmp_path / 'f'}: has 2 columns 'x'"


def test_further_npz_arrays_of_a_value_or_a_list_a_product_are_read(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "f.npz",
        names=["a", "b"],
        vectors=VECTORS,
        text=np.array([b"\xc3\xa9", b"x"]),
        halves=np.array([0.5, 1], np.float16),
        flags=np.array([[True, False], [False, False]]),
        version=np.array(3),
        longer=np.arange(3),
        cube=np.ones((2, 2, 2)),
        complex=np.ones(2, complex),
        objects=np.array([{}, {}]),
        dates=np.array(["2024-01-01"] * 2, "datetime64[D]"),
    )
    assert read_catalogue(tmp_path / "f.npz").products == [
        {"id": "a", "name": "a", "text": "é", "halves": 0.5, "flags": [True, False]},
        {"id": "b", "name": "b", "text": "x", "halves": 1.0, "flags": [False, False]},
    ]


def test_a_tensor_of_one_dimension_is_a_vector(tmp_path: Path) -> None:
    numbers = pa.FixedSizeListArray.from_arrays(pa.array([3.0, 4.0, 0.0, -2.0], pa.float32()), 2)
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]), numbers)
    catalogue = read_catalogue(parquet(tmp_path / "f", name=["a", "b"], vector=tensors))
    assert catalogue.unit_vectors.tolist() == UNITS


def test_uuids_are_texts(tmp_path: Path) -> None:
    ids = [UUID(int=1), UUID(int=2)]
    column = pa.array([each.bytes for each in ids], pa.uuid())
    path = parquet(tmp_path / "f", id=column, name=["a", "b"], vector=VECTORS, brand=column)
    assert [(each["id"], each["brand"]) for each in read_catalogue(path).products] == [(str(each),) * 2 for each in ids]


def test_ids_of_another_type_are_refused_by_the_name_of_it(tmp_path: Path) -> None:
    for column, kind in (([1.5, 2.5], "double"), ([b"a", b"b"], "binary")):
        path = parquet(tmp_path / "f", id=column, name=["a", "b"], vector=VECTORS)
        with pytest.raises(BadRows) as caught:
            list(read_rows(path))
        assert str(caught.value) == f"{path}: column 'id' must hold strings, integers or UUIDs, not {kind}"


@pytest.mark.parametrize("name", ["sku", None])
def test_the_index_of_a_frame_has_the_ids(tmp_path: Path, name: str | None) -> None:
    frame = pd.DataFrame({"name": ["tea", "tea"], "vector": VECTORS}, index=pd.Index(["p1", "p2"], name=name))
    frame.to_parquet(tmp_path / "f")
    assert [each["id"] for each in read_catalogue(tmp_path / "f").products] == ["p1", "p2"]


def test_gzipped_parquet_is_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "f", name=["a", "b"], vector=VECTORS)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_catalogue(path).unit_vectors.tolist() == UNITS


def test_a_directory_of_parts_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    parquet(directory / "part-00001.parquet", name=["b"], vector=VECTORS[1:])
    parquet(directory / "part-00000.parquet", name=["a"], vector=VECTORS[:1])
    for marker in ("_SUCCESS", ".part-00000.parquet.crc"):
        (directory / marker).write_text("not a part")
    rows = list(read_rows(directory))
    assert [place for place, _ in rows] == ["part-00000.parquet row 1", "part-00001.parquet row 1"]
    assert [row["name"] for _, row in rows] == ["a", "b"]


@pytest.mark.parametrize("ending", ["parquet", "npz", "jsonl", "csv"])
def test_columns_may_have_other_names(tmp_path: Path, ending: str) -> None:
    path, columns = tmp_path / f"f.{ending}", {"sku": ["p1", "p2"], "title": ["tea", "pie"], "emb": VECTORS}
    if ending == "parquet":
        parquet(path, **columns)
    elif ending == "npz":
        np.savez(path, allow_pickle=False, **{name: np.array(values) for name, values in columns.items()})
    else:
        lines = [[*columns], *zip(*columns.values(), strict=True)]
        objects = (dict(zip(lines[0], line, strict=True)) for line in lines[1:])
        path.write_text(
            "".join(f"{json.dumps(each)}\n" for each in objects)
            if ending == "jsonl"
            else "".join(f'{sku},{title},"{vector}"\n' for sku, title, vector in lines)
        )
    rows = [row for _, row in read_rows(path, source_of={"id": "sku", "name": "title", "vector": "emb"})]
    assert [(row["id"], row["name"], [*row["vector"]]) for row in rows] == [
        ("p1", "tea", VECTORS[0]),
        ("p2", "pie", VECTORS[1]),
    ]
    assert all(row.keys() == {"id", "name", "vector"} for row in rows)


@pytest.mark.parametrize("ending", ["parquet", "npz", "csv"])
def test_a_column_that_is_probably_the_vector_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"f.{ending}"
    if ending == "parquet":
        parquet(path, name=["a"], embedding=[[1.0]])
    elif ending == "npz":
        np.savez(path, names=np.array(["a"]), embedding=np.array([[1.0]]))
    else:
        path.write_text("name,embedding\na,[1.0]\n")
    with pytest.raises(BadRows, match=r"; if it is 'embedding', say --columns vector=embedding$"):
        list(read_rows(path))
