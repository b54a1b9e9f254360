"""Changes that cannot be made: the whole file is refused, each line at fault is named, and nothing is published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.update import UpdateRequest, update
from retrieval.artifact.store import open_current
from retrieval.errors import RetrievalError
from retrieval.search.filters.language import BadFilter
from tests.support.catalogues import products_of, write_lines
from tests.support.published import current, edit_manifest

VECTOR = [1.0, 2.0, 3.0]
FIELDS: dict[str, Any] = {
    "brand": "a",
    "price": 1.5,
    "count": 2**53 + 1,
    "stock": True,
    "tags": ["x"],
    "shop": {"city": "Roma"},
}
MIXED: list[dict[str, Any]] = [{"mixed": "a"}, {"mixed": 1}]
ANY = {"id": "p1", "name": "a", "vector": VECTOR}

FILTERED = "is a field to filter by"
INEXACT = f"count {FILTERED}, and holds integers that 64 bits do not hold, or not together with its fractions"
BAD_LINES: dict[str, tuple[Any, str]] = {
    "list": ([1, 2], "a product must be an object, not a list"),
    "no id to delete": ({"delete": True}, "missing id"),
    "no id to set": ({"set": {"price": 1}}, "missing id"),
    "no id and no name": ({"vector": VECTOR}, "missing id (and no name to take for one)"),
    "list as id": ({"id": ["p1"], "delete": True}, "id must be a string or an integer, not a list"),
    "no vector": ({"id": "p1", "name": "a"}, "missing vector"),
    "no name": ({"id": "p1", "vector": VECTOR}, "missing name"),
    "members without set": (
        {"id": 3, "price": 5},
        'missing name; "set" changes members of a product that is there',
    ),
    "wrong dimension": ({**ANY, "vector": [1, 2]}, "vector has 2 numbers, 3 are expected"),
    "not JSON": (b'{"id": "p1"', "not JSON: Expecting ',' delimiter: line 2 column 1 (char 12)"),
    "not finite": (b'{"id": "p1", "name": "a", "vector": [1, NaN, 3]}', "vector element 1 is not finite: nan"),
    "text in a vector": ({**ANY, "vector": [1, "2", 3]}, "vector element 1 is a string, not a number"),
    "text as a vector": ({**ANY, "vector": "AAA"}, "vector must be a list of numbers, not a string"),
    "zeros": ({**ANY, "vector": [0, 0, 0]}, "vector is all zeros, which has no direction"),
    "delete of an unknown id": ({"id": "px", "delete": True}, "no product has the id 'px'"),
    "set of an unknown id": ({"id": "px", "set": {"price": 1}}, "no product has the id 'px'"),
    "delete of a deleted id": ({"id": "p5", "delete": True}, "no product has the id 'p5'"),
    "delete is false": ({"id": "p1", "delete": False}, "delete must be true"),
    "delete with more": (
        {"id": "p1", "delete": True, "name": "a"},
        "delete takes an id and nothing else, not 'name'",
    ),
    "set with more": ({"id": "p1", "set": {"price": 1}, "price": 2}, "set takes an id and nothing else, not 'price'"),
    "set and delete": ({"id": "p1", "set": {}, "delete": True}, "delete takes an id and nothing else, not 'set'"),
    "empty set": ({"id": "p1", "set": {}}, "set is empty"),
    "set is a list": ({"id": "p1", "set": []}, "set must be an object, not a list"),
    "set of the id": (
        {"id": "p1", "set": {"id": "p2"}},
        "set cannot change 'id'; a line with the whole product replaces it",
    ),
    "set of the vector": (
        {"id": "p1", "set": {"vector": VECTOR}},
        "set cannot change 'vector'; a line with the whole product replaces it",
    ),
    "no name left": ({"id": "p1", "set": {"name": None}}, "name must be a string, not null"),
    "number for a keyword": (
        {"id": "p1", "set": {"brand": 5}},
        "brand must be of type keyword, as in other products, not number",
    ),
    "boolean for a number": ({**ANY, "price": True}, "price must be of type number, as in other products, not boolean"),
    "keyword for keywords": (
        {**ANY, "tags": "x"},
        "tags must be of type list of keyword, as in other products, not keyword",
    ),
    "numbers for keywords": (
        {**ANY, "tags": [1]},
        "tags must be of type list of keyword, as in other products, not list of number",
    ),
    "object for a keyword": (
        {**ANY, "brand": {"a": 1}},
        f"brand {FILTERED}, of type keyword, and holds objects, whose own fields have dotted names",
    ),
    "long keyword": (
        {**ANY, "brand": "é" * 129},
        f"brand {FILTERED}, of type keyword, and holds a string of 258 bytes (256 at most)",
    ),
    "number in an object": (
        {"id": "p1", "set": {"shop": {"city": 5}}},
        "shop.city must be of type keyword, as in other products, not number",
    ),
    "dotted name": ({**ANY, "shop.city": "Roma"}, "shop.city is the name of a field and of one within an object"),
    "fraction beside large integers": ({"id": "p1", "set": {"count": 0.5}}, INEXACT),
    "other type in the delta": (
        {"id": "p1", "set": {"fresh": 1}},
        "fresh must be of type keyword, as in other products, not number",
    ),
    "lone surrogate": (
        b'{"id": "p1", "set": {"brand": "\\ud800"}}',
        "cannot be stored as JSON: str is not valid UTF-8: surrogates not allowed",
    ),
    "twice in the file": ({"id": "p2", "delete": True}, "duplicate id 'p2', first used at line 1"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with a delta that brings the field `fresh` and has deleted p5."""
    directory = tmp_path_factory.mktemp("changed")
    vectors = np.random.default_rng(3).normal(size=(40, 3))
    rows = [{**row, **FIELDS} for row in products_of(vectors)]
    rows = [*({**row, **more} for row, more in zip(rows, MIXED, strict=False)), *rows[2:]]
    build(BuildRequest(products=write_lines(directory / "f", rows), out=directory / "root", embedding_model="old"))
    lines = [{"id": "p5", "delete": True}, {"id": "p6", "set": {"fresh": "yes"}}]
    update(UpdateRequest(update=write_lines(directory / "g", lines), out=directory / "root"))
    return directory / "root"


def refusal(path: Path, root: Path, **options: Any) -> str:
    """Return the error of an update, which leaves the root as it was."""
    before = tree(root)
    with pytest.raises(RetrievalError) as caught:
        update(UpdateRequest(update=path, out=root, **options))
    assert tree(root) == before
    return str(caught.value)


def tree(root: Path) -> dict[str, int]:
    """Return when each file was written last, but for the one that updates lock."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".updating")
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_refuses_the_file_and_is_named(tmp_path: Path, root: Path, line: Any, reason: str) -> None:
    path = write_lines(tmp_path / "f", [{"id": "p2", "delete": True}, b"", {"id": "p3", "set": {"price": 2}}, line])
    assert refusal(path, root) == f"{path}: 1 bad rows\n  line 4: {reason}"


def test_a_file_of_nothing_but_faults_is_refused(tmp_path: Path, root: Path) -> None:
    path = write_lines(tmp_path / "f", [5])
    assert refusal(path, root) == f"{path}: 1 bad rows\n  line 1: a product must be an object, not a number"


def test_of_a_new_field_the_first_line_that_brings_it_decides_the_type(tmp_path: Path, root: Path) -> None:
    lines = [{**ANY, "id": "new", "novel": "a"}, {"id": "p0", "set": {"novel": 1}}, {"id": "p1", "set": {"novel": "b"}}]
    path = write_lines(tmp_path / "f", lines)
    reason = "novel must be of type keyword, as in other products, not number"
    assert refusal(path, root) == f"{path}: 1 bad rows\n  line 2: {reason}"


def test_twenty_bad_lines_are_shown_in_their_order_and_the_rest_counted(tmp_path: Path, root: Path) -> None:
    unknown = [{"id": f"x{i}", "delete": True} for i in range(12)]
    malformed = [{"id": f"y{i}", "delete": 1} for i in range(12)]
    path = write_lines(tmp_path / "f", [line for pair in zip(unknown, malformed, strict=True) for line in pair])
    reasons = [f"no product has the id 'x{i // 2}'" if i % 2 == 0 else "delete must be true" for i in range(20)]
    assert refusal(path, root).splitlines() == [
        f"{path}: 24 bad rows",
        *(f"  line {line}: {reason}" for line, reason in enumerate(reasons, 1)),
        "  and 4 more",
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]"], ids=repr)
def test_a_file_without_changes_is_refused(tmp_path: Path, root: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    assert refusal(tmp_path / "f", root) == f"{tmp_path / 'f'}: holds no changes"


def test_changes_that_leave_no_product_are_refused(tmp_path: Path, root: Path) -> None:
    lines = [{"id": f"p{i}", "delete": True} for i in range(40) if i != 5]
    assert refusal(write_lines(tmp_path / "f", lines), root) == f"{tmp_path / 'f'}: leaves no product"


def test_vectors_of_another_embedding_model_are_refused(tmp_path: Path, root: Path) -> None:
    base = open_current(root).base.id
    assert refusal(write_lines(tmp_path / "f", [ANY]), root, embedding_model="new") == (
        f"--embedding-model new: the vectors of the base {base} are of old"
    )


def test_a_delta_of_more_than_a_fifth_of_its_base_is_refused(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_builder.pipelines.changes.update._ALWAYS_ALLOWED_BYTES", 0)
    limit = open_current(root).base.manifest.size_bytes / 5e6
    lines = [{**ANY, "id": f"new {i}", "text": "x" * 900} for i in range(20)]
    message = refusal(write_lines(tmp_path / "f", lines), root)
    assert message.startswith(f"{root}: with these changes the delta takes ")
    assert message.endswith(
        f" MB, more than {limit:.1f} MB, a fifth of its base; merge first: python -m index_builder --merge --out {root}"
    )


def test_new_fields_of_a_base_with_chosen_filterable_ones_are_not_filterable(tmp_path: Path) -> None:
    rows = [{**row, **FIELDS} for row in products_of(np.eye(3))]
    root = tmp_path / "root"
    build(BuildRequest(products=write_lines(tmp_path / "f", rows), out=root, filterable=("brand",)))
    lines = [{"id": "p1", "set": {"novel": 1, "price": "free"}}]
    update(UpdateRequest(update=write_lines(tmp_path / "g", lines), out=root))
    pair = open_current(root)
    assert [field.name for field in pair.manifest.filterable] == ["brand"]
    with pytest.raises(BadFilter, match="filter/novel is not filterable: the build leaves it out"):
        pair.filters.parse({"novel": 1})


@pytest.mark.parametrize("name", ["products.jsonl", "fields.bin", "products.by_name.npy"])
def test_a_damaged_base_takes_no_changes(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    rows = [{**row, **FIELDS} for row in products_of(np.eye(3))]
    build(BuildRequest(products=write_lines(tmp_path / "f", rows), out=root))
    damaged = current(root) / name
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    path = write_lines(tmp_path / "g", [{"id": "p1", "delete": True}])
    assert refusal(path, root) == f"{damaged}: its SHA-256 is not the one in the manifest"


def test_a_base_whose_index_is_cut_takes_no_changes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    build(BuildRequest(products=write_lines(tmp_path / "f", products_of(np.eye(3))), out=root))
    index = current(root) / "best.faiss"
    size = index.stat().st_size
    index.write_bytes(index.read_bytes()[:-1])
    path = write_lines(tmp_path / "g", [{"id": "p1", "delete": True}])
    assert refusal(path, root) == f"{index}: has {size - 1} bytes, the manifest says {size}"


def test_a_root_without_a_build_takes_no_changes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    message = refusal(write_lines(tmp_path / "f", [ANY]), root)
    assert message.startswith(f"{root / 'CURRENT'}: cannot be read (")


def test_a_root_that_is_not_there_is_named_by_what_it_lacks(tmp_path: Path) -> None:
    changes = write_lines(tmp_path / "changes", [{"id": "p1", "delete": True}])
    with pytest.raises(RetrievalError, match=f"^{tmp_path / 'missing' / 'CURRENT'}: cannot be read"):
        update(UpdateRequest(changes, tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()


def test_vectors_of_a_model_do_not_go_with_a_base_without_a_label(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    base = build(BuildRequest(write_lines(tmp_path / "products", products_of(np.eye(3))), root)).build_id
    changes = write_lines(tmp_path / "changes", [{"id": "p1", "delete": True}])
    expected = f"--embedding-model new: the vectors of the base {base} are of a model without a label"
    assert refusal(changes, root, embedding_model="new") == expected


def test_integers_are_ids_of_changes_too(tmp_path: Path) -> None:
    root, rows = tmp_path / "artifacts", [{**row, "id": i} for i, row in enumerate(products_of(np.eye(5)))]
    build(BuildRequest(write_lines(tmp_path / "products", rows), root))
    lines = [{"id": 1, "delete": True}, {"id": 2, "set": {"price": 3}}, {**rows[3], "name": "other"}]
    update(UpdateRequest(write_lines(tmp_path / "changes", lines), root))
    found = open_current(root).products
    assert found.positions(["0", "1", "2", "3"]).tolist() == [0, -1, 2, 3]
    assert (found[2]["price"], found[3]["name"]) == (3, "other")
    again = write_lines(tmp_path / "again", [{"id": 4, "delete": True}, {"id": "4", "delete": True}])
    assert refusal(again, root) == f"{again}: 1 bad rows\n  line 2: duplicate id '4', first used at line 1"


def test_changes_of_a_base_that_is_gone_or_another_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    build(BuildRequest(products=write_lines(tmp_path / "f", products_of(np.eye(3))), out=root))
    base = current(root)
    update(UpdateRequest(update=write_lines(tmp_path / "g", [{"id": "p1", "delete": True}]), out=root))
    path = write_lines(tmp_path / "h", [{"id": "p2", "delete": True}])
    edit_manifest(base, lambda manifest: manifest.update(dropped_rows=5))
    assert refusal(path, root) == (
        f"{current(root) / 'manifest.json'}: is of a delta on another build {base.name} than {base}"
    )
    base.rename(tmp_path / "elsewhere")
    assert str(base) in refusal(path, root)
