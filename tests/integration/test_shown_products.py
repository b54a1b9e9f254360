"""With a filter for all requests, the other products are in no answer: as though they were not in the catalogue."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest

from retrieval.artifact import products as product_table
from retrieval.artifact.delta import table
from retrieval.artifact.store import open_current
from retrieval.search import folded_texts
from service.__main__ import main
from service.errors import BadBatch, BadSetting
from service.http import metrics
from service.offline.job import run_batch
from service.offline.matcher import BatchMatcher
from service.recommender import Recommender
from service.settings import Settings
from tests.integration.conftest import ApiOver
from tests.support.api import Api, array
from tests.support.engines import engine_of
from tests.support.filter_oracle import RandomFilters, matching
from tests.support.filtered import USER, FilteredProducts
from tests.support.offline_runs import write_users
from tests.support.updated import ChangingCatalogue

SHOWN = {"stock": True, "price": {"$gte": 0}}


@pytest.fixture(scope="module")
def products() -> FilteredProducts:
    return FilteredProducts()


@pytest.fixture(scope="module")
def artifacts(products: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shown")
    products.build(directory, index="Flat")
    return directory / "artifacts"


@pytest.fixture(scope="module")
def shown(api_over: ApiOver, artifacts: Path) -> Api:
    return api_over(Recommender(engine_of(open_current(artifacts), shown=json.dumps(SHOWN))))


def user(**options: Any) -> bytes:
    return json.dumps({"name": "ann", "vector": USER, **options}).encode()


def check_unfiltered(products: FilteredProducts, answer: dict[str, Any], k: int, exclude: set[str]) -> None:
    assert "matched" not in answer
    count = len(matching(products.fields, SHOWN))
    products.check({**answer, "matched": count}, USER, k, SHOWN, exclude)


def test_requests_find_what_is_shown_and_nothing_else(shown: Api, products: FilteredProducts) -> None:
    for k, exclude in ((1, set[str]()), (10, {"p0", "p1"}), (90, set())):
        check_unfiltered(products, shown.infer(user(k=k, exclude=[*exclude])).json, k, exclude)


def test_a_filter_of_a_request_counts_and_finds_within_what_is_shown(shown: Api, products: FilteredProducts) -> None:
    drawn = RandomFilters(23)
    for _ in range(30):
        query = drawn.filter()
        products.check(shown.infer(user(filter=query, k=7)).json, USER, 7, {"$and": [SHOWN, query]})
    everything = shown.infer(user(filter={})).json
    assert everything["matched"] == len(matching(products.fields, SHOWN))


def test_a_batch_answers_as_single_users_are_answered(shown: Api) -> None:
    bodies = [user(), user(k=3, filter={"price": 2}), user(k=90, fields=["stock"])]
    assert shown.batch(array(bodies)).body == array([shown.infer(body).body for body in bodies])


def test_look_ups_know_only_what_is_shown(shown: Api, products: FilteredProducts) -> None:
    visible = matching(products.fields, SHOWN)
    hidden = next(position for position in range(90) if position not in visible)
    found = shown.get("/products?prefix=&limit=100").json["products"]
    names = sorted((products.rows[position]["name"].casefold(), position) for position in visible)
    assert [product["id"] for product in found] == [f"p{position}" for _, position in names]
    assert shown.get("/products?prefix=&limit=3").json["products"] == found[:3]
    assert shown.get(f"/products?prefix={quote(products.rows[hidden]['name'])}").json["products"] == [
        {"id": f"p{position}", "name": products.rows[position]["name"]}
        for name, position in names
        if name.startswith(products.rows[hidden]["name"].casefold())
    ]
    assert shown.get(f"/products/p{visible[0]}").json["id"] == f"p{visible[0]}"
    assert shown.get(f"/products/p{hidden}").status == 404
    refused = shown.post("/similar", json.dumps({"ids": [f"p{visible[0]}", f"p{hidden}"]}).encode())
    assert [fault["pointer"] for fault in refused.json["errors"]] == ["/ids/1"]
    placed = shown.post("/map", json.dumps({"ids": [f"p{hidden}"]}).encode())
    assert (placed.status, placed.json["errors"][0]["code"]) == (422, "unknown_id")


def test_similar_products_are_among_those_shown(shown: Api, products: FilteredProducts) -> None:
    visible = matching(products.fields, SHOWN)
    answer = shown.post("/similar", json.dumps({"ids": [f"p{visible[0]}"], "k": 5}).encode()).json
    vector = products.vectors[visible[0]] / np.linalg.norm(products.vectors[visible[0]])
    products.check({**answer, "matched": len(visible)}, vector.tolist(), 5, SHOWN, {f"p{visible[0]}"})


def test_the_map_has_the_points_of_what_is_shown(
    shown: Api, api_over: ApiOver, artifacts: Path, products: FilteredProducts
) -> None:
    whole = api_over(Recommender(engine_of(open_current(artifacts)))).get("/map").json["products"]
    visible = {f"p{position}" for position in matching(products.fields, SHOWN)}
    assert shown.get("/map").json["products"] == [point for point in whole if point["id"] in visible]


def test_a_filter_that_does_not_fit_the_build_is_refused_by_its_name(artifacts: Path) -> None:
    with pytest.raises(BadSetting) as error:
        engine_of(open_current(artifacts), shown='{"prise": 1}')
    detail = "filter/prise is no field of this build; the nearest is 'price'"
    assert str(error.value) == f"RECO_FILTER='{{\"prise\": 1}}' does not fit the build: {detail}"


def test_an_offline_batch_finds_what_is_shown(artifacts: Path, products: FilteredProducts, tmp_path: Path) -> None:
    source = write_users(tmp_path / "users.jsonl", [{"name": "ann", "vector": USER, "k": 5}])
    settings = Settings(artifacts=artifacts, workers=1, filter=json.dumps(SHOWN))
    run_batch(source, tmp_path / "m.jsonl", settings)
    check_unfiltered(products, json.loads((tmp_path / "m.jsonl").read_text()), 5, set())
    words = [
        "--artifact",
        artifacts,
        "--input",
        source,
        "--output",
        tmp_path / "n.jsonl",
        "--filter",
        json.dumps(SHOWN),
    ]
    assert main(["batch", *map(str, words)]) == 0
    assert (tmp_path / "n.jsonl").read_bytes() == (tmp_path / "m.jsonl").read_bytes()
    with pytest.raises(BadSetting, match="RECO_FILTER"):
        run_batch(source, tmp_path / "m2.jsonl", Settings(artifacts=artifacts, workers=1, filter='{"prise": 1}'))
    assert not (tmp_path / "m2.jsonl.parts").exists()


def test_a_matcher_with_a_filter_finds_what_is_shown_and_matches(artifacts: Path, products: FilteredProducts) -> None:
    users = pa.table(
        {
            "name": ["ann"] * 2,
            "vector": [USER] * 2,
            "exclude": pa.array([["p0", "p1"], None], pa.list_(pa.string())),
            "filter": [None, '{"brand": {"$ne": "acme"}}'],
        }
    )
    matcher = pickle.loads(pickle.dumps(BatchMatcher(str(artifacts), k=6, filter=SHOWN)))
    plain, filtered = matcher(users).to_pylist()
    assert plain["matched"] is None
    check_unfiltered(products, {side: plain[side] for side in ("best", "worst")}, 6, {"p0", "p1"})
    products.check(filtered, USER, 6, {"$and": [SHOWN, {"brand": {"$ne": "acme"}}]})
    everything = BatchMatcher(str(artifacts))(users)
    assert everything == BatchMatcher(str(artifacts), filter={})(users)
    assert everything.to_pylist()[1]["matched"] == len(matching(products.fields, {"brand": {"$ne": "acme"}}))


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (
            {"prise": 1},
            'filter={"prise":1} does not fit the build: '
            "filter/prise is no field of this build; the nearest is 'price'",
        ),
        ([], "filter=[] does not fit the build: filter must be an object, not a list"),
        ({"price": {1}}, "filter={'price': {1}}: must be JSON: Type is not JSON serializable: set"),
    ],
    ids=str,
)
def test_a_matcher_refuses_a_filter_that_does_not_fit(artifacts: Path, query: Any, complaint: str) -> None:
    with pytest.raises(BadBatch) as error:
        BatchMatcher(str(artifacts), filter=query)(pa.table({"name": ["ann"], "vector": [USER]}))
    assert str(error.value) == complaint


def test_the_matched_share_is_that_of_what_is_shown(
    shown: Api, products: FilteredProducts, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(metrics.MATCHED_SHARE, "observe", shares.append)
    query = {"brand": {"$ne": "acme"}}
    visible = matching(products.fields, SHOWN)
    shown.infer(user(filter=query))
    shown.batch(array([user(filter=query), user(), user(filter={})]))
    shown.post("/similar", json.dumps({"ids": [f"p{visible[0]}"], "filter": query}).encode())
    share = len(matching(products.fields, {"$and": [SHOWN, query]})) / len(visible)
    assert shares == [share, share, 1.0, share]


def test_the_matched_share_is_nothing_where_nothing_is_shown(
    api_over: ApiOver, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(metrics.MATCHED_SHARE, "observe", shares.append)
    empty = api_over(Recommender(engine_of(open_current(artifacts), shown='{"brand": "nobody\'s"}')))
    assert empty.infer(user(filter={})).json == {"name": "ann", "best": [], "worst": [], "matched": 0}
    assert shares == [0.0]


def test_a_check_refuses_a_filter_that_does_not_fit_the_build(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECO_FILTER", '{"prise": 1}')
    assert main(["check", "--artifact", str(artifacts)]) == 1
    assert capsys.readouterr().err.startswith("""error: RECO_FILTER='{"prise": 1}' does not fit the build: """)


NAMES_PER_PART, PIECE_BYTES = 4, 64


@pytest.fixture(scope="module")
def changed(products: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> ChangingCatalogue:
    """The products with a delta that renames, hides, shows, deletes and adds some."""
    catalogue = ChangingCatalogue(tmp_path_factory.mktemp("changed") / "artifacts", products.rows, index="Flat")
    renamed = [{"id": f"p{i}", "set": {"name": f"PRODUCT {i // 4}", "stock": i % 3 > 0}} for i in range(0, 90, 5)]
    added = [
        {"id": f"n{i}", "name": f"subproduct {i}", "vector": USER, "stock": True, "price": i - 3} for i in range(12)
    ]
    catalogue.update([*renamed, *({"id": f"p{i}", "delete": True} for i in range(1, 90, 9) if i % 5), *added])
    return catalogue


def names_in_order(rows: list[dict[str, Any]], rank_of: Callable[[str], int | None]) -> list[str]:
    """The ids of the shown products whose names have a rank, by rank, name and place in the catalogue."""
    fields = [{name: value for name, value in row.items() if name not in ("id", "name", "vector")} for row in rows]
    shown = [(rows[i]["name"].casefold(), i) for i in matching(fields, SHOWN)]
    ranked = sorted((rank, name, i) for name, i in shown if (rank := rank_of(name)) is not None)
    return [rows[i]["id"] for _, _, i in ranked]


def rank_in(text: str) -> Callable[[str], int | None]:
    return lambda name: 0 if name.startswith(text) else 1 if f" {text}" in name else 2 if text in name else None


@pytest.mark.parametrize("limit", [1, 5, 100])
@pytest.mark.parametrize("has_delta", [False, True], ids=["base", "delta"])
def test_look_ups_keep_their_order_over_many_parts_of_which_little_is_shown(
    monkeypatch: pytest.MonkeyPatch,
    api_over: ApiOver,
    artifacts: Path,
    products: FilteredProducts,
    changed: ChangingCatalogue,
    has_delta: bool,
    limit: int,
) -> None:
    monkeypatch.setattr(table, "_NAMES_AT_ONCE", NAMES_PER_PART)
    monkeypatch.setattr(product_table, "_NAMES_AT_ONCE", NAMES_PER_PART)
    monkeypatch.setattr(folded_texts, "_PIECE_BYTES", PIECE_BYTES)
    root, rows = (changed.root, changed.products) if has_delta else (artifacts, products.rows)
    api = api_over(Recommender(engine_of(open_current(root), shown=json.dumps(SHOWN))))
    for text in ("", "p", "product", "Product 1", "1", "DUCT 2", "sub", "2", "zz"):
        folded = text.casefold()
        begins = names_in_order(rows, lambda name, folded=folded: 0 if name.startswith(folded) else None)  # type: ignore[misc]
        contains = names_in_order(rows, rank_in(folded))
        for option, expected in (("prefix", begins), ("contains", contains)):
            answer = api.get(f"/products?{option}={quote(text)}&limit={limit}")
            assert [each["id"] for each in answer.json["products"]] == expected[:limit], (option, text)
    assert len(names_in_order(rows, rank_in("duct"))) > 3 * NAMES_PER_PART
