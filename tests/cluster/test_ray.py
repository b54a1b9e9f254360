"""Batches in Ray: a node with a store of objects, and two actors that are processes of their own."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data

from retrieval.artifact.store import current_build_id
from service.offline.matcher import BatchMatcher
from service.offline.record_batches import ANSWERS
from tests.cluster.conftest import ROOT
from tests.cluster.users import PRODUCTS, check_answers, publish, user_rows

ACTORS, CPUS, BLOCK_ROWS, SECONDS = 2, 4, 10, 60

both_formats = pytest.mark.parametrize("batch_format", ["pandas", "pyarrow"])


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=CPUS,  # as many as Ray may count on: a stage before the actors needs one that no actor has
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    yield
    ray.shutdown()


def blocks() -> list[pa.Table]:
    users = pa.Table.from_pylist(user_rows())
    return [users.slice(first, BLOCK_ROWS) for first in range(0, len(users), BLOCK_ROWS)]


@pytest.fixture(scope="module")
def users(cluster: None) -> Any:
    return ray.data.from_arrow(blocks())


class Witness(BatchMatcher):
    """A matcher that answers once all actors have users, and leaves a file for each process."""

    def __call__(self, batch: Any) -> Any:
        seen, until = Path(self.artifacts).parent / "processes", time.monotonic() + SECONDS
        seen.mkdir(exist_ok=True)
        (seen / str(os.getpid())).touch()
        while len([*seen.iterdir()]) < ACTORS and time.monotonic() < until:
            time.sleep(0.05)
        return super().__call__(batch)


def answers_of(users: Any, batch_format: str, *arguments: object, matcher: type[BatchMatcher] = BatchMatcher) -> Any:
    """Return a data set of answers, as README says to make one."""
    return users.map_batches(
        matcher,
        fn_constructor_args=arguments,
        batch_format=batch_format,
        compute=ray.data.ActorPoolStrategy(size=ACTORS),
    )


def collected(answers: Any) -> list[dict[str, Any]]:
    return [row for block in ray.get(answers.to_arrow_refs()) for row in block.to_pylist()]


@both_formats
def test_actors_answer_as_exact_numpy_does_and_a_bad_user_gets_its_error(
    users: Any, tmp_path: Path, batch_format: str
) -> None:
    publish(tmp_path / "artifacts", PRODUCTS)
    answers = answers_of(users, batch_format, str(tmp_path / "artifacts"), matcher=Witness).materialize()
    check_answers(collected(answers), PRODUCTS)
    assert len({path.name for path in (tmp_path / "processes").iterdir()} - {str(os.getpid())}) == ACTORS
    if batch_format == "pyarrow":
        assert answers.schema().base_schema == ANSWERS


def test_actors_answer_behind_a_stage_that_reads(cluster: None, artifacts: str, tmp_path: Path) -> None:
    for i, block in enumerate(blocks()):
        pq.write_table(block, tmp_path / f"{i:02}.parquet")
    answers = collected(answers_of(ray.data.read_parquet(str(tmp_path)), "pyarrow", artifacts))
    check_answers(sorted(answers, key=lambda row: int(row["name"].removeprefix("user "))), PRODUCTS)


def test_missing_artifacts_are_named(users: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=rf"BadArtifact: {re.escape(str(tmp_path / 'nowhere' / 'CURRENT'))}: "):
        answers_of(users, "pyarrow", str(tmp_path / "nowhere")).materialize()


@both_formats
def test_a_named_build_answers_though_another_is_published(users: Any, tmp_path: Path, batch_format: str) -> None:
    root = tmp_path / "artifacts"
    build_id = publish(root, PRODUCTS)
    answers = answers_of(users, batch_format, str(root), 10, build_id)
    publish(root, -PRODUCTS)
    check_answers(collected(answers), PRODUCTS)
    assert current_build_id(root) != build_id
