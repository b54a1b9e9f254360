"""The function under an offline batch: a batch of rows in, a batch of rows out."""

import importlib.util
import json
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index_builder.pipelines.build import BuildRequest, build
from service.errors import BadBatch
from service.offline.matcher import SPARK_SCHEMA, BatchMatcher
from service.offline.record_batches import ANSWERS
from service.recommender import Recommender
from tests.support.catalogues import products_of, write_lines
from tests.support.offline_runs import answer_lines
from tests.support.oracle import Oracle

needs_pandas = pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")

VECTOR = [1.0, 2.0, 3.0]
PRODUCTS = np.random.default_rng(4).normal(size=(30, 3))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    build(BuildRequest(write_lines(directory / "products.jsonl", products_of(PRODUCTS)), directory / "artifacts"))
    return directory / "artifacts"


@pytest.fixture
def matcher(artifacts: Path) -> BatchMatcher:
    return BatchMatcher(str(artifacts), k=4)


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def check_row(row: dict[str, Any], vector: Sequence[float], k: int) -> None:
    """Assert that an answer is exact NumPy's."""
    assert (row["error_code"], row["error_detail"]) == (None, None)
    for side in ("best", "worst"):
        positions = [int(match["id"].removeprefix("p")) for match in row[side]]
        assert [match["name"] for match in row[side]] == [f"product {i}" for i in positions]
        Oracle(PRODUCTS).check(np.array(vector), side, positions, [match["score"] for match in row[side]], k)


def test_a_table_of_the_sample_users_gets_what_the_service_answers(
    sample_artifacts: Path, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    users = pa.Table.from_pylist(sample_users)
    answers = BatchMatcher(str(sample_artifacts))(users)
    assert answers.schema == ANSWERS
    expected = [json.loads(line) for line in answer_lines(recommender, sample_users)]
    assert answers.select(["name", "best", "worst"]).to_pylist() == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.list_(pa.float32()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 3),
        pa.list_(pa.int8()),
        pa.list_(pa.float16()),
    ],
    ids=str,
)
def test_vectors_of_any_numeric_list_are_read(matcher: BatchMatcher, kind: pa.DataType) -> None:
    vectors = [[1, 2, 3], [-3, 1, 0], [5, 5, -5]]
    answers = matcher(table(name=["a", "b", "c"], vector=pa.array(vectors, kind)).slice(1)).to_pylist()
    assert [row["name"] for row in answers] == ["b", "c"]
    for row, vector in zip(answers, vectors[1:], strict=True):
        check_row(row, vector, 4)


def test_a_record_batch_gets_a_record_batch(matcher: BatchMatcher) -> None:
    [batch] = table(name=["a", "b"], vector=[VECTOR, [0.0, 0.0, 1.0]]).to_batches()
    answers = matcher(batch)
    assert isinstance(answers, pa.RecordBatch)
    assert answers.schema == ANSWERS
    check_row(answers.to_pylist()[1], [0.0, 0.0, 1.0], 4)


def test_a_batch_without_rows_gets_one(matcher: BatchMatcher) -> None:
    empty = pa.schema([("name", pa.string()), ("vector", pa.list_(pa.float32()))]).empty_table()
    assert matcher(empty) == ANSWERS.empty_table()
    assert matcher(pa.RecordBatch.from_pylist([], empty.schema)).to_pylist() == []


def test_bad_rows_fail_alone(matcher: BatchMatcher) -> None:
    vectors = [VECTOR, None, [1.0], [1.0, None, 2.0], [math.nan, 1.0, 1.0], [0.0, 0.0, 0.0], VECTOR, VECTOR, VECTOR]
    users = table(
        name=["good", "null", "short", "hole", "nan", "zero", None, "k", "exclude"],
        vector=pa.array(vectors, pa.list_(pa.float32())),
        k=[None] * 7 + [0, None],
        exclude=pa.array([None] * 8 + [["p1", None]], pa.list_(pa.string())),
    )
    answers = matcher(users).to_pylist()
    check_row(answers[0], VECTOR, 4)
    assert [(row["name"], row["error_code"], row["error_detail"]) for row in answers[1:]] == [
        ("null", "null", "vector must not be null"),
        ("short", "vector_dimension", "vector has 1 numbers, 3 are expected"),
        ("hole", "vector_not_number", "vector element 1 is null, not a number"),
        ("nan", "vector_not_finite", "vector element 0 is not finite: nan"),
        ("zero", "vector_zero", "vector is all zeros, which has no direction"),
        (None, "null", "name must not be null"),
        ("k", "range", "k must be from 1 to 1000, not 0"),
        ("exclude", "type", "exclude element 1 must be a string or an integer, not null"),
    ]
    assert {row[side] is None for row in answers[1:] for side in ("best", "worst")} == {True}


@pytest.mark.parametrize("vector", [[1e-200, 0.0, 1e-200], [1e200, -1e200, 0.0], [0.0, 0.0, 5e-324]], ids=str)
def test_vectors_of_any_length_are_valid(matcher: BatchMatcher, vector: list[float]) -> None:
    [row] = matcher(table(name=["a"], vector=[vector])).to_pylist()
    check_row(row, (np.array(vector) / np.abs(vector).max()).tolist(), 4)


def test_k_and_exclude_of_a_row_count(matcher: BatchMatcher) -> None:
    [row] = matcher(table(name=["a"], vector=[VECTOR], k=[6])).to_pylist()
    check_row(row, VECTOR, 6)
    excluded = [match["id"] for match in row["best"][:2]]
    [left] = matcher(table(name=["a"], vector=[VECTOR], exclude=[excluded])).to_pylist()
    assert left["best"] == row["best"][2:]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"name": ["a"]}, "needs columns 'name' and 'vector', has name"),
        ({"name": [b"a"], "vector": [VECTOR]}, "column 'name' must hold strings, not binary"),
        ({"name": ["a"], "vector": [1.0]}, "column 'vector' must hold lists of numbers, not double"),
        ({"name": ["a"], "vector": [VECTOR], "k": [True]}, "column 'k' must hold integers, not bool"),
        (
            {"name": ["a"], "vector": [VECTOR], "exclude": [[1.5]]},
            "column 'exclude' must hold lists of product ids (strings or integers), not list<item: double>",
        ),
    ],
    ids=["no vector", "bytes", "numbers", "booleans", "fractions"],
)
def test_columns_that_hold_no_users_are_refused(matcher: BatchMatcher, columns: Any, complaint: str) -> None:
    with pytest.raises(BadBatch) as caught:
        matcher(table(**columns))
    assert str(caught.value) == complaint


def test_what_is_no_batch_is_refused(matcher: BatchMatcher) -> None:
    with pytest.raises(TypeError, match=r"DataFrame, not dict$"):
        matcher({"name": ["a"], "vector": [VECTOR]})


def test_a_matcher_wants_at_least_one_match_a_side() -> None:
    with pytest.raises(BadBatch, match=r"^k=0: must be at least 1$"):
        BatchMatcher("artifacts", k=0)


def test_a_matcher_answers_batch_after_batch_after_it_was_sent_to_another_process(matcher: BatchMatcher) -> None:
    sent = pickle.loads(pickle.dumps(matcher))
    batches = table(name=["a", "b"], vector=[VECTOR, VECTOR[::-1]]).to_batches(max_chunksize=1)
    answers = list(sent.each(iter(batches)))
    assert [batch.num_rows for batch in answers] == [1, 1]
    check_row(answers[1].to_pylist()[0], VECTOR[::-1], 4)


def test_a_named_build_answers_though_another_is_published(tmp_path: Path) -> None:
    users = table(name=["a"], vector=[VECTOR])
    first = build(BuildRequest(write_lines(tmp_path / "f", products_of(PRODUCTS)), tmp_path / "artifacts"))
    pinned = BatchMatcher(str(tmp_path / "artifacts"), build_id=first.build_id)
    build(BuildRequest(write_lines(tmp_path / "g", products_of(-PRODUCTS)), tmp_path / "artifacts"))
    check_row(pinned(users).to_pylist()[0], VECTOR, 10)
    [newer] = BatchMatcher(str(tmp_path / "artifacts"))(users).to_pylist()
    assert [match["id"] for match in newer["best"]] == [match["id"] for match in pinned(users).to_pylist()[0]["worst"]]


def test_the_schema_for_spark_has_the_columns_of_the_answers() -> None:
    matches = "array<struct<id: string, name: string, score: double>>"
    expected = {
        "string": "string",
        "int64": "bigint",
        str(ANSWERS.field("best").type): matches,
        str(ANSWERS.field("best_fields").type): "array<string>",
    }
    assert ", ".join(f"{field.name} {expected[str(field.type)]}" for field in ANSWERS) == SPARK_SCHEMA


def rows_of(frame: Any) -> list[dict[str, Any]]:
    """The answers in a frame, as Spark takes them from it."""
    return pa.Table.from_pandas(frame, ANSWERS, preserve_index=False).to_pylist()


@needs_pandas
def test_a_frame_gets_a_frame(matcher: BatchMatcher) -> None:
    import pandas as pd

    vectors = [VECTOR, [0.0, 1.0, 0.0], [1.0]]
    frame = pd.DataFrame({"name": ["a", "b", "c"], "vector": [np.array(row) for row in vectors], "age": [1, 2, 3]})
    [answers] = matcher.each(iter([frame[1:]]))
    assert isinstance(answers, pd.DataFrame)
    rows = rows_of(answers)
    assert [row["name"] for row in rows] == ["b", "c"]
    check_row(rows[0], vectors[1], 4)
    assert (rows[1]["best"], rows[1]["error_code"]) == (None, "vector_dimension")


@needs_pandas
def test_integers_with_gaps_which_pandas_keeps_as_floats_are_integers(matcher: BatchMatcher) -> None:
    import pandas as pd

    frame = pd.DataFrame({"name": ["a", "b"], "vector": [VECTOR, VECTOR], "k": [7, None]})
    assert frame["k"].dtype == np.float64
    rows = rows_of(matcher(frame))
    check_row(rows[0], VECTOR, 7)
    check_row(rows[1], VECTOR, 4)
    rows = rows_of(matcher(frame.assign(k=[7, 1.5])))
    check_row(rows[0], VECTOR, 7)
    assert rows[1]["error_detail"] == "k must be an integer, not 1.5"


@needs_pandas
def test_a_frame_of_mixed_types_fails_only_where_they_do_not_fit(matcher: BatchMatcher) -> None:
    import pandas as pd

    vectors = [np.array(VECTOR), VECTOR, "1 2 3", math.nan]
    frame = pd.DataFrame({"name": ["a", 7, "c", None], "vector": vectors, "k": [2, None, "x", None]})
    rows = rows_of(matcher(frame))
    check_row(rows[0], VECTOR, 2)
    assert [(row["name"], row["error_code"], row["error_detail"]) for row in rows[1:]] == [
        (None, "type", "name must be a string, not a number"),
        ("c", "vector_type", "vector must be a list of numbers, or base64 of 3 little-endian float32"),
        (None, "null", "name must not be null"),
    ]
