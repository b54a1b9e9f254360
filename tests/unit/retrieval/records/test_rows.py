"""Reading the rows of a data file in each format."""

import gzip
import io
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import BadRows
from retrieval.records import rows
from retrieval.records.lenient_json import BadJson
from retrieval.records.rows import read_rows

PRODUCTS = [
    {"id": "a", "name": "Éclair ☕", "vector": [1.0, 2.0]},
    {"id": "b", "name": "tea", "vector": [-0.5, 1e-30]},
]


def lines(products: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(product, ensure_ascii=False).encode() + b"\n" for product in products)


def array(products: list[dict[str, Any]]) -> bytes:
    return json.dumps(products, indent=1).encode()


def npz(products: list[dict[str, Any]]) -> bytes:
    arrays: dict[str, Any] = {f"{field}s": np.array([product[field] for product in products]) for field in products[0]}
    return packed(**arrays)


def packed(compressed: bool = False, **arrays: Any) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


def read(path: Path, content: bytes) -> list[tuple[str, Any]]:
    path.write_bytes(content)
    return [
        (place, {**row, "vector": list(row["vector"])} if isinstance(row, dict) and "vector" in row else row)
        for place, row in read_rows(path)
    ]


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("write", "place"), [(lines, "line"), (array, "item"), (npz, "row")], ids=["JSON lines", "JSON array", "NPZ"]
)
def test_every_format_gives_the_same_rows(
    tmp_path: Path, write: Callable[..., bytes], place: str, compress: Callable[[bytes], bytes]
) -> None:
    rows = read(tmp_path / "a name that tells nothing", compress(write(PRODUCTS)))
    assert rows == [(f"{place} 1", PRODUCTS[0]), (f"{place} 2", PRODUCTS[1])]


@pytest.mark.parametrize(
    "write", [lines, array, lambda products: b"\n \t" + array(products)], ids=["lines", "array", "space, then array"]
)
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, write: Callable[..., bytes]) -> None:
    assert [row for _, row in read(tmp_path / "f", b"\xef\xbb\xbf" + write(PRODUCTS))] == PRODUCTS


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    assert read(tmp_path / "f", b'\n  \r\n{"a": 1}\r\n\t\n{"a": 2}') == [("line 3", {"a": 1}), ("line 5", {"a": 2})]


def test_a_line_that_is_no_json_stands_in_its_place(tmp_path: Path) -> None:
    [(first, value), second] = read(tmp_path / "f", b'{"a": 1\n{"a": 2}\n')
    assert (first, type(value)) == ("line 1", BadJson)
    assert second == ("line 2", {"a": 2})


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b" [ ]\n", gzip.compress(b"")],
    ids=["no bytes", "blank lines", "empty array", "empty gzip"],
)
def test_a_file_with_nothing_in_it_has_no_rows(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path / "f", content) == []


def test_a_closed_reader_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "f.gz").write_bytes(gzip.compress(lines(PRODUCTS)))
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    rows = read_rows(tmp_path / "f.gz")
    assert isinstance(rows, Generator)
    next(rows)
    rows.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_npz_arrays_may_be_missing_but_for_the_vectors(tmp_path: Path) -> None:
    vectors = np.array([[1, 2], [3, 4]])
    assert read(tmp_path / "f", packed(vectors=vectors, names=np.array(["a", "b"]), likes=np.arange(9))) == [
        ("row 1", {"name": "a", "vector": [1, 2]}),
        ("row 2", {"name": "b", "vector": [3, 4]}),
    ]
    assert read(tmp_path / "f", packed(vectors=vectors)) == [
        ("row 1", {"vector": [1, 2]}),
        ("row 2", {"vector": [3, 4]}),
    ]


NUMBERS = "'vectors' must be numbers (products, dimension), not"
OBJECTS = "not a readable NPZ file: Object arrays cannot be loaded"
NAMES, VECTORS = np.array(["a", "b"]), np.array([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"names": NAMES}, "has no array 'vectors'"),
        ({"vectors": VECTORS[0]}, f"{NUMBERS} float64 (2,)"),
        ({"vectors": VECTORS[None]}, f"{NUMBERS} float64 (1, 2, 2)"),
        ({"vectors": np.array(3.5)}, f"{NUMBERS} float64 ()"),
        ({"vectors": VECTORS > 2}, f"{NUMBERS} bool (2, 2)"),
        ({"vectors": VECTORS.astype(str)}, f"{NUMBERS} <U32 (2, 2)"),
        ({"vectors": VECTORS + 0j}, f"{NUMBERS} complex128 (2, 2)"),
        ({"vectors": VECTORS, "names": NAMES[:1]}, "its arrays have different lengths: {'names': 1, 'vectors': 2}"),
        ({"vectors": VECTORS, "ids": np.array("a")}, "'ids' must be "),
        ({"vectors": VECTORS, "names": NAMES.astype(object)}, OBJECTS),
        ({"vectors": VECTORS.astype(object)}, f"{NUMBERS} object (2, 2)"),
    ],
    ids=[
        "no vectors", "flat", "three axes", "a single number", "booleans", "strings", "complex",
        "lengths", "a single id", "names are objects", "vectors are objects",
    ],
)  # fmt: skip
def test_npz_arrays_that_are_no_products_are_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRows) as caught:
        read(tmp_path / "f.npz", packed(**arrays))
    assert str(caught.value).startswith(f"{tmp_path / 'f.npz'}: {reason}")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("key", ["products", "items"])
def test_the_list_in_one_object_holds_the_rows(tmp_path: Path, key: str, indent: int | None) -> None:
    products = [{"id": "a", "vector": [1, 2]}, {"id": "b", "vector": [2, 1]}]
    (tmp_path / "f").write_text(json.dumps({"version": 3, key: products}, indent=indent))
    assert [*read_rows(tmp_path / "f")] == [("item 1", products[0]), ("item 2", products[1])]


def test_a_product_with_a_list_of_objects_stays_a_product(tmp_path: Path) -> None:
    product = {"id": "a", "variants": [{"size": 1}]}
    (tmp_path / "f").write_text(json.dumps(product))
    assert [*read_rows(tmp_path / "f")] == [("line 1", product)]


class Whole(io.BytesIO):
    """Can only be read piece by piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        return super().read(size)


@pytest.mark.parametrize("cut", range(30))
def test_lines_are_read_one_by_one_wherever_the_opening_is_cut(cut: int) -> None:
    row = {"padding": "x" * (2**12 - 25 - cut), "vector": [1, 2, [3], {"a": 1}], "id": "p"}
    assert [value for _, value in rows._lines(Whole(json.dumps(row).encode() + b"\n"))] == [row]
