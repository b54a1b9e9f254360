"""Options of requests over products in Milvus, and what is said and answered of those that it cannot have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from retrieval.search.filters.language import EVERYTHING, parse_filter
from retrieval.search.reranking import request
from retrieval.vectors import unit_vectors
from service.errors import BadSetting, CannotPublish, EngineUnavailable
from service.recommender import Recommender
from service.settings import MilvusSettings
from tests.integration.conftest import ApiOver
from tests.support.api import array, check_problem
from tests.support.catalogues import products_of
from tests.support.engines import engine_of
from tests.support.filter_oracle import matching
from tests.support.filtered import DIMENSION, USER, FilteredProducts
from tests.support.list_oracle import ListOracle, drawn_options
from tests.support.milvus import MilvusServer, on_milvus
from tests.support.published import publish
from tests.support.updated import ChangingCatalogue, random_changes, random_rows

pytestmark = on_milvus

ALIAS = "fields"
Published = tuple[Any, list[str]]  # an engine, and the lines of what the publish said
PublishFields = Callable[..., Published]


@pytest.fixture
def publish_fields(milvus: MilvusServer, tmp_path: Path, build_of: Callable[..., Any]) -> PublishFields:
    """A function that publishes products with these further fields, and opens an engine with a filter for all."""
    from service.engines.milvus_engine import open_engine
    from service.engines.milvus_publish import Layout, publish

    def publish_fields(fields: list[dict[str, Any]], shown: str = "") -> Published:
        vectors = np.random.default_rng(2).normal(size=(len(fields), 3))
        build_of([{**row, **more} for row, more in zip(products_of(vectors), fields, strict=True)])
        settings = MilvusSettings(milvus.uri, alias=ALIAS, timeout=20.0)
        said = publish(tmp_path / "artifacts", settings, Layout("FLAT"))
        return open_engine(settings, shown), said.splitlines()

    return publish_fields


def count(engine: Any, query: dict[str, Any]) -> int:
    """Return how many products match."""
    tree = parse_filter(query, engine.vocabulary)
    return int(engine.search_matching(np.empty((0, engine.info.dimension), np.float32), 1, tree)[2])


def published(milvus: MilvusServer, directory: Path) -> Any:
    """Publish the build in a directory, and open an engine on it."""
    from service.engines.milvus_engine import open_engine
    from service.engines.milvus_publish import Layout, publish

    settings = MilvusSettings(milvus.uri, alias=ALIAS, timeout=20.0)
    publish(directory / "artifacts", settings, Layout("FLAT"))
    return open_engine(settings)


def check_equal(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two answers are the same, up to the rounding of their scores."""
    for side in ("best", "worst"):
        scores, expected_scores = ([match.pop("score") for match in each[side]] for each in (answer, expected))
        np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=2e-6)
    assert answer == expected


def user(vector: list[float] = USER, **options: Any) -> bytes:
    return json.dumps({"name": "ann", "vector": vector, **options}).encode()


def test_all_options_are_answered_as_numpy_says(milvus: MilvusServer, tmp_path: Path, api_over: ApiOver) -> None:
    products = FilteredProducts()
    products.build(tmp_path)
    api = api_over(Recommender(published(milvus, tmp_path)))
    query = {"price": {"$gte": 0}, "tags": {"$ne": "hot"}}
    excluded = {f"p{i}" for i in range(3, 90)}
    options: dict[str, Any] = {"filter": query, "k": 5, "fields": ["*"], "explain": True}
    answer = api.infer(user(**options, exclude=["p3", "nothing"])).json
    products.check(answer, USER, 5, query, {"p3"})
    count = len(matching(products.fields, query))
    found = answer["explain"]
    assert found == {"path": "candidates", "matched": count, "candidates": found["candidates"], "unknown_excluded": 1}
    assert min(found["candidates"].values()) >= 11  # five, as many as are excluded, and the spare ones
    for match in [*answer["best"], *answer["worst"]]:
        given = products.fields[int(match["id"][1:])]
        assert match["fields"] == {name: value for name, value in given.items() if value is not None}
    products.check(api.infer(user(filter=query, exclude=[*excluded])).json, USER, 10, query, excluded)
    explained = api.infer(user(filter={}, k=90, explain=True)).json["explain"]
    assert (explained["path"], explained["candidates"]) == ("exact", {"best": 90, "worst": 90})
    nothing = user(filter={"brand": "nobody's", "price": 1}, explain=True)
    assert api.infer(nothing).json["explain"]["path"] == "nothing matches"
    shown = api.infer(user(fields=["shop"], k=90)).json["best"]
    assert [match["fields"].get("shop") for match in shown] == [
        products.fields[int(m["id"][1:])].get("shop") for m in shown
    ]
    faults = api.post("/infer", user(fields=["nothing like it"], filter={"shop": 1, "prise": 1})).json["errors"]
    assert sorted((fault["pointer"], fault["code"]) for fault in faults) == [
        ("/fields/0", "unknown_field"),
        ("/filter/prise", "unknown_field"),
        ("/filter/shop", "not_filterable"),
    ]
    bodies = [user(**options), user(k=3), nothing, user(filter=query, min_score=0.1, max_score=-0.2)]
    assert api.batch(array(bodies)).body == array([api.infer(body).body for body in bodies])
    similar = api.post("/similar", json.dumps({"ids": ["p0", "p3"], "k": 4, "filter": query}).encode()).json
    units = products.vectors / np.linalg.norm(products.vectors, axis=1, keepdims=True)
    products.check(similar, (units[0] + units[3]).tolist(), 4, query, {"p0", "p3"})
    for i in (0, 89):
        assert api.get(f"/products/p{i}").json == {k: v for k, v in products.rows[i].items() if k != "vector"}
    assert api.get("/products/p90").status == 404
    for path in ("/products?prefix=p", "/fields/brand", "/map", "/samples"):
        works = "does not look products up by name and has no map; /infer, /batch and /similar work"
        check_problem(api.get(path), 501, f"the Milvus FLAT engine {works}")
    assert {field["name"]: field["coverage"] for field in api.get("/index").json["filterable"]} == {
        name: len(matching(products.fields, {name: {"$exists": True}})) / 90
        for name in ("brand", "price", "stock", "tags", "sizes", "shop.city")
    }
    assert api.get("/openapi.json").status == 200


@pytest.mark.parametrize("spare", [0, 2])
def test_limits_by_value_are_filled_up_from_further_down(
    milvus: MilvusServer, tmp_path: Path, api_over: ApiOver, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "_SPARE_PER_MATCH", spare)
    products = FilteredProducts()
    products.build(tmp_path)
    oracle, api = ListOracle(products.vectors, products.fields), api_over(Recommender(published(milvus, tmp_path)))
    for vector, options in drawn_options(40, spare):
        options.pop("diversity", None)
        left = matching(products.fields, options.get("filter", {}))
        kept = [position for position in left if f"p{position}" not in options.get("exclude", ())]
        answer = api.infer(user(vector, **options)).json
        assert answer.get("matched") == (len(left) if "filter" in options else None)
        oracle.check(answer, vector, kept, options)
    explain = api.infer(user(max_per={"brand": 1, "tags": 1, "shop.city": 1}, k=12, explain=True)).json["explain"]
    assert (explain["path"], explain["searches"]) == ("candidates, then matching rows", {"best": 2, "worst": 2})


def test_limits_by_value_are_filled_up_however_few_matches_milvus_finds_at_once(
    milvus: MilvusServer, tmp_path: Path, api_over: ApiOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines import milvus_engine

    products = FilteredProducts()
    products.build(tmp_path)
    engine = published(milvus, tmp_path)
    monkeypatch.setattr(request, "_SPARE_PER_MATCH", 0)
    monkeypatch.setattr(milvus_engine, "MILVUS_MAX_MATCHES", 14)
    monkeypatch.setattr(engine, "max_matches", 14)
    oracle, api = ListOracle(products.vectors, products.fields), api_over(Recommender(engine))
    for max_per in ({"brand": 1}, {"brand": 3, "shop.city": 3}, {"tags": 1}):
        options: dict[str, Any] = {"k": 12, "max_per": max_per, "exclude": ["p1", "p2"]}
        kept = [position for position in range(90) if position not in (1, 2)]
        oracle.check(api.infer(user(**options)).json, USER, kept, options)


def test_a_list_whose_products_are_to_be_unlike_each_other_is_answered_with_501(
    publish_fields: PublishFields, api_over: ApiOver
) -> None:
    engine, _ = publish_fields([{"price": 1}, {"price": 2}])
    api, vector = api_over(Recommender(engine)), [1.0, 2.0, 3.0]
    detail = "this engine does not diversify; leave diversity out"
    check_problem(api.post("/infer", user(vector, diversity=0.1)), 501, detail)
    assert api.infer(user(vector, diversity=0)).body == api.infer(user(vector)).body


def test_a_delta_is_published_with_the_products_and_fields_of_the_pair(
    milvus: MilvusServer, tmp_path: Path, api_over: ApiOver
) -> None:
    draw = np.random.default_rng(1)
    rows = [{**row, "size": i, "story": "\0"} for i, row in enumerate(random_rows(draw, 0, 40, DIMENSION))]
    for row in rows[1:]:
        del row["story"]
    catalogue = ChangingCatalogue(tmp_path / "artifacts", rows)
    catalogue.update(
        [
            *random_changes(draw, catalogue, 5, DIMENSION),
            {"id": "p0", "set": {"size": 1.5, "tags": ["new"], "story": None, "deep": {"er": [1, 2.5]}}},
        ]
    )
    pair = open_current(catalogue.root)
    engine = published(milvus, tmp_path)
    assert engine.vocabulary.unsupported == {}
    assert engine.info.products == engine.shown_products == len(catalogue.products) == len(pair.products)
    of_milvus, of_faiss = (api_over(Recommender(each)) for each in (engine, engine_of(pair)))
    queries: list[dict[str, Any]] = [
        {},
        {"size": {"$lt": 2}},
        {"size": 1.5},
        {"tags": {"$ne": "hot"}},
        {"deep.er": {"$gt": 2}},
        {"price": {"$gte": 8}, "size": {"$exists": False}},
        {"story": {"$exists": True}},
    ]
    for query in queries:
        for more in ({}, {"exclude": ["p0", "p41"]}, {"max_per": {"tags": 2}}):
            body = user(draw.normal(size=DIMENSION).tolist(), filter=query, k=50, fields=["*"], **more)
            check_equal(of_milvus.infer(body).json, of_faiss.infer(body).json)
    for number in range(50):
        answers = [api.get(f"/products/p{number}") for api in (of_milvus, of_faiss)]
        assert answers[0].status == answers[1].status
        assert answers[0].status == 404 or answers[0].body == answers[1].body


def test_a_field_that_milvus_does_not_keep_is_left_out_and_said(
    publish_fields: PublishFields, api_over: ApiOver
) -> None:
    fields: list[dict[str, Any]] = [
        {"cut": "a\x00b", "none": "\uffff", "low": -(2**63), "least": -1.7976931348623157e308, "good": "\uffff!"},
        {"cut": "a", "none": "x", "low": 1, "least": 0.5, "good": "x"},
        {"nones": ["\uffff", "x"], "lows": [1, -(2**63)]},
    ]
    engine, said = publish_fields(fields)
    text = "it has a text with the character U+0000, or one that is U+FFFF, which Milvus does not keep"
    low, least = (
        f"it has the number {number}, which Milvus does not keep" for number in (-(2**63), -1.7976931348623157e308)
    )
    reasons = {"cut": text, "none": text, "low": low, "least": least, "nones": text, "lows": low}
    assert sorted(said[1:]) == sorted(f"left out    filters by {name}: {reason}" for name, reason in reasons.items())
    assert [field["name"] for field in engine.info.filterable] == ["good"]
    api = api_over(Recommender(engine))
    vector = [1.0, 2.0, 3.0]
    for name, reason in reasons.items():
        answer = api.post("/infer", user(vector, filter={"$or": [{name: {"$exists": True}}, {"good": "x"}]}))
        check_problem(answer, 501, f"this engine does not filter by {name!r}: {reason}")
    assert api.post("/infer", user(vector, filter={"low": "text"})).status == 422
    limited = api.post("/infer", user(vector, max_per={"good": 1, "nones": 1}))
    check_problem(limited, 501, f"this engine does not filter by 'nones': {text}")
    bad, good = user(vector, filter={"cut": "a"}), user(vector, filter={"good": "\uffff!"}, fields=["*"])
    answers = api.batch(array([good, bad, good]), errors=1).json
    assert answers[1]["error"]["code"] == "not_implemented"
    assert answers[0] == answers[2] == api.infer(good).json
    assert [match["fields"] for match in answers[0]["best"]] == [fields[0]]


def test_fields_without_room_or_type_are_left_out_and_the_others_filter(
    publish_fields: PublishFields, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines.milvus_cluster import Cluster

    call = Cluster.call

    def refuse_arrays(self: Cluster, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "create_collection" and "ARRAY" in str(options["schema"]):
            raise EngineUnavailable("Milvus at nowhere: unknown type ARRAY")
        return call(self, method, *arguments, **options)

    monkeypatch.setattr(Cluster, "call", refuse_arrays)
    fields: list[dict[str, Any]] = [{"tags": ["a"], "sizes": [1], **{f"n{i:02}": i for i in range(60)}}, {"n00": 5}]
    engine, said = publish_fields(fields)
    room = "a collection of Milvus has room for 58 columns of fields"
    kind = "this Milvus has no columns of its type"
    reasons = {**{f"n{i:02}": room for i in range(54, 60)}, "tags": kind, "sizes": kind}
    assert said[1:] == [f"left out    filters by {name}: {reason}" for name, reason in reasons.items()]
    assert engine.vocabulary.unsupported == reasons
    assert [count(engine, query) for query in ({"n00": 0}, {"n53": 53})] == [1, 1]


def test_fields_too_long_to_be_shown_still_filter(publish_fields: PublishFields, api_over: ApiOver) -> None:
    fields: list[dict[str, Any]] = [{"price": 1, "brand": "a"}, {"price": 2, "story": "é" * 40_000}]
    engine, said = publish_fields(fields)
    reason = "the fields of product 2 take 80022 bytes, Milvus keeps 65535"
    assert said[1:] == [f"left out    fields of matches: {reason}"]
    api = api_over(Recommender(engine))
    detail = f"this engine does not show fields: {reason}"
    check_problem(api.post("/infer", user([1.0, 2.0, 3.0], fields=["price"])), 501, detail)
    check_problem(api.get("/products/p0"), 501, detail)
    limited = api.post("/infer", user([1.0, 2.0, 3.0], max_per={"brand": 1}))
    check_problem(limited, 501, f"this engine does not limit values: {reason}")
    answer = api.infer(user([1.0, 2.0, 3.0], filter={"price": {"$gt": 1}})).json
    assert ([match["id"] for match in answer["best"]], answer["matched"]) == (["p1"], 1)
    assert api.get("/openapi.json").status == 200


def test_values_that_got_lost_fail_the_publish(publish_fields: PublishFields, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engines.milvus_cluster import Cluster

    insert = Cluster.insert
    lost = {"f0_price": -(2**63)}
    monkeypatch.setattr(
        Cluster, "insert", lambda self, name, rows: insert(self, name, [{**rows[0], **lost}, *rows[1:]])
    )
    with pytest.raises(CannotPublish, match=r": 1 products have a value of price, in the build 2$"):
        publish_fields([{"price": 1}, {"price": 2}, {}])


def test_a_filter_for_all_requests_hides_products_everywhere(publish_fields: PublishFields, api_over: ApiOver) -> None:
    fields: list[dict[str, Any]] = [{"stock": i % 2 == 0, "price": i} for i in range(8)]
    engine, _ = publish_fields(fields, shown='{"stock": true}')
    api = api_over(Recommender(engine))
    answer = api.infer(user([1.0, 2.0, 3.0], explain=True)).json
    assert sorted(match["id"] for match in answer["best"]) == ["p0", "p2", "p4", "p6"]
    assert (answer["explain"]["matched"], "matched" in answer) == (4, False)
    filtered = api.infer(user([1.0, 2.0, 3.0], filter={"price": {"$lt": 4}}, exclude=["p1", "p2"])).json
    assert ([match["id"] for match in filtered["best"]], filtered["matched"]) == (["p0"], 2)
    assert [api.get(f"/products/{name}").status for name in ("p0", "p1")] == [200, 404]
    assert api.post("/similar", b'{"ids": ["p1"]}').status == 422
    assert (count(engine, {}), engine.shown_products) == (4, 4)


def test_a_collection_has_the_label_of_its_build_and_none_is_served_without_where_it_is_required(
    milvus: MilvusServer, publish_fields: PublishFields, tmp_path: Path, api_over: ApiOver
) -> None:
    from service.engines.milvus_engine import open_engine

    unlabelled, _ = publish_fields([{}, {}, {}])
    assert unlabelled.info.embedding_model is None
    settings = MilvusSettings(milvus.uri, alias=ALIAS, timeout=20.0)
    with pytest.raises(BadSetting, match="RECO_REQUIRE_EMBEDDING_MODEL=1: the build has no embedding model"):
        open_engine(settings, requires_model=True)
    publish(tmp_path / "artifacts", embedding_model="m-1")
    labelled = published(milvus, tmp_path)
    assert unlabelled.latest().info.embedding_model == "m-1"
    assert open_engine(settings, requires_model=True).info == labelled.info
    api = api_over(Recommender(labelled), require_embedding_model=True)
    body = user([1.0, 2.0, 3.0, 4.0, 5.0])
    sent = [api.request("POST", "/infer", body, {"X-Embedding-Model": name}) for name in ("m-1", "m-2")]
    assert [(each.status, each.headers["X-Embedding-Model"]) for each in sent] == [(200, "m-1"), (422, "m-1")]
    assert api.request("POST", "/infer", body).status == 422


def test_a_filter_for_all_requests_that_does_not_fit_is_refused_and_a_build_without_its_field_not_followed(
    publish_fields: PublishFields, milvus: MilvusServer, caplog: pytest.LogCaptureFixture
) -> None:
    from service.engines.milvus_engine import open_engine

    engine, _ = publish_fields([{"price": 1}, {"low": -(2**63)}, {"low": 1}], shown='{"price": 1}')
    settings = MilvusSettings(milvus.uri, alias=ALIAS, timeout=20.0)
    with pytest.raises(
        BadSetting, match=r"^RECO_FILTER='{\"prise\": 1}' does not fit the build: filter/prise is no field"
    ):
        open_engine(settings, '{"prise": 1}')
    with pytest.raises(
        BadSetting, match=r"^RECO_FILTER='{\"low\": 1}': this engine does not filter by 'low': it has the"
    ):
        open_engine(settings, '{"low": 1}')
    publish_fields([{"weight": 1}, {}])
    assert [engine.latest(), engine.latest()] == [engine, engine]
    assert engine.is_available
    assert caplog.text.count("RECO_FILTER='{\"price\": 1}' does not fit the build") == 1
    publish_fields([{"price": 1}, {}])
    assert engine.latest().info.products == 2


def test_counts_are_kept_once_all_replicas_must_have_the_products(
    publish_fields: PublishFields, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines import milvus_engine

    for seconds, calls in ((10.0, 2), (-1.0, 1)):
        monkeypatch.setattr(milvus_engine, "_SETTLING_SECONDS", seconds)
        engine, _ = publish_fields([{"price": 1}, {"price": 2}])
        asked: list[str] = []
        counted = engine._cluster.count_matching

        def note(*given: str, asked: list[str] = asked, counted: Callable[..., int] = counted) -> int:
            asked.append(given[-1])
            return counted(*given)

        monkeypatch.setattr(engine._cluster, "count_matching", note)
        query = {"price": {"$gt": 1}}
        assert [count(engine, query), count(engine, query)] == [1, 1]
        assert asked == ["f0_price >= 2"] * calls


def test_a_collection_of_an_older_version_is_refused_and_not_followed(
    publish_fields: PublishFields, caplog: pytest.LogCaptureFixture
) -> None:
    from pymilvus import DataType, MilvusClient

    from service.engines.milvus_engine import MilvusEngine

    engine, _ = publish_fields([{"price": 1}, {"price": 2}])
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("position", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=3)
    cluster, name = engine._cluster, f"{ALIAS}_20200101T000000_000000Z_00000000"
    cluster.call("create_collection", name, schema=schema)
    cluster._index(name, "vector", index_type="FLAT", metric_type="IP")
    with pytest.raises(BadArtifact, match=rf"^{name}: an older version has published it; publish a new build$"):
        MilvusEngine(cluster, name)
    cluster.call("alter_alias", name, ALIAS)
    assert [engine.latest(), engine.latest()] == [engine, engine]
    assert engine.is_available
    assert caplog.text.count(f"{name} is not served: {name}: an older version has published it") == 1


def test_a_build_without_fields_filters_to_everything(publish_fields: PublishFields) -> None:
    engine, said = publish_fields([{}, {}, {}])
    assert said == [f"published   {engine._collection}: 3 products, FLAT, named by {ALIAS}"]
    best, worst, matched = engine.search_matching(unit_vectors(np.ones((1, 3))), 5, EVERYTHING)
    assert sorted(best.positions[0]) == sorted(worst.positions[0]) == [0, 1, 2]
    assert matched == 3
