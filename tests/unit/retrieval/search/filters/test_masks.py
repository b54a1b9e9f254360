"""A mask holds the products that the filter means, and the rows that any of them has."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from retrieval.search.filters import masks, postings
from retrieval.search.filters.masks import FilterIndex, Mask, MaskCache
from tests.support.filter_oracle import RandomFilters, matching
from tests.support.filters import filters_over, matches

FIELDS: dict[str, list[Any]] = {
    "keyword": ["a", "b", "", "B", None, []],
    "number": [1, 2, 2.0, 2.5, -3, None, []],
    "boolean": [True, False, None, []],
    "list of keyword": [["a"], ["b", "b"], ["a", "c"], [None, "b"], [None], [], None],
    "list of number": [[1], [2, 2.0], [1, 3], [None, 2], [None], [], None],
}
OPERANDS: dict[str, Any] = {"keyword": "b", "number": 2, "boolean": True}
FOR_ALL = ("$eq", "$ne", "$in", "$nin", "$exists")
ORDERS = ("$gt", "$gte", "$lt", "$lte")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few products fill a block of postings, as only a large catalogue does."""
    monkeypatch.setattr(postings, "_MIN_BLOCK", 4)


@pytest.mark.parametrize(
    ("kind", "operator"),
    [
        (kind, operator)
        for kind in FIELDS
        for operator in (*FOR_ALL, *ORDERS)
        if operator in FOR_ALL or "number" in kind
    ],
)
def test_every_operator_means_what_it_means_in_plain_python(kind: str, operator: str) -> None:
    products = [*({"field": value} for value in FIELDS[kind]), {}]
    operand = OPERANDS[kind.removeprefix("list of ")]
    condition = {operator: {"$in": [operand], "$nin": [operand], "$exists": True}.get(operator, operand)}
    filters = filters_over(products)
    assert filters.vocabulary.filterable["field"].type == kind
    for query in ({"field": condition}, {"$not": {"field": condition}}):
        assert matches(filters, query) == matching(products, query)
    if operator == "$exists":
        assert matches(filters, {"field": {"$exists": False}}) == matching(products, {"field": {"$exists": False}})
    if operator == "$eq":
        assert matches(filters, {"field": operand}) == matching(products, {"field": operand})


@pytest.mark.parametrize("seed", range(25))
def test_random_filters_mean_what_they_mean_in_plain_python(seed: int, small_blocks: None) -> None:
    drawn = RandomFilters(seed)
    products = drawn.products(61)
    rows = np.random.default_rng(seed).integers(0, 40, len(products)).tolist()
    filters = filters_over(products, rows)
    for query in [drawn.filter() for _ in range(40)]:
        expected = matching(products, query)
        mask = filters.mask(filters.parse(query))
        assert (mask.positions().tolist(), mask.matched) == (expected, len(expected)), query
        check_rows(mask, expected, rows)


def check_rows(mask: Mask, positions: list[int], rows: list[int]) -> None:
    """Assert that a mask's rows are those of the products; rows are numbered as their numbers first come."""
    numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    expected = sorted({numbers[rows[position]] for position in positions})
    assert mask.row_ids is not None
    assert mask.row_ids.tolist() == expected
    assert mask.row_count == len(expected)
    bits = np.unpackbits(mask.rows, bitorder="little")
    assert np.flatnonzero(bits).tolist() == expected
    assert len(mask.rows) == -(-len(numbers) // 8)


def test_a_mask_tells_which_positions_it_holds() -> None:
    mask = compiled(filters_over([{"n": i} for i in range(21)]), {"n": {"$in": [0, 7, 8, 20]}})
    assert mask.holds(np.array([[0, 1, 7], [8, 20, 19]])).tolist() == [[True, False, True], [True, True, False]]


def test_many_rows_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "MAX_LISTED_ROWS", 3)
    filters = filters_over([{"n": i} for i in range(9)])
    assert compiled(filters, {"n": {"$lt": 3}}).row_ids.tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert compiled(filters, {"n": {"$lt": 4}}).row_ids is None


def test_rows_are_those_of_all_products_however_many_match() -> None:
    rows = [0, 1, 0, 2, 3, 1, 4, 0, 5, 2]
    filters = filters_over([{"n": i} for i in range(10)], rows)
    for first in range(10):
        check_rows(compiled(filters, {"n": {"$gte": first}}), [*range(first, 10)], rows)
        check_rows(compiled(filters, {"n": {"$ne": first}}), [i for i in range(10) if i != first], rows)


@pytest.mark.parametrize("values", [[2**53 + 1, 2**53, -(2**63)], [0.1, 2**53, 1e300], [2**63, 1.5]], ids=str)
@pytest.mark.parametrize("operand", [2**53, 2**53 + 1, 2**53 + 2, float(2**53), 2**63, 2**63 + 1, 10**300, 0.1, -1.5])
def test_numbers_compare_exactly_whatever_their_size(values: list[Any], operand: Any) -> None:
    products = [{"n": value} for value in values]
    filters = filters_over(products)
    for operator in ("$eq", "$ne", *ORDERS):
        query = {"n": {operator: operand}}
        assert matches(filters, query) == matching(products, query), query


def test_zero_has_no_sign_and_a_whole_float_is_an_integer() -> None:
    filters = filters_over([{"n": -0.0}, {"n": 0}, {"n": 1.0}, {"n": 1}])
    assert filters.vocabulary.filterable["n"].values == 2
    assert matches(filters, {"n": 0}) == matches(filters, {"n": -0.0}) == [0, 1]
    assert matches(filters, {"n": 1}) == matches(filters, {"n": 1.0}) == [2, 3]


def test_a_lone_surrogate_equals_no_text() -> None:
    filters = filters_over([{"t": "a"}, {"t": "\ufffd"}])
    assert matches(filters, {"t": "\ud800"}) == []
    assert matches(filters, {"t": {"$ne": "\ud800"}}) == [0, 1]


def test_a_filter_of_a_thousand_values_finds_each_of_them(small_blocks: None) -> None:
    filters = filters_over([{"t": f"{i % 1500:04}"} for i in range(3000)])
    wanted = [f"{i:04}" for i in range(0, 1500, 2)] + [f"x{i}" for i in range(250)]
    assert matches(filters, {"t": {"$in": wanted}}) == [i for i in range(3000) if i % 1500 % 2 == 0]


def test_equal_filters_share_a_mask_however_they_are_written() -> None:
    filters = filters_over([{"n": i, "t": "ab"[i % 2]} for i in range(20)])
    mask = compiled(filters, {"n": {"$gte": 3, "$lt": 9}, "t": {"$in": ["a", "x"]}})
    for same in (
        {"t": {"$in": ["x", "a", "x"]}, "n": {"$lt": 9.0, "$gte": 3}},
        {"$and": [{"n": {"$lt": 9}}, {"$and": [{"t": {"$in": ["a", "x"]}}, {"n": {"$gte": 3}}]}, {}]},
        {"$not": {"$not": {"n": {"$gte": 3, "$lt": 9}, "t": {"$in": ["a", "x"]}}}},
        {"$or": [{"n": {"$gte": 3, "$lt": 9}, "t": {"$in": ["a", "x"]}}]},
    ):
        assert compiled(filters, same) is mask
    assert compiled(filters, {"n": {"$gte": 3, "$lt": 9}, "t": "a"}) is not mask
    assert compiled(filters, {"t": {"$ne": "a"}}) is compiled(filters, {"$not": {"t": {"$in": ["a"]}}})


def compiled(filters: FilterIndex, query: dict[str, Any]) -> Mask:
    return filters.mask(filters.parse(query))


def mask_of(size: int) -> Mask:
    bits = np.zeros(size, np.uint8)
    return Mask(0, bits, 0, bits, None)


def test_the_masks_used_last_stay_as_far_as_they_fit() -> None:
    cache, compiled_keys = MaskCache[Mask](max_bytes=300), []

    def get(key: str) -> None:
        cache.get(key, lambda: compiled_keys.append(key) or mask_of(100))  # type: ignore[func-returns-value]

    for key in "abcabdab":  # d needs room, and c was used longest ago
        get(key)
    get("c")
    assert compiled_keys == ["a", "b", "c", "d", "c"]
    cache.get("huge", lambda: mask_of(301))
    get("a")
    assert compiled_keys[5:] == ["a"]


def test_what_threads_want_at_once_is_compiled_once() -> None:
    cache, started, go_on, calls = MaskCache[Mask](10**6), threading.Event(), threading.Event(), []

    def slowly() -> Mask:
        calls.append(1)
        started.set()
        assert go_on.wait(10)
        return mask_of(10)

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.get, "key", slowly)
        assert started.wait(10)
        others = [threads.submit(cache.get, "key", slowly) for _ in range(3)]
        go_on.set()
        assert {id(future.result(10)) for future in others} == {id(first.result(10))}
    assert len(calls) == 1


def test_a_compilation_that_fails_is_not_remembered() -> None:
    cache, mask = MaskCache[Mask](10**6), mask_of(1)

    def fail() -> Mask:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        cache.get("key", fail)
    assert cache.get("key", lambda: mask) is mask
