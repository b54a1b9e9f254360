"""Filters become the expressions of Milvus that stand here letter by letter; what they find, the engine's tests say."""

from typing import Any

import pytest

from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.language import EVERYTHING, Vocabulary, parse_filter
from service.engines.milvus_columns import FieldColumns
from service.engines.milvus_expressions import both_hold, either_text, expression_of

COLUMNS = {
    "brand": FieldColumns("f0_brand", "keyword", is_list=False),
    "tags": FieldColumns("f1_tags", "keyword", is_list=True),
    "stock": FieldColumns("f2_stock", "boolean", is_list=False),
    "count": FieldColumns("f3_count", "integer", is_list=False),
    "price": FieldColumns("f4_price", "fraction", is_list=False),
    "sizes": FieldColumns("f5_sizes", "integer", is_list=True),
}
TYPES: dict[str, Any] = {
    **{"brand": "keyword", "tags": "list of keyword", "stock": "boolean"},
    **{"count": "number", "price": "number", "sizes": "list of number"},
}
VOCABULARY = Vocabulary({name: FieldFacts(name, kind, 1, 1.0) for name, kind in TYPES.items()}, {}, ())
NOTHING, LEAST = "position < 0", 1 - 2**63
LEAST_FRACTION = "-1.7976931348623155e+308"


def written(query: dict[str, Any]) -> str:
    return expression_of(parse_filter(query, VOCABULARY), COLUMNS)


@pytest.mark.parametrize(
    ("query", "expression"),
    [
        ({"brand": "acme"}, 'f0_brand in ["acme"]'),
        ({"brand": {"$in": ["b", "a", "b"]}}, 'f0_brand in ["a", "b"]'),
        ({"brand": {"$ne": "acme"}}, 'not (f0_brand in ["acme"])'),
        ({"brand": {"$exists": True}}, 'not (f0_brand in ["\uffff"])'),
        ({"tags": "hot"}, 'array_contains_any(f1_tags, ["hot"])'),
        ({"tags": {"$exists": False}}, 'not (not (array_contains_any(f1_tags, ["\uffff"])))'),
        ({"stock": True}, "f2_stock in [1]"),
        ({"stock": {"$exists": True}}, "f2_stock >= 0"),
        ({"count": {"$in": [3, 3.0, 1.5]}}, "f3_count in [3]"),
        ({"count": {"$gt": 2}}, "f3_count >= 3"),
        ({"count": {"$gte": 2.5}}, "f3_count >= 3"),
        ({"count": {"$lt": 2.5}}, f"(f3_count >= {LEAST}) and (f3_count <= 2)"),
        ({"count": {"$lt": -(10**400)}}, NOTHING),
        ({"count": {"$gt": -(10**400)}}, f"f3_count >= {LEAST}"),
        ({"price": {"$gte": 2}}, "f4_price >= 2.0"),
        ({"price": {"$gt": 2**53}}, "f4_price >= 9007199254740994.0"),
        ({"price": {"$gt": 2**53 + 1}}, "f4_price >= 9007199254740994.0"),
        ({"price": {"$lte": 2**53 + 1}}, f"(f4_price >= {LEAST_FRACTION}) and (f4_price <= 9007199254740992.0)"),
        ({"price": 2**53 + 1}, NOTHING),
        ({"price": 10**400}, NOTHING),
        ({"price": {"$gte": 10**400}}, NOTHING),
        ({"sizes": 4}, "array_contains_any(f5_sizes, [4])"),
        ({"sizes": {"$gt": 4}}, "f5_sizes_greatest >= 5"),
        ({"sizes": {"$lte": 4}}, f"(f5_sizes_least >= {LEAST}) and (f5_sizes_least <= 4)"),
        ({"sizes": {"$exists": True}}, f"f5_sizes_greatest >= {LEAST}"),
        ({"stock": True, "brand": "a"}, '(f0_brand in ["a"]) and (f2_stock in [1])'),
        ({"$or": [{"stock": True}, {"brand": "a"}]}, '(f0_brand in ["a"]) or (f2_stock in [1])'),
        ({"$not": {}}, "not (position >= 0)"),
    ],
    ids=str,
)
def test_a_filter_is_written_so(query: dict[str, Any], expression: str) -> None:
    assert written(query) == expression


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ('\\"', r'"\\\""'),
        ("two\r\nlines", r'"two\r\nlines"'),
        ('"] or position >= 0 or id in ["', r'"\"] or position >= 0 or id in [\""'),
        ("it's {x} %", '"it\'s {x} %"'),
    ],
)
def test_a_text_cannot_leave_its_quotes(text: str, literal: str) -> None:
    assert written({"brand": text}) == f"f0_brand in [{literal}]"
    assert either_text("id", [text]) == f"id in [{literal}]"


@pytest.mark.parametrize("text", ["\ud800", "a\x00", "\uffff", "é" * 128 + "e"])
def test_a_text_that_no_product_has_finds_nothing(text: str) -> None:
    assert written({"brand": text}) == NOTHING
    assert written({"brand": {"$nin": [text, "a"]}}) == 'not (f0_brand in ["a"])'


def test_expressions_are_joined_where_there_are_two() -> None:
    assert [both_hold("a", "b"), both_hold("a", ""), both_hold("", "b"), both_hold("", "")] == [
        "(a) and (b)",
        "a",
        "b",
        "",
    ]
    assert expression_of(EVERYTHING, COLUMNS) == "position >= 0"
