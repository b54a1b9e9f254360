"""Recommending in Python, without a server: what the service answers, as arrays and frames."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
import pytest

from retrieval import open_build
from retrieval.artifact.build import Build
from retrieval.artifact.local.recommender import LocalRecommender, Recommendations
from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from retrieval.search.ranking import SIDES
from service.recommender import Recommender
from tests.integration.conftest import ApiOver
from tests.support.api import Api
from tests.support.engines import engine_of
from tests.support.filter_oracle import matching
from tests.support.filtered import DIMENSION, USER, FilteredProducts
from tests.support.list_oracle import ListOracle, drawn_options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["Flat", "PQ3x4fs,RFlat"])
def artifacts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("local")
    FilteredProducts().build(directory, index=request.param)
    return directory / "artifacts"


@pytest.fixture(scope="module")
def api(api_over: ApiOver, artifacts: Path) -> Api:
    return api_over(Recommender(engine_of(open_current(artifacts))))


@pytest.fixture(scope="module")
def local(artifacts: Path) -> LocalRecommender:
    return open_build(artifacts)


def as_answer(found: Recommendations, row: int, options: dict[str, Any]) -> dict[str, Any]:
    """The row of a user as the service would answer it."""
    answer: dict[str, Any] = {"name": "ann"}
    for side in SIDES:
        matches = getattr(found, side)
        count = int((matches.positions[row] >= 0).sum())
        assert (matches.positions[row, count:] == -1).all()
        assert np.isnan(matches.scores[row, count:]).all()
        assert {*matches.ids[row, count:], *matches.names[row, count:]} <= {""}
        columns = [getattr(matches, name)[row, :count].tolist() for name in ("ids", "names", "scores")]
        answer[side] = [
            dict(zip(("id", "name", "score"), values, strict=True)) for values in zip(*columns, strict=True)
        ]
        if matches.fields is not None:
            for match, fields in zip(answer[side], matches.fields[row, :count].tolist(), strict=True):
                match["fields"] = fields
    return {**answer, "matched": found.matched} if "filter" in options else answer


def infer(api: Api, vector: Any, **options: Any) -> Any:
    return api.infer(json.dumps({"name": "ann", "vector": vector, **options}).encode()).json


def test_a_call_gives_what_the_service_answers(api: Api, local: LocalRecommender) -> None:
    for vector, options in drawn_options(40, 17):
        found = local.recommend(np.array(vector), **options)
        assert as_answer(found, 0, options) == infer(api, vector, **options)


OPTIONS: list[dict[str, Any]] = [
    {"k": 20},
    {"k": 20, "filter": {"brand": {"$exists": True}}},
    {"k": 20, "min_score": 0.35, "max_score": -0.35},
    {"k": 20, "filter": {"stock": {"$ne": False}}, "min_score": 0.3, "max_score": -0.3, "max_per": {"brand": 4}},
]


@pytest.fixture(scope="module")
def coarse(api_over: ApiOver, tmp_path_factory: pytest.TempPathFactory) -> tuple[FilteredProducts, Build, Api]:
    """Products under codes so coarse that another search finds other ones."""
    products = FilteredProducts(1500, 8)
    build = products.build(tmp_path_factory.mktemp("coarse"), index="PQ3x4fs,RFlat", recall=0.6)
    return products, build, api_over(Recommender(engine_of(build)))


@pytest.mark.parametrize("excluded", [0, 1, 5, 64, 65, 300])
def test_an_approximate_search_gives_python_what_the_service_answers_whatever_is_excluded(
    coarse: tuple[FilteredProducts, Build, Api], excluded: int
) -> None:
    products, build, api = coarse
    oracle, local = ListOracle(products.vectors, products.fields), LocalRecommender(build)
    ids = [f"p{i}" for i in range(0, 5 * excluded, 5)]
    for vector, options in product(np.random.default_rng(4).normal(size=(3, DIMENSION)).tolist(), OPTIONS):
        found = as_answer(local.recommend(np.array(vector), exclude=ids, **options), 0, options)
        assert found == infer(api, vector, exclude=ids, **options)
        kept = [i for i in matching(products.fields, options.get("filter", {})) if f"p{i}" not in ids]
        oracle.check(found, vector, kept, options, fills=True)


def test_many_users_get_what_each_gets_alone(
    api: Api, local: LocalRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.search.reranking.request.MAX_USERS_PER_SEARCH", 3)
    vectors = np.random.default_rng(2).normal(size=(8, DIMENSION))
    options: dict[str, Any] = {"k": 12, "max_per": {"brand": 1}, "min_score": 0.1, "fields": ["brand", "shop.city"]}
    found = local.recommend(vectors, **options)
    assert found.users == [*range(8)]
    assert [as_answer(found, i, options) for i in range(8)] == [infer(api, row.tolist(), **options) for row in vectors]
    assert local.recommend(vectors.astype(np.float32)[:0]).best.positions.shape == (0, 0)


def test_a_frame_of_users_becomes_a_frame_of_matches(api: Api, local: LocalRecommender) -> None:
    users = pd.DataFrame({"name": ["ann", "bob"], "vector": [USER, USER[::-1]], "age": [3, 4]})
    frame = local.recommend(users, k=3, min_score=0.5, fields=["*"]).to_frame()
    assert [*frame.columns] == ["user", "side", "rank", "id", "name", "score", "fields"]
    expected = [
        {"user": user, "side": side, "rank": rank, **match}
        for user, vector in (("ann", USER), ("bob", USER[::-1]))
        for side in SIDES
        for rank, match in enumerate(infer(api, vector, k=3, min_score=0.5, fields=["*"])[side], 1)
    ]
    assert frame.to_dict("records") == expected
    unnamed = local.recommend(users[["vector"]].set_index(pd.Index(["x", "y"])), k=1).to_frame()
    assert unnamed["user"].tolist() == ["x", "x", "y", "y"]
    assert "fields" not in unnamed


NO_VECTORS = "vectors must be an array of numbers, a row a user, or a frame with a column 'vector', not"
FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"vectors": [[1.0] * 5]}, ["vectors element 0 has 5 numbers, 6 are expected"]),
    ({"vectors": [USER, [0.0] * 6]}, ["vectors element 1 is all zeros, which has no direction"]),
    ({"vectors": [np.nan, *USER[1:]]}, ["vectors element 0 element 0 is not finite: nan"]),
    ({"vectors": [[True, *USER[1:]]]}, ["vectors element 0 element 0 is a boolean, not a number"]),
    ({"vectors": pd.DataFrame({"name": ["ann"]})}, ["vectors has no column 'vector'"]),
    ({"vectors": None, "k": 0}, [f"{NO_VECTORS} None", "k must be from 1 to 2147483648, not 0"]),
    ({"vectors": "abc"}, [f"{NO_VECTORS} a string"]),
    ({"vectors": 5}, [f"{NO_VECTORS} a number"]),
    ({"vectors": {"vector": USER}}, [f"{NO_VECTORS} an object"]),
    ({"vectors": b"abc"}, [f"{NO_VECTORS} a bytes"]),
    ({"vectors": np.array(3.0)}, ["vectors must have one dimension or two, not 0"]),
    ({"vectors": np.ones((2, 3, 6))}, ["vectors must have one dimension or two, not 3"]),
    ({"vectors": [np.ones((6, 1))]}, [f"vectors element 0 element {i} is a list, not a number" for i in range(6)]),
    ({"vectors": [None, USER]}, ["vectors element 0 must be a list of numbers, not null"]),
    ({"vectors": [[1j, *USER[1:]]]}, ["vectors element 0 element 0 is a complex, not a number"]),
    ({"vectors": pd.DataFrame([[USER, USER]], columns=["vector"] * 2)}, ["vectors has 2 columns 'vector'"]),
    (
        {"vectors": pd.DataFrame([["a", "b", USER]], columns=["name", "name", "vector"])},
        ["vectors has 2 columns 'name'"],
    ),
    (
        {"vectors": [[0.0] * 6] * 100, "exclude": [None] * 30, "k": 0},
        [
            *(f"vectors element {i} is all zeros, which has no direction" for i in range(20)),
            "111 further faults are not listed",
        ],
    ),
    (
        {"exclude": [7.5] * 21},
        [
            *(f"exclude element {i} must be a string or an integer, not a number" for i in range(20)),
            "1 further fault is not listed",
        ],
    ),
    ({"exclude": None}, ["exclude must be a list of product ids, not null"]),
    ({"exclude": 5}, ["exclude must be a list of product ids, not a number"]),
    ({"exclude": np.array("p1")}, ["exclude must be a list of product ids, not a string"]),
    ({"exclude": b"p1"}, ["exclude must be a list of product ids, not a bytes"]),
    ({"exclude": {"p1": 1}}, ["exclude must be a list of product ids, not an object"]),
    ({"exclude": pd.DataFrame({"id": ["p1"]})}, ["exclude must be a list of product ids, not a DataFrame"]),
    ({"exclude": pd.Series(["p1", None])}, ["exclude element 1 must be a string or an integer, not a number"]),
    ({"filter": {1: 2}}, ["filter.1 is no field of this build; the nearest is 'brand'"]),
    ({"max_per": {1: 2}}, ["max_per.1 is no field of this build; the nearest is 'brand'"]),
    ({"filter": {"price": pd.Timestamp(0)}}, ["filter.price must be a number, not a Timestamp"]),
    ({"fields": "brand"}, ["fields must be a list of names of fields, not a string"]),
    ({"fields": 7}, ["fields must be a list of names of fields, not a number"]),
    ({"k": 0}, ["k must be from 1 to 2147483648, not 0"]),
    ({"k": 2.5}, ["k must be an integer, not 2.5"]),
    ({"exclude": "p1"}, ["exclude must be a list of product ids, not a string"]),
    ({"exclude": {7.5}}, ["exclude element 0 must be a string or an integer, not a number"]),
    ({"min_score": 2, "max_score": ""}, ["min_score must be from -1 to 1", "max_score must be a number, not a string"]),
    ({"filter": {"prise": 1}}, ["filter.prise is no field of this build; the nearest is 'price'"]),
    ({"max_per": {"stock": 1}}, ["max_per.stock limits keywords, and 'stock' is of type boolean"]),
    (
        {"max_per": {}, "diversity": True},
        ["max_per must have from 1 to 64 fields, not 0", "diversity must be a number, not a boolean"],
    ),
    ({"fields": []}, ["fields must have from 1 to 1000 names of fields, not 0"]),
]


@pytest.mark.parametrize(("arguments", "faults"), FAULTS, ids=[faults[-1] for _, faults in FAULTS])
def test_an_argument_that_does_not_fit_is_refused_by_name(
    local: LocalRecommender, arguments: dict[str, Any], faults: list[str]
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (The message is compared whole.)
        local.recommend(**{"vectors": [USER], **arguments})
    assert str(error.value) == "; ".join(faults)


IDS: list[Callable[[list[str]], Any]] = [
    *(tuple, set, frozenset, dict.fromkeys(["p1", "p2"]).keys().__or__, iter, np.array, pd.Series, pd.Index),
    partial(map, str),
    lambda ids: (each for each in ids),
    lambda ids: np.array(ids, object),
]


@pytest.mark.parametrize("form", range(len(IDS)))
def test_ids_come_in_any_form_that_holds_them(api: Api, local: LocalRecommender, form: int) -> None:
    options: dict[str, Any] = {"k": np.int64(4), "exclude": IDS[form](["p1", "p2"]), "diversity": np.float32(0.5)}
    found = local.recommend(USER, **options)
    assert as_answer(found, 0, {}) == infer(api, USER, k=4, exclude=["p1", "p2"], diversity=0.5)


@pytest.mark.parametrize("form", [tuple, iter, pd.Index, pd.Series, np.array])
def test_names_of_fields_and_values_come_in_any_form_too(
    api: Api, local: LocalRecommender, form: Callable[[list[str]], Any]
) -> None:
    found = local.recommend(USER, fields=form(["brand"]), filter={"tags": {"$in": form(["hot", "new"])}})
    options = {"fields": ["brand"], "filter": {"tags": {"$in": ["hot", "new"]}}}
    assert as_answer(found, 0, options) == infer(api, USER, **options)


@pytest.mark.parametrize("form", [iter, tuple, pd.Series, lambda rows: pd.DataFrame({"vector": rows})])
def test_vectors_come_in_any_form_that_holds_them(
    api: Api, local: LocalRecommender, form: Callable[[list[Any]], Any]
) -> None:
    for rows in ([USER, USER[::-1]], [np.array(USER), np.array(USER[::-1], np.float32)]):
        found = local.recommend(form(rows), k=3)
        assert [as_answer(found, i, {}) for i in range(2)] == [infer(api, [*map(float, row)], k=3) for row in rows]
    assert as_answer(local.recommend(pd.Series(USER), k=3), 0, {}) == infer(api, USER, k=3)


def test_the_callers_searches_keep_their_number_of_threads(
    local: LocalRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, during = faiss.omp_get_max_threads(), list[int]()
    search_matching = Build.search_matching

    def search(build: Build, *arguments: Any) -> Any:
        during.append(faiss.omp_get_max_threads())
        if len(during) == 2:
            raise RuntimeError("page 4711 is gone")
        return search_matching(build, *arguments)

    monkeypatch.setattr(Build, "search_matching", search)
    try:
        faiss.omp_set_num_threads(3)
        local.recommend(USER)
        after = faiss.omp_get_max_threads()
        with pytest.raises(RuntimeError, match="4711"):
            local.recommend(USER)
        assert (during, after, faiss.omp_get_max_threads()) == ([1, 1], 3, 3)
    finally:
        faiss.omp_set_num_threads(before)


def test_a_build_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=re.escape(str(tmp_path))):
        open_build(tmp_path)


def test_a_part_of_the_package_is_imported_without_the_others() -> None:
    code = (
        "import retrieval, sys; print(sorted(name for name in sys.modules if name.split('.')[0] in ('faiss', 'numpy')))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT).strip() == b"[]"


def test_the_example_of_the_readme_prints_what_it_says(sample_artifacts: Path) -> None:
    code, printed = re.findall(
        r"```python\n(import json\n.*?)```\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )[0]
    code = code.replace('"artifacts"', repr(str(sample_artifacts)))
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == printed
