"""Rows that are no products: each is named with its place and the reason, and can be dropped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import BadCatalogue
from tests.support.catalogues import products_of, read_catalogue, write_lines

GOOD = products_of(np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]))


def vector(text: str) -> bytes:
    return f'{{"name": "bad", "vector": {text}}}'.encode()


def labels(text: str) -> bytes:
    return f'{{{text} "vector": [1, 2]}}'.encode()


NOT_FINITE, NO_DIRECTION = "vector element 0 is not finite:", "vector is all zeros, which has no direction"
BAD_ROWS: dict[str, tuple[Any, str]] = {
    "three numbers": (vector("[1, 2, 3]"), "vector has 3 numbers, 2 are expected"),
    "one number": (vector("[1]"), "vector has 1 numbers, 2 are expected"),
    "no numbers": (vector("[]"), "vector has 0 numbers, 2 are expected"),
    "NaN": (vector("[NaN, 1]"), f"{NOT_FINITE} nan"),
    "Infinity": (vector("[Infinity, 1]"), f"{NOT_FINITE} inf"),
    "-Infinity": (vector("[-Infinity, 1]"), f"{NOT_FINITE} -inf"),
    "1e400": (vector("[1e400, 1]"), f"{NOT_FINITE} inf"),
    "5,000 digits": (vector(f"[{'7' * 5000}, 1]"), f"{NOT_FINITE} inf"),
    "309 digits": (vector(f"[{'9' * 309}, 1]"), f"{NOT_FINITE} an integer beyond float range"),
    "zeros": (vector("[0, 0.0]"), NO_DIRECTION),
    "negative zeros": (vector("[-0.0, -0.0]"), NO_DIRECTION),
    "boolean": (vector("[true, 1]"), "vector element 0 is a boolean, not a number"),
    "string": (vector('[1, "2"]'), "vector element 1 is a string, not a number"),
    "null": (vector("[1, null]"), "vector element 1 is null, not a number"),
    "nested": (vector("[[1, 2]]"), "vector has 1 numbers, 2 are expected; vector element 0 is a list, not a number"),
    "object": (vector("[1, {}]"), "vector element 1 is an object, not a number"),
    "vector is text": (vector('"1 2"'), "vector must be a list of numbers, not a string"),
    "vector is a number": (vector("5"), "vector must be a list of numbers, not a number"),
    "vector is null": (vector("null"), "missing vector"),
    "no vector": ({"id": "a", "name": "a"}, "missing vector"),
    "no labels": (labels(""), "missing id (and no name to take for one)"),
    "empty id": (labels('"id": "", "name": "a",'), "missing id (and no name to take for one)"),
    "empty name, no id": (labels('"name": "",'), "missing id (and no name to take for one)"),
    "float id": (labels('"id": 1.0, "name": "a",'), "id must be a string or an integer, not a number"),
    "boolean id": (labels('"id": true, "name": "a",'), "id must be a string or an integer, not a boolean"),
    "list id": (labels('"id": ["a"], "name": "a",'), "id must be a string or an integer, not a list"),
    "no name": (labels('"id": "a",'), "missing name"),
    "integer name": (labels('"id": "a", "name": 5,'), "name must be a string, not a number"),
    "duplicate id": (labels('"id": "p1", "name": "again",'), "duplicate id 'p1', first used at line 2"),
    "duplicate by name": (labels('"name": "p0",'), "duplicate id 'p0', first used at line 1"),
    "list": ([1, 2], "a product must be an object, not a list"),
    "number": (7, "a product must be an object, not a number"),
    "text": ("tea", "a product must be an object, not a string"),
    "nothing": (None, "a product must be an object, not null"),
    "lone surrogate": (
        labels('"id": "a", "name": "\\ud800",'),
        "cannot be stored as JSON: str is not valid UTF-8: surrogates not allowed",
    ),
    "not UTF-8": (b'{"name": "\xff", "vector": [1, 2]}', "not UTF-8: invalid start byte at byte 10"),
    "too deep": (vector("[" * 100_000), "nested too deeply"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_named_with_its_line_and_the_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = write_lines(tmp_path / "f", [*GOOD[:2], b"", row, GOOD[2]])
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(path)
    assert str(caught.value) == f"{path}: 1 bad rows\n  line 4: {reason}"


@pytest.mark.parametrize("row", [b"hello", b'{"name": "a", ', b"{'name': 'a'}", b'{"a": 1} {}'], ids=repr)
def test_a_row_that_is_no_json_is_named(tmp_path: Path, row: bytes) -> None:
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(write_lines(tmp_path / "f", [GOOD[0], row]))
    assert str(caught.value).startswith(f"{tmp_path / 'f'}: 1 bad rows\n  line 2: not JSON: ")


def test_an_item_of_an_array_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(json.dumps([GOOD[0], [1], {**GOOD[1], "id": "p0"}]))
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(tmp_path / "f")
    assert str(caught.value) == (
        f"{tmp_path / 'f'}: 2 bad rows\n"
        "  item 2: a product must be an object, not a list\n"
        "  item 3: duplicate id 'p0', first used at item 1"
    )


@pytest.mark.parametrize(("count", "rest"), [(20, []), (21, ["  and 1 more"]), (45, ["  and 25 more"])], ids=str)
def test_twenty_bad_rows_are_shown_and_the_rest_counted(tmp_path: Path, count: int, rest: list[str]) -> None:
    with pytest.raises(BadCatalogue) as caught:
        read_catalogue(write_lines(tmp_path / "f", [GOOD[0], *range(count)]))
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'f'}: {count} bad rows",
        *(f"  line {line}: a product must be an object, not a number" for line in range(2, 22)),
        *rest,
    ]


def test_a_dropped_row_leaves_no_trace(tmp_path: Path) -> None:
    bad = [row for row, _ in BAD_ROWS.values()]
    third = len(bad) // 3
    mixed = write_lines(
        tmp_path / "mixed", [*GOOD[:2], *bad[:third], b"hello", *bad[third : 2 * third], GOOD[2], *bad[2 * third :]]
    )
    clean = read_catalogue(write_lines(tmp_path / "clean", GOOD))
    dropped = read_catalogue(mixed, "drop")
    assert dropped.lines == clean.lines
    assert dropped.unit_vectors.tobytes() == clean.unit_vectors.tobytes()
    assert (clean.dropped_rows, dropped.dropped_rows) == (0, len(bad) + 1)


def test_a_bad_row_uses_up_no_id_and_sets_no_dimension(tmp_path: Path) -> None:
    wrong = {"id": "p0", "name": "a", "vector": [0, 0, 0]}
    assert len(read_catalogue(write_lines(tmp_path / "f", [wrong, *GOOD]), "drop").products) == 3
