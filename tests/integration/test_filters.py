"""Filters, bounds of scores and fields to show: on both sides, in every request for matches, as exact NumPy says."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest

from retrieval.search.index import ProductIndex
from service.http.dynamic_batching import DynamicBatcher
from service.offline.matcher import BatchMatcher
from service.recommender import Recommender, Serving
from service.settings import Limits
from tests.integration.conftest import ApiOver
from tests.support.api import NDJSON, Api, Fault, array
from tests.support.engines import engine_of
from tests.support.fake_engine import compass
from tests.support.filter_oracle import RandomFilters, matching
from tests.support.filtered import USER, FilteredProducts

KINDS: list[dict[str, Any]] = [
    {"index": "Flat", "worst": "shared"},
    {"index": "HNSW8"},
    {"index": "PQ3x4fs,RFlat"},
]


@pytest.fixture(scope="module")
def products() -> FilteredProducts:
    return FilteredProducts()


@pytest.fixture(scope="module")
def filtered(api_over: ApiOver, products: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> Api:
    build = products.build(tmp_path_factory.mktemp("filtered"), index="Flat")
    return api_over(Recommender(engine_of(build)))


def user(**options: Any) -> bytes:
    return json.dumps({"name": "ann", "vector": USER, **options}).encode()


def infer(api: Api, **options: Any) -> Any:
    return api.infer(user(**options)).json


def test_random_filters_give_exactly_the_products_that_match(filtered: Api, products: FilteredProducts) -> None:
    drawn, draw = RandomFilters(11), np.random.default_rng(3)
    for _ in range(80):
        query, vector = drawn.filter(), draw.normal(size=len(USER)).tolist()
        k = int(draw.choice([1, 3, 10, 200]))
        exclude = {f"p{i}" for i in draw.choice(90, draw.choice([0, 5, 70]), replace=False)}
        answer = infer(filtered, vector=vector, filter=query, k=k, exclude=[*exclude])
        products.check(answer, vector, k, query, exclude)


def test_a_long_list_of_excluded_products_does_not_deepen_the_search(
    filtered: Api, products: FilteredProducts, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths, search = [], ProductIndex.search

    def note_depth(index: ProductIndex, vectors: np.ndarray, k: int, *more: Any) -> Any:
        depths.append(k)
        return search(index, vectors, k, *more)

    monkeypatch.setattr(ProductIndex, "search", note_depth)
    for count in (0, 5, 64, 65, 80, 90):
        exclude = [f"p{position}" for position in range(count)] + ["nobody's"] * 2
        for query in (None, {"stock": True}):
            options = {} if query is None else {"filter": query}
            products.check(infer(filtered, k=7, exclude=exclude, **options), USER, 7, query, {*exclude})
    assert depths == [8, 8, 13, 13, 7, 7, 7, 7, 7, 7, 7, 7]


def test_users_with_equal_filters_and_exclusions_share_a_search(filtered: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, search = [], ProductIndex.search

    def note_size(index: ProductIndex, vectors: np.ndarray, k: int, *more: Any) -> Any:
        sizes.append(len(vectors))
        return search(index, vectors, k, *more)

    monkeypatch.setattr(ProductIndex, "search", note_size)
    long = [f"p{position}" for position in range(70)]
    options: list[dict[str, Any]] = [
        {"exclude": long},
        {"exclude": long[::-1]},
        {"exclude": long, "filter": {}},
        {"exclude": long[1:]},
    ]
    users = [user(**each) for each in options]
    assert filtered.batch(array(users)).body == array([filtered.infer(each).body for each in users])
    assert sorted(sizes) == [1, 1, 1, 1, 1, 1, 2]


def test_a_search_uses_its_mask_once(api_over: ApiOver, products: FilteredProducts, tmp_path: Path) -> None:
    build, uses = products.build(tmp_path, index="Flat"), list[bool]()
    build.filters.on_mask = uses.append
    api = api_over(Recommender(engine_of(build)))
    query, long = {"stock": True}, [f"p{position}" for position in range(70)]
    searches: list[tuple[dict[str, Any], bool]] = [
        ({"filter": query}, False),
        ({"filter": query}, True),
        ({"filter": query, "explain": True}, True),
        ({"filter": query, "exclude": long}, True),
        ({"filter": query, "exclude": long, "explain": True}, True),
        ({"explain": True}, False),
    ]
    for options, is_cached in searches:
        infer(api, **options)
        assert uses == [is_cached]
        uses.clear()
    api.infer(user())
    api.batch(array([user(filter=query)] * 3))
    assert uses == [True]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_kind_of_index_gives_exactly_the_products_that_match(
    api_over: ApiOver, products: FilteredProducts, tmp_path: Path, options: dict[str, Any]
) -> None:
    api = api_over(Recommender(engine_of(products.build(tmp_path, **options))))
    for query in ({"stock": True}, {"price": {"$gt": 2}}, {"tags": "hot", "brand": {"$ne": "acme"}}):
        products.check(infer(api, filter=query, k=7), USER, 7, query)


def test_a_filter_that_holds_for_all_changes_nothing_but_matched(filtered: Api) -> None:
    plain = infer(filtered, k=200)
    for query in ({}, {"$or": [{"stock": True}, {"$not": {"stock": True}}]}):
        assert infer(filtered, k=200, filter=query) == {**plain, "matched": 90}


def test_a_filter_that_nothing_matches_gives_empty_lists(filtered: Api) -> None:
    body = user(filter={"brand": "nobody's", "price": 1})
    assert filtered.infer(body).body == b'{"name":"ann","best":[],"worst":[],"matched":0}'


def test_equivalent_filters_give_equal_bytes(filtered: Api) -> None:
    forms: list[dict[str, Any]] = [
        {"stock": True, "price": {"$gte": 0}},
        {"price": {"$gte": 0.0}, "stock": {"$in": [True]}},
        {"$and": [{"stock": {"$eq": True}}, {"price": {"$gte": 0}}]},
        {"$not": {"$not": {"stock": True, "price": {"$gte": 0}}}},
        {"$not": {"$or": [{"stock": {"$ne": True}}, {"$not": {"price": {"$gte": 0}}}]}},
    ]
    assert len({filtered.infer(user(filter=form)).body for form in forms}) == 1


def test_an_answer_is_the_same_alone_and_in_any_batch(filtered: Api) -> None:
    drawn = RandomFilters(7)
    bodies = [user(filter=drawn.filter(), k=k, fields=["*"]) for k in (3, 10) for _ in range(15)]
    bodies += [user(min_score=0.2), user(), user(filter={}, max_score=-0.3), *bodies[:4]]
    alone = [filtered.infer(body).body for body in bodies]
    assert filtered.batch(array(bodies)).body == array(alone)
    assert filtered.batch(b"\n".join(bodies), content_type=NDJSON).body == b"\n".join([*alone, b""])


def test_a_bad_filter_fails_only_its_own_user(filtered: Api) -> None:
    bad = [user(filter={"prise": 1}), user(filter={"price": {"$gte": None}}), user(filter=None)]
    answers = filtered.batch(array([user(), *bad, user(filter={"stock": True})]), errors=3).json
    assert [answer["error"]["pointer"] for answer in answers[1:4]] == [
        "/1/filter/prise",
        "/2/filter/price/$gte",
        "/3/filter",
    ]
    assert answers[0] == infer(filtered)
    assert answers[4] == infer(filtered, filter={"stock": True})


def test_every_fault_of_the_options_is_listed(filtered: Api) -> None:
    fields = ["price", 5, "nothing like it"]
    query = {"prise": 1, "$or": [{"brand": {"$in": ["a", 2]}}], "shop": 1, "shop.city": "x"}
    answer = filtered.post("/infer", user(filter=query, min_score=1.5, max_score="1", fields=fields))
    assert answer.status == 422
    assert sorted((fault["pointer"], fault["code"], fault["detail"]) for fault in answer.json["errors"]) == [
        ("/fields/1", "type", "fields element 1 must be a string, not a number"),
        ("/fields/2", "unknown_field", "fields element 2 is a field of no product: 'nothing like it'"),
        (
            "/filter/$or/0/brand/$in/1",
            "type",
            "filter.$or element 0.brand.$in element 1 must be a string, not a number",
        ),
        ("/filter/prise", "unknown_field", "filter.prise is no field of this build; the nearest is 'price'"),
        (
            "/filter/shop",
            "not_filterable",
            "filter.shop is not filterable: holds objects, whose own fields have dotted names, "
            f"first in product '{first_shop(filtered)}'",
        ),
        ("/max_score", "type", "max_score must be a number, not a string"),
        ("/min_score", "range", "min_score must be from -1 to 1"),
    ]


def first_shop(api: Api) -> str:
    return next(f"p{i}" for i in range(90) if "shop" in api.get(f"/products/p{i}").json)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"fields": []}, Fault("/fields", "empty", "fields must have from 1 to 1000 names of fields, not 0")),
        ({"fields": "price"}, Fault("/fields", "type", "fields must be a list of names of fields, not a string")),
        ({"fields": ["id"]}, Fault("/fields/0", "unknown_field", "fields element 0 is a field of no product: 'id'")),
        (
            {"fields": ["*"] * 1001},
            Fault("/fields", "range", "fields must have from 1 to 1000 names of fields, not 1001"),
        ),
        ({"min_score": None}, Fault("/min_score", "null", "min_score must not be null")),
        ({"min_score": True}, Fault("/min_score", "type", "min_score must be a number, not a boolean")),
        ({"max_score": -1.0001}, Fault("/max_score", "range", "max_score must be from -1 to 1")),
        ({"max_score": float("nan")}, Fault("/max_score", "range", "max_score must be from -1 to 1")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_option_is_refused(filtered: Api, options: dict[str, Any], fault: Fault) -> None:
    answer = filtered.post("/infer", user(**options))
    assert (answer.status, answer.json["errors"]) == (422, [vars(fault)])


def test_bounds_of_scores_are_inclusive_and_compared_with_rounded_scores(filtered: Api) -> None:
    whole = infer(filtered, k=90)
    for place in (0, 1, 9, 89):
        least, most = whole["best"][place]["score"], whole["worst"][place]["score"]
        answer = infer(filtered, k=90, min_score=least, max_score=most)
        assert answer["best"] == [match for match in whole["best"] if match["score"] >= least]
        assert answer["worst"] == [match for match in whole["worst"] if match["score"] <= most]
        assert len(answer["best"]) > place
    assert infer(filtered, min_score=1, max_score=-1) == {"name": "ann", "best": [], "worst": []}
    assert infer(filtered, k=90, min_score=-1, max_score=1) == whole


def test_bounds_apply_to_what_a_filter_and_exclude_leave(filtered: Api) -> None:
    query, whole = {"stock": True}, infer(filtered, k=90, filter={"stock": True})
    excluded, bound = whole["best"][0]["id"], whole["best"][4]["score"]
    answer = infer(filtered, k=3, filter=query, exclude=[excluded], min_score=bound)
    assert answer["matched"] == whole["matched"]
    kept = [match for match in whole["best"] if match["id"] != excluded and match["score"] >= bound]
    assert answer["best"] == kept[:3]


def test_matches_show_the_fields_that_their_products_have(filtered: Api, products: FilteredProducts) -> None:
    names = ["tags", "price", "shop.city", "shop", "price"]
    plain, answer = infer(filtered, k=90), infer(filtered, k=90, fields=names)
    everything = infer(filtered, k=90, fields=["*"])
    for side in ("best", "worst"):
        for bare, match, full in zip(plain[side], answer[side], everything[side], strict=True):
            given = products.fields[int(match["id"][1:])]
            shown = {name: given[name] for name in ("tags", "price", "shop") if given.get(name) is not None}
            if (given.get("shop") or {}).get("city") is not None:
                shown["shop.city"] = given["shop"]["city"]
            assert match == {**bare, "fields": shown}
            assert full["fields"] == {name: value for name, value in given.items() if value is not None}


def test_similar_products_take_the_same_options(filtered: Api, products: FilteredProducts) -> None:
    query = {"price": {"$gte": 0}}
    request = {"ids": ["p0", "p3"], "k": 4, "filter": query, "exclude": ["p1"], "fields": ["price"]}
    answer = filtered.post("/similar", json.dumps(request).encode()).json
    units = products.vectors / np.linalg.norm(products.vectors, axis=1, keepdims=True)
    products.check(answer, (units[0] + units[3]).tolist(), 4, query, {"p0", "p1", "p3"})
    assert all(match["fields"]["price"] >= 0 for side in ("best", "worst") for match in answer[side])
    bounded = filtered.post("/similar", json.dumps({"ids": ["p0"], "min_score": 1}).encode()).json
    assert "matched" not in bounded
    assert all(match["score"] == 1 for match in bounded["best"])
    refused = filtered.post("/similar", json.dumps({"ids": ["p0"], "filter": {"price": "x"}}).encode())
    assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/filter/price")


def test_a_product_is_answered_with_all_its_fields(filtered: Api, products: FilteredProducts) -> None:
    for i in (0, 4, 89):
        row = {name: value for name, value in products.rows[i].items() if name != "vector"}
        assert filtered.get(f"/products/p{i}").json == row
    for unknown in ("p90", "P0", "🍕", "p0/", "/p0", "//a//b", "..", "{id}", "x y?z"):
        answer = filtered.get(f"/products/{quote(unknown, safe='')}")
        assert (answer.status, answer.json["detail"]) == (404, f"no product has the id {unknown!r}")


def test_the_index_lists_the_fields_to_filter_by(filtered: Api, products: FilteredProducts) -> None:
    listed = {field["name"]: field for field in filtered.get("/index").json["filterable"]}
    assert {name: field["type"] for name, field in listed.items()} == {
        **{"brand": "keyword", "price": "number", "stock": "boolean", "shop.city": "keyword"},
        **{"tags": "list of keyword", "sizes": "list of number"},
    }
    for name, field in listed.items():
        assert field["coverage"] == len(matching(products.fields, {name: {"$exists": True}})) / 90
    assert listed["price"]["values"] == 5  # of -1.5, 0, 0.0, 2, 2.5 and 1e300


def test_columns_of_an_offline_batch_filter_and_bound_as_requests_do(
    products: FilteredProducts, filtered: Api, tmp_path: Path
) -> None:
    artifacts = products.build(tmp_path, index="Flat") and tmp_path / "artifacts"
    options: list[dict[str, Any]] = [
        {},
        {"filter": {"stock": True, "tags": {"$nin": ["hot"]}}},
        {"min_score": 0.6, "max_score": -0.75},
        {"filter": {"price": {"$gt": 0}}, "min_score": 0.0, "k": 3},
    ]
    rows = [
        {"name": "ann", "vector": USER, "k": None, "min_score": None, "max_score": None, **each}
        | {"filter": json.dumps(each["filter"]) if "filter" in each else None}
        for each in options
    ]
    bad = [{**rows[0], "filter": text} for text in ("{", '{"prise": 1}', "[]")]
    found = BatchMatcher(str(artifacts))(pa.Table.from_pylist([*rows, *bad])).to_pylist()
    for row, each in zip(found, options, strict=False):
        answer = infer(filtered, **each)
        assert (row["best"], row["worst"], row["error_code"]) == (answer["best"], answer["worst"], None)
    assert [(row["error_code"], row["error_detail"]) for row in found[4:]] == [
        ("type", "filter must be an object, not a string"),
        ("unknown_field", "filter.prise is no field of this build; the nearest is 'price'"),
        ("type", "filter must be an object, not a list"),
    ]


def test_an_engine_without_fields_says_that_it_cannot(api_over: ApiOver) -> None:
    api = api_over(Recommender(compass()))
    good: dict[str, Any] = {"name": "ann", "vector": [1, 0]}
    needing: list[dict[str, Any]] = [{"filter": {}}, {"fields": ["*"]}]
    for options in needing:
        answer = api.post("/infer", json.dumps({**good, **options}).encode())
        assert (answer.status, answer.json["title"]) == (501, "Not Implemented")
    answers = api.batch(json.dumps([{**good, "filter": {}}, good]).encode(), errors=1).json
    assert answers[0]["error"]["code"] == "not_implemented"
    assert answers[1] == api.infer(json.dumps(good).encode()).json
    bounded = api.infer(json.dumps({**good, "min_score": 0.7}).encode()).json
    assert [match["id"] for match in bounded["best"]] == ["east"]
    assert api.get("/products/east").status == 501


def test_a_filter_that_may_have_to_be_compiled_is_not_for_the_thread_of_the_sockets(
    products: FilteredProducts, tmp_path: Path
) -> None:
    serving = Serving(Recommender(engine_of(products.build(tmp_path, index="Flat"))))
    plain, filtered = DynamicBatcher(serving, Limits()).run_batch([user(), user(filter={"stock": True})], 1.0)
    assert plain is not None
    assert filtered is None
