"""Batches in Spark: a master, two executors that are processes of their own, and their Python workers."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import _parse_datatype_string

from retrieval.artifact.store import current_build_id
from service.offline.matcher import SPARK_SCHEMA, BatchMatcher
from tests.cluster.conftest import ROOT
from tests.cluster.users import PRODUCTS, check_answers, publish, user_rows

EXECUTORS, PARTITIONS = 2, 4

Answer = Callable[[DataFrame, BatchMatcher], DataFrame]


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    builder = SparkSession.builder.master(f"local-cluster[{EXECUTORS},1,1024]")
    settings = {
        "spark.executorEnv.PYTHONPATH": str(ROOT),
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",  # No executor gets all tasks while others start.
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "60s",
        "spark.task.maxFailures": "1",
        "spark.ui.enabled": "false",
    }
    session = builder.config(map=settings).getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def users(spark: SparkSession) -> DataFrame:
    rows = spark.sparkContext.parallelize([tuple(row.values()) for row in user_rows()], PARTITIONS)
    return spark.createDataFrame(rows, "name string, vector array<double>, k bigint, filter string")


def in_pandas(users: DataFrame, matcher: BatchMatcher) -> DataFrame:
    return users.mapInPandas(matcher.each, SPARK_SCHEMA)


def in_arrow(users: DataFrame, matcher: BatchMatcher) -> DataFrame:
    return users.mapInArrow(matcher.each, SPARK_SCHEMA)


both_formats = pytest.mark.parametrize("answer", [in_pandas, in_arrow], ids=["pandas", "arrow"])


def collected(answers: DataFrame) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in answers.collect()]


@both_formats
def test_executors_answer_as_exact_numpy_does_and_a_bad_user_gets_its_error(
    spark: SparkSession, users: DataFrame, artifacts: str, answer: Answer
) -> None:
    answers = answer(users, BatchMatcher(artifacts))
    assert answers.schema == _parse_datatype_string(SPARK_SCHEMA)
    check_answers(collected(answers), PRODUCTS)
    driver_and_executors = spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos()
    assert len(driver_and_executors) == 1 + EXECUTORS


def test_executors_share_the_users(users: DataFrame, artifacts: str) -> None:
    def processes(batches: Iterator[Any]) -> Iterator[Any]:
        for answers in BatchMatcher(artifacts).each(batches):
            yield answers[["name"]].assign(process=os.getpid())

    found = users.mapInPandas(processes, "name string, process long").collect()
    assert [row.name for row in found] == [row["name"] for row in user_rows()]
    assert len({row.process for row in found} - {os.getpid()}) == EXECUTORS


@both_formats
def test_missing_artifacts_are_named(users: DataFrame, tmp_path: Path, answer: Answer) -> None:
    with pytest.raises(PythonException, match=rf"BadArtifact: {tmp_path / 'nowhere' / 'CURRENT'}: "):
        answer(users.coalesce(1), BatchMatcher(str(tmp_path / "nowhere"))).collect()


@both_formats
def test_a_named_build_answers_though_another_is_published(users: DataFrame, tmp_path: Path, answer: Answer) -> None:
    root = tmp_path / "artifacts"
    build_id = publish(root, PRODUCTS)
    answers = answer(users, BatchMatcher(str(root), build_id=build_id))
    publish(root, -PRODUCTS)
    check_answers(collected(answers), PRODUCTS)
    assert current_build_id(root) != build_id
