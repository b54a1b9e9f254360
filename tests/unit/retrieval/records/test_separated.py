"""CSV and TSV files are read as any other catalogue."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import BadCatalogue, BadRows
from retrieval.records.rows import read_rows
from tests.support.catalogues import read_catalogue

PRODUCTS = [
    {"id": "007", "name": "Tea, green", "price": 2.5, "stock": 3, "hot": True, "code": "7up"},
    {"id": "8", "name": 'Pie "au citron"', "price": 4, "stock": 0, "hot": False, "code": "12"},
]
VECTORS = [[3.0, 4.0], [0.0, -2.0]]


def quoted(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return '"' + text.replace('"', '""') + '"'


def written(path: Path, separator: str, columns: list[str], rows: list[list[Any]]) -> Path:
    lines = [columns, *rows]
    path.write_text("".join(separator.join(map(quoted, line)) + "\r\n" for line in lines), "utf-8-sig")
    return path


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_column_of_lists_is_the_vector(tmp_path: Path, separator: str) -> None:
    rows = [[*product.values(), json.dumps(vector)] for product, vector in zip(PRODUCTS, VECTORS, strict=True)]
    catalogue = read_catalogue(written(tmp_path / "f", separator, [*PRODUCTS[0], "vector"], rows))
    assert catalogue.products == PRODUCTS
    np.testing.assert_allclose(catalogue.unit_vectors, [[0.6, 0.8], [0.0, -1.0]], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "names", [["vector_0", "vector_1"], ["vector[0]", "vector[1]"], ["1", "2"], ["vector1", "vector2"]]
)
def test_a_number_a_column_is_the_vector(tmp_path: Path, names: list[str]) -> None:
    rows = [["a", "x", 3.0, 4], ["b", "y", 0, -2e0]]
    path = written(tmp_path / "f", ",", ["id", "name", *reversed(names)], [[i, n, v, u] for i, n, u, v in rows])
    assert [row for _, row in read_rows(path)] == [
        {"id": "a", "name": "x", "vector": [3.0, 4]},
        {"id": "b", "name": "y", "vector": [0, -2.0]},
    ]


@pytest.mark.parametrize(("start", "names"), [("v", ["v0", "v1"]), ("emb", ["emb_1", "emb_2"])])
def test_a_number_a_column_may_be_called_otherwise(tmp_path: Path, start: str, names: list[str]) -> None:
    path = written(tmp_path / "f", "\t", ["id", *names], [["a", 3, 4.5]])
    assert [row for _, row in read_rows(path, source_of={"vector": start})] == [{"id": "a", "vector": [3, 4.5]}]


def test_an_empty_value_is_none(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text('name,price,vector\ntea,,"[1, 2]"\npie,3,"[2, 1]"\n')
    assert read_catalogue(tmp_path / "f.csv").products == [
        {"id": "tea", "name": "tea"},
        {"id": "pie", "name": "pie", "price": 3},
    ]


def test_bad_rows_are_named_by_their_lines(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text('name,vector\n"two\nlines","[1, 2]"\npie\ntea,"[1, 2"\ncake,\n')
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(tmp_path / "f.csv")
    assert str(caught.value).splitlines()[1:4] == [
        "  line 4: has 1 values, the first line names 2 columns",
        "  line 5: not JSON: Expecting ',' delimiter: line 1 column 6 (char 5)",
        "  line 6: missing vector",
    ]


def test_a_number_that_is_none_fails_its_row(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("name,vector_0,vector_1\na,1,2\nb,x,2\nc,,2\n")
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(tmp_path / "f.csv")
    assert str(caught.value).splitlines()[1:3] == [
        "  line 3: 'x' is no number",
        "  line 4: vector element 0 is not finite: nan",
    ]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("id,price", "needs columns 'vector' and 'id' or 'name', has id, price"),
        (
            "sku,vector",
            "needs columns 'vector' and 'id' or 'name', has sku, vector; if it is 'sku', say --columns id=sku",
        ),
        ("id,vector,id", "has 2 columns 'id'"),
        (
            "id,v0,v1",
            "needs columns 'vector' and 'id' or 'name', has id, v0, v1;"
            " if it is 'v0' and so on, say --columns vector=v",
        ),
        (
            "id2,emb_1,emb_2",
            "needs columns 'vector' and 'id' or 'name', has id2, emb_1, emb_2;"
            " if it is 'emb_1' and so on, say --columns vector=emb",
        ),
    ],
)
def test_columns_that_make_no_products_are_refused(tmp_path: Path, header: str, reason: str) -> None:
    (tmp_path / "f.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(BadRows) as caught:
        list(read_rows(tmp_path / "f.csv"))
    assert str(caught.value) == f"{tmp_path / 'f.csv'}: {reason}"


def test_gzipped_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(gzip.compress(b'name,vector\ntea,"[1, 2]"\n'))
    assert [row for _, row in read_rows(tmp_path / "f")] == [{"name": "tea", "vector": [1, 2]}]
