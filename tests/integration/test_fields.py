"""The values of fields over HTTP, and products found by a part of their names, against plain Python."""

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from retrieval.artifact.build import Build
from service.recommender import Recommender
from service.settings import Limits
from tests.integration.conftest import ApiOver
from tests.support.api import JSON, Api, Fault, check_problem
from tests.support.engines import engine_of
from tests.support.fake_engine import compass
from tests.support.filter_oracle import matching, values_of
from tests.support.filtered import FilteredProducts
from tests.support.sample import SampleProducts

FIELDS = {"brand": "keyword", "price": "number", "tags": "list of keyword", "shop.city": "keyword"}
SHOWN = '{"stock": true}'


@pytest.fixture(scope="module")
def filtered() -> FilteredProducts:
    return FilteredProducts()


@pytest.fixture(scope="module")
def build(filtered: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return filtered.build(tmp_path_factory.mktemp("fields"))


def values(api: Api, name: str, **query: object) -> dict[str, Any]:
    answer = api.get(f"/fields/{quote(name, safe='')}?{urlencode(query)}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON), answer.body
    found: dict[str, Any] = answer.json
    return found


def expected(products: list[dict[str, Any]], name: str) -> dict[str, Any]:
    counts = Counter(value for product in products for value in {*values_of(product, name)})
    order = sorted(counts, key=lambda value: (-counts[value], value))
    numbers = counts.keys() if name == "price" else ()
    return {
        "name": name,
        "type": FIELDS[name],
        "found": len(counts),
        "values": [{"value": value, "products": counts[value]} for value in order],
        "min": min(numbers, default=None),
        "max": max(numbers, default=None),
    }


@pytest.mark.parametrize("shown", ["", SHOWN])
@pytest.mark.parametrize("name", FIELDS)
def test_values_are_those_of_the_products_that_are_served(
    filtered: FilteredProducts, build: Build, api_over: ApiOver, name: str, shown: str
) -> None:
    api = api_over(Recommender(engine_of(build, shown=shown)))
    served = [filtered.fields[i] for i in matching(filtered.fields, {"stock": True} if shown else {})]
    assert values(api, name, limit=100) == expected(served, name)


def test_a_value_and_its_count_are_a_filter_and_what_it_matches(api: Api, sample_products: SampleProducts) -> None:
    found = values(api, "foods", contains="Tea", limit=5)
    assert [each["value"] for each in found["values"]] == ["tea"]
    [tea] = found["values"]
    assert tea["products"] == len(matching(sample_products.rows, {"foods": tea["value"]}))


@pytest.mark.parametrize("text", ["tea", "SUSHI", "creme", "pizza b", "é", "zzzz", "'"])
def test_names_are_found_by_what_they_contain(api: Api, sample_products: SampleProducts, text: str) -> None:
    def plain(name: str) -> str:
        accents = str.maketrans("àáâãäåçèéêëìíîïñòóôõöùúûüýş", "aaaaaaceeeeiiiinooooouuuuys")
        return name.lower().translate(accents)

    rows = sorted(sample_products.rows, key=lambda row: row["name"].casefold())
    wanted = plain(text)
    tests = (str.startswith, lambda name, part: f" {part}" in name, str.__contains__)
    ranked = [row["id"] for holds in tests for row in rows if holds(plain(row["name"]), wanted)]
    answer = api.get(f"/products?{urlencode({'contains': text, 'limit': 100})}")
    assert [product["id"] for product in answer.json["products"]] == [*dict.fromkeys(ranked)][:100]
    assert (
        api.get(f"/products?{urlencode({'contains': text, 'prefix': 'q'})}").json["products"]
        == (answer.json["products"][:10])
    )


def test_a_product_that_is_not_served_is_not_found(filtered: FilteredProducts, build: Build, api_over: ApiOver) -> None:
    api = api_over(Recommender(engine_of(build, shown=SHOWN)))
    served = {filtered.rows[i]["id"] for i in matching(filtered.fields, {"stock": True})}
    answer = api.get("/products?contains=&limit=100")
    assert {product["id"] for product in answer.json["products"]} == served


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("cuisin", "'cuisin' is no field of this build; the nearest is 'cuisine'"),
        ("name", "'name' is no field of this build; the nearest is 'cuisine'"),
        ("a/b", "'a/b' is no field of this build; the nearest is 'cuisine'"),
        ("x" * 99, f"'{'x' * 60}' is no field of this build; the nearest is 'cuisine'"),
    ],
)
def test_an_unknown_field_is_not_found(api: Api, name: str, detail: str) -> None:
    check_problem(api.get(f"/fields/{name}"), 404, detail)


def test_a_field_that_is_not_filterable_is_not_found_and_says_why(
    api_over: ApiOver, tmp_path: Path, filtered: FilteredProducts
) -> None:
    api = api_over(Recommender(engine_of(filtered.build(tmp_path, filterable=("brand",)))))
    detail = "'tags' is not filterable: the build leaves it out; name it in --filterable"
    check_problem(api.get("/fields/tags"), 404, detail)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (
            "/fields/price?contains=1",
            Fault("/contains", "type", "contains is about texts, and 'price' is of type number"),
        ),
        ("/fields/brand?limit=101", Fault("/limit", "range", "limit must be from 1 to 100, not 101")),
        ("/fields/brand?limit=x", Fault("/limit", "type", "limit must be an integer, not a string")),
        ("/map?field=prise", Fault("/field", "unknown_field", "field is a field of no product: 'prise'")),
    ],
)
def test_a_query_that_does_not_fit_is_refused(build: Build, api_over: ApiOver, path: str, fault: Fault) -> None:
    answer = api_over(Recommender(engine_of(build)), limits=Limits()).get(path)
    check_problem(answer, 422, fault.detail, (fault,))


def test_the_map_shows_a_field_of_the_products_that_have_it(
    build: Build, filtered: FilteredProducts, api_over: ApiOver
) -> None:
    api = api_over(Recommender(engine_of(build, shown=SHOWN)))
    plain, with_field = (api.get(path).json["products"] for path in ("/map", "/map?field=price"))
    shown = matching(filtered.fields, {"stock": True})
    prices = [filtered.fields[i].get("price") for i in shown]
    assert [product["fields"] for product in with_field] == [
        {} if price is None else {"price": price} for price in prices
    ]
    assert [{**product, "fields": None} for product in with_field] == [{**product, "fields": None} for product in plain]


@pytest.mark.parametrize("path", ["/fields/brand", "/products?contains=p", "/map?field=brand"])
def test_an_engine_that_looks_nothing_up_says_so(api_over: ApiOver, path: str) -> None:
    assert api_over(Recommender(compass())).get(path).status == 501
