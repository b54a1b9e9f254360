"""What every engine that filters must do. An engine's test class inherits these tests and provides `engine_over`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from retrieval.search.filters.language import parse_filter
from retrieval.vectors import unit_vectors
from service.engines.base import FieldEngine
from service.recommender import Recommender, User
from tests.support.catalogues import products_of
from tests.support.filter_oracle import RandomFilters, matching
from tests.support.oracle import Oracle

Product = dict[str, Any]
DIMENSION = 6
HOSTILE = [
    "",
    "acme",
    'a "quoted" word',
    "it's",
    "back\\slash",
    "\\",
    '\\"',
    "\\n",
    "two\nlines\r\tand a tab",
    "%",
    "_",
    "åäö 日本 🍕",
    "é" * 128,
    '"] or position >= 0 or id in ["',
    "' or 1 == 1",
    "{x}",
    "null",
    "true",
    "\x01\x7f\u2028\ufffe",
]
NOWHERE = ["Acme", "acme ", "\ud800", "\x00", "acme\x00", "\uffff", "x" * 5000, '"']
INTEGERS = [0, -1, 3, 2**53, 2**53 + 1, 2**63 - 1, 1 - 2**63]
FRACTIONS = [0.1, -0.0, 2.5, 5e-324, 1e300, -1.7976931348623155e308, 1.7976931348623157e308]
OPERANDS = [
    *INTEGERS,
    *FRACTIONS,
    -(2**63),
    2**63,
    2**64 + 1,
    -(10**400),
    10**400,
    2**53 + 0.0,
    -1.7976931348623157e308,
]
ORDERS = ("$gt", "$gte", "$lt", "$lte")


class Filtered:
    """An engine over products with these further fields, of which every fifth shares the vector of an earlier one."""

    def __init__(self, engine_over: Callable[[list[Product]], FieldEngine], fields: list[Product]):
        draw = np.random.default_rng(len(fields))
        self.fields, self.vectors = fields, draw.normal(size=(len(fields), DIMENSION))
        self.vectors[4::5] = self.vectors[draw.integers(0, 4, len(self.vectors[4::5]))]
        self.user = draw.normal(size=DIMENSION)
        rows = [{**row, **more} for row, more in zip(products_of(self.vectors), fields, strict=True)]
        self.engine: Any = engine_over(rows)

    def check(
        self,
        query: Product,
        k: int = 7,
        excluded: frozenset[str] = frozenset(),
        left_out: Product | None = None,
    ) -> None:
        """Assert that the count and both sides are the oracle's: membership, scores and order.

        Products that the filter `left_out` lets through are not to be found, but counted.
        """
        matched = matching(self.fields, query)
        tree = parse_filter(query, self.engine.vocabulary)
        without = None if left_out is None else parse_filter(left_out, self.engine.vocabulary)
        gone = {*matching(self.fields, left_out)} if left_out is not None else set[int]()
        gone |= {position for position in matched if f"p{position}" in excluded}
        kept = np.array([position for position in matched if position not in gone], np.int64)
        *sides, count = self.engine.search_matching(unit_vectors(self.user[None]), k, tree, excluded, without)
        assert count == len(matched), query
        for side, neighbours in zip(("best", "worst"), sides, strict=True):
            positions, scores = neighbours.positions[0], neighbours.scores[0]
            assert len(positions) == min(k, len(kept)), query
            assert np.isin(positions, kept).all(), query
            if len(kept):
                nth = np.searchsorted(kept, positions).tolist()
                Oracle(self.vectors[kept]).check(self.user, side, nth, scores.tolist(), k)


def conditions(values: list[Any], orders: tuple[str, ...] = ()) -> Iterator[Any]:
    """Yield a condition of every operator with every value."""
    for value in values:
        yield value
        yield from ({operator: value} for operator in ("$eq", "$ne", *orders))
        yield from ({operator: [value, values[0]]} for operator in ("$in", "$nin"))
    yield from ({"$exists": wanted} for wanted in (True, False))


class FieldContract:
    """Subclasses define the fixture `engine_over`: a function from products to an engine that serves them."""

    EngineOver = Callable[[list[Product]], FieldEngine]

    @pytest.fixture
    def catalogue_size(self) -> int:
        return 90

    def test_every_operator_on_every_type_means_what_it_says(
        self, engine_over: EngineOver, catalogue_size: int
    ) -> None:
        filtered = Filtered(engine_over, RandomFilters(5).products(catalogue_size))
        for name, values in RandomFilters.fields.items():
            for condition in conditions(values, ORDERS if name in ("price", "sizes") else ()):
                filtered.check({name: condition})
                filtered.check({"$not": {name: condition}})

    def test_nested_filters_with_and_without_excluded_products_give_exactly_what_matches(
        self, engine_over: EngineOver, catalogue_size: int
    ) -> None:
        filtered = Filtered(engine_over, RandomFilters(6).products(catalogue_size))
        drawn, draw = RandomFilters(11), np.random.default_rng(3)
        for _ in range(60):
            k = int(draw.choice([1, 3, 10, 2 * catalogue_size]))
            names = draw.choice(catalogue_size, draw.choice([0, 5, 70]), replace=False)
            filtered.check(drawn.filter(), k, frozenset(f"p{i}" for i in names) | {"unknown", 'p"', "\ud800"})

    def test_products_that_a_second_filter_leaves_out_are_counted_but_not_found(
        self, engine_over: EngineOver, catalogue_size: int
    ) -> None:
        filtered = Filtered(engine_over, RandomFilters(7).products(catalogue_size))
        drawn, draw = RandomFilters(12), np.random.default_rng(4)
        for left_out in ({}, {"$not": {}}, *(drawn.filter() for _ in range(20))):
            names = frozenset(f"p{i}" for i in draw.choice(catalogue_size, draw.choice([0, 5]), replace=False))
            k = int(draw.choice([1, 7, 2 * catalogue_size]))
            filtered.check({}, k, names, left_out)
            filtered.check(drawn.filter(), k, names, left_out)

    def test_texts_of_all_kinds_are_only_texts(self, engine_over: EngineOver) -> None:
        fields: list[Product] = [
            {'sh"op': {"it's": text}, "tags": [text, HOSTILE[i - 1]], "åäö": text} for i, text in enumerate(HOSTILE)
        ]
        filtered = Filtered(engine_over, [*fields, {}, {"tags": []}, {"tags": [None]}, {"åäö": None}])
        for name in ("sh\"op.it's", "tags", "åäö"):
            for condition in conditions([*HOSTILE, *NOWHERE]):
                filtered.check({name: condition}, k=len(filtered.fields))

    def test_numbers_of_any_size_compare_exactly(self, engine_over: EngineOver) -> None:
        pairs = zip([*INTEGERS, None], [*FRACTIONS, None], strict=True)
        fields: list[Product] = [
            {
                "whole": whole,
                "fraction": fraction,
                "list": [whole, INTEGERS[i % 3]] if i % 3 else [],
                "fractions": [fraction, FRACTIONS[i % 4]],
            }
            for i, (whole, fraction) in enumerate(pairs)
        ]
        filtered = Filtered(engine_over, fields)
        for name in fields[0]:
            for condition in conditions(OPERANDS, ORDERS):
                filtered.check({name: condition}, k=len(fields))

    def test_each_operator_may_be_met_by_another_element(self, engine_over: EngineOver) -> None:
        lists = [[1, 9], [4, 6], [5], [], [9, 9], [1], None]
        filtered = Filtered(engine_over, [{"sizes": sizes, "tags": [*map(str, sizes or [])]} for sizes in lists])
        for query in (
            {"sizes": {"$lt": 3, "$gt": 7}},
            {"sizes": {"$gt": 4, "$lt": 6}},
            {"sizes": {"$gte": 4, "$lte": 4, "$ne": 6}},
            {"sizes": {"$nin": [9, 5], "$exists": True}},
            {"tags": {"$eq": "1", "$in": ["9", "4"]}},
            {"$and": [{"tags": "1"}, {"tags": "9"}]},
        ):
            filtered.check(query)
            filtered.check({"$not": query})

    def test_fields_and_ids_lead_to_products(self, engine_over: EngineOver) -> None:
        fields: list[Product] = [*RandomFilters(8).products(30), {"deep": {"a": [1, {"b": '\x00\uffff \\"'}]}}, {}]
        filtered = Filtered(engine_over, fields)
        positions = np.array([31, 3, 30, 3, 0])
        assert filtered.engine.fields_of(positions) == [
            {"id": f"p{i}", "name": f"product {i}", **fields[i]} for i in positions.tolist()
        ]
        ids = ["p31", "p32", "p3", 'p"', "", "p3", "\ud800", "p3\x00"]
        assert filtered.engine.positions_of(ids).tolist() == [31, -1, 3, -1, -1, 3, -1, -1]
        for some in (positions, positions[:0]):
            expected = unit_vectors(filtered.vectors)[some]
            np.testing.assert_allclose(filtered.engine.vectors_of(some), expected, rtol=0, atol=1e-7)
        assert filtered.engine.positions_of([]).tolist() == []
        assert filtered.engine.positions_of(["\ud800"]).tolist() == [-1]

    def test_bounds_apply_to_what_a_filter_and_exclude_leave(self, engine_over: EngineOver) -> None:
        filtered = Filtered(engine_over, RandomFilters(9).products(60))
        query = {"stock": {"$ne": False}}
        recommender = Recommender(filtered.engine)
        tree = parse_filter(query, filtered.engine.vocabulary)
        excluded = frozenset(f"p{i}" for i in range(0, 60, 7))
        whole = recommender.recommend_one(User(60, excluded, tree, name="ann"), filtered.user)
        kept = [i for i in matching(filtered.fields, query) if f"p{i}" not in excluded]
        assert sorted(whole.best.positions.tolist()) == sorted(whole.worst.positions.tolist()) == kept
        least, greatest = float(whole.best.scores[4]), float(whole.worst.scores[6])
        bounded = recommender.recommend_one(User(60, excluded, tree, least, greatest, name="ann"), filtered.user)
        assert bounded.matched == whole.matched == len(matching(filtered.fields, query))
        for side, count in (
            ("best", (whole.best.scores >= least).sum()),
            ("worst", (whole.worst.scores <= greatest).sum()),
        ):
            full, some = getattr(whole, side), getattr(bounded, side)
            assert (some.positions.tolist(), some.scores.tolist()) == (
                full.positions[:count].tolist(),
                full.scores[:count].tolist(),
            )
