"""A filter that does not fit is refused with every fault; one that fits has one canonical form."""

from typing import Any

import pytest

from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.language import BadFilter, Vocabulary, parse_filter
from retrieval.search.filters.tree import Compare, Every, Exists, Filter, Not, OneOf, Some

TYPES = {
    "brand": "keyword",
    "price": "number",
    "stock": "boolean",
    "tags": "list of keyword",
    "sizes": "list of number",
}
NULL = 'must not be null ("$exists" tells whether there is a value)'
VOCABULARY = Vocabulary(
    {name: FieldFacts(name, kind, 3, 1.0) for name, kind in TYPES.items()},  # type: ignore[arg-type]
    {"mixed": "mixes number and keyword, first in product 'p9'"},
    {*TYPES, "mixed", "left_out"},
)
LEFT_OUT = "is not filterable: the build leaves it out; name it in --filterable"


def parse(query: Any) -> Filter:
    return parse_filter(query, VOCABULARY)


def faults(query: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(BadFilter) as caught:
        parse(query)
    return [(fault.code, fault.pointer, fault.detail) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        (None, ("null", "", NULL)),
        ([], ("type", "", "must be an object, not a list")),
        ("{}", ("type", "", "must be an object, not a string")),
        ({"prise": 1}, ("unknown_field", "/prise", "is no field of this build; the nearest is 'price'")),
        ({"a/b~c": 1}, ("unknown_field", "/a~1b~0c", "is no field of this build; the nearest is 'brand'")),
        ({"id": "p1"}, ("unknown_field", "/id", "is no field of this build; the nearest is 'brand'")),
        (
            {"mixed": 1},
            ("not_filterable", "/mixed", "is not filterable: mixes number and keyword, first in product 'p9'"),
        ),
        ({"left_out": {"$eq": 1}}, ("not_filterable", "/left_out", LEFT_OUT)),
        ({"$nor": []}, ("unknown_operator", "/$nor", "is no operator here; the nearest is '$or'")),
        ({"$eq": 1}, ("unknown_operator", "/$eq", "is no operator here; the nearest is '$or'")),
        ({"price": {"gte": 1}}, ("unknown_operator", "/price/gte", "is no operator here; the nearest is '$gte'")),
        ({"price": {"$not": {}}}, ("unknown_operator", "/price/$not", "is no operator here; the nearest is '$ne'")),
        ({"price": {}}, ("empty", "/price", "must have an operator or be a value")),
        ({"price": "1"}, ("type", "/price", "must be a number, not a string")),
        ({"price": True}, ("type", "/price", "must be a number, not a boolean")),
        ({"price": [1]}, ("type", "/price", "must be a number, not a list")),
        ({"sizes": [1]}, ("type", "/sizes", "must be a number, not a list")),
        ({"brand": 1}, ("type", "/brand", "must be a string, not a number")),
        ({"tags": {"$eq": True}}, ("type", "/tags/$eq", "must be a string, not a boolean")),
        ({"stock": 1}, ("type", "/stock", "must be a boolean, not a number")),
        ({"stock": {"$ne": "true"}}, ("type", "/stock/$ne", "must be a boolean, not a string")),
        (
            {"brand": {"$gt": "a"}},
            ("type", "/brand/$gt", "compares numbers, and 'brand' is of type keyword"),
        ),
        ({"tags": {"$lte": 1}}, ("type", "/tags/$lte", "compares numbers, and 'tags' is of type list of keyword")),
        (
            {"price": {"$gte": None}},
            ("null", "/price/$gte", NULL),
        ),
        ({"price": None}, ("null", "/price", NULL)),
        ({"price": {"$lt": float("nan")}}, ("not_finite", "/price/$lt", "is not finite: nan")),
        ({"price": {"$in": [1, float("inf")]}}, ("not_finite", "/price/$in/1", "is not finite: inf")),
        ({"price": {"$exists": 1}}, ("type", "/price/$exists", "must be a boolean, not a number")),
        ({"brand": {"$in": []}}, ("empty", "/brand/$in", "must not be empty")),
        ({"brand": {"$nin": "a"}}, ("type", "/brand/$nin", "must be a list of values, not a string")),
        ({"brand": {"$in": ["a", "b", 3]}}, ("type", "/brand/$in/2", "must be a string, not a number")),
        ({"$and": []}, ("empty", "/$and", "must not be empty")),
        ({"$or": []}, ("empty", "/$or", "must not be empty")),
        ({"$or": {}}, ("type", "/$or", "must be a list of filters, not an object")),
        ({"$not": []}, ("type", "/$not", "must be an object, not a list")),
        ({"$and": [{"stock": True}, 3]}, ("type", "/$and/1", "must be an object, not a number")),
        ({"$and": [{"brand": {"$in": [1]}}]}, ("type", "/$and/0/brand/$in/0", "must be a string, not a number")),
        (
            {"brand": {"$in": ["a"] * 1001}},
            ("range", "/brand/$in", "must have at most 1000 values, not 1001"),
        ),
        ({"$or": [{}] * 1001}, ("range", "/$or", "must have at most 1000 filters, not 1001")),
    ],
    ids=str,
)
def test_a_fault_is_named(query: Any, fault: tuple[str, str, str]) -> None:
    assert faults(query) == [fault]


def test_every_fault_is_listed_in_order() -> None:
    query = {
        "prise": 1,
        "price": {"$gte": None, "$foo": 1},
        "$or": [{"stock": 1}, {"$not": {"brand": {"$in": [1, 2]}}}],
    }
    assert [(code, pointer) for code, pointer, _ in faults(query)] == [
        ("unknown_field", "/prise"),
        ("null", "/price/$gte"),
        ("unknown_operator", "/price/$foo"),
        ("type", "/$or/0/stock"),
        ("type", "/$or/1/$not/brand/$in/0"),
        ("type", "/$or/1/$not/brand/$in/1"),
    ]


@pytest.mark.parametrize(
    "query",
    [{"brand": {"$in": [1] * 1000}}, {f"x{i}": 1 for i in range(60)}, {"price": {f"${i}": 1 for i in range(60)}}],
    ids=["values", "fields", "operators"],
)
def test_only_the_first_twenty_faults_are_listed(query: Any) -> None:
    assert len(faults(query)) == 20


def nested(levels: int, join: str) -> dict[str, Any]:
    query: dict[str, Any] = {"stock": True}
    for _ in range(levels - 1):
        query = {join: query} if join == "$not" else {join: [query]}
    return query


@pytest.mark.parametrize(("join", "step"), [("$not", ""), ("$and", "/0"), ("$or", "/0")])
def test_a_filter_has_eight_levels_at_most(join: str, step: str) -> None:
    parse(nested(8, join))
    fault = ("too_deep", f"/{join}{step}" * 8, "is nested deeper than 8 levels")
    assert faults(nested(9, join)) == faults(nested(900, join)) == [fault]


@pytest.mark.parametrize("one", [{"price": 1}, {"price": {"$gt": 1, "$lt": 3}}, {}], ids=["value", "range", "empty"])
def test_a_filter_has_64_conditions_at_most(one: dict[str, Any]) -> None:
    parse({"$or": [one] * 64})
    assert faults({"$or": [one] * 65}) == [("range", "", "has more than 64 conditions")]
    assert faults({"$and": [{"$or": [one] * 40}, {"$not": {"$or": [one] * 900}}]}) == [
        ("range", "", "has more than 64 conditions")
    ]


def test_nothing_is_suggested_where_there_is_nothing_to_filter_by() -> None:
    with pytest.raises(BadFilter, match=r"^filter/price is no field of this build, which has none to filter by$"):
        parse_filter({"price": 1}, Vocabulary({}, {}, ()))


@pytest.mark.parametrize(
    ("query", "tree"),
    [
        ({}, Every(frozenset())),
        ({"brand": "a"}, OneOf("brand", frozenset({"a"}))),
        ({"brand": {"$in": ["a", "b", "a"]}}, OneOf("brand", frozenset({"a", "b"}))),
        ({"brand": {"$ne": "a"}}, Not(OneOf("brand", frozenset({"a"})))),
        ({"$not": {"brand": {"$nin": ["a"]}}}, OneOf("brand", frozenset({"a"}))),
        ({"tags": {"$exists": False}}, Not(Exists("tags"))),
        (
            {"price": {"$gte": 1, "$lt": 2.5}},
            Every(frozenset({Compare("price", "$gte", 1), Compare("price", "$lt", 2.5)})),
        ),
        (
            {"$or": [{"stock": True}, {"$or": [{"tags": "x"}]}]},
            Some(frozenset({OneOf("stock", frozenset({True})), OneOf("tags", frozenset({"x"}))})),
        ),
        ({"$and": [{}, {"stock": True}]}, OneOf("stock", frozenset({True}))),
        ({"$not": {}}, Not(Every(frozenset()))),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_filter_becomes_its_canonical_tree(query: dict[str, Any], tree: Filter) -> None:
    assert parse(query) == tree
    assert hash(parse(query)) == hash(tree)
