"""Vectors on disk, read in blocks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.records.vector_file import VectorFile

ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)


@pytest.fixture
def matrix(tmp_path: Path) -> Iterator[VectorFile]:
    matrix = VectorFile(tmp_path / "m")
    for start, end in ((0, 1), (1, 1), (1, 8), (8, 10)):
        matrix.append(ROWS[start:end])
    yield matrix
    matrix.close()


@pytest.mark.parametrize(
    ("size", "lengths"), [(1, [1] * 10), (4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (11, [10])], ids=str
)
def test_blocks_are_all_rows_in_order(
    matrix: VectorFile, monkeypatch: pytest.MonkeyPatch, size: int, lengths: list[int]
) -> None:
    monkeypatch.setattr("retrieval.records.vector_file.BLOCK_ROWS", size)
    blocks = list(matrix.blocks())
    assert [len(block) for block in blocks] == lengths
    assert np.concatenate(blocks).tolist() == ROWS.tolist()
    assert (matrix.rows, matrix.dimension) == (10, 3)


def test_rows_are_taken_in_the_order_asked_for(matrix: VectorFile) -> None:
    rows = [9, 0, 0, 4, 9]
    assert matrix.take(np.array(rows)).tolist() == ROWS[rows].tolist()
    assert matrix.take(np.empty(0, np.int64)).shape == (0, 3)


def test_a_sample_holds_distinct_rows_and_is_the_same_each_time(matrix: VectorFile) -> None:
    sample = matrix.sample(6, seed=1)
    assert sample.tolist() == matrix.sample(6, seed=1).tolist()
    assert len({tuple(row) for row in sample.tolist()}) == 6
    assert {tuple(row) for row in sample.tolist()} <= {tuple(row) for row in ROWS.tolist()}


@pytest.mark.parametrize("count", [10, 11, 1000])
def test_a_sample_of_no_fewer_than_all_is_all_in_order(matrix: VectorFile, count: int) -> None:
    assert matrix.sample(count, seed=1).tolist() == ROWS.tolist()


def test_rows_appended_after_reading_come_last(matrix: VectorFile) -> None:
    matrix.take(np.array([3]))
    matrix.append(ROWS[:2] + 100)
    assert np.concatenate(list(matrix.blocks())).tolist() == [*ROWS.tolist(), *(ROWS[:2] + 100).tolist()]


def test_columns_out_of_order_in_memory_are_written_as_rows(tmp_path: Path) -> None:
    matrix = VectorFile(tmp_path / "f")
    matrix.append(np.asfortranarray(ROWS))
    assert matrix.take(np.arange(10)).tolist() == ROWS.tolist()
    matrix.close()
