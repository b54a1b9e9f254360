"""Ids are integers wherever products are named, as they may be in a catalogue."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index_builder.pipelines.build import BuildRequest, build
from retrieval import open_build
from retrieval.artifact.store import open_current
from service.offline.matcher import BatchMatcher
from service.recommender import Recommender
from tests.integration.conftest import ApiOver
from tests.support.api import Api, array
from tests.support.catalogues import write_lines
from tests.support.engines import engine_of
from tests.support.oracle import unit
from tests.support.tensors import as_json, read_tensors

PRODUCTS = np.random.default_rng(11).normal(size=(20, 4))
USER = [1.0, -2.0, 0.5, 3.0]
EXCLUDE: list[Any] = [3, "5", 17, 99]
KEPT = [i for i in range(20) if i not in (3, 5, 17)]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("integers")
    rows = [{"id": i, "name": f"product {i}", "vector": row} for i, row in enumerate(PRODUCTS.tolist())]
    build(BuildRequest(write_lines(directory / "products.jsonl", rows), directory / "artifacts", index="Flat"))
    return directory / "artifacts"


@pytest.fixture(scope="module")
def api(api_over: ApiOver, artifacts: Path) -> Api:
    return api_over(Recommender(engine_of(open_current(artifacts))))


def expected(query: Any, kept: list[int]) -> dict[str, list[str]]:
    """The ids on each side, by exact NumPy."""
    cosines = (unit(np.array([query])) @ unit(PRODUCTS).T)[0]
    best = sorted(kept, key=lambda i: -cosines[i])
    return {"best": [*map(str, best)], "worst": [*map(str, best[::-1])]}


def ids_of(answer: dict[str, Any]) -> dict[str, list[str]]:
    return {side: [match["id"] for match in answer[side]] for side in ("best", "worst")}


def test_a_user_excludes_them_alone_and_in_a_batch(api: Api) -> None:
    user = json.dumps({"name": "ann", "vector": USER, "k": 20, "exclude": EXCLUDE, "explain": True}).encode()
    alone = api.infer(user)
    assert ids_of(alone.json) == expected(USER, KEPT)
    assert alone.json["explain"]["unknown_excluded"] == 1
    assert api.batch(array([user, user])).body == array([alone.body] * 2)


def test_tensors_exclude_them(api: Api) -> None:
    tensors = read_tensors(as_json(np.array([USER], np.float32), parameters={"k": 17, "exclude": "[3, 5, 17]"}).to(api))
    for side, ids in expected(USER, KEPT).items():
        assert tensors[f"{side}_ids"][0].tolist() == ids


def test_similar_products_are_asked_for_by_them(api: Api) -> None:
    body = {"ids": [3, "5"], "negative": [17], "exclude": [0], "k": 20}
    answer = api.post("/similar", json.dumps(body).encode()).json
    units = unit(PRODUCTS)
    query = units[[3, 5]].mean(axis=0) * 2 - units[17]
    assert answer["ids"] == ["3", "5"]
    assert ids_of(answer) == expected(query, [i for i in KEPT if i != 0])


def test_the_map_places_them(api: Api) -> None:
    by_integers = api.post("/map", b'{"ids": [3, 5], "likes": [17]}')
    assert by_integers.status == 200
    assert by_integers.json == api.post("/map", b'{"ids": ["3", "5"], "likes": ["17"]}').json


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint16(), pa.string()], ids=str)
def test_columns_exclude_them(artifacts: Path, kind: pa.DataType) -> None:
    excluded = pa.array([[3, 5, 17], None], pa.list_(pa.int64())).cast(pa.list_(kind))
    users = pa.table({"name": ["ann", "bob"], "vector": [USER] * 2, "exclude": excluded})
    ann, bob = BatchMatcher(str(artifacts), k=20)(users).to_pylist()
    assert ids_of(ann) == expected(USER, KEPT)
    assert ids_of(bob) == expected(USER, [*range(20)])


def test_a_call_from_python_excludes_them(artifacts: Path) -> None:
    found = open_build(artifacts).recommend([USER], k=17, exclude=np.array([3, 5, 17]))
    for side, ids in expected(USER, KEPT).items():
        assert getattr(found, side).ids[0].tolist() == ids
