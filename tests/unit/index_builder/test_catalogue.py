"""Reading products into a catalogue."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import BadCatalogue, BadRows
from tests.support.catalogues import products_of, read_catalogue, write_lines


def test_products_keep_their_order_labels_and_directions(tmp_path: Path) -> None:
    rows = [{"id": "x", "name": "Éclair ☕", "vector": [3, 4]}, {"id": "a", "name": "tea", "vector": [0, -1e-30]}]
    catalogue = read_catalogue(write_lines(tmp_path / "f", rows))
    assert catalogue.products == [{"id": "x", "name": "Éclair ☕"}, {"id": "a", "name": "tea"}]
    assert catalogue.unit_vectors.tolist() == [[np.float32(0.6), np.float32(0.8)], [0.0, -1.0]]
    assert catalogue.dropped_rows == 0


@pytest.mark.parametrize(
    ("labels", "identifier", "name"),
    [
        ({"name": "tea"}, "tea", "tea"),
        ({"id": None, "name": "tea"}, "tea", "tea"),
        ({"id": 7, "name": "tea"}, "7", "tea"),
        ({"id": -(2**63), "name": "tea"}, "-9223372036854775808", "tea"),
        ({"id": 0, "name": ""}, "0", ""),
        ({"id": " ", "name": "tea"}, " ", "tea"),
    ],
    ids=["no id", "null id", "integer id", "long integer id", "zero and an empty name", "a space"],
)
def test_the_id_is_the_given_one_or_the_name(
    tmp_path: Path, labels: dict[str, Any], identifier: str, name: str
) -> None:
    catalogue = read_catalogue(write_lines(tmp_path / "f", [{**labels, "vector": [1, 2]}]))
    assert catalogue.products == [{"id": identifier, "name": name}]


def test_other_fields_are_kept(tmp_path: Path) -> None:
    fields = {"price": 9.5, "tags": ["a", {"b": None}], "ean": 2**53 + 1, "": True}
    catalogue = read_catalogue(write_lines(tmp_path / "f", [{"name": "tea", "vector": [1, 2], **fields}]))
    assert catalogue.products == [{"id": "tea", "name": "tea", **fields}]


@pytest.mark.parametrize("ids", [["a", "b"], [1, 2]], ids=["strings", "integers"])
def test_npz_products_are_read_like_any_other(tmp_path: Path, ids: list[Any]) -> None:
    np.savez(tmp_path / "f.npz", ids=ids, names=["tea", "Éclair"], vectors=np.array([[2, 0], [0, -3]], np.float16))
    catalogue = read_catalogue(tmp_path / "f.npz")
    assert catalogue.products == [{"id": str(ids[0]), "name": "tea"}, {"id": str(ids[1]), "name": "Éclair"}]
    assert catalogue.unit_vectors.tolist() == [[1.0, 0.0], [0.0, -1.0]]


def test_npz_ids_default_to_the_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", names=["tea", "cake"], vectors=np.eye(2))
    assert read_catalogue(tmp_path / "f.npz").products == [
        {"id": "tea", "name": "tea"},
        {"id": "cake", "name": "cake"},
    ]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "missing id (and no name to take for one)"),
        ({"ids": ["a"]}, "missing name"),
        ({"ids": [1.5], "names": ["a"]}, "id must be a string or an integer, not a number"),
        ({"names": ["a"], "vectors": [[1, np.nan]]}, "vector element 1 is not finite: nan"),
        ({"names": ["a"], "vectors": [[-0.0, 0.0]]}, "vector is all zeros, which has no direction"),
        ({"names": ["a"], "vectors": [[1.0]]}, "vector has 1 numbers, at least 2 are needed"),
    ],
    ids=["no labels", "no names", "float ids", "NaN", "zeros", "one number"],
)
def test_a_bad_npz_row_is_named(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    np.savez(tmp_path / "f.npz", **{"vectors": [[1.0, 2.0]], **arrays})
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(tmp_path / "f.npz")
    assert str(caught.value) == f"{tmp_path / 'f.npz'}: 1 bad rows\n  row 1: {reason}"


def test_a_catalogue_longer_than_a_block_keeps_every_vector_in_place(tmp_path: Path) -> None:
    angles = np.random.default_rng(0).uniform(0, 6, 9000)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    catalogue = read_catalogue(write_lines(tmp_path / "f", products_of(vectors)))
    assert [product["id"] for product in catalogue.products] == [f"p{i}" for i in range(9000)]
    np.testing.assert_allclose(catalogue.unit_vectors, vectors, rtol=0, atol=1e-7)


@pytest.mark.parametrize("on_bad_row", ["fail", "drop"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]"], ids=["nothing", "blank lines", "empty array"])
def test_a_file_without_products_is_refused(tmp_path: Path, content: bytes, on_bad_row: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(tmp_path / "f", on_bad_row)
    assert str(caught.value) == f"{tmp_path / 'f'}: holds no products"


@pytest.mark.parametrize("on_bad_row", ["fail", "drop"])
def test_a_file_of_bad_rows_alone_is_refused_naming_them(tmp_path: Path, on_bad_row: str) -> None:
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(write_lines(tmp_path / "f", [None, {"name": "a", "vector": [0, 0]}]), on_bad_row)
    assert str(caught.value) == (
        f"{tmp_path / 'f'}: 2 bad rows\n"
        "  line 1: a product must be an object, not null\n"
        "  line 2: vector is all zeros, which has no direction"
    )


@pytest.mark.parametrize("on_bad_row", ["fail", "drop"])
def test_a_file_that_cannot_be_read_to_its_end_is_refused_in_either_mode(tmp_path: Path, on_bad_row: str) -> None:
    with pytest.raises(BadRows, match="No such file"):
        read_catalogue(tmp_path / "missing", on_bad_row)
