"""Builds that tests share."""

import fcntl
import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import pytest

from index_builder.pipelines.build import BuildRequest, build
from index_builder.tuning import clock
from retrieval.artifact.build import Build
from retrieval.artifact.store import open_current
from tests.support.milvus import MilvusServer, running_milvus

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()  # before anything imports prometheus_client
os.environ["OMP_NUM_THREADS"] = "1"  # in child processes too: threads of small searches only wait for each other
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # before pymilvus: its handlers abort processes that tests fork later

gc.disable()  # Collecting tests makes little garbage: looking for it took a third of the time.

DATA = Path(__file__).parent.parent / "data"
PRODUCTS, USERS, USERS_BATCH = DATA / "products.jsonl.gz", DATA / "users.json", DATA / "users_batch.json"
SAMPLE_MODEL = "words-300"  # the embedding model that the sample build says it is of


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run tests on Milvus against the standalone server in the environment of this interpreter, instead of Lite"
    parser.addoption("--milvus-server", metavar="PYTHON", help=text)


@pytest.fixture(scope="session", autouse=True)
def light_builds() -> Iterator[None]:
    """One thread a search, and few searches timed, which would take longer than all the rest of a small build."""
    faiss.omp_set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "_MAX_TIMED_CALLS", 15)
        yield


@pytest.fixture(scope="session")
def sample_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts root with a build of the sample catalogue, which pytest's worker processes share."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    directory = tmp_path_factory.getbasetemp().parent if is_worker else tmp_path_factory.mktemp("sample")
    root = directory / "sample artifacts"
    with (directory / "sample.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "CURRENT").exists():
            build(BuildRequest(products=PRODUCTS, out=root, queries=USERS_BATCH, embedding_model=SAMPLE_MODEL))
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


@pytest.fixture(scope="session")
def milvus_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    interpreter = request.config.getoption("--milvus-server")
    with running_milvus(tmp_path_factory.mktemp("milvus"), interpreter) as server:
        yield server


@pytest.fixture
def milvus(milvus_server: MilvusServer) -> MilvusServer:
    """A server that runs and holds nothing."""
    if not milvus_server.is_running:
        milvus_server.start()
    milvus_server.clear()
    return milvus_server
