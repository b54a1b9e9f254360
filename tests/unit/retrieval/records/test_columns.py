"""Files that hold columns: Parquet, NPY and the less usual NPZ."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
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
    ],
    ids=str,
)
def test_parquet_products_are_read_like_any_other(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path / "f", id=["a", "b"], name=["tea", "Éclair"], vector=pa.array(VECTORS, kind), more=[1, 2])
    catalogue = read_catalogue(path)
    assert catalogue.products == [{"id": "a", "name": "tea"}, {"id": "b", "name": "Éclair"}]
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
    with pytest.raises(BadRows, match=f"^{path}: reading Parquet needs pyarrow: pip install "):
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
