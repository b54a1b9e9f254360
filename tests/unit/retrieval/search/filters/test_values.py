"""The values of fields and how many products have each, against counting product by product."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.search.filters.masks import FilterIndex
from retrieval.search.filters.values import FieldValues
from tests.support.filter_oracle import RandomFilters, matching, values_of
from tests.support.filters import filters_over

PRODUCTS = RandomFilters(3).products(400)
TYPES = {
    "brand": "keyword",
    "price": "number",
    "stock": "boolean",
    "tags": "list of keyword",
    "sizes": "list of number",
}


@pytest.fixture(scope="module")
def filters() -> FilterIndex:
    return filters_over(PRODUCTS)


def everything(positions: NDArray[np.integer]) -> NDArray[np.bool_]:
    return np.ones(len(positions), np.bool_)


def counted(products: list[dict[str, Any]], name: str) -> list[tuple[Any, int]]:
    """The values, those of the most products first; a list that repeats a value counts once."""
    counts = Counter(value for product in products for value in {*values_of(product, name)})
    return sorted(
        counts.items(), key=lambda each: (-each[1], each[0].encode() if isinstance(each[0], str) else each[0])
    )


def pairs(found: FieldValues) -> list[tuple[Any, int]]:
    return [(each.value, each.products) for each in found.values]


@pytest.mark.parametrize("query", [None, {"stock": True}, {"brand": {"$in": ["acme", ""]}}, {"price": {"$gt": 1e301}}])
@pytest.mark.parametrize("name", [*TYPES, "shop.city"])
def test_values_are_counted_over_the_products_that_are_shown(
    filters: FilterIndex, name: str, query: dict[str, Any] | None
) -> None:
    is_shown = everything if query is None else filters.mask(filters.parse(query)).holds
    shown = PRODUCTS if query is None else [PRODUCTS[i] for i in matching(PRODUCTS, query)]
    expected = counted(shown, name)
    found = filters.values(name, is_shown, "", 100)
    assert pairs(found) == expected
    kinds = [int if value in (0, 2) and name == "price" else type(value) for value, _ in expected]
    assert [type(value) for value, _ in pairs(found)] == kinds
    assert (found.name, found.type, found.found) == (name, TYPES.get(name, "keyword"), len(expected))
    numbers = [value for value, _ in expected] if "number" in found.type else []
    assert (found.min, found.max) == (min(numbers, default=None), max(numbers, default=None))


@pytest.mark.parametrize(("name", "text"), [("brand", "a"), ("brand", "z"), ("tags", "e"), ("shop.city", "o")])
def test_texts_are_found_that_contain_another(filters: FilterIndex, name: str, text: str) -> None:
    found = filters.values(name, everything, text.upper(), 100)
    plain = {"å": "a", "ä": "a"}  # the accents among the values
    expected = [
        (value, count)
        for value, count in counted(PRODUCTS, name)
        if text in "".join(plain.get(letter, letter) for letter in value.lower())
    ]
    assert (pairs(found), found.found) == (expected, len(expected))


def test_only_as_many_are_listed_as_are_asked_for(filters: FilterIndex) -> None:
    found = filters.values("brand", everything, "", 2)
    assert pairs(found) == counted(PRODUCTS, "brand")[:2]
    assert found.found == 5
