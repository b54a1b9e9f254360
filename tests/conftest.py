"""Builds that tests share."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import pytest

from index_builder.pipeline import BuildRequest, build
from index_builder.tuning import clock
from retrieval.artifact.store import Build, open_current

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()  # before anything imports prometheus_client
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # before pymilvus: its handlers abort processes that tests fork later

DATA = Path(__file__).parent.parent / "data"
PRODUCTS, USERS, USERS_BATCH = DATA / "products.jsonl.gz", DATA / "users.json", DATA / "users_batch.json"


@pytest.fixture(scope="session", autouse=True)
def light_builds() -> Iterator[None]:
    """One thread a search, as small ones only wait for each other, few searches timed, and no picture.

    Timing and drawing would take longer than all the rest of a small build.
    """
    faiss.omp_set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "_MAX_TIMED_USERS", 15)
        patch.setitem(sys.modules, "matplotlib.figure", None)
        yield


@pytest.fixture(scope="session")
def sample_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts root with a build of the sample catalogue."""
    root = tmp_path_factory.mktemp("sample") / "artifacts"
    build(BuildRequest(products=PRODUCTS, out=root, queries=USERS_BATCH))
    return root


@pytest.fixture(scope="session")
def sample_build(sample_artifacts: Path) -> Build:
    return open_current(sample_artifacts)


@pytest.fixture(scope="session")
def sample_users() -> list[dict[str, Any]]:
    """The thousand users of the sample batch."""
    return json.loads(USERS_BATCH.read_text())


@pytest.fixture
def build_of(tmp_path: Path) -> Callable[..., Build]:
    """A function that builds, publishes and opens a catalogue of the given products."""

    def build_of(products: list[dict[str, Any]], **options: Any) -> Build:
        source = tmp_path / "products.jsonl"
        source.write_text("".join(json.dumps(product) + "\n" for product in products))
        build(BuildRequest(products=source, out=tmp_path / "artifacts", **options))
        return open_current(tmp_path / "artifacts")

    return build_of
