"""Everything that reads a build reads a base and a delta: as a full build of the same products would answer."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pytest

import retrieval
from retrieval.artifact import store
from retrieval.artifact.build import Build, base_of, open_build
from retrieval.artifact.store import build_ids, open_current, prune
from service.__main__ import main
from service.http import metrics
from service.offline import job
from service.offline.answers import Answerer
from service.offline.matcher import BatchMatcher
from service.recommender import Recommender
from service.settings import Limits
from tests.integration.conftest import ApiOver
from tests.support.api import Api
from tests.support.engines import engine_of
from tests.support.offline_runs import run, write_users
from tests.support.updated import ChangingCatalogue, random_changes, random_rows

PRODUCTS, DIMENSION, CHANGES = 60, 5, 6
USERS = [
    {"name": f"u{i}", "vector": vector, "k": 70, "fields": ["*"], "filter": {"price": {"$gte": 8}}}
    for i, vector in enumerate(np.random.default_rng(2).normal(size=(5, DIMENSION)).tolist())
]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> ChangingCatalogue:
    """A base, a delta, and one that replaces it."""
    draw = np.random.default_rng(1)
    root = tmp_path_factory.mktemp("updated") / "artifacts"
    catalogue = ChangingCatalogue(root, random_rows(draw, 0, PRODUCTS, DIMENSION))
    for _ in range(2):
        catalogue.update(random_changes(draw, catalogue, CHANGES, DIMENSION))
    return catalogue


@pytest.fixture(scope="module")
def pair(catalogue: ChangingCatalogue) -> Build:
    return open_current(catalogue.root)


@pytest.fixture(scope="module")
def full_root(catalogue: ChangingCatalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts root of a full build of the products that the pair has."""
    root = tmp_path_factory.mktemp("full") / "artifacts"
    catalogue.full_build(root)
    return root


@pytest.fixture(scope="module")
def apis(pair: Build, full_root: Path, api_over: ApiOver) -> list[Api]:
    """Over the pair, over the full build, and over the base of the pair."""
    return [api_over(Recommender(engine_of(build))) for build in (pair, open_current(full_root), pair.base)]


@pytest.fixture(scope="module")
def counts(catalogue: ChangingCatalogue, pair: Build) -> dict[str, int]:
    """What the delta changes, counted product by product."""
    before = {row["id"]: row for row in random_rows(np.random.default_rng(1), 0, PRODUCTS, DIMENSION)}
    kinds = Counter(
        "added"
        if old is None
        else "replaced"
        if old["vector"] != new["vector"]
        else "changed"
        if old != new
        else "same"
        for old, new in ((before.get(identifier), row) for identifier, row in catalogue.by_id.items())
    )
    counts = {kind: kinds[kind] for kind in ("added", "replaced", "changed")}
    return {**counts, "deleted": len({*before} - {*catalogue.by_id})}


def same_answer(apis: list[Api], method: str, path: str, body: Any = None) -> Any:
    """Return what the pair answers: byte for byte what the full build does, and not what the base does."""
    content = None if body is None else json.dumps(body).encode()
    of_pair, of_full, of_base = (api.request(method, path, content) for api in apis)
    assert (of_pair.status, of_pair.body) == (of_full.status, of_full.body)
    assert of_pair.body != of_base.body
    return of_pair.json


@pytest.mark.parametrize("prefix", ["", "p", "PASTA", "Pizza", "pizza 1"])
def test_names_are_completed_in_one_order(apis: list[Api], prefix: str) -> None:
    for limit in (1, 7):
        of_pair, of_full, _ = (api.get(f"/products?{urlencode({'prefix': prefix, 'limit': limit})}") for api in apis)
        assert of_pair.body == of_full.body
    same_answer(apis, "GET", f"/products?{urlencode({'prefix': prefix, 'limit': 100})}")


@pytest.mark.parametrize("text", ["", "A", "zz", "pasta", "ta 1", "1"])
def test_names_are_found_by_any_part_in_one_order(apis: list[Api], text: str) -> None:
    for limit in (1, 7):
        of_pair, of_full, _ = (api.get(f"/products?{urlencode({'contains': text, 'limit': limit})}") for api in apis)
        assert of_pair.body == of_full.body
    same_answer(apis, "GET", f"/products?{urlencode({'contains': text, 'limit': 100})}")


@pytest.mark.parametrize("path", ["price?limit=100", "price?limit=2", "tags", "tags?contains=O"])
def test_values_of_fields_are_counted_as_in_a_full_build(
    apis: list[Api], pair: Build, full_root: Path, api_over: ApiOver, path: str
) -> None:
    same_answer(apis, "GET", f"/fields/{path}")
    builds = (pair, open_current(full_root))
    shown = [api_over(Recommender(engine_of(build, shown='{"price": {"$gte": 12}}'))) for build in builds]
    of_pair, of_full = (api.get(f"/fields/{path}") for api in shown)
    assert (of_pair.status, of_pair.body) == (200, of_full.body)
    assert of_pair.body != apis[0].get(f"/fields/{path}").body


def test_products_are_found_by_their_ids_with_all_fields(catalogue: ChangingCatalogue, apis: list[Api]) -> None:
    for number in range(PRODUCTS + 4 * CHANGES):
        answer = apis[0].get(f"/products/p{number}")
        if expected := catalogue.by_id.get(f"p{number}"):
            assert answer.json == {name: value for name, value in expected.items() if name != "vector"}
        else:
            assert answer.status == 404


def test_the_json_of_products_is_that_of_a_full_build(pair: Build, full_root: Path) -> None:
    full, standing = open_current(full_root).products, pair.products.standing()
    lines = [full.line(position) for position in range(len(full))]
    assert [pair.products.line(position) for position in standing.tolist()] == lines
    further = [line.removeprefix(prefix) for line, prefix in zip(lines, pair.products.prefixes(standing), strict=True)]
    for products, positions in ((pair.products, standing), (full, full.standing())):
        assert products.sizes_behind_prefix(positions).tolist() == [*map(len, further)]


def test_products_like_others_are_those_of_a_full_build(catalogue: ChangingCatalogue, apis: list[Api]) -> None:
    ids = [*catalogue.by_id]
    answer = same_answer(apis, "POST", "/similar", {"ids": [*ids[:3], *ids[-3:]], "k": 100})
    assert {match["id"] for match in answer["best"]} == {*ids[3:-3]}


def test_the_map_has_no_deleted_product_and_the_new_place_of_replaced_ones(
    catalogue: ChangingCatalogue, apis: list[Api], pair: Build
) -> None:
    of_pair, _, of_base = (api.get("/map").json["products"] for api in apis)
    standing = [row["id"] for row in of_base if row["id"] in catalogue.by_id]
    assert [row["id"] for row in of_pair] == standing != [row["id"] for row in of_base]
    vectors = np.array([catalogue.by_id[identifier]["vector"] for identifier in catalogue.by_id])
    points = pair.projection.project(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    expected = dict(zip(catalogue.by_id, points.tolist(), strict=True))
    np.testing.assert_allclose(
        [[row["x"], row["y"]] for row in of_pair], [expected[identifier] for identifier in standing], atol=2e-4
    )
    placed = apis[0].post("/map", json.dumps({"ids": [*catalogue.by_id]}).encode()).json["products"]
    np.testing.assert_allclose(placed, points, atol=2e-4)


def test_an_offline_batch_is_answered_byte_for_byte_as_from_a_full_build(
    full_root: Path, catalogue: ChangingCatalogue, tmp_path: Path
) -> None:
    users = write_users(tmp_path / "users.jsonl", USERS)
    written = []
    for root in (catalogue.root, full_root):
        run(root, users, tmp_path / "answers.jsonl", part_rows=2)
        written.append((tmp_path / "answers.jsonl").read_bytes())
    assert written[0] == written[1]
    assert len(written[0].splitlines()) == len(USERS)


def test_a_matcher_answers_from_the_delta_that_it_is_given(
    full_root: Path, catalogue: ChangingCatalogue, pair: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    users = pa.Table.from_pylist([{**user, "filter": json.dumps(user["filter"])} for user in USERS])
    expected, rows = BatchMatcher(str(full_root))(users), {**catalogue.by_id}
    newer = catalogue.update(random_changes(np.random.default_rng(5), catalogue, CHANGES, DIMENSION)).build_id
    assert BatchMatcher(str(catalogue.root), build_id=pair.id)(users) == expected
    assert BatchMatcher(str(catalogue.root), build_id=newer)(users) != expected
    assert main(["rollback", "--artifact", str(catalogue.root)]) == 0
    assert capsys.readouterr().out == f"rolled back from build {newer} to {pair.id}\n"
    assert BatchMatcher(str(catalogue.root))(users) == expected
    catalogue.by_id = rows


def test_index_and_metrics_say_what_the_delta_changes(pair: Build, apis: list[Api], counts: dict[str, int]) -> None:
    manifest, base = pair.manifest, pair.base.manifest
    assert apis[0].get("/index").json["delta"] == {
        "base": base.build_id,
        "created": manifest.created,
        **counts,
        "bytes": manifest.size_bytes,
        "base_bytes": base.size_bytes,
    }
    assert apis[2].get("/index").json["delta"] is None


def test_check_says_what_the_delta_changes_on_which_base(
    catalogue: ChangingCatalogue, pair: Build, counts: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--artifact", str(catalogue.root)]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first == f"build      {catalogue.root / pair.id}"
    said = "{added} products added, {replaced} replaced, {changed} changed, {deleted} deleted".format_map(counts)
    sizes = f"{pair.manifest.size_bytes / 1e6:.1f} MB on {pair.base.manifest.size_bytes / 1e6:.1f} MB of {pair.base.id}"
    assert second == f"delta      {said}, the last by artifacts 2.jsonl; {sizes}"
    assert third == f"products   {len(catalogue.by_id)} x {DIMENSION} dimensions from artifacts 0.jsonl"


def test_metrics_say_how_large_the_delta_is(pair: Build, counts: dict[str, int]) -> None:
    def gauges(build: Build) -> dict[tuple[str, ...], float]:
        families = metrics._Index(engine_of(build).info).collect()
        return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}

    of_pair, of_base = gauges(pair), gauges(pair.base)
    for change, count in counts.items():
        assert (of_pair["reco_delta_products", change], of_base["reco_delta_products", change]) == (count, 0)
    size, base_size = pair.manifest.size_bytes, pair.base.manifest.size_bytes
    assert (of_pair[("reco_delta_bytes",)], of_base[("reco_delta_bytes",)]) == (size, 0)
    assert (of_pair[("reco_delta_share",)], of_base[("reco_delta_share",)]) == (size / base_size, 0)


@pytest.mark.parametrize("opener", ["check", "batch", "matcher", "python"])
def test_a_delta_is_not_pruned_while_it_is_opened_though_newer_ones_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: str
) -> None:
    draw = np.random.default_rng(3)
    catalogue = ChangingCatalogue(tmp_path / "artifacts", random_rows(draw, 0, 12, DIMENSION))
    root, users = catalogue.root, write_users(tmp_path / "users.jsonl", USERS)
    catalogue.update(random_changes(draw, catalogue, 1, DIMENSION))
    newer = []

    def open_late(*arguments: Any, **options: Any) -> Build:
        newer.append(catalogue.update(random_changes(draw, catalogue, 1, DIMENSION)).build_id)
        prune(root, keep=1)
        return open_build(*arguments, **options)

    openers: dict[str, tuple[Any, Callable[[], object]]] = {
        "check": (store, lambda: open_current(root)),
        "batch": (job, lambda: run(root, users, tmp_path / "answers.jsonl")),
        "matcher": (store, lambda: Answerer(root, Limits())),
        "python": (store, lambda: retrieval.open_build(root)),
    }
    module, run_opener = openers[opener]
    monkeypatch.setattr(module, "open_build", open_late)
    run_opener()
    [last] = newer
    prune(root, keep=1)
    assert [build_id for build_id in build_ids(root) if base_of(root, build_id)] == [last]
