"""Limits by value and diversity: in every request for matches, on both sides, as plain Python picks by exact NumPy."""

import json
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.build import Build
from retrieval.search.reranking import lists, request
from retrieval.search.reranking.diversity import pick_diverse
from retrieval.search.reranking.limits import ValueCounts
from service.cores import Cores, shared_cores
from service.engines.faiss_engine import FaissEngine
from service.recommender import Recommender, User
from tests.integration.conftest import ApiOver
from tests.support.api import NDJSON, Api, array
from tests.support.engines import engine_of
from tests.support.fake_engine import compass
from tests.support.filter_oracle import matching
from tests.support.filtered import USER, FilteredProducts
from tests.support.list_oracle import ListOracle, drawn_options


@pytest.fixture(scope="module")
def products() -> FilteredProducts:
    return FilteredProducts()


@pytest.fixture(scope="module")
def oracle(products: FilteredProducts) -> ListOracle:
    return ListOracle(products.vectors, products.fields)


@pytest.fixture(scope="module")
def build(products: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return products.build(tmp_path_factory.mktemp("flat"), index="Flat")


@pytest.fixture(scope="module")
def flat(api_over: ApiOver, build: Build) -> Api:
    return api_over(Recommender(engine_of(build)))


@pytest.fixture(scope="module")
def compressed(api_over: ApiOver, products: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> Api:
    return api_over(Recommender(engine_of(products.build(tmp_path_factory.mktemp("pq"), index="PQ3x4fs,RFlat"))))


def user(**options: Any) -> bytes:
    return json.dumps({"name": "ann", "vector": USER, **options}).encode()


def infer(api: Api, **options: Any) -> Any:
    return api.infer(user(**options)).json


def kept(products: FilteredProducts, options: dict[str, Any]) -> list[int]:
    left = matching(products.fields, options.get("filter", {}))
    return [position for position in left if f"p{position}" not in options.get("exclude", ())]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spare", [0, 2])
def test_lists_are_what_plain_python_picks(
    flat: Api, products: FilteredProducts, oracle: ListOracle, seed: int, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "_SPARE_PER_MATCH", spare)
    for vector, options in drawn_options(60, seed):
        oracle.check(infer(flat, vector=vector, **options), vector, kept(products, options), options)


def test_lists_of_a_compressed_index_keep_to_the_options_and_are_full(
    compressed: Api, products: FilteredProducts, oracle: ListOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "_SPARE_PER_MATCH", 0)
    for vector, options in drawn_options(60, 9):
        oracle.check(infer(compressed, vector=vector, **options), vector, kept(products, options), options, fills=True)


@pytest.mark.parametrize("k", [*range(1, 14), 89, 90, 91, 1000])
@pytest.mark.parametrize("diversity", [0, 0.4])
def test_a_limit_is_filled_up_from_further_down_for_every_k(
    flat: Api, oracle: ListOracle, k: int, diversity: float
) -> None:
    for max_per in ({"brand": 1}, {"tags": 2}, {"brand": 30}):
        options = {"k": k, "max_per": max_per, "diversity": diversity}
        oracle.check(infer(flat, **options), USER, [*range(90)], options)


def test_no_diversity_and_a_limit_that_limits_nothing_change_no_byte(flat: Api) -> None:
    plain = flat.infer(user(k=30)).body
    assert {flat.infer(user(k=30, **more)).body for more in ({"diversity": 0}, {"max_per": {"brand": 90}})} == {plain}


def test_users_get_the_same_bytes_alone_and_in_any_batch(flat: Api) -> None:
    bodies = [json.dumps({"name": "ann", "vector": vector, **o}).encode() for vector, o in drawn_options(40, 3)]
    bodies += [user(max_per={"brand": 1}, k=20), user(max_per={"brand": 1}, k=20), user(diversity=0.5)] * 2
    alone = [flat.infer(body).body for body in bodies]
    assert flat.batch(array(bodies)).body == array(alone)
    assert flat.batch(b"\n".join(bodies), content_type=NDJSON).body == b"\n".join([*alone, b""])


def test_an_explained_list_names_its_searches(
    flat: Api, products: FilteredProducts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "_SPARE_PER_MATCH", 0)
    rows = len({vector.tobytes() for vector in products.vectors})
    explain = infer(flat, explain=True, max_per={"brand": 1, "tags": 1, "shop.city": 1}, k=12)["explain"]
    assert explain["path"] == "exact, then matching rows"
    assert all(explain["candidates"][side] > rows for side in ("best", "worst"))
    assert explain["searches"] == {"best": 2, "worst": 2}
    assert infer(flat, explain=True, max_per={"brand": 90})["explain"]["searches"] == {"best": 1, "worst": 1}
    assert "searches" not in infer(flat, explain=True, diversity=0.5)["explain"]


def test_products_that_may_not_be_shown_are_in_no_list(
    api_over: ApiOver, build: Build, products: FilteredProducts, oracle: ListOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "_SPARE_PER_MATCH", 0)
    shown = {"price": {"$exists": True}}
    api = api_over(Recommender(engine_of(build, shown=json.dumps(shown))))
    for vector, options in drawn_options(20, 8):
        within = {"$and": [shown, options.get("filter", {})]}
        oracle.check(
            infer(api, vector=vector, **options), vector, kept(products, {**options, "filter": within}), options
        )


def test_the_filter_alone_says_how_many_match(flat: Api, products: FilteredProducts) -> None:
    query = {"stock": True}
    answer = infer(flat, filter=query, max_per={"brand": 1}, k=50)
    assert answer["matched"] == len(matching(products.fields, query))


FAULTS: list[tuple[str, Any, str, str]] = [
    ("max_per", {}, "", "must have from 1 to 64 fields, not 0"),
    ("max_per", {f"f{i}": 1 for i in range(65)}, "", "must have from 1 to 64 fields, not 65"),
    ("max_per", ["brand"], "", "must be an object of fields with a number each, not a list"),
    ("max_per", None, "", "must not be null"),
    ("max_per", {"brnd": 2}, "/brnd", "is no field of this build; the nearest is 'brand'"),
    ("max_per", {"price": 2}, "/price", "limits keywords, and 'price' is of type number"),
    ("max_per", {"sizes": 2}, "/sizes", "limits keywords, and 'sizes' is of type list of number"),
    ("max_per", {"stock": 2}, "/stock", "limits keywords, and 'stock' is of type boolean"),
    ("max_per", {"brand": 0}, "/brand", "must be at least 1, not 0"),
    ("max_per", {"brand": -1}, "/brand", "must be at least 1, not -1"),
    ("max_per", {"brand": True}, "/brand", "must be an integer, not a boolean"),
    ("max_per", {"brand": 2.0}, "/brand", "must be an integer, not 2.0"),
    ("max_per", {"brand": [2]}, "/brand", "must be an integer, not a list"),
    ("max_per", {"shop.city": None}, "/shop.city", "must be an integer, not null"),
    ("diversity", -0.1, "", "must be from 0 to 1"),
    ("diversity", 1.5, "", "must be from 0 to 1"),
    ("diversity", True, "", "must be a number, not a boolean"),
    ("diversity", "0.3", "", "must be a number, not a string"),
    ("diversity", None, "", "must not be null"),
]


@pytest.mark.parametrize(("option", "value", "below", "detail"), FAULTS, ids=str)
@pytest.mark.parametrize("path", ["/infer", "/batch", "/similar"])
def test_an_option_that_does_not_fit_is_refused_by_name(
    flat: Api, option: str, value: Any, below: str, detail: str, path: str
) -> None:
    body = {"ids": ["p0"], option: value} if path == "/similar" else {"name": "ann", "vector": USER, option: value}
    answer = flat.post(path, json.dumps([body] if path == "/batch" else body).encode())
    subject = option + below.replace("/", ".")
    if path == "/batch":
        [item] = answer.json
        found, pointer = item["error"], f"/0/{option}{below}"
    else:
        assert answer.status == 422
        [found] = answer.json["errors"]
        pointer = f"/{option}{below}"
    assert (found["pointer"], found["detail"]) == (pointer, f"{subject} {detail}")


def test_every_fault_of_a_limit_is_listed(flat: Api) -> None:
    answer = flat.post("/infer", user(max_per={"brand": 0, "nothing": 1}, diversity=2))
    pointers = [fault["pointer"] for fault in answer.json["errors"]]
    assert pointers == ["/max_per/brand", "/max_per/nothing", "/diversity"]


@pytest.mark.parametrize(
    ("option", "status"), [({"max_per": {"a": 1}}, 501), ({"diversity": 0.1}, 501), ({"diversity": 0}, 200)], ids=str
)
def test_an_engine_without_fields_refuses_what_it_cannot_do(
    api_over: ApiOver, option: dict[str, Any], status: int
) -> None:
    api = api_over(Recommender(compass()))
    body = json.dumps({"name": "ann", "vector": [1, 0], **option}).encode()
    assert api.post("/infer", body).status == status
    if status == 501:
        [item] = api.batch(array([body]), errors=1).json
        assert item["error"]["code"] == "not_implemented"
        assert next(iter(option)) in item["error"]["detail"]


def test_a_list_is_made_on_a_core(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    cores, held = Cores(shared_cores(), 1), list[bool]()
    recommender = Recommender(FaissEngine(build, cores))

    def noting(work: Any) -> Any:
        def run(*arguments: Any) -> Any:
            with cores.idle() as is_idle:
                held.append(not is_idle)
            return work(*arguments)

        return run

    monkeypatch.setattr(request, "_SPARE_PER_MATCH", 0)
    monkeypatch.setattr(lists, "pick_diverse", noting(pick_diverse))
    monkeypatch.setattr(lists, "ValueCounts", noting(ValueCounts))
    for options in ({"diversity": 0.3}, {"max_per": (("brand", 1),)}, {"max_per": (("tags", 1),), "diversity": 0.3}):
        recommender.recommend_one(User(40, name="ann", **options), np.array(USER))
    assert held == [True] * 8
    with cores.idle() as is_idle:
        assert is_idle
