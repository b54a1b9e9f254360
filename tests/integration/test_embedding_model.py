"""A build of one embedding model answers nobody whose vectors are of another."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index_builder.__main__ import main as build_main
from index_builder.pipelines.changes.merge import MergeRequest, merge
from retrieval.artifact.build import open_build, open_pair
from retrieval.artifact.store import current_build_id
from retrieval.errors import BadArtifact, BadLabel
from service.__main__ import main as service_main
from service.cores import Cores, shared_cores
from service.engines.faiss_engine import open_engine
from service.errors import BadBatch, BadSetting
from service.offline.job import run_batch
from service.offline.matcher import BatchMatcher
from service.recommender import Recommender
from service.settings import Settings
from tests.conftest import SAMPLE_MODEL
from tests.integration.conftest import ApiOver
from tests.support.api import NDJSON, VECTOR, Api, Fault, array, check_problem, user_json
from tests.support.catalogues import products_of, write_lines
from tests.support.changes import build_whole, change
from tests.support.fake_engine import EAST, compass
from tests.support.published import current, edit_manifest, publish

HEADER = "X-Embedding-Model"
TENSORS = {"inputs": [{"name": "vectors", "datatype": "FP32", "shape": [1, 300], "data": VECTOR}]}
WITH_VECTORS = {
    "/infer": user_json(),
    "/batch": array([user_json()]),
    "/v2/models/reco/infer": json.dumps(TENSORS).encode(),
}
WITHOUT_VECTORS = {"/similar": b'{"ids":["pizza-38"]}', "/map": b'{"ids":["pizza-38"]}'}
REQUESTS = {**WITH_VECTORS, **WITHOUT_VECTORS, "/index": None, "/products?prefix=p": None, "/": None, "/metrics": None}
HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/reco/ready")
ANOTHER = f"X-Embedding-Model: the vectors are of 'words-200', and the products' are of '{SAMPLE_MODEL}'"
MISSING = f"X-Embedding-Model: must name the embedding model of the vectors; the build's is '{SAMPLE_MODEL}'"


def send(api: Api, path: str, named: str | None, content_type: str = "application/json") -> Any:
    body = REQUESTS.get(path)
    headers = {"Content-Type": content_type} if named is None else {"Content-Type": content_type, HEADER: named}
    return api.request("GET" if body is None else "POST", path, body, headers)


def check_refused(answer: Any, detail: str) -> None:
    fault = Fault("", "embedding_model", detail)
    assert (answer.status, answer.json["errors"], answer.json["detail"]) == (422, [vars(fault)], detail)


@pytest.fixture(scope="module")
def served(served_api_over: ApiOver) -> Api:
    return served_api_over()


@pytest.fixture(scope="module")
def requiring(served_api_over: ApiOver) -> Api:
    return served_api_over(require_embedding_model=True)


@pytest.mark.parametrize("path", REQUESTS)
def test_vectors_of_another_model_are_refused_by_both_names(served: Api, path: str) -> None:
    check_refused(send(served, path, "words-200"), ANOTHER)


@pytest.mark.parametrize("path", REQUESTS)
def test_the_models_own_name_changes_nothing_of_an_answer(served: Api, path: str) -> None:
    plain, named = send(served, path, None), send(served, path, SAMPLE_MODEL)
    assert (plain.status, named.status) == (200, 200)
    assert path == "/metrics" or named.body == plain.body


@pytest.mark.parametrize("path", HEALTH)
def test_health_is_that_of_the_process_whatever_the_model(served: Api, path: str) -> None:
    assert send(served, path, "words-200").status == 200


@pytest.mark.parametrize("path", WITH_VECTORS)
def test_where_it_is_required_whoever_brings_vectors_must_name_the_model(requiring: Api, path: str) -> None:
    check_refused(send(requiring, path, None), MISSING)
    assert send(requiring, path, SAMPLE_MODEL).status == 200


def test_a_batch_of_lines_must_name_the_model_too(requiring: Api) -> None:
    check_problem(requiring.post("/batch", user_json(), NDJSON), 422, MISSING, (Fault("", "embedding_model", MISSING),))


@pytest.mark.parametrize("path", sorted(REQUESTS.keys() - WITH_VECTORS.keys()))
def test_pages_and_look_ups_need_not_name_the_model(requiring: Api, path: str) -> None:
    assert send(requiring, path, None).status == 200


def test_what_is_refused_before_it_is_read_names_the_model_all_the_same(served_api_over: ApiOver) -> None:
    api = served_api_over(max_body_bytes=1000, api_keys=("key",), cors_origins=("https://shop.example",))
    keyed = {"X-API-Key": "key"}
    assert api.request("POST", "/infer", user_json(), keyed).status == 413  # `request` looks at the header
    assert api.request("POST", "/infer", user_json()).status in (401, 413)
    assert api.request("GET", "/index", headers={**keyed, "Origin": "https://elsewhere.example"}).status == 403
    assert api.request("GET", "/no/such/route", headers=keyed).status == 404
    seen = api.request("GET", "/index", headers={**keyed, "Origin": "https://shop.example"})
    assert HEADER in seen.headers["Access-Control-Expose-Headers"].split(", ")
    assert HEADER in seen.headers["Access-Control-Allow-Headers"].split(", ")


def test_a_build_without_a_label_takes_any_name_and_answers_none(served_api_over: ApiOver) -> None:
    api = served_api_over(Recommender(compass()))
    answer = api.request("POST", "/infer", user_json(vector=EAST), {HEADER: "words-200"})
    assert (answer.status, answer.headers.get(HEADER)) == (200, None)


def test_the_document_says_which_name_is_taken_and_where_it_is_needed(api_over: ApiOver) -> None:
    for required in (False, True):
        api = api_over(require_embedding_model=required).get("/openapi.json").json
        named = {
            path
            for path, methods in api["paths"].items()
            for operation in methods.values()
            if any(each.get("name") == HEADER and each["required"] for each in operation["parameters"])
        }
        assert named == (set(WITH_VECTORS) if required else set())
        assert api["components"]["parameters"]["EmbeddingModel"]["schema"]["enum"] == [SAMPLE_MODEL]
        assert HEADER in api["components"]["responses"]["Problem429"]["headers"]


@pytest.mark.parametrize("label", ["", "mödel", "two\nlines", " m", "m\t", "m\udce8", "x" * 201])
def test_a_label_that_no_header_can_carry_is_refused_at_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], label: str
) -> None:
    products = write_lines(tmp_path / "products.jsonl", products_of(np.eye(2)))
    out = tmp_path / "artifacts"
    code = build_main(["--products", str(products), "--out", str(out), "--embedding-model", label])
    message = capsys.readouterr().err
    assert (code, message.startswith("error: --embedding-model"), out.exists()) == (1, True, False)
    assert ("201 characters" if len(label) > 200 else "printable ASCII") in message
    with pytest.raises(BadLabel):
        publish(out, embedding_model=label)


def test_a_label_that_an_earlier_version_took_is_answered_as_a_header_can_carry_it(root: Path) -> None:
    publish(root)
    edit_manifest(current(root), lambda manifest: manifest.update(embedding_model="mödel\r\nX: 1 "))
    info = open_engine(root, current_build_id(root), Cores(shared_cores(), 1)).info
    assert info.embedding_model == r"m\xf6del\r\nX: 1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


def test_a_service_that_requires_a_name_does_not_start_over_a_build_without_a_label(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(root)
    no_label = "the build has no embedding model; `python -m index_builder --embedding-model` gives it one"
    monkeypatch.setenv("RECO_REQUIRE_EMBEDDING_MODEL", "1")
    assert service_main(["check", "--artifact", str(root)]) == 1
    assert capsys.readouterr().err == f"error: RECO_REQUIRE_EMBEDDING_MODEL=1: {no_label}\n"
    with pytest.raises(BadSetting, match="RECO_REQUIRE_EMBEDDING_MODEL=1: the build has no embedding model"):
        open_engine(root, current_build_id(root), Cores(shared_cores(), 1), requires_model=True)


def test_a_check_says_of_which_model_the_vectors_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(root, embedding_model="m-1")
    assert service_main(["check", "--artifact", str(root)]) == 0
    assert "\nvectors    of m-1\n" in capsys.readouterr().out


USERS = [{"name": "ann", "vector": [1.0, 2.0, 3.0, 4.0, 5.0]}]


def answered(root: Path, named: str | None, required: bool = False) -> str:
    settings = Settings(artifacts=root, require_embedding_model=required)
    source = write_lines(root.parent / "users.jsonl", USERS)
    return str(run_batch(source, root.parent / "answers.jsonl", settings, embedding_model=named))


def test_an_offline_batch_of_another_model_is_refused(root: Path) -> None:
    publish(root, embedding_model="m-1")
    with pytest.raises(BadBatch) as error:
        answered(root, "m-2")
    assert str(error.value) == "embedding model: the vectors are of 'm-2', and the products' are of 'm-1'"
    with pytest.raises(BadBatch) as error:
        answered(root, None, required=True)
    assert str(error.value) == "embedding model: must name the embedding model of the vectors; the build's is 'm-1'"
    assert answered(root, "m-1", required=True).endswith("1 users; 0 have an error")


def test_an_offline_batch_is_held_to_the_name_that_it_gives(root: Path) -> None:
    publish(root)
    with pytest.raises(BadBatch) as error:
        answered(root, "m-1")
    assert str(error.value) == (
        "embedding model: the vectors are of 'm-1', and the build has no embedding model to hold them to"
    )
    with pytest.raises(BadSetting, match="RECO_REQUIRE_EMBEDDING_MODEL=1: the build has no embedding model"):
        answered(root, None, required=True)


def test_the_command_and_the_matcher_take_the_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(root, embedding_model="m-1")
    source = write_lines(root.parent / "users.jsonl", USERS)
    files = ("--artifact", str(root), "--input", str(source), "--output", str(root.parent / "answers.jsonl"))
    assert service_main(["batch", *files, "--embedding-model", "m-2"]) == 1
    assert "the vectors are of 'm-2', and the products' are of 'm-1'" in capsys.readouterr().err
    users = pa.RecordBatch.from_pylist(USERS)
    with pytest.raises(BadBatch, match="the vectors are of 'm-2', and the products' are of 'm-1'"):
        BatchMatcher(str(root), embedding_model="m-2")(users)
    assert BatchMatcher(str(root), embedding_model="m-1")(users).equals(BatchMatcher(str(root))(users))


def test_a_delta_of_another_model_than_its_base_is_refused(root: Path) -> None:
    base = open_build(root, publish(root, embedding_model="m-1").build_id)
    with pytest.raises(BadArtifact) as error:
        open_pair(current(root), replace(base.manifest, embedding_model="m-2"), base)
    assert str(error.value) == "manifest.json: names the embedding model 'm-2', its base 'm-1'"


def test_a_delta_and_what_it_is_merged_into_keep_the_label_and_have_a_quality(root: Path) -> None:
    base = publish(root, embedding_model="m-1")
    change(root.parent, [{"id": "p3", "delete": True}])
    pair = open_engine(root, current_build_id(root), Cores(shared_cores(), 1), requires_model=True).info
    assert pair.delta
    assert base.quality
    assert (pair.embedding_model, pair.quality) == ("m-1", asdict(base.quality))
    merge(MergeRequest(root))
    merged = open_engine(root, current_build_id(root), Cores(shared_cores(), 1), requires_model=True).info
    assert (merged.delta, merged.embedding_model) == (None, "m-1")
    assert merged.quality
    lines = (root.parent / "products 0.jsonl").read_text().splitlines()
    whole = build_whole(root.parent, [json.loads(line) for line in lines if '"p3"' not in line], embedding_model="m-1")
    assert merged.quality == asdict(whole.manifest.quality)  # type: ignore[arg-type]
