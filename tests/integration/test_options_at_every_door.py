"""What /infer takes, tensors and columns take too, with the same answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.artifact.store import open_current
from service.errors import OutOfMemory
from service.http.app import create_app
from service.http.routes.base import RESERVE
from service.offline.matcher import BatchMatcher
from service.recommender import Recommender, Serving
from service.settings import Settings
from tests.integration.conftest import ApiOver
from tests.support.api import NDJSON, Answer, Api, array, check_problem
from tests.support.engines import engine_of
from tests.support.filtered import USER, FilteredProducts
from tests.support.offline_runs import run, write_users
from tests.support.tensors import as_binary, as_json, read_tensors

VECTORS = np.array([USER, USER[::-1]], np.float32)
QUERY = {"stock": True, "price": {"$gte": 0}}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"k": 3, "fields": ["price", "shop.city"]},
    {"filter": QUERY, "fields": ["*"], "explain": True},
    {"min_score": 0.3, "max_score": -0.3, "explain": True, "exclude": ["p0", "unknown"]},
    {"filter": {"brand": "nobody's"}, "fields": ["tags"]},
    {"k": 9, "max_per": {"brand": 1, "tags": 2}, "diversity": 0.4, "explain": True},
    {"max_per": {"shop.city": 1}, "filter": QUERY, "exclude": ["p1"]},
]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("doors")
    FilteredProducts().build(directory, index="Flat")
    return directory / "artifacts"


@pytest.fixture(scope="module")
def api(api_over: ApiOver, artifacts: Path) -> Api:
    return api_over(Recommender(engine_of(open_current(artifacts))))


def infer(api: Api, vector: Any = USER, **options: Any) -> Any:
    return api.infer(json.dumps({"name": "ann", "vector": vector, **options}).encode()).json


@pytest.mark.parametrize("write", [as_json, as_binary])
@pytest.mark.parametrize("wrap", [json.dumps, lambda value: value], ids=["text", "value"])
def test_tensors_take_the_options_as_parameters(api: Api, write: Any, wrap: Any) -> None:
    options = {"k": 9, "min_score": 0.1, "diversity": 0.3}
    objects = {"filter": QUERY, "exclude": ["p1"], "max_per": {"brand": 1}}
    alone = [infer(api, row.tolist(), **options, **objects) for row in VECTORS]
    parameters = {**options, **{name: wrap(value) for name, value in objects.items()}}
    answer = write(VECTORS, parameters=parameters).to(api)
    header = json.loads(answer.body)
    assert header["parameters"] == {"matched": alone[0]["matched"]}
    tensors = read_tensors(answer)
    assert len({len(each["best"]) for each in alone} - {9}) > 0, "no list is shortened by its bound"
    for side in ("best", "worst"):
        for row, each in enumerate(alone):
            rest = 9 - len(each[side])
            assert tensors[f"{side}_ids"][row].tolist() == [match["id"] for match in each[side]] + [""] * rest
            scores = np.array([match["score"] for match in each[side]] + [0.0] * rest, np.float32)
            assert np.array_equal(tensors[f"{side}_scores"][row], scores)


def test_tensors_without_a_filter_have_no_parameters(api: Api) -> None:
    assert "parameters" not in json.loads(as_json(VECTORS, parameters={"min_score": 0.1}).to(api).body)


@pytest.mark.parametrize(
    ("parameters", "pointer", "detail"),
    [
        ({"fields": ["*"]}, "/parameters/fields", "has no place in tensors; /infer and /batch take it"),
        ({"explain": True}, "/parameters/explain", "has no place in tensors; /infer and /batch take it"),
        ({"filter": '{"prise":1}'}, "/parameters/filter/prise", "is no field of this build; the nearest is 'price'"),
        ({"filter": "{"}, "/parameters/filter", "must be an object, not a string"),
        ({"filter": "\ud800"}, "/parameters/filter", "must be an object, not a string"),
        ({"exclude": "p1"}, "/parameters/exclude", "must be a list of product ids, not a string"),
        ({"min_score": 2}, "/parameters/min_score", "must be from -1 to 1"),
        ({"max_per": '{"brand": 0}'}, "/parameters/max_per/brand", "must be at least 1, not 0"),
        ({"max_per": "brand"}, "/parameters/max_per", "must be an object of fields with a number each, not a string"),
        ({"diversity": "0.3"}, "/parameters/diversity", "must be a number, not a string"),
    ],
    ids=str,
)
def test_a_parameter_that_does_not_fit_is_refused_in_words(
    api: Api, parameters: dict[str, Any], pointer: str, detail: str
) -> None:
    answer = as_json(VECTORS, parameters=parameters).to(api)
    assert answer.status == 422
    subject = pointer[1:].replace("/", ".")
    assert answer.json["errors"][0]["pointer"] == pointer
    assert answer.json["errors"][0]["detail"] == f"{subject} {detail}"


def rows_of(options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Users as rows with a column for each option, null where it is not said."""
    names = ["k", "exclude", "filter", "min_score", "max_score", "max_per", "diversity", "fields", "explain"]
    wrapped = [
        {name: json.dumps(value) if name in ("filter", "max_per") else value for name, value in each.items()}
        for each in options
    ]
    return [{"name": "ann", "vector": USER, **{name: each.get(name) for name in names}} for each in wrapped]


def as_columns(answer: dict[str, Any]) -> dict[str, Any]:
    """What the columns of an answer hold, by the answer as JSON."""
    sides = {side: [{**match} for match in answer[side]] for side in ("best", "worst")}
    shown = {
        side: [match.pop("fields") for match in matches] if matches and "fields" in matches[0] else None
        for side, matches in sides.items()
    }
    return {
        **{"name": "ann", **sides, "error_code": None, "error_detail": None, "matched": answer.get("matched")},
        **{"best_fields": shown["best"], "worst_fields": shown["worst"], "explain": answer.get("explain")},
    }


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    shown = {
        f"{side}_fields": row[f"{side}_fields"] and [json.loads(text) for text in row[f"{side}_fields"]]
        for side in ("best", "worst")
    }
    return {**row, **shown, "explain": row["explain"] and json.loads(row["explain"])}


def test_columns_take_the_options_and_answer_in_columns(api: Api, artifacts: Path, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows_of(OPTIONS))
    expected = [as_columns(infer(api, **options)) for options in OPTIONS]
    expected[4] |= {"best_fields": [], "worst_fields": []}
    assert [*map(decoded, BatchMatcher(str(artifacts))(table).to_pylist())] == expected
    pq.write_table(table, tmp_path / "users.parquet")
    run(artifacts, tmp_path / "users.parquet", tmp_path / "m.parquet")
    assert [*map(decoded, pq.read_table(tmp_path / "m.parquet").to_pylist())] == expected


@pytest.mark.parametrize("kind", ["frame", "odd frame"])
def test_frames_take_the_options(api: Api, artifacts: Path, kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{name: value for name, value in row.items() if name != "k"} for row in rows_of(OPTIONS)]
    frame = pandas.DataFrame(rows if kind == "frame" else [*rows, {**rows[0], "name": 5}])
    expected = [as_columns(infer(api, **{**options, "k": 10})) for options in OPTIONS]
    expected[4] |= {"best_fields": [], "worst_fields": []}
    answers = BatchMatcher(str(artifacts))(frame)
    found = pa.Table.from_pandas(answers[: len(OPTIONS)], preserve_index=False).to_pylist()
    for row, each in zip(found, expected, strict=True):
        matched = None if row["matched"] != row["matched"] else row["matched"]  # pandas has no integer that is null.
        assert decoded({**row, "matched": matched}) == each


def test_lines_of_an_offline_batch_are_those_of_a_batch(api: Api, artifacts: Path, tmp_path: Path) -> None:
    users = [{"name": "ann", "vector": USER, **options} for options in OPTIONS]
    run(artifacts, write_users(tmp_path / "users.jsonl", users), tmp_path / "m.jsonl")
    bodies = [json.dumps(user).encode() for user in users]
    alone = b"".join(api.infer(body).body + b"\n" for body in bodies)
    assert (tmp_path / "m.jsonl").read_bytes() == alone
    assert api.batch(b"\n".join(bodies), content_type=NDJSON).body == alone


def test_a_bad_option_in_a_column_fails_only_its_own_user(api: Api, artifacts: Path) -> None:
    bad = rows_of([{"fields": ["nothing"]}, {"fields": []}, {}, {"max_per": {"price": 1}}, {"diversity": 2.0}])
    found = BatchMatcher(str(artifacts))(pa.Table.from_pylist(bad)).to_pylist()
    assert [row["error_detail"] for row in found] == [
        "fields element 0 is a field of no product: 'nothing'",
        "fields must have from 1 to 1000 names of fields, not 0",
        None,
        "max_per.price limits keywords, and 'price' is of type number",
        "diversity must be from 0 to 1",
    ]
    assert found[2]["best"] == infer(api)["best"]


def test_the_answer_names_what_looks_like_a_misspelt_option(api: Api) -> None:
    misspelt: list[dict[str, Any]] = [{"exlude": ["p0"], "likes": []}, {"filters": {}, "exlude": []}, {"x": 1}]
    bodies = [json.dumps({"name": "ann", "vector": USER, **more}).encode() for more in misspelt]
    answers = [api.infer(body) for body in bodies]
    assert [answer.headers.get("X-Ignored-Fields") for answer in answers] == ["exlude", "filters, exlude", None]
    plain = json.dumps({"name": "ann", "vector": USER}).encode()
    assert {answer.body for answer in answers} == {api.infer(plain).body}
    assert api.batch(array(bodies)).headers["X-Ignored-Fields"] == "exlude, filters"
    assert api.batch(b"\n".join(bodies[:1]), content_type=NDJSON).headers["X-Ignored-Fields"] == "exlude"
    assert "X-Ignored-Fields" not in api.batch(array([plain, bodies[2]])).headers
    similar = [api.post("/similar", json.dumps({"ids": ["p0"], **more}).encode()) for more in [*misspelt, {}]]
    assert [answer.headers.get("X-Ignored-Fields") for answer in similar] == ["exlude", "filters, exlude", None, None]
    assert len({answer.body for answer in similar}) == 1


def test_fields_that_would_take_more_memory_than_allowed_are_refused(
    api_over: ApiOver, artifacts: Path, api: Api
) -> None:
    recommender = Recommender(engine_of(open_current(artifacts)))
    tight = api_over(recommender, memory_bytes=8 * 3000, workers=1)
    user = json.dumps({"name": "ann", "vector": USER, "fields": ["*"]}).encode()
    few = api.infer(user)
    assert tight.infer(user).body == few.body
    refused = tight.post("/batch", array([user] * 20))
    detail = "the answer's fields are larger than the 3,000 bytes allowed: ask for fewer users, matches or fields"
    assert (refused.status, refused.json["detail"]) == (413, detail)
    similar = json.dumps({"ids": ["p0"], "k": 80, "fields": ["*"]}).encode()
    assert tight.post("/similar", similar).status == 413
    plain = json.dumps({"name": "ann", "vector": USER}).encode()
    assert tight.batch(array([plain] * 200)).body == array([api.infer(plain).body] * 200)


def test_fields_that_have_no_room_beside_other_requests_are_refused_for_now(artifacts: Path) -> None:
    reserved: list[int] = []

    def reserve(more_bytes: int) -> None:
        reserved.append(more_bytes)
        if sum(reserved) > 2000:
            raise OutOfMemory("too much")

    client = create_app(Serving(Recommender(engine_of(open_current(artifacts)))), Settings()).test_client()
    for path, body in (
        ("/infer", {"name": "ann", "vector": USER}),
        ("/batch", [{"name": "ann", "vector": USER, "k": 50, "fields": ["*"]}]),
        ("/infer", {"name": "ann", "vector": USER, "k": 90, "fields": ["*"]}),
        ("/similar", {"ids": ["p0"], "k": 89, "fields": ["*"]}),
    ):
        reserved.clear()
        response = client.post(path, data=json.dumps(body), environ_overrides={RESERVE: reserve})
        if "fields" in str(body):
            check_problem(Answer(response.status_code, response.headers, response.data), 429, "too much")
        else:
            assert (response.status_code, reserved) == (200, [])


def test_the_bytes_of_fields_that_are_reserved_are_those_of_the_answer(artifacts: Path) -> None:
    reserved: list[int] = []
    client = create_app(Serving(Recommender(engine_of(open_current(artifacts)))), Settings()).test_client()
    body = json.dumps({"name": "ann", "vector": USER, "k": 20, "fields": ["*"]})
    answer = client.post("/infer", data=body, environ_overrides={RESERVE: reserved.append})
    shown = [match["fields"] for side in ("best", "worst") for match in json.loads(answer.data)[side]]
    assert reserved == [len(orjson.dumps(fields)) for fields in shown]
