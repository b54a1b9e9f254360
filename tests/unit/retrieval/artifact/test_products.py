"""Products are found by their ids, however many there are."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.artifact.products import ProductTable, ProductWriter, open_products


def table_of(directory: Path, ids: list[str]) -> ProductTable:
    writer = ProductWriter(directory)
    for identifier in ids:
        writer.append(identifier, "a name", {})
    writer.close()
    writer.finish()
    return open_products(directory)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33, 500])
def test_every_product_is_found_by_its_id_and_nothing_else_is(tmp_path: Path, count: int) -> None:
    ids = [str(number) for number in np.random.default_rng(count).permutation(3 * count)[:count]]
    table, requested = table_of(tmp_path, ids), [str(number) for number in range(-1, 3 * count + 1)]
    expected = [ids.index(each) if each in ids else -1 for each in requested]
    assert table.positions(requested).tolist() == expected
    assert [table.positions([each]).tolist() for each in requested] == [[each] for each in expected]
    assert table.positions([]).tolist() == []


def test_ids_are_compared_as_text_and_not_as_json(tmp_path: Path) -> None:
    ids = ['"', "\\", "\n", "å", "é", "~", "\U0001f355", "", "a", "A"]
    requested = [*ids, "\ud800", "\udfff", "b", '\\"']
    assert table_of(tmp_path, ids).positions(requested).tolist() == [*range(len(ids)), -1, -1, -1, -1]
